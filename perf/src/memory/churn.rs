//! How many sessions a second a full table can exchange for others.

use std::time::{Duration, Instant};

use tidegate_dataplane::pipeline::BURST;
use tidegate_packets::client;

use super::tables::Table;
use crate::samples::Samples;

/// Sessions ended and begun per second by each table in turn, `runs` windows each. Each holds the sessions of clients below
/// `sessions`, a whole number of bursts; the oldest end first.
///
/// # Errors
/// When a table has lost a session, or has no room for one.
pub fn alternate(
    tables: &mut [&mut dyn Table],
    runs: usize,
    window: Duration,
    sessions: u32,
) -> anyhow::Result<Vec<Samples>> {
    let mut rates = vec![Samples::default(); tables.len()];
    let mut oldest = vec![0; tables.len()];
    for _ in 0..runs {
        for (at, table) in tables.iter_mut().enumerate() {
            // Warm-up: a tenth of the window.
            exchange(*table, window / 10, sessions, &mut oldest[at])?;
            let started = Instant::now();
            let exchanged = exchange(*table, window, sessions, &mut oldest[at])?;
            rates[at].push(exchanged as f64 / started.elapsed().as_secs_f64());
        }
    }
    Ok(rates)
}

fn exchange(
    table: &mut dyn Table,
    window: Duration,
    sessions: u32,
    oldest: &mut u32,
) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut exchanged = 0;
    while started.elapsed() < window {
        // The clock is asked once in a while only.
        for _ in 0..64 {
            let number = |first: u32, at: usize| (first + at as u32) % client::MOST;
            let old = std::array::from_fn(|at| number(*oldest, at));
            let new = std::array::from_fn(|at| number(*oldest + sessions, at));
            table.replace(&old, &new)?;
            *oldest = (*oldest + BURST as u32) % client::MOST;
            exchanged += BURST as u64;
        }
    }
    Ok(exchanged)
}
