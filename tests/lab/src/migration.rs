//! A migration as an operator runs it, watched from outside.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tidegate_api::manager::{Migration, MigrationState, Phase};

use crate::{
    client::unix_us,
    process::{Process, wait_until},
    report,
    rig::{DESTINATION, Mode, Rig, SOURCE},
    view::ms,
};

/// Arguments of `tidegate migrate` for this rig: a clone in `l2`, a booted guest in `nat`.
#[must_use]
pub fn arguments(rig: &Rig) -> Vec<String> {
    let socket = rig.vhost_socket(1).display().to_string();
    let words = ["migrate", "--address", rig.managed(), "--guest", SOURCE, "--to", DESTINATION];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    add(&["--port", "vm1", "--vhost-socket", &socket]);
    match rig.mode {
        Mode::L2 => add(&["--clone"]),
        Mode::Nat => add(&[
            "--boot",
            "--mac",
            Mode::Nat.mac(1),
            "--locator",
            rig.family.locator(1),
            "--cmdline",
            &Mode::Nat.cmdline(rig.family, 1),
            "--ready-text",
            tidegate_guest_service::READY,
        ]),
    }
    words
}

/// A running `tidegate migrate --json`.
pub struct Migrating {
    process: Process,
    id: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Migrating {
    /// Start it and wait until the manager has it.
    ///
    /// # Errors
    /// When the manager refuses it.
    pub fn start(rig: &Rig) -> anyhow::Result<Self> {
        Self::start_with(rig, &[])
    }

    /// As [`Self::start`], with these arguments after the usual ones.
    ///
    /// # Errors
    /// When the manager refuses it.
    pub fn start_with(rig: &Rig, more: &[&str]) -> anyhow::Result<Self> {
        let mut command: Command = rig.cloud.tidegate(["--json"])?;
        command.args(arguments(rig)).args(more);
        let known: Vec<String> = rig.api.migrations()?.into_iter().map(|known| known.id).collect();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let hear = move |line: &str| {
            let heard = self::heard(line, unix_us());
            hearing.lock().unwrap_or_else(PoisonError::into_inner).extend(heard);
        };
        let mut process = Process::start_heard("migrate", &mut command, rig.lab.dir(), hear)?;
        let id = wait_until("the migration starts", Duration::from_secs(10), || {
            // Looked at first: a command that has ended has left its migration there, or there is none.
            let ended = process.ended()?;
            let mut migrations = rig.api.migrations()?.into_iter();
            let new = migrations.find(|migration| !known.contains(&migration.id));
            match ended {
                Some(status) if new.is_none() => {
                    bail!("tidegate migrate: {status}\n{}", process.printed())
                }
                _ => Ok(new),
            }
        })?
        .id;
        Ok(Self { process, id, heard })
    }

    /// Its name at the manager.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it stands.
    ///
    /// # Errors
    /// When the manager does not answer.
    pub fn now(&self, rig: &Rig) -> anyhow::Result<Migration> {
        let mut migrations = rig.api.migrations()?.into_iter();
        migrations.find(|migration| migration.id == self.id).context("the migration is unknown")
    }

    /// Wait until it has reached `phase`, looking on by `watch` all the while.
    ///
    /// # Errors
    /// When it ends without, or `limit` passes first.
    pub fn reach(
        &self,
        rig: &Rig,
        phase: Phase,
        limit: Duration,
        mut watch: impl FnMut(&Migration) -> anyhow::Result<()>,
    ) -> anyhow::Result<Migration> {
        wait_until(phase.as_str_name(), limit, || {
            let now = self.now(rig)?;
            watch(&now)?;
            let reached = now.phase >= phase as i32;
            if !reached && now.state() != MigrationState::Running {
                bail!("the migration ended in {}: {}", now.phase().as_str_name(), now.message);
            }
            Ok(reached.then_some(now))
        })
    }

    /// Wait until it is over.
    fn over(
        &self,
        rig: &Rig,
        limit: Duration,
        mut watch: impl FnMut(&Migration) -> anyhow::Result<()>,
    ) -> anyhow::Result<Migration> {
        wait_until("the migration ends", limit, || {
            let now = self.now(rig)?;
            watch(&now)?;
            Ok((now.state() != MigrationState::Running).then_some(now))
        })
    }

    /// Wait until it has completed.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn ended(
        &self,
        rig: &Rig,
        limit: Duration,
        watch: impl FnMut(&Migration) -> anyhow::Result<()>,
    ) -> anyhow::Result<Migration> {
        let ended = self.over(rig, limit, watch)?;
        if ended.state() != MigrationState::Completed {
            bail!("the migration ended as {}: {}", ended.state().as_str_name(), ended.message);
        }
        Ok(ended)
    }

    /// Wait until it has been aborted, and its command has failed with the reason, which is given.
    ///
    /// # Errors
    /// When it does not within `limit`, or ends otherwise.
    pub fn aborted(mut self, rig: &Rig, limit: Duration) -> anyhow::Result<String> {
        let Migration { message, state, .. } = self.over(rig, limit, |_| Ok(()))?;
        anyhow::ensure!(state == MigrationState::Aborted as i32, "ended in {state}: {message}");
        let status = self.process.wait(Duration::from_secs(5))?;
        let printed = self.process.printed();
        anyhow::ensure!(!status.success(), "tidegate migrate: {status}\n{printed}");
        anyhow::ensure!(printed.contains(&message), "`{message}` is not in:\n{printed}");
        Ok(message)
    }

    /// Wait until it has completed, and its command with it.
    ///
    /// # Errors
    /// When it does not within `limit`, or the command fails.
    pub fn complete(
        mut self,
        rig: &Rig,
        limit: Duration,
        watch: impl FnMut(&Migration) -> anyhow::Result<()>,
    ) -> anyhow::Result<Completed> {
        let migration = self.ended(rig, limit, watch)?;
        let status = self.process.wait(Duration::from_secs(5))?;
        anyhow::ensure!(status.success(), "tidegate migrate: {status}\n{}", self.process.printed());
        let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Completed { migration, phases: phases(&heard), heard })
    }
}

/// A completed migration.
pub struct Completed {
    /// Its end, as the manager tells it.
    pub migration: Migration,
    /// Its phases, by when the command said that they started and finished.
    pub phases: Vec<report::Phase>,
    heard: Vec<Heard>,
}

impl Completed {
    /// What the command said of a phase while that ran or at its end, each as the object it printed.
    pub fn said(&self, phase: &str, event: &str) -> Vec<&Value> {
        let fits = |heard: &&Heard| heard.phase == phase && heard.is(event);
        self.heard.iter().filter(fits).map(|heard| &heard.said).collect()
    }
}

/// What the command said of a phase, and when.
struct Heard {
    at_us: u64,
    phase: String,
    said: Value,
}

impl Heard {
    fn is(&self, event: &str) -> bool {
        self.said["event"] == event
    }
}

/// Lines of the command that are not about a phase are nothing here.
fn heard(line: &str, at_us: u64) -> Option<Heard> {
    let said: Value = serde_json::from_str(line).ok()?;
    let phase = said["phase"].as_str()?.to_owned();
    Some(Heard { at_us, phase, said })
}

/// Phases from their starts and finishes. One that was not finished is none.
fn phases(heard: &[Heard]) -> Vec<report::Phase> {
    let finished = |start: &Heard| {
        let mut ends = heard.iter().filter(|it| it.is("finished") && it.phase == start.phase);
        let us = ends.next()?.at_us.saturating_sub(start.at_us);
        Some(report::Phase { name: start.phase.clone(), ms: ms(us) })
    };
    heard.iter().filter(|heard| heard.is("started")).filter_map(finished).collect()
}

/// Whether a process with this number exists and is not only waiting to be collected.
#[must_use]
pub fn process_runs(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // The state follows the name, which is in parentheses.
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_last_from_one_line_to_the_other() {
        let lines = [
            (r#"{"event":"accepted","id":"m1"}"#, 1_000),
            (r#"{"sequence":1,"phase":"capture","event":"started"}"#, 2_000),
            (r#"{"sequence":2,"phase":"capture","event":"finished","elapsed_us":9}"#, 9_000),
            (r#"{"sequence":3,"phase":"copy","event":"started"}"#, 10_000),
            (r#"{"phase":"copy","event":"copy","sent_bytes":1}"#, 11_000),
        ];
        let lines: Vec<_> = lines.iter().filter_map(|(line, at)| heard(line, *at)).collect();
        assert_eq!(phases(&lines), [report::Phase { name: "capture".to_owned(), ms: 7.0 }]);
    }
}
