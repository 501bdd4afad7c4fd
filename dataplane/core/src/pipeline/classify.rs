//! Who gets a packet: the one table of decisions.
//!
//! Read-only: it looks at the packet, the address's steering and the session the table holds, and says what is to
//! be done. The caller does it.

use super::Outcome;
use crate::{
    packet::{Address, Headers, Packet, TcpFlags, Transport},
    session::{Session, SessionState},
    steering::{Family, Path, Service, Snapshot, UnknownTcp},
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

/// Decide on a packet from a client.
#[inline]
pub(super) fn from_client<'a, A: Address>(
    headers: &Headers,
    service: &'a Service<A>,
    found: Option<&Session<A>>,
) -> Decision<'a, A> {
    let opens = headers.opens();
    if let Some(session) = found
        && let Some(owner) = service.path(session.owner())
        && (session.is_live() || !opens)
    {
        return Decision::Follow(owner);
    }
    let (newcomer, unknown_tcp) = match service.active_destination() {
        Some((destination, policy)) => (destination, Some(policy)),
        None => (&service.home, None),
    };
    let begin =
        |owner, state| Decision::Begin { owner, birth_epoch: service.epoch, state, adopted: false };
    let Some(flags) = headers.tcp_flags() else {
        return begin(newcomer, SessionState::Opening);
    };
    if opens {
        return begin(newcomer, SessionState::Opening);
    }
    if flags.has(TcpFlags::RST) {
        return Decision::Pass(&service.home);
    }
    match unknown_tcp {
        None | Some(UnknownTcp::Source) => adopt(service, flags),
        Some(UnknownTcp::Destination) => begin(newcomer, SessionState::Established),
        Some(UnknownTcp::Drop) => Decision::Drop(Outcome::UnknownTcp),
    }
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
        Some(session) if session.is_live() || !opens => Decision::Follow(path),
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
        // A closed session's ports may be used anew by whichever VM may begin sessions.
        if session.is_live() || !opens || !may_begin {
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
    let begin = |state| Decision::Begin {
        owner: sender,
        birth_epoch: service.epoch,
        state,
        adopted: false,
    };
    match headers.tcp_flags() {
        None => begin(SessionState::Opening),
        Some(_) if opens => begin(SessionState::Opening),
        Some(flags) if flags.has(TcpFlags::RST) && is_home => Decision::Pass(sender),
        Some(flags) if is_home => adopt(service, flags),
        Some(_) => Decision::Drop(Outcome::StaleClone),
    }
}

/// An existing session of the source that the box has not seen before: old, when a cutover has happened.
fn adopt<A: Address>(service: &Service<A>, flags: TcpFlags) -> Decision<'_, A> {
    let cut_over = service.active_destination().is_some();
    Decision::Begin {
        owner: &service.home,
        birth_epoch: service.epoch - u32::from(cut_over),
        state: state_of_adopted(flags),
        adopted: true,
    }
}

/// What is known by a FIN is about to end, and must not hold a drain for hours.
fn state_of_adopted(flags: TcpFlags) -> SessionState {
    if flags.has(TcpFlags::FIN) { SessionState::Closing } else { SessionState::Established }
}

/// What cannot be steered, whoever sent it.
#[inline]
pub(super) fn unsupported<A: Family>(
    packet: &Packet<A>,
    snapshot: &Snapshot,
    from_backend: bool,
) -> Option<Outcome> {
    if from_backend {
        if snapshot.plane::<A>().managed(packet.destination()).is_some() {
            return Some(Outcome::ManagedToManaged);
        }
        if packet.destination().is_group() || packet.destination().is_link_local() {
            return Some(Outcome::Group);
        }
    }
    (!packet.headers.transport.has_sessions()).then(|| without_sessions(packet.headers.transport))
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
