//! Source: what makes a destination its image, all that changed since T0 and the final device state.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::PathBuf,
    sync::Arc,
};

use serde_json::json;
use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, Object, ObjectKind, image_diff, image_digest, kept::Kept, scan::Compared,
};

use crate::{
    HostError,
    capture::outgoing::save_device_state,
    disks,
    guest::{Guest, State, state},
    inner::{Inner, blocking},
    migration::Side,
    qemu::Places,
    safety::CloneUse,
    send::How,
    spec::{Disk, GuestSpec},
};

/// A guest's RAM and regions, in the order in which their digest is taken.
pub(crate) fn memory_files(spec: &GuestSpec, places: &Places) -> Vec<(ObjectKind, PathBuf)> {
    let region = |name: &String| (ObjectKind::Region(name.clone()), places.region(name));
    let regions = spec.regions.iter().map(|it| region(&it.name));
    std::iter::once((ObjectKind::Ram, places.ram())).chain(regions).collect()
}

/// The same, mapped.
pub(crate) fn mapped(
    files: Vec<(ObjectKind, PathBuf)>,
) -> Result<Vec<(ObjectKind, Mapping)>, HostError> {
    files.into_iter().map(|(kind, path)| Ok((kind, Mapping::open(&path)?))).collect()
}

/// Borrowed, as the engine takes it.
pub(crate) fn borrowed(memory: &[(ObjectKind, Mapping)]) -> Vec<(ObjectKind, &Mapping)> {
    memory.iter().map(|(kind, mapping)| (kind.clone(), mapping)).collect()
}

/// What a comparison found.
struct Found {
    compared_bytes: u64,
    changed_bytes: u64,
}

impl Inner {
    /// Save the paused source's device state, compare its memory with the twin, send both.
    pub(crate) async fn send_image(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
    ) -> Result<api::ImageReport, HostError> {
        let turns = [Side::Source, Side::DryRun].map(|side| self.migrations.turn(&id, side));
        let _turns = (turns[0].lock().await, turns[1].lock().await);
        let (capture, _) = self.migrations.capture(&id)?;
        if !capture.clone {
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured regions only; an image needs all of a clone's memory, capture it as a clone"
            )));
        }
        let guest = self.guest(&capture.guest)?;
        let dir = self.twin_dir(&id);
        let (device_state, diff) = (dir.join("final-device-state"), dir.join("image"));
        // The devices are saved while memory is compared: both stand still, and neither changes the other.
        let save = save_final(&guest, device_state.clone());
        let compare = compare(guest.clone(), dir, diff.clone());
        let (saved, found) = tokio::join!(save, compare);
        let (device_state_bytes, found) = (saved?, found?);
        let files = vec![(diff, ObjectKind::Diff), (device_state, ObjectKind::DeviceState)];
        let inner = self.clone();
        let send =
            blocking(move || inner.send_files(&id, &data_endpoint, files, &how, &mut |_, _| {}));
        // The digest is of what stands still, and asked for by whoever applies the diff.
        let (sent, digest) = tokio::join!(send, digest(guest.clone()));
        let (sent, digest) = (sent?, digest?);
        Ok(api::ImageReport {
            compared_bytes: found.compared_bytes,
            changed_bytes: found.changed_bytes,
            sent_bytes: sent.progress.sent_bytes,
            device_state_bytes,
            digest,
            disks: disks::of_clone(&guest, CloneUse::Instead).iter().map(Disk::to_proto).collect(),
        })
    }
}

/// Write what changed to a file.
async fn compare(guest: Arc<Guest>, dir: PathBuf, diff: PathBuf) -> Result<Found, HostError> {
    blocking(move || {
        let files = memory_files(&guest.record.spec, &guest.places);
        let now = mapped(files.clone())?;
        let then = files.iter().map(|(kind, _)| Kept::open(&dir, kind));
        let then = then.collect::<Result<Vec<_>, _>>()?;
        let pairs = now.iter().zip(&then);
        let compared: Vec<_> = pairs
            .map(|((kind, now), then)| Compared {
                object: Object { kind: kind.clone(), size_bytes: now.size_bytes() },
                twin: then.twin(),
                now,
            })
            .collect();
        let out = File::create(&diff).map_err(HostError::file("create", &diff))?;
        let figures = image_diff::write(BufWriter::new(out), &compared)?;
        Ok(Found {
            compared_bytes: figures.iter().map(|each| each.compared_bytes).sum(),
            changed_bytes: figures.iter().map(|each| each.changed_bytes).sum(),
        })
    })
    .await
}

/// Digest what is there.
async fn digest(guest: Arc<Guest>) -> Result<String, HostError> {
    let files = memory_files(&guest.record.spec, &guest.places);
    blocking(move || Ok(image_digest::digest(&borrowed(&mapped(files)?))?)).await
}

/// Save the device state of a guest that stands; its length. What was saved in this pause before stays as it is.
async fn save_final(guest: &Guest, path: PathBuf) -> Result<u64, HostError> {
    let _turn = guest.monitor.lock().await;
    let mut qmp = guest.qmp().await?;
    if state(&mut qmp).await? != State::Paused {
        return Err(HostError::Precondition(format!(
            "guest `{}` is not paused, its memory still changes; pause it first",
            guest.name()
        )));
    }
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let status = qmp.execute("query-status", json!({})).await?;
    // QEMU saves a state once and no more until the guest has run.
    if status["status"] == "postmigrate" {
        if length(&path) > 0 {
            return Ok(length(&path));
        }
        // Saved by a run of this program that ended before it was whole. The source runs on for an instant, which
        // it may: nothing of it has been compared yet.
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
