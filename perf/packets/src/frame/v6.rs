//! Frames with IPv6 (RFC 8200), addresses from the block for documentation (RFC 3849).

use tidegate_dataplane::packet::ETHERNET_LEN;

use super::{CLIENT_MAC, Family, Kind, SERVICE_PORT, UPLINK_MAC, write_transport};

/// The managed address, 2001:db8:9::64.
pub const MANAGED: u128 = 0x2001_0db8_0009_0000_0000_0000_0000_0064;

/// Clients are in 2001:db8:b::/96.
const CLIENTS: u128 = 0x2001_0db8_000b_0000_0000_0000_0000_0000;

/// Bytes of the header.
pub(super) const HEADER: usize = 40;

/// Address and port of client `number`; distinct for distinct numbers.
#[inline]
#[must_use]
pub fn client(number: u32) -> (u128, u16) {
    (CLIENTS + u128::from(number >> 4), 1024 + (number & 0xf) as u16)
}

/// A frame of `bytes` bytes from client `number` to the managed address, its checksum correct.
///
/// # Panics
/// When `bytes` is too small for its headers.
#[must_use]
pub fn build(number: u32, kind: Kind, bytes: usize) -> Vec<u8> {
    let (address, port) = client(number);
    let mut frame = vec![0; bytes];
    frame[0..6].copy_from_slice(&UPLINK_MAC.0);
    frame[6..12].copy_from_slice(&CLIENT_MAC.0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let (header, segment) = frame[ETHERNET_LEN..].split_at_mut(HEADER);
    let length = (segment.len() as u16).to_be_bytes();
    write_header(header, length, kind.protocol(Family::V6), [address, MANAGED]);
    write_transport(segment, (port, SERVICE_PORT), kind, Family::V6, &header[8..40]);
    frame
}

/// A header of a packet with `length` bytes after it.
pub(super) fn write_header(header: &mut [u8], length: [u8; 2], protocol: u8, ends: [u128; 2]) {
    header[0..8].copy_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol, 64]);
    header[8..24].copy_from_slice(&ends[0].to_be_bytes());
    header[24..40].copy_from_slice(&ends[1].to_be_bytes());
}
