//! Random streams of packets and steps, drawn with an eye on the model's sessions, so that lives are lived to their end.

mod between;
mod errors;
mod quic;
mod segments;
mod steps;
mod strangers;

use std::{collections::BTreeMap, net::IpAddr};

use tidegate_dataplane::{
    packet::protocol,
    session::Tuple,
    steering::{Backend, ManagedAddress},
};

use crate::{
    chance::Chance,
    model::{Model, Session, Side, backends, speaks_as},
    packet::{Body, DCCP, Packet, UDP_LITE},
    pair::Pair,
    world::{ADDRESSES, Family, clients, family, is_client, managed, port_of},
};
use between::{Ends, Way, is_between};

/// Ports of clients and of services: few, so that sessions meet again.
const CLIENT_PORTS: [u16; 3] = [0, 40_000, u16::MAX];
const SERVICE_PORTS: [u16; 2] = [80, 443];
/// SCTP, GRE, ESP, IPv4 and IPv6 in IP; and what has a checksum over the addresses, UDP-Lite and DCCP.
const OTHER_PROTOCOLS: [u8; 7] = [132, 47, 50, 4, 41, UDP_LITE, DCCP];

/// Of a packet between VMs.
const HOPS_THROUGH_TWO: u8 = 2;

/// What kind of packet comes next.
#[derive(Clone, Copy)]
enum Next {
    /// One that fits a session.
    GoesOn,
    ClientBegins,
    VmBegins,
    VmCallsVm,
    ClientNamesVm,
    /// A backend that does not own the session.
    OtherVm,
    /// Any flags, any numbers, anyone.
    Noise,
    Forged,
    Plain,
    Odd,
    Stray,
}

const WEIGHTS: [(u64, Next); 11] = [
    (50, Next::GoesOn),
    (12, Next::ClientBegins),
    (6, Next::VmBegins),
    (5, Next::VmCallsVm),
    (3, Next::ClientNamesVm),
    (6, Next::OtherVm),
    (8, Next::Noise),
    (2, Next::Forged),
    (2, Next::Plain),
    (2, Next::Odd),
    (1, Next::Stray),
];

pub(crate) struct Stream {
    chance: Chance,
    /// Sessions that something happened to.
    recent: Vec<Tuple>,
    /// Who spoke last between VMs in this burst.
    spoken: BTreeMap<Ends, Way>,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), recent: Vec::new(), spoken: BTreeMap::new() }
    }

    /// Some packets as one burst or two, then perhaps something else.
    pub(crate) fn go_on(&mut self, pair: &mut Pair) {
        // Connection IDs pass between shards as fast as they can: what asks for one is never in a burst with what tells it.
        for _ in 0..self.chance.weighted(&[(5, 0), (1, 1), (1, 4)]) {
            if let Some(packet) = self.quic_client(&pair.model) {
                pair.packet(packet);
            }
        }
        pair.flush();
        let (errors, others) = (self.chance.below(9), 1 + self.chance.below(80));
        // An error quotes what the box has sent, so it never arrives in one burst with that. The box looks at it first.
        for _ in 0..errors {
            if let Some(error) = self.error(&pair.model) {
                let goes_through_two = is_between(&error);
                pair.packet(error);
                if goes_through_two {
                    pair.flush();
                }
            }
        }
        for _ in 0..others {
            self.packet(pair);
        }
        pair.flush();
        self.spoken.clear();
        self.step(pair);
    }

    fn packet(&mut self, pair: &mut Pair) {
        let model = &pair.model;
        let next = self.chance.weighted(&WEIGHTS);
        let packet = match next {
            Next::GoesOn => self.goes_on(model),
            Next::ClientBegins => self.client_begins(),
            Next::VmBegins => self.vm_begins(model),
            Next::VmCallsVm => self.vm_calls_vm(model),
            Next::ClientNamesVm => self.client_names_vm(model),
            Next::OtherVm => self.other_vm(model),
            Next::Noise => self.noise(model),
            Next::Forged => self.forged(model),
            Next::Plain => Some(self.plain()),
            Next::Odd => self.odd(model),
            Next::Stray => {
                let packet = self.plain();
                let (frame, outcome) = self.stray(&packet);
                return pair.stray(frame, outcome);
            }
        };
        if let Some(packet) = packet {
            let packet = match packet.body {
                Body::Udp { checksum: true } if self.chance.one_in(16) => {
                    sum_of_zero(model, packet)
                }
                _ => packet,
            };
            let (goes_through_two, ttl) = (is_between(&packet), packet.ttl);
            if goes_through_two {
                self.wait_for_question(pair, &packet);
            }
            pair.packet(packet);
            if goes_through_two && ttl <= HOPS_THROUGH_TWO {
                // What the box says about it would meet those behind it.
                pair.flush();
            }
        }
    }

    fn family(&mut self) -> Family {
        self.chance.pick(&[Family::V4, Family::V6])
    }

    /// A managed address that is configured.
    fn address<'m>(&mut self, model: &'m Model) -> Option<&'m ManagedAddress> {
        let count = model.addresses.len() as u64;
        let at = if count == 0 { return None } else { self.chance.below(count) };
        model.addresses.values().nth(at as usize)
    }

    fn backend(&mut self, address: &ManagedAddress) -> Backend {
        let all: Vec<Backend> = backends(address).collect();
        self.chance.pick(&all)
    }

    /// Any session of a client with `address`, which is remembered.
    fn tuple(&mut self, address: IpAddr) -> Tuple {
        let tuple = self.ends(address);
        self.remember(tuple);
        tuple
    }

    fn ends(&mut self, address: IpAddr) -> Tuple {
        let icmp = if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let other = self.chance.pick(&OTHER_PROTOCOLS);
        let protocol =
            self.chance.weighted(&[(12, protocol::TCP), (3, protocol::UDP), (2, icmp), (1, other)]);
        let client = self.chance.pick(&clients(family(address)));
        let (mut client_port, mut address_port) =
            (self.chance.pick(&CLIENT_PORTS), self.chance.pick(&SERVICE_PORTS));
        if protocol == icmp {
            address_port = client_port;
        } else if protocol == other {
            (client_port, address_port) = (0, 0);
        }
        Tuple { client, client_port, address, address_port, protocol }
    }

    fn remember(&mut self, tuple: Tuple) {
        if self.recent.len() < 200 {
            self.recent.push(tuple);
        } else {
            let at = self.chance.below(200) as usize;
            self.recent[at] = tuple;
        }
    }

    /// A session that the model remembers.
    fn known<'m>(&mut self, model: &'m Model) -> Option<(Tuple, &'m Session)> {
        for _ in 0..8 {
            if self.recent.is_empty() {
                return None;
            }
            let at = self.chance.below(self.recent.len() as u64) as usize;
            let tuple = self.recent[at];
            match model.sessions.get(&tuple) {
                Some(session) => return Some((tuple, session)),
                None => self.recent.swap_remove(at),
            };
        }
        None
    }

    fn goes_on(&mut self, model: &Model) -> Option<Packet> {
        let (tuple, session) = self.known(model)?;
        // Some speak for long before they are answered.
        let is_one_way = tuple.protocol != protocol::TCP && !self.chance.one_in(4);
        let side = match is_one_way {
            true => session.initiator,
            false => self.chance.pick(&[Side::Client, Side::Vm]),
        };
        let body = self.body(&tuple, Some(session), side);
        if side == Side::Client {
            return match is_client(tuple.client) {
                true => Some(self.by_client(&tuple, body)),
                false => self.by_calling_vm(model, &tuple, body),
            };
        }
        let owner = |vm: &Backend| vm.slot == session.owner;
        let find = |address: &'_ &ManagedAddress| backends(address).any(|vm| owner(&vm));
        let address = model.addresses.values().find(find)?;
        let vm = backends(address).find(owner)?;
        Some(self.by_vm(address, &vm, &tuple, body))
    }

    fn client_begins(&mut self) -> Option<Packet> {
        let (family, which) = (self.family(), self.chance.below(ADDRESSES.into()));
        let tuple = self.tuple(managed(family, which as u32));
        let body = self.first_body(&tuple);
        Some(self.by_client(&tuple, body))
    }

    fn vm_begins(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?;
        let (tuple, vm) = (self.tuple(address.address), self.backend(address));
        let body = self.first_body(&tuple);
        Some(self.by_vm(address, &vm, &tuple, body))
    }

    fn client_names_vm(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?;
        let vm = self.backend(address);
        let tuple = self.tuple(speaks_as(address, &vm));
        let body = self.first_body(&tuple);
        Some(self.by_client(&tuple, body))
    }

    fn other_vm(&mut self, model: &Model) -> Option<Packet> {
        let (tuple, session) = self.known(model)?;
        let address = model.addresses.get(&tuple.address)?;
        let vm = backends(address).find(|vm| vm.slot != session.owner)?;
        let body = self.body(&tuple, Some(session), Side::Vm);
        Some(self.by_vm(address, &vm, &tuple, body))
    }

    fn noise(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?;
        let vm = self.backend(address);
        let named = self.chance.weighted(&[(4, address.address), (1, speaks_as(address, &vm))]);
        let tuple = self.tuple(named);
        let body = self.any_body(&tuple);
        Some(match self.chance.one_in(2) {
            true => self.by_client(&tuple, body),
            false => self.by_vm(address, &vm, &tuple, body),
        })
    }

    fn by_client(&mut self, tuple: &Tuple, body: Body) -> Packet {
        Packet {
            port: port_of(tuple.client),
            source: tuple.client,
            source_port: tuple.client_port,
            destination: tuple.address,
            destination_port: tuple.address_port,
            ttl: self.chance.weighted(&[(60, 64), (2, 2), (1, 1), (1, 0), (1, 255)]),
            body,
            len: self.len(),
            salt: self.chance.number() as u16,
        }
    }

    fn by_vm(
        &mut self,
        address: &ManagedAddress,
        vm: &Backend,
        tuple: &Tuple,
        body: Body,
    ) -> Packet {
        let packet = self.by_client(tuple, body);
        let len = if matches!(packet.body, Body::Quic(_)) { self.quic_len() } else { packet.len };
        Packet {
            len,
            port: vm.port,
            source: speaks_as(address, vm),
            source_port: packet.destination_port,
            destination: packet.source,
            destination_port: packet.source_port,
            ..packet
        }
    }

    fn len(&mut self) -> u8 {
        if self.chance.one_in(3) { self.chance.below(40) as u8 } else { 0 }
    }
}

/// The packet with a payload that makes its checksum zero as it leaves: UDP sends ones instead (RFC 768).
fn sum_of_zero(model: &Model, packet: Packet) -> Packet {
    let packet = Packet { len: packet.len.max(2), salt: 0, ..packet };
    let sent = model.clone().packet(&packet).sent;
    let salt = sent.map_or(0, |(sent, _)| sent.udp_checksum());
    Packet { salt, ..packet }
}
