//! One worker's part of the sessions, and the stages a burst goes through.

use std::{io, sync::Arc};

use super::{
    BURST, Origin, Outcome, Punt, ShardSelector, Verdict, egress,
    lane::{Arrival, Directed, Lane, Tracked},
    limit::RateLimit,
    neighbours,
};
use crate::{
    counters::ShardCounters,
    packet::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PacketBuf, Tags, be16},
    session::Connections,
    steering::{BackendSlot, PortId, PortRole, Recent, Snapshot},
};

/// Packets whose sessions are asked from memory together: one request after the other, so that the CPU translates their
/// addresses side by side. Between two requests with a packet's work in between it would wait for each.
const PREFETCHED_TOGETHER: usize = 16;

/// The sessions of one worker and what it needs to act on them.
pub struct Shard {
    pub(super) desk: Desk,
    pub(super) v4: Lane<u32>,
    pub(super) v6: Lane<u128>,
}

/// What both families share.
pub(super) struct Desk {
    pub(super) number: u16,
    pub(super) selector: ShardSelector,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) adoption: RateLimit,
    /// Of errors that sessions hang without; others have a limit of their own, which a scan may use up.
    pub(super) too_big: RateLimit,
    pub(super) complaints: RateLimit,
    /// Of the burst that is being processed.
    pub(super) now_ms: u64,
    pub(super) punts: Punts,
    /// All shards' in common.
    pub(super) connections: Arc<Connections>,
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

impl Desk {
    pub(super) fn entry_added(&mut self, owner: BackendSlot, begun_by_vm: bool) {
        self.counters.entry_added(owner, begun_by_vm);
        self.counters.sessions.add(1);
    }

    pub(super) fn entry_removed(&mut self, owner: BackendSlot, begun_by_vm: bool, was_live: bool) {
        self.counters.entry_removed(owner, begun_by_vm, was_live);
        self.counters.sessions.set(self.counters.sessions.get() - 1);
    }
}

/// Room for sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions over IPv4.
    pub v4: u32,
    /// Sessions over IPv6.
    pub v6: u32,
}

/// What the first stage leaves of a burst to the others.
struct Work<'a> {
    recent_v4: Recent<'a, u32>,
    recent_v6: Recent<'a, u128>,
    v4: Tracked<'a, u32>,
    v6: Tracked<'a, u128>,
}

impl Shard {
    /// Shard `number` of those `selector` chooses from, with room for so many sessions; all share `connections`.
    ///
    /// # Errors
    /// When the system has no memory for the tables.
    pub fn new(
        number: u16,
        selector: ShardSelector,
        capacity: Capacity,
        connections: Arc<Connections>,
        counters: Arc<ShardCounters>,
    ) -> io::Result<Self> {
        let punts = Punts(Vec::with_capacity(Punts::MOST));
        Ok(Self {
            desk: Desk {
                number,
                selector,
                counters,
                adoption: RateLimit::of_adoption(),
                too_big: RateLimit::of_complaints(),
                complaints: RateLimit::of_complaints(),
                now_ms: 0,
                punts,
                connections,
            },
            v4: Lane::new(capacity.v4)?,
            v6: Lane::new(capacity.v6)?,
        })
    }

    /// Acknowledge a snapshot: from now on [`Shard::process`] is given this one. Call between two bursts.
    pub fn install(&mut self, snapshot: &Snapshot) {
        for &slot in &snapshot.counted_at_install {
            self.desk.counters.note_at_install(slot);
        }
        self.desk.counters.acknowledge(snapshot.generation);
    }

    /// What was noticed since the last call.
    pub fn take_punts(&mut self) -> impl Iterator<Item = Punt> + '_ {
        self.desk.punts.0.drain(..)
    }

    /// The shard's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<ShardCounters> {
        &self.desk.counters
    }

    /// Take a burst of one origin through all stages: `frames[i]` arrived on `ports[i]`, `verdicts[i]` says where it
    /// goes. Frames to transmit are rewritten in place. Frames to redirect or hold are without VLAN tags and otherwise
    /// untouched, and `ports[i]` says to which port they belong by their tags; or they are on their way from one VM of the
    /// box to another, and belong to [`PortId::HAIRPIN`]. What is released by it comes out of
    /// [`Shard::next_released`].
    ///
    /// # Panics
    /// When there are more than [`BURST`] frames, or fewer ports or verdicts than frames.
    pub fn process<B: PacketBuf>(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        origin: Origin,
        frames: &mut [B],
        ports: &mut [PortId],
        verdicts: &mut [Verdict],
    ) {
        let count = frames.len();
        self.desk.now_ms = now_ms;
        assert!(count <= BURST && ports.len() >= count && verdicts.len() >= count);
        let mut work = Work {
            recent_v4: Recent::default(),
            recent_v6: Recent::default(),
            v4: Tracked::new(),
            v6: Tracked::new(),
        };
        for first in (0..count).step_by(PREFETCHED_TOGETHER) {
            let group = first..count.min(first + PREFETCHED_TOGETHER);
            let (new_v4, new_v6) = (work.v4.len(), work.v6.len());
            for at in group {
                let verdict = self.direct(snapshot, &mut ports[at], at, &mut frames[at], &mut work);
                if let Some(verdict) = verdict {
                    verdicts[at] = verdict;
                }
            }
            for steered in &work.v4[new_v4..] {
                self.v4.sessions.table.prefetch(steered.hash);
            }
            for steered in &work.v6[new_v6..] {
                self.v6.sessions.table.prefetch(steered.hash);
            }
        }
        self.v4.look_ahead(snapshot, &mut work.v4);
        if self.v4.aside.is_empty() {
            let burst = (&mut *frames, &*ports, &mut *verdicts);
            self.v4.steer_all(&mut self.desk, snapshot, now_ms, &work.v4, burst);
        } else {
            let burst = (&mut *frames, &mut *ports, &mut *verdicts);
            let to = (&mut self.desk, origin);
            self.v4.steer_with_aside(to, snapshot, now_ms, &work.v4, burst);
        }
        if !work.v6.is_empty() || !self.v6.aside.is_empty() {
            self.steer_v6(snapshot, now_ms, origin, &mut work.v6, (frames, ports, verdicts));
        }
    }

    /// First stage: to which port the frame belongs and of which kind it is; then the family's part. What comes out of a
    /// tunnel begins anew; it goes into none again, so that this ends. So does an error that comes in again.
    #[inline]
    fn direct<'a, B: PacketBuf>(
        &mut self,
        snapshot: &'a Snapshot,
        id: &mut PortId,
        at: usize,
        packet: &mut B,
        work: &mut Work<'a>,
    ) -> Option<Verdict> {
        loop {
            let Some(port) = snapshot.port(*id) else {
                return self.direct_without_port(*id, at, packet, work);
            };
            let Some(ethernet) = packet.as_ref().first_chunk::<ETHERNET_LEN>() else {
                return Some(Verdict::Drop(Outcome::Truncated));
            };
            let is_plain = ethernet[..6] == port.mac.0
                && be16(ethernet, 12) == ETHERTYPE_IPV4
                && !matches!(port.role, PortRole::Twin(_));
            let kind = if is_plain { Kind::V4 } else { self.sort(snapshot, id, packet) };
            let arrival = Arrival { snapshot, id: *id, at };
            let directed = match kind {
                Kind::V4 => {
                    let (recent, tracked) = (&mut work.recent_v4, &mut work.v4);
                    self.v4.direct(&mut self.desk, arrival, packet, recent, tracked)
                }
                Kind::V6 => self.direct_v6(arrival, packet, work),
                Kind::Ended(verdict) => Directed::Ended(verdict),
            };
            match directed {
                Directed::Tracked => return None,
                Directed::Ended(verdict) => return Some(verdict),
                Directed::Anew(on) => arrive_anew(id, on),
            }
        }
    }

    /// First stage of a frame on no port of the snapshot: what comes in again is left for the last stage.
    #[cold]
    #[inline(never)]
    fn direct_without_port<B: PacketBuf>(
        &mut self,
        id: PortId,
        at: usize,
        packet: &B,
        work: &Work<'_>,
    ) -> Option<Verdict> {
        let ethertype = packet.as_ref().get(ETHERNET_LEN - 2..ETHERNET_LEN);
        let directed = match ethertype.map(|ethertype| be16(ethertype, 0)) {
            Some(ETHERTYPE_IPV4) if id == PortId::HAIRPIN => self.v4.set_aside(at, work.v4.len()),
            Some(ETHERTYPE_IPV6) if id == PortId::HAIRPIN => self.v6.set_aside(at, work.v6.len()),
            _ => return Some(Verdict::Drop(Outcome::NotForUs)),
        };
        debug_assert!(matches!(directed, Directed::Tracked));
        None
    }

    // The two families' stages are kept apart: in one function, IPv4 has fewer of the CPU's registers.
    #[inline(never)]
    fn direct_v6<'a, B: PacketBuf>(
        &mut self,
        arrival: Arrival<'a>,
        packet: &mut B,
        work: &mut Work<'a>,
    ) -> Directed {
        self.v6.direct(&mut self.desk, arrival, packet, &mut work.recent_v6, &mut work.v6)
    }

    #[inline(never)]
    fn steer_v6<B: PacketBuf>(
        &mut self,
        snapshot: &Snapshot,
        now_ms: u64,
        origin: Origin,
        tracked: &mut Tracked<'_, u128>,
        (frames, ports, verdicts): (&mut [B], &mut [PortId], &mut [Verdict]),
    ) {
        self.v6.look_ahead(snapshot, tracked);
        if self.v6.aside.is_empty() {
            let burst = (frames, &*ports, verdicts);
            self.v6.steer_all(&mut self.desk, snapshot, now_ms, tracked, burst);
        } else {
            let to = (&mut self.desk, origin);
            let burst = (frames, ports, verdicts);
            self.v6.steer_with_aside(to, snapshot, now_ms, tracked, burst);
        }
    }

    /// What a frame is that is not plainly IPv4 for the port it arrived on.
    #[inline(never)]
    fn sort<B: PacketBuf>(&mut self, snapshot: &Snapshot, id: &mut PortId, packet: &mut B) -> Kind {
        let drop = |outcome| Kind::Ended(Verdict::Drop(outcome));
        let Some(mut port) = snapshot.port(*id) else { return drop(Outcome::NotForUs) };
        if let PortRole::Twin(of) = port.role {
            return Kind::Ended(Verdict::Transmit(of, Outcome::FromHost));
        }
        if Tags::follow(be16(packet.as_ref(), 12)) {
            let tagged = Tags::strip(packet).and_then(|tags| snapshot.tagged_port(*id, tags));
            let belongs = tagged.and_then(|tagged| Some((tagged, snapshot.port(tagged)?)));
            let Some(belongs) = belongs else { return drop(Outcome::UnknownVlan) };
            (*id, port) = belongs;
        }
        let frame = packet.as_ref();
        let (is_group, ethertype) = (frame[0] & 1 == 1, be16(frame, 12));
        if frame[..6] != port.mac.0 && !is_group {
            return drop(Outcome::NotForUs);
        }
        let on = (snapshot, *id);
        Kind::Ended(match ethertype {
            ETHERTYPE_IPV4 if !is_group => return Kind::V4,
            ETHERTYPE_IPV6 if !is_group && !neighbours::is_of_the_link(frame) => return Kind::V6,
            ETHERTYPE_IPV6 => neighbours::ipv6_of_the_link(on, port, packet, &mut self.desk.punts),
            ETHERTYPE_IPV4 => egress::to_host(packet, on, Outcome::Group),
            ETHERTYPE_ARP => neighbours::arp(on, port, packet, &mut self.desk.punts),
            _ => egress::to_host(packet, on, Outcome::OtherEthertype),
        })
    }
}

/// What is in the packet's place now arrived on the port `on`. Few packets do: the compiler shall plan for the others.
#[cold]
#[inline(never)]
fn arrive_anew(id: &mut PortId, on: PortId) {
    *id = on;
}

/// What a frame is.
enum Kind {
    V4,
    V6,
    /// Nothing to be routed or steered.
    Ended(Verdict),
}
