//! Which connections there are, by what servers have said.

use std::{collections::BTreeMap, net::IpAddr};

use tidegate_dataplane::{
    packet::protocol,
    session::Tuple,
    steering::{Backend, BackendSlot, ManagedAddress},
};

use super::{Model, backends, cut_over};
use crate::packet::{ID_LEN, Packet};

/// Who chose a connection ID for a connection to this address.
pub(crate) type Connections = BTreeMap<(IpAddr, Vec<u8>), BackendSlot>;

/// Which connection a client goes on with that has no session.
pub(super) enum Connection {
    Of(Backend),
    /// One that nobody knows.
    Unknown,
}

/// What a QUIC packet says: the receiver's connection ID, and the sender's where the header is long.
struct Header {
    to: Vec<u8>,
    from: Option<Vec<u8>>,
}

/// RFC 8999, section 5.
fn read(datagram: &[u8]) -> Option<Header> {
    let mut bytes = datagram.iter().copied();
    let is_long = bytes.next()? >= 0x80;
    let mut take = |count: u8| -> Option<Vec<u8>> { (0..count).map(|_| bytes.next()).collect() };
    if !is_long {
        return Some(Header { to: take(ID_LEN)?, from: None });
    }
    take(4)?;
    let len = take(1)?[0];
    let to = take(len)?;
    let len = take(1)?[0];
    Some(Header { to, from: Some(take(len)?) })
}

fn speaks(address: &ManagedAddress, port: u16, packet: &Packet) -> bool {
    packet.protocol() == protocol::UDP
        && address.quic.is_some_and(|quic| quic.ports.contains(&port) && port != 0)
}

impl Model {
    /// The connection of a client's packet without session, unless it begins one.
    pub(super) fn connection(
        &self,
        address: &ManagedAddress,
        packet: &Packet,
    ) -> Option<Connection> {
        if !speaks(address, packet.destination_port, packet) {
            return None;
        }
        let Header { to, from } = read(&packet.payload())?;
        let (_, cutover) = cut_over(address)?;
        // The source's datagrams have had their time.
        let is_over = cutover.datagrams_end_ms.is_some_and(|end_ms| self.now_ms > end_ms);
        let owner = self.connections.get(&(address.address, to));
        let mut vms = backends(address).filter(|vm| !is_over || vm.slot != address.home.slot);
        match owner.and_then(|slot| vms.find(|vm| vm.slot == *slot)) {
            Some(vm) => Some(Connection::Of(vm)),
            None if from.is_some() || is_over => None,
            None => Some(Connection::Unknown),
        }
    }

    /// The VM says this in the session with `tuple`.
    pub(super) fn learn(&mut self, tuple: &Tuple, owner: BackendSlot, packet: &Packet) {
        let address = self.addresses.get(&tuple.address);
        if !address.is_some_and(|address| speaks(address, tuple.address_port, packet)) {
            return;
        }
        let header = read(&packet.payload());
        let Some(id) = header.and_then(|header| header.from) else { return };
        let known = self.connections.get(&(tuple.address, id.clone()));
        let is_others = known.is_some_and(|known| {
            *known != owner
                && address.is_some_and(|address| backends(address).any(|vm| vm.slot == *known))
        });
        if id.len() == usize::from(ID_LEN) && !is_others {
            self.connections.insert((tuple.address, id), owner);
        }
    }
}
