//! Journal and progress in the API's form.

use tidegate_api::manager::{self as proto, migration_event::What};

use crate::{
    error::Error,
    fold::Progress,
    journal::{Journal, unix_ms},
    live::{Advance, Carried},
    phase::Phase,
    record::{End, Fact, MigrationId, Outcome, Record, Resumer},
};

/// A migration.
#[must_use]
pub fn migration(id: &MigrationId, progress: &Progress) -> proto::Migration {
    let (state, message) = match &progress.end {
        Some((end, message)) => (end_state(*end), message.clone()),
        None => {
            let reason = progress.abort.as_ref().map(|(_, reason)| format!("aborting: {reason}"));
            (proto::MigrationState::Running, reason.unwrap_or_default())
        }
    };
    let phases = progress.finished.iter().map(|done| proto::PhaseTime {
        phase: done.phase.to_proto().into(),
        elapsed_us: done.elapsed_us,
    });
    proto::Migration {
        id: id.to_string(),
        spec: Some(progress.spec.to_proto()),
        state: state.into(),
        phase: progress.begun().unwrap_or(Phase::Preflight).to_proto().into(),
        message,
        phases: phases.collect(),
        figures: Some(figures(progress)),
        started_unix_ms: progress.accepted_unix_ms,
    }
}

fn end_state(end: End) -> proto::MigrationState {
    match end {
        End::Completed => proto::MigrationState::Completed,
        End::Aborted => proto::MigrationState::Aborted,
        End::Failed => proto::MigrationState::Failed,
    }
}

fn figures(progress: &Progress) -> proto::Figures {
    let mut figures = proto::Figures::default();
    for done in &progress.finished {
        if let Some(import) = done.outcome.import() {
            figures.imported_sessions += import.imported;
            // The last list is the one that counts.
            figures.session_list_missing = import.shortfall().unwrap_or_default();
        }
        match &done.outcome {
            Outcome::Capture {
                pause_ns,
                ram_bytes,
                device_state_bytes,
                way,
                why,
                pass_bytes,
                held_packets,
                straight,
                ..
            } => {
                figures.copied_bytes += straight.as_ref().map_or(0, |went| went.sent_bytes);
                figures.capture_way = way.to_proto().into();
                figures.capture_why.clone_from(why);
                figures.pass_bytes.clone_from(pass_bytes);
                figures.held_packets = *held_packets;
                figures.pause_ns = *pause_ns;
                figures.ram_bytes = *ram_bytes;
                figures.device_state_bytes = *device_state_bytes;
            }
            Outcome::Copy { sent_bytes, .. } => figures.copied_bytes += *sent_bytes,
            Outcome::Cutover { epoch, old_sessions, elapsed_ns, .. } => {
                figures.epoch = *epoch;
                figures.old_sessions_at_cutover = *old_sessions;
                figures.cutover_ns = *elapsed_ns;
            }
            Outcome::Diff { changed_bytes, .. } | Outcome::Image { changed_bytes, .. } => {
                figures.diff_bytes = *changed_bytes;
            }
            Outcome::Ahead { pass_bytes, .. } => figures.ahead_bytes.clone_from(pass_bytes),
            Outcome::Merge { merged_bytes, pause_ns, conflicts } => {
                figures.merged_bytes = *merged_bytes;
                figures.destination_pause_ns = *pause_ns;
                figures.conflicts = *conflicts;
            }
            Outcome::Mirror { applied_bytes, digest } => {
                figures.merged_bytes = *applied_bytes;
                figures.image_digest = digest.clone();
            }
            Outcome::Continue { pause_ns } => figures.image_pause_ns = *pause_ns,
            Outcome::Release { forgotten_sessions, kept_sessions, cut_sessions } => {
                figures.forgotten_sessions = *forgotten_sessions;
                figures.kept_sessions = *kept_sessions;
                figures.cut_sessions = *cut_sessions;
            }
            _ => {}
        }
    }
    figures
}

/// A journal's record as an event; None for the order itself.
///
/// # Errors
/// [`Error`] when the journal cannot be read for the last event's migration.
pub fn recorded(
    journal: &Journal,
    id: &MigrationId,
    record: &Record,
) -> Result<Option<proto::MigrationEvent>, Error> {
    let progress = || journal.progress(id);
    let (phase, what) = match &record.fact {
        Fact::Accepted { .. } => return Ok(None),
        Fact::Started { phase } => (Some(*phase), What::Started(proto::PhaseStarted {})),
        Fact::Finished { phase, elapsed_us, outcome } => {
            let detail = outcome.detail();
            (Some(*phase), What::Finished(proto::PhaseFinished { elapsed_us: *elapsed_us, detail }))
        }
        Fact::AbortBegun { reason, .. } => {
            (progress()?.begun(), What::Aborting(proto::Aborting { reason: reason.clone() }))
        }
        Fact::Resumed { by } => {
            let reason = match by {
                Resumer::Restart => "the manager was restarted",
                Resumer::Operator => "resumed by an operator",
            };
            (progress()?.begun(), What::Resumed(proto::Resumed { reason: reason.to_owned() }))
        }
        Fact::Ended { end, message } => {
            let progress = progress()?;
            let ended = proto::Ended {
                state: end_state(*end).into(),
                message: message.clone(),
                migration: Some(migration(id, &progress)),
            };
            (progress.begun(), What::Ended(ended))
        }
    };
    Ok(Some(proto::MigrationEvent {
        sequence: record.sequence,
        unix_ms: record.unix_ms,
        phase: phase.map_or(proto::Phase::Unspecified, Phase::to_proto).into(),
        what: Some(what),
    }))
}

/// Progress as an event.
#[must_use]
pub fn advanced(sequence: u64, advance: Advance) -> proto::MigrationEvent {
    let (phase, what) = match advance {
        Advance::Capture(carried) => (Phase::Capture, What::Copy(copied(carried))),
        Advance::Copy(carried) => (Phase::Copy, What::Copy(copied(carried))),
        Advance::Ahead(carried) => (Phase::Ahead, What::Copy(copied(carried))),
        Advance::Settle { unchanged_ms, settle_ms, changed_pages, watched_pages } => {
            let progress =
                proto::SettleProgress { unchanged_ms, settle_ms, changed_pages, watched_pages };
            (Phase::Settle, What::Settle(progress))
        }
        Advance::Drain { old_sessions, new_sessions } => {
            (Phase::Drain, What::Drain(proto::DrainProgress { old_sessions, new_sessions }))
        }
    };
    proto::MigrationEvent {
        sequence,
        unix_ms: unix_ms(),
        phase: phase.to_proto().into(),
        what: Some(what),
    }
}

fn copied(carried: Carried) -> proto::CopyProgress {
    let Carried { sent_bytes, covered_bytes, total_bytes, rate_bytes_per_s } = carried;
    proto::CopyProgress { sent_bytes, covered_bytes, total_bytes, rate_bytes_per_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_on_its_way_is_told_of_the_phase_it_goes_in() {
        let carried =
            Carried { sent_bytes: 1, covered_bytes: 2, total_bytes: 3, rate_bytes_per_s: 4 };
        let told = [Advance::Capture(carried), Advance::Copy(carried), Advance::Ahead(carried)]
            .map(|advance| advanced(7, advance));
        let phases = [proto::Phase::Capture, proto::Phase::Copy, proto::Phase::Ahead];
        assert_eq!(told.each_ref().map(proto::MigrationEvent::phase), phases);
        let copy = What::Copy(copied(carried));
        assert!(told.iter().all(|event| event.what.as_ref() == Some(&copy)));
    }
}
