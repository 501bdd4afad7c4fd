#include "shim.h"

#include <rte_cycles.h>
#include <rte_prefetch.h>

const unsigned int TG_LCORE_ANY = LCORE_ID_ANY;
const uint64_t TG_RSS_IP_TCP_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;

/* The types that shim.h's list of mbuf fields promises. */
#define HOLDS(field, type) _Static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), #field)
HOLDS(buf_addr, void *);
HOLDS(data_off, uint16_t);
HOLDS(nb_segs, uint16_t);
HOLDS(pkt_len, uint32_t);
HOLDS(data_len, uint16_t);
HOLDS(buf_len, uint16_t);

int tg_errno(void)
{
	return rte_errno;
}

unsigned int tg_lcore_id(void)
{
	return rte_lcore_id();
}

const char *tg_version(void)
{
	return rte_version();
}

uint64_t tg_rdtsc(void)
{
	return rte_rdtsc();
}

uint16_t tg_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, mbufs, n);
}

uint16_t tg_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

int tg_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, n);
}

void tg_prefetch_data(struct rte_mbuf *const *mbufs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], const void *));
}

void tg_pktmbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

int tg_pktmbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

int tg_eth_link(uint16_t port, struct tg_link *link)
{
	struct rte_eth_link found = { 0 };
	int answer = rte_eth_link_get_nowait(port, &found);

	link->speed_mbps = found.link_speed;
	link->up = found.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = found.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return answer;
}
