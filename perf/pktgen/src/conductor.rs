//! Between the generator's thread and whoever drives the box meanwhile: three numbers and a flag.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use crate::life::Stage;

/// What the generator is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for all links.
    #[default]
    Waiting,
    /// Sessions are begun.
    Opening,
    /// Data flows; nothing is recorded yet.
    WarmUp,
    /// Data flows, and latencies are recorded.
    Measuring,
    /// Sessions are closed.
    Closing,
    /// Waiting for what is under way.
    Draining,
    /// All is done.
    Ended,
}

impl Phase {
    const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Opening,
        Self::WarmUp,
        Self::Measuring,
        Self::Closing,
        Self::Draining,
        Self::Ended,
    ];

    /// As it is announced.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Opening => "opening",
            Self::WarmUp => "warm-up",
            Self::Measuring => "measuring",
            Self::Closing => "closing",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}

/// What each tells the other. The numbers carry no other memory with them, so relaxed accesses are enough; what orders
/// a stage with packets is that [`Conductor::is_known`] was awaited.
#[derive(Debug, Default)]
pub struct Conductor {
    /// Written by whoever drives the box.
    stage: AtomicU8,
    /// Written by the generator: the stage new sessions are begun in.
    known: AtomicU8,
    /// Written by the generator.
    phase: AtomicU8,
    /// Written by whoever drives the box.
    stop: AtomicBool,
}

impl Conductor {
    /// Say how far the migration is: `UnderWay` before the cutover is asked for, `Done` after it was acknowledged. It
    /// only goes forward.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Relaxed);
    }

    /// Whether the generator begins sessions in `stage`.
    #[must_use]
    pub fn is_known(&self, stage: Stage) -> bool {
        self.known.load(Relaxed) >= stage as u8
    }

    /// End the measurement early: sessions are closed next.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// What the generator is at.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(Relaxed))).copied().unwrap_or_default()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The stage to begin sessions in from now on.
    #[inline]
    pub(crate) fn take_up(&self) -> Stage {
        let stage = self.stage.load(Relaxed);
        self.known.store(stage, Relaxed);
        match stage {
            0 => Stage::Before,
            1 => Stage::UnderWay,
            _ => Stage::Done,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }
}
