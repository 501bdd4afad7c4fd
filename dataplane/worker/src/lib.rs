//! Poll-mode workers: the packet loops on DPDK ports.
