//! What a diff and a merge would do now: nothing changes, and both guests may run meanwhile.

use std::{
    fs, io,
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, ObjectKind,
    diff::Diff,
    image_diff::{Figures, packed_bytes},
    kept::Kept,
    merge,
};

use crate::{
    HostError,
    beside::{self, Beside},
    destination::{describe_conflict, describe_range},
    guest::State,
    inner::{Inner, blocking},
    migration::{Receive, Side},
    send::How,
};

/// What an image's one stream carries.
const IMAGE_BYTES_PER_SECOND: f64 = 1e9;
/// What QEMU needs to save a device state, and to load it.
const DEVICES: Duration = Duration::from_millis(30);

impl Inner {
    /// Source: compare with the twin, and send the regions' diff if the other host's endpoint is given.
    pub(crate) async fn dry_run_diff(
        self: &Arc<Self>,
        id: String,
        data_endpoint: Option<String>,
        how: How,
        image: bool,
    ) -> Result<api::DryRunDiffReport, HostError> {
        let turn = self.migrations.turn(&id, Side::DryRun);
        let _turn = turn.lock().await;
        let (capture, _) = self.migrations.capture(&id)?;
        let guest = self.guest(&capture.guest)?;
        let approximate = guest.state().await? == State::Running;
        let inner = self.clone();
        blocking(move || {
            let mut memory = Vec::new();
            if capture.clone {
                memory.push((ObjectKind::Ram, guest.places.ram()));
            }
            for name in &capture.regions {
                memory.push((ObjectKind::Region(name.clone()), guest.places.region(name)));
            }
            let dir = inner.twin_dir(&id);
            let memory = beside::open(&dir, memory)?;
            if image {
                // What is timed behind it finds memory mapped, as an image does.
                beside::survey(&dir, &memory)?;
            }
            let begun = Instant::now();
            let mut sent = None;
            if let Some(data_endpoint) = data_endpoint {
                let bytes = inner.send_dry_run(&id, &data_endpoint, &memory, &how)?;
                sent = Some((bytes, begun.elapsed()));
            }
            let figures = beside::survey(&dir, &memory)?;
            // A merge's source is not compared a second time, nor its RAM at all.
            let (sent_bytes, pause) = sent.unwrap_or_else(|| (0, begun.elapsed()));
            let image_pause = match image {
                true => image_pause(&memory, &figures, pause, inner.cap_bytes_per_second(&how))?,
                false => Duration::ZERO,
            };
            Ok(api::DryRunDiffReport {
                compared: describe_changes(&memory, &figures),
                sent_bytes,
                pause_ns: pause.as_nanos() as u64,
                approximate,
                image_pause_ns: image_pause.as_nanos() as u64,
            })
        })
        .await
    }

    /// Send what changed in regions, as the diff of a merge would be; the bytes on the wire.
    fn send_dry_run(
        &self,
        id: &str,
        data_endpoint: &str,
        memory: &[Beside],
        how: &How,
    ) -> Result<u64, HostError> {
        let mut diff = Diff::default();
        for Beside { kind, twin, now } in memory {
            // Regions are kept whole.
            if let (ObjectKind::Region(name), Kept::Bytes(twin)) = (kind, twin) {
                diff.compare(name, twin, now)?;
            }
        }
        let path = self.migrations.dir(id).join("dry-run.out");
        fs::write(&path, diff.encode()).map_err(HostError::file("write", &path))?;
        let files = vec![(path, ObjectKind::DryRun)];
        Ok(self.send_files(id, data_endpoint, files, how, &mut |_, _| {})?.progress.sent_bytes)
    }

    /// Destination: compute what merging the diff of a dry run would do.
    pub(crate) async fn dry_run_merge(
        &self,
        id: &str,
    ) -> Result<api::DryRunMergeReport, HostError> {
        let turn = self.migrations.turn(id, Side::DryRun);
        let _turn = turn.lock().await;
        let receive = self.migrations.receive(id)?;
        let dir = self.migrations.dir(id);
        if merge::has_begun(&dir)? {
            return Err(HostError::Precondition(format!(
                "the merge of migration `{id}` has begun: there is nothing left to try"
            )));
        }
        let guest = self.guest(&receive.spec.name)?;
        let approximate = guest.state().await? == State::Running;
        let preview = blocking(move || {
            let path = Receive::dry_run(&dir);
            let bytes = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(HostError::Precondition(
                        "no diff of a dry run has arrived; run DryRunDiff first".to_owned(),
                    ));
                }
                read => read.map_err(HostError::file("read", &path))?,
            };
            let diff = Diff::decode(&bytes)?;
            let mut regions = Vec::new();
            for region in &receive.spec.regions {
                let memory = Mapping::open(&guest.places.region(&region.name))?;
                regions.push((region.name.clone(), memory));
            }
            Ok(merge::preview(&dir, &diff, &regions)?)
        })
        .await?;
        let merge::Preview { report, refused, refused_count, pause } = preview;
        let conflicts = refused.into_iter().chain(report.conflicts);
        Ok(api::DryRunMergeReport {
            merged_bytes: report.merged_bytes,
            pause_ns: pause.as_nanos() as u64,
            conflicts: conflicts.map(describe_conflict).collect(),
            conflict_count: report.conflict_count,
            refused_count,
            ranges: report.ranges.into_iter().map(describe_range).collect(),
            approximate,
        })
    }
}

/// How long a guest stands for its image: `compared` within so long and sent at the same time, its devices saved and loaded, and digested
/// where it goes on.
fn image_pause(
    memory: &[Beside],
    figures: &[Figures],
    compared: Duration,
    cap: Option<u64>,
) -> Result<Duration, HostError> {
    let packed: u64 = figures.iter().map(packed_bytes).sum();
    let per_second = cap.map_or(IMAGE_BYTES_PER_SECOND, |cap| cap as f64);
    let sent = packed as f64 / per_second.clamp(1.0, IMAGE_BYTES_PER_SECOND);
    let digesting = Instant::now();
    beside::digest(memory)?;
    let sent = Duration::from_secs_f64(sent.min(1e6));
    Ok(compared.max(sent) + digesting.elapsed() + DEVICES)
}

fn describe_changes(memory: &[Beside], figures: &[Figures]) -> Vec<api::Compared> {
    let describe = |(it, figures): (&Beside, &Figures)| api::Compared {
        region: match &it.kind {
            ObjectKind::Region(name) => name.clone(),
            _ => String::new(),
        },
        size_bytes: figures.compared_bytes,
        dirty_pages: figures.dirty_pages,
        changed_bytes: figures.changed_bytes,
        runs: figures.runs,
        packed_bytes: packed_bytes(figures),
    };
    memory.iter().zip(figures).map(describe).collect()
}
