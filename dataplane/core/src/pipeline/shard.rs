//! One worker's part of the sessions, and the stages a burst goes through.

use std::{io, sync::Arc};

use arrayvec::ArrayVec;

use super::{
    BURST, Outcome, Punt, ShardSelector, Verdict,
    adoption::AdoptionLimit,
    classify::{self, Decision},
    egress, neighbours,
};
use crate::{
    counters::ShardCounters,
    packet::{
        ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, Headers, Ipv4Packet, Malformed, PacketBuf,
        be16, parse_ipv4,
    },
    session::{Session, SessionKey, SessionTable},
    steering::{Direction, Path, Port, PortId, Recent, Service, Snapshot},
};

/// Packets whose sessions are asked from memory together: one request after the other, so that the CPU translates their
/// addresses side by side. Between two requests with a packet's work in between it would wait for each.
const PREFETCHED_TOGETHER: usize = 16;

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
    /// Sessions begun since the last sweep.
    pub(super) begun: u32,
}

/// A packet of a tracked address between two stages.
struct Steered<'a> {
    key: SessionKey,
    hash: u64,
    service: &'a Service,
    sender: Sender<'a>,
    headers: Headers,
    /// Its place in the burst.
    at: u32,
    /// Where its session may be.
    glanced: u32,
}

const _: () = assert!(size_of::<Steered<'_>>() == 64);

/// Who sent a packet of a tracked address.
#[derive(Clone, Copy)]
enum Sender<'a> {
    /// A client, to the managed address.
    Client,
    /// A client, to a backend's own address.
    DirectClient(&'a Path),
    /// This backend.
    Backend(&'a Path),
}

impl Sender<'_> {
    /// The key of the session `packet` belongs to.
    #[inline]
    fn key(self, packet: &Ipv4Packet, service: &Service) -> SessionKey {
        match self {
            Self::Client | Self::DirectClient(_) => SessionKey::from_client(packet),
            Self::Backend(_) => SessionKey::from_backend(packet, service.address),
        }
    }
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
            begun: 0,
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
        let mut tracked = ArrayVec::new();
        let mut recent = Recent::default();
        for first in (0..count).step_by(PREFETCHED_TOGETHER) {
            let group = first..count.min(first + PREFETCHED_TOGETHER);
            let new = tracked.len();
            for at in group {
                let frame = frames[at].as_mut();
                let verdict =
                    self.direct(snapshot, ports[at], at, frame, &mut recent, &mut tracked);
                if let Some(verdict) = verdict {
                    verdicts[at] = verdict;
                }
            }
            for steered in &tracked[new..] {
                self.table.prefetch(steered.hash);
            }
        }
        for steered in &mut tracked {
            steered.glanced = self.table.glance(&steered.key, steered.hash);
        }
        for steered in &tracked {
            let at = steered.at as usize;
            let frame = frames[at].as_mut();
            verdicts[at] = self.steer(frame, snapshot, now_ms, steered);
        }
    }

    /// First stage: read the headers, find the direction, the session's key and its shard. What needs no session ends
    /// here; the rest goes to `tracked`.
    #[inline]
    fn direct<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        port_id: PortId,
        at: usize,
        frame: &mut [u8],
        recent: &mut Recent<'a>,
        tracked: &mut ArrayVec<Steered<'a>, BURST>,
    ) -> Option<Verdict> {
        let drop = |outcome| Some(Verdict::Drop(outcome));
        let Some(ethernet) = frame.first_chunk::<ETHERNET_LEN>() else {
            return drop(Outcome::Truncated);
        };
        let Some(port) = snapshot.ports.get(usize::from(port_id.0)) else {
            return drop(Outcome::NotForUs);
        };
        let is_group = ethernet[0] & 1 == 1;
        if ethernet[..6] != port.mac.0 && !is_group {
            return drop(Outcome::NotForUs);
        }
        let ethertype = be16(ethernet, 12);
        if ethertype != ETHERTYPE_IPV4 {
            return Some(self.not_ipv4(snapshot, port_id, port, ethertype, frame));
        }
        if is_group {
            return drop(Outcome::Group);
        }
        let packet = match parse_ipv4(frame) {
            Ok(packet) => packet,
            Err(Malformed::Ipv4) => return drop(Outcome::BadIpv4),
            Err(Malformed::Transport) => return drop(Outcome::BadTransport),
        };
        let headers = packet.headers;
        let direction = snapshot.direction(port_id, packet.source(), packet.destination(), recent);
        let (service, sender) = match direction {
            Direction::Plain => {
                return Some(egress::route(
                    frame,
                    &headers,
                    packet.destination(),
                    snapshot,
                    &mut self.punts,
                ));
            }
            Direction::Spoofed => return drop(Outcome::Spoofed),
            Direction::ToAddress(service) => (service, Sender::Client),
            Direction::ToLocator(service, path) => (service, Sender::DirectClient(path)),
            Direction::FromBackend(service, path) => (service, Sender::Backend(path)),
        };
        let from_backend = matches!(sender, Sender::Backend(_));
        if let Some(outcome) = classify::unsupported(&packet, snapshot, from_backend) {
            return drop(outcome);
        }
        if !service.tracked {
            let punts = &mut self.punts;
            return Some(match sender {
                Sender::Client => egress::to_backend(frame, &headers, &service.home),
                Sender::Backend(path) => {
                    egress::to_client(frame, &headers, packet.destination(), snapshot, path, punts)
                }
                Sender::DirectClient(_) => {
                    egress::route(frame, &headers, packet.destination(), snapshot, punts)
                }
            });
        }
        let key = sender.key(&packet, service);
        let shard = self.selector.shard(key.client(), key.client_port());
        if shard != self.number {
            return Some(Verdict::Redirect(shard));
        }
        let hash = self.table.hash(&key);
        tracked.push(Steered { key, hash, service, sender, headers, at: at as u32, glanced: 0 });
        None
    }

    #[cold]
    fn not_ipv4(
        &mut self,
        snapshot: &Snapshot,
        port_id: PortId,
        port: &Port,
        ethertype: u16,
        frame: &mut [u8],
    ) -> Verdict {
        match ethertype {
            ETHERTYPE_ARP => neighbours::arp(snapshot, port_id, port, frame, &mut self.punts),
            _ => Verdict::Drop(Outcome::OtherEthertype),
        }
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
        let &Steered { ref key, hash, service, sender, ref headers, glanced, .. } = steered;
        let found = self.table.find_from(glanced, key, hash);
        let session = found.map(|at| &self.table[at]);
        let decision = match sender {
            Sender::Client => classify::from_client(headers, service, session),
            Sender::DirectClient(path) => {
                classify::from_direct_client(headers, service, path, session)
            }
            Sender::Backend(path) => {
                let is_own = session.is_some_and(|it| it.is_live() && it.owner() == path.slot);
                if !is_own && let Some(at) = self.find_direct(key, headers, path) {
                    self.follow(at, headers, frame, false, now_ms);
                    return self.route(frame, headers, snapshot, sender, key);
                }
                classify::from_backend(headers, service, path, session)
            }
        };
        let from_client = !matches!(sender, Sender::Backend(_));
        let owner = match decision {
            Decision::Drop(outcome) => return Verdict::Drop(outcome),
            Decision::Route => return self.route(frame, headers, snapshot, sender, key),
            Decision::Pass(owner) => owner,
            Decision::Follow(owner) => {
                if let Some(at) = found {
                    self.follow(at, headers, frame, from_client, now_ms);
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
                let session = Session::new(key, owner.slot, birth_epoch, state, now_ms);
                let Ok(at) = self.table.insert(session, hash) else {
                    return Verdict::Drop(Outcome::TableFull);
                };
                self.begun += 1;
                self.counters.entry_added(owner.slot);
                self.counters.sessions.set(self.table.len() as u64);
                self.follow(at, headers, frame, from_client, now_ms);
                owner
            }
        };
        match sender {
            Sender::Client => egress::to_backend(frame, headers, owner),
            Sender::DirectClient(_) => self.route(frame, headers, snapshot, sender, key),
            Sender::Backend(path) => {
                egress::to_client(frame, headers, key.client(), snapshot, path, &mut self.punts)
            }
        }
    }

    /// Route a packet whose session has `key`.
    fn route(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        snapshot: &Snapshot,
        sender: Sender<'_>,
        key: &SessionKey,
    ) -> Verdict {
        let destination = match sender {
            Sender::Backend(_) => key.client(),
            Sender::Client | Sender::DirectClient(_) => key.address(),
        };
        egress::route(frame, headers, destination, snapshot, &mut self.punts)
    }

    /// The session in which a client speaks to the backend's own address and a packet answers that would have `key` if it
    /// spoke in the managed address's name.
    fn find_direct(&self, key: &SessionKey, headers: &Headers, path: &Path) -> Option<u32> {
        let key = key.with_address(path.locator?);
        let at = self.table.find(&key, self.table.hash(&key))?;
        let session = &self.table[at];
        let follows = session.is_live() || !headers.opens();
        (session.owner() == path.slot && follows).then_some(at)
    }

    /// Keep the session at `at` up to date with one of its packets.
    #[inline]
    fn follow(&mut self, at: u32, headers: &Headers, frame: &[u8], from_client: bool, now_ms: u64) {
        let session = &mut self.table[at];
        session.seen(now_ms);
        if let Some(flags) = headers.tcp_flags()
            && !session.is_unmoved_by(flags)
            && let Some(segment) = headers.tcp_segment(frame)
            && session.follow_tcp(&segment, from_client)
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
