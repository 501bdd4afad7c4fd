//! ICMP messages (RFC 792, RFC 4443), without their checksums.

use tidegate_dataplane::packet::protocol;

use super::{Family, v4, v6, write_ports};

/// Bytes of the header.
pub(super) const HEADER: usize = 8;
/// Bytes of the quoted segment: those RFC 792 asks for.
pub(super) const QUOTED: usize = 8;
/// Where the checksum is.
pub(super) const CHECKSUM: usize = 2;

/// An echo request.
pub(super) fn write_echo(message: &mut [u8], family: Family, identifier: u16) {
    message[0] = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
}

/// "Port unreachable", about the beginning of a TCP segment that went the other way: `addresses` are the message's own,
/// `ports` the quoted segment's.
pub(super) fn write_unreachable(
    message: &mut [u8],
    family: Family,
    addresses: &[u8],
    ports: (u16, u16),
) {
    let (type_and_code, quoted) = match family {
        Family::V4 => ([3, 3], &mut message[HEADER..HEADER + v4::HEADER + QUOTED]),
        Family::V6 => ([1, 4], &mut message[HEADER..HEADER + v6::HEADER + QUOTED]),
    };
    let (client, managed) = addresses.split_at(addresses.len() / 2);
    let segment = match family {
        Family::V4 => {
            let (header, segment) = quoted.split_at_mut(v4::HEADER);
            let ends = [managed, client].map(u32_of);
            v4::write_header(header, [0, 40], protocol::TCP, ends);
            segment
        }
        Family::V6 => {
            let (header, segment) = quoted.split_at_mut(v6::HEADER);
            let ends = [managed, client].map(u128_of);
            v6::write_header(header, [0, 20], protocol::TCP, ends);
            segment
        }
    };
    write_ports(segment, ports.0, ports.1);
    message[..2].copy_from_slice(&type_and_code);
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

fn u128_of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}
