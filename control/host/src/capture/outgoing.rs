//! QEMU sends its state to a socket of ours, where it is taken apart.

use std::{
    fs, io,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_memory::{ObjectKind, copy::Window, twin::Prepared};
use tokio::{
    net::UnixListener,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::choice::LAST_PASS;
use crate::{
    HostError,
    guest::Guest,
    inner::blocking,
    qemu::{RAM_ID, region_id},
    qemu_stream::{self, Arrived, DeviceState, Known, Malformed, Twin},
    qmp::Qmp,
};

/// Longest the saving of a device state may take.
pub(super) const SAVE_PATIENCE: Duration = Duration::from_secs(20);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// More than any socket can do, and less than what overflows in QEMU.
const UNLIMITED_BYTES_PER_SECOND: u64 = 1 << 40;
/// What changes the stream in ways that are not understood here, or the guest's speed.
const UNWANTED: [&str; 6] =
    ["xbzrle", "compress", "multifd", "postcopy-ram", "background-snapshot", "auto-converge"];

/// Where a guest's memory goes.
#[derive(Clone)]
pub(super) struct Room {
    pub(super) prepared: Arc<Prepared>,
    /// RAM leaves through it.
    pub(super) window: Option<Arc<Window>>,
}

impl Room {
    fn of(&self, kind: &ObjectKind) -> Option<Twin<'_>> {
        match &self.window {
            Some(window) if *kind == ObjectKind::Ram => Some(Twin::Leaving(window)),
            _ => self.prepared.twin(kind).map(Twin::Kept),
        }
    }
}

/// A state on its way.
pub(super) struct Outgoing {
    pub(super) arrived: Arc<Arrived>,
    reading: JoinHandle<Result<DeviceState, Malformed>>,
    /// To cut it.
    stream: UnixStream,
}

/// Save what QEMU knows of the devices of a guest that stands, and leave the memory where it is: the file's length.
/// Doing it again replaces the file. The guest still stands afterwards and can be continued.
///
/// # Errors
/// [`HostError`]; the guest can be continued then, too.
pub(crate) async fn save_device_state(
    guest: &Guest,
    qmp: &mut Qmp,
    path: &Path,
) -> Result<u64, HostError> {
    let outgoing = Outgoing::begin(guest, qmp, None, LAST_PASS).await?;
    let state = match migrated(qmp, SAVE_PATIENCE).await {
        Ok(()) => outgoing.finish(guest).await?,
        Err(error) => {
            outgoing.abandon(qmp).await;
            return Err(error);
        }
    };
    save(state, path.to_owned()).await
}

/// Write a device state to its file; the file's length.
pub(super) async fn save(state: DeviceState, path: PathBuf) -> Result<u64, HostError> {
    blocking(move || state.save(&path).map_err(HostError::file("write", &path))).await
}

impl Outgoing {
    /// Have QEMU begin. With room for it, the memory comes too and goes there; without, it is left out. QEMU stops a guest that
    /// runs when what is left takes no longer than `last_pass`.
    pub(super) async fn begin(
        guest: &Guest,
        qmp: &mut Qmp,
        room: Option<Room>,
        last_pass: Duration,
    ) -> Result<Self, HostError> {
        let path = guest.places.state_socket();
        let unusable = HostError::file("listen on", &path);
        // Left by a run that was killed.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(unusable)?;
        let begun = match configure(qmp, room.is_none(), last_pass).await {
            Ok(()) => Self::connect(guest, qmp, room, &listener).await,
            Err(error) => Err(error),
        };
        // Connected or not, nobody else is to find it.
        let _ = fs::remove_file(&path);
        match begun {
            Ok(outgoing) => Ok(outgoing),
            Err(error) => {
                // The first error is the one to report.
                let _ = settle(qmp).await;
                Err(error)
            }
        }
    }

    async fn connect(
        guest: &Guest,
        qmp: &mut Qmp,
        room: Option<Room>,
        listener: &UnixListener,
    ) -> Result<Self, HostError> {
        let path = guest.places.state_socket();
        let uri = format!("unix:{}", path.display());
        qmp.execute("migrate", json!({ "uri": uri })).await?;
        let silent = |_| {
            HostError::Precondition(format!(
                "QEMU of guest `{}` did not connect to {} within {} s",
                guest.name(),
                path.display(),
                CONNECT_PATIENCE.as_secs()
            ))
        };
        let accepted = timeout(CONNECT_PATIENCE, listener.accept()).await.map_err(silent)?;
        let take = |accepted: io::Result<(tokio::net::UnixStream, _)>| {
            let stream = accepted?.0.into_std()?;
            stream.set_nonblocking(false)?;
            Ok((stream.try_clone()?, stream))
        };
        let (source, stream) = take(accepted).map_err(HostError::file("accept on", &path))?;
        let blocks = blocks(guest);
        let arrived = Arc::new(Arrived::default());
        let told = arrived.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let known = |(id, size_bytes, kind): (String, u64, ObjectKind)| {
                let twin = room.as_ref().and_then(|room| room.of(&kind));
                Known { id, size_bytes, twin }
            };
            let known: Vec<_> = blocks.into_iter().map(known).collect();
            qemu_stream::read(source, &known, &told)
        });
        Ok(Self { arrived, reading, stream })
    }

    /// Whether nothing more is read: all is there, or it is not understood.
    pub(super) fn has_ended(&self) -> bool {
        self.reading.is_finished()
    }

    /// What came, once QEMU has said that it is through.
    pub(super) async fn finish(self, guest: &Guest) -> Result<DeviceState, HostError> {
        let read = self.reading.await.map_err(|error| HostError::Internal(error.to_string()))?;
        read.map_err(|Malformed { at_bytes, reason }| HostError::Stream {
            guest: guest.name().to_owned(),
            at_bytes,
            reason,
        })
    }

    /// End it, and leave QEMU where its guest can be continued.
    pub(super) async fn abandon(self, qmp: &mut Qmp) {
        // Gone already is fine.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Err(unsettled) = settle(qmp).await {
            tracing::warn!(%unsettled, "QEMU's migration was not cancelled");
        }
        // It ends by the shutdown at the latest.
        let _ = self.reading.await;
    }
}

/// The guest's memory as it is in files: the block's id, its size, the object.
fn blocks(guest: &Guest) -> Vec<(String, u64, ObjectKind)> {
    let spec = &guest.record.spec;
    let mut blocks = vec![(RAM_ID.to_owned(), spec.ram_bytes(), ObjectKind::Ram)];
    for (index, region) in spec.regions.iter().enumerate() {
        let kind = ObjectKind::Region(region.name.clone());
        blocks.push((region_id(index), region.size_bytes, kind));
    }
    blocks
}

/// Capabilities and parameters last as long as QEMU does, so all that matter are said each time.
async fn configure(
    qmp: &mut Qmp,
    ignore_shared: bool,
    last_pass: Duration,
) -> Result<(), HostError> {
    let capability = |name: &str, state: bool| json!({ "capability": name, "state": state });
    let mut capabilities =
        vec![capability("x-ignore-shared", ignore_shared), capability("events", true)];
    capabilities.extend(UNWANTED.map(|name| capability(name, false)));
    let arguments = json!({ "capabilities": capabilities });
    qmp.execute("migrate-set-capabilities", arguments).await?;
    let arguments = json!({
        "max-bandwidth": UNLIMITED_BYTES_PER_SECOND,
        "downtime-limit": last_pass.as_millis() as u64,
    });
    qmp.execute("migrate-set-parameters", arguments).await.map(drop)
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
pub(super) async fn settle(qmp: &mut Qmp) -> Result<(), HostError> {
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
