//! Safe DPDK: EAL, lcores, mempools, mbufs, ports and queue pairs.
