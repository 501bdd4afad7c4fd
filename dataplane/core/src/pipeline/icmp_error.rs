//! ICMP errors go where the session they quote goes (RFC 5508, section 4.2): outer and quoted headers are translated alike.
//!
//! | the quoted packet went | the error is for | translated |
//! |---|---|---|
//! | from a backend to a client | the backend that owns the session | destination, quoted source |
//! | from a client to a backend | the client | quoted destination; source, if the backend itself sent the error |
//!
//! An error neither begins a session nor keeps one: it may be about a packet of long ago.

use super::{
    Outcome, Verdict,
    complaints::Hearer,
    egress,
    lane::{Arrival, Lane},
    shard::Desk,
};
use crate::{
    packet::{Field, Headers, Packet, PacketBuf, Quoted, count_hop, is_intact},
    session::SessionKey,
    steering::{Direction, Family, Hop, Path, PortId, Recent, Service},
};

/// An error and what it quotes.
struct Error<'e, A: Family> {
    parsed: &'e Packet<A>,
    quoted: Quoted<A>,
}

/// Where the session's owner is, or how the error ends instead.
enum Owner<'a, A> {
    Path(&'a Path<A>),
    /// A client speaks to the backend's own address: nothing is translated.
    Direct,
    Ends(Verdict),
}

impl<A: Family> Lane<A> {
    /// What becomes of an ICMP error.
    ///
    /// Few packets are one: it is parsed anew, so that the others need not carry along what is known of it.
    #[cold]
    #[inline(never)]
    pub(super) fn icmp_error<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'_>,
        packet: &mut B,
    ) -> Verdict {
        let plane = arrival.snapshot.plane::<A>();
        let frame = packet.as_ref();
        let Ok(parsed) = A::parse(frame) else { return Verdict::Drop(Outcome::BadTransport) };
        let (source, destination) = (parsed.source(), parsed.destination());
        let recent = &mut Recent::default();
        let direction = plane.direction(arrival.id, source, destination, recent);
        let parsed = &parsed;
        let quoted = Quoted::read(frame, &parsed.headers);
        let error = quoted.map(|quoted| Error { parsed, quoted });
        let to_backend = error.as_ref().and_then(|error| plane.service(error.quoted.source));
        let to_client = error.as_ref().and_then(|error| plane.service(error.quoted.destination));
        let is_plain = matches!(direction, Direction::Plain);
        if is_plain && to_client.is_none() {
            return self.route_error(desk, arrival, packet, parsed);
        }
        let Some(error) = error else { return Verdict::Drop(Outcome::IcmpQuoteUnreadable) };
        if !is_intact::<A>(frame, &parsed.headers) {
            return Verdict::Drop(Outcome::BadIcmpChecksum);
        }
        // What a VM of the box sent to another, as it was after both passes: the error goes through both as well.
        let came_in_again = |service: &Service<A>| {
            arrival.id != PortId::HAIRPIN && error.quoted.destination != service.address
        };
        match (direction, to_backend, to_client) {
            // The error goes to whoever sent the packet it quotes, or it is not what it claims to be.
            _ if error.quoted.source != destination => Verdict::Drop(Outcome::IcmpUnmatched),
            (Direction::ToAddress(_), _, Some(service)) if came_in_again(service) => {
                self.error_to_client(desk, arrival, packet, &error, service, None)
            }
            (Direction::ToLocator(..), _, Some(service)) if came_in_again(service) => {
                match self.error_to_client(desk, arrival, packet, &error, service, None) {
                    // Or as it was before them.
                    Verdict::Drop(Outcome::IcmpUnmatched) => {
                        self.route_error(desk, arrival, packet, parsed)
                    }
                    verdict => verdict,
                }
            }
            (Direction::ToAddress(_) | Direction::ToLocator(..), Some(service), _) => {
                self.error_to_backend(desk, arrival, packet, &error, service)
            }
            (Direction::FromBackend(_, sender), _, Some(service)) => {
                self.error_to_client(desk, arrival, packet, &error, service, Some(sender))
            }
            (Direction::Plain, _, Some(service)) => {
                self.error_to_client(desk, arrival, packet, &error, service, None)
            }
            _ => Verdict::Drop(Outcome::IcmpUnmatched),
        }
    }

    /// About a packet that a backend of `service` sent to a client.
    fn error_to_backend<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'_>,
        packet: &mut B,
        error: &Error<'_, A>,
        service: &Service<A>,
    ) -> Verdict {
        let Error { parsed, quoted } = error;
        if quoted.source != service.address {
            // To a backend's own address, about what it sent under that.
            return self.route_error(desk, arrival, packet, parsed);
        }
        let (mine, theirs) = ((quoted.ports >> 16) as u16, quoted.ports as u16);
        let client = (quoted.destination, theirs);
        let key = SessionKey::new(client, (service.address, mine), quoted.protocol);
        let path = match self.owner_of(desk, service, key, None) {
            Owner::Path(path) => path,
            Owner::Direct => return self.route_error(desk, arrival, packet, parsed),
            Owner::Ends(verdict) => return verdict,
        };
        if path.inward.is_some() && parsed.headers.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        let (on, way) = ((arrival.snapshot, arrival.id), (&path.link, path.outcome));
        let hearer = Hearer::ClientOf(service.address);
        egress::leave(packet, &parsed.headers, way, hearer, on, desk, |frame| {
            if let Some(translation) = &path.inward {
                quoted.translate(frame, &parsed.headers, translation, Field::Source);
                translation.apply(frame, &parsed.headers, Field::Destination);
            }
        })
    }

    /// About a packet that a client sent to a backend of `service`; `sender` is the backend that sent the error, if it was
    /// one and not a router before it.
    fn error_to_client<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'_>,
        packet: &mut B,
        error: &Error<'_, A>,
        service: &Service<A>,
        sender: Option<&Path<A>>,
    ) -> Verdict {
        let Error { parsed, quoted } = error;
        let client = (quoted.source, (quoted.ports >> 16) as u16);
        let named = (service.address, quoted.ports as u16);
        let key = SessionKey::new(client, named, quoted.protocol);
        let is_locator = quoted.destination != service.address;
        if sender.is_none() && !is_locator {
            // A router between a client and the box, or before a guest that owns the address: nothing was rewritten.
            return self.route_error(desk, arrival, packet, parsed);
        }
        let locator = is_locator.then_some(quoted.destination);
        let (on, destination) = ((arrival.snapshot, arrival.id), parsed.destination());
        let hop = arrival.snapshot.way_from_vm(arrival.id, destination);
        let path = match self.owner_of(desk, service, key, locator) {
            Owner::Path(path) => path,
            Owner::Direct if *hop == Hop::HAIRPIN => {
                let way = (destination, hop);
                return egress::route_by(packet, &parsed.headers, way, Hearer::Anyone, on, desk);
            }
            Owner::Direct => return self.route_error(desk, arrival, packet, parsed),
            Owner::Ends(verdict) => return verdict,
        };
        if sender.is_some_and(|sender| sender.slot != path.slot) {
            return Verdict::Drop(Outcome::OtherOwner);
        }
        if sender.is_some() && path.locator.is_some() && !is_locator {
            // It quotes a packet as nobody sent it one.
            return Verdict::Drop(Outcome::IcmpUnmatched);
        }
        let outward = path.outward.as_ref().filter(|_| is_locator);
        if outward.is_some() && parsed.headers.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        let link = match egress::resolved(destination, hop, &mut desk.punts) {
            Ok(link) => link,
            Err(verdict) => return verdict,
        };
        let way = (link, Outcome::ToClient);
        egress::leave(packet, &parsed.headers, way, Hearer::Backend(path), on, desk, |frame| {
            let Some(translation) = outward else { return };
            quoted.translate(frame, &parsed.headers, translation, Field::Destination);
            if Some(parsed.source()) == path.locator {
                translation.apply(frame, &parsed.headers, Field::Source);
            } else {
                count_hop::<A>(frame, &parsed.headers);
            }
        })
    }

    /// Who owns the session with `key`, or with the same client and the backend's own address `locator`.
    fn owner_of<'a>(
        &self,
        desk: &Desk,
        service: &'a Service<A>,
        key: SessionKey<A>,
        locator: Option<A>,
    ) -> Owner<'a, A> {
        if !service.tracked {
            return Owner::Path(&service.home);
        }
        let shard = desk.selector.shard(key.client(), key.client_port());
        if shard != desk.number {
            return Owner::Ends(Verdict::Redirect(shard));
        }
        let find = |key: &SessionKey<A>| {
            let session = &self.sessions.table
                [self.sessions.table.find(key, self.sessions.table.hash(key))?];
            service.path(session.owner())
        };
        // With a locator: the backend that has it, whichever address the client spoke to.
        let is_named = |path: &&Path<A>| locator.is_none() || path.locator == locator;
        if let Some(path) = find(&key).filter(is_named) {
            return Owner::Path(path);
        }
        match locator.and_then(|locator| find(&key.with_address(locator))) {
            Some(_) => Owner::Direct,
            None => Owner::Ends(Verdict::Drop(Outcome::IcmpUnmatched)),
        }
    }

    /// Route an error as any other packet.
    fn route_error<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'_>,
        packet: &mut B,
        parsed: &Packet<A>,
    ) -> Verdict {
        let (destination, headers): (A, &Headers) = (parsed.destination(), &parsed.headers);
        let on = (arrival.snapshot, arrival.id);
        egress::route(packet, headers, destination, on, desk)
    }
}
