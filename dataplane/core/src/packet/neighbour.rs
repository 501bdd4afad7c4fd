//! IPv6 neighbour discovery (RFC 4861), as much as takeover of an address needs.
//!
//! | offset in frame | bytes | field |
//! |---|---|---|
//! | 14 | 40 | IPv6 header, hop limit 255, next header ICMPv6 |
//! | 54 | 1, 1, 2 | type (135 solicitation, 136 advertisement), code 0, checksum |
//! | 58 | 4 | reserved; of an advertisement the flags router, solicited, override |
//! | 62 | 16 | target |
//! | 78 | 8 | option: the target's MAC (type 2, length 1) |

use super::{Address as _, ETHERNET_LEN, ETHERTYPE_IPV6, Mac, PacketBuf, be16, checksum, protocol};

/// Bytes of an advertisement's frame.
pub const FRAME_LEN: usize = ICMP + 32;
const ICMP: usize = ETHERNET_LEN + 40;
/// Bytes of a solicitation's ICMPv6 message without options.
const SOLICITATION_LEN: usize = 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Whoever is farther away than the link cannot send this (section 7.1.1).
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;

/// What a valid solicitation asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; zero in a probe for duplicate addresses (RFC 4862, section 5.4.2).
    pub source: u128,
    /// The asker's MAC, as the frame says.
    pub source_mac: Mac,
    /// Address asked for.
    pub target: u128,
}

/// Read a solicitation; `None` when the frame is none, or not valid by section 7.1.1.
#[must_use]
pub fn read_solicitation(frame: &[u8]) -> Option<Solicitation> {
    let ip = frame.get(ETHERNET_LEN..ICMP)?;
    if ip[6] != protocol::ICMPV6 || frame.get(ICMP) != Some(&SOLICITATION) {
        return None;
    }
    let message = frame.get(ICMP..ICMP + usize::from(be16(ip, 4)))?;
    let target = u128::read(message.get(8..SOLICITATION_LEN)?);
    let is_valid = ip[7] == HOP_LIMIT
        && message[1] == 0
        && !target.is_group()
        && checksum::of_icmpv6(ip, message) == 0;
    is_valid.then(|| Solicitation {
        source: u128::read(&ip[8..]),
        source_mac: Mac::read(&frame[6..]),
        target,
    })
}

/// Turn the packet with this solicitation into the advertisement "its target is at `mac`". `false` when the buffer has no
/// room for it; the packet is then not to be sent.
#[must_use = "the packet is no answer when it says false"]
pub fn answer_in_place<B: PacketBuf>(packet: &mut B, asked: &Solicitation, mac: Mac) -> bool {
    let is_probe = asked.source == 0;
    let frame = if is_probe {
        advertisement(mac, asked.target)
    } else {
        frame(mac, asked.source_mac, asked.target, asked.source, SOLICITED | OVERRIDE)
    };
    let length = packet.as_ref().len();
    if length < FRAME_LEN && !packet.prepend(FRAME_LEN - length) {
        return false;
    }
    packet.as_mut()[..FRAME_LEN].copy_from_slice(&frame);
    packet.truncate(FRAME_LEN)
}

/// An unsolicited advertisement to all nodes of the link that `address` is at `mac` now (section 7.2.6).
#[must_use]
pub fn advertisement(mac: Mac, address: u128) -> [u8; FRAME_LEN] {
    frame(mac, multicast_mac(ALL_NODES), address, ALL_NODES, OVERRIDE)
}

/// Where frames to a group go (RFC 2464, section 7).
fn multicast_mac(group: u128) -> Mac {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    Mac([0x33, 0x33, a, b, c, d])
}

fn frame(mac: Mac, to_mac: Mac, target: u128, to: u128, flags: u8) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&to_mac.0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&((FRAME_LEN - ICMP) as u16).to_be_bytes());
    (frame[20], frame[21]) = (protocol::ICMPV6, HOP_LIMIT);
    target.write(&mut frame[22..]);
    to.write(&mut frame[38..]);
    (frame[ICMP], frame[ICMP + 4]) = (ADVERTISEMENT, flags);
    target.write(&mut frame[ICMP + 8..]);
    (frame[ICMP + 24], frame[ICMP + 25]) = (2, 1);
    frame[ICMP + 26..].copy_from_slice(&mac.0);
    let sum = checksum::of_icmpv6(&frame[ETHERNET_LEN..ICMP], &frame[ICMP..]);
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice};

    use super::*;

    const BOX: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HOST: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const TARGET: u128 = 0x2001_0db8 << 96 | 0x64;
    const ASKER: u128 = 0x2001_0db8 << 96 | 9;

    /// As hosts ask: to the target's solicited-node group, with their own MAC as option.
    fn solicitation(source: u128) -> Vec<u8> {
        let group = 0xff02 << 112 | 0x1_ff00_0000 | (TARGET & 0xff_ffff);
        let mut frame = frame(HOST, multicast_mac(group), TARGET, group, 0).to_vec();
        source.write(&mut frame[22..]);
        (frame[ICMP], frame[ICMP + 24]) = (SOLICITATION, 1);
        fix_checksum(&mut frame);
        frame
    }

    fn fix_checksum(frame: &mut [u8]) {
        frame[ICMP + 2..ICMP + 4].fill(0);
        let sum = checksum::of_icmpv6(&frame[ETHERNET_LEN..ICMP], &frame[ICMP..]);
        frame[ICMP + 2..ICMP + 4].copy_from_slice(&sum.to_be_bytes());
    }

    /// Source and destination, and the ICMPv6 message, verified by an independent library.
    fn verified(frame: &[u8]) -> (u128, u128, Icmpv6Slice<'_>) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
        let ip = packet.net.as_ref().and_then(|net| net.ipv6_ref()).expect("IPv6");
        let (source, destination) = (ip.header().source(), ip.header().destination());
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(source, destination), "checksum");
        (u128::from_be_bytes(source), u128::from_be_bytes(destination), icmp)
    }

    #[test]
    fn answers_a_question() {
        let mut frame = solicitation(ASKER);
        let asked = read_solicitation(&frame).expect("a solicitation");
        assert_eq!(asked, Solicitation { source: ASKER, source_mac: HOST, target: TARGET });
        assert!(answer_in_place(&mut frame, &asked, BOX));
        let (source, destination, icmp) = verified(&frame);
        assert_eq!((source, destination, Mac::read(&frame)), (TARGET, ASKER, HOST));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("type") };
        assert!(header.solicited && header.r#override && !header.router);
        assert_eq!(frame[ICMP + 26..], BOX.0);
    }

    #[test]
    fn answers_a_short_and_a_long_question() {
        for extra in [-8i8, 40] {
            let mut frame = solicitation(ASKER);
            frame.resize(FRAME_LEN.saturating_add_signed(extra.into()), 0);
            frame[19] = frame[19].wrapping_add_signed(extra);
            fix_checksum(&mut frame);
            let asked = read_solicitation(&frame).expect("a solicitation");
            assert!(answer_in_place(&mut frame, &asked, BOX));
            assert_eq!(verified(&frame).1, ASKER);
        }
    }

    #[test]
    fn a_probe_is_answered_to_all() {
        let mut frame = solicitation(0);
        let asked = read_solicitation(&frame).expect("a solicitation");
        assert!(answer_in_place(&mut frame, &asked, BOX));
        let (source, destination, icmp) = verified(&frame);
        assert_eq!((source, destination), (TARGET, ALL_NODES));
        assert_eq!(Mac::read(&frame), Mac([0x33, 0x33, 0, 0, 0, 1]));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("type") };
        assert!(!header.solicited && header.r#override);
    }

    #[test]
    fn what_section_7_1_1_refuses() {
        let good = solicitation(ASKER);
        for (offset, value) in [(21, 254), (20, 17), (54, 136), (55, 1), (62, 0xff)] {
            let mut bad = good.clone();
            bad[offset] = value;
            fix_checksum(&mut bad);
            assert!(read_solicitation(&bad).is_none(), "byte {offset}");
        }
        let mut wrong_sum = good.clone();
        wrong_sum[ICMP + 2] ^= 1;
        assert!(read_solicitation(&wrong_sum).is_none());
        assert!((0..good.len()).all(|len| read_solicitation(&good[..len]).is_none()));
    }
}
