//! The packet path against an oracle: a slow, obvious model of its rules and the real pipeline at 1, 2, 3 and 4
//! shards get the same random packets, with migrations, silence and sweeps in between, and must agree on every packet, to
//! the byte, and on every session.
//!
//! Not in the streams: fragments, tunnels, ARP and neighbour discovery, damaged frames, and want of room, which `flood` is
//! about.
//!
//! `TIDEGATE_ORACLE_SEED` and `TIDEGATE_ORACLE_STEPS` (packets) run a stream again or make it longer.

mod chance;
mod flood;
mod model;
mod packet;
mod pair;
mod real;
mod stream;
mod trace;
mod world;

use chance::Chance;
use pair::Pair;
use real::RealBox;
use stream::Stream;
use tidegate_dataplane::pipeline::Outcome;

/// Packets of a stream, to each of the boxes.
const PACKETS: u64 = 250_000;
/// Far from what the streams need: what happens without room is tested elsewhere.
const CAPACITY: u32 = 4096;
/// Shortly before the clock's lower half wraps.
const START_MS: u64 = (1 << 32) - 600_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Feed the stream of `seed`, which the environment may replace.
fn run(seed: u64) -> Pair {
    let seed = from_environment("TIDEGATE_ORACLE_SEED").unwrap_or(seed);
    let packets = from_environment("TIDEGATE_ORACLE_STEPS").unwrap_or(PACKETS);
    println!("TIDEGATE_ORACLE_SEED={seed}");
    let boxes = (1..=4).map(|shards| RealBox::new(shards, CAPACITY)).collect();
    let (mut pair, mut stream) = (Pair::new(seed, START_MS, boxes), Stream::new(seed));
    while pair.fed() < packets {
        stream.go_on(&mut pair);
    }
    pair.compare_sessions();
    pair
}

/// Outcomes that the streams reach; what they never reach is not compared.
const REACHED: [Outcome; 22] = [
    Outcome::ToSource,
    Outcome::ToDestination,
    Outcome::ToClient,
    Outcome::Forwarded,
    Outcome::UnknownVlan,
    Outcome::NotForUs,
    Outcome::ForHost,
    Outcome::TtlExpired,
    Outcome::TtlExpiredAnswered,
    Outcome::NoRoute,
    Outcome::NoRouteAnswered,
    Outcome::NeighbourUnknown,
    Outcome::Spoofed,
    Outcome::IcmpUnsupported,
    Outcome::IcmpUnmatched,
    Outcome::IcmpQuoteUnreadable,
    Outcome::BadIcmpChecksum,
    Outcome::OtherOwner,
    Outcome::BeforeCutover,
    Outcome::StaleClone,
    Outcome::UnknownTcp,
    Outcome::UnknownQuic,
];

/// The same of what one VM sends another.
const REACHED_BETWEEN_VMS: [Outcome; 5] = [
    Outcome::ToSource,
    Outcome::ToDestination,
    Outcome::Forwarded,
    Outcome::UnknownTcp,
    Outcome::IcmpUnmatched,
];

#[test]
fn the_stream_of_always() {
    let pair = run(1);
    for outcome in REACHED {
        let least = if pair.fed() < PACKETS { 0 } else { 50 };
        let count = pair.reached(outcome);
        assert!(count >= least, "{} only {count} times", outcome.name());
    }
    for outcome in REACHED_BETWEEN_VMS {
        let least = if pair.fed() < PACKETS { 0 } else { 20 };
        let count = pair.model.between_vms.get(outcome.name()).copied().unwrap_or_default();
        assert!(count >= least, "{} between VMs only {count} times", outcome.name());
    }
}

#[test]
fn a_stream_that_was_never_seen() {
    run(Chance::fresh_seed());
}
