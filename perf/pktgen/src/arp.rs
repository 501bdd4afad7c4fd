//! ARP (RFC 826) as far as a station needs it: it is asked, and answers.

use crate::frame::Mac;

/// Bytes of an ARP frame without padding.
const BYTES: usize = 42;
/// Ethernet type; then Ethernet and IPv4, with their lengths, and "request".
const REQUEST: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];

/// Whether it is ARP.
pub(crate) fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&REQUEST[..2])
}

/// Who is asked for by an ARP request: not by an announcement, which asks for its sender. Host byte order.
pub(crate) fn asked(frame: &[u8]) -> Option<u32> {
    let is_request = frame.len() >= BYTES && frame[12..22] == REQUEST;
    let (sender, target) = (frame.get(28..32)?, frame.get(38..42)?);
    (is_request && sender != target)
        .then(|| u32::from_be_bytes([target[0], target[1], target[2], target[3]]))
}

/// Turn the request into the answer that the address asked for is at `mac`.
///
/// # Panics
/// When it is no request ([`asked`]).
pub(crate) fn answer(frame: &mut [u8], mac: Mac) {
    let (mut asker, mut target) = ([0; 10], [0; 4]);
    asker.copy_from_slice(&frame[22..32]);
    target.copy_from_slice(&frame[38..42]);
    frame[..6].copy_from_slice(&asker[..6]);
    frame[6..12].copy_from_slice(&mac);
    frame[21] = 2;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&target);
    frame[32..42].copy_from_slice(&asker);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_an_announcement_is_not() {
        let (asker, mine) = ([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 9, 2]);
        let mut frame = [0; 60];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&asker);
        frame[12..22].copy_from_slice(&REQUEST);
        frame[22..28].copy_from_slice(&asker);
        frame[28..32].copy_from_slice(&[10, 9, 0, 1]);
        frame[38..42].copy_from_slice(&[10, 9, 0, 2]);
        assert_eq!(asked(&frame), Some(0x0a09_0002));
        answer(&mut frame, mine);
        assert_eq!(asked(&frame), None);
        assert_eq!((&frame[..6], &frame[6..12], frame[21]), (&asker[..], &mine[..], 2));
        assert_eq!((&frame[22..28], &frame[28..32]), (&mine[..], &[10, 9, 0, 2][..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&asker[..], &[10, 9, 0, 1][..]));

        frame[21] = 1;
        let own = [10, 9, 0, 2];
        frame[28..32].copy_from_slice(&own);
        frame[38..42].copy_from_slice(&own);
        assert_eq!(asked(&frame), None);
    }
}
