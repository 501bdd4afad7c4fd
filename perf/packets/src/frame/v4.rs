//! Frames with IPv4 (RFC 791).

use tidegate_dataplane::packet::{ETHERNET_LEN, Mac, checksum};

pub use crate::client::endpoint as client;

use super::{
    ACCESS_MAC, CLIENT_MAC, End, Family, Kind, SERVICE_PORT, SOURCE_MAC, UPLINK_MAC,
    write_transport,
};

/// The managed address, 10.9.0.100.
pub const MANAGED: u32 = 0x0a09_0064;
/// Its home's own address, 10.8.0.11.
pub const LOCATOR: u32 = 0x0a08_000b;

/// Bytes of the header.
pub(super) const HEADER: usize = 20;

/// A frame of `bytes` bytes from client `number` to the managed address, all checksums correct.
///
/// # Panics
/// When `bytes` is too small for its headers.
#[must_use]
pub fn build(number: u32, kind: Kind, bytes: usize) -> Vec<u8> {
    let mut frame = between(client(number), (MANAGED, SERVICE_PORT), kind, bytes);
    write_macs(&mut frame, UPLINK_MAC, CLIENT_MAC);
    frame
}

/// A frame of `bytes` bytes from the managed address's home to client `number`, all checksums correct.
///
/// # Panics
/// When `bytes` is too small for its headers.
#[must_use]
pub fn reply(number: u32, kind: Kind, bytes: usize) -> Vec<u8> {
    let mut frame = between((LOCATOR, SERVICE_PORT), client(number), kind, bytes);
    write_macs(&mut frame, ACCESS_MAC, SOURCE_MAC);
    frame
}

fn write_macs(frame: &mut [u8], destination: Mac, source: Mac) {
    frame[0..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
}

fn between(from: End<u32>, to: End<u32>, kind: Kind, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let (header, segment) = frame[ETHERNET_LEN..].split_at_mut(HEADER);
    let total = ((bytes - ETHERNET_LEN) as u16).to_be_bytes();
    write_header(header, total, kind.protocol(Family::V4), [from.0, to.0]);
    write_transport(segment, (from.1, to.1), kind, Family::V4, &header[12..20]);
    frame
}

/// A header of a packet of `total` bytes, its checksum correct.
pub(super) fn write_header(header: &mut [u8], total: [u8; 2], protocol: u8, ends: [u32; 2]) {
    header[0..12]
        .copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header[12..16].copy_from_slice(&ends[0].to_be_bytes());
    header[16..20].copy_from_slice(&ends[1].to_be_bytes());
    let checksum = !checksum::sum(&header[..HEADER]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
