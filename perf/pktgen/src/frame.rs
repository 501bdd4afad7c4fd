//! The frames: TCP over IPv4 without options, and a tag where the payload begins.
//!
//! | bytes | what |
//! |---|---|
//! | 0..14 | Ethernet |
//! | 14..34 | IPv4 |
//! | 34..54 | TCP |
//! | 54..58 | tag: session |
//! | 58..60 | tag: life of the session, of those that had its ports |
//! | 60 | tag: VM it must reach, or that sent it; 0: either |
//! | 61 | tag: [`MAGIC`] |
//! | 62..70 | tag: time stamp counter when it was sent |
//! | 70.. | zeros |
//!
//! Numbers are big-endian. The last ACK of a session has no payload, because its sender has closed: it has no tag.

use crate::checksum;

/// The smallest frame with a tag.
pub const SMALLEST: usize = 70;
/// A frame without payload, padded to what Ethernet asks for.
pub const BARE: usize = 60;
/// The largest frame, of an MTU of 1500.
pub const LARGEST: usize = 1514;

/// Ethernet, IPv4 and TCP headers.
pub const HEADERS: usize = 54;

const IPV4: usize = 14;
const TCP: usize = 34;
const TAG: usize = HEADERS;
const STAMP: usize = 62;
const TCP_CHECKSUM: usize = TCP + 16;
const MAGIC: u8 = 0x74;

/// A MAC address.
pub type Mac = [u8; 6];

/// Flags of a TCP segment.
pub mod flags {
    /// No more from its sender.
    pub const FIN: u8 = 0x01;
    /// Begins a session.
    pub const SYN: u8 = 0x02;
    /// Hand it to the application.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// What a frame's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// MAC it comes from.
    pub source_mac: Mac,
    /// MAC it goes to.
    pub destination_mac: Mac,
    /// Address and port it comes from, host byte order.
    pub source: (u32, u16),
    /// Address and port it goes to.
    pub destination: (u32, u16),
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Number of the session.
    pub session: u32,
    /// How many sessions have had these ports.
    pub life: u16,
    /// The VM it must reach or comes from, as its number in memory; 0 for either.
    pub vm: u8,
    /// When it was sent.
    pub stamp: u64,
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its headers.
    pub head: Head,
    /// Bytes of payload.
    pub payload: u32,
    /// Its tag, if it has one.
    pub tag: Option<Tag>,
    /// Whether the IPv4 header's checksum is right.
    pub ip_is_right: bool,
    /// Whether the TCP checksum is right.
    pub tcp_is_right: bool,
}

/// Make `frame` this segment with all checksums, its stamp zero. With a tag it is as long as `frame`; without, it
/// has no payload.
///
/// # Panics
/// When `frame` is shorter than [`SMALLEST`], or [`BARE`] without tag.
#[inline]
pub fn write(frame: &mut [u8], head: &Head, tag: Option<&Tag>) {
    let end = if tag.is_some() { frame.len() } else { TAG };
    frame[TAG..].fill(0);
    frame[..6].copy_from_slice(&head.destination_mac);
    frame[6..12].copy_from_slice(&head.source_mac);
    let total = ((end - IPV4) as u16).to_be_bytes();
    // Version 4, five words; do not fragment; 64 hops; TCP.
    frame[12..26].copy_from_slice(&[8, 0, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame[26..30].copy_from_slice(&head.source.0.to_be_bytes());
    frame[30..34].copy_from_slice(&head.destination.0.to_be_bytes());
    let header = !checksum::fold(checksum::sum(&frame[IPV4..TCP]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());

    frame[TCP..TCP + 2].copy_from_slice(&head.source.1.to_be_bytes());
    frame[TCP + 2..TCP + 4].copy_from_slice(&head.destination.1.to_be_bytes());
    frame[TCP + 4..TCP + 8].copy_from_slice(&head.sequence.to_be_bytes());
    frame[TCP + 8..TCP + 12].copy_from_slice(&head.acknowledgement.to_be_bytes());
    frame[TCP + 12..TAG].copy_from_slice(&[0x50, head.flags, 0xff, 0xff, 0, 0, 0, 0]);
    if let Some(tag) = tag {
        frame[TAG..TAG + 4].copy_from_slice(&tag.session.to_be_bytes());
        frame[TAG + 4..TAG + 6].copy_from_slice(&tag.life.to_be_bytes());
        frame[TAG + 6..TAG + 8].copy_from_slice(&[tag.vm, MAGIC]);
    }
    let pseudo = checksum::pseudo_header(head.source.0, head.destination.0, (end - TCP) as u16);
    let segment = !checksum::fold(pseudo + checksum::sum(&frame[TCP..end]));
    frame[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&segment.to_be_bytes());
}

/// Stamp a frame of [`write`] once, right before it is sent: all that is left to do then. One without tag stays as
/// it is.
#[inline]
pub fn stamp(frame: &mut [u8], tsc: u64) {
    if frame.len() < SMALLEST {
        return;
    }
    let stamp = tsc.to_be_bytes();
    frame[STAMP..STAMP + 8].copy_from_slice(&stamp);
    let before = u16::from_be_bytes([frame[TCP_CHECKSUM], frame[TCP_CHECKSUM + 1]]);
    let after = !checksum::fold(u32::from(!before) + checksum::sum(&stamp));
    frame[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&after.to_be_bytes());
}

/// Read a frame; `None` when it is not TCP over IPv4, or has options or lengths that ours do not have.
#[inline]
#[must_use]
pub fn read(frame: &[u8]) -> Option<Segment> {
    if frame.len() < TAG || frame[12..15] != [8, 0, 0x45] || frame[23] != 6 || frame[46] != 0x50 {
        return None;
    }
    let end = IPV4 + usize::from(u16_at(frame, 16));
    if end < TAG || end > frame.len() {
        return None;
    }
    let (source, destination) = (u32_at(frame, 26), u32_at(frame, 30));
    let pseudo = checksum::pseudo_header(source, destination, (end - TCP) as u16);
    Some(Segment {
        head: Head {
            source_mac: mac_at(frame, 6),
            destination_mac: mac_at(frame, 0),
            source: (source, u16_at(frame, TCP)),
            destination: (destination, u16_at(frame, TCP + 2)),
            flags: frame[TCP + 13],
            sequence: u32_at(frame, TCP + 4),
            acknowledgement: u32_at(frame, TCP + 8),
        },
        payload: (end - TAG) as u32,
        tag: (end >= SMALLEST && frame[TAG + 7] == MAGIC).then(|| Tag {
            session: u32_at(frame, TAG),
            life: u16_at(frame, TAG + 4),
            vm: frame[TAG + 6],
            stamp: u64::from(u32_at(frame, STAMP)) << 32 | u64::from(u32_at(frame, STAMP + 4)),
        }),
        ip_is_right: checksum::fold(checksum::sum(&frame[IPV4..TCP])) == 0xffff,
        tcp_is_right: checksum::fold(pseudo + checksum::sum(&frame[TCP..end])) == 0xffff,
    })
}

/// Address and port of the source and of the destination, if the frame is long enough to have them; nothing else
/// is looked at.
#[inline]
#[must_use]
pub fn peek(frame: &[u8]) -> Option<[(u32, u16); 2]> {
    (frame.len() >= TAG).then(|| {
        [(u32_at(frame, 26), u16_at(frame, TCP)), (u32_at(frame, 30), u16_at(frame, TCP + 2))]
    })
}

#[inline]
fn u16_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[inline]
fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

#[inline]
fn mac_at(frame: &[u8], at: usize) -> Mac {
    [frame[at], frame[at + 1], frame[at + 2], frame[at + 3], frame[at + 4], frame[at + 5]]
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    const HEAD: Head = Head {
        source_mac: [2, 0, 0, 0, 9, 2],
        destination_mac: [2, 0, 0, 0, 1, 1],
        source: (0x0b00_0001, 1030),
        destination: (0x0a09_0064, 80),
        flags: flags::SYN,
        sequence: 0xfedc_ba98,
        acknowledgement: 7,
    };
    const TAGGED: Tag = Tag { session: 22, life: 3, vm: 1, stamp: 0 };

    #[test]
    fn what_is_written_is_read_and_another_parser_agrees() {
        for bytes in [SMALLEST, SMALLEST + 1, LARGEST] {
            let mut frame = vec![0xee; bytes];
            write(&mut frame, &HEAD, Some(&TAGGED));
            stamp(&mut frame, 0x0123_4567_89ab_cdef);
            let read = read(&frame).expect("ours");
            let tag = Tag { stamp: 0x0123_4567_89ab_cdef, ..TAGGED };
            assert_eq!((read.head, read.tag), (HEAD, Some(tag)));
            assert_eq!(read.payload as usize, bytes - TAG);
            assert!(read.ip_is_right && read.tcp_is_right);
            other_parser(&frame);
        }
        let mut frame = [0xee; BARE];
        write(&mut frame, &HEAD, None);
        stamp(&mut frame, 1);
        let read = read(&frame).expect("ours");
        assert_eq!((read.head, read.tag, read.payload), (HEAD, None, 0));
        assert!(read.ip_is_right && read.tcp_is_right);
        other_parser(&frame);
    }

    fn other_parser(frame: &[u8]) {
        let read = PacketHeaders::from_ethernet_slice(frame).expect("well formed");
        let Some(NetHeaders::Ipv4(ip, _)) = read.net else { panic!("not IPv4") };
        let Some(TransportHeader::Tcp(tcp)) = read.transport else { panic!("not TCP") };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let payload = read.payload.slice();
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).expect("fits"));
        assert_eq!((tcp.syn, tcp.sequence_number), (true, HEAD.sequence));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let mut frame = [0; SMALLEST];
        write(&mut frame, &HEAD, Some(&TAGGED));
        for bit in IPV4 * 8..SMALLEST * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            if let Some(segment) = read(&frame) {
                assert!(!segment.ip_is_right || !segment.tcp_is_right, "bit {bit}");
            }
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let mut frame = [0; SMALLEST];
        write(&mut frame, &HEAD, Some(&TAGGED));
        for cut in 0..TAG {
            assert_eq!(read(&frame[..cut]), None);
        }
        for (at, value) in [(12, 0x86), (14, 0x46), (23, 17), (46, 0x60), (17, 0xff)] {
            let mut other = frame;
            other[at] = value;
            assert_eq!(read(&other), None, "byte {at}");
        }
    }
}
