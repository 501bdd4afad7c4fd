//! Source: what it changed since T0 goes ahead while it runs, so that less is left for the time in which neither side runs.
//!
//! A pass sends what differs from the twin, which goes along ([`tidegate_memory::ahead`]). It is worth it when the guest changes less
//! meanwhile than it has changed since T0: a guest that changes the same memory again and again would have all of it sent twice. So
//! each pass is expected to halve what is left, and there are few of them: this is no loop that has to converge.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_memory::{
    ObjectKind,
    ahead::Going,
    copy::image::Outgoing,
    forecast::Forecast,
    image_diff::{Figures, packed_bytes},
    mapping::PAGE_BYTES,
};
use tokio::time::timeout;
use tracing::info;

use crate::{
    HostError,
    beside::{self, Beside},
    data::Running,
    image::memory_files,
    inner::{Inner, blocking},
    migration::Side,
    send::{How, unreachable_at},
};

/// How often it is said how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// There are no more.
const MOST_PASSES: usize = 3;
/// What takes no longer than a few round trips is not worth one.
const LITTLE_BYTES: u64 = 8 << 20;
/// How fast a pass is taken to be before there was one: bytes of the pages that differ.
const BYTES_PER_SECOND: f64 = 1e9;

/// What went ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WentAhead {
    /// Sent in each pass.
    pub(crate) pass_bytes: Vec<u64>,
    /// Why there was no further one.
    pub(crate) why: String,
}

impl Inner {
    /// Bring the destination nearer to the source, which runs on; `report` hears of the bytes that have been sent, and of those of the pages
    /// that differed.
    pub(crate) async fn send_ahead(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
        mut report: impl FnMut(u64, u64),
    ) -> Result<WentAhead, HostError> {
        let turns = [Side::Source, Side::DryRun].map(|side| self.migrations.turn(&id, side));
        let _turns = (turns[0].lock().await, turns[1].lock().await);
        let guest = self.source_of_image(&id)?;
        // Its twin will be another.
        self.beside.forget(&id);
        let running = self.copies.begin(&id, self.cap_bytes_per_second(&how));
        let controls = running.controls.clone();
        let (inner, migration) = (self.clone(), id.clone());
        let differing_bytes = Arc::new(AtomicU64::new(0));
        let differing = differing_bytes.clone();
        let passes = blocking(move || {
            let files = memory_files(&guest.record.spec, &guest.places);
            let mut passes = Passes { inner: &inner, id, data_endpoint, running, differing };
            passes.make(files)
        });
        tokio::pin!(passes);
        let went = loop {
            match timeout(REPORT_EVERY, &mut passes).await {
                Ok(went) => break went?,
                // Relaxed: a figure to look at.
                Err(_) => report(controls.spent_bytes(), differing_bytes.load(Ordering::Relaxed)),
            }
        };
        let what = match went.pass_bytes.len() {
            0 => "nothing had to go ahead",
            _ => "what changed went ahead",
        };
        info!(migration, pass_bytes = ?went.pass_bytes, why = went.why, "{what}");
        Ok(went)
    }
}

struct Passes<'a> {
    inner: &'a Inner,
    id: String,
    data_endpoint: String,
    running: Running,
    /// Bytes of the pages that differed, of all passes.
    differing: Arc<AtomicU64>,
}

impl Passes<'_> {
    /// As many as are worth it.
    fn make(&mut self, files: Vec<(ObjectKind, PathBuf)>) -> Result<WentAhead, HostError> {
        let mut went = WentAhead::default();
        let mut pages_per_second = BYTES_PER_SECOND;
        loop {
            let dir = self.inner.twin_dir(&self.id);
            let memory = beside::open(&dir, files.clone())?;
            let figures = beside::survey(&dir, &memory)?;
            let left_bytes = left_bytes(&figures);
            let takes = self.takes(&figures, pages_per_second);
            let look = || Ok(Forecast::of(&files)?.changed_within(takes));
            if let Some(why) = why_no_further(went.pass_bytes.len(), left_bytes, look)? {
                went.why = why;
                // It was looked at just now, and will be again in a hurry.
                self.inner.beside.keep(&self.id, memory);
                return Ok(went);
            }
            self.differing.fetch_add(left_bytes, Ordering::Relaxed);
            let began = Instant::now();
            let sent_bytes = self.pass(memory)?;
            pages_per_second = left_bytes as f64 / began.elapsed().as_secs_f64().max(1e-3);
            went.pass_bytes.push(sent_bytes);
        }
    }

    /// How long a pass will take: finding and packing, or sending under the cap.
    fn takes(&self, figures: &[Figures], pages_per_second: f64) -> Duration {
        let finding = left_bytes(figures) as f64 / pages_per_second.max(1.0);
        let packed: u64 = figures.iter().map(packed_bytes).sum();
        let cap = self.running.controls.cap_bytes_per_s();
        let sending = cap.map_or(0.0, |cap| packed as f64 / cap.max(1) as f64);
        Duration::from_secs_f64(finding.max(sending).min(1e6))
    }

    fn pass(&self, memory: Vec<Beside>) -> Result<u64, HostError> {
        let dir = self.inner.twin_dir(&self.id);
        let ahead = beside::ahead(&dir, &memory, Going::Ahead)?;
        let dial = self.inner.dial(&self.id, &self.data_endpoint)?;
        let outgoing = Outgoing::begin(&*dial, &self.id, false, self.running.controls.clone());
        let mut outgoing = outgoing.map_err(unreachable_at(&self.data_endpoint))?;
        outgoing.memory(&beside::compared(&memory), &ahead)?;
        let sent_bytes = outgoing.finish(&[])?;
        for (ahead, Beside { kind, twin, .. }) in ahead.into_iter().zip(memory) {
            ahead.confirmed(&dir, &kind, twin)?;
        }
        Ok(sent_bytes)
    }
}

/// Bytes of the pages that differ.
fn left_bytes(figures: &[Figures]) -> u64 {
    figures.iter().map(|each| each.dirty_pages * PAGE_BYTES as u64).sum()
}

/// Why there should be no further pass, after so many, of what differs. `look` says what the guest will change during one.
fn why_no_further(
    passes: usize,
    left_bytes: u64,
    look: impl FnOnce() -> Result<u64, HostError>,
) -> Result<Option<String>, HostError> {
    let left = format!("{} MiB differ", left_bytes >> 20);
    if left_bytes <= LITTLE_BYTES {
        return Ok(Some(format!("{left}, which is little")));
    }
    if passes == MOST_PASSES {
        return Ok(Some(format!("{left} after {passes} passes, and there are no more")));
    }
    let changes_bytes = look()?;
    let is_too_much = changes_bytes > left_bytes / 2;
    let changes = changes_bytes >> 20;
    Ok(is_too_much.then(|| format!("{left}, and {changes} MiB would change while they are sent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_made_where_it_leaves_half_at_the_most() {
        const MIB: u64 = 1 << 20;
        let why = |passes, left, changes| {
            why_no_further(passes, left * MIB, || Ok(changes * MIB)).expect("decided")
        };
        assert_eq!(why(0, 256, 100), None);
        assert_eq!(why(2, 256, 0), None);
        let much = why(0, 256, 200).expect("no pass");
        assert_eq!(much, "256 MiB differ, and 200 MiB would change while they are sent");
        assert_eq!(
            why(3, 256, 0).expect("no pass"),
            "256 MiB differ after 3 passes, and there are no more"
        );
        assert_eq!(why(0, 8, 0).expect("no pass"), "8 MiB differ, which is little");
        let unasked = why_no_further(0, 0, || panic!("nothing differs"));
        assert!(unasked.expect("decided").is_some());
    }
}
