//! How many lookups a second a table makes.

use std::time::{Duration, Instant};

use tidegate_dataplane::pipeline::BURST;

use super::tables::Table;
use crate::{random::Random, samples::Samples};

/// Lookups per second of each table in turn, `runs` windows each. `first` is the first client looked up, one of
/// `sessions` drawn at random; `is_there` says whether all or none must be found.
///
/// # Errors
/// When a table finds what is not there, or not what is.
pub fn alternate(
    tables: &mut [&mut dyn Table],
    runs: usize,
    window: Duration,
    first: u32,
    sessions: u32,
    is_there: bool,
) -> anyhow::Result<Vec<Samples>> {
    let mut rates = vec![Samples::default(); tables.len()];
    let mut random = Random::new(1);
    for _ in 0..runs {
        for (at, table) in tables.iter_mut().enumerate() {
            // Warm-up: a tenth of the window.
            look_up(*table, window / 10, first, sessions, &mut random);
            let (looked_up, found, elapsed) = look_up(*table, window, first, sessions, &mut random);
            anyhow::ensure!(
                found == if is_there { looked_up } else { 0 },
                "table {at} found {found} of {looked_up} lookups, of which {} were of sessions it has",
                if is_there { "all" } else { "none" }
            );
            rates[at].push(looked_up as f64 / elapsed.as_secs_f64());
        }
    }
    Ok(rates)
}

fn look_up(
    table: &mut dyn Table,
    window: Duration,
    first: u32,
    sessions: u32,
    random: &mut Random,
) -> (u64, u64, Duration) {
    let started = Instant::now();
    let (mut looked_up, mut found) = (0, 0);
    while started.elapsed() < window {
        // The clock is asked once in a while only.
        for _ in 0..256 {
            let clients = std::array::from_fn(|_| first + random.below(sessions));
            found += u64::from(table.lookup(&clients));
            looked_up += BURST as u64;
        }
    }
    (looked_up, found, started.elapsed())
}
