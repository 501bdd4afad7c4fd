//! What the journal holds of a migration: one record per thing that happened.
//!
//! Records are JSON in the journal. A field may be added with a default; none may change its meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    guest::{Disk, GuestSpec},
    phase::Phase,
    sessions::Import,
    spec::{CaptureWay, Mac, Spec},
};

/// A migration's name: unique over restarts and over managers that lost their state, because hosts keep
/// what they did under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MigrationId(String);

impl MigrationId {
    /// The name for a migration accepted at `unix_ms`. Twelve hexadecimal digits, so that names sort by time.
    #[must_use]
    pub fn at(unix_ms: u64) -> Self {
        Self(format!("m-{unix_ms:012x}"))
    }

    /// A name as given by a user or read from the journal.
    #[must_use]
    pub fn named(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One durable record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position within the migration, from 0, without holes.
    pub sequence: u64,
    /// When it was written.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The first record: the order, complete.
    Accepted {
        /// The order.
        spec: Box<Spec>,
    },
    /// Written before the phase acts.
    Started {
        /// Which.
        phase: Phase,
    },
    /// Written after the phase has finished.
    Finished {
        /// Which.
        phase: Phase,
        /// How long it took; over restarts of the manager, their gap included.
        elapsed_us: u64,
        /// Its figures.
        outcome: Outcome,
    },
    /// From here on the migration is undone.
    AbortBegun {
        /// Why.
        cause: AbortCause,
        /// For the operator.
        reason: String,
    },
    /// The migration goes on after a pause.
    Resumed {
        /// Why.
        by: Resumer,
    },
    /// The last record, unless an operator resumes a failed migration.
    Ended {
        /// How.
        end: End,
        /// For the operator; empty when completed.
        message: String,
    },
}

/// One line for the log.
impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { spec } => write!(f, "accepted for {}", spec.address),
            Self::Started { phase } => write!(f, "{phase} started"),
            Self::Finished { phase, elapsed_us, outcome } => {
                write!(f, "{phase} finished in {} ms", elapsed_us / 1000)?;
                let detail = outcome.detail();
                if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
            }
            Self::AbortBegun { reason, .. } => write!(f, "aborting: {reason}"),
            Self::Resumed { by: Resumer::Restart } => f.write_str("resumed after a restart"),
            Self::Resumed { by: Resumer::Operator } => f.write_str("resumed by an operator"),
            Self::Ended { end, message } => write!(f, "ended, {end:?} {message}"),
        }
    }
}

/// Why a migration is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortCause {
    /// An operator asked for it.
    Operator,
    /// The drain took longer than allowed.
    Deadline,
    /// A step failed.
    Step,
    /// The host refused the merge as a whole and changed nothing. The only cause after the merge has started.
    MergeRefused,
    /// The destination was never continued as the source. The only cause after that has started.
    NotContinued,
}

/// Who took a migration up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumer {
    /// A manager that found it running in its journal.
    Restart,
    /// An operator, after a failure.
    Operator,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The destination owns everything.
    Completed,
    /// The source owns everything.
    Aborted,
    /// Neither; an operator is needed.
    Failed,
}

/// How RAM went to the destination's host while it was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Straight {
    /// On the wire.
    pub sent_bytes: u64,
    /// The way it took.
    pub transport: String,
}

/// What a phase found or did, as later phases and reports need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// What was settled before anything changed.
    Preflight {
        /// The guest to be made.
        destination: Box<GuestSpec>,
        /// Its MAC as a backend.
        mac: Mac,
        /// Regions to carry over.
        regions: Vec<String>,
        /// Bytes the capture will hold.
        twin_bytes: u64,
        /// What the source sees as its generation.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        generation_id: String,
        /// What the source reads as its own name.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        identity: String,
    },
    /// The address is hosted and the destination known.
    Takeover {
        /// Sessions of the source told to the switch, if they were to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        import: Option<Import>,
    },
    /// T0.
    Capture {
        /// How long the source stood still.
        pause_ns: u64,
        /// RAM captured.
        ram_bytes: u64,
        /// Regions captured.
        region_bytes: u64,
        /// Device state captured.
        device_state_bytes: u64,
        /// How it was captured.
        #[serde(default)]
        way: CaptureWay,
        /// What spoke for that.
        #[serde(default)]
        why: String,
        /// Memory copied in each pass.
        #[serde(default)]
        pass_bytes: Vec<u64>,
        /// Packets that waited for the source at the switch; None when its port was not held.
        #[serde(default)]
        held_packets: Option<u64>,
        /// RAM went to the destination's host meanwhile.
        #[serde(default)]
        straight: Option<Straight>,
    },
    /// The twin has arrived.
    Copy {
        /// On the wire.
        sent_bytes: u64,
        /// Of guest memory.
        covered_bytes: u64,
        /// BLAKE3, confirmed by the receiver.
        digest: String,
        /// Which way the bytes took, and why.
        #[serde(default)]
        transport: String,
    },
    /// The destination runs.
    Destination {
        /// Its process on the host.
        pid: u32,
    },
    /// The new epoch is in force.
    Cutover {
        /// Its number.
        epoch: u32,
        /// Live sessions of the source at that instant.
        old_sessions: u64,
        /// Until the last worker acknowledged.
        elapsed_ns: u64,
        /// Sessions of the source told to the switch right before, if they were to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        import: Option<Import>,
    },
    /// The last old session is gone.
    Drain {
        /// Live at the destination then.
        new_sessions: u64,
    },
    /// The source's memory has stopped changing, or not in time.
    Settle {
        /// Whether it has.
        settled: bool,
        /// How long it was watched.
        watched_ms: u64,
        /// What changed in the last look.
        changed_pages: u64,
        /// Of so many.
        watched_pages: u64,
    },
    /// The source is paused.
    Quiesce {
        /// When it was asked to. Earlier versions did not keep it.
        #[serde(default)]
        asked_unix_us: u64,
    },
    /// The diff has arrived.
    Diff {
        /// Compared.
        compared_bytes: u64,
        /// Differing.
        changed_bytes: u64,
        /// On the wire.
        sent_bytes: u64,
        /// Runs of differing bytes.
        runs: u64,
    },
    /// What the source had changed is at the destination, or will be with the image.
    Ahead {
        /// Sent each time.
        pass_bytes: Vec<u64>,
        /// Why not once more.
        why: String,
    },
    /// What makes the destination the source's image has arrived.
    Image {
        /// Compared.
        compared_bytes: u64,
        /// Of pages that differ.
        changed_bytes: u64,
        /// On the wire.
        sent_bytes: u64,
        /// The final device state.
        device_state_bytes: u64,
        /// Of all RAM and regions.
        digest: String,
        /// What the destination goes on with.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        disks: Vec<Disk>,
    },
    /// The destination's regions hold both VMs' changes.
    Merge {
        /// Bytes of the destination that changed.
        merged_bytes: u64,
        /// How long the destination stood still.
        pause_ns: u64,
        /// Bytes changed on both sides, settled by the region's merge type.
        conflicts: u64,
    },
    /// The destination is the source's image, paused.
    Mirror {
        /// Bytes of the destination that were written.
        applied_bytes: u64,
        /// Of all RAM and regions, the same on both sides.
        digest: String,
    },
    /// The destination goes on as the source.
    Continue {
        /// From the source's pause until it ran.
        pause_ns: u64,
    },
    /// The address's home is the destination.
    Release {
        /// Sessions of the source that were left, adopted after the drain; they are cut.
        #[serde(default)]
        forgotten_sessions: u64,
        /// Sessions of the source that went on at the destination.
        #[serde(default)]
        kept_sessions: u64,
        /// Sessions of the destination that were cut for that.
        #[serde(default)]
        cut_sessions: u64,
    },
    /// Nothing of the migration is left.
    Cleanup {
        /// What could not be tidied up; empty when all was.
        left_behind: Vec<String>,
    },
}

/// Enough of a digest to compare by eye.
fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

impl Outcome {
    /// What became of a list of the source's sessions.
    #[must_use]
    pub fn import(&self) -> Option<&Import> {
        match self {
            Self::Takeover { import } | Self::Cutover { import, .. } => import.as_ref(),
            _ => None,
        }
    }

    /// One line for people.
    #[must_use]
    pub fn detail(&self) -> String {
        let ms = |ns: &u64| format!("{}.{:01} ms", ns / 1_000_000, ns % 1_000_000 / 100_000);
        match self {
            Self::Preflight { regions, twin_bytes, .. } => {
                format!("{} region(s), {twin_bytes} bytes to capture", regions.len())
            }
            Self::Takeover { import } => {
                import.as_ref().map(ToString::to_string).unwrap_or_default()
            }
            Self::Release { forgotten_sessions, kept_sessions, cut_sessions } => {
                let told = [
                    (*forgotten_sessions, "of the source appeared after the drain and are cut"),
                    (*kept_sessions, "of the source go on at the destination"),
                    (*cut_sessions, "of the destination are cut"),
                ];
                let told = told.into_iter().filter(|(count, _)| *count > 0);
                let told: Vec<_> =
                    told.map(|(count, what)| format!("{count} session(s) {what}")).collect();
                told.join(", ")
            }
            Self::Capture { pause_ns, way, why, pass_bytes, held_packets, straight, .. } => {
                let paused = format!("source paused for {}", ms(pause_ns));
                let passes = match pass_bytes.len() {
                    0 => String::new(),
                    passes => format!(", {passes} passes"),
                };
                let held = held_packets.map(|count| format!("; {count} packet(s) held meanwhile"));
                let straight = straight.as_ref().map(|Straight { sent_bytes, transport }| {
                    format!("; RAM straight to the destination's host, {sent_bytes} bytes by {transport}")
                });
                let (held, straight) = (held.unwrap_or_default(), straight.unwrap_or_default());
                format!("{paused} by {way} ({why}){passes}{held}{straight}")
            }
            Self::Copy { sent_bytes, covered_bytes, transport, .. } => {
                let way = if transport.is_empty() { "" } else { " by " };
                format!("{sent_bytes} bytes sent for {covered_bytes}{way}{transport}")
            }
            Self::Destination { pid } => format!("running, process {pid}"),
            Self::Cutover { epoch, old_sessions, import, .. } => {
                let import = import.as_ref().map(|import| format!("; {import}"));
                format!(
                    "epoch {epoch}, {old_sessions} old session(s){}",
                    import.unwrap_or_default()
                )
            }
            Self::Drain { new_sessions } => {
                format!("no old session left, {new_sessions} at the destination")
            }
            Self::Settle { settled: true, watched_ms, .. } => {
                format!("the source's memory stopped changing, watched for {watched_ms} ms")
            }
            Self::Settle { watched_ms, changed_pages, watched_pages, .. } => format!(
                "the source's memory did not stop changing in {watched_ms} ms, {changed_pages} of {watched_pages} \
                 page(s) in the last look"
            ),
            Self::Quiesce { .. } => "source paused".to_owned(),
            Self::Mirror { applied_bytes, digest } => {
                format!("{applied_bytes} bytes applied, digest {} on both sides", short(digest))
            }
            Self::Continue { pause_ns } => {
                format!("the destination runs {} after the source's pause", ms(pause_ns))
            }
            Self::Diff { changed_bytes, compared_bytes, runs, .. } => {
                format!("{changed_bytes} of {compared_bytes} bytes changed, {runs} run(s)")
            }
            Self::Ahead { pass_bytes, why } => {
                let sent_bytes: u64 = pass_bytes.iter().sum();
                format!("{sent_bytes} bytes sent in {} pass(es); {why}", pass_bytes.len())
            }
            Self::Image { changed_bytes, compared_bytes, sent_bytes, .. } => format!(
                "{changed_bytes} of {compared_bytes} bytes changed, {sent_bytes} sent with the device state"
            ),
            Self::Merge { merged_bytes, pause_ns, conflicts } => format!(
                "{merged_bytes} bytes merged, destination paused for {}, {conflicts} conflict(s)",
                ms(pause_ns)
            ),
            Self::Cleanup { left_behind } => left_behind.join("; "),
        }
    }
}
