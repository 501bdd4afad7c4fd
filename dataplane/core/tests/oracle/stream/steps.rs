//! What the control core and time do between packets.

use std::net::IpAddr;

use tidegate_dataplane::{
    packet::protocol,
    session::ImportedState,
    steering::{Backend, BackendSlot, Cutover, Destination, ManagedAddress, Rewrite, Unknown},
};

use super::Stream;
use crate::{
    model::{Model, backends, deadline_ms},
    pair::Pair,
    real::SLOTS,
    world::{self, ADDRESSES, Family, VMS, backend, family, managed},
};

/// A name for the trace, the address, and what becomes of it.
type Change = (&'static str, IpAddr, Option<ManagedAddress>);

impl Stream {
    /// Perhaps something happens between two bursts.
    pub(super) fn step(&mut self, pair: &mut Pair) {
        let is_long = self.chance.one_in(12);
        let ms = if is_long { self.pause(&pair.model) } else { self.chance.below(30) };
        pair.advance(ms);
        if self.chance.one_in(if is_long { 2 } else { 20 }) {
            let pieces = 1 + self.chance.below(3) as u32;
            pair.sweep(pieces);
        }
        if self.chance.one_in(4) {
            self.configure(pair);
        }
        if self.chance.one_in(15)
            && let Some(address) = self.address(&pair.model).map(|address| address.address)
        {
            let tuple = self.tuple(address);
            let state = self.chance.weighted(&[
                (3, ImportedState::Established),
                (1, ImportedState::ClosedByClient),
                (1, ImportedState::ClosedByBackend),
            ]);
            let is_tcp = tuple.protocol == protocol::TCP;
            pair.import(tuple, if is_tcp { state } else { ImportedState::Established });
        }
        if self.chance.one_in(10) {
            pair.compare_sessions();
        }
    }

    /// Until a deadline, to the millisecond or one more: that of some session's silence or of an address's datagrams; or any
    /// time.
    fn pause(&mut self, model: &Model) -> u64 {
        if self.chance.one_in(8) {
            return self.chance.below(10_000);
        }
        let deadlines = model.addresses.values().filter_map(deadline_ms);
        let next = deadlines.filter(|deadline_ms| *deadline_ms > model.now_ms).min();
        if let Some(deadline_ms) = next
            && self.chance.one_in(2)
        {
            return deadline_ms + self.chance.below(2) - model.now_ms;
        }
        let Some((tuple, session)) = self.known(model) else { return 1 };
        let limit_ms = session.limit_ms(tuple.protocol, &model.timeouts);
        // Hours end everything; they may be rare.
        if limit_ms > 1_000_000 && !self.chance.one_in(20) {
            return 1;
        }
        (session.last_ms + limit_ms + self.chance.below(2)).saturating_sub(model.now_ms)
    }

    /// One change or several at once.
    fn configure(&mut self, pair: &mut Pair) {
        let mut model = pair.model.clone();
        let (mut changes, mut counted) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.chance.below(3) {
            let (family, which) = (self.family(), self.chance.below(ADDRESSES.into()) as u32);
            let address = managed(family, which);
            if changes.iter().any(|(_, changed, _): &Change| *changed == address) {
                continue;
            }
            let Some(change) = self.change(&model, address) else { continue };
            if change.0 == "cutover" {
                counted.push(model.addresses[&address].home.slot);
            }
            match change.2 {
                Some(to) => model.addresses.insert(address, to),
                None => model.addresses.remove(&address),
            };
            changes.push(change);
        }
        pair.configure(changes, &counted);
    }

    fn change(&mut self, model: &Model, address: IpAddr) -> Option<Change> {
        let now = model.addresses.get(&address).copied();
        let Some(now) = now else {
            let home = self.free_vm(model, address, None)?;
            let added = ManagedAddress {
                address,
                hosted: false,
                tracked: true,
                epoch: 1 + self.chance.below(3) as u32,
                home,
                destination: None,
                quic: self.chance.one_in(2).then_some(world::QUIC),
            };
            return Some(("add", address, Some(added)));
        };
        let rested = ManagedAddress { destination: None, hosted: false, ..now };
        let changed = match now.destination {
            _ if self.chance.one_in(40) => return Some(("remove", address, None)),
            None if !now.tracked => {
                // What happened meanwhile was not seen, so what was known counts no more.
                let slot = free_slot(model)?;
                let home = Backend { slot, ..now.home };
                ("track", ManagedAddress { tracked: true, hosted: true, home, ..now })
            }
            None if self.chance.one_in(6) => {
                ("take over", ManagedAddress { hosted: !now.hosted, ..now })
            }
            None => {
                let backend = self.free_vm(model, address, Some(&now.home))?;
                let destination = Some(Destination { backend, cut_over: None });
                ("set destination", ManagedAddress { destination, hosted: true, ..now })
            }
            Some(_) if self.chance.one_in(8) => ("abort", rested),
            Some(Destination { backend, cut_over: None }) => {
                ("cutover", self.cut_over(model.now_ms, &now, backend))
            }
            // A drain takes its time.
            Some(_) if !self.chance.one_in(3) => return None,
            Some(Destination { backend, .. }) => {
                let tracked = self.chance.one_in(2);
                ("release", ManagedAddress { home: backend, tracked, ..rested })
            }
        };
        Some((changed.0, address, Some(changed.1)))
    }

    fn cut_over(&mut self, now_ms: u64, now: &ManagedAddress, backend: Backend) -> ManagedAddress {
        let policies = [Unknown::Source, Unknown::Destination, Unknown::Drop];
        let unknown_tcp = self.chance.pick(&policies);
        let unknown_quic = self.chance.pick(&policies);
        let datagrams_end_ms = self.chance.one_in(3).then(|| now_ms + self.chance.below(20_000));
        let cut_over = Some(Cutover { unknown_tcp, unknown_quic, datagrams_end_ms });
        let destination = Some(Destination { backend, cut_over });
        ManagedAddress { epoch: now.epoch + 1, destination, ..*now }
    }

    /// A VM that is nobody's backend, under a slot that no session names. Behind one port two VMs cannot both speak as the
    /// managed address.
    fn free_vm(
        &mut self,
        model: &Model,
        address: IpAddr,
        beside: Option<&Backend>,
    ) -> Option<Backend> {
        let slot = free_slot(model)?;
        let family: Family = family(address);
        let vm = self.chance.below(VMS.into()) as u32;
        let vm = backend(family, vm, slot, self.chance.one_in(2));
        let mut others = model.addresses.values().flat_map(backends);
        let is_taken = others.any(|other| other.mac == vm.mac);
        let is_l2 = |vm: &Backend| vm.rewrite == Rewrite::L2;
        let alike = beside.is_some_and(|it| it.port == vm.port && is_l2(it) && is_l2(&vm));
        (!is_taken && !alike).then_some(vm)
    }
}

/// The lowest that neither a backend nor a session has.
fn free_slot(model: &Model) -> Option<BackendSlot> {
    let counts = model.counts();
    let is_free = |slot: &BackendSlot| {
        let mut used = model.addresses.values().flat_map(backends);
        !counts.contains_key(slot) && used.all(|vm| vm.slot != *slot)
    };
    (1..SLOTS).map(BackendSlot).find(is_free)
}
