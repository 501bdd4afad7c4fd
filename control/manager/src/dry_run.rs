//! What a running migration's diff and merge would do now: nothing changes, the migration goes on meanwhile.

use tidegate_api::{host, manager as proto};

use crate::{
    error::Error,
    fold::Progress,
    migrations::Migrations,
    pace::{CALL, MEMORY_CALL},
    phase::Phase,
    record::{End, MigrationId},
    spec::FinishMode,
};

impl Migrations {
    /// Compare the source with T0, and compute what merging that into the destination would do.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Over`], [`Error::NoT0`]; what a host refuses.
    pub async fn dry_run(&self, id: &MigrationId) -> Result<proto::DryRun, Error> {
        let progress = self.journal().progress(id)?;
        if let Some((end, _)) = &progress.end {
            let how = match end {
                End::Completed => "completed",
                End::Aborted => "was aborted",
                End::Failed => "failed; resume it first",
            };
            return Err(Error::Over { id: id.clone(), how });
        }
        if progress.done(Phase::Capture).is_none() {
            return Err(Error::NoT0 { id: id.clone() });
        }
        let merge_missing = merge_missing(&progress).unwrap_or_default().to_owned();
        let merges = merge_missing.is_empty();
        let source = self.inventory().host(&progress.spec.source_host)?;
        let destination = self.inventory().host(&progress.spec.destination_host)?;
        let mut data_endpoint = String::new();
        if merges {
            let request = host::GetStatusRequest {};
            let mut client = destination.host().await?;
            let answer = client.get_status(request);
            data_endpoint = destination.answer("GetStatus", CALL, answer).await?.data_endpoint;
        }
        let migration_id = id.to_string();
        let carriage = progress.spec.carriage;
        let request = host::DryRunDiffRequest {
            migration_id: migration_id.clone(),
            data_endpoint,
            bandwidth_mbps: carriage.last_mbps(),
            transport: carriage.transport_name(),
            image: matches!(progress.spec.finish, FinishMode::Mirror(_)),
        };
        let mut client = source.host().await?;
        let diff = source.answer("DryRunDiff", MEMORY_CALL, client.dry_run_diff(request)).await?;
        let mut merge = None;
        if merges {
            let request = host::DryRunMergeRequest { migration_id };
            let mut client = destination.host().await?;
            let answer = client.dry_run_merge(request);
            merge = Some(destination.answer("DryRunMerge", MEMORY_CALL, answer).await?);
        }
        Ok(proto::DryRun { diff: Some(diff), merge, merge_missing })
    }
}

/// Why there is no merge to try.
fn merge_missing(progress: &Progress) -> Option<&'static str> {
    let begun = progress.started.is_some_and(|(phase, _)| phase == Phase::Merge);
    match progress.spec.finish {
        FinishMode::Mirror(_) => {
            Some("it finishes by `mirror`: the destination becomes the source's image")
        }
        FinishMode::None => Some("it finishes by `none`: nothing is carried over"),
        FinishMode::Merge if progress.done(Phase::Destination).is_none() => {
            Some("the destination has not been started yet")
        }
        FinishMode::Merge if begun || progress.done(Phase::Merge).is_some() => {
            Some("the merge has begun")
        }
        FinishMode::Merge => None,
    }
}
