//! The life of all sessions, at both ends: what is sent next, and whether what arrives is right.
//!
//! A session: SYN, SYN-ACK, ACK, then segments, each answered by the VM, then FIN-ACK, FIN-ACK, ACK. Each but the
//! last carries data, the tag. No segment is sent again: what is lost stays lost, and is counted.

use std::{collections::VecDeque, io};

use tidegate_hugemem::HugeArray;
use tidegate_packets::{client, random::Random};

use crate::{
    faults::{Fault, Faults},
    frame::{self, Head, Segment, Tag, flags},
    session::{End, Owner, Session},
    topology::Topology,
};

/// How far the migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Stage {
    /// New sessions belong to the source.
    #[default]
    Before,
    /// The cutover was asked for: new sessions belong to either.
    UnderWay,
    /// The cutover was acknowledged: new sessions belong to the destination.
    Done,
}

/// What becomes of a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is sent.
    None,
    /// The frame is now the answer, as long as it was.
    Whole,
    /// The first [`frame::BARE`] bytes of the frame are now the answer.
    Bare,
}

/// A frame that arrived at one of the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is none of a session's.
    Foreign,
    /// It is of a session, right or wrong. Its stamp, if it is right and has one.
    Ours(Answer, Option<u64>),
}

/// How sessions have fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// SYNs sent.
    pub opened: u64,
    /// Handshakes finished.
    pub established: u64,
    /// Closed by both ends.
    pub closed: u64,
    /// Begun at the source.
    pub at_source: u64,
    /// Begun at the destination.
    pub at_destination: u64,
    /// Of these, begun while the cutover was under way: either VM was right.
    pub either: u64,
}

/// All sessions.
pub struct Life {
    sessions: HugeArray<Session>,
    /// Sessions that both ends may use.
    open: Vec<u32>,
    /// Sessions to begin next; those longest closed first.
    closed: VecDeque<u32>,
    random: Random,
    topology: Topology,
    /// How they fared.
    pub tally: Tally,
    /// What was wrong.
    pub faults: Faults,
}

impl Life {
    /// Room for `slots` sessions, none of them begun.
    ///
    /// # Errors
    /// When there is no memory for them.
    ///
    /// # Panics
    /// With more than [`client::MOST`].
    pub fn new(slots: u32, topology: Topology) -> io::Result<Self> {
        assert!(slots <= client::MOST, "{slots} sessions cannot be told apart");
        Ok(Self {
            sessions: HugeArray::zeroed(slots as usize)?,
            open: Vec::with_capacity(slots as usize),
            closed: (0..slots).collect(),
            random: Random::new(1),
            topology,
            tally: Tally::default(),
            faults: Faults::default(),
        })
    }

    /// The ends.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Sessions that have finished their handshake and are not closing.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.open.len()
    }

    /// Begin to load the session this frame belongs to.
    #[inline]
    pub fn prefetch(&self, frame: &[u8]) {
        let ends = frame::peek(frame).into_iter().flatten();
        if let Some(number) = ends.filter_map(client::number).next() {
            self.sessions.prefetch(number as usize);
        }
    }

    /// Choose an open session at random, and begin to load it.
    #[inline]
    pub fn choose(&mut self) -> Option<u32> {
        let open = u32::try_from(self.open.len()).ok().filter(|&open| open > 0)?;
        let number = self.open[self.random.below(open) as usize];
        self.sessions.prefetch(number as usize);
        Some(number)
    }

    /// Write the SYN of a new session. `false` when all ports are in use.
    #[inline]
    pub fn begin(&mut self, stage: Stage, frame: &mut [u8]) -> bool {
        let Some(number) = self.closed.pop_front() else { return false };
        let session = &mut self.sessions[number as usize];
        session.life = session.life.wrapping_add(1);
        session.owner = match stage {
            Stage::Before => Owner::Source,
            Stage::UnderWay => Owner::Either,
            Stage::Done => Owner::Destination,
        };
        session.client = End::Opening;
        session.client_next = first_sequence(number, session.life, 0);
        self.tally.opened += 1;
        self.client_says(number, flags::SYN, frame);
        true
    }

    /// Write a segment of session `number`. `false` when it is not open any more.
    #[inline]
    pub fn go_on(&mut self, number: u32, frame: &mut [u8]) -> bool {
        let is_open = self.sessions[number as usize].client == End::Open;
        if is_open {
            self.client_says(number, flags::PSH | flags::ACK, frame);
        }
        is_open
    }

    /// Write the FIN of an open session. `false` when there is none.
    #[inline]
    pub fn end(&mut self, frame: &mut [u8]) -> bool {
        let Some(last) = u32::try_from(self.open.len()).ok().and_then(|it| it.checked_sub(1))
        else {
            return false;
        };
        let number = self.open.swap_remove(self.random.below(last + 1) as usize);
        self.sessions[number as usize].client = End::Closing;
        self.client_says(number, flags::FIN | flags::ACK, frame);
        true
    }

    /// A frame has arrived at VM port `port`.
    #[inline]
    pub fn at_vm(&mut self, port: usize, stage: Stage, frame: &mut [u8]) -> Arrival {
        let Some(segment) = frame::read(frame) else { return Arrival::Foreign };
        if segment.head.destination.1 != self.topology.managed.1 {
            return Arrival::Foreign;
        }
        let checked = self.check_at_vm(port, stage, &segment);
        let stamp = segment.tag.map(|tag| tag.stamp);
        match checked {
            Ok(number) => Arrival::Ours(self.vm_answers(number, &segment, frame), stamp),
            Err(fault) => {
                self.faults.count(fault);
                Arrival::Ours(Answer::None, None)
            }
        }
    }

    /// A frame has arrived at the clients' port.
    #[inline]
    pub fn at_client(&mut self, frame: &mut [u8]) -> Arrival {
        let Some(segment) = frame::read(frame) else { return Arrival::Foreign };
        if segment.head.source.1 != self.topology.managed.1 {
            return Arrival::Foreign;
        }
        let stamp = segment.tag.map(|tag| tag.stamp);
        match self.check_at_client(&segment) {
            Ok(number) => Arrival::Ours(self.client_answers(number, &segment, frame), stamp),
            Err(fault) => {
                self.faults.count(fault);
                Arrival::Ours(Answer::None, None)
            }
        }
    }

    fn check_at_vm(&mut self, port: usize, stage: Stage, segment: &Segment) -> Result<u32, Fault> {
        are_checksums_right(segment)?;
        let head = &segment.head;
        let vm = self.topology.vm_at(port, head.destination_mac, head.destination);
        let vm = vm.ok_or(Fault::Address)?;
        let number = client::number(head.source).ok_or(Fault::Address)?;
        let session = self.sessions.get_mut(number as usize).ok_or(Fault::Address)?;
        is_tag_right(segment, number, session)?;
        if head.flags & flags::SYN != 0 {
            if session.vm != End::Closed || session.client != End::Opening {
                return Err(Fault::Unexpected);
            }
            // What was under way when the cutover was asked for may arrive before or after it.
            let settled = session.owner == Owner::Destination || stage == Stage::Before;
            if settled && session.owner != vm && session.owner != Owner::Either {
                return Err(Fault::Misdirected);
            }
            self.tally.either += u64::from(!settled);
            session.owner = vm;
            match vm {
                Owner::Destination => self.tally.at_destination += 1,
                _ => self.tally.at_source += 1,
            }
            return Ok(number);
        }
        if session.vm == End::Closed {
            return Err(Fault::Unexpected);
        }
        if session.owner != vm {
            return Err(Fault::Misdirected);
        }
        in_order(head, session.vm_expects, session.vm_next)?;
        // After FIN the client only acknowledges the VM's.
        let is_last = segment.payload == 0 && head.acknowledgement == session.vm_next;
        if is_last == (session.vm == End::Closing) { Ok(number) } else { Err(Fault::Unexpected) }
    }

    fn check_at_client(&mut self, segment: &Segment) -> Result<u32, Fault> {
        are_checksums_right(segment)?;
        let head = &segment.head;
        let expected_mac = self.topology.client.mac;
        if head.source != self.topology.managed || head.destination_mac != expected_mac {
            return Err(Fault::Address);
        }
        let number = client::number(head.destination).ok_or(Fault::Address)?;
        let session = self.sessions.get(number as usize).ok_or(Fault::Address)?;
        is_tag_right(segment, number, session)?;
        if segment.tag.is_some_and(|tag| tag.vm != session.owner as u8) {
            return Err(Fault::Misdirected);
        }
        let is_syn_ack = head.flags & flags::SYN != 0;
        if is_syn_ack != (session.client == End::Opening) || session.client == End::Closed {
            return Err(Fault::Unexpected);
        }
        if !is_syn_ack {
            in_order(head, session.client_expects, session.client_next)?;
        }
        Ok(number)
    }

    #[inline]
    fn vm_answers(&mut self, number: u32, segment: &Segment, frame: &mut [u8]) -> Answer {
        let session = &mut self.sessions[number as usize];
        session.vm_expects = after(segment);
        let says = match (session.vm, segment.head.flags) {
            (End::Closed, _) => {
                session.vm = End::Open;
                session.vm_next = first_sequence(number, session.life, 1);
                flags::SYN | flags::ACK
            }
            (End::Closing, _) => {
                // The last ACK: nothing of this session is under way any more.
                session.vm = End::Closed;
                self.closed.push_back(number);
                self.tally.closed += 1;
                return Answer::None;
            }
            (_, heard) if heard & flags::FIN != 0 => {
                session.vm = End::Closing;
                flags::FIN | flags::ACK
            }
            _ => flags::ACK,
        };
        self.vm_says(number, says, frame);
        Answer::Whole
    }

    #[inline]
    fn client_answers(&mut self, number: u32, segment: &Segment, frame: &mut [u8]) -> Answer {
        let session = &mut self.sessions[number as usize];
        session.client_expects = after(segment);
        if session.client == End::Opening {
            session.client = End::Open;
            self.open.push(number);
            self.tally.established += 1;
            self.client_says(number, flags::PSH | flags::ACK, frame);
            return Answer::Whole;
        }
        if segment.head.flags & flags::FIN == 0 {
            // Acknowledged by the next segment.
            return Answer::None;
        }
        session.client = End::Closed;
        let head = self.client_head(number, flags::ACK);
        frame::write(&mut frame[..frame::BARE], &head, None);
        Answer::Bare
    }

    /// A tagged segment of the client.
    #[inline]
    fn client_says(&mut self, number: u32, flags: u8, frame: &mut [u8]) {
        let head = self.client_head(number, flags);
        let session = &mut self.sessions[number as usize];
        session.client_next = session.client_next.wrapping_add(length(flags, frame));
        frame::write(frame, &head, Some(&tag(number, session)));
    }

    fn client_head(&self, number: u32, flags: u8) -> Head {
        let session = &self.sessions[number as usize];
        let client = &self.topology.client;
        Head {
            source_mac: client.mac,
            destination_mac: client.gateway,
            source: client::endpoint(number),
            destination: self.topology.managed,
            flags,
            sequence: session.client_next,
            acknowledgement: if flags & flags::ACK != 0 { session.client_expects } else { 0 },
        }
    }

    /// A tagged segment of the VM.
    #[inline]
    fn vm_says(&mut self, number: u32, flags: u8, frame: &mut [u8]) {
        let session = &mut self.sessions[number as usize];
        let vm = self.topology.vm(session.owner);
        let head = Head {
            source_mac: vm.mac,
            destination_mac: vm.gateway,
            source: (vm.address, self.topology.managed.1),
            destination: client::endpoint(number),
            flags,
            sequence: session.vm_next,
            acknowledgement: session.vm_expects,
        };
        session.vm_next = session.vm_next.wrapping_add(length(flags, frame));
        frame::write(frame, &head, Some(&tag(number, session)));
    }
}

fn tag(number: u32, session: &Session) -> Tag {
    Tag { session: number, life: session.life, vm: session.owner as u8, stamp: 0 }
}

/// Sequence numbers an end may begin with: another for each life and end.
fn first_sequence(number: u32, life: u16, end: u64) -> u32 {
    (Random::new(u64::from(number) << 32 | u64::from(life) << 8 | end).bits() >> 32) as u32
}

/// What a tagged frame with these flags takes of the sequence space.
fn length(flags: u8, frame: &[u8]) -> u32 {
    (frame.len() - frame::HEADERS) as u32 + u32::from(flags & (flags::SYN | flags::FIN) != 0)
}

/// The sequence number after a segment.
fn after(segment: &Segment) -> u32 {
    let flag = segment.head.flags & (flags::SYN | flags::FIN) != 0;
    segment.head.sequence.wrapping_add(segment.payload).wrapping_add(u32::from(flag))
}

fn are_checksums_right(segment: &Segment) -> Result<(), Fault> {
    if !segment.ip_is_right {
        return Err(Fault::IpChecksum);
    }
    if segment.tcp_is_right { Ok(()) } else { Err(Fault::TcpChecksum) }
}

/// Whether the tag is this session's; only what carries nothing is without.
fn is_tag_right(segment: &Segment, number: u32, session: &Session) -> Result<(), Fault> {
    match segment.tag {
        Some(tag) if (tag.session, tag.life) == (number, session.life) => Ok(()),
        None if segment.payload == 0 => Ok(()),
        _ => Err(Fault::Tag),
    }
}

/// Whether a segment is not before what is expected, and acknowledges nothing that was not sent. One after a loss
/// is later than expected: the loss is counted elsewhere.
fn in_order(head: &Head, expects: u32, next: u32) -> Result<(), Fault> {
    if (head.sequence.wrapping_sub(expects) as i32) < 0 {
        return Err(Fault::Reordered);
    }
    if (next.wrapping_sub(head.acknowledgement) as i32) < 0 {
        return Err(Fault::Unexpected);
    }
    Ok(())
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
