//! Source: what makes a destination its image, all that changed since T0 and the final device state.

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use serde_json::json;
use tidegate_api::host as api;
use tidegate_memory::{ObjectKind, ahead::Going, copy::image::Outgoing, image_diff::Figures};
use tokio::sync::oneshot;
use tracing::info;

use crate::{
    HostError,
    beside::{self, Beside},
    capture::outgoing::save_device_state,
    disks,
    guest::{Guest, State, state},
    inner::{Inner, blocking},
    migration::Side,
    qemu::Places,
    safety::CloneUse,
    send::{How, unreachable_at},
    spec::{Disk, GuestSpec},
};

/// A guest's RAM and regions, in the order in which their digest is taken.
pub(crate) fn memory_files(spec: &GuestSpec, places: &Places) -> Vec<(ObjectKind, PathBuf)> {
    let region = |name: &String| (ObjectKind::Region(name.clone()), places.region(name));
    let regions = spec.regions.iter().map(|it| region(&it.name));
    std::iter::once((ObjectKind::Ram, places.ram())).chain(regions).collect()
}

impl Inner {
    /// The source of an image, which is of all memory.
    pub(crate) fn source_of_image(&self, id: &str) -> Result<Arc<Guest>, HostError> {
        let (capture, _) = self.migrations.capture(id)?;
        if !capture.clone {
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured regions only; an image needs all of a clone's memory, capture it as a clone"
            )));
        }
        self.guest(&capture.guest)
    }

    /// Send what the paused source has changed and its device state, which is saved meanwhile.
    pub(crate) async fn send_image(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
    ) -> Result<api::ImageReport, HostError> {
        let turns = [Side::Source, Side::DryRun].map(|side| self.migrations.turn(&id, side));
        let _turns = (turns[0].lock().await, turns[1].lock().await);
        let guest = self.source_of_image(&id)?;
        if guest.state().await? != State::Paused {
            return Err(not_paused(&guest));
        }
        let memory = self.memory_beside(&id, &guest).await?;
        let device_state = self.twin_dir(&id).join("final-device-state");
        let (saved, awaited) = oneshot::channel();
        let digested = memory.clone();
        let save = async {
            let length = save_final(&guest, device_state.clone()).await?;
            // Nobody waits any more when the connection has failed.
            let _ = saved.send(device_state.clone());
            // Behind it: what saving wrote is in it, and if it was compared before that, the destination is found not to have it.
            Ok::<_, HostError>((length, digest(digested).await?))
        };
        let send = self.send_changed(id, data_endpoint, how, memory, awaited);
        let (saved, sent) = tokio::join!(save, send);
        // Without a device state the sending fails, too, and does not say why.
        let ((device_state_bytes, digest), sent) = (saved?, sent?);
        Ok(api::ImageReport {
            compared_bytes: sent.figures.iter().map(|each| each.compared_bytes).sum(),
            changed_bytes: sent.figures.iter().map(|each| each.changed_bytes).sum(),
            sent_bytes: sent.sent_bytes,
            device_state_bytes,
            digest,
            disks: disks::of_clone(&guest, CloneUse::Instead).iter().map(Disk::to_proto).collect(),
        })
    }

    /// As it was mapped when it last went ahead, or mapped now.
    async fn memory_beside(
        self: &Arc<Self>,
        id: &str,
        guest: &Guest,
    ) -> Result<Arc<Vec<Beside>>, HostError> {
        let files = memory_files(&guest.record.spec, &guest.places);
        if let Some(memory) = self.beside.of(id, &files) {
            return Ok(memory);
        }
        let (inner, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let memory = beside::open(&inner.twin_dir(&id), files)?;
            Ok(inner.beside.keep(&id, memory))
        })
        .await
    }

    async fn send_changed(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
        memory: Arc<Vec<Beside>>,
        device_state: oneshot::Receiver<PathBuf>,
    ) -> Result<SentImage, HostError> {
        let inner = self.clone();
        blocking(move || {
            let dir = inner.twin_dir(&id);
            let ahead = beside::ahead(&dir, &memory, Going::Last)?;
            let began = Instant::now();
            let running = inner.copies.begin(&id, inner.cap_bytes_per_second(&how));
            let dial = inner.dial(&id, &data_endpoint)?;
            let outgoing = Outgoing::begin(&*dial, &id, true, running.controls.clone());
            let mut outgoing = outgoing.map_err(unreachable_at(&data_endpoint))?;
            let figures = outgoing.memory(&beside::compared(&memory), &ahead)?;
            let memory_ms = began.elapsed().as_millis() as u64;
            let missing = |_| HostError::Internal("no device state was saved".to_owned());
            let path = device_state.blocking_recv().map_err(missing)?;
            let devices = fs::read(&path).map_err(HostError::file("read", &path))?;
            let sent_bytes = outgoing.finish(&devices)?;
            let sent_ms = began.elapsed().as_millis() as u64;
            info!(migration = id, to = data_endpoint, sent_bytes, memory_ms, sent_ms, "image sent");
            Ok(SentImage { figures, sent_bytes })
        })
        .await
    }
}

/// What went with an image.
struct SentImage {
    figures: Vec<Figures>,
    sent_bytes: u64,
}

fn not_paused(guest: &Guest) -> HostError {
    HostError::Precondition(format!(
        "guest `{}` is not paused, its memory still changes; pause it first",
        guest.name()
    ))
}

/// Digest what is there.
async fn digest(memory: Arc<Vec<Beside>>) -> Result<String, HostError> {
    blocking(move || Ok(beside::digest(&memory)?)).await
}

/// Save the device state of a guest that stands; its length. What was saved in this pause before stays as it is.
async fn save_final(guest: &Guest, path: PathBuf) -> Result<u64, HostError> {
    let _turn = guest.monitor.lock().await;
    let mut qmp = guest.qmp().await?;
    if state(&mut qmp).await? != State::Paused {
        return Err(not_paused(guest));
    }
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let status = qmp.execute("query-status", json!({})).await?;
    // QEMU saves a state once and no more until the guest has run.
    if status["status"] == "postmigrate" {
        if length(&path) > 0 {
            return Ok(length(&path));
        }
        // Saved by a run of this program that ended before it was whole. The source runs on for an instant, which
        // it may: what was sent of it is marked.
        return Err(HostError::Precondition(format!(
            "the device state of guest `{}` was saved and lost; continue the guest and pause it again",
            guest.name()
        )));
    }
    let aside = path.with_extension("part");
    save_device_state(guest, &mut qmp, &aside).await?;
    if length(&aside) == 0 {
        return Err(HostError::Precondition(format!(
            "QEMU saved an empty device state to {}; see {}",
            aside.display(),
            guest.places.log().display()
        )));
    }
    fs::rename(&aside, &path).map_err(HostError::file("keep", &path))?;
    Ok(length(&path))
}
