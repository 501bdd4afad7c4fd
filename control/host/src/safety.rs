//! Whether a guest can be cloned, or its regions merged, without harm. What is unsafe is told with the remedy.

use std::path::Path;

use serde_json::json;
use tidegate_api::host as api;
use tidegate_memory::Mapping;
use tidegate_region::{HEADER_BYTES, Header};

use crate::{
    HostError,
    guest::Guest,
    qmp::Qmp,
    spec::{Disk, GuestSpec},
};

/// What migrating state and shared memory were tried with.
const OLDEST_QEMU: (u64, u64) = (7, 2);

/// Options that give a guest a disk.
const DISK_OPTIONS: [&str; 11] =
    ["drive", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash", "blockdev"];
/// Devices that are disks, by how their names begin.
const DISK_DEVICES: [&str; 10] = [
    "virtio-blk",
    "scsi-hd",
    "scsi-block",
    "ide-hd",
    "nvme",
    "usb-storage",
    "floppy",
    "sd-card",
    "vhost-user-blk",
    "vhost-scsi",
];
/// What in such an option says that nothing is written.
const ONLY_READ: [&str; 4] = ["readonly=on", "read-only=on", "media=cdrom", "\"read-only\":true"];
/// Options that QEMU saves no guest with, and what they are.
const UNSAVABLE: [(&str, &str); 2] =
    [("virtfs", "a mounted directory of the host"), ("fsdev", "a mounted directory of the host")];
/// Devices that QEMU saves no guest with, by how their names begin.
const UNSAVABLE_DEVICES: [&str; 3] = ["vfio-", "ivshmem-doorbell", "vhost-user-fs"];

/// How a clone will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloneUse {
    /// Beside its source.
    Beside,
    /// In its place.
    Instead,
}

impl CloneUse {
    pub(crate) fn from_proto(value: i32) -> Result<Self, HostError> {
        match api::CloneUse::try_from(value) {
            Ok(api::CloneUse::Unspecified | api::CloneUse::Beside) => Ok(Self::Beside),
            Ok(api::CloneUse::Instead) => Ok(Self::Instead),
            Err(_) => Err(HostError::Invalid {
                field: "clone_use",
                reason: format!("{value} is unknown; use CLONE_USE_BESIDE or CLONE_USE_INSTEAD"),
            }),
        }
    }
}

pub(crate) fn safe(name: &str, detail: impl Into<String>) -> api::Safety {
    api::Safety { name: name.to_owned(), ok: true, detail: detail.into(), warning: false }
}

pub(crate) fn refused(name: &str, detail: impl Into<String>) -> api::Safety {
    api::Safety { ok: false, ..safe(name, detail) }
}

/// What a running QEMU says of itself.
pub(crate) struct Asked {
    version: (u64, u64),
    /// Empty: the guest has none.
    pub(crate) generation_id: String,
    /// Why its state cannot be saved now.
    blocked: Vec<String>,
}

impl Guest {
    /// Ask the guest's QEMU for what a clone depends on.
    pub(crate) async fn ask_for_clone(&self) -> Result<Asked, HostError> {
        let _turn = self.monitor.lock().await;
        Asked::of(&mut self.qmp().await?).await
    }
}

impl Asked {
    async fn of(qmp: &mut Qmp) -> Result<Self, HostError> {
        let version = qmp.execute("query-version", json!({})).await?;
        let number = |part: &str| version["qemu"][part].as_u64().unwrap_or(0);
        let generation_id = match qmp.execute("query-vm-generation-id", json!({})).await {
            Ok(answer) => answer["guid"].as_str().unwrap_or_default().to_owned(),
            // It says so when there is none.
            Err(HostError::Refused { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        let migration = qmp.execute("query-migrate", json!({})).await?;
        let reasons = migration["blocked-reasons"].as_array().cloned().unwrap_or_default();
        let blocked = reasons.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect();
        Ok(Self { version: (number("major"), number("minor")), generation_id, blocked })
    }
}

/// Everything that must hold for a clone.
pub(crate) fn of_clone(spec: &GuestSpec, asked: &Asked, how: CloneUse) -> Vec<api::Safety> {
    let mut found = vec![version(asked), generation(asked, how), blockers(spec, asked)];
    found.extend(undeclared(spec));
    found.extend(spec.disks.iter().map(|disk| of_disk(disk, how)));
    found
}

fn version(asked: &Asked) -> api::Safety {
    let ((major, minor), (oldest_major, oldest_minor)) = (asked.version, OLDEST_QEMU);
    if asked.version >= OLDEST_QEMU {
        return safe("QEMU", format!("{major}.{minor}"));
    }
    refused(
        "QEMU",
        format!(
            "the guest runs under {major}.{minor}, clones need {oldest_major}.{oldest_minor} or later; install it and \
             start the guest anew"
        ),
    )
}

fn generation(asked: &Asked, how: CloneUse) -> api::Safety {
    const NAME: &str = "vmgenid";
    match (asked.generation_id.as_str(), how) {
        ("", CloneUse::Beside) => refused(
            NAME,
            "the guest has none: its kernel would not notice that it is a clone, and both would draw the same random \
             numbers; start the guest anew with this tidegate-hostd, which gives it one",
        ),
        // Nothing of it is ever there twice.
        ("", CloneUse::Instead) => safe(NAME, "not needed, the clone goes on as its source"),
        (id, CloneUse::Beside) => safe(NAME, format!("{id}; a clone gets another")),
        (id, CloneUse::Instead) => safe(NAME, format!("{id}, which the clone keeps")),
    }
}

/// What forbids saving the guest's state: QEMU's own word first, else what is known of options.
fn blockers(spec: &GuestSpec, asked: &Asked) -> api::Safety {
    const NAME: &str = "device state";
    if !asked.blocked.is_empty() {
        let reasons = asked.blocked.join("; ");
        let text = format!("QEMU cannot save it: {reasons}; start the guest without that");
        return refused(NAME, text);
    }
    let named = options(&spec.extra_args).into_iter().find_map(|(name, value)| {
        let unsavable = UNSAVABLE.iter().find(|(option, _)| *option == name);
        let by_option = unsavable.map(|(_, what)| format!("`-{name}` ({what})"));
        let by_device =
            name == "device" && UNSAVABLE_DEVICES.iter().any(|it| value.starts_with(it));
        by_option.or_else(|| by_device.then(|| format!("`-device {value}`")))
    });
    match named {
        Some(what) => refused(
            NAME,
            format!(
                "QEMU saves no guest with {what}; take it out of extra_args and start the guest anew"
            ),
        ),
        None => safe(NAME, "nothing forbids to save it"),
    }
}

/// Options of QEMU's command line, their names without dashes, and their values.
fn options(args: &[String]) -> Vec<(&str, &str)> {
    let named = args.iter().enumerate().filter(|(_, arg)| arg.starts_with('-'));
    let value = |at: usize| args.get(at + 1).filter(|next| !next.starts_with('-'));
    named
        .map(|(at, arg)| (arg.trim_start_matches('-'), value(at).map_or("", String::as_str)))
        .collect()
}

/// A disk that is given past the specification.
fn undeclared(spec: &GuestSpec) -> Option<api::Safety> {
    let (name, value) = options(&spec.extra_args).into_iter().find(|(name, value)| {
        let only_read = ONLY_READ.iter().any(|word| value.contains(word));
        let by_option = DISK_OPTIONS.contains(name) && !only_read;
        // One that names its drive has its image from another option, which is looked at.
        let begins = |device: &&str| value.starts_with(device) && !value.contains("drive=");
        by_option || *name == "device" && DISK_DEVICES.iter().any(begins)
    })?;
    Some(refused(
        "disks",
        format!(
            "`-{name} {value}` in extra_args gives the guest a disk that a clone would write to as well; declare it as \
             one of the guest's disks (path, format, and read_only, shared_safe or overlay), and start the guest anew"
        ),
    ))
}

fn of_disk(disk: &Disk, how: CloneUse) -> api::Safety {
    const NAME: &str = "disks";
    let path = disk.path.display();
    match (disk.read_only, disk.shared_safe, disk.overlay, how) {
        (true, ..) => safe(NAME, format!("{path} is only read")),
        (_, true, ..) => safe(NAME, format!("{path} is declared safe for several writers")),
        (.., CloneUse::Instead) => {
            safe(NAME, format!("{path} goes to the clone when the source lets go of it"))
        }
        (_, _, true, CloneUse::Beside) => api::Safety {
            warning: true,
            ..safe(
                NAME,
                format!(
                    "{path} as of T0 is what both go on from, each in an overlay of its own; what the source writes \
                     after T0 stays in the source's"
                ),
            )
        },
        (.., CloneUse::Beside) => refused(
            NAME,
            format!(
                "{path} can be written by the source and by its clone, which would destroy what is on it; declare it \
                 read_only, or shared_safe if it is made for several writers, or overlay, and start the guest anew; \
                 or finish by mirror and hold new sessions, then only one of them runs"
            ),
        ),
    }
}

/// Whether a region says how it is merged.
pub(crate) fn of_region(name: &str, path: &Path) -> api::Safety {
    let declared = || -> Result<usize, String> {
        let memory = Mapping::open(path).map_err(|error| error.to_string())?;
        let mut start = vec![0; HEADER_BYTES];
        memory.read(0, &mut start).map_err(|error| error.to_string())?;
        let header = Header::parse(&start).map_err(|error| error.to_string())?;
        let (says, is) = (header.size_bytes(), memory.size_bytes());
        if says != is {
            return Err(format!("its header is of {says} bytes, it has {is}"));
        }
        Ok(header.ranges().len())
    };
    match declared() {
        Ok(ranges) => safe("regions", format!("`{name}` declares {ranges} range(s)")),
        Err(reason) => refused(
            "regions",
            format!(
                "`{name}` is undeclared: {reason}. Nobody knows how to merge it: have the service write its header \
                 first, leave it out of the regions to carry over, or finish by mirror or none"
            ),
        ),
    }
}

#[cfg(test)]
#[path = "safety_tests.rs"]
mod tests;
