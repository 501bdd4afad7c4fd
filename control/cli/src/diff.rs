//! What a migration's diff and merge would do now.

use std::io;

use indicatif::HumanBytes;
use tidegate_api::{
    endpoint::{self, Endpoint},
    manager::{self as proto, manager_client::ManagerClient},
};

use crate::{
    domain::diff::{Compared, Conflict, DryRun, Merge, RangeConflicts},
    error::{Error, Exit},
    migrations::unreachable,
    output::Output,
    show::elapsed,
    table::{list, table},
};

/// Most conflicts shown to people; JSON has all that came.
const SHOWN: usize = 20;

/// `diff`.
///
/// # Errors
/// [`Error`].
pub async fn diff(manager: &Endpoint, id: &str, output: &mut Output) -> Result<Exit, Error> {
    let mut client = ManagerClient::new(endpoint::connect(manager).await.map_err(unreachable)?);
    let request = proto::DryRunDiffRequest { id: id.to_owned() };
    let dry_run = DryRun::try_from(client.dry_run_diff(request).await?.into_inner())?;
    output.event("diff", &dry_run)?;
    show(&dry_run, output)?;
    let refused = dry_run.merge.as_ref().is_some_and(|merge| merge.refused_count > 0);
    Ok(if refused { Exit::NotPossible } else { Exit::Done })
}

fn show(dry_run: &DryRun, output: &mut Output) -> io::Result<()> {
    let row = |it: &Compared| {
        [
            it.region.as_ref().map_or_else(|| "ram".to_owned(), |name| format!("region {name}")),
            HumanBytes(it.size_bytes).to_string(),
            format!("{:.2} %", it.dirty_ratio * 100.0),
            HumanBytes(it.changed_bytes).to_string(),
            it.runs.to_string(),
            HumanBytes(it.packed_bytes).to_string(),
        ]
    };
    let rows: Vec<_> = dry_run.compared.iter().map(row).collect();
    output.text(&table(["MEMORY", "SIZE", "DIRTY", "CHANGED", "RUNS", "PACKED"], &rows))?;
    let took = if dry_run.merge.is_some() { "source stopped for about" } else { "compared in" };
    let mut rows = vec![(took, elapsed(dry_run.compared_ns / 1000))];
    if let Some(pause_ns) = dry_run.image_pause_ns {
        rows.push(("guest would stand for about", elapsed(pause_ns / 1000)));
    }
    match &dry_run.merge {
        Some(merge) => {
            conflicts(merge, output)?;
            rows.extend([
                ("destination stopped for about", elapsed(merge.destination_pause_ns / 1000)),
                ("would be merged", HumanBytes(merge.merged_bytes).to_string()),
                ("conflicts decided by type", merge.conflict_count.to_string()),
                ("conflicts that refuse it", merge.refused_count.to_string()),
            ]);
        }
        None => rows.push(("no merge", dry_run.merge_missing.clone())),
    }
    output.text(&format!("\n{}", list(&rows)))?;
    if dry_run.approximate {
        output.text("The guests run: what changes until the end is not in it.\n")?;
    }
    Ok(())
}

fn conflicts(merge: &Merge, output: &mut Output) -> io::Result<()> {
    if merge.ranges.is_empty() {
        return Ok(());
    }
    let row = |it: &RangeConflicts| {
        [
            it.region.clone(),
            it.offset.to_string(),
            it.len_bytes.to_string(),
            it.merge_type.clone(),
            it.count.to_string(),
        ]
    };
    let rows: Vec<_> = merge.ranges.iter().map(row).collect();
    let ranges = table(["REGION", "RANGE", "BYTES", "TYPE", "CONFLICTS"], &rows);
    let row = |it: &Conflict| {
        [
            it.region.clone(),
            it.offset.to_string(),
            it.merge_type.clone(),
            it.cause.clone(),
            format!("0x{}", it.t0),
            format!("0x{}", it.destination),
            format!("0x{}", it.source),
        ]
    };
    let rows: Vec<_> = merge.conflicts.iter().take(SHOWN).map(row).collect();
    let headings = ["REGION", "OFFSET", "TYPE", "CAUSE", "T0", "DESTINATION", "SOURCE"];
    output.text(&format!("\n{ranges}\n{}", table(headings, &rows)))?;
    let total = merge.conflict_count + merge.refused_count;
    match total.saturating_sub(rows.len() as u64) {
        0 => Ok(()),
        more => output.text(&format!("... and {more} more\n")),
    }
}
