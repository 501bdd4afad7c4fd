//! Raw bindings to the DPDK functions Tidegate uses.
