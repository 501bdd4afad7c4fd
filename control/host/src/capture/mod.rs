//! Source: T0.
//!
//! Two ways ([`choice`] has what speaks for which): [`stop`] copies everything while the guest stands, [`passes`] lets
//! QEMU send the memory of the running guest, pass by pass, and only the last one stands. Both end alike: the source goes on, the
//! twin and a device state ([`crate::qemu_stream`]) are there.
//!
//! With passes, RAM of which only hashes would be kept goes [`straight`] to the destination's host.

mod choice;
pub(crate) mod outgoing;
mod passes;
mod recover;
mod stop;
mod straight;

use std::{path::Path, path::PathBuf, sync::Arc};

pub(crate) use choice::{Asked, Choice, Way};
pub(crate) use outgoing::migrated;
pub(crate) use straight::To;
use tidegate_memory::{ObjectKind, copy::window, forecast::Forecast, kept::hashes_bytes, twin};
use tracing::info;

use crate::{
    HostError,
    budget::Keep,
    guest::{Guest, State, state},
    inner::{Inner, blocking},
    migration::{Capture, Side, Taken},
    qmp::Qmp,
    records,
    safety::CloneUse,
    spec::Accel,
};

/// Room kept for the device state, of which a guest here has less than a mebibyte.
const DEVICE_STATE_ROOM_BYTES: u64 = 16 << 20;

/// What is to be captured.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) guest: String,
    /// RAM and device state too, not only regions.
    pub(crate) clone: bool,
    /// Empty: all the guest has.
    pub(crate) regions: Vec<String>,
    pub(crate) way: Asked,
    pub(crate) clone_use: CloneUse,
    /// Compare the twin with the source's memory before the source goes on.
    pub(crate) audit: bool,
    /// RAM may go there while it is captured.
    pub(crate) straight: Option<To>,
}

/// What a capture would hold, and how it would be taken.
pub(crate) struct Plan {
    pub(crate) guest: Arc<Guest>,
    pub(crate) clone: bool,
    /// Regions that the finish compares.
    pub(crate) regions: Vec<String>,
    pub(crate) ram_bytes: u64,
    pub(crate) region_bytes: u64,
    pub(crate) choice: Choice,
    /// RAM goes there, and no more than hashes of it are kept.
    pub(crate) straight: Option<To>,
    /// What the twin needs where it is kept, at the most but for what a last pass may hold.
    pub(crate) room_bytes: u64,
    /// What is on the guest's disks at T0 is what a clone begins with, so it is frozen.
    freeze_disks: bool,
    audit: bool,
    sources: Vec<(ObjectKind, PathBuf)>,
}

impl Inner {
    /// Check everything a capture needs.
    pub(crate) async fn plan_capture(
        &self,
        id: Option<&str>,
        order: &Order,
    ) -> Result<Plan, HostError> {
        let name = &order.guest;
        let guest = self.guest(name)?;
        let spec = &guest.record.spec;
        if !spec.memory_shared {
            return Err(HostError::Precondition(format!(
                "guest `{name}` has no shared RAM file and cannot be migrated; start it with \
                 memory_shared"
            )));
        }
        let has: Vec<_> = spec.regions.iter().map(|region| region.name.clone()).collect();
        if let Some(missing) = order.regions.iter().find(|region| !has.contains(region)) {
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            return Err(HostError::Invalid {
                field: "regions",
                reason: format!("guest `{name}` has no region `{missing}`; it has {has}"),
            });
        }
        let compared = if order.regions.is_empty() { has } else { order.regions.clone() };
        let (mut sources, region_bytes) = sources(&guest, order.clone, &compared)?;
        check_running(&guest).await?;
        let ram_bytes = if order.clone { spec.ram_bytes() } else { 0 };
        let measured = sources.clone();
        let forecast = blocking(move || Ok(Forecast::of(&measured)?)).await?;
        let (clone, audit) = (order.clone, order.audit);
        let freeze_disks = clone
            && order.clone_use == CloneUse::Beside
            && spec.disks.iter().any(|disk| disk.overlay);
        let exact_log = spec.accel == Accel::Kvm;
        let straight = self.may_go_straight(id, order, ram_bytes);
        let cap = straight.as_ref().and_then(|to| self.cap_bytes_per_second(&to.how));
        let choice = Choice::new(order.way, clone, freeze_disks, exact_log, &forecast, cap)?;
        let straight = straight.filter(|_| choice.way == Way::Passes);
        let kept_bytes = match &straight {
            Some(_) => {
                sources.retain(|(kind, _)| *kind != ObjectKind::Ram);
                window::limit_bytes(ram_bytes) + hashes_bytes(ram_bytes)
            }
            None => ram_bytes,
        };
        let reserve = if clone { DEVICE_STATE_ROOM_BYTES } else { 0 };
        let room_bytes = kept_bytes + region_bytes + reserve;
        twin::check_space(&self.config.twin_dir, room_bytes)?;
        Ok(Plan {
            guest,
            clone,
            regions: compared,
            ram_bytes,
            region_bytes,
            choice,
            straight,
            room_bytes,
            freeze_disks,
            audit,
            sources,
        })
    }

    /// Take T0, or answer what was taken before under this id.
    pub(crate) async fn capture(
        self: &Arc<Self>,
        id: &str,
        order: &Order,
    ) -> Result<Taken, HostError> {
        let turn = self.migrations.turn(id, Side::Source);
        let _turn = turn.lock().await;
        let name = &order.guest;
        if let Some(capture) = self.migrations.get(id).and_then(|migration| migration.capture) {
            if capture.guest != *name || capture.clone != order.clone {
                return Err(HostError::Precondition(format!(
                    "migration `{id}` captured guest `{}` already; forget it first or use another id",
                    capture.guest
                )));
            }
            match capture.taken {
                Some(taken) => return Ok(taken),
                // One whose source could not be continued.
                None => self.recover_capture(id, &capture).await?,
            }
        }
        let plan = self.plan_capture(Some(id), order).await?;
        let capture = Capture {
            guest: name.clone(),
            clone: order.clone,
            regions: plan.regions.clone(),
            taken: None,
            kept: None,
        };
        // On disk before the guest is paused: a restarted host daemon then knows to continue it.
        self.migrations.update(id, |migration| {
            migration.capture = Some(capture);
            Ok(())
        })?;
        let taken = self.take(id, &plan).await;
        self.keep(id, &plan, taken)
    }

    async fn take(self: &Arc<Self>, id: &str, plan: &Plan) -> Result<Taken, Failed> {
        let dir = self.twin_dir(id);
        records::remove_dir(&dir)?;
        let reserve = if plan.clone { DEVICE_STATE_ROOM_BYTES } else { 0 };
        let (sources, prepared_in) = (plan.sources.clone(), dir.clone());
        let touch = plan.choice.way == Way::Stop;
        let prepared = blocking(move || {
            let prepared = twin::Prepared::new(&prepared_in, &sources, reserve)?;
            if touch {
                prepared.prefault()?;
            }
            Ok(Arc::new(prepared))
        });
        let prepared = prepared.await?;

        let turn = plan.guest.monitor.lock().await;
        let mut qmp = plan.guest.qmp().await?;
        if state(&mut qmp).await? != State::Running {
            return Err(not_running(plan.guest.name()).into());
        }
        match plan.choice.way {
            Way::Stop => stop::take(id, plan, &dir, prepared, qmp, true).await,
            Way::Passes => passes::take(self, id, plan, &dir, prepared, (qmp, turn)).await,
        }
    }

    /// Record what came of it. What failed leaves no files; its record only as long as the source may still be
    /// paused.
    fn keep(
        &self,
        id: &str,
        plan: &Plan,
        taken: Result<Taken, Failed>,
    ) -> Result<Taken, HostError> {
        let paused = matches!(taken, Err(Failed { source_paused: true, .. }));
        let taken = taken.map_err(|failed| failed.error);
        let recorded = self.migrations.update(id, |migration| {
            match (&mut migration.capture, &taken) {
                (Some(capture), Ok(taken)) => {
                    capture.kept = taken.straight.as_ref().map(|_| Keep::Hashes);
                    capture.taken = Some(taken.clone());
                }
                _ if paused => {}
                _ => migration.capture = None,
            }
            Ok(())
        });
        match &taken {
            Ok(taken) => info!(
                migration = id,
                guest = plan.guest.name(),
                way = plan.choice.way.name(),
                pause_ns = taken.pause_ns,
                "T0 taken"
            ),
            Err(_) => records::remove_dir(&self.twin_dir(id))?,
        }
        recorded?;
        taken
    }
}

/// Why there is no T0.
struct Failed {
    error: HostError,
    /// The source was paused for it and did not go on, although it lives.
    source_paused: bool,
}

impl<E: Into<HostError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), source_paused: false }
    }
}

/// Objects to capture with their files, and how many bytes the regions among them have.
fn sources(
    guest: &Guest,
    clone: bool,
    compared: &[String],
) -> Result<(Vec<(ObjectKind, PathBuf)>, u64), HostError> {
    let mut sources = Vec::new();
    if clone {
        sources.push((ObjectKind::Ram, guest.places.ram()));
    }
    let mut region_bytes = 0;
    for region in &guest.record.spec.regions {
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
                "{kind} of guest `{}` should be in {} and is not there; start the guest anew",
                guest.name(),
                path.display()
            )));
        }
    }
    Ok((sources, region_bytes))
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

pub(crate) fn device_state(dir: &Path) -> PathBuf {
    twin::path_of(dir, &ObjectKind::DeviceState)
}

/// Compare the twin with the source, which stands.
async fn audit(plan: &Plan, prepared: Arc<twin::Prepared>) -> Result<(), HostError> {
    if !plan.audit {
        return Ok(());
    }
    let found = blocking(move || Ok(prepared.audit()?)).await?;
    match found.first {
        None => Ok(()),
        Some((kind, offset)) => Err(HostError::Precondition(format!(
            "{} pages of the twin are not as in guest `{}`, the first at {offset} of its {kind}: this \
             QEMU does not see every write; capture by `stop`",
            found.differing_pages,
            plan.guest.name()
        ))),
    }
}

/// Continue the source, then say what came of it.
async fn go_on<T>(guest: &Guest, qmp: Qmp, held: Result<T, HostError>) -> Result<T, Failed> {
    match recover::resume(guest, qmp).await {
        Ok(()) => Ok(held?),
        // A dead process is paused no more.
        Err(error) => {
            Err(Failed { source_paused: guest.is_alive(), error: held.err().unwrap_or(error) })
        }
    }
}
