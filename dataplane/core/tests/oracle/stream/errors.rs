//! ICMP errors: about sessions that are there or not, by routers, VMs and liars, whole or cut short.

use std::net::IpAddr;

use super::Stream;
use crate::{
    model::{Model, Side, backends, speaks_as},
    packet::{Body, Kind, Packet, Quote, ip_len},
    world::{bystander, clients, family, is_client, port_of, router, unrouted},
};

impl Stream {
    pub(super) fn error(&mut self, model: &Model) -> Option<Packet> {
        if self.chance.one_in(24) {
            return Some(self.error_to_nowhere());
        }
        let (tuple, side) = match self.known(model) {
            Some((tuple, _)) if !is_client(tuple.client) => {
                return self.error_between(model, &tuple);
            }
            Some((tuple, _)) if !self.chance.one_in(5) => (tuple, Side::Vm),
            _ => {
                let address = self.address(model)?;
                let vm = self.backend(address);
                let named = self.chance.pick(&[address.address, speaks_as(address, &vm)]);
                (self.tuple(named), Side::Client)
            }
        };
        let body = self.body(&tuple, model.sessions.get(&tuple), side);
        let family = family(tuple.client);
        let by_client = self.by_client(&tuple, body);
        let managed = model.addresses.get(&tuple.address);
        // About what was sent to the client, to whoever sent it.
        if managed.is_none() || self.chance.one_in(2) {
            let about = back(&by_client);
            let router = self.chance.pick(&[router(family), tuple.client, bystander(family)]);
            return Some(self.error_about(about, router, port_of(router), tuple.address));
        }
        // About what the client sent, by a VM or by a router before it, to the client.
        let address = managed?;
        let vm = self.backend(address);
        let named = self.chance.pick(&[speaks_as(address, &vm), address.address]);
        let about = Packet { destination: named, ..by_client };
        let by = self.chance.weighted(&[(3, speaks_as(address, &vm)), (1, bystander(family))]);
        debug_assert!(backends(address).any(|it| it == vm));
        Some(self.error_about(about, by, vm.port, tuple.client))
    }

    /// About what was sent by whom no route leads to; nobody is told of that.
    fn error_to_nowhere(&mut self) -> Packet {
        let to = self.plain();
        let family = family(to.source);
        let (nowhere, router) = (unrouted(family), router(family));
        let about = Packet { source: nowhere, ..to };
        self.error_about(about, router, port_of(router), nowhere)
    }

    pub(super) fn error_about(
        &mut self,
        mut about: Packet,
        source: IpAddr,
        port: tidegate_dataplane::steering::PortId,
        destination: IpAddr,
    ) -> Packet {
        let header = ip_len(source);
        let family = family(source);
        if self.chance.one_in(20) {
            about.source = self.chance.pick(&clients(family));
        }
        if self.chance.one_in(20) {
            about = self.quote(about.clone(), about, usize::MAX);
        }
        let bytes = self.chance.weighted(&[
            (4, usize::MAX),
            (4, header + 8),
            (2, header + 16),
            (2, header + 18),
            (1, header + 7),
            (1, 0),
        ]);
        let outer = Packet { port, source, destination, ..about.clone() };
        self.quote(outer, about, bytes)
    }

    /// `outer`'s addresses with an error about `packet`.
    fn quote(&mut self, outer: Packet, packet: Packet, bytes: usize) -> Packet {
        let kind = self.chance.pick(&Kind::ALL);
        // Not both at once: which of the two is said first is nobody's business.
        let intact = bytes < 28 || !self.chance.one_in(16);
        let body = Body::Error(Box::new(Quote { kind, packet, bytes, intact, by_box: false }));
        let ttl = self.chance.weighted(&[(30, 64), (1, 1)]);
        Packet { body, ttl, source_port: 0, destination_port: 0, len: 0, ..outer }
    }
}

/// The packet that answers `packet`, as the client sees it.
fn back(packet: &Packet) -> Packet {
    Packet {
        source: packet.destination,
        source_port: packet.destination_port,
        destination: packet.source,
        destination_port: packet.source_port,
        ..packet.clone()
    }
}
