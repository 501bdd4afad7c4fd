//! Who gets a packet: the one table of decisions.
//!
//! Read-only: it looks at the packet, the address's steering and the session the table holds, and says what is to
//! be done. The caller does it.

use super::Outcome;
use crate::{
    packet::{Address, Headers, Malformed, Packet, TcpFlags, Transport},
    session::{Session, SessionState},
    steering::{BackendSlot, Cutover, Family, Path, Service, Snapshot, Unknown},
};

/// What is to be done with a packet of a managed address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decision<'a, A> {
    /// It belongs to the session that was found, which this backend owns.
    Follow(&'a Path<A>),
    /// Begin a session.
    Begin {
        owner: &'a Path<A>,
        birth_epoch: u32,
        state: SessionState,
        /// Whether it existed before the box looked: rate-limited.
        adopted: bool,
    },
    /// Let it pass to or from this backend without a session.
    Pass(&'a Path<A>),
    /// Route it as it is: a VM speaking under its own address.
    Route,
    /// Drop it.
    Drop(Outcome),
}

/// Decide on a packet from a client. Where the address speaks QUIC, `quic` says which connection it belongs to.
#[inline]
pub(super) fn from_client<'a, A: Address>(
    headers: &Headers,
    service: &'a Service<A>,
    found: Option<&Session<A>>,
    quic: impl FnOnce() -> QuicClient,
) -> Decision<'a, A> {
    let opens = headers.opens();
    if let Some(session) = found
        && let Some(owner) = service.path(session.owner())
        && belongs_to(session, opens)
    {
        return Decision::Follow(owner);
    }
    let (newcomer, cutover) = match service.active_destination() {
        Some((destination, cutover)) => (destination, Some(cutover)),
        None => (&service.home, None),
    };
    let Some(flags) = headers.tcp_flags() else {
        return match cutover.filter(|_| service.quic.is_some()) {
            Some(cutover) => from_quic_client(service, newcomer, cutover, quic()),
            None => begin(service, newcomer, SessionState::Opening),
        };
    };
    if opens {
        return begin(service, newcomer, SessionState::Opening);
    }
    if flags.has(TcpFlags::RST) {
        return Decision::Pass(&service.home);
    }
    match cutover.map(|cutover| cutover.unknown_tcp) {
        None | Some(Unknown::Source) => adopt(service, &service.home, state_of_adopted(flags)),
        Some(Unknown::Destination) => adopt(service, newcomer, SessionState::Established),
        Some(Unknown::Drop) => Decision::Drop(Outcome::UnknownTcp),
    }
}

/// Whether a packet, the first segment of a connection or not, belongs to this session, or begins another on its ports.
#[inline]
pub(super) fn belongs_to<A: Address>(session: &Session<A>, opens: bool) -> bool {
    !opens || !session.is_over()
}

/// Which connection a packet of a client belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuicClient {
    /// One that begins, or none.
    New,
    /// One of this backend's.
    Of(BackendSlot),
    /// One that exists, and nobody knows.
    Unknown,
}

#[cold]
#[inline(never)]
fn from_quic_client<'a, A: Address>(
    service: &'a Service<A>,
    destination: &'a Path<A>,
    cutover: &Cutover,
    client: QuicClient,
) -> Decision<'a, A> {
    let established = SessionState::Established;
    match (client, cutover.unknown_quic) {
        (QuicClient::Of(owner), _) => {
            adopt(service, service.path(owner).unwrap_or(&service.home), established)
        }
        (QuicClient::Unknown, Unknown::Source) => adopt(service, &service.home, established),
        (QuicClient::Unknown, Unknown::Drop) => Decision::Drop(Outcome::UnknownQuic),
        (QuicClient::Unknown, Unknown::Destination) | (QuicClient::New, _) => {
            begin(service, destination, SessionState::Opening)
        }
    }
}

#[inline]
fn begin<'a, A: Address>(
    service: &Service<A>,
    owner: &'a Path<A>,
    state: SessionState,
) -> Decision<'a, A> {
    Decision::Begin { owner, birth_epoch: service.epoch, state, adopted: false }
}

/// Decide on a packet from a client to the own address of the backend at the end of `path`: the client chose the VM itself.
/// It is followed all the same, because only the session tells the VM's answer from one in the managed
/// address's name.
pub(super) fn from_direct_client<'a, A: Address>(
    headers: &Headers,
    service: &Service<A>,
    path: &'a Path<A>,
    found: Option<&Session<A>>,
) -> Decision<'a, A> {
    let (flags, opens) = (headers.tcp_flags(), headers.opens());
    let adopted = flags.is_some() && !opens;
    // The locator may have been another backend's when the session began.
    match found.filter(|session| session.owner() == path.slot) {
        Some(session) if belongs_to(session, opens) => Decision::Follow(path),
        _ if flags.is_some_and(|flags| flags.has(TcpFlags::RST)) => Decision::Route,
        _ => Decision::Begin {
            owner: path,
            birth_epoch: service.epoch,
            state: flags.filter(|_| adopted).map_or(SessionState::Opening, state_of_adopted),
            adopted,
        },
    }
}

/// Decide on a packet from the backend at the end of `sender`.
#[inline]
pub(super) fn from_backend<'a, A: Address>(
    headers: &Headers,
    service: &'a Service<A>,
    sender: &'a Path<A>,
    found: Option<&Session<A>>,
) -> Decision<'a, A> {
    let opens = headers.opens();
    let is_home = sender.slot == service.home.slot;
    let may_begin = is_home || service.active_destination().is_some();
    if let Some(session) = found.filter(|session| service.path(session.owner()).is_some()) {
        // The ports of one that is over may be used anew by whichever VM may begin sessions.
        if belongs_to(session, opens) || !may_begin {
            return if session.owner() == sender.slot {
                Decision::Follow(sender)
            } else {
                Decision::Drop(Outcome::OtherOwner)
            };
        }
    }
    if !may_begin {
        // A VM with an address of its own may use it before it serves; a clone may not speak in the source's name.
        return match sender.locator {
            Some(_) => Decision::Route,
            None => Decision::Drop(Outcome::BeforeCutover),
        };
    }
    match headers.tcp_flags() {
        None => begin(service, sender, SessionState::Opening),
        Some(_) if opens => begin(service, sender, SessionState::Opening),
        Some(flags) if flags.has(TcpFlags::RST) && is_home => Decision::Pass(sender),
        Some(flags) if is_home => adopt(service, sender, state_of_adopted(flags)),
        Some(_) => Decision::Drop(Outcome::StaleClone),
    }
}

/// A session that existed before the box saw it: the source's are old, when a cutover has happened.
#[inline]
fn adopt<'a, A: Address>(
    service: &Service<A>,
    owner: &'a Path<A>,
    state: SessionState,
) -> Decision<'a, A> {
    let is_old = owner.slot == service.home.slot && service.active_destination().is_some();
    Decision::Begin { owner, birth_epoch: service.epoch - u32::from(is_old), state, adopted: true }
}

/// What is known by a FIN is about to end, and must not hold a drain for hours.
fn state_of_adopted(flags: TcpFlags) -> SessionState {
    if flags.has(TcpFlags::FIN) { SessionState::Closing } else { SessionState::Established }
}

/// What does not take the way of most packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusual {
    /// From one VM of the box to another.
    Hairpin,
    /// A fragment.
    Fragment,
    /// An ICMP error.
    Error,
    /// To a group, or for the link alone.
    Group,
    /// It cannot be steered.
    Dropped(Outcome),
}

/// What a packet to or from a managed address is that does not take the way of most.
#[inline]
pub(super) fn unusual<A: Family>(
    packet: &Packet<A>,
    snapshot: &Snapshot,
    from_backend: bool,
) -> Option<Unusual> {
    if from_backend {
        if snapshot.plane::<A>().serves(packet.destination()) {
            return Some(Unusual::Hairpin);
        }
        if packet.destination().is_group() || packet.destination().is_link_local() {
            return Some(Unusual::Group);
        }
    }
    (!packet.headers.transport.has_sessions()).then(|| unusual_transport(packet.headers.transport))
}

#[cold]
fn unusual_transport(transport: Transport) -> Unusual {
    match transport {
        Transport::Fragment => Unusual::Fragment,
        Transport::IcmpError => Unusual::Error,
        other => Unusual::Dropped(without_sessions(other)),
    }
}

#[cold]
pub(super) fn without_sessions(transport: Transport) -> Outcome {
    match transport {
        Transport::Fragment => Outcome::FragmentOrphan,
        Transport::SourceRouted => Outcome::SourceRouted,
        Transport::IcmpError => Outcome::IcmpUnmatched,
        _ => Outcome::IcmpUnsupported,
    }
}

/// How a packet ends that cannot be read.
#[cold]
pub(super) fn bad<A: Family>(malformed: Malformed) -> Outcome {
    match malformed {
        Malformed::Ip if A::BITS == u32::BITS as u8 => Outcome::BadIpv4,
        Malformed::Ip => Outcome::BadIpv6,
        Malformed::Transport => Outcome::BadTransport,
    }
}
