//! What packets carry: segments that fit their session, nearly fit it, or do not.

use tidegate_dataplane::{
    packet::{TcpFlags, protocol},
    session::{SessionState as State, Tuple},
};

use super::Stream;
use crate::{
    model::{Session, Side},
    packet::{Body, Segment},
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

impl Stream {
    /// What `side` may say next in `session`.
    pub(super) fn body(&mut self, tuple: &Tuple, session: Option<&Session>, side: Side) -> Body {
        match (tuple.protocol, session) {
            (protocol::TCP, Some(session)) => Body::Tcp(self.segment(session, side)),
            (protocol::UDP, _) if side == Side::Vm && self.chance.one_in(2) => self.quic_server(),
            _ => self.any_body(tuple),
        }
    }

    /// What a session begins with.
    pub(super) fn first_body(&mut self, tuple: &Tuple) -> Body {
        if tuple.protocol != protocol::TCP {
            return self.any_body(tuple);
        }
        // A SYN with payload is TCP Fast Open's.
        let flags =
            self.chance.weighted(&[(20, SYN), (4, ACK), (1, SYN | ACK), (1, FIN | ACK), (1, RST)]);
        Body::Tcp(Segment {
            flags: TcpFlags(flags),
            sequence: self.number(),
            acknowledgement: self.number(),
        })
    }

    /// Anything of the tuple's protocol.
    pub(super) fn any_body(&mut self, tuple: &Tuple) -> Body {
        match tuple.protocol {
            protocol::TCP => Body::Tcp(Segment {
                flags: TcpFlags(self.chance.below(64) as u8),
                sequence: self.number(),
                acknowledgement: self.number(),
            }),
            protocol::UDP => Body::Udp { checksum: !self.chance.one_in(4) },
            protocol::ICMP | protocol::ICMPV6 => Body::Echo { request: self.chance.one_in(2) },
            other => Body::Protocol(other),
        }
    }

    fn segment(&mut self, session: &Session, side: Side) -> Segment {
        let is_initiator = side == session.initiator;
        let flags = match session.state {
            _ if self.chance.one_in(12) => self.chance.below(64) as u8,
            State::Opening if is_initiator => self.chance.weighted(&[
                (8, ACK),
                (3, SYN),
                (2, PSH | ACK),
                (2, FIN | ACK),
                (2, RST),
                (1, SYN | ACK),
            ]),
            State::Opening => self.chance.weighted(&[
                (9, SYN | ACK),
                (1, SYN),
                (2, RST | ACK),
                (1, RST),
                (1, ACK),
                (1, FIN | ACK),
            ]),
            State::Lingering => self.chance.weighted(&[
                (5, SYN),
                (4, ACK),
                (2, FIN | ACK),
                (1, RST),
                (1, SYN | ACK),
            ]),
            State::Resetting => self.chance.weighted(&[
                (3, ACK),
                (2, RST),
                (1, SYN),
                (1, FIN | ACK),
                (1, RST | ACK),
            ]),
            State::Established | State::Closing => self.chance.weighted(&[
                (12, ACK),
                (3, PSH | ACK),
                (9, FIN | ACK),
                (1, FIN),
                (1, RST),
                (1, RST | ACK),
                (1, SYN),
                (1, SYN | ACK),
                (1, URG | ACK),
            ]),
        };
        let (sequence, acknowledgement) = self.numbers(session, side);
        Segment { flags: TcpFlags(flags), sequence, acknowledgement }
    }

    /// Numbers at which something is decided, and their neighbours.
    fn numbers(&mut self, session: &Session, side: Side) -> (u32, u32) {
        let (fin, other_fin) = match side {
            Side::Client => (session.fin_of_client, session.fin_of_vm),
            Side::Vm => (session.fin_of_vm, session.fin_of_client),
        };
        let is_initiator = side == session.initiator;
        let (sent, heard) = match is_initiator {
            true => (session.initiator_next, session.responder_next),
            false => (session.responder_next, session.initiator_next),
        };
        let sent = fin.map_or(sent, |fin| fin.end);
        let heard = other_fin.map_or(heard, |fin| fin.end);
        let beside = [0, 0, 0, 0, 1, u32::MAX];
        // An RST is believed, doubted or passed over by that.
        let beyond = [0, 0, 0, 1, u32::MAX, 1 << 25, (1 << 25) - 1, 1 << 31];
        let far = [0, 0, 1, u32::MAX, 1 << 17, (1 << 17) - 1, 1 << 31, (1 << 31) - 1, 1 << 20];
        let acknowledged = match side {
            Side::Client => session.heard_of_client,
            Side::Vm => session.heard_of_vm,
        };
        let sequence = match self.chance.below(8) {
            0 | 1 => self.number(),
            2 | 3 => acknowledged.wrapping_add(self.chance.pick(&beyond)),
            _ => sent.wrapping_add(self.chance.pick(&beside)),
        };
        let acknowledgement = match self.chance.below(8) {
            0 => self.number(),
            1 => heard.wrapping_add(self.chance.pick(&far)),
            _ => heard.wrapping_add(self.chance.pick(&beside)),
        };
        (sequence, acknowledgement)
    }

    /// Any number, most often around the wrap.
    fn number(&mut self) -> u32 {
        match self.chance.one_in(4) {
            true => self.chance.number() as u32,
            false => (self.chance.below(9) as u32).wrapping_sub(4),
        }
    }
}
