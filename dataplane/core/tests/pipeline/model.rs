//! What the box should do, as slowly and plainly as it can be said: one map of sessions, one packet at a time,
//! every TCP session with the list of all its segments.

use std::collections::BTreeMap;

use tidegate_dataplane::{
    packet::{TcpFlags, protocol},
    pipeline::Outcome,
    session::{SessionState, Tuple},
    steering::{PortId, Timeouts, UnknownTcp},
};

use crate::switch_box::{
    traffic::{Body, Packet},
    world::{Mode, SERVICE, UPLINK, Vm, number},
};

/// What should become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) outcome: Outcome,
    /// Port it leaves by, and its addresses then.
    pub(crate) sent: Option<(PortId, u32, u32)>,
}

/// A session as the model remembers it.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) owner: Vm,
    pub(crate) birth_epoch: u32,
    last_seen_ms: u64,
    /// Every TCP segment: whether from the client, flags, sequence and acknowledgement number, payload length.
    history: Vec<(bool, TcpFlags, u32, u32, u32)>,
}

/// By [`Tuple`]'s fields, client first.
type Key = (u32, u16, u32, u16, u8);

/// The model's form of a key.
pub(crate) fn key_of(tuple: Tuple) -> Key {
    let Tuple { client, client_port, address, address_port, protocol } = tuple;
    // A model of IPv4 or of IPv6 knows one ICMP.
    let protocol = if protocol == protocol::ICMPV6 { protocol::ICMP } else { protocol };
    (number(client), client_port, number(address), address_port, protocol)
}

pub(crate) struct Model {
    pub(crate) home: Vm,
    pub(crate) destination: Option<Vm>,
    /// Set at cutover.
    pub(crate) policy: Option<UnknownTcp>,
    pub(crate) epoch: u32,
    pub(crate) now_ms: u64,
    pub(crate) sessions: BTreeMap<Key, Remembered>,
}

impl Remembered {
    /// What the segments say, from the first to the last.
    pub(crate) fn state(&self) -> SessionState {
        if self.history.iter().any(|(_, flags, ..)| flags.has(TcpFlags::RST)) {
            return SessionState::Lingering;
        }
        let fin = |side| {
            let of_side = |(at, it): (usize, &(bool, TcpFlags, u32, u32, u32))| {
                let sent = it.0 == side && it.1.has(TcpFlags::FIN);
                sent.then(|| (at, it.2.wrapping_add(it.4).wrapping_add(1)))
            };
            self.history.iter().enumerate().find_map(of_side)
        };
        let acknowledged = |side| {
            fin(side).is_some_and(|(at, end)| {
                self.history[at..].iter().any(|&(from, flags, _, acknowledgement, _)| {
                    let covers = acknowledgement.wrapping_sub(end) < 1 << 31;
                    from != side && flags.has(TcpFlags::ACK) && covers
                })
            })
        };
        if acknowledged(true) && acknowledged(false) {
            return SessionState::Lingering;
        }
        if fin(true).is_some() || fin(false).is_some() {
            return SessionState::Closing;
        }
        let opening = self.history.first().is_some_and(|(_, flags, ..)| flags.opens());
        let shaken = |flags: TcpFlags| flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::SYN);
        if opening && !self.history.iter().any(|(_, flags, ..)| shaken(*flags)) {
            return SessionState::Opening;
        }
        SessionState::Established
    }

    fn is_live(&self) -> bool {
        self.state() != SessionState::Lingering
    }

    fn limit_ms(&self, protocol: u8, timeouts: &Timeouts) -> u64 {
        match (self.state(), protocol) {
            (SessionState::Lingering, _) => timeouts.linger_ms,
            (_, 17) => timeouts.udp_ms,
            (_, 1) => timeouts.echo_ms,
            (SessionState::Opening, _) => timeouts.tcp_opening_ms,
            (SessionState::Closing, _) => timeouts.tcp_closing_ms,
            (SessionState::Established, _) => timeouts.tcp_established_ms,
        }
    }
}

impl Model {
    pub(crate) fn new(home: Vm, now_ms: u64) -> Self {
        let sessions = BTreeMap::new();
        Self { home, destination: None, policy: None, epoch: 1, now_ms, sessions }
    }

    pub(crate) fn cutover(&mut self, policy: UnknownTcp) -> u32 {
        self.epoch += 1;
        self.policy = Some(policy);
        self.live(self.home)
    }

    pub(crate) fn abort(&mut self) {
        (self.destination, self.policy) = (None, None);
        self.forget_strangers();
    }

    pub(crate) fn release(&mut self) {
        self.home = self.destination.take().expect("a destination");
        self.policy = None;
        self.forget_strangers();
    }

    /// Sessions of VMs that are no backends are as good as gone at once.
    fn forget_strangers(&mut self) {
        let (home, destination) = (self.home, self.destination);
        self.sessions.retain(|_, it| it.owner == home || Some(it.owner) == destination);
    }

    pub(crate) fn sweep(&mut self, timeouts: &Timeouts) {
        let now_ms = self.now_ms;
        self.sessions.retain(|key, it| now_ms - it.last_seen_ms <= it.limit_ms(key.4, timeouts));
    }

    pub(crate) fn live(&self, vm: Vm) -> u32 {
        self.sessions.values().filter(|it| it.owner == vm && it.is_live()).count() as u32
    }

    fn backends(&self) -> impl Iterator<Item = Vm> {
        [Some(self.home), self.destination].into_iter().flatten()
    }

    /// What becomes of `packet`, from its addresses and port on.
    pub(crate) fn packet(&mut self, packet: &Packet) -> Expected {
        let claimed: Vec<Vm> =
            self.backends().filter(|vm| vm.speaks_as() == packet.source).collect();
        if let Some(vm) = claimed.iter().find(|vm| vm.backend.port == packet.port) {
            return self.vm_sends(*vm, packet);
        }
        if !claimed.is_empty() || packet.source == SERVICE {
            return dropped(Outcome::Spoofed);
        }
        if packet.destination == SERVICE {
            return self.client_sends(packet);
        }
        let named =
            self.backends().find(|vm| vm.mode() == Mode::Nat && vm.locator == packet.destination);
        if let Some(vm) = named {
            return self.client_names_vm(vm, packet);
        }
        forwarded(packet)
    }

    /// Section 4's table, rows in order, for what clients send to the managed address.
    fn client_sends(&mut self, packet: &Packet) -> Expected {
        let key = client_key(packet);
        let flags = flags(packet);
        let opens = flags.is_some_and(TcpFlags::opens);
        if let Some(session) = self.sessions.get_mut(&key)
            && (session.is_live() || !opens)
        {
            session.see(packet, true, self.now_ms);
            let owner = session.owner;
            return self.to_vm(owner, packet);
        }
        let newcomers = if self.policy.is_some() { self.destination } else { None };
        let newcomers = newcomers.unwrap_or(self.home);
        let (owner, epoch) = match flags {
            None => (newcomers, self.epoch),
            Some(_) if opens => (newcomers, self.epoch),
            Some(flags) if flags.has(TcpFlags::RST) => return self.to_vm(self.home, packet),
            Some(_) => match self.policy {
                None => (self.home, self.epoch),
                Some(UnknownTcp::Source) => (self.home, self.epoch - 1),
                Some(UnknownTcp::Destination) => (newcomers, self.epoch),
                Some(UnknownTcp::Drop) => return dropped(Outcome::UnknownTcp),
            },
        };
        self.begin(key, owner, epoch, packet, true);
        self.to_vm(owner, packet)
    }

    /// What clients send to a backend's own address goes there, and is remembered for the answer's sake.
    fn client_names_vm(&mut self, vm: Vm, packet: &Packet) -> Expected {
        let key = client_key(packet);
        let flags = flags(packet);
        let opens = flags.is_some_and(TcpFlags::opens);
        match self.sessions.get_mut(&key) {
            Some(session) if session.is_live() || !opens => session.see(packet, true, self.now_ms),
            _ if flags.is_some_and(|flags| flags.has(TcpFlags::RST)) => {}
            _ => self.begin(key, vm, self.epoch, packet, true),
        }
        forwarded(packet)
    }

    fn vm_sends(&mut self, vm: Vm, packet: &Packet) -> Expected {
        let (now_ms, cut_over) = (self.now_ms, self.policy.is_some());
        let (key, direct) = (vm_key(packet, SERVICE), vm_key(packet, vm.locator));
        let flags = flags(packet);
        let opens = flags.is_some_and(TcpFlags::opens);
        let may_begin = vm == self.home || cut_over;
        let steered = self.sessions.get(&key).map(|it| (it.owner == vm, it.is_live()));
        if steered != Some((true, true))
            && vm.mode() == Mode::Nat
            && let Some(session) = self.sessions.get_mut(&direct)
            && (session.is_live() || !opens)
        {
            session.see(packet, false, now_ms);
            return forwarded(packet);
        }
        if let Some((is_own, is_live)) = steered
            && (is_live || !opens || !may_begin)
        {
            if !is_own {
                return dropped(Outcome::OtherOwner);
            }
            self.sessions.get_mut(&key).expect("session").see(packet, false, now_ms);
            return to_client(packet);
        }
        if !may_begin && vm.mode() == Mode::Nat {
            return forwarded(packet);
        }
        if !may_begin {
            return dropped(Outcome::BeforeCutover);
        }
        let is_source = vm == self.home;
        let epoch = match flags {
            Some(_) if !opens && !is_source => return dropped(Outcome::StaleClone),
            Some(flags) if flags.has(TcpFlags::RST) => return to_client(packet),
            Some(_) if !opens && cut_over => self.epoch - 1,
            _ => self.epoch,
        };
        self.begin(key, vm, epoch, packet, false);
        to_client(packet)
    }

    fn begin(&mut self, key: Key, owner: Vm, birth_epoch: u32, packet: &Packet, client: bool) {
        let mut session = Remembered { owner, birth_epoch, last_seen_ms: 0, history: Vec::new() };
        session.see(packet, client, self.now_ms);
        self.sessions.insert(key, session);
    }

    fn to_vm(&self, vm: Vm, packet: &Packet) -> Expected {
        let outcome = if vm == self.home { Outcome::ToSource } else { Outcome::ToDestination };
        Expected { outcome, sent: Some((vm.backend.port, packet.source, vm.speaks_as())) }
    }
}

impl Remembered {
    fn see(&mut self, packet: &Packet, from_client: bool, now_ms: u64) {
        self.last_seen_ms = now_ms;
        // What follows the end does not begin it again.
        if let Body::Tcp { flags, sequence, acknowledgement } = packet.body
            && self.is_live()
        {
            let len = packet.payload.len() as u32;
            self.history.push((from_client, flags, sequence, acknowledgement, len));
        }
    }
}

fn flags(packet: &Packet) -> Option<TcpFlags> {
    if let Body::Tcp { flags, .. } = packet.body { Some(flags) } else { None }
}

fn protocol(packet: &Packet) -> u8 {
    match packet.body {
        Body::Tcp { .. } => 6,
        Body::EchoRequest | Body::EchoReply => 1,
        _ => 17,
    }
}

fn client_key(packet: &Packet) -> Key {
    let (mine, service) = match protocol(packet) {
        1 => (packet.identifier(), packet.identifier()),
        _ => (packet.source_port, packet.destination_port),
    };
    (packet.source, mine, packet.destination, service, protocol(packet))
}

fn vm_key(packet: &Packet, address: u32) -> Key {
    let (client, service) = match protocol(packet) {
        1 => (packet.identifier(), packet.identifier()),
        _ => (packet.destination_port, packet.source_port),
    };
    (packet.destination, client, address, service, protocol(packet))
}

fn dropped(outcome: Outcome) -> Expected {
    Expected { outcome, sent: None }
}

fn to_client(packet: &Packet) -> Expected {
    Expected { outcome: Outcome::ToClient, sent: Some((UPLINK, SERVICE, packet.destination)) }
}

/// By the routes of the tests' network: locators are behind their VM's port, clients behind the uplink.
fn forwarded(packet: &Packet) -> Expected {
    let vms = [Vm::old(0, Mode::Nat), Vm::new(0, Mode::Nat)];
    let vm = vms.iter().find(|vm| vm.locator == packet.destination);
    let port = vm.map_or(UPLINK, |vm| vm.backend.port);
    let sent = Some((port, packet.source, packet.destination));
    Expected { outcome: Outcome::Forwarded, sent }
}
