//! Fragments to and from managed addresses go where the first one of their datagram went.
//!
//! The first carries the ports: it is steered like a whole packet, and what becomes of it is remembered for the others.
//! These carry no port, so they cannot know their session's shard:
//!
//! | shard | known from | does with a fragment |
//! |---|---|---|
//! | gatherer | client's address, identification | learns the session's shard from the first, holds those that come before it |
//! | the session's | client's address and port | steers the first, lets the others follow |
//!
//! What a port gives goes to the gatherer, and from there to the session's shard, in order. It is never redirected again:
//! a shard that another one hands a fragment is either of the two. What needs no ports takes neither way.

use super::{
    Origin, Outcome, Verdict,
    aside::{Scene, untracked},
    classify,
    classify::without_sessions,
    complaints::Hearer,
    egress,
    lane::{Lane, Sender},
};
use crate::{
    fragments::{DatagramKey, First, WAITING, Way},
    packet::{Fragment, Headers, Malformed, Packet, PacketBuf, TcpFlags, Transport},
    steering::{BackendSlot, Direction, Family, Hop, PortId, Recent, Service, Snapshot},
};

/// A fragment of a managed address's datagram.
struct Piece<'a, A: Family> {
    service: &'a Service<A>,
    sender: Sender<'a, A>,
    /// Of a first fragment, with what the transport header says.
    parsed: Packet<A>,
    fragment: Fragment,
}

impl<A: Family> Lane<A> {
    /// What becomes of a fragment, which is parsed anew: few packets are one.
    pub(super) fn fragment<B: PacketBuf>(
        &mut self,
        scene: &mut Scene<'_>,
        packet: &mut B,
    ) -> Result<Verdict, Outcome> {
        let (snapshot, id) = scene.on;
        let whole = A::parse(packet.as_ref()).map_err(classify::bad::<A>)?;
        let piece = Piece::read(whole, scene.on, packet.as_ref())?;
        let Piece { service, sender, ref parsed, ref fragment } = piece;
        let client = match sender {
            _ if !service.tracked => {
                return match piece.refused() {
                    Some(outcome) => Err(outcome),
                    None => Ok(untracked(scene, packet, parsed, service, sender)),
                };
            }
            Sender::Backend(_) if *snapshot.way_from_vm(id, parsed.destination()) == Hop::Host => {
                return Ok(egress::to_host(packet, scene.on, Outcome::ForHost));
            }
            // All that is sent to a backend's own address takes one way; the first alone is of the session.
            Sender::DirectClient(_) if !fragment.is_first() => {
                let (headers, to) = (&parsed.headers, parsed.destination());
                return Ok(egress::route(packet, headers, to, scene.on, scene.desk));
            }
            Sender::DirectClient(_) => {
                return match piece.refused() {
                    Some(outcome) => Err(outcome),
                    None => Ok(self.alone(scene, packet, parsed, service, sender)),
                };
            }
            _ if !whole.needs_first_fragment() => {
                return Ok(self.alone(scene, packet, parsed, service, sender));
            }
            Sender::Client => parsed.source(),
            Sender::Backend(_) => parsed.destination(),
        };
        let gatherer = scene.desk.selector.gatherer(client, fragment.identification);
        if gatherer != scene.desk.number && scene.origin == Origin::Port {
            return Ok(Verdict::Redirect(gatherer));
        }
        let key = DatagramKey::new(&whole, fragment, sender.backend());
        let gathers = gatherer == scene.desk.number;
        if fragment.is_first() {
            return self.first_fragment(scene, packet, &piece, &key, gathers);
        }
        self.later_fragment(scene, packet, &piece, &key, gathers)
    }

    /// Send a later fragment where its first went, or let it wait for it.
    fn later_fragment<B: PacketBuf>(
        &mut self,
        scene: &mut Scene<'_>,
        packet: &mut B,
        piece: &Piece<'_, A>,
        key: &DatagramKey<A>,
        gathers: bool,
    ) -> Result<Verdict, Outcome> {
        match self.fragments.later(key, &piece.fragment, scene.now_ms) {
            Some(way) => follow(scene, packet, piece, way),
            None if gathers => {
                let place = self.fragments.wait(key, scene.now_ms);
                let place = place.ok_or(Outcome::FragmentNoRoom)?;
                Ok(Verdict::Hold(place + Self::FIRST_PLACE))
            }
            None => Err(Outcome::FragmentOrphan),
        }
    }

    /// Where this family's part of the places for held frames begins.
    const FIRST_PLACE: u16 = if A::BITS == u32::BITS as u8 { 0 } else { WAITING as u16 };

    /// Steer the first fragment of a datagram, and remember where it went.
    fn first_fragment<B: PacketBuf>(
        &mut self,
        scene: &mut Scene<'_>,
        packet: &mut B,
        piece: &Piece<'_, A>,
        key: &DatagramKey<A>,
        gathers: bool,
    ) -> Result<Verdict, Outcome> {
        let Piece { service, sender, parsed, fragment } = piece;
        let place = match self.fragments.first(key, parsed.ports, fragment, scene.now_ms) {
            First::Leads(place) => place,
            // It went there once; a session that began or ended since then is not its own.
            First::Again(way) => return follow(scene, packet, piece, way),
            First::Conflicts => return Err(Outcome::FragmentConflict),
            First::NoRoom => return Err(Outcome::FragmentNoRoom),
        };
        let verdict = match piece.refused() {
            Some(outcome) => Verdict::Drop(outcome),
            None => self.alone(scene, packet, parsed, service, *sender),
        };
        let way = match verdict {
            Verdict::Redirect(shard) if gathers => Way::Shard(shard),
            Verdict::Transmit(_, Outcome::ToClient) => Way::ToClient,
            Verdict::Transmit(_, Outcome::Forwarded) => Way::Route,
            Verdict::Transmit(_, outcome) => {
                let path = service.paths().find(|path| path.outcome == outcome);
                path.map_or(Way::Dropped, |path| Way::ToBackend(path.slot))
            }
            Verdict::Redirect(_) | Verdict::Hold(_) | Verdict::Drop(_) => Way::Dropped,
        };
        self.fragments.lead(place, way);
        match verdict {
            // Shards do not agree on where it goes only while a change reaches one before the other.
            Verdict::Redirect(_) if !gathers => Err(Outcome::FragmentOrphan),
            verdict => Ok(verdict),
        }
    }
}

impl<'a, A: Family> Piece<'a, A> {
    /// The fragment in `frame`, which `whole` was parsed from.
    fn read(
        whole: Packet<A>,
        (snapshot, id): (&'a Snapshot, PortId),
        frame: &[u8],
    ) -> Result<Self, Outcome> {
        let recent = &mut Recent::default();
        let plane = snapshot.plane::<A>();
        let (service, sender) =
            match plane.direction(id, whole.source(), whole.destination(), recent) {
                Direction::ToAddress(service) => (service, Sender::Client),
                Direction::ToLocator(service, path) => (service, Sender::DirectClient(path)),
                Direction::FromBackend(service, path) => (service, Sender::Backend(path)),
                // The first stage lets no other come here.
                Direction::Plain | Direction::Spoofed | Direction::ToTunnel => {
                    return Err(Outcome::Spoofed);
                }
            };
        let fragment = whole.fragment(frame);
        if fragment.hides_header(whole.protocol) {
            return Err(Outcome::FragmentTiny);
        }
        let mut parsed = whole;
        if fragment.is_first() {
            parsed = whole.of_first_fragment(frame).map_err(|malformed| match malformed {
                Malformed::Transport => Outcome::FragmentTiny,
                Malformed::Ip => classify::bad::<A>(malformed),
            })?;
            without_fin(&mut parsed.headers);
        } else if !whole.needs_first_fragment() {
            parsed.headers.transport = Transport::Other;
        }
        Ok(Self { service, sender, parsed, fragment })
    }

    /// How it ends when it is the first fragment of what can have no session.
    fn refused(&self) -> Option<Outcome> {
        let transport = self.parsed.headers.transport;
        let is_refused = self.fragment.is_first() && !transport.has_sessions();
        is_refused.then(|| without_sessions(transport))
    }
}

/// Where a FIN's sequence number is depends on the length of the datagram, which its first fragment does not say. A
/// session whose FIN is not seen ends by the other one and silence: late, but never early.
fn without_fin(headers: &mut Headers) {
    if let Transport::Tcp(flags) = &mut headers.transport {
        *flags = TcpFlags(flags.0 & !TcpFlags::FIN.0);
    }
}

impl<A: Family> Sender<'_, A> {
    /// The backend, if it was one.
    fn backend(self) -> Option<BackendSlot> {
        match self {
            Self::Backend(path) => Some(path.slot),
            Self::Client | Self::DirectClient(_) => None,
        }
    }
}

/// Send a fragment the way its datagram's first went.
fn follow<A: Family, B: PacketBuf>(
    scene: &mut Scene<'_>,
    packet: &mut B,
    piece: &Piece<'_, A>,
    way: Way,
) -> Result<Verdict, Outcome> {
    let Piece { service, sender, ref parsed, .. } = *piece;
    let (headers, destination) = (&parsed.headers, parsed.destination());
    match (way, sender) {
        (Way::Shard(shard), _) => Ok(Verdict::Redirect(shard)),
        (Way::ToBackend(slot), Sender::Client) => {
            let path = service.path(slot).ok_or(Outcome::FragmentOrphan)?;
            let to = (service.address, path);
            Ok(egress::to_backend(packet, headers, to, scene.on, scene.desk))
        }
        (Way::ToClient, Sender::Backend(path)) => {
            let way = (destination, scene.on.0.way_from_vm(scene.on.1, destination));
            Ok(egress::to_client_otherwise(packet, headers, way, path, scene.on, scene.desk))
        }
        (Way::Route, Sender::Backend(_)) => {
            let way = (destination, scene.on.0.way_from_vm(scene.on.1, destination));
            Ok(egress::route_by(packet, headers, way, Hearer::Anyone, scene.on, scene.desk))
        }
        (Way::ToBackend(_) | Way::ToClient | Way::Route | Way::Dropped, _) => {
            Err(Outcome::FragmentOrphan)
        }
    }
}
