//! ARP as it passes: own and hosted addresses are answered, senders on the link are learned.

use super::{Outcome, Punt, Verdict, shard::Punts};
use crate::{
    packet::arp,
    steering::{Port, PortId, PortRole, Snapshot},
};

/// Answer or note an ARP frame that arrived on `port`.
pub(super) fn arp(
    snapshot: &Snapshot,
    port_id: PortId,
    port: &Port,
    frame: &mut [u8],
    punts: &mut Punts,
) -> Verdict {
    let Some(packet) = arp::read(frame) else { return Verdict::Drop(Outcome::BadArp) };
    let (sender, mac) = (packet.sender, packet.sender_mac);
    // Several ports may share a prefix, so the route need not lead to this one; the control core checks the link.
    let on_link = snapshot.fib.find(sender).is_some_and(|hop| hop.via.is_none());
    let known = snapshot
        .neighbour(sender)
        .is_some_and(|it| it.port == port_id && it.macs.destination() == mac);
    if on_link && !known && !mac.is_group() && snapshot.managed(sender).is_none() {
        punts.push(Punt::Neighbour { port: port_id, address: sender, mac });
    }
    let hosted = || {
        port.role == PortRole::Uplink
            && snapshot.managed(packet.target).is_some_and(|address| address.hosted)
    };
    if packet.request && (port.addresses.contains(&packet.target) || hosted()) {
        arp::answer_in_place(frame, port.mac);
        return Verdict::Transmit(port_id, Outcome::ArpAnswered);
    }
    Verdict::Drop(Outcome::ArpSeen)
}
