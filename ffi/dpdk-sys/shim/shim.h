/*
 * What bindgen reads: the DPDK headers Tidegate uses, and one plain function for each inline function
 * or macro that has no symbol to link to. A call through this file costs a few nanoseconds, so
 * whatever happens per packet is shaped to happen per burst.
 */
#ifndef TIDEGATE_SHIM_H
#define TIDEGATE_SHIM_H

#include <stdint.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Per thread state. */

/* rte_errno of the calling thread. */
int tg_errno(void);
/* rte_lcore_id() of the calling thread; TG_LCORE_ANY on a thread EAL does not know. */
unsigned int tg_lcore_id(void);

/* The library's version. */

/* rte_version(): static text. */
const char *tg_version(void);

/* Time. */

/* rte_rdtsc(): ticks of this CPU's time stamp counter. */
uint64_t tg_rdtsc(void);

/* Bursts. `mbufs` has room for (or holds) `n` pointers. */

/* rte_eth_rx_burst(): pointers written, at most n. Port started, queue set up, one caller at a time. */
uint16_t tg_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
/* rte_eth_tx_burst(): the first so many now belong to the driver. Same conditions. */
uint16_t tg_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
/* rte_pktmbuf_alloc_bulk(): 0 and n pointers written, or a negative errno and none. */
int tg_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n);
/* Fetches the first line of each packet's data into every cache level. */
void tg_prefetch_data(struct rte_mbuf *const *mbufs, unsigned int n);

/* Single mbufs. */

/* rte_pktmbuf_free() of a whole chain; not NULL. */
void tg_pktmbuf_free(struct rte_mbuf *mbuf);
/* rte_pktmbuf_linearize(): 0, or -1 when the first segment has not enough room behind it. */
int tg_pktmbuf_linearize(struct rte_mbuf *mbuf);

/* Constants that are macros with casts or function calls, which bindgen cannot evaluate. */

extern const unsigned int TG_LCORE_ANY;
/* RTE_ETH_RSS_* for addresses and ports of IP, TCP and UDP. */
extern const uint64_t TG_RSS_IP_TCP_UDP;

#endif
