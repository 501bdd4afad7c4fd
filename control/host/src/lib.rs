//! tidegate-hostd: QEMU guests and their memory on one host.
