//! QUIC clients whose address changes: the connection ID says whose they are (RFC 9000, section 9).
//!
//! | after cutover, from a client without session | goes to |
//! |---|---|
//! | any packet with a connection ID that the box has seen its server choose | the connection's owner |
//! | a long header otherwise: a connection begins | destination |
//! | a short header otherwise | as the cutover's policy says; by default the source |
//!
//! Before it there is but one VM to go to; and once the source's datagrams have had their time (`datagrams_end_ms`), too.

use super::{classify::QuicClient, shard::Desk};
use crate::{
    packet::{Address, Headers, QuicPacket},
    session::SessionKey,
    steering::{BackendSlot, Service},
};

/// Which connection a client's packet belongs to that has no session.
#[cold]
#[inline(never)]
pub(super) fn client<A: Address>(
    desk: &Desk,
    service: &Service<A>,
    key: &SessionKey<A>,
    headers: &Headers,
    frame: &[u8],
) -> QuicClient {
    let quic = service.quic.filter(|quic| quic.is_spoken_at(key.address_port()));
    let Some((quic, datagram)) = quic.zip(headers.udp_payload(frame)) else {
        return QuicClient::New;
    };
    let (id, exists) = match QuicPacket::read(datagram, quic.connection_id_len) {
        Some(QuicPacket::Long { destination, .. }) => (destination, false),
        Some(QuicPacket::Short { destination }) => (destination, true),
        None => return QuicClient::New,
    };
    let is_over = service.cut_over.is_some_and(|cutover| cutover.datagrams_ended(desk.now_ms));
    let is_of = |owner: &BackendSlot| match service.path(*owner) {
        Some(path) => !is_over || path.slot != service.home.slot,
        None => false,
    };
    match desk.connections.owner(service.address, id).filter(is_of) {
        Some(owner) => {
            desk.counters.quic_moved.add(1);
            QuicClient::Of(owner)
        }
        None if exists && !is_over => {
            desk.counters.quic_unknown.add(1);
            QuicClient::Unknown
        }
        None => QuicClient::New,
    }
}

/// Remember the connection ID that the server in `owner` chooses with this packet, if it does.
#[cold]
#[inline(never)]
pub(super) fn learn<A: Address>(
    desk: &Desk,
    service: &Service<A>,
    (key, owner): (&SessionKey<A>, BackendSlot),
    headers: &Headers,
    frame: &[u8],
) {
    let quic = service.quic.filter(|quic| quic.is_spoken_at(key.address_port()));
    let Some((quic, datagram)) = quic.zip(headers.udp_payload(frame)) else { return };
    let Some(QuicPacket::Long { version: 1.., source, .. }) = QuicPacket::read(datagram, 0) else {
        return;
    };
    // No server takes another's away, whatever a client had it say.
    let is_others = |known: BackendSlot| known != owner && service.path(known).is_some();
    if source.len() == usize::from(quic.connection_id_len)
        && !desk.connections.owner(key.address(), source).is_some_and(is_others)
    {
        desk.connections.learn(key.address(), source, owner, desk.now_ms);
    }
}
