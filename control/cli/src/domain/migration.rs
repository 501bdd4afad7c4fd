//! Migrations and their events.

use serde::Serialize;
use tidegate_api::{
    host::CaptureWay,
    manager::{
        self as proto, DestinationKind, FinishMode, MigrationState, Phase, migration_event::What,
    },
};

use super::Invalid;

/// How a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// On its way.
    Running,
    /// The destination owns everything.
    Completed,
    /// The source owns everything.
    Aborted,
    /// Needs an operator.
    Failed,
}

impl State {
    fn from_proto(value: i32) -> Result<Self, Invalid> {
        match MigrationState::try_from(value) {
            Ok(MigrationState::Running) => Ok(Self::Running),
            Ok(MigrationState::Completed) => Ok(Self::Completed),
            Ok(MigrationState::Aborted) => Ok(Self::Aborted),
            Ok(MigrationState::Failed) => Ok(Self::Failed),
            _ => Err(Invalid::Unknown { field: "state", value }),
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

fn phase_name(value: i32) -> Result<&'static str, Invalid> {
    Ok(match Phase::try_from(value) {
        Ok(Phase::Preflight) => "preflight",
        Ok(Phase::Takeover) => "takeover",
        Ok(Phase::Capture) => "capture",
        Ok(Phase::Copy) => "copy",
        Ok(Phase::Destination) => "destination",
        Ok(Phase::Cutover) => "cutover",
        Ok(Phase::Drain) => "drain",
        Ok(Phase::Ahead) => "ahead",
        Ok(Phase::Settle) => "settle",
        Ok(Phase::Quiesce) => "quiesce",
        Ok(Phase::Diff) => "diff",
        Ok(Phase::Merge) => "merge",
        Ok(Phase::Mirror) => "mirror",
        Ok(Phase::Continue) => "continue",
        Ok(Phase::Release) => "release",
        Ok(Phase::Cleanup) => "cleanup",
        _ => return Err(Invalid::Unknown { field: "phase", value }),
    })
}

fn way_name(value: i32) -> Result<&'static str, Invalid> {
    Ok(match CaptureWay::try_from(value) {
        Ok(CaptureWay::Unspecified) => "",
        Ok(CaptureWay::Stop) => "stop",
        Ok(CaptureWay::Passes) => "passes",
        Err(_) => return Err(Invalid::Unknown { field: "capture_way", value }),
    })
}

/// What will be or was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Whether a migration can start.
    pub ok: bool,
    /// Each check.
    pub checks: Vec<Check>,
    /// The phases it will go through.
    pub steps: Vec<String>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it is good.
    pub ok: bool,
    /// What was found, or what is wrong and what to do.
    pub detail: String,
    /// Good, and yet something to know.
    pub warning: bool,
}

impl From<proto::Plan> for Plan {
    fn from(plan: proto::Plan) -> Self {
        let check = |check: proto::Check| {
            let proto::Check { name, ok, detail, warning } = check;
            Check { name, ok, detail, warning }
        };
        Self {
            ok: plan.ok,
            checks: plan.checks.into_iter().map(check).collect(),
            steps: plan.steps,
        }
    }
}

/// A migration.
#[derive(Clone, Debug, Serialize)]
pub struct Migration {
    /// Its name.
    pub id: String,
    /// How it stands.
    pub state: State,
    /// The latest phase that has begun.
    pub phase: &'static str,
    /// Why it was aborted or failed.
    pub message: String,
    /// When it was accepted.
    pub started_unix_ms: u64,
    /// What was asked for.
    pub spec: Spec,
    /// Finished phases in order.
    pub phases: Vec<PhaseTime>,
    /// What was measured.
    pub figures: Figures,
}

/// How long a phase took.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseTime {
    /// Which.
    pub name: &'static str,
    /// How long.
    pub elapsed_us: u64,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of MigrationSpec in manager.proto
pub struct Spec {
    pub address: String,
    pub switch: String,
    pub source_host: String,
    pub source_guest: String,
    pub destination_host: String,
    pub destination_guest: String,
    pub kind: &'static str,
    pub finish: &'static str,
    pub transport: String,
    pub bandwidth_mbps: u64,
    pub final_bandwidth_mbps: Option<u64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Figures in manager.proto
pub struct Figures {
    pub ram_bytes: u64,
    pub copied_bytes: u64,
    pub device_state_bytes: u64,
    pub diff_bytes: u64,
    pub merged_bytes: u64,
    pub pause_ns: u64,
    pub destination_pause_ns: u64,
    pub old_sessions_at_cutover: u64,
    pub cutover_ns: u64,
    pub epoch: u32,
    pub conflicts: u64,
    pub forgotten_sessions: u64,
    pub imported_sessions: u64,
    pub session_list_missing: String,
    pub capture_way: &'static str,
    pub capture_why: String,
    pub pass_bytes: Vec<u64>,
    pub held_packets: Option<u64>,
    pub ahead_bytes: Vec<u64>,
    pub image_pause_ns: u64,
    pub image_digest: String,
    pub kept_sessions: u64,
    pub cut_sessions: u64,
}

impl TryFrom<proto::Migration> for Migration {
    type Error = Invalid;

    fn try_from(migration: proto::Migration) -> Result<Self, Invalid> {
        let missing = |field| Invalid::Missing { message: "Migration", field };
        let spec = migration.spec.ok_or(missing("spec"))?;
        let figures = migration.figures.ok_or(missing("figures"))?;
        let phase = |time: &proto::PhaseTime| {
            Ok(PhaseTime { name: phase_name(time.phase)?, elapsed_us: time.elapsed_us })
        };
        Ok(Self {
            id: migration.id,
            state: State::from_proto(migration.state)?,
            phase: phase_name(migration.phase)?,
            message: migration.message,
            started_unix_ms: migration.started_unix_ms,
            phases: migration.phases.iter().map(phase).collect::<Result<_, _>>()?,
            spec: Spec::from(spec),
            figures: Figures {
                capture_way: way_name(figures.capture_way)?,
                capture_why: figures.capture_why,
                pass_bytes: figures.pass_bytes,
                held_packets: figures.held_packets,
                ram_bytes: figures.ram_bytes,
                copied_bytes: figures.copied_bytes,
                device_state_bytes: figures.device_state_bytes,
                diff_bytes: figures.diff_bytes,
                merged_bytes: figures.merged_bytes,
                pause_ns: figures.pause_ns,
                destination_pause_ns: figures.destination_pause_ns,
                old_sessions_at_cutover: figures.old_sessions_at_cutover,
                cutover_ns: figures.cutover_ns,
                epoch: figures.epoch,
                conflicts: figures.conflicts,
                forgotten_sessions: figures.forgotten_sessions,
                imported_sessions: figures.imported_sessions,
                session_list_missing: figures.session_list_missing,
                ahead_bytes: figures.ahead_bytes,
                image_pause_ns: figures.image_pause_ns,
                image_digest: figures.image_digest,
                kept_sessions: figures.kept_sessions,
                cut_sessions: figures.cut_sessions,
            },
        })
    }
}

impl From<proto::MigrationSpec> for Spec {
    fn from(spec: proto::MigrationSpec) -> Self {
        let kind = match spec.kind() {
            DestinationKind::Clone => "clone",
            DestinationKind::Boot => "boot",
            DestinationKind::Unspecified => "",
        };
        let finish = match spec.finish() {
            FinishMode::None => "none",
            FinishMode::Mirror => "mirror",
            FinishMode::Merge | FinishMode::Unspecified => "merge",
        };
        Self {
            address: spec.address,
            switch: spec.switch_name,
            source_host: spec.source_host,
            source_guest: spec.source_guest,
            destination_host: spec.destination_host,
            destination_guest: spec.destination_guest,
            kind,
            finish,
            transport: spec.transport,
            bandwidth_mbps: spec.bandwidth_mbps,
            final_bandwidth_mbps: spec.final_bandwidth_mbps,
        }
    }
}

/// Something that happened in a migration.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Of the journal's record; progress carries the latest record's.
    pub sequence: u64,
    /// When.
    pub unix_ms: u64,
    /// In which phase.
    pub phase: &'static str,
    /// What; `event` says which.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // the fields of MigrationEvent in manager.proto
pub enum Happening {
    /// The phase has begun.
    Started,
    /// The phase has finished.
    Finished { elapsed_us: u64, detail: String },
    /// The twin is on its way.
    Copy { sent_bytes: u64, covered_bytes: u64, total_bytes: u64, rate_bytes_per_s: u64 },
    /// The source's memory is watched.
    Settle { unchanged_ms: u64, settle_ms: u64, changed_pages: u64, watched_pages: u64 },
    /// Sessions are draining.
    Drain { old_sessions: u64, new_sessions: u64 },
    /// Everything goes back to the source.
    Aborting { reason: String },
    /// It goes on after a pause.
    Resumed { reason: String },
    /// It is over.
    Ended {
        state: State,
        message: String,
        #[serde(skip)]
        migration: Box<Migration>,
    },
}

impl Happening {
    /// Whether the journal has a record of it.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        !matches!(self, Self::Copy { .. } | Self::Settle { .. } | Self::Drain { .. })
    }
}

impl TryFrom<proto::MigrationEvent> for Event {
    type Error = Invalid;

    fn try_from(event: proto::MigrationEvent) -> Result<Self, Invalid> {
        let missing = |field| Invalid::Missing { message: "MigrationEvent", field };
        let what = match event.what.ok_or(missing("what"))? {
            What::Started(_) => Happening::Started,
            What::Finished(finished) => {
                Happening::Finished { elapsed_us: finished.elapsed_us, detail: finished.detail }
            }
            What::Copy(copy) => Happening::Copy {
                sent_bytes: copy.sent_bytes,
                covered_bytes: copy.covered_bytes,
                total_bytes: copy.total_bytes,
                rate_bytes_per_s: copy.rate_bytes_per_s,
            },
            What::Settle(settle) => Happening::Settle {
                unchanged_ms: settle.unchanged_ms,
                settle_ms: settle.settle_ms,
                changed_pages: settle.changed_pages,
                watched_pages: settle.watched_pages,
            },
            What::Drain(drain) => Happening::Drain {
                old_sessions: drain.old_sessions,
                new_sessions: drain.new_sessions,
            },
            What::Aborting(aborting) => Happening::Aborting { reason: aborting.reason },
            What::Resumed(resumed) => Happening::Resumed { reason: resumed.reason },
            What::Ended(ended) => Happening::Ended {
                state: State::from_proto(ended.state)?,
                message: ended.message,
                migration: Box::new(ended.migration.ok_or(missing("migration"))?.try_into()?),
            },
        };
        Ok(Self {
            sequence: event.sequence,
            unix_ms: event.unix_ms,
            phase: phase_name(event.phase)?,
            what,
        })
    }
}

/// A switch or host of the manager.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// `switch` or `host`.
    pub role: &'static str,
    /// Its name.
    pub name: String,
    /// Where it is expected.
    pub endpoint: String,
    /// Whether it answers.
    pub reachable: bool,
    /// Version, or why not.
    pub detail: String,
}

impl Node {
    /// A node in this `role`.
    #[must_use]
    pub fn from_proto(role: &'static str, node: proto::Node) -> Self {
        let proto::Node { name, endpoint, reachable, detail } = node;
        Self { role, name, endpoint, reachable, detail }
    }
}
