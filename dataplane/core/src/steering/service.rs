//! A managed address as packets see it: what follows from the configuration alone is worked out once.

use super::{
    Backend, BackendSlot, Cutover, LinkHop, ManagedAddress, Neighbour, Port, Quic, Rewrite,
    SnapshotError,
};
use crate::{
    packet::{Address, Translation},
    pipeline::Outcome,
};

/// A managed address.
#[derive(Clone, Debug)]
pub struct Service<A> {
    /// The address.
    pub address: A,
    /// Whether the box answers for it.
    pub hosted: bool,
    /// Whether sessions are recorded; otherwise packets only go to `home` and back.
    pub tracked: bool,
    /// Current steering generation; new sessions are born in it.
    pub epoch: u32,
    /// The way to where it lives; to the source, during a migration.
    pub home: Path<A>,
    /// The way to the destination of a migration.
    pub destination: Option<Path<A>>,
    /// From cutover on: what holds.
    pub cut_over: Option<Cutover>,
    /// Where it speaks QUIC, if it does.
    pub quic: Option<Quic>,
}

/// The way to a backend and back.
#[derive(Clone, Debug)]
pub struct Path<A> {
    /// The backend's number.
    pub slot: BackendSlot,
    /// The link to it.
    pub link: LinkHop,
    /// Its own address, if it has one.
    pub locator: Option<A>,
    /// What becomes of the address on the way to it.
    pub inward: Option<Translation<A>>,
    /// What becomes of the address on the way back.
    pub outward: Option<Translation<A>>,
    /// How packets to it end.
    pub outcome: Outcome,
}

impl<A: Address> Service<A> {
    /// The service of `managed`, whose address is `address`.
    pub(super) fn new(
        address: A,
        managed: &ManagedAddress,
        ports: &[Option<Port>],
    ) -> Result<Self, SnapshotError> {
        let path = |backend, outcome| Path::new(address, backend, ports, outcome);
        let destination = managed.destination.as_ref();
        let to_destination = destination.map(|it| path(&it.backend, Outcome::ToDestination));
        Ok(Self {
            address,
            hosted: managed.hosted,
            tracked: managed.tracked,
            epoch: managed.epoch,
            home: path(&managed.home, Outcome::ToSource)?,
            destination: to_destination.transpose()?,
            cut_over: destination.and_then(|it| it.cut_over),
            quic: managed.quic,
        })
    }

    /// The destination, once cutover has happened, and what holds from then on.
    #[inline]
    #[must_use]
    pub fn active_destination(&self) -> Option<(&Path<A>, &Cutover)> {
        Some((self.destination.as_ref()?, self.cut_over.as_ref()?))
    }

    /// Whether a session of this birth epoch is from before the cutover.
    #[inline]
    #[must_use]
    pub fn is_old(&self, birth_epoch: u32) -> bool {
        self.cut_over.is_some() && birth_epoch != self.epoch
    }

    /// The way to the backend `slot`, if it is still one.
    #[inline]
    #[must_use]
    pub fn path(&self, slot: BackendSlot) -> Option<&Path<A>> {
        if self.home.slot == slot {
            return Some(&self.home);
        }
        self.destination.as_ref().filter(|path| path.slot == slot)
    }

    /// The ways to all backends.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path<A>> {
        std::iter::once(&self.home).chain(&self.destination)
    }
}

impl<A: Address> Path<A> {
    fn new(
        address: A,
        backend: &Backend,
        ports: &[Option<Port>],
        outcome: Outcome,
    ) -> Result<Self, SnapshotError> {
        let locator = match backend.rewrite {
            Rewrite::Nat(locator) => Some(
                A::of(locator)
                    .ok_or(SnapshotError::OtherFamily { address: address.ip(), locator })?,
            ),
            Rewrite::L2 => None,
        };
        let link = LinkHop::new(Neighbour { port: backend.port, mac: backend.mac }, ports);
        Ok(Self {
            slot: backend.slot,
            link: link.ok_or(SnapshotError::NoSuchPort(address.ip()))?,
            locator,
            inward: locator.map(|locator| Translation::new(address, locator)),
            outward: locator.map(|locator| Translation::new(locator, address)),
            outcome,
        })
    }
}
