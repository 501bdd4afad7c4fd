//! What a diff and a merge would do now: nothing changes, and both guests may run meanwhile.

use std::{fs, io, sync::Arc, time::Instant};

use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, Object, ObjectKind,
    diff::Diff,
    image_diff, merge,
    scan::{Compared, Twin},
    twin,
};

use crate::{
    HostError,
    destination::{describe_conflict, describe_range},
    guest::State,
    inner::{Inner, blocking},
    migration::{Receive, Side},
};

impl Inner {
    /// Source: compare with the twin, and send the regions' diff if the other host's endpoint is given.
    pub(crate) async fn dry_run_diff(
        self: &Arc<Self>,
        id: String,
        data_endpoint: Option<String>,
    ) -> Result<api::DryRunDiffReport, HostError> {
        let turn = self.migrations.turn(&id, Side::DryRun);
        let _turn = turn.lock().await;
        let (capture, _) = self.migrations.capture(&id)?;
        let guest = self.guest(&capture.guest)?;
        let approximate = guest.state().await? == State::Running;
        let inner = self.clone();
        blocking(move || {
            let region =
                |name: &String| (ObjectKind::Region(name.clone()), guest.places.region(name));
            let mut files: Vec<_> = capture.regions.iter().map(region).collect();
            if capture.clone {
                files.insert(0, (ObjectKind::Ram, guest.places.ram()));
            }
            let mut objects = Vec::new();
            for (kind, path) in files {
                let twin = Mapping::open(&twin::path_of(&inner.twin_dir(&id), &kind))?;
                objects.push((kind, twin, Mapping::open(&path)?));
            }
            let compared: Vec<_> = objects
                .iter()
                .map(|(kind, twin, now)| Compared {
                    object: Object { kind: kind.clone(), size_bytes: now.size_bytes() },
                    twin: Twin::Bytes(twin),
                    now,
                })
                .collect();
            let begun = Instant::now();
            let mut sent_bytes = 0;
            let figures;
            if let Some(data_endpoint) = data_endpoint {
                // As the diff of a merge, which knows nothing of RAM.
                let mut diff = Diff::default();
                for (kind, twin, now) in &objects {
                    if let ObjectKind::Region(name) = kind {
                        diff.compare(name, twin, now)?;
                    }
                }
                let path = inner.migrations.dir(&id).join("dry-run.out");
                fs::write(&path, diff.encode()).map_err(HostError::file("write", &path))?;
                let files = vec![(path, ObjectKind::DryRun)];
                let sent = inner.send_files(&id, &data_endpoint, files, |_| {})?;
                sent_bytes = sent.progress.sent_bytes;
                let pause = begun.elapsed();
                figures = (image_diff::write(io::sink(), &compared)?, pause);
            } else {
                figures = (image_diff::write(io::sink(), &compared)?, begun.elapsed());
            }
            let (figures, pause) = figures;
            let describe = |(it, figures): (&Compared<'_>, &image_diff::Figures)| api::Compared {
                region: match &it.object.kind {
                    ObjectKind::Region(name) => name.clone(),
                    _ => String::new(),
                },
                size_bytes: figures.compared_bytes,
                dirty_pages: figures.dirty_pages,
                changed_bytes: figures.changed_bytes,
                runs: figures.runs,
                packed_bytes: image_diff::packed_bytes(figures),
            };
            Ok(api::DryRunDiffReport {
                compared: compared.iter().zip(&figures).map(describe).collect(),
                sent_bytes,
                pause_ns: pause.as_nanos() as u64,
                approximate,
            })
        })
        .await
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
