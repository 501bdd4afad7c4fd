//! Managed addresses, backends and ports as the control core describes them.

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
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
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
