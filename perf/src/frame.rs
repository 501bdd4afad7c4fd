//! The frames of the benches: what clients of the managed address send.

/// Address and port of a client by its number: the same as the generator's.
pub use tidegate_pktgen::client::endpoint as client;

use tidegate_dataplane::packet::{Mac, TcpFlags, checksum, protocol};

/// MAC of the box's uplink.
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// MAC frames come from.
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 9, 2]);
/// MAC of the managed address's home.
pub const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 10, 1]);
/// The managed address, 10.9.0.100.
pub const MANAGED: u32 = 0x0a09_0064;
/// Its home's own address, 10.8.0.11.
pub const LOCATOR: u32 = 0x0a08_000b;
/// The migration's destination, 10.8.0.12.
pub const DESTINATION: u32 = 0x0a08_000c;
/// The service's port.
pub const SERVICE_PORT: u16 = 80;
/// The smallest Ethernet frame, without its check sequence.
pub const SMALLEST: usize = 60;

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// What the frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
}

impl Kind {
    /// A segment in the middle of a session.
    pub const ACK: Self = Self::Tcp(TcpFlags::ACK);
    /// The first segment of a session.
    pub const SYN: Self = Self::Tcp(TcpFlags::SYN);
}

/// A frame of `bytes` bytes from client `number` to the managed address, all checksums correct.
///
/// # Panics
/// When `bytes` is too small for its headers.
#[must_use]
pub fn build(number: u32, kind: Kind, bytes: usize) -> Vec<u8> {
    let (address, port) = client(number);
    let mut frame = vec![0; bytes];
    frame[0..6].copy_from_slice(&UPLINK_MAC.0);
    frame[6..12].copy_from_slice(&CLIENT_MAC.0);
    let total = ((bytes - ETHERNET) as u16).to_be_bytes();
    let protocol = if kind == Kind::Udp { protocol::UDP } else { protocol::TCP };
    frame[12..26]
        .copy_from_slice(&[8, 0, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame[26..30].copy_from_slice(&address.to_be_bytes());
    frame[30..34].copy_from_slice(&MANAGED.to_be_bytes());
    let ip = !checksum::sum(&frame[ETHERNET..ETHERNET + IPV4]);
    frame[24..26].copy_from_slice(&ip.to_be_bytes());

    let start = ETHERNET + IPV4;
    frame[start..start + 2].copy_from_slice(&port.to_be_bytes());
    frame[start + 2..start + 4].copy_from_slice(&SERVICE_PORT.to_be_bytes());
    let length = (bytes - start) as u16;
    let checksum_at = match kind {
        Kind::Udp => {
            frame[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
            start + 6
        }
        Kind::Tcp(flags) => {
            frame[start + 4..start + 8].copy_from_slice(&1000u32.to_be_bytes());
            frame[start + 8..start + 12].copy_from_slice(&2000u32.to_be_bytes());
            frame[start + 12..start + 16].copy_from_slice(&[0x50, flags.0, 0xff, 0xff]);
            start + 16
        }
    };
    // RFC 9293, 3.1 and RFC 768: the pseudo-header is both addresses, the protocol and the length.
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, protocol]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend_from_slice(&frame[start..]);
    let transport = !checksum::sum(&pseudo);
    frame[checksum_at..checksum_at + 2].copy_from_slice(&transport.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn another_parser_finds_the_checksums_right() {
        for (number, kind) in [(0, Kind::ACK), (7_999_999, Kind::SYN), (65_537, Kind::Udp)] {
            for bytes in [SMALLEST, 61, 1514] {
                let frame = build(number, kind, bytes);
                assert_eq!(frame.len(), bytes);
                let read = PacketHeaders::from_ethernet_slice(&frame).expect("well formed");
                let Some(NetHeaders::Ipv4(ip, _)) = read.net else { panic!("not IPv4") };
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                let payload = read.payload.slice();
                match read.transport.expect("a transport header") {
                    TransportHeader::Tcp(tcp) => {
                        assert_eq!(
                            tcp.checksum,
                            tcp.calc_checksum_ipv4(&ip, payload).expect("fits")
                        );
                    }
                    TransportHeader::Udp(udp) => {
                        assert_eq!(
                            udp.checksum,
                            udp.calc_checksum_ipv4(&ip, payload).expect("fits")
                        );
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn clients_are_distinct() {
        let seen: std::collections::HashSet<_> = (0..100_000).map(client).collect();
        assert_eq!(seen.len(), 100_000);
    }
}
