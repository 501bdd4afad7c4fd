//! The link header: MAC addresses and VLAN tags (IEEE 802.1Q, 802.1ad).
//!
//! | bytes | field |
//! |---|---|
//! | 6, 6 | destination and source MAC |
//! | 2, 2 | outer tag's TPID (0x8100, or 0x88a8 before a second tag), priority and VLAN |
//! | 2, 2 | inner tag's |
//! | 2 | EtherType |

use std::{fmt, str::FromStr};

use super::{ETHERNET_LEN, Mac, PacketBuf, be16};

const MACS_LEN: usize = 12;
const TAG_LEN: usize = 4;
const TPID: u16 = 0x8100;
const SERVICE_TPID: u16 = 0x88a8;
const VLAN_MASK: u16 = 0x0fff;
/// The highest VLAN; 4095 is reserved, and 0 means a priority without a VLAN.
const MAX_VLAN: u16 = 4094;

/// The VLANs of a frame, outermost first; zeros where there is no tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tags([u16; 2]);

/// The text does not name VLANs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a VLAN; write a number from 1 to 4094, or two as in 100.7 (outer, inner)")]
pub struct TagsError(pub String);

impl Tags {
    /// An untagged frame's.
    pub const NONE: Self = Self([0; 2]);

    /// Outer and inner VLAN; `None` when one is not from 1 to 4094.
    #[must_use]
    pub fn new(outer: u16, inner: Option<u16>) -> Option<Self> {
        let is_vlan = |vlan: u16| (1..=MAX_VLAN).contains(&vlan);
        (is_vlan(outer) && inner.is_none_or(is_vlan)).then(|| Self([outer, inner.unwrap_or(0)]))
    }

    /// The VLANs: of two the outer one first. Zero when there is none.
    #[must_use]
    pub fn vlans(self) -> (u16, Option<u16>) {
        (self.0[0], Some(self.0[1]).filter(|vlan| *vlan != 0))
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.iter().filter(|vlan| **vlan != 0).count()
    }

    /// Whether `ethertype` announces a tag.
    #[inline]
    #[must_use]
    pub fn follow(ethertype: u16) -> bool {
        matches!(ethertype, TPID | SERVICE_TPID)
    }

    /// Take the tags off a frame. `None`, and nothing changed, when it is cut short or has more than two.
    ///
    /// A tag with VLAN 0 only carries a priority, and is taken off as well.
    pub fn strip<B: PacketBuf>(packet: &mut B) -> Option<Self> {
        let frame = packet.as_mut();
        let mut tags = Self::NONE;
        let (mut found, mut length) = (0, 0);
        while Self::follow(be16(frame.get(..ETHERNET_LEN + length)?, MACS_LEN + length)) {
            frame.get(..ETHERNET_LEN + length + TAG_LEN)?;
            let vlan = be16(frame, ETHERNET_LEN + length) & VLAN_MASK;
            length += TAG_LEN;
            if length > 2 * TAG_LEN {
                return None;
            }
            if vlan != 0 {
                tags.0[found] = vlan;
                found += 1;
            }
        }
        frame.copy_within(..MACS_LEN, length);
        packet.trim_front(length).then_some(tags)
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [outer, 0] => write!(f, "{outer}"),
            [outer, inner] => write!(f, "{outer}.{inner}"),
        }
    }
}

impl FromStr for Tags {
    type Err = TagsError;

    fn from_str(text: &str) -> Result<Self, TagsError> {
        let parse = || {
            let (outer, inner) = match text.split_once('.') {
                Some((outer, inner)) => (outer, Some(inner.parse().ok()?)),
                None => (text, None),
            };
            Self::new(outer.parse().ok()?, inner)
        };
        parse().ok_or_else(|| TagsError(text.to_owned()))
    }
}

/// What a frame begins with, up to its EtherType: MAC addresses, and tags where its port has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkHeader {
    bytes: [u8; MACS_LEN + 2 * TAG_LEN],
    len: u8,
}

impl LinkHeader {
    /// From nobody to nobody: of a frame that no link carries.
    pub const NOBODY: Self = Self { bytes: [0; MACS_LEN + 2 * TAG_LEN], len: MACS_LEN as u8 };

    /// Of frames from `source` to `destination`, with these tags.
    #[must_use]
    pub fn new(destination: Mac, source: Mac, tags: Tags) -> Self {
        let mut bytes = [0; MACS_LEN + 2 * TAG_LEN];
        bytes[..6].copy_from_slice(&destination.0);
        bytes[6..MACS_LEN].copy_from_slice(&source.0);
        let count = tags.count();
        for (number, vlan) in tags.0.iter().take(count).enumerate() {
            let tpid = if number + 1 < count { SERVICE_TPID } else { TPID };
            let at = MACS_LEN + number * TAG_LEN;
            bytes[at..at + 2].copy_from_slice(&tpid.to_be_bytes());
            bytes[at + 2..at + TAG_LEN].copy_from_slice(&vlan.to_be_bytes());
        }
        Self { bytes, len: (MACS_LEN + count * TAG_LEN) as u8 }
    }

    /// The bytes before the EtherType.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Where frames go.
    #[must_use]
    pub fn destination(&self) -> Mac {
        Mac::read(&self.bytes)
    }

    /// Write both MACs, of a header without tags.
    ///
    /// # Panics
    /// When the frame is shorter than an Ethernet header.
    #[inline]
    pub fn write_macs(&self, frame: &mut [u8]) {
        frame[..MACS_LEN].copy_from_slice(&self.bytes[..MACS_LEN]);
    }

    /// Give it to an untagged frame. `false`, and nothing changed, when there is no room for the tags.
    ///
    /// # Panics
    /// When the frame is shorter than an Ethernet header.
    #[must_use = "nothing is written when it answers false"]
    pub fn write<B: PacketBuf>(&self, packet: &mut B) -> bool {
        let header = self.bytes();
        let has_room = packet.prepend(header.len() - MACS_LEN);
        if has_room {
            packet.as_mut()[..header.len()].copy_from_slice(header);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn untagged() -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_LEN];
        frame[12..].copy_from_slice(&[8, 0]);
        frame.extend(b"payload");
        assert!(LinkHeader::new(A, B, Tags::NONE).write(&mut frame));
        frame
    }

    #[test]
    fn tags_go_on_and_come_off() {
        for (text, tpids) in [("7", &[0x8100][..]), ("100.4094", &[0x88a8, 0x8100])] {
            let tags: Tags = text.parse().expect("VLANs");
            let mut frame = untagged();
            assert!(LinkHeader::new(A, B, tags).write(&mut frame));
            assert_eq!(frame.len(), untagged().len() + 4 * tpids.len());
            for (number, tpid) in tpids.iter().enumerate() {
                assert_eq!(be16(&frame, 12 + 4 * number), *tpid);
            }
            // Priority is nobody's VLAN.
            frame[14] |= 0xe0;
            assert_eq!(Tags::strip(&mut frame), Some(tags));
            assert_eq!((frame, tags.to_string().as_str()), (untagged(), text));
        }
    }

    #[test]
    fn odd_tags() {
        let tag = |frame: &mut Vec<u8>, vlan: u8| {
            frame.splice(12..12, [0x81, 0, 0, vlan]);
        };
        let mut priority = untagged();
        tag(&mut priority, 0);
        assert_eq!(Tags::strip(&mut priority), Some(Tags::NONE));
        assert_eq!(priority, untagged());

        let mut three = untagged();
        (1..4).for_each(|vlan| tag(&mut three, vlan));
        let before = three.clone();
        assert_eq!((Tags::strip(&mut three), three), (None, before));

        let mut whole = untagged();
        tag(&mut whole, 5);
        for len in 12..18 {
            let mut cut = whole[..len].to_vec();
            assert_eq!(Tags::strip(&mut cut), None, "{len} bytes");
        }
    }

    #[test]
    fn numbers_that_are_no_vlan() {
        for bad in ["", "0", "4095", "1.0", "1.2.3", "-1", "x"] {
            assert!(bad.parse::<Tags>().is_err(), "{bad}");
        }
    }
}
