//! Waiting for the last old session.
//!
//! The switch steers and counts whether or not anybody watches: a stream that breaks is opened again, for as
//! long as the drain may take.

use std::time::Duration;

use tidegate_api::switch::{
    self as proto, AddressState, MigrationEvent, MigrationState, switch_client::SwitchClient,
};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use super::Work;
use crate::{
    error::Error,
    journal::unix_ms,
    live::{self, Advance},
    pace::CALL,
    peers::Peer,
    phase::Phase,
    record::Outcome,
};

/// Watch until drained.
pub(super) async fn drain(work: &Work) -> Result<Outcome, Error> {
    let Outcome::Cutover { epoch, old_sessions, .. } = *work.outcome(Phase::Cutover)? else {
        return Err(Error::Missing { phase: Phase::Cutover });
    };
    let mut watch = Watch { epoch, old_sessions, deadline: deadline(work) };
    let mut attempt = 0;
    loop {
        match watch.once(work, &mut attempt).await {
            Ok(Some(new_sessions)) => return Ok(Outcome::Drain { new_sessions }),
            Ok(None) => tracing::warn!(migration = %work.id, "drain stream ended early"),
            Err(error) if error.is_transient() => {
                tracing::warn!(migration = %work.id, "drain: {error}; trying again");
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
        let pause = work.pace.pause(attempt);
        watch.within_deadline(work, tokio::time::sleep(pause)).await?;
    }
}

/// The deadline counts from the cutover, also over restarts; anew when an operator resumes, who has seen it pass.
fn deadline(work: &Work) -> Option<Instant> {
    let allowed = Duration::from_secs(u64::from(work.progress.spec.drain_deadline_s?));
    let cutover = work.progress.done(Phase::Cutover)?.unix_ms;
    let since = work.progress.resumed_unix_ms.map_or(cutover, |resumed| resumed.max(cutover));
    let gone = Duration::from_millis(unix_ms().saturating_sub(since));
    Some(Instant::now() + allowed.saturating_sub(gone))
}

/// The switch, which must still have the cutover: one that was restarted has its configuration and nothing else.
async fn still_cut_over(work: &Work) -> Result<(&Peer, SwitchClient<Channel>), Error> {
    match work.steering().await {
        Ok((peer, switch, found)) => match found.state() {
            AddressState::Draining | AddressState::Drained => Ok((peer, switch)),
            _ => Err(forgotten(work, peer)),
        },
        Err(error) if error.is_not_found() => Err(forgotten(work, work.switch_peer()?)),
        Err(error) => Err(error),
    }
}

fn forgotten(work: &Work, peer: &Peer) -> Error {
    Error::Unexpected {
        peer: peer.title().clone(),
        found: format!("it no longer knows of the cutover of {}", work.address()),
        remedy: "it was restarted, or somebody else gave the address back. Sessions of the source go on, those of \
                 the destination are cut; start the migration again",
    }
}

struct Watch {
    epoch: u32,
    old_sessions: u64,
    deadline: Option<Instant>,
}

impl Watch {
    /// Follow one stream; the destination's sessions when drained, None when the stream ended before.
    async fn once(&mut self, work: &Work, attempt: &mut u32) -> Result<Option<u64>, Error> {
        let open = async {
            let (peer, mut switch) = still_cut_over(work).await?;
            let request = proto::WatchMigrationRequest { address: work.address(), interval_ms: 0 };
            let call = switch.watch_migration(request);
            Ok::<_, Error>((peer, peer.answer("WatchMigration", CALL, call).await?))
        };
        let (peer, mut stream) = self.within_deadline(work, open).await??;
        let silence = work.pace.stream_silence;
        loop {
            let message = self.within_deadline(work, timeout(silence, stream.message())).await?;
            let timed_out = |_| Error::TimedOut {
                peer: peer.title().clone(),
                call: "WatchMigration",
                after: silence,
            };
            let event = message
                .map_err(timed_out)?
                .map_err(|status| peer.refusal("WatchMigration", &status))?;
            let Some(event) = event else { return Ok(None) };
            *attempt = 0;
            if self.take(work, peer, event)? {
                return Ok(Some(event.new_sessions));
            }
        }
    }

    /// Take in one event; whether it says drained.
    fn take(&mut self, work: &Work, peer: &Peer, event: MigrationEvent) -> Result<bool, Error> {
        let unexpected = |found: String, remedy| {
            Err(Error::Unexpected { peer: peer.title().clone(), found, remedy })
        };
        let address = work.progress.spec.address;
        if event.epoch != 0 && event.epoch != self.epoch {
            return unexpected(
                format!(
                    "{address} is in epoch {}, this migration's is {}",
                    event.epoch, self.epoch
                ),
                "somebody else steers the address; let only one manager do it",
            );
        }
        match event.state() {
            MigrationState::Draining | MigrationState::Drained => {}
            MigrationState::Released | MigrationState::Aborted => {
                return unexpected(
                    format!(
                        "somebody has ended the migration of {address} behind the manager's back"
                    ),
                    "let only one manager steer it",
                );
            }
            MigrationState::Preparing | MigrationState::Unspecified => {
                return Err(forgotten(work, peer));
            }
        }
        self.old_sessions = event.old_sessions;
        live::advance(
            &work.live,
            Advance::Drain { old_sessions: event.old_sessions, new_sessions: event.new_sessions },
        );
        Ok(event.state() == MigrationState::Drained)
    }

    async fn within_deadline<T>(
        &self,
        work: &Work,
        wait: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let Some(deadline) = self.deadline else { return Ok(wait.await) };
        tokio::time::timeout_at(deadline, wait).await.map_err(|_| Error::Deadline {
            old_sessions: self.old_sessions,
            deadline_s: work.progress.spec.drain_deadline_s.unwrap_or_default(),
        })
    }
}
