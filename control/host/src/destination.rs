//! Destination: room for what arrives, the guest started from it, and the merge.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_api::host as api;
use tidegate_memory::{
    Mapping,
    diff::Diff,
    error::Conflict,
    merge::{self, RangeConflicts, Report},
};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    HostError,
    capture::migrated,
    disks,
    guest::{Guest, Start, State, check_sockets, state},
    inner::{Inner, blocking},
    migration::{Receive, Side},
    qemu::shell_word,
    records,
    spec::GuestSpec,
};

const LOAD_PATIENCE: Duration = Duration::from_secs(30);
const CUT_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// What a destination does once it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// It runs.
    Run,
    /// It is ready to run.
    Paused,
    /// It waits to become the source's image.
    AwaitImage,
}

impl Inner {
    /// Expect a twin for a guest to be made.
    pub(crate) async fn prepare_receive(
        &self,
        id: &str,
        spec: GuestSpec,
        clone: bool,
        keep_t0: bool,
    ) -> Result<(), HostError> {
        let turn = self.migrations.turn(id, Side::Destination);
        let _turn = turn.lock().await;
        let _making = self.making.lock().await;
        if clone && !spec.memory_shared {
            return Err(HostError::Precondition(format!(
                "destination `{}` is to be a clone and needs a shared RAM file; set memory_shared",
                spec.name
            )));
        }
        if let Ok(known) = self.migrations.receive(id) {
            if known.spec == spec && known.clone == clone && known.keep_t0 == keep_t0 {
                return Ok(());
            }
            return Err(HostError::Precondition(format!(
                "migration `{id}` was prepared for destination `{}` with another specification; \
                 forget it first or use another id",
                known.spec.name
            )));
        }
        self.check_name_free(&spec.name, Some(id))?;
        // Before the source is paused for a guest that cannot be started.
        check_sockets(&spec, &self.places_of(&spec.name))?;
        records::remove_dir(&self.places_of(&spec.name).memory)?;
        if clone {
            disks::check(&spec)?;
        }
        self.check_memory_space(&spec, keep_t0)?;
        let receive = Receive {
            spec,
            clone,
            begun: false,
            arrived: None,
            started: false,
            diff_arrived: false,
            merge_paused: None,
            merge_pause_ns: None,
            keep_t0,
            awaits_image: false,
            image_arrived: false,
            image_bytes: 0,
            image_applied: None,
        };
        if clone {
            self.reserve(&receive).await?;
        }
        self.migrations
            .update(id, |migration| {
                migration.receive = Some(receive);
                Ok(())
            })
            .map(drop)
    }

    /// Start the destination, or answer the one that was started. With `say`, only one that can say that it is
    /// ready.
    pub(crate) async fn start_destination(
        self: &Arc<Self>,
        id: &str,
        how: Beginning,
        say: bool,
    ) -> Result<Arc<Guest>, HostError> {
        let paused = how == Beginning::Paused;
        let turn = self.migrations.turn(id, Side::Destination);
        let _turn = turn.lock().await;
        let _making = self.making.lock().await;
        let receive = self.migrations.receive(id)?;
        let name = receive.spec.name.clone();
        if say && (paused || receive.clone) {
            let what = if receive.clone { "a clone" } else { "a guest left paused" };
            let reason = format!("{what} does not boot and prints nothing; leave it out");
            return Err(HostError::Invalid { field: "ready_text", reason });
        }
        if how == Beginning::AwaitImage && !receive.clone {
            let reason = "only a clone can become an image of its source; leave it out".to_owned();
            return Err(HostError::Invalid { field: "await_image", reason });
        }
        if receive.started {
            return self.guest(&name);
        }
        // A boot without regions needs nothing from the source.
        let complete =
            receive.arrived.is_some() || !receive.clone && receive.spec.regions.is_empty();
        if !complete || self.connections.is_receiving(id) {
            return Err(HostError::Precondition(format!(
                "memory for destination `{name}` of migration `{id}` has not arrived whole; send \
                 the twin first"
            )));
        }
        if self.guest(&name).is_ok() {
            // Left by a run that ended between starting it and saying so.
            self.delete_guest(&name, false).await?;
            return Err(self.void(id, "an interrupted start may have changed its memory")?);
        }
        // From here on the files are the guest's: what is in them says nothing of what arrived.
        records::remove_file(&Receive::twin_ledger(&self.migrations.dir(id)))?;
        let places = self.places_of(&name);
        if !receive.clone {
            let start = if paused { Start::BootPaused } else { Start::Boot };
            let guest = self.boot(receive.spec, places, start).await?;
            self.migrations.update_receive(id, |receive| receive.started = true)?;
            return Ok(guest);
        }
        // Left by a clone of this name that was given up.
        disks::make(&receive.spec, &places, true).await?;
        if receive.keep_t0 {
            // What was mapped for a start that failed.
            self.becoming.forget(id);
            self.keep_t0(&receive).await?;
            self.warm_up(id, &receive.spec);
        }
        let guest = self.boot(receive.spec, places, Start::Incoming).await?;
        if how == Beginning::AwaitImage {
            self.warm_up(id, &guest.record.spec);
            let waits =
                |receive: &mut Receive| (receive.started, receive.awaits_image) = (true, true);
            self.migrations.update_receive(id, waits)?;
            info!(migration = id, guest = name, "waiting to become the source's image");
            return Ok(guest);
        }
        let state = Receive::device_state(&self.migrations.dir(id));
        if let Err(error) = self.load_devices(&state, &guest, paused).await {
            warn!(migration = id, guest = name, %error, "the clone did not start");
            self.delete_guest(&name, false).await?;
            self.void(id, "")?;
            return Err(error);
        }
        self.migrations.update_receive(id, |receive| receive.started = true)?;
        info!(migration = id, guest = name, "clone started");
        Ok(guest)
    }

    /// What arrived can no longer be used: QEMU writes into RAM while it loads a state.
    fn void(&self, id: &str, why: &str) -> Result<HostError, HostError> {
        self.migrations.update_receive(id, |receive| receive.arrived = None)?;
        Ok(HostError::Precondition(format!("memory of migration `{id}` must be sent again: {why}")))
    }

    /// Have a QEMU that waits for it load a device state.
    pub(crate) async fn load_devices(
        &self,
        file: &Path,
        guest: &Guest,
        paused: bool,
    ) -> Result<(), HostError> {
        let _turn = guest.monitor.lock().await;
        let mut qmp = guest.qmp().await?;
        let uri = format!("exec:cat {}", shell_word(file));
        qmp.execute("migrate-incoming", json!({ "uri": uri })).await?;
        if let Err(error) = migrated(&mut qmp, LOAD_PATIENCE).await {
            return Err(HostError::Qemu {
                guest: guest.name().to_owned(),
                what: format!("did not load the source's device state ({error})"),
                log: guest.places.log(),
                tail: crate::guest::tail(&guest.places.log()),
            });
        }
        if !paused {
            qmp.execute("cont", json!({})).await?;
        }
        Ok(())
    }

    /// Merge the diff that arrived into the destination, paused for it.
    pub(crate) async fn merge(&self, id: &str) -> Result<api::MergeReport, HostError> {
        let turn = self.migrations.turn(id, Side::Destination);
        let _turn = turn.lock().await;
        let receive = self.migrations.receive(id)?;
        let dir = self.migrations.dir(id);
        if let (Some(report), None) = (merge::finished(&dir)?, receive.merge_paused) {
            return Ok(describe(report, receive.merge_pause_ns.unwrap_or_default()));
        }
        if !receive.started || !receive.diff_arrived {
            return Err(HostError::Precondition(format!(
                "no diff has arrived for destination `{}` of migration `{id}`; start the \
                 destination, then send the diff",
                receive.spec.name
            )));
        }
        let diff_path = Receive::diff(&dir);
        let guest = self.guest(&receive.spec.name)?;
        let mut regions = Vec::new();
        for region in &receive.spec.regions {
            regions.push((region.name.clone(), Mapping::open(&guest.places.region(&region.name))?));
        }
        let bytes = fs::read(&diff_path).map_err(HostError::file("read", &diff_path))?;
        let diff = Diff::decode(&bytes)?;

        let monitor = guest.monitor.lock().await;
        let mut qmp = guest.qmp().await?;
        let ran = match receive.merge_paused {
            Some(ran) => ran,
            None => state(&mut qmp).await? == State::Running,
        };
        self.migrations.update_receive(id, |receive| receive.merge_paused = Some(ran))?;
        let paused_at = Instant::now();
        if let Err(error) = qmp.execute("stop", json!({})).await {
            // It may have been carried out although its answer is lost.
            drop((qmp, monitor));
            self.recover_merge(id, &self.migrations.receive(id)?).await?;
            return Err(error);
        }
        let merging = dir.clone();
        let merged = blocking(move || Ok(merge::merge(&merging, &diff, &regions)?)).await;
        if merged.is_err() && merge::has_begun(&dir)? {
            // Partly applied: it must not run like this. Merging again carries it through.
            return Err(merged.err().unwrap_or_else(|| HostError::Internal("merge".to_owned())));
        }
        if ran {
            qmp.execute("cont", json!({})).await?;
        }
        let pause_ns = paused_at.elapsed().as_nanos() as u64;
        self.migrations.update_receive(id, |receive| {
            receive.merge_paused = None;
            receive.merge_pause_ns = Some(pause_ns);
        })?;
        merged.map(|report| describe(report, pause_ns))
    }

    /// Undo what an interrupted merge left, unless it must be carried through.
    pub(crate) async fn recover_merge(&self, id: &str, receive: &Receive) -> Result<(), HostError> {
        let guest = self.guest(&receive.spec.name)?;
        if merge::has_begun(&self.migrations.dir(id))? {
            warn!(
                migration = id,
                guest = guest.name(),
                "a merge was interrupted; the destination stays paused until it is merged again"
            );
            return Ok(());
        }
        if receive.merge_paused == Some(true) {
            guest.resume().await?;
        }
        self.migrations.update_receive(id, |receive| receive.merge_paused = None)
    }

    /// Drop everything of a migration that no guest uses.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), HostError> {
        let until = Instant::now() + CUT_PATIENCE;
        let sides = [Side::Source, Side::Destination, Side::DryRun]
            .map(|side| self.migrations.turn(id, side));
        self.copies.forget(id, "the migration is given up");
        self.connections.cut(id);
        let _source = sides[0].lock().await;
        let _destination = sides[1].lock().await;
        let _dry_run = sides[2].lock().await;
        while self.connections.is_receiving(id) && Instant::now() < until {
            self.connections.cut(id);
            sleep(POLL).await;
        }
        // Only now is nobody left who would map it again.
        self.beside.forget(id);
        self.becoming.forget(id);
        let Some(migration) = self.migrations.get(id) else { return Ok(()) };
        match &migration.capture {
            // Its source could not be continued.
            Some(capture) if capture.taken.is_none() => self.recover_capture(id, capture).await?,
            Some(_) => records::remove_dir(&self.twin_dir(id))?,
            None => {}
        }
        if let Some(receive) = migration.receive
            && !receive.started
            && self.guest(&receive.spec.name).is_err()
        {
            records::remove_dir(&self.places_of(&receive.spec.name).memory)?;
        }
        self.migrations.forget(id)
    }
}

fn describe(report: Report, pause_ns: u64) -> api::MergeReport {
    api::MergeReport {
        merged_bytes: report.merged_bytes,
        pause_ns,
        conflicts: report.conflicts.into_iter().map(describe_conflict).collect(),
        conflict_count: report.conflict_count,
        ranges: report.ranges.into_iter().map(describe_range).collect(),
    }
}

pub(crate) fn describe_conflict(conflict: Conflict) -> api::Conflict {
    api::Conflict {
        region: conflict.region,
        offset: conflict.offset,
        base: conflict.base,
        ours: conflict.ours,
        theirs: conflict.theirs,
        resolution: conflict.resolution.name().to_owned(),
        cause: conflict.cause.name().to_owned(),
    }
}

pub(crate) fn describe_range(range: RangeConflicts) -> api::RangeConflicts {
    api::RangeConflicts {
        region: range.region,
        offset: range.offset,
        len_bytes: range.len_bytes,
        merge_type: range.merge_type.name().to_owned(),
        count: range.count,
    }
}
