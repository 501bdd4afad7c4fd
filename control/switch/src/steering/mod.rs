//! Managed addresses and their migrations as a state machine without I/O.
//!
//! ```text
//!            add                 takeover            set_destination + cutover      observe_drained
//!   (none) ───────▶ TRACKED ───────────────▶ HOSTED ───────────────────────▶ DRAINING ─────────────▶ DRAINED
//!                    ▲  ▲   ◀─────────────── abort, from any state ─────────────┘                        │
//!                    │  └──────────────── release, keep_tracking ────────────────────────────────────────┤
//!       takeover or  │                                                                                   │
//!    set_destination └─ BOUND ◀────────── release ───────────────────────────────────────────────────────┘
//! ```
//!
//! A release with sessions is possible in any state with a destination, and ends where other releases do.
//!
//! Every method either changes the state as a whole or refuses and changes nothing. Callers work on a clone and
//! keep it once every worker has acknowledged its [`Snapshot`](tidegate_dataplane::steering::Snapshot).

mod address;
mod neighbours;
mod network;
mod ports;
mod quic;
mod refused;
mod routes;
mod slots;
mod tunnels;

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

pub use address::{
    Address, AddressSpec, AddressState, BackendSpec, DrainPolicy, NAME_RULE, NO_MAC, Placed,
    Target, is_name, is_unicast, is_unicast_on_link,
};
pub(crate) use neighbours::is_link_local;
pub use network::{Learned, Network, NetworkPort};
pub use ports::PortClash;
pub(crate) use ports::{check_address, check_device, check_name};
pub use quic::InvalidQuic;
pub(crate) use quic::quic;
pub use refused::Refused;
use slots::Slots;
use tidegate_dataplane::steering::{BackendSlot, ManagedAddress, Rewrite};
pub use tunnels::TunnelPort;
use tunnels::TunnelPorts;

/// Whether any shard still has entries that name the slot.
pub type SlotInUse<'a> = &'a dyn Fn(BackendSlot) -> bool;

/// What became of the numbers of both backends in a release with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Names the home, before and after.
    pub kept: BackendSlot,
    /// Named the destination.
    pub given_up: BackendSlot,
}

/// All managed addresses of the box.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    addresses: BTreeMap<IpAddr, Address>,
    slots: Slots,
    tunnels: TunnelPorts,
}

impl Steering {
    /// All addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values()
    }

    /// One address.
    ///
    /// # Errors
    /// [`Refused::UnknownAddress`].
    pub fn get(&self, address: IpAddr) -> Result<&Address, Refused> {
        self.addresses.get(&address).ok_or(Refused::UnknownAddress(address))
    }

    /// The tunnels that backends are behind.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelPort> {
        self.tunnels.ports()
    }

    /// What workers need to know.
    pub fn managed(&self) -> impl Iterator<Item = ManagedAddress> {
        self.addresses.values().map(Address::managed)
    }

    /// Begin to manage an address: tracked, not hosted.
    ///
    /// # Errors
    /// The address or the home's locator is taken, or there is no slot left.
    pub fn add(&mut self, spec: AddressSpec, in_use: SlotInUse<'_>) -> Result<(), Refused> {
        let AddressSpec { address, home, quic } = spec;
        if self.addresses.contains_key(&address) {
            return Err(Refused::AddressExists(address));
        }
        if let Some(owner) = self.owner_of_locator(address) {
            return Err(Refused::AddressIsLocator { address, owner });
        }
        if home.rewrite == Rewrite::Nat(address) {
            return Err(Refused::LocatorManaged(address));
        }
        self.locator_is_free(&home)?;
        let home = self.place(home, in_use)?;
        self.addresses.insert(address, Address::new(address, home, quic));
        Ok(())
    }

    /// Forget `address`.
    ///
    /// # Errors
    /// It is unknown, or a migration is in progress.
    pub fn remove(&mut self, address: IpAddr) -> Result<(), Refused> {
        let record = self.get(address)?;
        if let Some(target) = &record.destination {
            return Err(Refused::MigrationInProgress {
                address,
                state: record.state(),
                destination: target.placed.spec.name.clone(),
            });
        }
        if let Some(record) = self.addresses.remove(&address) {
            self.displace(&record.home);
        }
        Ok(())
    }

    /// Host `address`. Doing so again changes nothing.
    ///
    /// # Errors
    /// It is unknown, or there is no slot left.
    pub fn takeover(&mut self, address: IpAddr, in_use: SlotInUse<'_>) -> Result<(), Refused> {
        self.track(address, in_use)?;
        self.get_mut(address)?.hosted = true;
        Ok(())
    }

    /// Name the destination of the coming migration.
    ///
    /// # Errors
    /// The address is unknown, is migrating already, or the destination is not another place than its home.
    pub fn set_destination(
        &mut self,
        address: IpAddr,
        destination: BackendSpec,
        in_use: SlotInUse<'_>,
    ) -> Result<(), Refused> {
        let record = self.get(address)?;
        if let Some(target) = &record.destination {
            return Err(Refused::MigrationInProgress {
                address,
                state: record.state(),
                destination: target.placed.spec.name.clone(),
            });
        }
        let home = &record.home.spec;
        if destination.is_same_place(home) {
            return Err(Refused::DestinationIsHome { address, home: home.name.clone() });
        }
        if destination.name == home.name {
            return Err(Refused::DestinationName { address, name: destination.name });
        }
        let both_l2 = destination.rewrite == Rewrite::L2 && home.rewrite == Rewrite::L2;
        if both_l2 && destination.is_behind_same(home) {
            return Err(Refused::DestinationPort { address });
        }
        self.locator_is_free(&destination)?;
        self.check_tunnel(&destination)?;
        self.track(address, in_use)?;
        let placed = self.place(destination, in_use)?;
        self.get_mut(address)?.destination =
            Some(Target { placed, cut_over: None, drained: false });
        Ok(())
    }

    /// Begin a new epoch. Gives the source's slot, whose live sessions are the old ones.
    ///
    /// # Errors
    /// The address is unknown, has no destination, is not hosted, or has been cut over already.
    pub fn cutover(
        &mut self,
        address: IpAddr,
        policy: DrainPolicy,
    ) -> Result<BackendSlot, Refused> {
        let record = self.get_mut(address)?;
        let (state, hosted) = (record.state(), record.hosted);
        let Some(target) = &mut record.destination else {
            return Err(Refused::NoDestination { address, state });
        };
        if target.cut_over.is_some() {
            return Err(Refused::AlreadyCutOver { address, state });
        }
        if !hosted {
            return Err(Refused::NotHosted { address, state });
        }
        target.cut_over = Some(policy);
        record.epoch += 1;
        Ok(record.home.slot)
    }

    /// Note that the source of `address` has no live session any more. From now on it is drained, whatever is adopted
    /// later. Nothing happens to an address that is not draining.
    pub fn observe_drained(&mut self, address: IpAddr) {
        let target =
            self.addresses.get_mut(&address).and_then(|record| record.destination.as_mut());
        if let Some(target) = target.filter(|target| target.cut_over.is_some()) {
            target.drained = true;
        }
    }

    /// Give everything back to the source.
    ///
    /// # Errors
    /// The address is unknown, or neither hosted nor migrating.
    pub fn abort(&mut self, address: IpAddr) -> Result<(), Refused> {
        let record = self.get_mut(address)?;
        if record.destination.is_none() && !record.hosted {
            return Err(Refused::NothingToAbort { address, state: record.state() });
        }
        record.hosted = false;
        if let Some(target) = record.destination.take() {
            self.displace(&target.placed);
        }
        Ok(())
    }

    /// Make the destination the address's home and stop hosting. Gives the source's slot, which is forgotten.
    ///
    /// # Errors
    /// The address is unknown, has not been cut over, or is not drained and `force` is not set.
    pub fn release(
        &mut self,
        address: IpAddr,
        keep_tracking: bool,
        force: bool,
    ) -> Result<BackendSlot, Refused> {
        let record = self.get_mut(address)?;
        let state = record.state();
        match &record.destination {
            None => return Err(Refused::NoDestination { address, state }),
            Some(target) if target.cut_over.is_none() => {
                return Err(Refused::NotCutOver { address, state });
            }
            Some(target) if !target.drained && !force => {
                return Err(Refused::NotDrained { address, state });
            }
            Some(_) => {}
        }
        let Some(target) = record.destination.take() else {
            return Err(Refused::NoDestination { address, state });
        };
        let source = std::mem::replace(&mut record.home, target.placed);
        record.hosted = false;
        record.tracked = keep_tracking;
        self.displace(&source);
        Ok(source.slot)
    }

    /// Make the destination the address's home, with all of the source's sessions, and stop hosting: it goes on as the
    /// source. The home keeps its slot, by which its sessions name their owner; only where that is changes.
    /// Gives that slot and the destination's, whose sessions are forgotten.
    ///
    /// # Errors
    /// The address is unknown, has no destination, or one of the two has an address of its own.
    pub fn release_with_sessions(
        &mut self,
        address: IpAddr,
        keep_tracking: bool,
    ) -> Result<Handover, Refused> {
        let record = self.get_mut(address)?;
        let Some(target) = &record.destination else {
            return Err(Refused::NoDestination { address, state: record.state() });
        };
        let both = [&record.home.spec, &target.placed.spec];
        if both.iter().any(|spec| spec.rewrite != Rewrite::L2) {
            return Err(Refused::SessionsStay { address });
        }
        let Placed { slot: given_up, port, spec } = target.placed.clone();
        record.destination = None;
        let kept = record.home.slot;
        let source = std::mem::replace(&mut record.home, Placed { slot: kept, port, spec });
        record.hosted = false;
        record.tracked = keep_tracking;
        // The source's place and the destination's number are what is left over.
        self.displace(&Placed { slot: given_up, ..source });
        Ok(Handover { kept, given_up })
    }

    fn get_mut(&mut self, address: IpAddr) -> Result<&mut Address, Refused> {
        self.addresses.get_mut(&address).ok_or(Refused::UnknownAddress(address))
    }

    /// Begin to record sessions, under a slot that no session of an earlier time names: what the shards have not yet
    /// forgotten of it may have ended unseen.
    fn track(&mut self, address: IpAddr, in_use: SlotInUse<'_>) -> Result<(), Refused> {
        if self.get(address)?.tracked {
            return Ok(());
        }
        let slot = self.slots.take(in_use)?;
        let record = self.get_mut(address)?;
        record.tracked = true;
        record.tracked_since = Instant::now();
        let before = std::mem::replace(&mut record.home.slot, slot);
        self.slots.give_back(before);
        Ok(())
    }

    /// Give a backend its slot, and its tunnel's number if it is behind one.
    fn place(&mut self, spec: BackendSpec, in_use: SlotInUse<'_>) -> Result<Placed, Refused> {
        self.check_tunnel(&spec)?;
        let slot = self.slots.take(in_use)?;
        let port = match spec.tunnel {
            Some(tunnel) => self.tunnels.take(tunnel, spec.port),
            None => spec.port,
        };
        Ok(Placed { slot, port, spec })
    }

    fn check_tunnel(&self, spec: &BackendSpec) -> Result<(), Refused> {
        spec.tunnel.map_or(Ok(()), |tunnel| self.tunnels.check(tunnel, spec.port))
    }

    /// Take back what a backend was given.
    fn displace(&mut self, placed: &Placed) {
        self.slots.give_back(placed.slot);
        if placed.spec.tunnel.is_some() {
            self.tunnels.give_back(placed.port);
        }
    }

    /// The address of which a backend has this locator.
    pub(crate) fn owner_of_locator(&self, locator: IpAddr) -> Option<IpAddr> {
        let has = |spec: &BackendSpec| spec.rewrite == Rewrite::Nat(locator);
        self.addresses
            .values()
            .find(|record| record.backends().any(|placed| has(&placed.spec)))
            .map(|r| r.address)
    }

    fn locator_is_free(&self, backend: &BackendSpec) -> Result<(), Refused> {
        let Rewrite::Nat(locator) = backend.rewrite else { return Ok(()) };
        if self.addresses.contains_key(&locator) {
            return Err(Refused::LocatorManaged(locator));
        }
        match self.owner_of_locator(locator) {
            Some(owner) => Err(Refused::LocatorTaken { locator, owner }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
