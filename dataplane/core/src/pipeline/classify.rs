//! Who gets a packet: the one table of decisions.
//!
//! Read-only: it looks at the packet, the address's steering and the session the table holds, and says what is to
//! be done. The caller does it.

use super::{Outcome, egress};
use crate::{
    packet::{Ipv4Packet, TcpFlags, Transport},
    session::{Session, SessionState},
    steering::{Backend, BackendSlot, Direction, ManagedAddress, Rewrite, Snapshot, UnknownTcp},
};

/// What is to be done with a packet of a managed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It belongs to the session that was found.
    Follow(BackendSlot),
    /// Begin a session.
    Begin {
        owner: BackendSlot,
        birth_epoch: u32,
        state: SessionState,
        /// Whether it existed before the box looked: rate-limited.
        adopted: bool,
    },
    /// Let it pass to or from this backend without a session.
    Pass(BackendSlot),
    /// Route it as it is: a VM speaking under its own address.
    Route,
    /// Drop it.
    Drop(Outcome),
}

/// Decide on a packet from a client.
#[inline]
pub(super) fn from_client(
    packet: &Ipv4Packet,
    address: &ManagedAddress,
    found: Option<&Session>,
) -> Decision {
    let opens = matches!(packet.transport, Transport::Tcp(segment) if segment.flags.opens());
    if let Some(session) =
        found.filter(|session| Snapshot::backend(address, session.owner()).is_some())
        && (session.is_live() || !opens)
    {
        return Decision::Follow(session.owner());
    }
    let (newcomer, unknown_tcp) = match address.active_destination() {
        Some((destination, policy)) => (destination.slot, Some(policy)),
        None => (address.home.slot, None),
    };
    let begin =
        |owner, state| Decision::Begin { owner, birth_epoch: address.epoch, state, adopted: false };
    let Transport::Tcp(segment) = packet.transport else {
        return begin(newcomer, SessionState::Established);
    };
    if opens {
        return begin(newcomer, SessionState::Opening);
    }
    if segment.flags.has(TcpFlags::RST) {
        return Decision::Pass(address.home.slot);
    }
    match unknown_tcp {
        None | Some(UnknownTcp::Source) => adopt(address, segment.flags),
        Some(UnknownTcp::Destination) => begin(newcomer, SessionState::Established),
        Some(UnknownTcp::Drop) => Decision::Drop(Outcome::UnknownTcp),
    }
}

/// Decide on a packet from a client to the own address of `backend`: the client chose the VM itself.
/// It is followed all the same, because only the session tells the VM's answer from one in the managed
/// address's name.
pub(super) fn from_direct_client(
    packet: &Ipv4Packet,
    address: &ManagedAddress,
    backend: &Backend,
    found: Option<&Session>,
) -> Decision {
    let flags = match packet.transport {
        Transport::Tcp(segment) => Some(segment.flags),
        _ => None,
    };
    let opens = flags.is_some_and(TcpFlags::opens);
    // The locator may have been another backend's when the session began.
    match found.filter(|session| session.owner() == backend.slot) {
        Some(session) if session.is_live() || !opens => Decision::Follow(session.owner()),
        _ if flags.is_some_and(|flags| flags.has(TcpFlags::RST)) => Decision::Route,
        _ => Decision::Begin {
            owner: backend.slot,
            birth_epoch: address.epoch,
            state: if opens { SessionState::Opening } else { SessionState::Established },
            adopted: flags.is_some() && !opens,
        },
    }
}

/// Decide on a packet from `sender`, a backend of `address`.
pub(super) fn from_backend(
    packet: &Ipv4Packet,
    address: &ManagedAddress,
    sender: &Backend,
    found: Option<&Session>,
) -> Decision {
    let flags = match packet.transport {
        Transport::Tcp(segment) => Some(segment.flags),
        _ => None,
    };
    let opens = flags.is_some_and(TcpFlags::opens);
    let is_home = sender.slot == address.home.slot;
    let may_begin = is_home || address.active_destination().is_some();
    if let Some(session) =
        found.filter(|session| Snapshot::backend(address, session.owner()).is_some())
    {
        // A closed session's ports may be used anew by whichever VM may begin sessions.
        if session.is_live() || !opens || !may_begin {
            return if session.owner() == sender.slot {
                Decision::Follow(sender.slot)
            } else {
                Decision::Drop(Outcome::OtherOwner)
            };
        }
    }
    let has_own_address = matches!(sender.rewrite, Rewrite::Nat(_));
    if !may_begin {
        // A VM with an address of its own may use it before it serves; a clone may not speak in the source's name.
        return if has_own_address {
            Decision::Route
        } else {
            Decision::Drop(Outcome::BeforeCutover)
        };
    }
    let begin = |state| Decision::Begin {
        owner: sender.slot,
        birth_epoch: address.epoch,
        state,
        adopted: false,
    };
    match flags {
        None => begin(SessionState::Established),
        Some(_) if opens => begin(SessionState::Opening),
        Some(flags) if flags.has(TcpFlags::RST) && is_home => Decision::Pass(sender.slot),
        Some(flags) if is_home => adopt(address, flags),
        Some(_) => Decision::Drop(Outcome::StaleClone),
    }
}

/// An existing session of the source that the box has not seen before: old, when a cutover has happened.
fn adopt(address: &ManagedAddress, flags: TcpFlags) -> Decision {
    let cut_over = address.active_destination().is_some();
    Decision::Begin {
        owner: address.home.slot,
        birth_epoch: address.epoch - u32::from(cut_over),
        // What begins with a FIN is about to end, and must not hold a drain for hours.
        state: if flags.has(TcpFlags::FIN) {
            SessionState::Closing
        } else {
            SessionState::Established
        },
        adopted: true,
    }
}

/// What cannot be steered, whoever sent it.
pub(super) fn unsupported(
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    direction: Direction<'_>,
) -> Option<Outcome> {
    if matches!(direction, Direction::FromBackend(..)) {
        if snapshot.managed(packet.destination).is_some() {
            return Some(Outcome::ManagedToManaged);
        }
        // What a VM says to its gateway is no session of the service, and must not hold a drain.
        if let Some(outcome) = egress::ends_here(packet, snapshot) {
            return Some(outcome);
        }
    }
    match packet.transport {
        Transport::Tcp(_) | Transport::Udp { .. } | Transport::Echo { .. } => None,
        Transport::Fragment => Some(Outcome::FragmentUnsupported),
        Transport::IcmpOther => Some(Outcome::IcmpUnsupported),
        Transport::Other => Some(Outcome::ProtocolUnsupported),
    }
}
