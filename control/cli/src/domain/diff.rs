//! A dry run's figures.

use serde::Serialize;
use tidegate_api::{host, manager as proto};

use super::Invalid;

const PAGE_BYTES: u64 = 4096;

/// What a diff found, and what a merge would do.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// The guests ran meanwhile.
    pub approximate: bool,
    /// RAM and regions.
    pub compared: Vec<Compared>,
    /// Bytes of the regions' diff that went to the other host.
    pub sent_bytes: u64,
    /// How long a source that stands would be compared, and its diff sent. None without a merge.
    pub source_pause_ns: Option<u64>,
    /// About how long a guest would stand for its image, were nothing to go ahead of it. None without a mirror.
    pub image_pause_ns: Option<u64>,
    /// How long the comparing took; with a merge, and the sending.
    pub compared_ns: u64,
    /// None: `merge_missing` says why.
    pub merge: Option<Merge>,
    /// Why there is nothing to say about a merge.
    pub merge_missing: String,
}

/// RAM or a region beside T0.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Compared in host.proto
pub struct Compared {
    pub region: Option<String>,
    pub size_bytes: u64,
    pub dirty_pages: u64,
    /// Pages in which something changed, of all pages.
    pub dirty_ratio: f64,
    pub changed_bytes: u64,
    pub runs: u64,
    pub packed_bytes: u64,
}

/// What a merge would do.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of DryRunMergeReport in host.proto
pub struct Merge {
    pub merged_bytes: u64,
    pub destination_pause_ns: u64,
    pub conflict_count: u64,
    pub refused_count: u64,
    pub ranges: Vec<RangeConflicts>,
    pub conflicts: Vec<Conflict>,
}

/// Conflicts of one range.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of RangeConflicts in host.proto
pub struct RangeConflicts {
    pub region: String,
    pub offset: u64,
    pub len_bytes: u64,
    pub merge_type: String,
    pub count: u64,
}

/// A value that both sides changed; bytes in hexadecimal as they lie in memory.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Conflict in host.proto
pub struct Conflict {
    pub region: String,
    pub offset: u64,
    pub merge_type: String,
    pub cause: String,
    pub t0: String,
    pub destination: String,
    pub source: String,
}

impl TryFrom<proto::DryRun> for DryRun {
    type Error = Invalid;

    fn try_from(dry_run: proto::DryRun) -> Result<Self, Invalid> {
        let proto::DryRun { diff, merge, merge_missing } = dry_run;
        let diff = diff.ok_or(Invalid::Missing { message: "DryRun", field: "diff" })?;
        Ok(Self {
            approximate: diff.approximate || merge.as_ref().is_some_and(|merge| merge.approximate),
            compared: diff.compared.into_iter().map(Compared::from).collect(),
            sent_bytes: diff.sent_bytes,
            source_pause_ns: merge.is_some().then_some(diff.pause_ns),
            image_pause_ns: Some(diff.image_pause_ns).filter(|&pause_ns| pause_ns > 0),
            compared_ns: diff.pause_ns,
            merge: merge.map(Merge::from),
            merge_missing,
        })
    }
}

impl From<host::Compared> for Compared {
    fn from(compared: host::Compared) -> Self {
        let host::Compared { region, size_bytes, dirty_pages, changed_bytes, runs, packed_bytes } =
            compared;
        let pages = size_bytes.div_ceil(PAGE_BYTES).max(1);
        Self {
            region: Some(region).filter(|region| !region.is_empty()),
            size_bytes,
            dirty_pages,
            dirty_ratio: dirty_pages as f64 / pages as f64,
            changed_bytes,
            runs,
            packed_bytes,
        }
    }
}

impl From<host::DryRunMergeReport> for Merge {
    fn from(merge: host::DryRunMergeReport) -> Self {
        let range = |range: host::RangeConflicts| RangeConflicts {
            region: range.region,
            offset: range.offset,
            len_bytes: range.len_bytes,
            merge_type: range.merge_type,
            count: range.count,
        };
        let conflict = |conflict: host::Conflict| Conflict {
            region: conflict.region,
            offset: conflict.offset,
            merge_type: conflict.resolution,
            cause: conflict.cause,
            t0: hex(&conflict.base),
            destination: hex(&conflict.ours),
            source: hex(&conflict.theirs),
        };
        Self {
            merged_bytes: merge.merged_bytes,
            destination_pause_ns: merge.pause_ns,
            conflict_count: merge.conflict_count,
            refused_count: merge.refused_count,
            ranges: merge.ranges.into_iter().map(range).collect(),
            conflicts: merge.conflicts.into_iter().map(conflict).collect(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
