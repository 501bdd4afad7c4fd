//! Ports that come and go. While a device opens or closes the core does nothing else: some milliseconds for a virtual
//! one, up to seconds for a card. Workers go on.

use std::time::{Duration, Instant};

use tidegate_dataplane::steering::{Link, PortId, PortRole};

use super::{Core, CoreError, PortReport};
use crate::{
    config::PortConfig,
    steering::{Address, BackendSpec, NetworkPort, PortClash, Refused},
};

impl Core {
    /// Open a port.
    ///
    /// # Errors
    /// It cannot be beside what there is, its device does not open, or the workers do not take it up. Nothing has changed.
    pub fn add_port(&mut self, config: PortConfig) -> Result<PortReport, CoreError> {
        self.settled()?;
        self.check_port(&config)?;
        let Some(device) = config.device() else {
            return Err(Refused::Port(PortClash::NoDevice(config.name)).into());
        };
        let (id, mac) = self.dataplane.add_port(&config, device)?;
        let role = config.role;
        let port = NetworkPort { config: PortConfig { id, ..config }, mac, twin: None };
        self.network.insert(port.clone());
        let steering = self.steering.clone();
        if let Err(error) = self.publish(&steering, Vec::new()) {
            self.network.remove(id);
            if let Err(error) = self.dataplane.remove_port(id) {
                tracing::error!(%error, "a port that workers did not take up was not closed");
            }
            return Err(error);
        }
        if role == PortRole::Uplink {
            // What is behind it has not heard of what is hosted.
            let hosted = self.steering.addresses().filter(|address| address.hosted);
            for address in hosted {
                self.announcer.begin(address.address, Instant::now());
            }
        }
        self.port_report(&port).ok_or_else(|| self.unknown_port(&port.config.name).into())
    }

    /// Close the port with this name.
    ///
    /// # Errors
    /// There is none, a backend or the configuration needs it, or it did not close.
    pub fn remove_port(&mut self, name: &str) -> Result<(), CoreError> {
        self.settled()?;
        let id = self.network.port_named(name).ok_or_else(|| self.unknown_port(name))?;
        self.check_unused(id, name)?;
        let Some(port) = self.network.remove(id) else {
            return Err(self.unknown_port(name).into());
        };
        let has_device = port.config.device().is_some();
        let steering = self.steering.clone();
        if let Err(error) = self.publish(&steering, Vec::new()) {
            self.network.insert(port);
            return Err(error);
        }
        if has_device {
            self.dataplane.remove_port(id)?;
        }
        Ok(())
    }

    /// For `time` from now on, or until released, keep what the port's device does not take.
    ///
    /// # Errors
    /// There is no such port, or the workers do not do it.
    pub fn hold_port(&mut self, name: &str, time: Duration) -> Result<(), CoreError> {
        let device = self.device_of(name)?;
        Ok(self.dataplane.hold_port(device, time)?)
    }

    /// Keep nothing more for a port. Gives how many packets had to wait.
    ///
    /// # Errors
    /// There is no such port, or the workers do not do it.
    pub fn release_port(&mut self, name: &str) -> Result<u64, CoreError> {
        let device = self.device_of(name)?;
        Ok(self.dataplane.release_port(device)?)
    }

    /// The port that has the device which the port with this name is on.
    fn device_of(&self, name: &str) -> Result<PortId, CoreError> {
        let id = self.network.port_named(name).ok_or_else(|| self.unknown_port(name))?;
        match self.network.port(id).map(|port| port.config.link()) {
            Some(Link::Device { device, .. }) => Ok(device),
            _ => Err(self.unknown_port(name).into()),
        }
    }

    /// What is known of a port; `None` when its device is gone.
    pub(super) fn port_report(&self, port: &NetworkPort) -> Option<PortReport> {
        let Link::Device { device, .. } = port.config.link() else { return None };
        let info = self.dataplane.ports().get(usize::from(device.0))?.clone()?;
        let device = self.network.port(device)?.config.device()?.to_owned();
        Some(PortReport { config: port.config.clone(), device, mac: port.mac, info })
    }

    fn unknown_port(&self, name: &str) -> Refused {
        let known: Vec<_> =
            self.network.ports().iter().map(|port| format!("`{}`", port.config.name)).collect();
        Refused::UnknownPort { name: name.to_owned(), known: known.join(", ") }
    }

    fn check_port(&self, config: &PortConfig) -> Result<(), Refused> {
        self.network.check(config)?;
        for own in &config.addresses {
            if self.steering.get(own.address).is_ok() {
                return Err(Refused::PortAddressManaged(own.address));
            }
            if let Some(owner) = self.steering.owner_of_locator(own.address) {
                return Err(Refused::PortAddressIsLocator { address: own.address, owner });
            }
        }
        Ok(())
    }

    /// Nothing leads to the port.
    fn check_unused(&self, id: PortId, name: &str) -> Result<(), Refused> {
        let placed = self.steering.addresses().flat_map(|record: &Address| {
            record.backends().map(move |placed| (record.address, &placed.spec))
        });
        // Behind a tunnel from an address of the port, it is behind the port as well.
        let is_tunnel_here = |spec: &BackendSpec| {
            let owner = spec.tunnel.and_then(|tunnel| self.network.owner_of(tunnel.local));
            owner.is_some_and(|port| port.config.id == id)
        };
        let needs_it = |spec: &BackendSpec| spec.port == id || is_tunnel_here(spec);
        if let Some((address, backend)) = placed.into_iter().find(|(_, spec)| needs_it(spec)) {
            let (port, backend) = (name.to_owned(), backend.name.clone());
            return Err(Refused::PortHasBackend { port, address, backend });
        }
        match self.network.holds(id) {
            Some(what) => Err(Refused::PortIsConfigured { port: name.to_owned(), what }),
            None => Ok(()),
        }
    }
}
