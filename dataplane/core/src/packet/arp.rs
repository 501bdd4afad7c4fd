//! ARP for IPv4 over Ethernet (RFC 826), as much as a box needs before a kernel answers for it.
//!
//! | offset in frame | bytes | field |
//! |---|---|---|
//! | 14 | 2 | hardware type, 1 |
//! | 16 | 2 | protocol type, 0x0800 |
//! | 18 | 1 | hardware length, 6 |
//! | 19 | 1 | protocol length, 4 |
//! | 20 | 2 | operation, 1 request, 2 reply |
//! | 22 | 6 | sender MAC |
//! | 28 | 4 | sender address |
//! | 32 | 6 | target MAC |
//! | 38 | 4 | target address |

use super::{ETHERNET_LEN, ETHERTYPE_ARP, Mac, be16, be32};

/// Bytes of an ARP frame, padded to Ethernet's minimum without FCS.
pub const FRAME_LEN: usize = 60;
const END: usize = ETHERNET_LEN + 28;
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What a valid ARP frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request; else reply.
    pub request: bool,
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's address, host byte order; 0 in a probe (RFC 5227).
    pub sender: u32,
    /// Address asked for or answered to, host byte order.
    pub target: u32,
}

/// Read an ARP frame; `None` when it is cut short or not IPv4 over Ethernet.
#[must_use]
pub fn read(frame: &[u8]) -> Option<ArpPacket> {
    if frame.len() < END || frame[14..20] != FIXED {
        return None;
    }
    let operation = be16(frame, 20);
    if operation != 1 && operation != 2 {
        return None;
    }
    Some(ArpPacket {
        request: operation == 1,
        sender_mac: Mac::read(&frame[22..]),
        sender: be32(frame, 28),
        target: be32(frame, 38),
    })
}

/// Turn the request in `frame` into the reply "its target is at `mac`".
///
/// # Panics
/// When [`read`] would not accept the frame.
pub fn answer_in_place(frame: &mut [u8], mac: Mac) {
    let asker_mac = Mac::read(&frame[22..]);
    let mut asker = [0; 4];
    asker.copy_from_slice(&frame[28..32]);
    let mut target = [0; 4];
    target.copy_from_slice(&frame[38..42]);
    write_macs(frame, asker_mac, mac);
    write_body(frame, 2, mac, target, asker_mac, asker);
}

/// An announcement that `address` is at `mac` (RFC 5227, section 2.3: a broadcast request for oneself).
#[must_use]
pub fn announcement(mac: Mac, address: u32) -> [u8; FRAME_LEN] {
    frame(1, mac, address, address)
}

/// A broadcast request by `sender` for `target`.
#[must_use]
pub fn request(mac: Mac, sender: u32, target: u32) -> [u8; FRAME_LEN] {
    frame(1, mac, sender, target)
}

fn frame(operation: u8, mac: Mac, sender: u32, target: u32) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    write_macs(&mut frame, Mac::BROADCAST, mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    write_body(&mut frame, operation, mac, sender.to_be_bytes(), Mac([0; 6]), target.to_be_bytes());
    frame
}

fn write_macs(frame: &mut [u8], destination: Mac, source: Mac) {
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
}

fn write_body(
    frame: &mut [u8],
    operation: u8,
    sender_mac: Mac,
    sender: [u8; 4],
    target_mac: Mac,
    target: [u8; 4],
) {
    frame[14..20].copy_from_slice(&FIXED);
    frame[20..22].copy_from_slice(&[0, operation]);
    frame[22..28].copy_from_slice(&sender_mac.0);
    frame[28..32].copy_from_slice(&sender);
    frame[32..38].copy_from_slice(&target_mac.0);
    frame[38..42].copy_from_slice(&target);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HOST: Mac = Mac([2, 0, 0, 0, 0, 9]);

    #[test]
    fn answers_a_request() {
        let mut frame = request(HOST, 0x0a00_0009, 0x0a00_0064).to_vec();
        answer_in_place(&mut frame, BOX);
        assert_eq!(&frame[0..6], &HOST.0);
        let answer = read(&frame).expect("reply");
        assert_eq!(
            answer,
            ArpPacket { request: false, sender_mac: BOX, sender: 0x0a00_0064, target: 0x0a00_0009 }
        );
    }

    #[test]
    fn announcement_asks_for_itself() {
        let frame = announcement(BOX, 0x0a00_0064);
        let arp = read(&frame).expect("request");
        assert_eq!((arp.request, arp.sender, arp.target), (true, 0x0a00_0064, 0x0a00_0064));
        assert!(Mac::read(&frame).is_group());
    }

    #[test]
    fn refuses_other_shapes() {
        let frame = announcement(BOX, 1);
        assert!(read(&frame[..END - 1]).is_none());
        for (offset, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3)] {
            let mut bad = frame;
            bad[offset] = value;
            assert!(read(&bad).is_none(), "byte {offset}");
        }
    }
}
