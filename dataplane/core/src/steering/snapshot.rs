//! The immutable configuration a worker acts on.
//!
//! The control core builds a new one for every change and hands it to each worker, which takes it up between two
//! bursts and acknowledges its generation. Nothing in it is ever changed in place.

use ahash::RandomState;
use hashbrown::HashMap;

use super::Fib;
use crate::packet::Mac;

/// A port of the box; index into [`Snapshot::ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Which side of the box a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRole {
    /// Towards clients: hosted addresses are answered for and announced here.
    Uplink,
    /// Towards guests.
    Access,
}

/// A port as packets see it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its own MAC.
    pub mac: Mac,
    /// Its own addresses, host byte order: answered by ARP.
    pub addresses: Vec<u32>,
    /// Its side.
    pub role: PortRole,
}

/// Number of a backend, unique among all addresses for as long as any session may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSlot(pub u32);

/// How packets are rewritten on their way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Destination address becomes the locator (host byte order), and back.
    Nat(u32),
    /// MAC addresses only.
    L2,
}

/// Where a managed address's packets can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its number.
    pub slot: BackendSlot,
    /// Port it is behind.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// How packets reach it.
    pub rewrite: Rewrite,
}

/// What happens after cutover to a TCP segment without SYN that belongs to no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownTcp {
    /// Adopted as an old session of the source.
    #[default]
    Source,
    /// Taken as a session of the destination.
    Destination,
    /// Dropped.
    Drop,
}

/// The destination of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it is.
    pub backend: Backend,
    /// `None` until cutover; then what happens to unknown TCP.
    pub cut_over: Option<UnknownTcp>,
}

/// A managed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagedAddress {
    /// The address, host byte order.
    pub address: u32,
    /// Whether the box answers ARP for it.
    pub hosted: bool,
    /// Whether sessions are recorded; otherwise packets only go to `home` and back.
    pub tracked: bool,
    /// Current steering generation; new sessions are born in it.
    pub epoch: u32,
    /// Where it lives; the source, during a migration.
    pub home: Backend,
    /// Set during a migration.
    pub destination: Option<Destination>,
}

impl ManagedAddress {
    /// The destination, once cutover has happened.
    #[inline]
    #[must_use]
    pub fn active_destination(&self) -> Option<(&Backend, UnknownTcp)> {
        let destination = self.destination.as_ref()?;
        Some((&destination.backend, destination.cut_over?))
    }

    fn backends(&self) -> impl Iterator<Item = &Backend> {
        std::iter::once(&self.home)
            .chain(self.destination.as_ref().map(|destination| &destination.backend))
    }
}

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Port it is behind.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
}

/// How long a silent session is kept, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before the handshake is finished (RFC 5382, REQ-5: at least 4 minutes for partly open; a SYN alone needs less).
    pub tcp_opening_ms: u64,
    /// TCP established (RFC 5382, REQ-5: at least 2 h 4 min).
    pub tcp_established_ms: u64,
    /// TCP after the first FIN.
    pub tcp_closing_ms: u64,
    /// After a session closed, for late segments.
    pub linger_ms: u64,
    /// UDP (RFC 4787, REQ-5: at least 2 minutes).
    pub udp_ms: u64,
    /// ICMP echo (RFC 5508, REQ-2: at least 60 seconds).
    pub echo_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening_ms: 240_000,
            tcp_established_ms: 7_440_000,
            tcp_closing_ms: 240_000,
            linger_ms: 4_000,
            udp_ms: 120_000,
            echo_ms: 60_000,
        }
    }
}

/// Two things in one configuration exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The address is there twice.
    #[error("managed address {} is configured twice", std::net::Ipv4Addr::from_bits(*.0))]
    AddressTwice(u32),
    /// Two backends have one locator.
    #[error("locator {} belongs to two backends", std::net::Ipv4Addr::from_bits(*.0))]
    LocatorTwice(u32),
    /// A locator is itself a managed address.
    #[error("locator {} is itself a managed address", std::net::Ipv4Addr::from_bits(*.0))]
    LocatorManaged(u32),
    /// A backend names a port that is not there.
    #[error("backend of {} is behind a port that does not exist", std::net::Ipv4Addr::from_bits(*.0))]
    NoSuchPort(u32),
}

/// Which way a packet goes through the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction<'a> {
    /// From a client to this managed address.
    ToAddress(&'a ManagedAddress),
    /// From a client to the own address of this backend of a managed address.
    ToLocator(&'a ManagedAddress, &'a Backend),
    /// From a backend of this managed address.
    FromBackend(&'a ManagedAddress, &'a Backend),
    /// A managed address or locator as source, from a port none of its backends is behind.
    Spoofed,
    /// Nothing to do with managed addresses.
    Plain,
}

/// All a worker needs to know.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every snapshot published.
    pub generation: u64,
    /// By [`PortId`].
    pub ports: Vec<Port>,
    /// Routes for everything that is not managed, and back to clients.
    pub fib: Fib,
    /// Timeouts of sessions.
    pub timeouts: Timeouts,
    /// Slots whose live sessions each shard notes down as it takes this snapshot up: the sources of a cutover.
    pub counted_at_install: Vec<BackendSlot>,
    neighbours: HashMap<u32, Neighbour, RandomState>,
    addresses: HashMap<u32, ManagedAddress, RandomState>,
    locators: HashMap<u32, (u32, BackendSlot), RandomState>,
    filter: Filter,
}

impl Snapshot {
    /// A snapshot of these ports, addresses, routes and neighbours.
    ///
    /// # Errors
    /// [`SnapshotError`] when two of them exclude each other.
    pub fn new(
        generation: u64,
        ports: Vec<Port>,
        managed: impl IntoIterator<Item = ManagedAddress>,
        fib: Fib,
        neighbours: impl IntoIterator<Item = (u32, Neighbour)>,
    ) -> Result<Self, SnapshotError> {
        let mut addresses = HashMap::with_hasher(RandomState::new());
        let mut locators = HashMap::with_hasher(RandomState::new());
        for address in managed {
            for backend in address.backends() {
                if usize::from(backend.port.0) >= ports.len() {
                    return Err(SnapshotError::NoSuchPort(address.address));
                }
                let Rewrite::Nat(locator) = backend.rewrite else {
                    continue;
                };
                if locators.insert(locator, (address.address, backend.slot)).is_some() {
                    return Err(SnapshotError::LocatorTwice(locator));
                }
            }
            if addresses.insert(address.address, address).is_some() {
                return Err(SnapshotError::AddressTwice(address.address));
            }
        }
        if let Some(&locator) = locators.keys().find(|locator| addresses.contains_key(*locator)) {
            return Err(SnapshotError::LocatorManaged(locator));
        }
        let neighbours = neighbours.into_iter().collect();
        let filter = addresses.keys().chain(locators.keys()).copied().collect();
        Ok(Self {
            generation,
            ports,
            fib,
            timeouts: Timeouts::default(),
            counted_at_install: Vec::new(),
            neighbours,
            addresses,
            locators,
            filter,
        })
    }

    /// What a worker starts with: no ports, so that every packet is dropped.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: 0,
            ports: Vec::new(),
            fib: Fib::default(),
            timeouts: Timeouts::default(),
            counted_at_install: Vec::new(),
            neighbours: HashMap::default(),
            addresses: HashMap::default(),
            locators: HashMap::default(),
            filter: Filter::default(),
        }
    }

    /// The managed address, if `address` is one.
    #[inline]
    #[must_use]
    pub fn managed(&self, address: u32) -> Option<&ManagedAddress> {
        self.addresses.get(&address)
    }

    /// The neighbour with this address.
    #[inline]
    #[must_use]
    pub fn neighbour(&self, address: u32) -> Option<&Neighbour> {
        self.neighbours.get(&address)
    }

    /// The backend `slot` of `address`, if it is still one.
    #[inline]
    #[must_use]
    pub fn backend(address: &ManagedAddress, slot: BackendSlot) -> Option<&Backend> {
        address.backends().find(|backend| backend.slot == slot)
    }

    /// The managed address and its backend that has this locator.
    #[inline]
    #[must_use]
    pub fn by_locator(&self, locator: u32) -> Option<(&ManagedAddress, &Backend)> {
        let &(address, slot) = self.locators.get(&locator)?;
        let address = self.addresses.get(&address)?;
        Some((address, Self::backend(address, slot)?))
    }

    /// Which way a packet that arrived on `port` goes. `recent` is the address that was found last: packets of one
    /// address come in runs.
    ///
    /// Which VM sent a packet is known from its port (`l2`) or its address (`nat`).
    #[inline]
    #[must_use]
    pub fn direction<'a>(
        &'a self,
        port: PortId,
        source: u32,
        destination: u32,
        recent: &mut Option<&'a ManagedAddress>,
    ) -> Direction<'a> {
        if self.filter.may_hold(source)
            && let Some(sent) = self.sent_by_vm(port, source)
        {
            return sent;
        }
        if !self.filter.may_hold(destination) {
            return Direction::Plain;
        }
        if let Some(address) = recent.filter(|recent| recent.address == destination) {
            return Direction::ToAddress(address);
        }
        if let Some(address) = self.addresses.get(&destination) {
            *recent = Some(address);
            return Direction::ToAddress(address);
        }
        match self.by_locator(destination) {
            Some((address, backend)) => Direction::ToLocator(address, backend),
            None => Direction::Plain,
        }
    }

    /// Who sent a packet with this source, if it is a managed address or a locator.
    fn sent_by_vm(&self, port: PortId, source: u32) -> Option<Direction<'_>> {
        if let Some(address) = self.addresses.get(&source) {
            let sender = address
                .backends()
                .find(|backend| backend.port == port && backend.rewrite == Rewrite::L2);
            return Some(
                sender
                    .map_or(Direction::Spoofed, |backend| Direction::FromBackend(address, backend)),
            );
        }
        let (address, backend) = self.by_locator(source)?;
        Some(if backend.port == port {
            Direction::FromBackend(address, backend)
        } else {
            Direction::Spoofed
        })
    }
}

/// Says of most addresses that nothing is known of them, without a look into the maps: a bit for each hash of an
/// address that is managed or a locator.
#[derive(Clone, Debug)]
struct Filter(Box<[u64; Self::WORDS]>);

impl Filter {
    const WORDS: usize = 1024;

    #[inline]
    fn may_hold(&self, address: u32) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }

    /// Word and bit of an address: the upper 16 bits of its product with an odd constant.
    #[inline]
    fn place(address: u32) -> (usize, u64) {
        let hash = address.wrapping_mul(0x9e37_79b1) >> 16;
        (hash as usize / 64 % Self::WORDS, 1 << (hash % 64))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }
}

impl FromIterator<u32> for Filter {
    fn from_iter<I: IntoIterator<Item = u32>>(addresses: I) -> Self {
        let mut filter = Self::default();
        for address in addresses {
            let (word, bit) = Self::place(address);
            filter.0[word] |= bit;
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 0x0a09_0064;
    const LOCATOR: u32 = 0x0a08_000b;
    const CLIENT: u32 = 0x0a09_0002;

    fn port() -> Port {
        Port { mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![], role: PortRole::Access }
    }

    fn backend(slot: u32, port: u16, rewrite: Rewrite) -> Backend {
        Backend {
            slot: BackendSlot(slot),
            port: PortId(port),
            mac: Mac([2, 0, 0, 0, 1, slot as u8]),
            rewrite,
        }
    }

    fn address(home: Backend) -> ManagedAddress {
        ManagedAddress {
            address: A,
            hosted: false,
            tracked: true,
            epoch: 1,
            home,
            destination: None,
        }
    }

    fn snapshot(addresses: Vec<ManagedAddress>) -> Result<Snapshot, SnapshotError> {
        Snapshot::new(1, vec![port(), port(), port()], addresses, Fib::default(), [])
    }

    #[test]
    fn a_vm_is_known_by_port_or_by_locator() {
        let l2 = snapshot(vec![address(backend(0, 1, Rewrite::L2))]).expect("snapshot");
        assert!(matches!(
            l2.direction(PortId(1), A, CLIENT, &mut None),
            Direction::FromBackend(..)
        ));
        assert_eq!(l2.direction(PortId(2), A, CLIENT, &mut None), Direction::Spoofed);
        assert!(matches!(l2.direction(PortId(0), CLIENT, A, &mut None), Direction::ToAddress(_)));
        assert_eq!(l2.direction(PortId(0), CLIENT, LOCATOR, &mut None), Direction::Plain);

        let nat = snapshot(vec![address(backend(0, 1, Rewrite::Nat(LOCATOR)))]).expect("snapshot");
        assert!(matches!(
            nat.direction(PortId(1), LOCATOR, CLIENT, &mut None),
            Direction::FromBackend(..)
        ));
        assert_eq!(nat.direction(PortId(2), LOCATOR, CLIENT, &mut None), Direction::Spoofed);
        assert!(matches!(
            nat.direction(PortId(0), CLIENT, LOCATOR, &mut None),
            Direction::ToLocator(..)
        ));
        assert_eq!(nat.direction(PortId(1), A, CLIENT, &mut None), Direction::Spoofed);
    }

    #[test]
    fn contradictions_are_refused() {
        let home = address(backend(0, 1, Rewrite::L2));
        assert_eq!(snapshot(vec![home, home]).expect_err("twice"), SnapshotError::AddressTwice(A));
        let nat = |slot, address| ManagedAddress {
            address,
            ..self::address(backend(slot, 1, Rewrite::Nat(LOCATOR)))
        };
        assert_eq!(
            snapshot(vec![nat(0, A), nat(1, A + 1)]).expect_err("twice"),
            SnapshotError::LocatorTwice(LOCATOR)
        );
        let managed = snapshot(vec![nat(0, A), ManagedAddress { address: LOCATOR, ..home }]);
        assert_eq!(managed.expect_err("managed"), SnapshotError::LocatorManaged(LOCATOR));
        let missing = snapshot(vec![address(backend(0, 3, Rewrite::L2))]);
        assert_eq!(missing.expect_err("port"), SnapshotError::NoSuchPort(A));
    }
}
