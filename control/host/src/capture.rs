//! Source: T0.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_memory::{ObjectKind, twin};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    HostError, disks,
    guest::{Guest, State, state},
    inner::{Inner, blocking},
    migration::{Capture, Side, Taken},
    qemu::shell_word,
    qmp::Qmp,
    records,
    safety::CloneUse,
};

/// Room kept for the device state, of which a guest here has less than a mebibyte.
const DEVICE_STATE_ROOM_BYTES: u64 = 16 << 20;
/// Longest the saving of a device state may take.
const SAVE_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);

/// What a capture would hold.
pub(crate) struct Plan {
    pub(crate) guest: Arc<Guest>,
    pub(crate) clone: bool,
    /// Regions that the finish compares.
    pub(crate) regions: Vec<String>,
    pub(crate) ram_bytes: u64,
    pub(crate) region_bytes: u64,
    sources: Vec<(ObjectKind, PathBuf)>,
}

impl Inner {
    /// Check everything a capture needs.
    pub(crate) async fn plan_capture(
        &self,
        name: &str,
        clone: bool,
        regions: &[String],
    ) -> Result<Plan, HostError> {
        let guest = self.guest(name)?;
        let spec = &guest.record.spec;
        if !spec.memory_shared {
            return Err(HostError::Precondition(format!(
                "guest `{name}` has no shared RAM file and cannot be migrated; start it with \
                 memory_shared"
            )));
        }
        let has: Vec<_> = spec.regions.iter().map(|region| region.name.clone()).collect();
        if let Some(missing) = regions.iter().find(|region| !has.contains(region)) {
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            return Err(HostError::Invalid {
                field: "regions",
                reason: format!("guest `{name}` has no region `{missing}`; it has {has}"),
            });
        }
        let compared = if regions.is_empty() { has } else { regions.to_vec() };
        let mut sources = Vec::new();
        if clone {
            sources.push((ObjectKind::Ram, guest.places.ram()));
        }
        let mut region_bytes = 0;
        for region in &spec.regions {
            // A clone's devices need all of them, whatever is compared later.
            if clone || compared.contains(&region.name) {
                region_bytes += region.size_bytes;
                let kind = ObjectKind::Region(region.name.clone());
                sources.push((kind, guest.places.region(&region.name)));
            }
        }
        for (kind, path) in &sources {
            if !path.exists() {
                return Err(HostError::Precondition(format!(
                    "{kind} of guest `{name}` should be in {} and is not there; start the guest anew",
                    path.display()
                )));
            }
        }
        check_running(&guest).await?;
        let ram_bytes = if clone { spec.ram_bytes() } else { 0 };
        let reserve = if clone { DEVICE_STATE_ROOM_BYTES } else { 0 };
        twin::check_space(&self.config.twin_dir, ram_bytes + region_bytes + reserve)?;
        Ok(Plan { guest, clone, regions: compared, ram_bytes, region_bytes, sources })
    }

    /// Take T0, or answer what was taken before under this id.
    pub(crate) async fn capture(
        &self,
        id: &str,
        name: &str,
        clone: bool,
        regions: &[String],
        clone_use: CloneUse,
    ) -> Result<Taken, HostError> {
        let turn = self.migrations.turn(id, Side::Source);
        let _turn = turn.lock().await;
        if let Ok((capture, taken)) = self.migrations.capture(id) {
            if capture.guest == name && capture.clone == clone {
                return Ok(taken);
            }
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured guest `{}` already; forget it first or use another id",
                capture.guest
            )));
        }
        let plan = self.plan_capture(name, clone, regions).await?;
        let capture =
            Capture { guest: name.to_owned(), clone, regions: plan.regions.clone(), taken: None };
        // On disk before the guest is paused: a restarted host daemon then knows to continue it.
        self.migrations.update(id, |migration| {
            migration.capture = Some(capture);
            Ok(())
        })?;
        let taken = self.take(id, &plan, clone_use).await;
        let recorded = self.migrations.update(id, |migration| {
            match (&mut migration.capture, &taken) {
                (Some(capture), Ok(taken)) => capture.taken = Some(*taken),
                _ => migration.capture = None,
            }
            Ok(())
        });
        if taken.is_err() {
            records::remove_dir(&self.twin_dir(id))?;
        }
        recorded?;
        if let Ok(taken) = &taken {
            info!(migration = id, guest = name, pause_ns = taken.pause_ns, "T0 taken");
        }
        taken
    }

    async fn take(&self, id: &str, plan: &Plan, clone_use: CloneUse) -> Result<Taken, HostError> {
        let dir = self.twin_dir(id);
        records::remove_dir(&dir)?;
        let reserve = if plan.clone { DEVICE_STATE_ROOM_BYTES } else { 0 };
        let (sources, prepared_in) = (plan.sources.clone(), dir.clone());
        let prepared =
            blocking(move || Ok(twin::Prepared::new(&prepared_in, &sources, reserve)?)).await?;

        let _turn = plan.guest.monitor.lock().await;
        let mut qmp = plan.guest.qmp().await?;
        if state(&mut qmp).await? != State::Running {
            return Err(not_running(plan.guest.name()));
        }
        if plan.clone {
            ignore_shared(&mut qmp).await?;
        }
        let paused_at = Instant::now();
        let mut stopped = qmp.execute("stop", json!({})).await.map(drop);
        if stopped.is_ok() && plan.clone && clone_use == CloneUse::Beside {
            stopped = disks::freeze(&plan.guest, &mut qmp, id).await;
        }
        let held = match stopped {
            Ok(()) => {
                // Nothing runs in the guest now, so memory and device state can be taken side by side.
                let fill = blocking(move || Ok(prepared.fill()?));
                let save =
                    async { if plan.clone { save_devices(&mut qmp, &dir).await } else { Ok(()) } };
                let (filled, saved) = tokio::join!(fill, save);
                filled.and(saved)
            }
            Err(error) => Err(error),
        };
        // Whatever happened, the source goes on.
        let continued = self.resume_source(&plan.guest, qmp).await;
        let pause_ns = paused_at.elapsed().as_nanos() as u64;
        held?;
        continued?;
        let device_state_bytes = if plan.clone { size_of_file(&device_state(&dir))? } else { 0 };
        if plan.clone && device_state_bytes == 0 {
            return Err(HostError::Precondition(format!(
                "QEMU saved an empty device state to {}; see {}",
                device_state(&dir).display(),
                plan.guest.places.log().display()
            )));
        }
        let (ram_bytes, region_bytes) = (plan.ram_bytes, plan.region_bytes);
        Ok(Taken { pause_ns, ram_bytes, region_bytes, device_state_bytes })
    }

    /// Continue a source; when its monitor is out of step, on a fresh connection.
    async fn resume_source(&self, guest: &Guest, mut qmp: Qmp) -> Result<(), HostError> {
        let first = match qmp.execute("cont", json!({})).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        warn!(guest = guest.name(), error = %first, "the source did not continue, trying again");
        drop(qmp);
        let mut qmp = guest.qmp().await?;
        settle(&mut qmp).await?;
        qmp.execute("cont", json!({})).await.map(drop)
    }

    /// Continue a source that an earlier run of this program left paused in the middle of a capture.
    pub(crate) async fn recover_capture(
        &self,
        id: &str,
        capture: &Capture,
    ) -> Result<(), HostError> {
        warn!(migration = id, guest = capture.guest, "an interrupted capture is undone");
        if let Ok(guest) = self.guest(&capture.guest)
            && guest.is_alive()
        {
            let mut qmp = guest.qmp().await?;
            settle(&mut qmp).await?;
            qmp.execute("cont", json!({})).await?;
        }
        records::remove_dir(&self.twin_dir(id))?;
        self.migrations
            .update(id, |migration| {
                migration.capture = None;
                Ok(())
            })
            .map(drop)
    }
}

async fn check_running(guest: &Guest) -> Result<(), HostError> {
    match guest.state().await? {
        State::Running => Ok(()),
        State::Paused => Err(not_running(guest.name())),
        State::Exited => Err(HostError::Precondition(format!(
            "guest `{}` is not running: its process has ended; start it first",
            guest.name()
        ))),
    }
}

fn not_running(name: &str) -> HostError {
    HostError::Precondition(format!(
        "guest `{name}` is not running: it is paused; continue it first"
    ))
}

/// RAM and regions are in shared files that we copy ourselves: QEMU is to leave them out.
pub(crate) async fn ignore_shared(qmp: &mut Qmp) -> Result<(), HostError> {
    let capability = json!({ "capability": "x-ignore-shared", "state": true });
    let arguments = json!({ "capabilities": [capability] });
    qmp.execute("migrate-set-capabilities", arguments).await.map(drop)
}

pub(crate) fn device_state(dir: &Path) -> PathBuf {
    twin::path_of(dir, &ObjectKind::DeviceState)
}

async fn save_devices(qmp: &mut Qmp, dir: &Path) -> Result<(), HostError> {
    save_device_state(qmp, &device_state(dir)).await
}

pub(crate) async fn save_device_state(qmp: &mut Qmp, path: &Path) -> Result<(), HostError> {
    let uri = format!("exec:cat > {}", shell_word(path));
    qmp.execute("migrate", json!({ "uri": uri })).await?;
    let saved = migrated(qmp, SAVE_PATIENCE).await;
    if saved.is_err() {
        settle(qmp).await?;
    }
    saved
}

/// Wait until QEMU's migration, in whichever direction, is through.
pub(crate) async fn migrated(qmp: &mut Qmp, patience: Duration) -> Result<(), HostError> {
    let until = Instant::now() + patience;
    loop {
        let answer = qmp.execute("query-migrate", json!({})).await?;
        let status = answer["status"].as_str().unwrap_or("none");
        match status {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                let reason = answer["error-desc"].as_str().unwrap_or("QEMU does not say why");
                return Err(HostError::Precondition(format!(
                    "QEMU's state transfer {status}: {reason}"
                )));
            }
            _ if Instant::now() > until => {
                let seconds = patience.as_secs();
                return Err(HostError::Precondition(format!(
                    "QEMU's state transfer is still `{status}` after {seconds} s"
                )));
            }
            _ => sleep(POLL).await,
        }
    }
}

/// Bring a QEMU that may be in the middle of saving its state to where it can continue.
async fn settle(qmp: &mut Qmp) -> Result<(), HostError> {
    // Refused when there is nothing to cancel.
    let _ = qmp.execute("migrate_cancel", json!({})).await;
    let until = Instant::now() + SAVE_PATIENCE;
    loop {
        let answer = qmp.execute("query-migrate", json!({})).await?;
        match answer["status"].as_str() {
            None | Some("none" | "completed" | "failed" | "cancelled") => return Ok(()),
            Some(status) if Instant::now() > until => {
                return Err(HostError::Precondition(format!(
                    "QEMU stays in migration state `{status}`"
                )));
            }
            Some(_) => sleep(POLL).await,
        }
    }
}

fn size_of_file(path: &Path) -> Result<u64, HostError> {
    Ok(fs::metadata(path).map_err(HostError::file("find", path))?.len())
}
