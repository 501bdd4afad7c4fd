//! A migration as an operator runs it, watched from outside.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, bail};
use tidegate_api::manager::{
    Migration, MigrationEvent, MigrationState, Phase, migration_event::What,
};

use crate::{
    process::{Process, wait_until},
    rig::{DESTINATION, Mode, Rig, SOURCE},
    switch_box::MANAGED,
};

/// Arguments of `tidegate migrate` for this rig: a clone in `l2`, a booted guest in `nat`.
#[must_use]
pub fn arguments(rig: &Rig) -> Vec<String> {
    let socket = rig.vhost_socket(1).display().to_string();
    let words = ["migrate", "--address", MANAGED, "--guest", SOURCE, "--to", DESTINATION];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    add(&["--port", "vm1", "--vhost-socket", &socket, "--finish", "merge"]);
    match rig.mode {
        Mode::L2 => add(&["--clone"]),
        Mode::Nat => add(&[
            "--boot",
            "--mac",
            Mode::Nat.mac(1),
            "--locator",
            Mode::locator(1),
            "--cmdline",
            &Mode::Nat.cmdline(1),
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
}

impl Migrating {
    /// Start it and wait until the manager has it.
    ///
    /// # Errors
    /// When the manager refuses it.
    pub fn start(rig: &Rig) -> anyhow::Result<Self> {
        let mut command: Command = rig.cloud.tidegate(["--json"])?;
        command.args(arguments(rig));
        let known: Vec<String> = rig.api.migrations()?.into_iter().map(|known| known.id).collect();
        let mut process = Process::start("migrate", &mut command, rig.lab.dir())?;
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
        Ok(Self { process, id })
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

    /// Wait until it has completed, and its command with it; everything that happened.
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
        let events = rig.api.events(&self.id)?;
        Ok(Completed { migration, events })
    }
}

/// A completed migration.
pub struct Completed {
    /// Its end.
    pub migration: Migration,
    /// Its journal.
    pub events: Vec<MigrationEvent>,
}

impl Completed {
    /// When `phase` started and finished, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the journal does not say.
    pub fn span(&self, phase: Phase) -> anyhow::Result<(u64, u64)> {
        let at = |started: bool| {
            let mut events = self.events.iter().filter(|event| event.phase() == phase);
            let event = events.find(|event| match event.what {
                Some(What::Started(_)) => started,
                Some(What::Finished(_)) => !started,
                _ => false,
            });
            event.map(|event| event.unix_ms)
        };
        let name = phase.as_str_name();
        let start = at(true).with_context(|| format!("the journal has no start of {name}"))?;
        let end = at(false).with_context(|| format!("the journal has no end of {name}"))?;
        Ok((start, end))
    }
}

/// Whether a process with this number exists and is not only waiting to be collected.
#[must_use]
pub fn process_runs(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // The state follows the name, which is in parentheses.
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}
