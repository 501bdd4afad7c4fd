//! The stages: what is run, and which part of it is counted.

use std::hint::black_box;

use clap::ValueEnum;
use tidegate_dataplane::{packet::parse_ipv4, pipeline::BURST};
use tidegate_packets::{
    frame::{self, Kind, SMALLEST},
    random::Random,
    shard::{Bench, Packets},
    table::{Ours, key},
};

const SESSIONS: u32 = 10_000;
const BURSTS: u32 = 500;
/// Packets of which a stage's instructions are counted.
pub(crate) const PACKETS: u32 = BURSTS * BURST as u32;

/// A part of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// Reading the headers.
    Parse,
    /// Looking sessions up.
    Find,
    /// All stages, of segments of sessions that exist.
    Burst,
    /// All stages, of the home's answers in sessions that exist.
    Reply,
    /// All stages, of SYNs that begin sessions.
    New,
}

impl Stage {
    pub(crate) const ALL: [Self; 5] =
        [Self::Parse, Self::Find, Self::Burst, Self::Reply, Self::New];

    /// Its name on the command line and in the recorded file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Find => "find",
            Self::Burst => "burst",
            Self::Reply => "reply",
            Self::New => "new",
        }
    }

    /// Run it, [`PACKETS`] packets of it [`counted`].
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Parse => parse_frames(),
            Self::Find => find_sessions(),
            Self::Burst => take_through(Packets::Segments),
            Self::Reply => take_through(Packets::Replies),
            Self::New => take_through(Packets::Syns),
        }
    }
}

/// Callgrind counts what happens in here, and nothing else. Not inlined, and nothing is left to do at the end but a
/// return, so that its begin and end are where callgrind sees them.
#[inline(never)]
fn counted(work: &mut dyn FnMut() -> u32) -> u32 {
    black_box(work())
}

fn parse_frames() -> anyhow::Result<()> {
    let frame = frame::build(1, Kind::ACK, SMALLEST);
    let read = counted(&mut || {
        (0..PACKETS).map(|_| u32::from(parse_ipv4(black_box(&frame)).is_ok())).sum()
    });
    anyhow::ensure!(read == PACKETS, "{read} of {PACKETS} frames were well formed");
    Ok(())
}

fn find_sessions() -> anyhow::Result<()> {
    let table = Ours::filled(SESSIONS)?;
    let mut found = 0;
    for clients in drawn() {
        let keys = clients.map(key);
        found += counted(&mut || table.lookup(black_box(&keys)));
    }
    anyhow::ensure!(found == PACKETS, "{found} of {PACKETS} sessions were found");
    Ok(())
}

fn take_through(packets: Packets) -> anyhow::Result<()> {
    let mut bench = Bench::new(SESSIONS + PACKETS)?;
    bench.fill(0..SESSIONS)?;
    let mut take = |clients| {
        bench.make(packets, &clients);
        counted(&mut || {
            bench.process();
            0
        });
        bench.sent()
    };
    if packets == Packets::Syns {
        return newcomers().try_for_each(take);
    }
    drawn().try_for_each(&mut take)
}

/// Bursts of clients that have sessions.
fn drawn() -> impl Iterator<Item = [u32; BURST]> {
    let mut random = Random::new(1);
    (0..BURSTS).map(move |_| std::array::from_fn(|_| random.below(SESSIONS)))
}

/// Bursts of clients that have none.
fn newcomers() -> impl Iterator<Item = [u32; BURST]> {
    (0..BURSTS).map(|burst| {
        let first = SESSIONS + burst * BURST as u32;
        std::array::from_fn(|at| first + at as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_runs_under_its_name() {
        assert_eq!(Stage::ALL, Stage::value_variants());
        for stage in Stage::ALL {
            assert_eq!(Stage::from_str(stage.name(), false), Ok(stage));
            stage.run().expect("all packets take the way that is counted");
        }
    }
}
