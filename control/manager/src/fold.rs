//! A migration's state: its journal's records, folded. There is no other state.

use crate::{
    phase::Phase,
    record::{AbortCause, End, Fact, Outcome, Record, Resumer},
    spec::Spec,
};

/// A phase that has finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Which.
    pub phase: Phase,
    /// How long it took.
    pub elapsed_us: u64,
    /// When its record was written.
    pub unix_ms: u64,
    /// Its figures.
    pub outcome: Outcome,
}

/// Where a migration is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The order.
    pub spec: Spec,
    /// When it was accepted.
    pub accepted_unix_ms: u64,
    /// Sequence of the last record.
    pub last_sequence: u64,
    /// The phase that has begun and not finished, and since when.
    pub started: Option<(Phase, u64)>,
    /// Finished phases in order.
    pub finished: Vec<Done>,
    /// When an operator took it up again, if one did.
    pub resumed_unix_ms: Option<u64>,
    /// It is being undone, or was: why.
    pub abort: Option<(AbortCause, String)>,
    /// It is over: how, and the message.
    pub end: Option<(End, String)>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Carry out, or carry on with, this phase.
    Run(Phase),
    /// Give everything back to the source.
    Undo,
    /// All phases are done: write the end.
    Complete,
    /// It is over.
    Nothing,
}

/// Records that no manager of this version wrote in this order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// There are none.
    #[error("it is empty")]
    Empty,
    /// The first one is not the order.
    #[error("its first record is not the order")]
    NotAccepted,
    /// One is missing.
    #[error("record {expected} is missing: {found} comes next")]
    Hole {
        /// What should come.
        expected: u64,
        /// What comes.
        found: u64,
    },
    /// One does not fit what came before it.
    #[error("record {sequence} ({what}) does not fit those before it")]
    Misplaced {
        /// Which.
        sequence: u64,
        /// Its kind.
        what: &'static str,
    },
}

impl Progress {
    /// Fold `records`, oldest first.
    ///
    /// # Errors
    /// [`FoldError`]; never for a prefix of what a manager wrote, except the empty one.
    pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, FoldError> {
        let mut records = records.into_iter();
        let first = records.next().ok_or(FoldError::Empty)?;
        let Fact::Accepted { spec } = &first.fact else { return Err(FoldError::NotAccepted) };
        if first.sequence != 0 {
            return Err(FoldError::Hole { expected: 0, found: first.sequence });
        }
        let mut progress = Self {
            spec: Spec::clone(spec),
            accepted_unix_ms: first.unix_ms,
            last_sequence: 0,
            started: None,
            finished: Vec::new(),
            resumed_unix_ms: None,
            abort: None,
            end: None,
        };
        for record in records {
            progress.apply(record)?;
        }
        Ok(progress)
    }

    /// Take in one more record.
    ///
    /// # Errors
    /// [`FoldError::Hole`], [`FoldError::Misplaced`]; the progress is unchanged then.
    pub fn apply(&mut self, record: &Record) -> Result<(), FoldError> {
        let expected = self.last_sequence + 1;
        if record.sequence != expected {
            return Err(FoldError::Hole { expected, found: record.sequence });
        }
        let misplaced = |what| Err(FoldError::Misplaced { sequence: record.sequence, what });
        let over = self.end.is_some();
        match &record.fact {
            Fact::Accepted { .. } => return misplaced("accepted"),
            Fact::Started { phase } => {
                if self.started.is_some() || !self.may_start(*phase) {
                    return misplaced("started");
                }
                self.started = Some((*phase, record.unix_ms));
            }
            Fact::Finished { phase, elapsed_us, outcome } => {
                // Also while aborting: a step that is not cut short finishes before the undoing begins.
                if over || self.started.map(|(started, _)| started) != Some(*phase) {
                    return misplaced("finished");
                }
                self.started = None;
                self.finished.push(Done {
                    phase: *phase,
                    elapsed_us: *elapsed_us,
                    unix_ms: record.unix_ms,
                    outcome: outcome.clone(),
                });
            }
            Fact::AbortBegun { cause, reason } => {
                if over || self.abort.is_some() || !self.may_abort(*cause) {
                    return misplaced("abort begun");
                }
                self.abort = Some((*cause, reason.clone()));
            }
            Fact::Resumed { by } => {
                if !matches!(self.end, None | Some((End::Failed, _))) {
                    return misplaced("resumed");
                }
                self.end = None;
                if *by == Resumer::Operator {
                    self.resumed_unix_ms = Some(record.unix_ms);
                }
            }
            Fact::Ended { end, message } => {
                let fits = match end {
                    End::Completed => self.next() == Next::Complete,
                    End::Aborted => self.abort.is_some(),
                    End::Failed => true,
                };
                if over || !fits {
                    return misplaced("ended");
                }
                self.end = Some((*end, message.clone()));
            }
        }
        self.last_sequence = expected;
        Ok(())
    }

    /// What is to be done next.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.end.is_some() {
            return Next::Nothing;
        }
        if self.abort.is_some() {
            return Next::Undo;
        }
        if let Some((phase, _)) = self.started {
            return Next::Run(phase);
        }
        self.behind(self.finished.last().map(|done| done.phase))
    }

    /// What comes behind a phase.
    fn behind(&self, last: Option<Phase>) -> Next {
        let mut left = Phase::sequence(&self.spec).skip_while(|phase| Some(*phase) <= last);
        left.next().map_or(Next::Complete, Next::Run)
    }

    /// Whether a phase may begin now.
    fn may_start(&self, phase: Phase) -> bool {
        let next = self.next();
        // Earlier versions had nothing go ahead: their journals are still read.
        let skips =
            next == Next::Run(Phase::Ahead) && self.behind(Some(Phase::Ahead)) == Next::Run(phase);
        next == Next::Run(phase) || skips
    }

    /// Whether this cause may still begin an abort.
    #[must_use]
    pub fn may_abort(&self, cause: AbortCause) -> bool {
        let last = Phase::point_of_no_return(self.spec.finish);
        match cause {
            AbortCause::MergeRefused => self.is_in(Phase::Merge),
            AbortCause::NotContinued => self.is_in(Phase::Continue),
            _ => self.begun().is_none_or(|phase| phase < last),
        }
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.started.is_some_and(|(started, _)| started == phase)
    }

    /// The latest phase that has begun.
    #[must_use]
    pub fn begun(&self) -> Option<Phase> {
        self.started.map(|(phase, _)| phase).or_else(|| self.finished.last().map(|done| done.phase))
    }

    /// Whether `phase` has begun.
    #[must_use]
    pub fn has_begun(&self, phase: Phase) -> bool {
        self.begun().is_some_and(|begun| begun >= phase)
    }

    /// A finished phase.
    #[must_use]
    pub fn done(&self, phase: Phase) -> Option<&Done> {
        self.finished.iter().find(|done| done.phase == phase)
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
pub(crate) mod tests;
