//! Packet and session logic of the switch box, without DPDK.
