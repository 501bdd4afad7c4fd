//! What was done last, for whoever has to find out why model and box differ.

use std::{collections::VecDeque, fmt, fmt::Write, net::IpAddr};

use crate::{
    model::Expected,
    packet::{Body, Packet},
    world::is_client,
};

/// One thing that was done.
pub(crate) enum Done {
    Packet(Packet, Expected),
    /// To this managed address, or to all.
    Step(Option<IpAddr>, String),
}

/// Steps are numbered from 1.
#[derive(Default)]
pub(crate) struct Trace {
    done: VecDeque<Done>,
    count: u64,
}

/// Client, its port, the service's port, protocol.
pub(crate) type Ends = (IpAddr, u16, u16, u8);

const KEPT: usize = 20_000;
const SHOWN: usize = 40;

impl Trace {
    pub(crate) fn push(&mut self, done: Done) {
        if self.done.len() == KEPT {
            self.done.pop_front();
        }
        self.done.push_back(done);
        self.count += 1;
    }

    /// The number of the last step.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The last steps that have to do with a session between `ends` and with these managed addresses; all if there are none.
    pub(crate) fn about(&self, ends: Ends, addresses: &[IpAddr]) -> String {
        let first = self.count - self.done.len() as u64 + 1;
        let related = (first..self.count + 1).zip(&self.done).filter(|(_, done)| match done {
            Done::Packet(packet, _) => ends_of(packet) == ends,
            Done::Step(address, _) => {
                address.is_none_or(|address| addresses.contains(&address) || addresses.is_empty())
            }
        });
        let related: Vec<_> = related.collect();
        let shown = &related[related.len().saturating_sub(SHOWN)..];
        shown.iter().fold(String::new(), |mut text, (number, done)| {
            writeln!(text, "{number:>8} {done}").expect("a string grows");
            text
        })
    }
}

/// The client's end, the service's port and the protocol of the session a packet is in or about.
pub(crate) fn ends_of(packet: &Packet) -> Ends {
    match &packet.body {
        Body::Error(quote) => ends_of(&quote.packet),
        _ if is_client(packet.source) => {
            (packet.source, packet.source_port, packet.destination_port, packet.protocol())
        }
        _ => (packet.destination, packet.destination_port, packet.source_port, packet.protocol()),
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(packet, expected) => {
                write!(f, "{packet} → {}", expected.outcome.name())?;
                match &expected.sent {
                    Some((sent, _)) => write!(f, ", {} to {}", sent.source, sent.destination),
                    None => Ok(()),
                }
            }
            Self::Step(_, text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, source, source_port, destination, destination_port, ttl, len, .. } = self;
        write!(f, "port {}: {source} {source_port} > {destination} {destination_port}", port.0)?;
        match &self.body {
            Body::Tcp(segment) => {
                let letters = "FSRPAU".chars().enumerate();
                let set = letters.filter(|(bit, _)| segment.flags.0 & (1 << bit) != 0);
                let set: String = set.map(|(_, letter)| letter).collect();
                let (sequence, acknowledgement) = (segment.sequence, segment.acknowledgement);
                write!(f, " tcp {set} {sequence} ack {acknowledgement}")?;
            }
            Body::Error(quote) => {
                let intact = if quote.intact { "" } else { " damaged" };
                write!(
                    f,
                    "{intact} {:?} quoting {} of ({})",
                    quote.kind, quote.bytes, quote.packet
                )?;
            }
            other => write!(f, " {other:?}")?,
        }
        write!(f, " len {len} ttl {ttl}")
    }
}
