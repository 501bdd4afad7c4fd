//! Liberal TCP tracking: enough to know when a session is over, never a reason to drop (RFC 9293, section 3.6).
//!
//! A session is closed when both FINs are acknowledged, or by RST. Windows are not looked at.

use super::SessionState;
use crate::packet::{TcpFlags, TcpSegment};

/// One direction's FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Fin {
    #[default]
    NotSeen,
    /// Holds the sequence number that acknowledges it.
    Sent(u32),
    Acknowledged,
}

/// What is remembered of a TCP session beside its state.
#[derive(Clone, Debug, Default)]
pub(super) struct TcpTrack {
    client: Fin,
    backend: Fin,
}

impl TcpTrack {
    /// The state after `segment`.
    #[inline]
    pub(super) fn follow(
        &mut self,
        state: SessionState,
        segment: &TcpSegment,
        from_client: bool,
    ) -> SessionState {
        if state == SessionState::Lingering || segment.flags.has(TcpFlags::RST) {
            return SessionState::Lingering;
        }
        let (mine, other) = if from_client {
            (&mut self.client, &mut self.backend)
        } else {
            (&mut self.backend, &mut self.client)
        };
        if segment.flags.has(TcpFlags::FIN) && *mine == Fin::NotSeen {
            *mine = Fin::Sent(segment.sequence.wrapping_add(segment.payload_len).wrapping_add(1));
        }
        if segment.flags.has(TcpFlags::ACK)
            && let Fin::Sent(end) = *other
            && at_or_after(segment.acknowledgement, end)
        {
            *other = Fin::Acknowledged;
        }
        match (self.client, self.backend) {
            (Fin::Acknowledged, Fin::Acknowledged) => SessionState::Lingering,
            (Fin::NotSeen, Fin::NotSeen) => {
                let finishes_handshake =
                    segment.flags.has(TcpFlags::ACK) && !segment.flags.has(TcpFlags::SYN);
                if state == SessionState::Opening && finishes_handshake {
                    SessionState::Established
                } else {
                    state
                }
            }
            _ => SessionState::Closing,
        }
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
        let mut track = TcpTrack::default();
        let mut state = Opening;
        steps
            .iter()
            .map(|(from_client, segment)| {
                state = track.follow(state, segment, *from_client);
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
