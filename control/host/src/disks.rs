//! Overlays of disks: who writes where, and what of it a clone begins with.
//!
//! A disk declared `overlay` is a base that nobody writes. Each guest has an overlay of its own (qcow2) beside the base:
//!
//! ```text
//! web.raw ◀── web.raw.vm-a.qcow2 ◀── web.raw.vm-a.qcow2.m-1.qcow2    vm-a, since T0 of migration m-1
//!                                 ◀── web.raw.vm-a.qcow2.vm-b.qcow2  vm-b, its clone
//! ```
//!
//! At T0, with the source paused, QEMU puts another overlay on top of the source's: what was on top until then is
//! frozen, and is the base of the clone's. What the source writes after T0 is in its own overlay only. Images are never
//! deleted here: others may stand on them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::process::Command;
use tracing::info;

use crate::{
    HostError,
    guest::Guest,
    qemu::Places,
    qmp::Qmp,
    records,
    safety::CloneUse,
    spec::{Disk, Format, GuestSpec},
};

/// Which image is on top for each disk, where that is not what the specification says.
const TOPS: &str = "disks.json";

/// `base` with what tells overlays on it apart.
fn beside(base: &Path, whose: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(format!(".{whose}.qcow2"));
    name.into()
}

/// The images on top of a guest's disks, in the disks' order.
pub(crate) fn tops(spec: &GuestSpec, places: &Places) -> Vec<PathBuf> {
    let kept = fs::read(places.state.join(TOPS)).unwrap_or_default();
    let kept: Vec<PathBuf> = serde_json::from_slice(&kept).unwrap_or_default();
    if kept.len() == spec.disks.len() {
        return kept;
    }
    let top = |disk: &Disk| {
        if disk.overlay { beside(&disk.path, &spec.name) } else { disk.path.clone() }
    };
    spec.disks.iter().map(top).collect()
}

/// What QEMU opens: overlays in place of what they stand on.
pub(crate) fn opened(spec: &GuestSpec, places: &Places) -> Vec<Disk> {
    let tops = tops(spec, places);
    let open = |(disk, path): (&Disk, PathBuf)| Disk {
        path,
        format: if disk.overlay { Format::Qcow2 } else { disk.format },
        ..disk.clone()
    };
    spec.disks.iter().zip(tops).map(open).collect()
}

/// What a clone is started with: a guest beside its source has an overlay on what the source has on top, one that goes on as
/// its source has that itself.
pub(crate) fn of_clone(guest: &Guest, how: CloneUse) -> Vec<Disk> {
    let disks = opened(&guest.record.spec, &guest.places).into_iter();
    disks.map(|disk| Disk { overlay: disk.overlay && how == CloneUse::Beside, ..disk }).collect()
}

/// See that a guest's disks are on this host.
pub(crate) fn check(spec: &GuestSpec) -> Result<(), HostError> {
    match spec.disks.iter().find(|disk| !disk.path.exists()) {
        None => Ok(()),
        Some(disk) => Err(HostError::Precondition(format!(
            "disk {} of guest `{}` is not on this host; put it where both hosts have it under that path",
            disk.path.display(),
            spec.name
        ))),
    }
}

/// Make the overlays of a guest about to start that are missing; `anew`: whatever is left of an earlier one of its name.
pub(crate) async fn make(spec: &GuestSpec, places: &Places, anew: bool) -> Result<(), HostError> {
    check(spec)?;
    for (disk, top) in spec.disks.iter().zip(tops(spec, places)) {
        if !disk.overlay || top.exists() && !anew {
            continue;
        }
        let output = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", disk.format.name(), "-b"])
            .args([&disk.path, &top])
            .output()
            .await
            .map_err(|error| {
                HostError::Precondition(format!(
                    "cannot start `qemu-img` for disk {}: {error}; install qemu-utils",
                    disk.path.display()
                ))
            })?;
        if !output.status.success() {
            return Err(HostError::Precondition(format!(
                "qemu-img made no overlay {}: {}",
                top.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        info!(guest = spec.name, overlay = %top.display(), "overlay made");
    }
    Ok(())
}

/// Freeze what a paused guest has on its disks, for a clone to begin with: the guest goes on in further overlays.
pub(crate) async fn freeze(guest: &Guest, qmp: &mut Qmp, migration: &str) -> Result<(), HostError> {
    let spec = &guest.record.spec;
    if !spec.disks.iter().any(|disk| disk.overlay) {
        return Ok(());
    }
    let mut tops = tops(spec, &guest.places);
    let blocks = qmp.execute("query-block", json!({})).await?;
    for (index, _) in spec.disks.iter().enumerate().filter(|(_, disk)| disk.overlay) {
        let node = top_node(&blocks, index).ok_or_else(|| {
            HostError::Internal(format!("QEMU does not know disk {index} of `{}`", guest.name()))
        })?;
        let next = beside(&tops[index], migration);
        let arguments = json!({
            "node-name": node,
            "snapshot-file": next.display().to_string(),
            "snapshot-node-name": format!("disk{index}-{}", short(migration)),
            "format": "qcow2",
        });
        qmp.execute("blockdev-snapshot-sync", arguments).await?;
        tops[index] = next;
        // One by one: what QEMU writes to must be known whatever happens to the next.
        records::save(&guest.places.state.join(TOPS), &tops)?;
    }
    Ok(())
}

/// QEMU's names of nodes have 31 bytes at most.
fn short(migration: &str) -> &str {
    migration.get(migration.len().saturating_sub(16)..).unwrap_or("t0")
}

/// The node that the device of a disk is connected to.
fn top_node(blocks: &Value, index: usize) -> Option<String> {
    let device = format!("/vd{index}/");
    let of_device = |block: &&Value| block["qdev"].as_str().is_some_and(|it| it.contains(&device));
    let block = blocks.as_array()?.iter().find(of_device)?;
    Some(block["inserted"]["node-name"].as_str()?.to_owned())
}
