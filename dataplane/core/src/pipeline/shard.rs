//! One worker's part of the sessions, and the stages a burst goes through.

use std::{io, sync::Arc};

use super::{
    BURST, Outcome, Punt, ShardSelector, Verdict,
    adoption::AdoptionLimit,
    classify::{self, Decision},
    egress, neighbours,
};
use crate::{
    counters::ShardCounters,
    packet::{Ipv4Packet, Mac, Malformed, PacketBuf, Parsed, Transport, parse},
    session::{Session, SessionKey, SessionTable},
    steering::{Backend, Direction, ManagedAddress, PortId, Rewrite, Snapshot},
};

/// The sessions of one worker and what it needs to act on them.
pub struct Shard {
    number: u16,
    selector: ShardSelector,
    pub(super) table: SessionTable,
    pub(super) counters: Arc<ShardCounters>,
    adoption: AdoptionLimit,
    punts: Punts,
    /// Where the next sweep begins.
    pub(super) sweep_at: u32,
}

/// A packet between two stages.
enum Work<'a> {
    /// The verdict stands.
    Done,
    /// No session is involved.
    Plain(Ipv4Packet),
    /// To or, with a sender, from an address without session tracking.
    Bound(Ipv4Packet, &'a ManagedAddress, Option<&'a Backend>),
    /// To or from a tracked address.
    Tracked(Steered<'a>),
}

/// A packet of a tracked address.
struct Steered<'a> {
    packet: Ipv4Packet,
    address: &'a ManagedAddress,
    sender: Sender<'a>,
    key: SessionKey,
    hash: u64,
    guess: Option<u32>,
}

/// Who sent a packet of a tracked address.
#[derive(Clone, Copy)]
enum Sender<'a> {
    /// A client, to the managed address.
    Client,
    /// A client, to a backend's own address.
    DirectClient(&'a Backend),
    /// This backend.
    Backend(&'a Backend),
}

/// What was noticed in a burst, for the control core.
pub(super) struct Punts(Vec<Punt>);

impl Punts {
    /// More than this in one burst are forgotten: what caused them comes again.
    const MOST: usize = 16;

    pub(super) fn push(&mut self, punt: Punt) {
        if self.0.len() < Self::MOST && !self.0.contains(&punt) {
            self.0.push(punt);
        }
    }
}

impl Shard {
    /// Shard `number` of those `selector` chooses from, with room for `capacity` sessions.
    ///
    /// # Errors
    /// When the system has no memory for the table.
    pub fn new(
        number: u16,
        selector: ShardSelector,
        capacity: u32,
        counters: Arc<ShardCounters>,
    ) -> io::Result<Self> {
        Ok(Self {
            number,
            selector,
            table: SessionTable::with_capacity(capacity)?,
            counters,
            adoption: AdoptionLimit::new(),
            punts: Punts(Vec::with_capacity(Punts::MOST)),
            sweep_at: 0,
        })
    }

    /// Acknowledge a snapshot: from now on [`Shard::process`] is given this one. Call between two bursts.
    pub fn install(&mut self, snapshot: &Snapshot) {
        for &slot in &snapshot.counted_at_install {
            self.counters.note_at_install(slot);
        }
        self.counters.acknowledge(snapshot.generation);
    }

    /// What was noticed since the last call.
    pub fn take_punts(&mut self) -> impl Iterator<Item = Punt> + '_ {
        self.punts.0.drain(..)
    }

    /// The shard's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<ShardCounters> {
        &self.counters
    }

    /// Take a burst through all stages: `frames[i]` arrived on `ports[i]`, `verdicts[i]` says where it
    /// goes. Frames to transmit are rewritten in place; frames to redirect are untouched.
    ///
    /// # Panics
    /// When there are more than [`BURST`] frames, or fewer ports or verdicts than frames.
    pub fn process<B: PacketBuf>(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        frames: &mut [B],
        ports: &[PortId],
        verdicts: &mut [Verdict],
    ) {
        let count = frames.len();
        assert!(count <= BURST && ports.len() >= count && verdicts.len() >= count);
        let mut works: [Work<'_>; BURST] = [const { Work::Done }; BURST];
        let mut recent = None;
        for (i, frame) in frames.iter_mut().enumerate() {
            match self.direct(snapshot, ports[i], frame.as_mut(), &mut recent) {
                Ok(work) => works[i] = work,
                Err(verdict) => verdicts[i] = verdict,
            }
        }
        for work in &mut works[..count] {
            if let Work::Tracked(steered) = work {
                steered.guess = self.table.prefetch_entry(steered.hash);
            }
        }
        for ((frame, verdict), work) in frames.iter_mut().zip(verdicts).zip(&works) {
            let frame = frame.as_mut();
            *verdict = match work {
                Work::Done => continue,
                Work::Plain(packet) => egress::route(frame, packet, snapshot, &mut self.punts),
                Work::Bound(packet, address, None) => {
                    egress::to_backend(frame, packet, snapshot, address, &address.home)
                }
                Work::Bound(packet, address, Some(sender)) => {
                    egress::to_client(frame, packet, snapshot, address, sender, &mut self.punts)
                }
                Work::Tracked(steered) => self.steer(frame, snapshot, now_ms, steered),
            };
        }
    }

    /// First stage: parse, answer ARP, find the direction, the session's key and its shard.
    #[inline]
    fn direct<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        port_id: PortId,
        frame: &mut [u8],
        recent: &mut Option<&'a ManagedAddress>,
    ) -> Result<Work<'a>, Verdict> {
        let drop = |outcome| Err(Verdict::Drop(outcome));
        let parsed = match parse(frame) {
            Ok(parsed) => parsed,
            Err(Malformed::Ethernet) => return drop(Outcome::Truncated),
            Err(Malformed::Ipv4) => return drop(Outcome::BadIpv4),
            Err(Malformed::Transport) => return drop(Outcome::BadTransport),
        };
        let Some(port) = snapshot.ports.get(usize::from(port_id.0)) else {
            return drop(Outcome::NotForUs);
        };
        let destination = Mac::read(frame);
        if destination != port.mac && !destination.is_group() {
            return drop(Outcome::NotForUs);
        }
        let packet = match parsed {
            Parsed::Ipv4(_) if destination.is_group() => return drop(Outcome::Group),
            Parsed::Ipv4(packet) => packet,
            Parsed::Arp => {
                return Err(neighbours::arp(snapshot, port_id, port, frame, &mut self.punts));
            }
            Parsed::OtherEthertype => return drop(Outcome::OtherEthertype),
        };
        let direction = snapshot.direction(port_id, packet.source, packet.destination, recent);
        let (address, sender) = match direction {
            Direction::Plain => return Ok(Work::Plain(packet)),
            Direction::Spoofed => return drop(Outcome::Spoofed),
            Direction::ToAddress(address) => (address, Sender::Client),
            Direction::ToLocator(address, backend) => (address, Sender::DirectClient(backend)),
            Direction::FromBackend(address, backend) => (address, Sender::Backend(backend)),
        };
        if let Some(outcome) = classify::unsupported(&packet, snapshot, direction) {
            return drop(outcome);
        }
        if !address.tracked {
            return Ok(match sender {
                Sender::Client => Work::Bound(packet, address, None),
                Sender::Backend(sender) => Work::Bound(packet, address, Some(sender)),
                Sender::DirectClient(_) => Work::Plain(packet),
            });
        }
        let key = match sender {
            Sender::Client => client_key(&packet, address.address),
            Sender::DirectClient(_) => client_key(&packet, packet.destination),
            Sender::Backend(_) => backend_key(&packet, address.address),
        };
        let shard = self.selector.shard(key.client, key.client_port);
        if shard != self.number {
            return Err(Verdict::Redirect(shard));
        }
        let hash = self.table.hash(&key);
        self.table.prefetch(hash);
        Ok(Work::Tracked(Steered { packet, address, sender, key, hash, guess: None }))
    }

    /// Last stage for tracked addresses: decide, keep the session up to date, send on.
    #[inline]
    fn steer(
        &mut self,
        frame: &mut [u8],
        snapshot: &Snapshot,
        now_ms: u64,
        steered: &Steered<'_>,
    ) -> Verdict {
        let Steered { packet, address, sender, key, hash, guess } = steered;
        let found = self.table.find_guessed(key, *hash, *guess);
        let session = found.and_then(|at| self.table.get(at));
        let decision = match sender {
            Sender::Client => classify::from_client(packet, address, session),
            Sender::DirectClient(backend) => {
                classify::from_direct_client(packet, address, backend, session)
            }
            Sender::Backend(backend) => {
                let is_own = session.is_some_and(|it| it.is_live() && it.owner() == backend.slot);
                if !is_own && let Some(at) = self.find_direct(packet, backend) {
                    self.follow(at, packet, false, now_ms);
                    return egress::route(frame, packet, snapshot, &mut self.punts);
                }
                classify::from_backend(packet, address, backend, session)
            }
        };
        let from_client = !matches!(sender, Sender::Backend(_));
        let owner = match decision {
            Decision::Drop(outcome) => return Verdict::Drop(outcome),
            Decision::Route => return egress::route(frame, packet, snapshot, &mut self.punts),
            Decision::Pass(owner) => owner,
            Decision::Follow(owner) => {
                if let Some(at) = found {
                    self.follow(at, packet, from_client, now_ms);
                }
                owner
            }
            Decision::Begin { owner, birth_epoch, state, adopted } => {
                if adopted && !self.adoption.take(now_ms) {
                    return Verdict::Drop(Outcome::AdoptionLimited);
                }
                if let Some(at) = found {
                    self.remove(at);
                }
                let session = Session::new(key, owner, birth_epoch, state, now_ms);
                let Ok(at) = self.table.insert(session, *hash) else {
                    return Verdict::Drop(Outcome::TableFull);
                };
                self.counters.entry_added(owner);
                self.counters.sessions.set(self.table.len() as u64);
                self.follow(at, packet, from_client, now_ms);
                owner
            }
        };
        match sender {
            Sender::Backend(backend) => {
                egress::to_client(frame, packet, snapshot, address, backend, &mut self.punts)
            }
            Sender::DirectClient(_) => egress::route(frame, packet, snapshot, &mut self.punts),
            // classify names only backends the address has.
            Sender::Client => match Snapshot::backend(address, owner) {
                Some(backend) => egress::to_backend(frame, packet, snapshot, address, backend),
                None => Verdict::Drop(Outcome::NoRoute),
            },
        }
    }

    /// The session in which a client speaks to the backend's own address and `packet` answers.
    fn find_direct(&self, packet: &Ipv4Packet, backend: &Backend) -> Option<u32> {
        let Rewrite::Nat(locator) = backend.rewrite else { return None };
        let key = backend_key(packet, locator);
        let at = self.table.find(&key, self.table.hash(&key))?;
        let session = self.table.get(at)?;
        let opens = matches!(packet.transport, Transport::Tcp(segment) if segment.flags.opens());
        (session.owner() == backend.slot && (session.is_live() || !opens)).then_some(at)
    }

    /// Keep the session at `at` up to date with one of its packets.
    #[inline]
    fn follow(&mut self, at: u32, packet: &Ipv4Packet, from_client: bool, now_ms: u64) {
        let Some(session) = self.table.get_mut(at) else { return };
        session.seen(now_ms);
        if let Transport::Tcp(segment) = &packet.transport
            && session.follow_tcp(segment, from_client)
        {
            self.counters.entry_closed(session.owner());
        }
    }

    pub(super) fn remove(&mut self, at: u32) {
        if let Some(session) = self.table.remove(at) {
            self.counters.entry_removed(session.owner(), session.is_live());
            self.counters.sessions.set(self.table.len() as u64);
        }
    }
}

/// Key of a packet a client sent to `address`.
#[inline]
fn client_key(packet: &Ipv4Packet, address: u32) -> SessionKey {
    SessionKey {
        client: packet.source,
        address,
        client_port: packet.source_port,
        address_port: packet.destination_port,
        protocol: packet.protocol,
    }
}

/// Key of a packet a backend sent in the name of `address`.
#[inline]
fn backend_key(packet: &Ipv4Packet, address: u32) -> SessionKey {
    SessionKey {
        client: packet.destination,
        address,
        client_port: packet.destination_port,
        address_port: packet.source_port,
        protocol: packet.protocol,
    }
}
