//! The ends that are played, and the box's addresses they see.

use crate::{frame::Mac, session::Owner};

/// The clients' side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// MAC of the router all clients are behind.
    pub mac: Mac,
    /// The box's uplink.
    pub gateway: Mac,
}

/// A VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vm {
    /// The VM port it is behind; both may be behind one.
    pub port: usize,
    /// Its MAC.
    pub mac: Mac,
    /// Its address, host byte order: the locator behind `nat`, the managed address behind `l2`.
    pub address: u32,
    /// The box's access port.
    pub gateway: Mac,
}

/// All ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The managed address and the service's port.
    pub managed: (u32, u16),
    /// The clients.
    pub client: Clients,
    /// The source.
    pub source: Vm,
    /// The destination.
    pub destination: Vm,
}

impl Topology {
    /// The VM of a session whose owner is settled.
    #[inline]
    #[must_use]
    pub fn vm(&self, owner: Owner) -> &Vm {
        if owner == Owner::Destination { &self.destination } else { &self.source }
    }

    /// The VM that a frame on VM port `port` is for.
    #[inline]
    #[must_use]
    pub fn vm_at(&self, port: usize, mac: Mac, destination: (u32, u16)) -> Option<Owner> {
        let is_for =
            |vm: &Vm| (vm.port, vm.mac, (vm.address, self.managed.1)) == (port, mac, destination);
        let owners = [Owner::Source, Owner::Destination];
        owners.into_iter().find(|&owner| is_for(self.vm(owner)))
    }

    /// The MAC of whoever has `address` on VM port `port`.
    #[must_use]
    pub fn mac_of(&self, port: usize, address: u32) -> Option<Mac> {
        let vms = [&self.source, &self.destination];
        let asked = vms.into_iter().find(|vm| vm.port == port && vm.address == address);
        asked.map(|vm| vm.mac)
    }
}
