//! A managed address as packets see it: what follows from the configuration alone is worked out once.

use super::{Backend, BackendSlot, ManagedAddress, Port, PortId, Rewrite, UnknownTcp};
use crate::{
    packet::{Macs, Translation},
    pipeline::Outcome,
};

/// A managed address.
#[derive(Clone, Debug)]
pub struct Service {
    /// The address, host byte order.
    pub address: u32,
    /// Whether the box answers ARP for it.
    pub hosted: bool,
    /// Whether sessions are recorded; otherwise packets only go to `home` and back.
    pub tracked: bool,
    /// Current steering generation; new sessions are born in it.
    pub epoch: u32,
    /// The way to where it lives; to the source, during a migration.
    pub home: Path,
    /// The way to the destination of a migration.
    pub destination: Option<Path>,
    /// From cutover on: what happens to unknown TCP.
    pub cut_over: Option<UnknownTcp>,
}

/// The way to a backend and back.
#[derive(Clone, Debug)]
pub struct Path {
    /// The backend's number.
    pub slot: BackendSlot,
    /// Port it is behind.
    pub port: PortId,
    /// The link header of frames to it.
    pub macs: Macs,
    /// Its own address, if it has one.
    pub locator: Option<u32>,
    /// What becomes of the address on the way to it.
    pub inward: Option<Translation>,
    /// What becomes of the address on the way back.
    pub outward: Option<Translation>,
    /// How packets to it end.
    pub outcome: Outcome,
}

impl Service {
    /// `ports` has the ports that the address's backends name.
    pub(super) fn new(address: &ManagedAddress, ports: &[Port]) -> Self {
        let path = |backend, outcome| Path::new(address.address, backend, ports, outcome);
        let destination = address.destination.as_ref();
        Self {
            address: address.address,
            hosted: address.hosted,
            tracked: address.tracked,
            epoch: address.epoch,
            home: path(&address.home, Outcome::ToSource),
            destination: destination.map(|it| path(&it.backend, Outcome::ToDestination)),
            cut_over: destination.and_then(|it| it.cut_over),
        }
    }

    /// The destination, once cutover has happened, and what happens to unknown TCP.
    #[inline]
    #[must_use]
    pub fn active_destination(&self) -> Option<(&Path, UnknownTcp)> {
        Some((self.destination.as_ref()?, self.cut_over?))
    }

    /// The way to the backend `slot`, if it is still one.
    #[inline]
    #[must_use]
    pub fn path(&self, slot: BackendSlot) -> Option<&Path> {
        if self.home.slot == slot {
            return Some(&self.home);
        }
        self.destination.as_ref().filter(|path| path.slot == slot)
    }

    /// The ways to all backends.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.home).chain(&self.destination)
    }
}

impl Path {
    fn new(address: u32, backend: &Backend, ports: &[Port], outcome: Outcome) -> Self {
        let locator = match backend.rewrite {
            Rewrite::Nat(locator) => Some(locator),
            Rewrite::L2 => None,
        };
        Self {
            slot: backend.slot,
            port: backend.port,
            macs: Macs::new(backend.mac, ports[usize::from(backend.port.0)].mac),
            locator,
            inward: locator.map(|locator| Translation::new(address, locator)),
            outward: locator.map(|locator| Translation::new(locator, address)),
            outcome,
        }
    }
}
