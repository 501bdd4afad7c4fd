//! The sessions of one IP family on one shard, and the stages its packets go through.

use std::io;

use arrayvec::ArrayVec;

use super::{
    BURST, Outcome, Verdict,
    classify::{self, Decision, Unusual},
    complaints::Hearer,
    egress, quic,
    sessions::Sessions,
    shard::Desk,
    tunnels::{self, Unwrapped},
};
use crate::{
    fragments::Fragments,
    packet::{Headers, Packet, PacketBuf, Transport},
    session::{Session, SessionKey},
    steering::{Direction, Family, Hop, HopNumber, Path, PortId, Recent, Service, Snapshot},
};

/// One family's sessions.
pub(super) struct Lane<A: Family> {
    pub(super) sessions: Sessions<A>,
    /// Where the next sweep begins.
    pub(super) sweep_at: u32,
    pub(super) fragments: Fragments<A>,
    /// What is left of the burst under way for the last stage, one by one: each packet's place in the burst, and how many
    /// tracked packets are before it.
    pub(super) aside: ArrayVec<(u16, u16), BURST>,
}

/// A packet of a tracked address between two stages.
pub(super) struct Steered<'a, A: Family> {
    key: SessionKey<A>,
    pub(super) hash: u64,
    service: &'a Service<A>,
    sender: Sender<'a, A>,
    headers: Headers,
    /// Where its session may be.
    glanced: u32,
    /// Its place in the burst.
    at: u16,
    /// The way to the client, of a packet from a backend.
    pub(super) hop: HopNumber,
}

const _: () = assert!(size_of::<Steered<'_, u32>>() == 64);

/// The packets of a burst that need a session.
pub(super) type Tracked<'a, A> = ArrayVec<Steered<'a, A>, BURST>;

/// Who sent a packet of a tracked address.
pub(super) enum Sender<'a, A> {
    /// A client, to the managed address.
    Client,
    /// A client, to a backend's own address.
    DirectClient(&'a Path<A>),
    /// This backend.
    Backend(&'a Path<A>),
}

impl<A> Clone for Sender<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Sender<'_, A> {}

impl<A: Family> Sender<'_, A> {
    /// The key of the session `packet` belongs to.
    #[inline]
    pub(super) fn key(self, packet: &Packet<A>, service: &Service<A>) -> SessionKey<A> {
        match self {
            Self::Client | Self::DirectClient(_) => SessionKey::from_client(packet),
            Self::Backend(_) => SessionKey::from_backend(packet, service.address),
        }
    }
}

/// What the first stage made of a packet.
pub(super) enum Directed {
    /// It goes on to the others.
    Tracked,
    /// It needs no session.
    Ended(Verdict),
    /// Something else is in its place and begins anew, on this port: what was inside a tunnel, or what came in again.
    Anew(PortId),
}

/// Where a packet arrived.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) id: PortId,
    /// Its place in the burst.
    pub(super) at: usize,
}

impl<A: Family> Lane<A> {
    pub(super) fn new(capacity: u32) -> io::Result<Self> {
        Ok(Self {
            sessions: Sessions::new(capacity)?,
            sweep_at: 0,
            fragments: Fragments::new(),
            aside: ArrayVec::new(),
        })
    }

    /// First stage: read the headers, find the direction, the session's key and its shard. What needs no session ends
    /// here; the rest goes to `tracked`.
    #[inline]
    pub(super) fn direct<'a, B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'a>,
        packet: &mut B,
        recent: &mut Recent<'a, A>,
        tracked: &mut Tracked<'a, A>,
    ) -> Directed {
        let Arrival { snapshot, id, at } = arrival;
        let drop = |outcome| Directed::Ended(Verdict::Drop(outcome));
        let parsed = match A::parse(packet.as_ref()) {
            Ok(parsed) => parsed,
            Err(malformed) => return drop(classify::bad::<A>(malformed)),
        };
        let headers = parsed.headers;
        let (source, destination) = (parsed.source(), parsed.destination());
        let direction = snapshot.plane::<A>().direction(id, source, destination, recent);
        if source.is_link_local() && !matches!(direction, Direction::ToTunnel) {
            return Directed::Ended(egress::from_the_link(packet, destination, (snapshot, id)));
        }
        let (service, sender) = match direction {
            Direction::Plain if headers.transport == Transport::IcmpError => {
                return self.direct_error(desk, arrival, packet);
            }
            Direction::Plain => {
                let on = (snapshot, id);
                return Directed::Ended(egress::route(packet, &headers, destination, on, desk));
            }
            Direction::ToTunnel => {
                let on = (snapshot, id);
                return match tunnels::unwrap(packet, &parsed, on) {
                    Unwrapped::Arrived(port) => Directed::Anew(port),
                    Unwrapped::Ended(outcome) => drop(outcome),
                    Unwrapped::NotOurs => {
                        Directed::Ended(egress::route(packet, &headers, destination, on, desk))
                    }
                };
            }
            Direction::Spoofed => return drop(Outcome::Spoofed),
            Direction::ToAddress(service) => (service, Sender::Client),
            Direction::ToLocator(service, path) => (service, Sender::DirectClient(path)),
            Direction::FromBackend(service, path) => (service, Sender::Backend(path)),
        };
        let from_backend = matches!(sender, Sender::Backend(_));
        if let Some(unusual) = classify::unusual(&parsed, snapshot, from_backend) {
            return match unusual {
                Unusual::Hairpin | Unusual::Fragment => self.set_aside(at, tracked.len()),
                Unusual::Error => self.direct_error(desk, arrival, packet),
                Unusual::Group => {
                    Directed::Ended(egress::to_host(packet, (snapshot, id), Outcome::Group))
                }
                Unusual::Dropped(outcome) => drop(outcome),
            };
        }
        if !service.tracked {
            let on = (snapshot, id);
            return Directed::Ended(untracked(desk, on, packet, &parsed, service, sender));
        }
        match self.steered(desk, &parsed, service, sender) {
            Ok(steered) => tracked.push(Steered { at: at as u16, ..steered }),
            Err(shard) => return Directed::Ended(Verdict::Redirect(shard)),
        }
        Directed::Tracked
    }

    /// A packet of a tracked address, if its session is on this shard; otherwise which shard it is on.
    #[inline]
    pub(super) fn steered<'a>(
        &self,
        desk: &Desk,
        parsed: &Packet<A>,
        service: &'a Service<A>,
        sender: Sender<'a, A>,
    ) -> Result<Steered<'a, A>, u16> {
        let key = sender.key(parsed, service);
        let shard = desk.selector.shard(key.client(), key.client_port());
        if shard != desk.number {
            return Err(shard);
        }
        let hash = self.sessions.table.hash(&key);
        let headers = parsed.headers;
        Ok(Steered { key, hash, service, sender, headers, glanced: 0, at: 0, hop: 0 })
    }

    /// Second stage: find the ways to clients, and glance at the sessions.
    #[inline]
    pub(super) fn look_ahead(&self, snapshot: &Snapshot, tracked: &mut Tracked<'_, A>) {
        let mut clients: ArrayVec<A, BURST> = ArrayVec::new();
        for steered in &mut *tracked {
            steered.glanced = self.sessions.table.glance(&steered.key, steered.hash);
            if let Sender::Backend(_) = steered.sender {
                clients.push(steered.key.client());
            }
        }
        if clients.is_empty() {
            return;
        }
        let mut hops = [0; BURST];
        snapshot.plane::<A>().routes.find_all(&clients, &mut hops);
        let answers = tracked.iter_mut().filter(|it| matches!(it.sender, Sender::Backend(_)));
        for (steered, hop) in answers.zip(hops) {
            steered.hop = hop;
        }
    }

    /// Last stage: decide, keep the sessions up to date, send on.
    #[inline]
    pub(super) fn steer_all<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        now_ms: u64,
        tracked: &[Steered<'_, A>],
        (frames, ports, verdicts): (&mut [B], &[PortId], &mut [Verdict]),
    ) {
        for steered in tracked {
            let at = usize::from(steered.at);
            let on = (snapshot, ports[at]);
            verdicts[at] = self.steer(desk, on, &mut frames[at], now_ms, steered);
        }
    }

    #[inline]
    fn steer<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        on: (&Snapshot, PortId),
        packet: &mut B,
        now_ms: u64,
        steered: &Steered<'_, A>,
    ) -> Verdict {
        let owner = match self.goes_on(on.0, packet.as_ref(), now_ms, steered) {
            Some(owner) => owner,
            None => match self.decide(desk, on, packet, now_ms, steered) {
                Ok(owner) => owner,
                Err(verdict) => return verdict,
            },
        };
        let &Steered { ref key, service, sender, ref headers, .. } = steered;
        match sender {
            Sender::Client => {
                egress::to_backend(packet, headers, (service.address, owner), on, desk)
            }
            Sender::DirectClient(_) => route(desk, on, packet, steered),
            Sender::Backend(_) => {
                let hop = on.0.hop(steered.hop);
                egress::to_client(packet, headers, (key.client(), hop), owner, on, desk)
            }
        }
    }

    /// The owner of the session that a packet goes on in without changing more of it than when it was seen last. Nearly every
    /// packet does: this and [`Lane::decide`] say the same of it, and this says it in fewer instructions.
    #[inline]
    fn goes_on<'a>(
        &mut self,
        snapshot: &Snapshot,
        frame: &[u8],
        now_ms: u64,
        steered: &Steered<'a, A>,
    ) -> Option<&'a Path<A>> {
        let &Steered { ref key, service, sender, ref headers, glanced, .. } = steered;
        let session = self.sessions.table.glanced(glanced, key)?;
        let from_client = !matches!(sender, Sender::Backend(_));
        let tells = match headers.tcp_flags() {
            Some(flags) => flags.ends(),
            None => service.quic.is_some(),
        };
        if !session.is_settled(from_client) || tells {
            return None;
        }
        let owner = match sender {
            Sender::Client => service.path(session.owner())?,
            Sender::Backend(path) if path.slot == session.owner() => path,
            _ => return None,
        };
        if !from_client && matches!(snapshot.hop(steered.hop), Hop::Host) {
            return None;
        }
        session.seen(now_ms);
        if let Some(number) = headers.tcp_acknowledgement(frame) {
            session.acknowledged(from_client, number);
        }
        Some(owner)
    }

    /// Who gets a packet of a client, or sent one as a backend; what it does to the sessions is done. Otherwise what becomes of
    /// it instead.
    #[inline(never)]
    fn decide<'a, B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        on: (&Snapshot, PortId),
        packet: &mut B,
        now_ms: u64,
        steered: &Steered<'a, A>,
    ) -> Result<&'a Path<A>, Verdict> {
        let &Steered { ref key, hash, service, sender, ref headers, glanced, .. } = steered;
        let found = self.sessions.table.find_from(glanced, key, hash);
        let session = found.map(|at| &self.sessions.table[at]);
        let decision = match sender {
            Sender::Client => {
                let frame = packet.as_ref();
                let quic = || quic::client(desk, service, key, headers, frame);
                classify::from_client(headers, service, session, quic)
            }
            Sender::DirectClient(path) => {
                classify::from_direct_client(headers, service, path, session)
            }
            Sender::Backend(path) => {
                // What a VM says to its gateway is no session of the service, and must not hold a drain.
                if matches!(on.0.hop(steered.hop), Hop::Host) {
                    return Err(route(desk, on, packet, steered));
                }
                let is_own = session.is_some_and(|it| {
                    it.is_live()
                        && it.owner() == path.slot
                        && classify::belongs_to(it, headers.opens())
                });
                if !is_own && let Some(at) = self.find_direct(key, headers, path) {
                    self.sessions.follow(desk, on.0, at, headers, packet.as_ref(), false);
                    return Err(route(desk, on, packet, steered));
                }
                classify::from_backend(headers, service, path, session)
            }
        };
        let from_client = !matches!(sender, Sender::Backend(_));
        let owner = match decision {
            Decision::Drop(outcome) => return Err(Verdict::Drop(outcome)),
            Decision::Route => return Err(route(desk, on, packet, steered)),
            Decision::Pass(owner) => return Ok(owner),
            Decision::Follow(owner) => {
                if let Some(at) = found {
                    self.sessions.follow(desk, on.0, at, headers, packet.as_ref(), from_client);
                }
                owner
            }
            Decision::Begin { owner, birth_epoch, state, adopted } => {
                if adopted && !desk.adoption.take(now_ms) {
                    return Err(Verdict::Drop(Outcome::AdoptionLimited));
                }
                if let Some(at) = found {
                    self.sessions.remove(desk, at);
                }
                let by_vm = !from_client && !adopted;
                let session = Session::new(key, owner.slot, birth_epoch, state, by_vm, now_ms);
                let session = if adopted && from_client { session.unconfirmed() } else { session };
                let begun = self.sessions.begin(desk, on.0, session, hash);
                let at = begun.map_err(Verdict::Drop)?;
                self.sessions.follow(desk, on.0, at, headers, packet.as_ref(), from_client);
                owner
            }
        };
        if !from_client && service.quic.is_some() {
            quic::learn(desk, service, (key, owner.slot), headers, packet.as_ref());
        }
        Ok(owner)
    }

    /// The session in which a client speaks to the backend's own address and a packet answers that would have `key` if it
    /// spoke in the managed address's name.
    fn find_direct(&self, key: &SessionKey<A>, headers: &Headers, path: &Path<A>) -> Option<u32> {
        let key = key.with_address(path.locator?);
        let at = self.sessions.table.find(&key, self.sessions.table.hash(&key))?;
        let session = &self.sessions.table[at];
        let follows = classify::belongs_to(session, headers.opens());
        (session.owner() == path.slot && follows).then_some(at)
    }
}

/// Send on a packet of an address whose sessions are not recorded.
///
/// Not in line: with it, the packets of all other addresses have fewer of the CPU's registers.
#[inline(never)]
pub(super) fn untracked<A: Family, B: PacketBuf>(
    desk: &mut Desk,
    on: (&Snapshot, PortId),
    packet: &mut B,
    parsed: &Packet<A>,
    service: &Service<A>,
    sender: Sender<'_, A>,
) -> Verdict {
    let (headers, destination) = (&parsed.headers, parsed.destination());
    match sender {
        Sender::Client => {
            let to = (service.address, &service.home);
            egress::to_backend(packet, headers, to, on, desk)
        }
        Sender::Backend(path) => match on.0.route(destination) {
            Hop::Host => egress::to_host(packet, on, Outcome::ForHost),
            hop => egress::to_client(packet, headers, (destination, hop), path, on, desk),
        },
        Sender::DirectClient(_) => egress::route(packet, headers, destination, on, desk),
    }
}

/// Route a packet whose session is known, or that needs none.
fn route<A: Family, B: PacketBuf>(
    desk: &mut Desk,
    (snapshot, id): (&Snapshot, PortId),
    packet: &mut B,
    steered: &Steered<'_, A>,
) -> Verdict {
    let Steered { key, headers, .. } = steered;
    let (destination, hop) = match steered.sender {
        Sender::Backend(_) => (key.client(), snapshot.hop(steered.hop)),
        Sender::Client | Sender::DirectClient(_) => (key.address(), snapshot.route(key.address())),
    };
    egress::route_by(packet, headers, (destination, hop), Hearer::Anyone, (snapshot, id), desk)
}
