//! UDP-Lite (RFC 3828) and DCCP (RFC 4340), which the library does not know: headers, and checksums that cover the addresses and
//! as much of the packet as they say.

use std::net::IpAddr;

pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const DCCP: u8 = 33;

/// A packet from one port to another. Of UDP-Lite `covered` counts bytes, header included; of DCCP words of the payload, plus
/// one. Zero is all of it.
pub(crate) fn packet(
    protocol: u8,
    (from, to): (IpAddr, IpAddr),
    ports: (u16, u16),
    covered: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.extend(match protocol {
        UDP_LITE => vec![0, covered, 0, 0],
        // Words of the header; a packet of type DATA with a short sequence number.
        _ => vec![3, covered, 0, 0, 2 << 1, 0, 0, 7],
    });
    bytes.extend(payload);
    let checksum = match !sum(protocol, from, to, &bytes) {
        0 if protocol == UDP_LITE => 0xffff,
        checksum => checksum,
    };
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Whether the receiver takes the packet for undamaged.
pub(crate) fn is_intact(protocol: u8, from: IpAddr, to: IpAddr, packet: &[u8]) -> bool {
    let is_there = protocol != UDP_LITE || packet[6..8] != [0, 0];
    is_there && sum(protocol, from, to, packet) == 0xffff
}

/// The one's complement sum of the pseudo header and what is covered.
fn sum(protocol: u8, from: IpAddr, to: IpAddr, packet: &[u8]) -> u16 {
    let covered = match (protocol, usize::from(packet[5])) {
        (_, 0) => packet.len(),
        (UDP_LITE, bytes) => bytes,
        (_, words) => usize::from(packet[4]) * 4 + ((words & 0xf) - 1) * 4,
    };
    let mut bytes = [octets(from), octets(to)].concat();
    bytes.extend((packet.len() as u32).to_be_bytes());
    bytes.extend([0, protocol]);
    bytes.extend(&packet[..covered.min(packet.len())]);
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |it| (*it).into()));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
