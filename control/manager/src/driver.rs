//! Drives one migration: decide by the fold, record, act, record.

use std::{sync::Arc, time::Duration};

use tidegate_api::Code;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    error::Error,
    fold::{Next, Progress},
    journal::{Journal, unix_ms},
    live::{self, LiveSender},
    pace::Pace,
    peers::Inventory,
    phase::Phase,
    record::{AbortCause, End, Fact, MigrationId, Outcome},
    spec::FinishMode,
    steps::{self, Work},
};

/// An operator's wish to abort; answered once it is in the journal, or refused.
pub(crate) type AbortOrder = oneshot::Sender<Result<(), Error>>;

/// The only writer of a running migration's records.
pub(crate) struct Driver {
    pub(crate) id: MigrationId,
    pub(crate) progress: Progress,
    pub(crate) journal: Journal,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) pace: Pace,
    pub(crate) live: LiveSender,
    pub(crate) aborts: mpsc::Receiver<AbortOrder>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// What ended a wait.
enum Wake<T> {
    Done(T),
    Abort(AbortOrder),
    Stop,
}

impl Driver {
    /// Until the migration is over or the manager stops.
    pub(crate) async fn run(mut self) {
        let result = self.drive().await;
        match result {
            Ok(()) => {}
            Err(Error::Stopping) => {
                tracing::info!(migration = %self.id, "left running; it goes on at the next start");
            }
            Err(error) => tracing::error!(migration = %self.id, "cannot go on: {error}"),
        }
        self.live.send_modify(|live| live.over = true);
    }

    async fn drive(&mut self) -> Result<(), Error> {
        loop {
            if *self.stop.borrow() {
                return Err(Error::Stopping);
            }
            while let Ok(order) = self.aborts.try_recv() {
                self.take_abort(order).await?;
            }
            match self.progress.next() {
                Next::Run(phase) => self.phase(phase).await?,
                Next::Undo => self.undo().await?,
                Next::Complete => self.end(End::Completed, String::new()).await?,
                Next::Nothing => return Ok(()),
            }
        }
    }

    async fn record(&mut self, fact: Fact) -> Result<(), Error> {
        let corrupt = |id: &MigrationId, source| Error::Corrupt { id: id.clone(), source };
        for record in self.journal.append(&self.id, vec![fact]).await? {
            self.progress.apply(&record).map_err(|source| corrupt(&self.id, source))?;
            tracing::info!(migration = %self.id, "{}", record.fact);
        }
        let sequence = self.progress.last_sequence;
        self.live.send_modify(|live| {
            live.sequence = sequence;
            live.advance = None;
        });
        Ok(())
    }

    async fn end(&mut self, end: End, message: String) -> Result<(), Error> {
        self.record(Fact::Ended { end, message }).await
    }

    /// Put an abort into the journal, unless it is too late.
    async fn take_abort(&mut self, order: AbortOrder) -> Result<(), Error> {
        let answer = if self.progress.abort.is_some() {
            Ok(())
        } else if !self.progress.may_abort(AbortCause::Operator) {
            let phase = self.progress.begun().unwrap_or(Phase::Preflight);
            Err(Error::TooLate { id: self.id.clone(), phase })
        } else if let Err(error) = steps::undo::needs_source(&self.work()).await {
            Err(error)
        } else {
            let reason = "aborted by an operator".to_owned();
            self.record(Fact::AbortBegun { cause: AbortCause::Operator, reason }).await?;
            Ok(())
        };
        // Whoever asked may have gone.
        let _ = order.send(answer);
        Ok(())
    }

    fn work(&self) -> Work {
        Work {
            id: self.id.clone(),
            progress: self.progress.clone(),
            is_first: false,
            inventory: Arc::clone(&self.inventory),
            pace: self.pace,
            live: self.live.clone(),
        }
    }

    async fn phase(&mut self, phase: Phase) -> Result<(), Error> {
        let is_first = self.progress.started.is_none();
        let begun_before = match self.progress.started {
            Some((_, since)) => Duration::from_millis(unix_ms().saturating_sub(since)),
            None => {
                self.record(Fact::Started { phase }).await?;
                Duration::ZERO
            }
        };
        let clock = Instant::now();
        let work = Work { is_first, ..self.work() };
        let mut step = Box::pin(attempts(&work, phase));
        let result = loop {
            match self.wait(&mut step).await {
                Wake::Done(result) => break result,
                Wake::Abort(order) => {
                    self.take_abort(order).await?;
                    if self.progress.abort.is_some() && phase.interruptible() {
                        return Ok(());
                    }
                }
                Wake::Stop if phase.interruptible() => return Err(Error::Stopping),
                Wake::Stop => {
                    let finished = tokio::time::timeout(self.pace.stop_grace, &mut step).await;
                    break finished.map_err(|_| Error::Stopping)?;
                }
            }
        };
        match result {
            Ok(outcome) => {
                let elapsed = begun_before + clock.elapsed();
                let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
                self.record(Fact::Finished { phase, elapsed_us, outcome }).await
            }
            Err(error) => self.phase_failed(phase, &error).await,
        }
    }

    async fn wait<T>(&mut self, mut step: impl Future<Output = T> + Unpin) -> Wake<T> {
        tokio::select! {
            biased;
            Some(order) = self.aborts.recv() => Wake::Abort(order),
            done = &mut step => Wake::Done(done),
            () = stopped(&mut self.stop) => Wake::Stop,
        }
    }

    async fn phase_failed(&mut self, phase: Phase, error: &Error) -> Result<(), Error> {
        if self.progress.abort.is_some() {
            return Ok(());
        }
        let reason = format!("{phase} failed: {error}");
        let cause = match error {
            Error::Deadline { .. } => AbortCause::Deadline,
            // The host answers so when a region's merge type is `abort`: it has changed nothing.
            Error::Refused { code: Code::Aborted, .. } if phase == Phase::Merge => {
                AbortCause::MergeRefused
            }
            Error::NotContinued { .. } if phase == Phase::Continue => AbortCause::NotContinued,
            _ => AbortCause::Step,
        };
        if self.progress.may_abort(cause) {
            return self.abort_if_source_is_there(cause, reason).await;
        }
        let standing = match self.progress.spec.finish {
            FinishMode::Mirror(_) => {
                "The source is kept, paused, and the destination is its image or goes on as it"
            }
            FinishMode::Merge | FinishMode::None => {
                "The destination serves new sessions and the source is kept, paused"
            }
        };
        let message =
            format!("{reason}. {standing}. Remove the cause, then: tidegate resume {}", self.id);
        self.end(End::Failed, message).await
    }

    /// A failed step is undone only towards a source that is there; otherwise it stays a step to be resumed.
    async fn abort_if_source_is_there(
        &mut self,
        cause: AbortCause,
        reason: String,
    ) -> Result<(), Error> {
        let work = self.work();
        let asked = retry(&work, "abort", || steps::undo::needs_source(&work));
        let there = self.carry_through(asked).await?;
        if self.progress.abort.is_some() {
            return Ok(());
        }
        let why = match there {
            Ok(()) => return self.record(Fact::AbortBegun { cause, reason }).await,
            Err(gone @ Error::SourceGone { .. }) => gone.to_string(),
            Err(error) => {
                format!("Whether the source still runs is not known, so nothing is undone: {error}")
            }
        };
        let message =
            format!("{reason}. {why}. Remove the cause, then: tidegate resume {}", self.id);
        self.end(End::Failed, message).await
    }

    /// Work that an abort does not cut short, and a stop of the manager only after its grace.
    async fn carry_through<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = Box::pin(work);
        loop {
            match self.wait(&mut work).await {
                Wake::Done(done) => return Ok(done),
                Wake::Abort(order) => self.take_abort(order).await?,
                Wake::Stop => {
                    let finished = tokio::time::timeout(self.pace.stop_grace, &mut work).await;
                    return finished.map_err(|_| Error::Stopping);
                }
            }
        }
    }

    async fn undo(&mut self) -> Result<(), Error> {
        let work = self.work();
        let result = self.carry_through(retry(&work, "abort", || steps::undo::undo(&work))).await?;
        let reason = self.progress.abort.as_ref().map_or("", |(_, reason)| reason).to_owned();
        match result {
            Ok(left_behind) if left_behind.is_empty() => self.end(End::Aborted, reason).await,
            Ok(left_behind) => {
                let message = format!("{reason}. Left behind: {}", left_behind.join("; "));
                self.end(End::Aborted, message).await
            }
            Err(error) => {
                let message = format!(
                    "{reason}. Giving everything back to the source failed: {error}. Remove the cause, \
                     then: tidegate resume {}",
                    self.id
                );
                self.end(End::Failed, message).await
            }
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means the same: nobody is left who wants us to go on.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Once, or until a transient error has passed.
async fn attempts(work: &Work, phase: Phase) -> Result<Outcome, Error> {
    if phase.carries_memory() {
        return carry_memory(work, phase).await;
    }
    if !phase.is_worth_waiting(work.progress.spec.finish) {
        return steps::run(work, phase).await;
    }
    if phase == Phase::Continue && work.is_first {
        match steps::run(work, phase).await {
            // Nobody has been asked yet.
            Err(error @ Error::Unreachable { .. }) => {
                return Err(Error::NotContinued { reason: error.to_string() });
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(migration = %work.id, "{phase}: {error}; trying again");
            }
            done => return done,
        }
    }
    retry(work, phase.name(), || steps::run(work, phase)).await
}

/// Repeat `action` while it fails for reasons that may pass, as long as the budget lasts.
async fn retry<T, F>(work: &Work, what: &str, mut action: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let give_up = Instant::now() + work.pace.retry_budget;
    let mut attempt = 0;
    loop {
        match action().await {
            Err(error) if error.is_transient() && Instant::now() < give_up => {
                attempt += 1;
                tracing::warn!(migration = %work.id, "{what}: {error}; attempt {attempt} failed");
                tokio::time::sleep(work.pace.pause(attempt)).await;
            }
            result => return result,
        }
    }
}

/// Until memory has gone over. A copy that broke goes on behind what has arrived, as long as more does; a capture begins anew.
async fn carry_memory(work: &Work, phase: Phase) -> Result<Outcome, Error> {
    let budget = match phase {
        Phase::Capture => work.pace.capture_budget,
        _ => work.pace.retry_budget,
    };
    let (mut attempt, mut broken_since, mut most_covered) = (0, None, 0);
    loop {
        let error = match steps::run(work, phase).await {
            // A host that still captures has the source's monitor, and may have the source paused.
            Err(error @ Error::TimedOut { .. }) if phase == Phase::Capture => return Err(error),
            Err(error) if error.is_transient() => error,
            result => return result,
        };
        let covered = live::covered_bytes(&work.live);
        if covered > most_covered {
            (attempt, broken_since, most_covered) = (0, None, covered);
        }
        attempt += 1;
        let waited = broken_since.get_or_insert_with(Instant::now).elapsed();
        if waited >= budget {
            return Err(Error::StaysBroken { attempts: attempt, waited, last: Box::new(error) });
        }
        tracing::warn!(migration = %work.id, "{phase}: {error}; attempt {attempt} failed");
        tokio::time::sleep(work.pace.pause(attempt)).await;
    }
}
