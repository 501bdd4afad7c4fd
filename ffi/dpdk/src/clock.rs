//! The CPU's time stamp counter.

use tidegate_dpdk_sys as sys;

/// Ticks of this CPU's time stamp counter. [`Eal::tsc_hz`](crate::Eal::tsc_hz) says how many make a
/// second. Counters of different CPUs of one machine agree on current hardware. (`rte_rdtsc`)
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: reads a CPU register; no condition.
    unsafe { sys::tg_rdtsc() }
}

/// Tells the CPU that this is a busy wait (`rte_pause`).
#[inline]
pub fn pause() {
    std::hint::spin_loop();
}
