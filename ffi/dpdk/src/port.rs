//! Ethernet ports, claimed by one handle each.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_dpdk_sys as sys;

use crate::eal::{Eal, Inner, port_ids};
use crate::error::{Error, c_string, check};

/// A MAC address, in the order of its bytes on the wire.
pub type MacAddress = [u8; 6];

/// What a device is and can do. (`rte_eth_dev_info`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// The port's name: a virtual device's own name, or a PCI address.
    pub name: String,
    /// The device the port belongs to; usually its name.
    pub device: String,
    /// The driver's name, for example `net_tap`.
    pub driver: String,
    /// Receive queues it can have.
    pub max_rx_queues: u16,
    /// Transmit queues it can have.
    pub max_tx_queues: u16,
    /// Smallest MTU, bytes.
    pub min_mtu: u16,
    /// Largest MTU, bytes.
    pub max_mtu: u16,
    /// NUMA node, where known.
    pub socket: Option<u32>,
    /// The kernel's interface number, for a device that has one.
    pub interface_index: Option<u32>,
}

/// State of the link at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether packets can pass.
    pub up: bool,
    /// Speed in Mbit/s; 0 when down, `u32::MAX` when unknown.
    pub speed_mbps: u32,
    /// Whether both directions at once.
    pub full_duplex: bool,
}

/// The only handle to a port. Queues made by [`Port::start`] keep the port running after it is gone; the
/// port can be opened again when all of them are gone too. Methods may be called from any thread.
pub struct Port {
    pub(crate) inner: Arc<PortInner>,
}

/// What the handle and the queues share.
pub(crate) struct PortInner {
    pub(crate) id: u16,
    pub(crate) info: PortInfo,
    /// Whether the port is started. The lock is held during every control call, because DPDK's are not safe
    /// against each other on one port.
    pub(crate) started: Mutex<bool>,
    eal: Arc<Inner>,
}

impl Eal {
    /// All ports, lowest number first.
    ///
    /// # Errors
    /// [`Error::Call`] when a device does not describe itself.
    pub fn ports(&self) -> Result<Vec<PortInfo>, Error> {
        let _no_hotplug = self.control();
        port_ids().map(port_info).collect()
    }

    /// Claims a port by name, or by the device string it was made from (`net_tap0,iface=x`): what follows the
    /// first comma is not looked at. A `vdev:` or `pci:` before it is skipped, too.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] with the names there are, [`Error::PortClaimed`], [`Error::Call`],
    /// [`Error::NulByte`].
    pub fn port(&self, device: &str) -> Result<Port, Error> {
        let name = device_name(device);
        let c_name = c_string("port name", name)?;
        let mut control = self.control();
        let mut id = 0;
        // SAFETY: EAL is initialised (`self`), the name is NUL-terminated, `id` is a place to write to.
        let found = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
        if found < 0 {
            let known = port_ids().map(port_name).collect();
            return Err(Error::NoSuchPort { name: name.to_owned(), known });
        }
        if control.claimed.iter().any(|(claimed, _)| *claimed == id) {
            return Err(Error::PortClaimed { port: name.to_owned() });
        }
        let info = port_info(id)?;
        control.claimed.push((id, info.device.clone()));
        let eal = Arc::clone(&self.inner);
        Ok(Port { inner: Arc::new(PortInner { id, info, started: Mutex::new(false), eal }) })
    }
}

impl Port {
    /// The port's name.
    pub fn name(&self) -> &str {
        &self.inner.info.name
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.inner.info.driver
    }

    /// What the device is and can do.
    pub fn info(&self) -> &PortInfo {
        &self.inner.info
    }

    /// Queue pairs it can have.
    pub fn max_queue_pairs(&self) -> u16 {
        self.inner.info.max_rx_queues.min(self.inner.info.max_tx_queues)
    }

    /// Whether it is started: queue handles exist.
    pub fn is_started(&self) -> bool {
        *self.inner.lock()
    }

    /// Its MAC address. (`rte_eth_macaddr_get`)
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn mac(&self) -> Result<MacAddress, Error> {
        let mut mac = sys::rte_ether_addr::default();
        self.inner
            // SAFETY: `mac` is a place to write to; the port is valid (law of `call`).
            .call("rte_eth_macaddr_get", |id| unsafe { sys::rte_eth_macaddr_get(id, &mut mac) })?;
        Ok(mac.addr_bytes)
    }

    /// Sets its MAC address. (`rte_eth_dev_default_mac_addr_set`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` for a group or zero address, `ENOTSUP` when the device cannot.
    pub fn set_mac(&self, mac: MacAddress) -> Result<(), Error> {
        let mut address = sys::rte_ether_addr { addr_bytes: mac };
        self.inner
            // SAFETY: `address` outlives the call; the port is valid (law of `call`).
            .call("rte_eth_dev_default_mac_addr_set", |id| unsafe {
                sys::rte_eth_dev_default_mac_addr_set(id, &mut address)
            })
            .map(drop)
    }

    /// Whether it receives packets for any MAC address. (`rte_eth_promiscuous_get`)
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn promiscuous(&self) -> Result<bool, Error> {
        self.inner
            // SAFETY: the port is valid (law of `call`).
            .call("rte_eth_promiscuous_get", |id| unsafe { sys::rte_eth_promiscuous_get(id) })
            .map(|on| on == 1)
    }

    /// Sets whether it receives packets for any MAC address. (`rte_eth_promiscuous_enable`, `…_disable`)
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOTSUP` when the device cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), Error> {
        self.inner.set_promiscuous(on)
    }

    /// Its MTU, bytes. (`rte_eth_dev_get_mtu`)
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn mtu(&self) -> Result<u16, Error> {
        let mut mtu = 0;
        self.inner
            // SAFETY: `mtu` is a place to write to; the port is valid (law of `call`).
            .call("rte_eth_dev_get_mtu", |id| unsafe { sys::rte_eth_dev_get_mtu(id, &mut mtu) })?;
        Ok(mtu)
    }

    /// State of the link, without waiting for it. (`rte_eth_link_get_nowait`)
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn link(&self) -> Result<LinkStatus, Error> {
        let mut link = sys::tg_link::default();
        self.inner
            // SAFETY: `link` is a place to write to; the port is valid (law of `call`).
            .call("rte_eth_link_get_nowait", |id| unsafe { sys::tg_eth_link(id, &mut link) })?;
        Ok(LinkStatus {
            up: link.up == 1,
            speed_mbps: link.speed_mbps,
            full_duplex: link.full_duplex == 1,
        })
    }
}

impl PortInner {
    /// The lock that orders control calls.
    pub(crate) fn lock(&self) -> MutexGuard<'_, bool> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One control call under the lock. The port is valid: it was found by `Eal::port`, it is closed only by
    /// `Eal::cleanup` and `Eal::detach`, and neither does so while this value exists.
    pub(crate) fn call(
        &self,
        name: &'static str,
        call: impl FnOnce(u16) -> i32,
    ) -> Result<i32, Error> {
        let _ordered = self.lock();
        self.check(name, call(self.id))
    }

    pub(crate) fn check(&self, name: &'static str, answer: i32) -> Result<i32, Error> {
        check(name, &self.info.name, answer)
    }

    pub(crate) fn set_promiscuous(&self, on: bool) -> Result<(), Error> {
        // SAFETY: the port is valid (law of `call`).
        let answer = self.call("rte_eth_promiscuous_enable/disable", |id| unsafe {
            if on {
                sys::rte_eth_promiscuous_enable(id)
            } else {
                sys::rte_eth_promiscuous_disable(id)
            }
        });
        answer.map(drop)
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        // Not started: whoever started it holds this value (`Started`).
        self.eal.control_lock().claimed.retain(|(id, _)| *id != self.id);
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("id", &self.inner.id).field("info", &self.inner.info).finish()
    }
}

/// The name in a device string.
pub(crate) fn device_name(device: &str) -> &str {
    let device =
        ["vdev:", "pci:"].iter().find_map(|bus| device.strip_prefix(bus)).unwrap_or(device);
    device.split_once(',').map_or(device, |(name, _)| name)
}

/// Reads `rte_eth_dev_info`.
pub(crate) fn raw_info(id: u16) -> Result<sys::rte_eth_dev_info, Error> {
    let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: the port is valid (callers enumerate it or own it) and `info` is a place to write to.
    let answer = unsafe { sys::rte_eth_dev_info_get(id, info.as_mut_ptr()) };
    check("rte_eth_dev_info_get", &port_name(id), answer)?;
    // SAFETY: DPDK has filled it, and all zeros was a valid value of this plain C struct before.
    Ok(unsafe { info.assume_init() })
}

fn port_info(id: u16) -> Result<PortInfo, Error> {
    let raw = raw_info(id)?;
    let device = if raw.device.is_null() {
        String::new()
    } else {
        // SAFETY: a device of a valid port, and its name, live as long as the port.
        unsafe { text(sys::rte_dev_name(raw.device)) }
    };
    // SAFETY: the port is valid (`raw_info` succeeded).
    let socket = unsafe { sys::rte_eth_dev_socket_id(id) };
    // SAFETY: a driver's name is static text of the driver.
    let driver = unsafe { text(raw.driver_name) };
    Ok(PortInfo {
        name: port_name(id),
        device,
        driver,
        max_rx_queues: raw.max_rx_queues,
        max_tx_queues: raw.max_tx_queues,
        min_mtu: raw.min_mtu,
        max_mtu: raw.max_mtu,
        socket: u32::try_from(socket).ok(),
        interface_index: (raw.if_index != 0).then_some(raw.if_index),
    })
}

/// A port's name; its number when it has none.
pub(crate) fn port_name(id: u16) -> String {
    let mut name = [0; sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: `name` has the length DPDK asks for; an invalid port is answered with an error.
    match unsafe { sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) } {
        // SAFETY: DPDK has written a NUL-terminated text into `name`.
        0 => unsafe { text(name.as_ptr()) },
        _ => id.to_string(),
    }
}

/// Copies a C text; empty for NULL.
///
/// # Safety
/// `pointer` is NULL or to a NUL-terminated text that lives during the call.
unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not NULL (above), so a NUL-terminated text (condition of this function).
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::device_name;

    #[test]
    fn device_strings_name_their_port() {
        for (device, name) in [
            ("net_tap0", "net_tap0"),
            ("net_tap0,iface=x,mac=fixed", "net_tap0"),
            ("vdev:net_ring1", "net_ring1"),
            ("0000:03:00.0,representor=0", "0000:03:00.0"),
        ] {
            assert_eq!(device_name(device), name);
        }
    }
}
