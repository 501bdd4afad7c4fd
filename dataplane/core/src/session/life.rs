//! Where a session is in its life: enough to know when it is over, never a reason to drop (RFC 9293, section 3.6).
//!
//! ```text
//!             the answer, then                 FIN               both FINs
//!             the initiator again                                acknowledged
//!  OPENING ──────────────────────▶ ESTABLISHED ────▶ CLOSING ────────────────▶ LINGERING
//!     │ exact RST                       ▲   │ RST      │ RST                      ▲
//!     │                     goes on all │   ▼          ▼                          │
//!     │                       the same  └─ RESETTING ─────── silence ─────────────┤
//!     └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Whoever gets an RST believes it when its sequence number is the next one expected, answers it with a challenge ACK when
//! it is in the window, and passes it over otherwise (RFC 5961, section 3.2). So the box remembers how far each side has been
//! acknowledged. An RST exactly there is believed after a little silence. One ahead of it, as when a sender gives up with data
//! under way, or where nothing is known, is believed after as much silence as RFC 7857, section 2.2, asks for. Any other is
//! passed on, and is nothing. When its receiver goes on, no RST was meant. A SYN behind an RST that was exact begins another
//! session; behind one that may not have been believed it stays with the owner, which answers it with a challenge ACK.
//!
//! A session that clients alone have been heard in is *unconfirmed*, though they speak as if it were established: anyone can
//! send such packets in anyone's name. It lasts no longer than one that is opening, and makes room for others.
//!
//! One byte:
//!
//! | bits | |
//! |---|---|
//! | 0–2 | state; zero is a free place in the table |
//! | 3 | begun by the VM |
//! | 4–7 | while opening: bit 4, answered; bit 5, no more asked to make room; then: FINs sent (bits 4, 5) and acknowledged (6, 7), the client's first; bit 7 without bit 5: unconfirmed |

use zerocopy::FromZeros;

use super::half_open::Standing;
use crate::packet::{TcpFlags, TcpSegment};

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Only its beginning was seen.
    Opening,
    /// In use.
    Established,
    /// TCP: a FIN was seen.
    Closing,
    /// TCP: an RST was seen; over when nobody goes on.
    Resetting,
    /// Closed; kept a little so that late segments still find the owner. Not live.
    Lingering,
}

/// Where a session is that the box is told of. One that is opening is not told: what establishes it passes the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportedState {
    /// In use.
    Established,
    /// TCP: the client has sent its FIN, and the backend has acknowledged it.
    ClosedByClient,
    /// TCP: the other way round.
    ClosedByBackend,
    /// TCP: both have sent their FIN, and not all is acknowledged.
    Closing,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub(crate) struct Life(u8);

/// TCP, by side, the client's first: the sequence number up to which it has been acknowledged; once it has sent its FIN, the
/// one that acknowledges that. Zero: not known. Others: how many packets the initiator has sent, while opening.
pub(super) type Marks = [u32; 2];

const STATE: u8 = 0b111;
const OPENING: u8 = 1;
const ESTABLISHED: u8 = 2;
const CLOSING: u8 = 3;
const LINGERING: u8 = 4;
/// The client sent the last RST.
const RESET_BY_CLIENT: u8 = 5;
const RESET_BY_VM: u8 = 6;
/// Closing, and known from its FIN on only: probably a late one, and nothing is to come.
const ENDING: u8 = 7;

const BEGUN_BY_VM: u8 = 1 << 3;
const ANSWERED: u8 = 1 << 4;
/// It was to make room for others, and must not.
const PASSED_OVER: u8 = 1 << 5;
/// The FIN of side 0 was sent; shifted by one for side 1.
const SENT: u8 = 1 << 4;
/// The FIN of side 0 was acknowledged; shifted by one for side 1.
const ACKNOWLEDGED: u8 = 1 << 6;
const BOTH_SENT: u8 = SENT | SENT << 1;
const BOTH_ACKNOWLEDGED: u8 = ACKNOWLEDGED | ACKNOWLEDGED << 1;
/// The VM has not been heard; with none of its FINs.
const UNCONFIRMED: u8 = 1 << 7;

/// How far the acknowledgement that ends a handshake may be ahead of the SYN's: what the responder may have sent
/// without waiting for it (RFC 6928 allows ten segments), and room to spare. A spoofed one meets it once in 32,768 times.
const HANDSHAKE_WINDOW: u32 = 1 << 17;

/// How far ahead of what was acknowledged an RST may be: what a sender may have under way. A spoofed one meets it once in
/// 128 times.
const RESET_WINDOW: u32 = 1 << 25;

/// Datagrams of the initiator that are a stream although nobody answers.
const ONE_WAY_STREAM: u32 = 8;

impl Life {
    /// Of a session that begins now; one that is closing begins with its FIN.
    pub(super) fn new(state: SessionState, begun_by_vm: bool) -> Self {
        let code = match state {
            SessionState::Opening => OPENING,
            SessionState::Established => ESTABLISHED,
            SessionState::Closing => ENDING,
            SessionState::Resetting => RESET_BY_CLIENT,
            SessionState::Lingering => LINGERING,
        };
        Self(code | if begun_by_vm { BEGUN_BY_VM } else { 0 })
    }

    /// Of a session that the box has not seen so far.
    pub(super) fn imported(state: ImportedState) -> Self {
        Self(match state {
            ImportedState::Established => ESTABLISHED,
            ImportedState::ClosedByClient => CLOSING | SENT | ACKNOWLEDGED,
            ImportedState::ClosedByBackend => CLOSING | SENT << 1 | ACKNOWLEDGED << 1,
            ImportedState::Closing => ENDING,
        })
    }

    /// The same, known from a client alone.
    pub(super) fn unconfirmed(self) -> Self {
        Self(self.0 | UNCONFIRMED)
    }

    #[inline]
    pub(super) fn is_free(self) -> bool {
        self.0 & STATE == 0
    }

    #[inline]
    pub(super) fn state(self) -> SessionState {
        match self.0 & STATE {
            OPENING => SessionState::Opening,
            ESTABLISHED => SessionState::Established,
            CLOSING | ENDING => SessionState::Closing,
            LINGERING => SessionState::Lingering,
            _ => SessionState::Resetting,
        }
    }

    #[inline]
    pub(crate) fn is_live(self) -> bool {
        self.0 & STATE != LINGERING
    }

    /// Whether nothing but a FIN or RST of this side changes it.
    #[inline]
    pub(super) fn is_settled(self, from_client: bool) -> bool {
        let ignored = if from_client { BEGUN_BY_VM | UNCONFIRMED } else { BEGUN_BY_VM };
        self.0 & !ignored == ESTABLISHED
    }

    /// Whether nobody but the client has been heard, and speaks as if it were established.
    pub(super) fn is_unconfirmed(self) -> bool {
        let has_begun = !matches!(self.0 & STATE, OPENING | LINGERING);
        has_begun && self.0 & (UNCONFIRMED | SENT << 1) == UNCONFIRMED
    }

    /// Whether it is closed, or its receiver has believed an RST: a SYN on its ports begins another.
    pub(super) fn is_over(self, marks: &Marks) -> bool {
        match self.state() {
            SessionState::Lingering => true,
            SessionState::Resetting => !self.is_doubted(marks),
            _ => false,
        }
    }

    /// While resetting: whether the RST may have been anybody's.
    pub(super) fn is_doubted(self, marks: &Marks) -> bool {
        let side = usize::from(self.0 & STATE != RESET_BY_CLIENT);
        marks[side] == 0
    }

    #[inline]
    pub(super) fn is_begun_by_vm(self) -> bool {
        self.0 & BEGUN_BY_VM != 0
    }

    /// While opening: whether the other side has answered.
    pub(super) fn is_answered(self) -> bool {
        self.0 & (STATE | ANSWERED) == OPENING | ANSWERED
    }

    /// While opening: as what it may make room for others.
    #[inline]
    pub(crate) fn half_open(self) -> Option<Standing> {
        if self.0 & STATE != OPENING {
            return None;
        }
        Some(match self.0 & (ANSWERED | PASSED_OVER) {
            0 => Standing::Unanswered,
            ANSWERED => Standing::Answered,
            _ => Standing::PassedOver,
        })
    }

    /// While opening: it must not make room for others.
    pub(super) fn pass_over(&mut self) {
        self.0 |= PASSED_OVER;
    }

    /// While opening: it may have to make room for others again.
    pub(super) fn take_back(&mut self) {
        self.0 &= !PASSED_OVER;
    }

    /// While closing: whether nothing but acknowledgements is to come.
    pub(super) fn is_ending(self) -> bool {
        match self.0 & STATE {
            CLOSING => self.0 & BOTH_SENT == BOTH_SENT,
            code => code == ENDING,
        }
    }

    fn become_code(&mut self, code: u8) {
        self.0 = self.0 & !STATE | code;
    }

    /// It is over.
    pub(super) fn end(&mut self) {
        self.become_code(LINGERING);
    }

    /// Follow a packet that is not TCP.
    pub(super) fn follow_datagram(&mut self, marks: &mut Marks, from_client: bool) {
        if self.0 & STATE != OPENING {
            self.confirm(from_client);
            return;
        }
        if from_client == self.is_begun_by_vm() {
            self.0 |= ANSWERED;
            return;
        }
        let [packets, _] = marks;
        *packets += 1;
        if self.is_answered() {
            self.establish();
        } else if *packets >= ONE_WAY_STREAM {
            self.establish();
            if from_client {
                *self = self.unconfirmed();
            }
        }
    }

    /// A packet of one side that is no RST.
    fn confirm(&mut self, from_client: bool) {
        if !from_client && self.is_unconfirmed() {
            self.0 &= !UNCONFIRMED;
        }
    }

    /// Follow a TCP segment.
    pub(super) fn follow_tcp(
        &mut self,
        marks: &mut Marks,
        segment: &TcpSegment,
        from_client: bool,
    ) {
        let (side, other) = if from_client { (0, 1) } else { (1, 0) };
        let is_reset = segment.flags.has(TcpFlags::RST);
        if !is_reset {
            self.confirm(from_client);
        }
        match self.0 & STATE {
            LINGERING => return,
            OPENING => {
                self.shake_hands(marks, segment, from_client);
                if self.0 & STATE != ESTABLISHED {
                    return;
                }
            }
            // What the side that sent the RST had sent before it may arrive behind it, and proves nothing.
            RESET_BY_CLIENT | RESET_BY_VM if !is_reset => {
                let is_from_receiver = from_client == (self.0 & STATE == RESET_BY_VM);
                if !is_from_receiver {
                    return;
                }
                let code = if self.0 & BOTH_SENT == 0 { ESTABLISHED } else { CLOSING };
                self.become_code(code);
            }
            ENDING if segment.payload_len > 0 && !segment.flags.has(TcpFlags::FIN) => {
                self.become_code(CLOSING);
            }
            _ => {}
        }
        if is_reset {
            self.reset(marks, segment.sequence, from_client);
            return;
        }
        if segment.flags.has(TcpFlags::ACK) && self.0 & SENT << other == 0 {
            marks[other] = segment.acknowledgement;
        }
        if segment.flags.has(TcpFlags::FIN) && self.0 & SENT << side == 0 {
            marks[side] = segment.sequence.wrapping_add(segment.payload_len).wrapping_add(1);
            self.0 |= SENT << side;
            if self.0 & STATE != ENDING {
                self.become_code(CLOSING);
            }
        }
        if segment.flags.has(TcpFlags::ACK)
            && self.0 & SENT << other != 0
            && at_or_after(segment.acknowledgement, marks[other])
        {
            self.0 |= ACKNOWLEDGED << other;
        }
        if self.0 & BOTH_ACKNOWLEDGED == BOTH_ACKNOWLEDGED {
            self.end();
        }
    }

    /// Follow a segment while opening.
    fn shake_hands(&mut self, marks: &mut Marks, segment: &TcpSegment, from_client: bool) {
        let (side, other) = if from_client { (0, 1) } else { (1, 0) };
        let is_initiator = from_client != self.is_begun_by_vm();
        if segment.flags.has(TcpFlags::RST) {
            let is_exact = if is_initiator {
                segment.sequence == marks[side]
            } else {
                segment.flags.has(TcpFlags::ACK) && segment.acknowledgement == marks[other]
            };
            // Any other may have been sent by anyone; the session does not last for long by itself.
            if is_exact {
                self.0 &= !(ANSWERED | PASSED_OVER);
                self.end();
            }
            return;
        }
        if segment.flags.has(TcpFlags::SYN) {
            // With TCP Fast Open a SYN carries data, which the answer acknowledges or not (RFC 7413, section 4.2.2).
            let data = if is_initiator { segment.payload_len } else { 0 };
            marks[side] = segment.sequence.wrapping_add(data).wrapping_add(1);
            if !is_initiator {
                self.0 |= ANSWERED;
            }
        }
        let ahead = segment.acknowledgement.wrapping_sub(marks[other]);
        if is_initiator
            && self.is_answered()
            && segment.flags.has(TcpFlags::ACK)
            && ahead < HANDSHAKE_WINDOW
        {
            self.establish();
        }
    }

    /// Follow an RST of one side.
    fn reset(&mut self, marks: &mut Marks, sequence: u32, from_client: bool) {
        let side = usize::from(!from_client);
        let ahead = sequence.wrapping_sub(marks[side]);
        let has_sent_fin = self.0 & SENT << side != 0;
        let is_possible = match marks[side] {
            0 => true,
            // The end of its numbers, or the FIN itself where that is not acknowledged.
            _ if has_sent_fin => ahead.wrapping_add(1) <= 1,
            _ => ahead < RESET_WINDOW,
        };
        if !is_possible {
            return;
        }
        if ahead != 0 && !has_sent_fin {
            marks[side] = 0;
        }
        self.become_code(if from_client { RESET_BY_CLIENT } else { RESET_BY_VM });
    }

    fn establish(&mut self) {
        self.0 &= !(ANSWERED | PASSED_OVER);
        self.become_code(ESTABLISHED);
    }
}

/// Sequence comparison modulo 2^32 (RFC 9293, section 3.4).
fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
