//! IPv6 neighbour discovery (RFC 4861): solicitations and advertisements, which are to IPv6 what ARP is to IPv4.
//!
//! | offset in frame | bytes | field |
//! |---|---|---|
//! | 14 | 40 | IPv6 header, hop limit 255, next header ICMPv6 |
//! | 54 | 1, 1, 2 | type (135 solicitation, 136 advertisement), code 0, checksum |
//! | 58 | 4 | reserved; of an advertisement the flags router, solicited, override |
//! | 62 | 16 | target |
//! | 78 | 8 each | options: type, length in units of 8 bytes, and here a MAC: the source's (1) or the target's (2) |

use super::{Address as _, ETHERNET_LEN, ETHERTYPE_IPV6, Mac, PacketBuf, be16, checksum, protocol};

/// Bytes of an advertisement's frame, and of a solicitation's that says who asks.
pub const FRAME_LEN: usize = ICMP + MESSAGE_LEN + OPTION_LEN;
const ICMP: usize = ETHERNET_LEN + 40;
/// Bytes of either message without options.
const MESSAGE_LEN: usize = 24;
/// Bytes of an option with a MAC.
const OPTION_LEN: usize = 8;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Whoever is farther away than the link cannot send this (section 7.1).
const HOP_LIMIT: u8 = 255;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
/// Solicited-node groups are this and an address's last 24 bits (RFC 4291, section 2.7.1).
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
const LAST_24_BITS: u128 = 0xff_ffff;

/// A valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A question.
    Solicitation(Solicitation),
    /// An answer, or an announcement.
    Advertisement(Advertisement),
}

/// What a valid solicitation asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; zero in a probe for duplicate addresses (RFC 4862, section 5.4.2).
    pub source: u128,
    /// The asker's MAC, as the frame says.
    pub frame_source: Mac,
    /// The asker's MAC, if he says it: whoever only verifies what he knows need not.
    pub source_mac: Option<Mac>,
    /// Address asked for.
    pub target: u128,
}

/// What a valid advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Address it is about.
    pub target: u128,
    /// The address's MAC, if it says it.
    pub target_mac: Option<Mac>,
    /// Whether it replaces another MAC that is known of the address. A proxy's does not, nor that of one machine of
    /// several with the address (section 7.2.7).
    pub overrides: bool,
}

/// Who answers for an address (section 4.4, the router flag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A router, which forwards.
    Router,
    /// A host.
    Host,
}

/// Whether this ICMPv6 packet's frame is a solicitation or an advertisement, valid or not.
#[must_use]
pub fn is_about_neighbours(frame: &[u8]) -> bool {
    matches!(frame.get(ICMP), Some(&(SOLICITATION | ADVERTISEMENT)))
}

/// Read a solicitation or advertisement; `None` when the frame is neither, or not valid by section 7.1.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Message> {
    let ip = frame.get(ETHERNET_LEN..ICMP)?;
    let message = frame.get(ICMP..ICMP + usize::from(be16(ip, 4)))?;
    let (fixed, options) = message.split_at_checked(MESSAGE_LEN)?;
    let target = u128::read(&fixed[8..]);
    let is_valid = (ip[0] >> 4, ip[6], ip[7], fixed[1]) == (6, protocol::ICMPV6, HOP_LIMIT, 0)
        && !target.is_group()
        && checksum::of_icmpv6(ip, message) == 0;
    if !is_valid {
        return None;
    }
    let (source, destination) = (u128::read(&ip[8..]), u128::read(&ip[24..]));
    match fixed[0] {
        SOLICITATION => {
            let source_mac = mac_of(options, SOURCE_MAC)?;
            let is_askers = if source == 0 {
                destination & !LAST_24_BITS == SOLICITED_NODE && source_mac.is_none()
            } else {
                !source.is_group()
            };
            let frame_source = Mac::read(&frame[6..]);
            let asked = Solicitation { source, frame_source, source_mac, target };
            is_askers.then_some(Message::Solicitation(asked))
        }
        ADVERTISEMENT => {
            let target_mac = mac_of(options, TARGET_MAC)?;
            // Nobody's question is answered to a group.
            let is_answer = fixed[4] & SOLICITED != 0;
            let overrides = fixed[4] & OVERRIDE != 0;
            let told = Advertisement { target, target_mac, overrides };
            (!is_answer || !destination.is_group()).then_some(Message::Advertisement(told))
        }
        _ => None,
    }
}

/// The MAC in the option of this `kind`, if there is one. `None` when `options` are cut short or one has no length; those
/// that nobody here knows are skipped (section 4.6).
fn mac_of(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let length = OPTION_LEN * usize::from(*options.get(1)?);
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        if option[0] == kind && length == OPTION_LEN {
            found = found.or(Some(Mac::read(&option[2..])));
        }
        options = rest;
    }
    Some(found)
}

/// Turn the packet with this solicitation into the advertisement "its target is at `mac`". `false` when the buffer has no
/// room for it; the packet is then not to be sent.
#[must_use = "the packet is no answer when it says false"]
pub fn answer_in_place<B: PacketBuf>(
    packet: &mut B,
    asked: &Solicitation,
    mac: Mac,
    speaker: Speaker,
) -> bool {
    let router = if speaker == Speaker::Router { ROUTER } else { 0 };
    let frame = if asked.source == 0 {
        let told = Content::advertisement(asked.target, router | OVERRIDE);
        told.to_group(mac, asked.target, ALL_NODES)
    } else {
        let told = Content::advertisement(asked.target, router | SOLICITED | OVERRIDE);
        told.frame((mac, asked.frame_source), (asked.target, asked.source))
    };
    let length = packet.as_ref().len();
    if length < FRAME_LEN && !packet.prepend(FRAME_LEN - length) {
        return false;
    }
    packet.as_mut()[..FRAME_LEN].copy_from_slice(&frame);
    packet.truncate(FRAME_LEN)
}

/// An unsolicited advertisement to all nodes of the link that the host `address` is at `mac` now (section 7.2.6).
#[must_use]
pub fn advertisement(mac: Mac, address: u128) -> [u8; FRAME_LEN] {
    Content::advertisement(address, OVERRIDE).to_group(mac, address, ALL_NODES)
}

/// A solicitation by `source` at `mac` for `target`. One from nowhere, zero, says nothing of who asks (section 4.3).
#[must_use]
pub fn solicitation(mac: Mac, source: u128, target: u128) -> Vec<u8> {
    let option = (source != 0).then_some(SOURCE_MAC);
    let asked = Content { kind: SOLICITATION, flags: 0, target, option };
    let group = SOLICITED_NODE | (target & LAST_24_BITS);
    asked.to_group(mac, source, group)[..ICMP + asked.len()].to_vec()
}

/// What a message says.
struct Content {
    kind: u8,
    flags: u8,
    target: u128,
    /// The kind of the option with the sender's MAC.
    option: Option<u8>,
}

impl Content {
    fn advertisement(target: u128, flags: u8) -> Self {
        Self { kind: ADVERTISEMENT, flags, target, option: Some(TARGET_MAC) }
    }

    /// Bytes of the ICMPv6 message.
    fn len(&self) -> usize {
        MESSAGE_LEN + self.option.map_or(0, |_| OPTION_LEN)
    }

    /// The message from the machine at `mac` to a group (RFC 2464, section 7).
    fn to_group(&self, mac: Mac, from: u128, group: u128) -> [u8; FRAME_LEN] {
        let [a, b, c, d] = (group as u32).to_be_bytes();
        self.frame((mac, Mac([0x33, 0x33, a, b, c, d])), (from, group))
    }

    /// The message between two machines; what follows it is zero.
    fn frame(&self, (mac, to_mac): (Mac, Mac), (from, to): (u128, u128)) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        frame[..6].copy_from_slice(&to_mac.0);
        frame[6..12].copy_from_slice(&mac.0);
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&(self.len() as u16).to_be_bytes());
        (frame[20], frame[21]) = (protocol::ICMPV6, HOP_LIMIT);
        from.write(&mut frame[22..]);
        to.write(&mut frame[38..]);
        (frame[ICMP], frame[ICMP + 4]) = (self.kind, self.flags);
        self.target.write(&mut frame[ICMP + 8..]);
        if let Some(option) = self.option {
            (frame[ICMP + 24], frame[ICMP + 25]) = (option, 1);
            frame[ICMP + 26..].copy_from_slice(&mac.0);
        }
        let message = &frame[ICMP..ICMP + self.len()];
        let sum = checksum::of_icmpv6(&frame[ETHERNET_LEN..ICMP], message);
        frame[ICMP + 2..ICMP + 4].copy_from_slice(&sum.to_be_bytes());
        frame
    }
}

#[cfg(test)]
mod tests;
