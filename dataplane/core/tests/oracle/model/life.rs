//! One session's life, packet by packet.

use tidegate_dataplane::{
    packet::{TcpFlags, protocol},
    session::SessionState as State,
    steering::{BackendSlot, Timeouts},
};

use crate::packet::{Body, Packet, Segment};

/// Who speaks in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Vm,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        if self == Self::Client { Self::Vm } else { Self::Client }
    }
}

/// A FIN: the number that acknowledges it, and whether that was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fin {
    pub(crate) end: u32,
    pub(crate) acknowledged: bool,
}

/// A session as the model remembers it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) owner: BackendSlot,
    pub(crate) birth_epoch: u32,
    pub(crate) last_ms: u64,
    pub(crate) state: State,
    pub(crate) initiator: Side,
    pub(crate) answered: bool,
    /// What acknowledges the initiator's latest SYN and its payload.
    pub(crate) initiator_next: u32,
    /// What acknowledges the responder's latest SYN.
    pub(crate) responder_next: u32,
    pub(crate) fin_of_client: Option<Fin>,
    pub(crate) fin_of_vm: Option<Fin>,
    /// Up to where each side has been acknowledged, where that is known. Zero says as much as nothing.
    pub(crate) heard_of_client: u32,
    pub(crate) heard_of_vm: u32,
    /// Who sent the last RST, and whether another could have sent it as well.
    pub(crate) reset_by: Side,
    pub(crate) reset_doubted: bool,
    /// Taken for established, although the VM has not been heard.
    pub(crate) is_unconfirmed: bool,
    /// Known by a FIN, and nothing has gone on since: probably that came late.
    pub(crate) is_only_late: bool,
    /// Datagrams of the initiator.
    pub(crate) datagrams: u32,
}

/// How far beyond the responder's SYN the initiator may acknowledge when it finishes the handshake.
const WINDOW: u32 = 1 << 17;

/// How far ahead of what was acknowledged a sender may be.
const RESET_WINDOW: u32 = 1 << 25;

/// Datagrams of the initiator that make a session, answered or not.
const ONE_WAY: u32 = 8;

impl Session {
    fn new(owner: BackendSlot, birth_epoch: u32, initiator: Side, state: State) -> Self {
        Self {
            owner,
            birth_epoch,
            last_ms: 0,
            state,
            initiator,
            answered: false,
            initiator_next: 0,
            responder_next: 0,
            fin_of_client: None,
            fin_of_vm: None,
            heard_of_client: 0,
            heard_of_vm: 0,
            reset_by: Side::Client,
            reset_doubted: false,
            is_unconfirmed: false,
            is_only_late: false,
            datagrams: 0,
        }
    }

    /// Begun by `initiator`.
    pub(crate) fn begun(owner: BackendSlot, birth_epoch: u32, initiator: Side) -> Self {
        Self::new(owner, birth_epoch, initiator, State::Opening)
    }

    /// Known to exist already.
    pub(crate) fn known(owner: BackendSlot, birth_epoch: u32) -> Self {
        Self::new(owner, birth_epoch, Side::Client, State::Established)
    }

    /// Known by this packet.
    pub(crate) fn adopted(owner: BackendSlot, birth_epoch: u32, packet: &Packet) -> Self {
        let is_only_late = packet.flags().is_some_and(|flags| flags.has(TcpFlags::FIN));
        Self { is_only_late, ..Self::known(owner, birth_epoch) }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state != State::Lingering
    }

    /// Closed, or ended by an RST that its receiver believes: its ports are free for another.
    pub(crate) fn is_over(&self) -> bool {
        let is_reset = self.state == State::Resetting && !self.reset_doubted;
        is_reset || !self.is_live()
    }

    /// `speaker` sends `packet` in this session.
    pub(crate) fn hear(&mut self, speaker: Side, packet: &Packet) {
        let len = u32::from(packet.len);
        if speaker == Side::Vm && !packet.flags().is_some_and(|flags| flags.has(TcpFlags::RST)) {
            self.is_unconfirmed = false;
        }
        if packet.flags().is_some_and(|flags| len > 0 && !flags.has(TcpFlags::FIN)) {
            self.is_only_late = false;
        }
        match (&packet.body, self.state) {
            (Body::Tcp(_), State::Lingering) => {}
            (Body::Tcp(segment), State::Opening) => self.hear_opening(speaker, *segment, len),
            (Body::Tcp(segment), State::Resetting) => {
                if segment.flags.has(TcpFlags::RST) {
                    self.hear_reset(speaker, segment.sequence);
                } else if speaker != self.reset_by {
                    // It goes on, so it was no late word of a session long over.
                    self.is_only_late = false;
                    self.state = self.state_by_fins();
                    self.hear_established(speaker, *segment, len);
                }
            }
            (Body::Tcp(segment), _) => self.hear_established(speaker, *segment, len),
            (_, State::Opening) if speaker != self.initiator => self.answered = true,
            (_, State::Opening) => {
                self.datagrams += 1;
                if self.answered || self.datagrams == ONE_WAY {
                    self.state = State::Established;
                    self.is_unconfirmed = !self.answered && speaker == Side::Client;
                }
            }
            _ => {}
        }
    }

    fn hear_opening(&mut self, speaker: Side, segment: Segment, len: u32) {
        let Segment { flags, sequence, acknowledgement } = segment;
        let by_initiator = speaker == self.initiator;
        if flags.has(TcpFlags::RST) {
            let is_exact = if by_initiator {
                sequence == self.initiator_next
            } else {
                flags.has(TcpFlags::ACK) && acknowledgement == self.initiator_next
            };
            if is_exact {
                self.state = State::Lingering;
            }
            return;
        }
        if by_initiator && flags.has(TcpFlags::SYN) {
            self.initiator_next = sequence.wrapping_add(1).wrapping_add(len);
        }
        if !by_initiator && flags.has(TcpFlags::SYN) {
            self.answered = true;
            self.responder_next = sequence.wrapping_add(1);
        }
        let beyond = acknowledgement.wrapping_sub(self.responder_next);
        if by_initiator && self.answered && flags.has(TcpFlags::ACK) && beyond < WINDOW {
            self.state = State::Established;
            (*self.heard_of(self.initiator), *self.heard_of(self.initiator.other())) =
                (self.initiator_next, self.responder_next);
            self.hear_established(speaker, segment, len);
        }
    }

    fn heard_of(&mut self, side: Side) -> &mut u32 {
        if side == Side::Client { &mut self.heard_of_client } else { &mut self.heard_of_vm }
    }

    /// An RST is meant where its receiver expects the next number; one ahead of it may be.
    fn hear_reset(&mut self, speaker: Side, sequence: u32) {
        let fin = self.fin(speaker).as_ref().map(|fin| fin.end);
        let known = fin.unwrap_or(*self.heard_of(speaker));
        let beyond = i64::from(sequence.wrapping_sub(known) as i32);
        let doubted = match fin {
            _ if known == 0 => true,
            Some(_) if beyond == 0 || beyond == -1 => false,
            None if beyond == 0 => false,
            None if (1..i64::from(RESET_WINDOW)).contains(&beyond) => true,
            _ => return,
        };
        if doubted && fin.is_none() {
            *self.heard_of(speaker) = 0;
        }
        (self.state, self.reset_by, self.reset_doubted) = (State::Resetting, speaker, doubted);
    }

    fn hear_established(&mut self, speaker: Side, segment: Segment, len: u32) {
        let Segment { flags, sequence, acknowledgement } = segment;
        if flags.has(TcpFlags::RST) {
            return self.hear_reset(speaker, sequence);
        }
        if flags.has(TcpFlags::ACK) && self.fin(speaker.other()).is_none() {
            *self.heard_of(speaker.other()) = acknowledgement;
        }
        if flags.has(TcpFlags::FIN) && self.fin(speaker).is_none() {
            let end = sequence.wrapping_add(len).wrapping_add(1);
            *self.fin(speaker) = Some(Fin { end, acknowledged: false });
        }
        if flags.has(TcpFlags::ACK)
            && let Some(fin) = self.fin(speaker.other())
            && acknowledgement.wrapping_sub(fin.end) < 1 << 31
        {
            fin.acknowledged = true;
        }
        self.state = self.state_by_fins();
    }

    fn fin(&mut self, side: Side) -> &mut Option<Fin> {
        if side == Side::Client { &mut self.fin_of_client } else { &mut self.fin_of_vm }
    }

    pub(super) fn state_by_fins(&self) -> State {
        match (self.fin_of_client, self.fin_of_vm) {
            (None, None) => State::Established,
            (Some(client), Some(vm)) if client.acknowledged && vm.acknowledged => State::Lingering,
            _ => State::Closing,
        }
    }

    /// How long it may be silent.
    pub(crate) fn limit_ms(&self, number: u8, timeouts: &Timeouts) -> u64 {
        match (number, self.state) {
            (protocol::ICMP | protocol::ICMPV6, _) => timeouts.echo_ms,
            (protocol::TCP, State::Opening) if self.answered => timeouts.tcp_opening_ms,
            (protocol::TCP, State::Opening) => timeouts.tcp_syn_ms,
            (protocol::TCP, State::Resetting) if self.reset_doubted => timeouts.tcp_closing_ms,
            (protocol::TCP, State::Resetting) => timeouts.tcp_reset_ms,
            (protocol::TCP, State::Lingering) => timeouts.linger_ms,
            (protocol::TCP, State::Closing)
                if self.fin_of_client.is_some() && self.fin_of_vm.is_some() =>
            {
                timeouts.tcp_closing_ms
            }
            (protocol::TCP, State::Closing) if self.is_only_late => timeouts.tcp_closing_ms,
            (protocol::TCP, _) if self.is_unconfirmed => timeouts.tcp_opening_ms,
            (protocol::TCP, _) => timeouts.tcp_established_ms,
            _ => timeouts.udp_ms,
        }
    }
}
