//! Devices that come and go at run time.

use std::ffi::CStr;

use tidegate_dpdk_sys as sys;

use crate::eal::{Eal, port_ids};
use crate::error::{Errno, Error, c_string, check};
use crate::port::{device_name, port_name};

/// A PCI address that no device has. EAL started with `-a` and this takes none of the machine's PCI devices by itself, and
/// [`Eal::attach`] can still be asked for any; with `--no-pci` it could not.
pub const NO_PCI_DEVICE: &str = "ffff:ff:1f.7";

/// Whether a device string names a device of the PCI bus (`0000:03:00.0`, `03:00.0`) and not one that DPDK makes.
#[must_use]
pub fn is_pci(device: &str) -> bool {
    let name = device_name(device);
    let number = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((rest, function)) = name.rsplit_once('.') else { return false };
    let mut parts = rest.rsplit(':');
    let slot = parts.next().is_some_and(|slot| number(slot, 2));
    let bus = parts.next().is_some_and(|bus| number(bus, 2));
    let domain = parts.next().is_none_or(|domain| number(domain, 8));
    slot && bus && domain && parts.next().is_none() && number(function, 1)
}

impl Eal {
    /// Makes a device known from a device string: a virtual one as `--vdev` does at init, `net_tap0,iface=x`, or one of the
    /// PCI bus as `-a` does, `0000:03:00.0`. Then [`Eal::port`] opens it. (`rte_eal_hotplug_add`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, `ENODEV` for a PCI device that is not there, or the driver's reason.
    /// [`Error::NulByte`].
    pub fn attach(&self, device: &str) -> Result<(), Error> {
        let name = device_name(device);
        let arguments = device.split_once(',').map_or("", |(_, arguments)| arguments);
        let c_name = c_string("device name", name)?;
        let c_arguments = c_string("device arguments", arguments)?;
        let _alone = self.control();
        // DPDK takes "it is there already" for success, with other arguments than asked for.
        if port_ids().any(|id| port_name(id) == name) {
            let on = device.to_owned();
            return Err(Error::Call { call: "rte_eal_hotplug_add", on, errno: Errno::EEXIST });
        }
        // SAFETY: EAL is initialised (`self`); three NUL-terminated texts that outlive the call.
        let answer = unsafe {
            sys::rte_eal_hotplug_add(bus(device).as_ptr(), c_name.as_ptr(), c_arguments.as_ptr())
        };
        check("rte_eal_hotplug_add", device, answer).map(drop)
    }

    /// Removes a device and closes its ports, so that it can be attached again. (`rte_eal_hotplug_remove`)
    ///
    /// # Errors
    /// [`Error::PortClaimed`] while a handle to a port or queue of it exists. [`Error::Call`]: `ENOENT` or
    /// `ENODEV` for an unknown name, or the driver's reason. [`Error::NulByte`].
    pub fn detach(&self, device: &str) -> Result<(), Error> {
        let name = device_name(device);
        let c_name = c_string("device name", name)?;
        let control = self.control();
        if control.claimed.iter().any(|(_, device)| device == name) {
            return Err(Error::PortClaimed { port: name.to_owned() });
        }
        // SAFETY: EAL is initialised (`self`), two NUL-terminated texts; no handle to a port of the device
        // exists (checked above) and none can be made meanwhile (`control` is held).
        let answer = unsafe { sys::rte_eal_hotplug_remove(bus(device).as_ptr(), c_name.as_ptr()) };
        check("rte_eal_hotplug_remove", name, answer).map(drop)
    }
}

fn bus(device: &str) -> &'static CStr {
    if is_pci(device) { c"pci" } else { c"vdev" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_on_the_bus_its_name_tells() {
        for device in ["0000:03:00.0", "3b:00.1", "0000:03:00.0,a=b", NO_PCI_DEVICE, "pci:03:00.0"]
        {
            assert!(is_pci(device), "{device}");
        }
        for device in [
            "net_tap0,iface=a:b.0",
            "net_vhost0,iface=/run/03:00.0",
            "net_null0",
            "virtio_user0",
            "vdev:net_ring1",
            "03:00",
            "0:0:0:0.0",
            "zz:00.0",
            "",
        ] {
            assert!(!is_pci(device), "{device}");
        }
    }
}
