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
    /// Who sent the last RST.
    pub(crate) reset_by: Side,
    /// Known by a FIN, and nothing has gone on since: probably that came late.
    pub(crate) is_only_late: bool,
    /// Datagrams of the initiator.
    pub(crate) datagrams: u32,
}

/// How far beyond the responder's SYN the initiator may acknowledge when it finishes the handshake.
const WINDOW: u32 = 1 << 17;

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
            reset_by: Side::Client,
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

    /// `speaker` sends `packet` in this session.
    pub(crate) fn hear(&mut self, speaker: Side, packet: &Packet) {
        let len = u32::from(packet.len);
        if packet.flags().is_some_and(|flags| len > 0 && !flags.has(TcpFlags::FIN)) {
            self.is_only_late = false;
        }
        match (&packet.body, self.state) {
            (Body::Tcp(_), State::Lingering) => {}
            (Body::Tcp(segment), State::Opening) => self.hear_opening(speaker, *segment, len),
            (Body::Tcp(segment), State::Resetting) => {
                if segment.flags.has(TcpFlags::RST) {
                    self.reset_by = speaker;
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
            self.state = if is_exact { State::Lingering } else { State::Resetting };
            self.reset_by = speaker;
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
            self.hear_established(speaker, segment, len);
        }
    }

    fn hear_established(&mut self, speaker: Side, segment: Segment, len: u32) {
        let Segment { flags, sequence, acknowledgement } = segment;
        if flags.has(TcpFlags::RST) {
            (self.state, self.reset_by) = (State::Resetting, speaker);
            return;
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
            (protocol::TCP, State::Established) => timeouts.tcp_established_ms,
            (protocol::TCP, State::Closing) => match (self.fin_of_client, self.fin_of_vm) {
                (Some(_), Some(_)) => timeouts.tcp_closing_ms,
                _ if self.is_only_late => timeouts.tcp_closing_ms,
                _ => timeouts.tcp_established_ms,
            },
            (protocol::TCP, State::Resetting) => timeouts.tcp_reset_ms,
            (protocol::TCP, State::Lingering) => timeouts.linger_ms,
            _ => timeouts.udp_ms,
        }
    }
}
