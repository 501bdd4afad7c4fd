//! Counters of a port.

use std::ffi::CStr;

use tidegate_dpdk_sys as sys;

use crate::error::Error;
use crate::port::Port;

/// A port's counters since its start or the last reset. (`rte_eth_stats`)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because its receive queue was full.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because the pool had no mbuf.
    pub rx_no_mbuf: u64,
}

impl Port {
    /// The counters. (`rte_eth_stats_get`)
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOTSUP` when the device has none.
    pub fn stats(&self) -> Result<PortStats, Error> {
        let mut raw = sys::rte_eth_stats::default();
        self.inner
            // SAFETY: `raw` is a place to write to; the port is valid (law of `call`).
            .call("rte_eth_stats_get", |id| unsafe { sys::rte_eth_stats_get(id, &mut raw) })?;
        Ok(PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_mbuf: raw.rx_nombuf,
        })
    }

    /// Sets the counters to zero. (`rte_eth_stats_reset`)
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOTSUP` when the device cannot.
    pub fn reset_stats(&self) -> Result<(), Error> {
        self.inner
            // SAFETY: the port is valid (law of `call`).
            .call("rte_eth_stats_reset", |id| unsafe { sys::rte_eth_stats_reset(id) })
            .map(drop)
    }

    /// The driver's own counters, by name. (`rte_eth_xstats_get_names`, `rte_eth_xstats_get`)
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn extended_stats(&self) -> Result<Vec<(String, u64)>, Error> {
        let port = &self.inner;
        let _ordered = port.lock();
        // SAFETY: NULL and 0 ask for the number; the port is valid (law of `PortInner::call`).
        let count = unsafe { sys::rte_eth_xstats_get_names(port.id, std::ptr::null_mut(), 0) };
        let count = port.check("rte_eth_xstats_get_names", count)? as u32;
        let mut names = vec![sys::rte_eth_xstat_name { name: [0; 64] }; count as usize];
        let mut values = vec![sys::rte_eth_xstat { id: 0, value: 0 }; count as usize];
        // SAFETY: both arrays have `count` places; the port is valid.
        let (named, valued) = unsafe {
            (
                sys::rte_eth_xstats_get_names(port.id, names.as_mut_ptr(), count),
                sys::rte_eth_xstats_get(port.id, values.as_mut_ptr(), count),
            )
        };
        port.check("rte_eth_xstats_get_names", named)?;
        let valued = port.check("rte_eth_xstats_get", valued)?;
        // More than there is room for means that nothing was written; the set changed in between.
        let valued = if valued as u32 > count { 0 } else { valued as usize };
        Ok(values[..valued]
            .iter()
            .filter_map(|entry| {
                let name = &names.get(usize::try_from(entry.id).ok()?)?.name;
                // SAFETY: DPDK writes a NUL-terminated text; untouched entries are all NUL.
                let name = unsafe { CStr::from_ptr(name.as_ptr()) };
                Some((name.to_string_lossy().into_owned(), entry.value))
            })
            .collect())
    }
}
