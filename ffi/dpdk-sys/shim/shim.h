/*
 * What bindgen reads: the DPDK headers Tidegate uses, and one plain function for each inline function
 * or macro that has no symbol to link to. A call through this file costs a few nanoseconds, so
 * whatever happens per packet is shaped to happen per burst.
 */
#ifndef TIDEGATE_SHIM_H
#define TIDEGATE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_fib.h>
#include <rte_hash.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_lpm6.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_rib.h>
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

/*
 * Where an mbuf's fields are. Later DPDK moves some into unions and nested structures, which gives them
 * other names in the bindings; their offsets are asked of the compiler instead.
 */
enum tg_mbuf_offset {
	TG_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr), /* void * */
	TG_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off), /* uint16_t */
	TG_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs), /* uint16_t */
	TG_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len), /* uint32_t */
	TG_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len), /* uint16_t */
	TG_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len), /* uint16_t */
};

/* rte_pktmbuf_free() of a whole chain; not NULL. */
void tg_pktmbuf_free(struct rte_mbuf *mbuf);
/* rte_pktmbuf_linearize(): 0, or -1 when the first segment has not enough room behind it. */
int tg_pktmbuf_linearize(struct rte_mbuf *mbuf);

/* Ports. */

/* rte_eth_link, whose layout differs between versions. */
struct tg_link {
	uint32_t speed_mbps;
	uint8_t up;
	uint8_t full_duplex;
};

/* rte_eth_link_get_nowait(): 0 and *link written, or a negative errno. */
int tg_eth_link(uint16_t port, struct tg_link *link);

/* Constants that are macros with casts or function calls, which bindgen cannot evaluate. */

extern const unsigned int TG_LCORE_ANY;
/* RTE_ETH_RSS_* for addresses and ports of IP, TCP and UDP. */
extern const uint64_t TG_RSS_IP_TCP_UDP;

#endif
