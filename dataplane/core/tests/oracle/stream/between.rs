//! From one VM of the box to another, which has a session with the first as the first has with it.

use tidegate_dataplane::{
    packet::protocol,
    session::Tuple,
    steering::{Backend, ManagedAddress, PortId},
};

use super::Stream;
use crate::{
    model::{Model, Session, Side, backends, speaks_as},
    packet::{Body, Packet},
    pair::Pair,
    world::{bystander, family, is_of_vms, port_of, router},
};

/// Ports, the lower one first, and protocol of a conversation between VMs.
pub(super) type Ends = (u16, u16, u8);
/// Who speaks there, and to whom.
pub(super) type Way = (PortId, u16, std::net::IpAddr, std::net::IpAddr);

pub(super) fn is_between(packet: &Packet) -> bool {
    match &packet.body {
        Body::Error(quote) => is_between(&quote.packet),
        _ => is_of_vms(packet.source) && is_of_vms(packet.destination),
    }
}

/// The session that the other VM has.
fn mirrored(tuple: &Tuple) -> Tuple {
    Tuple {
        client: tuple.address,
        client_port: tuple.address_port,
        address: tuple.client,
        address_port: tuple.client_port,
        protocol: tuple.protocol,
    }
}

impl Stream {
    /// Nobody answers in one burst with what is answered, and what goes through two shards would be overtaken.
    pub(super) fn wait_for_question(&mut self, pair: &mut Pair, packet: &Packet) {
        let (one, other) = (packet.source_port, packet.destination_port);
        let ends = (one.min(other), one.max(other), packet.protocol());
        let way = (packet.port, one, packet.source, packet.destination);
        if self.spoken.get(&ends).is_some_and(|before| *before != way) {
            pair.flush();
            self.spoken.clear();
        }
        self.spoken.insert(ends, way);
    }

    pub(super) fn vm_calls_vm(&mut self, model: &Model) -> Option<Packet> {
        let (address, other) = (self.address(model)?, self.address(model)?);
        if family(address.address) != family(other.address) {
            return None;
        }
        let (vm, called) = (self.backend(address), self.backend(other));
        let named = self.chance.weighted(&[(4, other.address), (1, speaks_as(other, &called))]);
        let mut tuple = Tuple { client: named, ..self.ends(address.address) };
        if tuple.protocol == protocol::TCP || tuple.protocol == protocol::UDP {
            match self.chance.below(8) {
                0 => tuple.client_port = tuple.address_port,
                1 => {}
                // The one that calls has the higher one, most often.
                _ => std::mem::swap(&mut tuple.client_port, &mut tuple.address_port),
            }
        }
        self.remember(tuple);
        self.remember(mirrored(&tuple));
        let body = self.first_body(&tuple);
        Some(self.by_vm(address, &vm, &tuple, body))
    }

    /// What the client of a session says, where that is a VM.
    pub(super) fn by_calling_vm(
        &mut self,
        model: &Model,
        tuple: &Tuple,
        body: Body,
    ) -> Option<Packet> {
        let tuple = mirrored(tuple);
        let (address, vm) = self.vm_of(model, &tuple)?;
        Some(self.by_vm(address, &vm, &tuple, body))
    }

    /// The backend that speaks in this session, as far as anybody can tell.
    fn vm_of<'m>(
        &mut self,
        model: &'m Model,
        tuple: &Tuple,
    ) -> Option<(&'m ManagedAddress, Backend)> {
        let is_owner = |vm: &Backend| {
            model.sessions.get(tuple).is_some_and(|session: &Session| session.owner == vm.slot)
        };
        let is_it = |address: &&ManagedAddress| {
            address.address == tuple.address
                || backends(address).any(|vm| speaks_as(address, &vm) == tuple.address)
        };
        let address = model.addresses.values().find(is_it)?;
        let named = |vm: &Backend| {
            is_owner(vm)
                || tuple.address != address.address && speaks_as(address, vm) == tuple.address
        };
        let vm = backends(address).find(named).unwrap_or_else(|| self.backend(address));
        Some((address, vm))
    }

    /// About a packet between VMs as it was sent, as it was between the two, or as it arrived.
    pub(super) fn error_between(&mut self, model: &Model, tuple: &Tuple) -> Option<Packet> {
        let tuple = if self.chance.one_in(2) { *tuple } else { mirrored(tuple) };
        let body = self.body(&tuple, model.sessions.get(&tuple), Side::Client);
        let sent = self.by_client(&tuple, body);
        let (address, vm) = self.vm_of(model, &tuple)?;
        let (calling, caller) = self.vm_of(model, &mirrored(&tuple))?;
        let source = self.chance.weighted(&[
            (4, tuple.client),
            (1, calling.address),
            (1, speaks_as(calling, &caller)),
        ]);
        let destination = self.chance.weighted(&[(4, speaks_as(address, &vm)), (2, tuple.address)]);
        let about = Packet { source, destination, ..sent };
        let family = family(source);
        let (by, port) = match self.chance.below(6) {
            0 => (bystander(family), vm.port),
            1 => (bystander(family), port_of(bystander(family))),
            2 => (router(family), port_of(router(family))),
            _ => (speaks_as(address, &vm), vm.port),
        };
        Some(self.error_about(about, by, port, source))
    }
}
