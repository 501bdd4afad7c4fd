//! Liberal TCP tracking: enough to know when a session is over, never a reason to drop (RFC 9293, section 3.6).
//!
//! A session is closed when both FINs are acknowledged, or by RST. Windows are not looked at.

use zerocopy::FromZeros;

use super::SessionState;
use crate::packet::{TcpFlags, TcpSegment};

/// What is remembered of both directions' FINs: the sequence numbers that acknowledge them. Which of them are
/// meant is in four bits kept elsewhere ([`SENT`], [`ACKNOWLEDGED`]).
#[derive(Clone, Debug, Default, FromZeros)]
#[repr(C)]
pub(super) struct Fins {
    /// By direction: the client's, the backend's.
    ends: [u32; 2],
}

/// The FIN of direction 0 was sent; shifted by one for direction 1.
const SENT: u8 = 0b0001;
/// The FIN of direction 0 was acknowledged; shifted by one for direction 1.
const ACKNOWLEDGED: u8 = 0b0100;
/// Both directions are closed.
const BOTH_ACKNOWLEDGED: u8 = ACKNOWLEDGED | ACKNOWLEDGED << 1;

impl Fins {
    /// The state after `segment`, and what of FINs has been seen; `seen` is what had been before.
    pub(super) fn follow(
        &mut self,
        seen: u8,
        state: SessionState,
        segment: &TcpSegment,
        from_client: bool,
    ) -> (SessionState, u8) {
        if state == SessionState::Lingering || segment.flags.has(TcpFlags::RST) {
            return (SessionState::Lingering, seen);
        }
        let (mine, other) = if from_client { (0, 1) } else { (1, 0) };
        let mut seen = seen;
        if segment.flags.has(TcpFlags::FIN) && seen & SENT << mine == 0 {
            self.ends[mine] = segment.sequence.wrapping_add(segment.payload_len).wrapping_add(1);
            seen |= SENT << mine;
        }
        if segment.flags.has(TcpFlags::ACK)
            && seen & SENT << other != 0
            && at_or_after(segment.acknowledgement, self.ends[other])
        {
            seen |= ACKNOWLEDGED << other;
        }
        let finishes_handshake =
            segment.flags.has(TcpFlags::ACK) && !segment.flags.has(TcpFlags::SYN);
        let state = if seen & BOTH_ACKNOWLEDGED == BOTH_ACKNOWLEDGED {
            SessionState::Lingering
        } else if seen != 0 {
            SessionState::Closing
        } else if state == SessionState::Opening && finishes_handshake {
            SessionState::Established
        } else {
            state
        };
        (state, seen)
    }
}

/// Sequence comparison modulo 2^32 (RFC 9293, section 3.4).
fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

#[cfg(test)]
mod tests {
    use super::{SessionState::*, *};

    fn segment(
        flags: TcpFlags,
        sequence: u32,
        acknowledgement: u32,
        payload_len: u32,
    ) -> TcpSegment {
        TcpSegment { flags, sequence, acknowledgement, payload_len }
    }

    /// Follow `(from_client, segment)` in turn and return each state.
    fn states(steps: &[(bool, TcpSegment)]) -> Vec<SessionState> {
        let mut fins = Fins::default();
        let (mut state, mut seen) = (Opening, 0);
        steps
            .iter()
            .map(|(from_client, segment)| {
                (state, seen) = fins.follow(seen, state, segment, *from_client);
                state
            })
            .collect()
    }

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN_ACK: TcpFlags = TcpFlags(0x11);

    #[test]
    fn ordinary_life() {
        let life = [
            (true, segment(SYN, 99, 0, 0)),
            (false, segment(SYN | ACK, 499, 100, 0)),
            (true, segment(ACK, 100, 500, 0)),
            (true, segment(FIN_ACK, 100, 500, 10)),
            (false, segment(ACK, 500, 111, 0)),
            (false, segment(FIN_ACK, 500, 111, 0)),
            (true, segment(ACK, 111, 501, 0)),
        ];
        assert_eq!(
            states(&life),
            [Opening, Opening, Established, Closing, Closing, Closing, Lingering]
        );
    }

    #[test]
    fn an_ack_short_of_the_fin_does_not_close() {
        let life = [
            (true, segment(FIN_ACK, 100, 500, 10)),
            (false, segment(FIN_ACK, 500, 110, 0)),
            (true, segment(ACK, 111, 501, 0)),
            (false, segment(ACK, 501, 111, 0)),
        ];
        assert_eq!(states(&life), [Closing, Closing, Closing, Lingering]);
    }

    #[test]
    fn simultaneous_close_and_wrapped_sequence_numbers() {
        let life = [
            (true, segment(FIN_ACK, u32::MAX, 7, 0)),
            (false, segment(FIN_ACK, 7, u32::MAX, 0)),
            (true, segment(ACK, 0, 8, 0)),
            (false, segment(ACK, 8, 0, 0)),
        ];
        assert_eq!(states(&life), [Closing, Closing, Closing, Lingering]);
    }

    #[test]
    fn half_close_stays_open_and_rst_closes() {
        let life = [
            (true, segment(FIN_ACK, 100, 500, 0)),
            (false, segment(ACK, 500, 101, 1400)),
            (true, segment(ACK, 101, 1900, 0)),
            (false, segment(TcpFlags::RST, 1900, 0, 0)),
        ];
        assert_eq!(states(&life), [Closing, Closing, Closing, Lingering]);
    }
}
