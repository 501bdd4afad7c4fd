//! What the box should do, as slowly and plainly as it can be said: one map of sessions, one packet at a time, no
//! shards, no bursts, no tables. What is written here follows the rules of steering and of a session's life, not the
//! code.

mod errors;
mod life;
mod quic;
mod sweep;
mod way_out;

use std::{collections::BTreeMap, net::IpAddr};

use tidegate_dataplane::{
    packet::TcpFlags,
    pipeline::Outcome,
    session::Tuple,
    steering::{Backend, BackendSlot, Cutover, ManagedAddress, Rewrite, Timeouts, Unknown},
};

use crate::{
    packet::{Body, Packet},
    world::{AGAIN, Way, way},
};
pub(crate) use life::{Session, Side};
use quic::{Connection, Connections};
pub(crate) use sweep::deadline_ms;
pub(crate) use way_out::Expected;
use way_out::{dropped, forwarded, to_vm};

/// What a packet does to the sessions, even if there is no way out for it: it was said.
enum Touch {
    Nothing,
    /// It is heard in this session.
    Hear(Tuple, Side),
    /// It begins this session.
    Begin(Tuple, Session, Side),
}

/// Who sent a packet.
enum Sender<'a> {
    Backend(&'a ManagedAddress, Backend),
    Impostor,
    Anyone,
}

/// To whom a packet was sent.
enum Receiver<'a> {
    Managed(&'a ManagedAddress),
    /// To the own address of this backend.
    Locator(&'a ManagedAddress, Backend),
    Anyone,
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) addresses: BTreeMap<IpAddr, ManagedAddress>,
    /// By what the client named: the managed address, or a locator. Those whose owner is no backend any more are as good
    /// as gone, and gone after the next sweep.
    pub(crate) sessions: BTreeMap<Tuple, Session>,
    pub(crate) connections: Connections,
    pub(crate) now_ms: u64,
    pub(crate) timeouts: Timeouts,
    /// Packets that one VM sent another, by the name of their outcome.
    pub(crate) between_vms: BTreeMap<&'static str, u64>,
}

pub(crate) fn backends(address: &ManagedAddress) -> impl Iterator<Item = Backend> {
    let destination = address.destination.as_ref().map(|destination| destination.backend);
    std::iter::once(address.home).chain(destination)
}

/// The address under which a backend serves, as it knows it itself.
pub(crate) fn speaks_as(address: &ManagedAddress, backend: &Backend) -> IpAddr {
    match backend.rewrite {
        Rewrite::Nat(locator) => locator,
        Rewrite::L2 => address.address,
    }
}

fn is_nat(backend: &Backend) -> bool {
    backend.rewrite != Rewrite::L2
}

/// Whether the address has been cut over, and then to whom and what holds.
fn cut_over(address: &ManagedAddress) -> Option<(Backend, Cutover)> {
    let destination = address.destination.as_ref()?;
    Some((destination.backend, destination.cut_over?))
}

/// A first segment: SYN, but neither an answer nor the end.
fn opens(packet: &Packet) -> bool {
    let is_first = |flags: TcpFlags| {
        flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::RST)
    };
    packet.flags().is_some_and(is_first)
}

/// The session in which a client's packet belongs, or a backend's if `address` is what the client named.
fn tuple_of(packet: &Packet, from: Side, address: IpAddr) -> Tuple {
    let protocol = packet.protocol();
    let (client, client_port, address_port) = match from {
        Side::Client => (packet.source, packet.source_port, packet.destination_port),
        Side::Vm => (packet.destination, packet.destination_port, packet.source_port),
    };
    Tuple { client, client_port, address, address_port, protocol }
}

impl Model {
    /// What becomes of `packet`, and of the sessions through it. What one VM sends another leaves and comes in again.
    pub(crate) fn packet(&mut self, packet: &Packet) -> Expected {
        let (touch, mut expected) = self.judge(packet);
        self.touch(touch, packet);
        match expected.sent.take_if(|(sent, _)| sent.port == AGAIN) {
            Some((again, _)) => {
                let expected = self.packet(&again);
                *self.between_vms.entry(expected.outcome.name()).or_default() += 1;
                expected
            }
            None => expected,
        }
    }

    fn judge(&self, packet: &Packet) -> (Touch, Expected) {
        let (sender, receiver) = (self.sender(packet), self.receiver(packet.destination));
        if matches!(sender, Sender::Impostor) {
            return (Touch::Nothing, dropped(Outcome::Spoofed));
        }
        if let Body::Error(quote) = &packet.body {
            return (Touch::Nothing, self.error(packet, quote, sender, receiver));
        }
        let is_plain = matches!((&sender, &receiver), (Sender::Anyone, Receiver::Anyone));
        if packet.body == Body::OtherIcmp && !is_plain {
            return (Touch::Nothing, dropped(Outcome::IcmpUnsupported));
        }
        match (sender, receiver) {
            (Sender::Backend(address, vm), _) => self.vm_sends(address, vm, packet),
            (_, Receiver::Managed(address)) => self.client_sends(address, packet),
            (_, Receiver::Locator(address, vm)) => self.client_names_vm(address, vm, packet),
            _ => (Touch::Nothing, forwarded(packet)),
        }
    }

    /// Which VM sent a packet is known from its port where it speaks as the managed address, and from its address and its
    /// port where it has its own. What comes in again was looked at before.
    fn sender(&self, packet: &Packet) -> Sender<'_> {
        if packet.port == AGAIN {
            return Sender::Anyone;
        }
        let mut claims = false;
        for address in self.addresses.values() {
            claims |= address.address == packet.source;
            for vm in backends(address).filter(|vm| speaks_as(address, vm) == packet.source) {
                claims = true;
                if vm.port == packet.port {
                    return Sender::Backend(address, vm);
                }
            }
        }
        if claims { Sender::Impostor } else { Sender::Anyone }
    }

    fn receiver(&self, destination: IpAddr) -> Receiver<'_> {
        if let Some(address) = self.addresses.get(&destination) {
            return Receiver::Managed(address);
        }
        for address in self.addresses.values() {
            let named = |vm: &Backend| vm.rewrite == Rewrite::Nat(destination);
            if let Some(vm) = backends(address).find(named) {
                return Receiver::Locator(address, vm);
            }
        }
        Receiver::Anyone
    }

    /// The session, if its owner is still a backend, and that of the locator if the client named one.
    fn session(&self, tuple: &Tuple) -> Option<&Session> {
        let session = self.sessions.get(tuple)?;
        let is_owner = |vm: &Backend| vm.slot == session.owner;
        let is_known = match self.receiver(tuple.address) {
            Receiver::Managed(address) => {
                address.tracked && backends(address).any(|vm| is_owner(&vm))
            }
            Receiver::Locator(address, vm) => address.tracked && is_owner(&vm),
            Receiver::Anyone => false,
        };
        is_known.then_some(session)
    }

    /// A live one goes on whatever comes; one that is over goes on but for the first segment of another.
    fn goes_on(&self, tuple: &Tuple, packet: &Packet) -> Option<&Session> {
        self.session(tuple).filter(|session| !session.is_over() || !opens(packet))
    }

    /// Section 4's table, rows in order, for what clients send to the managed address.
    fn client_sends(&self, address: &ManagedAddress, packet: &Packet) -> (Touch, Expected) {
        let home = address.home;
        if !address.tracked {
            return (Touch::Nothing, to_vm(address, home, packet));
        }
        let tuple = tuple_of(packet, Side::Client, address.address);
        if let Some(session) = self.goes_on(&tuple, packet) {
            let mut backends = backends(address);
            let owner = backends.find(|vm| vm.slot == session.owner).expect("a backend");
            return (Touch::Hear(tuple, Side::Client), to_vm(address, owner, packet));
        }
        let newcomers = cut_over(address).map_or(home, |(destination, _)| destination);
        let begin = |session| Touch::Begin(tuple, session, Side::Client);
        let begun = |vm: Backend| begin(Session::begun(vm.slot, address.epoch, Side::Client));
        // A client alone says so.
        let unconfirmed = |session| begin(Session { is_unconfirmed: true, ..session });
        let adopted = |epoch| unconfirmed(Session::adopted(home.slot, epoch, packet));
        let taken = |vm: Backend, epoch| unconfirmed(Session::known(vm.slot, epoch));
        if let Some((_, cutover)) = cut_over(address)
            && let Some(connection) = self.connection(address, packet)
        {
            let policy = (connection, cutover.unknown_quic);
            return match policy {
                (Connection::Of(vm), _) if vm.slot == home.slot => {
                    (taken(vm, address.epoch - 1), to_vm(address, vm, packet))
                }
                (Connection::Of(vm), _) => (taken(vm, address.epoch), to_vm(address, vm, packet)),
                (_, Unknown::Source) => {
                    (taken(home, address.epoch - 1), to_vm(address, home, packet))
                }
                (_, Unknown::Destination) => (begun(newcomers), to_vm(address, newcomers, packet)),
                (_, Unknown::Drop) => (Touch::Nothing, dropped(Outcome::UnknownQuic)),
            };
        }
        match (packet.flags(), cut_over(address).map(|(_, cutover)| cutover.unknown_tcp)) {
            (None, _) => (begun(newcomers), to_vm(address, newcomers, packet)),
            _ if opens(packet) => (begun(newcomers), to_vm(address, newcomers, packet)),
            (Some(flags), _) if flags.has(TcpFlags::RST) => {
                (Touch::Nothing, to_vm(address, home, packet))
            }
            (_, None) => (adopted(address.epoch), to_vm(address, home, packet)),
            (_, Some(Unknown::Source)) => {
                (adopted(address.epoch - 1), to_vm(address, home, packet))
            }
            (_, Some(Unknown::Destination)) => {
                (taken(newcomers, address.epoch), to_vm(address, newcomers, packet))
            }
            (_, Some(Unknown::Drop)) => (Touch::Nothing, dropped(Outcome::UnknownTcp)),
        }
    }

    /// What clients send to a backend's own address goes there, and is remembered: it is one more session to wait for.
    fn client_names_vm(
        &self,
        address: &ManagedAddress,
        vm: Backend,
        packet: &Packet,
    ) -> (Touch, Expected) {
        let tuple = tuple_of(packet, Side::Client, packet.destination);
        let begin = |session| Touch::Begin(tuple, session, Side::Client);
        let touch = if !address.tracked {
            Touch::Nothing
        } else if self.goes_on(&tuple, packet).is_some() {
            Touch::Hear(tuple, Side::Client)
        } else if opens(packet) || packet.flags().is_none() {
            begin(Session::begun(vm.slot, address.epoch, Side::Client))
        } else if packet.flags().is_some_and(|flags| flags.has(TcpFlags::RST)) {
            Touch::Nothing
        } else {
            let adopted = Session::adopted(vm.slot, address.epoch, packet);
            begin(Session { is_unconfirmed: true, ..adopted })
        };
        (touch, forwarded(packet))
    }

    fn vm_sends(
        &self,
        address: &ManagedAddress,
        vm: Backend,
        packet: &Packet,
    ) -> (Touch, Expected) {
        let out = || self.to_client(address, &vm, packet);
        // What a VM says to its gateway is no session.
        if way(packet.destination) == Way::Host {
            return (Touch::Nothing, dropped(Outcome::ForHost));
        }
        if !address.tracked {
            return (Touch::Nothing, out());
        }
        let tuple = tuple_of(packet, Side::Vm, address.address);
        let steered = self.session(&tuple);
        let is_own = steered.is_some_and(|session| session.owner == vm.slot);
        if is_own && self.goes_on(&tuple, packet).is_some_and(Session::is_live) {
            return (Touch::Hear(tuple, Side::Vm), out());
        }
        // The client chose the VM by its own address: there it answers.
        let direct = tuple_of(packet, Side::Vm, packet.source);
        if is_nat(&vm) && self.goes_on(&direct, packet).is_some() {
            return (Touch::Hear(direct, Side::Vm), self.forwarded_for_vm(packet));
        }
        let is_home = vm.slot == address.home.slot;
        let may_begin = is_home || cut_over(address).is_some();
        if steered.is_some() && (self.goes_on(&tuple, packet).is_some() || !may_begin) {
            if is_own {
                return (Touch::Hear(tuple, Side::Vm), out());
            }
            return (Touch::Nothing, dropped(Outcome::OtherOwner));
        }
        if !may_begin && is_nat(&vm) {
            return (Touch::Nothing, self.forwarded_for_vm(packet));
        }
        if !may_begin {
            return (Touch::Nothing, dropped(Outcome::BeforeCutover));
        }
        let begin = |session| Touch::Begin(tuple, session, Side::Vm);
        match packet.flags() {
            Some(flags) if !opens(packet) => {
                let before = address.epoch - u32::from(cut_over(address).is_some());
                let known = Session::adopted(vm.slot, before, packet);
                match flags.has(TcpFlags::RST) {
                    _ if !is_home => (Touch::Nothing, dropped(Outcome::StaleClone)),
                    true => (Touch::Nothing, out()),
                    false => (begin(known), out()),
                }
            }
            _ => (begin(Session::begun(vm.slot, address.epoch, Side::Vm)), out()),
        }
    }

    fn touch(&mut self, touch: Touch, packet: &Packet) {
        let (tuple, side) = match touch {
            Touch::Nothing => return,
            Touch::Hear(tuple, side) => (tuple, side),
            Touch::Begin(tuple, session, side) => {
                self.sessions.insert(tuple, session);
                (tuple, side)
            }
        };
        let session = self.sessions.get_mut(&tuple).expect("it is there");
        session.last_ms = self.now_ms;
        session.hear(side, packet);
        let owner = session.owner;
        if side == Side::Vm {
            self.learn(&tuple, owner, packet);
        }
    }
}

/// Live sessions of a backend, those of them it began itself, and all entries that name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) live: u32,
    pub(crate) begun_by_vm: u32,
    pub(crate) entries: u32,
}

impl Model {
    pub(crate) fn counts(&self) -> BTreeMap<BackendSlot, Counts> {
        let mut all: BTreeMap<BackendSlot, Counts> = BTreeMap::new();
        for session in self.sessions.values() {
            let counts = all.entry(session.owner).or_default();
            let is_live = u32::from(session.is_live());
            counts.entries += 1;
            counts.live += is_live;
            counts.begun_by_vm += if session.initiator == Side::Vm { is_live } else { 0 };
        }
        all
    }
}
