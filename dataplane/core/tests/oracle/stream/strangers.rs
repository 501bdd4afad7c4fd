//! Packets that are not what managed addresses are for: forged, for others, for nobody.

use std::net::IpAddr;

use tidegate_dataplane::{packet::Mac, pipeline::Outcome, session::Tuple, steering::PortId};

use super::Stream;
use crate::{
    model::Model,
    packet::{Body, Packet},
    world::{
        ADDRESSES, BYSTANDERS, UPLINK, bystander, clients, family, managed, own, port_mac, router,
        silent, unrouted, wire,
    },
};

impl Stream {
    /// A backend's words from a port where it is not, or a managed address's from where it never is.
    pub(super) fn forged(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?;
        let (tuple, vm) = (self.tuple(address.address), self.backend(address));
        let body = self.any_body(&tuple);
        let packet = self.by_vm(address, &vm, &tuple, body);
        let port = self.chance.pick(&[UPLINK, BYSTANDERS, PortId(1), PortId(2), PortId(5)]);
        let source = self.chance.pick(&[packet.source, address.address]);
        Some(Packet { port, source, ..packet })
    }

    /// Between hosts that the box only routes.
    pub(super) fn plain(&mut self) -> Packet {
        let family = self.family();
        let client = self.chance.pick(&clients(family));
        let hosts = [bystander(family), silent(family), unrouted(family), own(family)];
        let host = self.chance_of(&hosts, 6);
        let tuple = self.tuple(host);
        let body = self.any_body(&tuple);
        let packet = self.by_client(&Tuple { client, ..tuple }, body);
        match packet.destination == bystander(family) && self.chance.one_in(2) {
            true => Packet {
                port: BYSTANDERS,
                source: packet.destination,
                destination: packet.source,
                ..packet
            },
            false => packet,
        }
    }

    /// The first of them so many times as often as the others.
    fn chance_of(&mut self, among: &[IpAddr], first: u64) -> IpAddr {
        let weights: Vec<(u64, IpAddr)> = among
            .iter()
            .enumerate()
            .map(|(at, it)| (if at == 0 { first } else { 1 }, *it))
            .collect();
        self.chance.weighted(&weights)
    }

    /// To or from VMs and managed addresses, but not what they are for.
    pub(super) fn odd(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?;
        let family = family(address.address);
        let (tuple, vm) = (self.tuple(address.address), self.backend(address));
        let body = self.any_body(&tuple);
        let by_vm = self.by_vm(address, &vm, &tuple, body.clone());
        let by_client = self.by_client(&tuple, body);
        let which = self.chance.below(ADDRESSES.into()) as u32;
        let ends =
            [own(family), unrouted(family), silent(family), bystander(family), router(family)];
        let end = self.chance.pick(&ends);
        Some(match self.chance.below(4) {
            0 => Packet { body: Body::OtherIcmp, ..by_client },
            1 => Packet { body: Body::OtherIcmp, ..by_vm },
            2 => Packet { destination: managed(family, which), ..by_vm },
            _ => Packet { destination: end, ..by_vm },
        })
    }

    /// For another station, or of a VLAN that is nobody's.
    pub(super) fn stray(&mut self, packet: &Packet) -> ((PortId, Vec<u8>), Outcome) {
        let mac = port_mac(packet.port);
        let (device, _) = wire(packet.port);
        if self.chance.one_in(2) {
            let frame = packet.frame(mac, Mac([2, 0, 0, 0, 9, 9]));
            return ((device, frame), Outcome::NotForUs);
        }
        let mut frame = packet.frame(mac, mac);
        frame.splice(12..12, [0x81, 0x00, 0x0f, 0x01]);
        ((device, frame), Outcome::UnknownVlan)
    }
}
