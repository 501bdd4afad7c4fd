//! Source: what is kept of T0 of RAM once its copy is confirmed. Regions are always kept whole.
//!
//! While a migration copies, its twin has all bytes, whatever the budget: they are what is sent. The budget is for the time
//! after that, until the migration ends, when a twin is only compared with. Where RAM goes straight to the destination's host
//! ([`crate::capture`]), there never is a twin with all bytes.

use serde::{Deserialize, Serialize};
use tidegate_memory::{
    ObjectKind, PageHashes,
    copy::window,
    kept::{finish_keeping_hashes, hashes_bytes, keep_hashes},
};
use tracing::{error, info, warn};

use crate::{
    HostError,
    inner::Inner,
    migration::{Migration, locked},
};

/// What of RAM is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Keep {
    /// All of it.
    Bytes,
    /// A hash for each page.
    Hashes,
}

/// What would be kept, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) keep: Keep,
    pub(crate) kept_bytes: u64,
    /// In words.
    pub(crate) why: String,
}

impl Decision {
    /// For `ram_bytes` beside `others_bytes` that are kept already.
    fn new(limit: Option<u64>, ram_bytes: u64, others_bytes: u64) -> Self {
        let all = |why| Self { keep: Keep::Bytes, kept_bytes: ram_bytes, why };
        let Some(limit) = limit else {
            return all(format!("all {ram_bytes} bytes: no twin_memory_bytes is configured"));
        };
        let beside = format!("{others_bytes} bytes of other migrations");
        if ram_bytes.saturating_add(others_bytes) <= limit {
            return all(format!(
                "all {ram_bytes} bytes: beside {beside} they are within twin_memory_bytes, {limit}"
            ));
        }
        let kept_bytes = hashes_bytes(ram_bytes);
        let why = format!(
            "a hash a page, {kept_bytes} bytes, once the copy is confirmed (all bytes until then): {ram_bytes} bytes beside \
             {beside} are more than twin_memory_bytes, {limit}"
        );
        Self { keep: Keep::Hashes, kept_bytes, why }
    }

    /// The same, of RAM that goes straight.
    pub(crate) fn straight(self, ram_bytes: u64) -> Self {
        let window = window::limit_bytes(ram_bytes);
        let until = format!(
            "(RAM goes straight to the destination's host; until then {window} bytes, and what the last pass holds)"
        );
        Self { why: self.why.replace("(all bytes until then)", &until), ..self }
    }
}

impl Inner {
    /// What would be kept of `ram_bytes` if their copy were confirmed now, for `migration` if there is one yet.
    pub(crate) fn what_to_keep(&self, migration: Option<&str>, ram_bytes: u64) -> Decision {
        let whole = |it: &Migration| {
            let capture = it.capture.as_ref()?;
            let taken = capture.taken.as_ref()?;
            let other = migration != Some(it.id.as_str()) && capture.kept == Some(Keep::Bytes);
            other.then_some(taken.ram_bytes)
        };
        let others = self.migrations.all().iter().filter_map(whole).fold(0, u64::saturating_add);
        Decision::new(self.config.twin_memory_bytes, ram_bytes, others)
    }

    /// The copy of a clone's twin is confirmed: keep of its RAM what there is room for. Once decided, it stays so.
    pub(crate) fn keep_twin(
        &self,
        id: &str,
        ram_bytes: u64,
        hashes: &PageHashes,
    ) -> Result<(), HostError> {
        let keep = {
            // Two that are confirmed at once must not both take what is left.
            let _turn = locked(&self.keeping);
            let known = self.migrations.get(id).and_then(|migration| migration.capture?.kept);
            match known {
                Some(known) => known,
                None => {
                    let decision = self.what_to_keep(Some(id), ram_bytes);
                    self.record_kept(id, decision.keep)?;
                    info!(migration = id, "of the RAM twin is kept: {}", decision.why);
                    decision.keep
                }
            }
        };
        if keep == Keep::Bytes {
            return Ok(());
        }
        let dir = self.twin_dir(id);
        // As after RAM went straight, or when SendTwin is asked again. Hashes that are damaged are written anew.
        if finish_keeping_hashes(&dir, &ObjectKind::Ram).unwrap_or(false) {
            return Ok(());
        }
        match keep_hashes(&dir, &ObjectKind::Ram, hashes) {
            Ok(()) => {
                let (freed_bytes, kept_bytes) = (ram_bytes, hashes_bytes(ram_bytes));
                info!(migration = id, freed_bytes, kept_bytes, "RAM twin dropped to a hash a page");
                Ok(())
            }
            // The migration can go on with all bytes, and they count.
            Err(error) => {
                warn!(migration = id, %error, "the RAM twin could not be dropped to a hash a page, all of it is kept");
                self.record_kept(id, Keep::Bytes)
            }
        }
    }

    fn record_kept(&self, id: &str, keep: Keep) -> Result<(), HostError> {
        let record = |migration: &mut Migration| {
            if let Some(capture) = &mut migration.capture {
                capture.kept = Some(keep);
            }
            Ok(())
        };
        self.migrations.update(id, record).map(drop)
    }

    /// Remove what an earlier run of this program was about to. Where not even the hashes are whole, SendTwin does it
    /// when it is asked again.
    pub(crate) fn recover_kept(&self, id: &str) {
        match finish_keeping_hashes(&self.twin_dir(id), &ObjectKind::Ram) {
            Ok(_) => {}
            Err(error) => error!(migration = id, %error, "what is kept of its T0 cannot be used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_kept_whole_as_long_as_there_is_room() {
        const MIB: u64 = 1 << 20;
        for (limit, others, keep) in [
            (None, u64::MAX, Keep::Bytes),
            (Some(64 * MIB), 0, Keep::Bytes),
            (Some(96 * MIB), 32 * MIB, Keep::Bytes),
            (Some(96 * MIB), 32 * MIB + 1, Keep::Hashes),
            (Some(64 * MIB - 1), 0, Keep::Hashes),
            (Some(0), 0, Keep::Hashes),
            (Some(u64::MAX - 1), u64::MAX, Keep::Hashes),
        ] {
            let decision = Decision::new(limit, 64 * MIB, others);
            assert_eq!(decision.keep, keep, "{limit:?} {others}: {}", decision.why);
            let kept_bytes = if keep == Keep::Bytes { 64 * MIB } else { 64 * MIB / 256 + 64 };
            assert_eq!(decision.kept_bytes, kept_bytes);
            assert!(decision.why.contains(&kept_bytes.to_string()), "{}", decision.why);
        }
    }
}
