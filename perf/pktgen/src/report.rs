//! What a run found.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{faults::Faults, latency::Latency, life::Tally};

/// Sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Begun.
    pub opened: u64,
    /// Handshake finished.
    pub established: u64,
    /// Closed by both ends.
    pub closed: u64,
    /// Begun and not closed in the end: a packet they needed was lost.
    pub unfinished: u64,
    /// That reached the source.
    pub at_source: u64,
    /// That reached the destination.
    pub at_destination: u64,
    /// Of these, begun around the cutover, when either was right.
    pub either: u64,
}

impl Sessions {
    pub(crate) fn of(tally: &Tally) -> Self {
        let Tally { opened, established, closed, at_source, at_destination, either } = *tally;
        let unfinished = opened - closed;
        Self { opened, established, closed, unfinished, at_source, at_destination, either }
    }
}

/// Packets of sessions, one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Taken by the port.
    pub sent: u64,
    /// That came back.
    pub received: u64,
    /// Still held in the end: the port's queue was full for good.
    pub unsent: u64,
    /// Times packets had to wait because the port's queue was full.
    pub port_full: u64,
}

impl Packets {
    /// Sent and never seen again.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// How the generator itself ran while it recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Poller {
    /// Packets per second it sent.
    pub rate_pps: f64,
    /// Times it stood still for longer than allowed; if it may rest, with packets under way.
    pub stalls: u64,
    /// How long all of these took, microseconds.
    pub stalled_us: f64,
    /// The longest time between two polls of the ports, microseconds; if it may rest, with packets under way.
    pub longest_gap_us: f64,
    /// Times it gave its CPU away because nothing was under way.
    pub rests: u64,
}

/// All of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Sessions.
    pub sessions: Sessions,
    /// From clients to VMs.
    pub to_vm: Packets,
    /// From VMs to clients.
    pub to_client: Packets,
    /// Packets that arrived and were wrong.
    pub faults: Faults,
    /// Frames that were nobody's: neither a session's nor ARP.
    pub foreign: u64,
    /// Latency.
    pub latency: Latency,
    /// The generator.
    pub poller: Poller,
}

impl Report {
    /// Sent, or never taken by a port, and not seen again, both directions. What came back doubled or in no place of its
    /// session stands for none that is missing, so this is an upper bound.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let unsent = self.to_vm.unsent + self.to_client.unsent;
        let doubled = self.faults.reordered + self.faults.unexpected;
        let missing = |it: &Packets| it.sent.saturating_sub(it.received);
        let possible = missing(&self.to_vm) + missing(&self.to_client) + doubled;
        unsent + possible
    }

    /// Whether every packet came back and was right, and every session ended.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost() + self.faults.total() + self.sessions.unfinished == 0
            && self.sessions.opened > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sessions { opened, closed, at_source, at_destination, either, .. } = self.sessions;
        writeln!(
            f,
            "sessions   {opened} begun, {closed} closed; {at_source} at the source, {at_destination} at the destination, {either} of either"
        )?;
        for (name, it) in [("to VMs", &self.to_vm), ("to clients", &self.to_client)] {
            let Packets { sent, received, unsent, port_full } = *it;
            let lost = it.lost();
            writeln!(
                f,
                "{name:<10} {sent} sent, {received} received, {lost} lost, {unsent} never taken by the port, which was full {port_full} times"
            )?;
        }
        let Faults { misdirected, ip_checksum, tcp_checksum, address, tag, reordered, unexpected } =
            self.faults;
        writeln!(
            f,
            "faults     misdirected {misdirected}, IPv4 checksum {ip_checksum}, TCP checksum {tcp_checksum}, address {address}, tag {tag}, reordered {reordered}, unexpected {unexpected}"
        )?;
        let names = ["all", "to VMs", "to clients", "undisturbed"];
        let Latency { all, to_vm, to_client, undisturbed } = self.latency;
        for (name, it) in names.iter().zip([all, to_vm, to_client, undisturbed]) {
            writeln!(
                f,
                "latency    {name:<11} {:>10} packets: min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} µs",
                it.packets, it.min_us, it.p50_us, it.p90_us, it.p99_us, it.p999_us, it.max_us
            )?;
        }
        let Poller { rate_pps, stalls, stalled_us, longest_gap_us, rests } = self.poller;
        write!(
            f,
            "generator  {:.3} Mpps sent, {stalls} stalls of {stalled_us:.0} µs in all, longest gap {longest_gap_us:.1} µs, {rests} rests; {} foreign frames",
            rate_pps / 1e6,
            self.foreign
        )
    }
}
