//! Virtual devices that come and go at run time.

use tidegate_dpdk_sys as sys;

use crate::eal::{Eal, port_ids};
use crate::error::{Errno, Error, c_string, check};
use crate::port::{device_name, port_name};

const VDEV_BUS: &std::ffi::CStr = c"vdev";

impl Eal {
    /// Makes a virtual device from a device string, as `--vdev` does at init: `net_tap0,iface=x`. Then
    /// [`Eal::port`] opens it. (`rte_eal_hotplug_add`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, or the driver's reason. [`Error::NulByte`].
    pub fn attach_vdev(&self, device: &str) -> Result<(), Error> {
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
            sys::rte_eal_hotplug_add(VDEV_BUS.as_ptr(), c_name.as_ptr(), c_arguments.as_ptr())
        };
        check("rte_eal_hotplug_add", device, answer).map(drop)
    }

    /// Removes a virtual device and its ports. (`rte_eal_hotplug_remove`)
    ///
    /// # Errors
    /// [`Error::PortClaimed`] while a handle to a port or queue of it exists. [`Error::Call`]: `ENOENT` or
    /// `ENODEV` for an unknown name, or the driver's reason. [`Error::NulByte`].
    pub fn detach_vdev(&self, device: &str) -> Result<(), Error> {
        let name = device_name(device);
        let c_name = c_string("device name", name)?;
        let control = self.control();
        if control.claimed.iter().any(|(_, device)| device == name) {
            return Err(Error::PortClaimed { port: name.to_owned() });
        }
        // SAFETY: EAL is initialised (`self`), two NUL-terminated texts; no handle to a port of the device
        // exists (checked above) and none can be made meanwhile (`control` is held).
        let answer = unsafe { sys::rte_eal_hotplug_remove(VDEV_BUS.as_ptr(), c_name.as_ptr()) };
        check("rte_eal_hotplug_remove", name, answer).map(drop)
    }
}
