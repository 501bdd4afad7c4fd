//! Counts, the recorded ones and the comparison with them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The most a count may be, as a multiple of what is recorded.
const MOST_GROWTH: f64 = 1.03;

/// Instructions per packet by stage.
pub(crate) type Counts = BTreeMap<String, f64>;

/// What is recorded, by toolchain.
#[derive(Default)]
pub(crate) struct Recorded(BTreeMap<String, Counts>);

impl Recorded {
    /// Read the recorded file; nothing is recorded when there is none.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let file = file();
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let all =
            serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        Ok(Self(all))
    }

    /// Write the recorded file.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let file = file();
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }

    /// The counts for `toolchain`.
    pub(crate) fn of(&self, toolchain: &str) -> anyhow::Result<&Counts> {
        self.0.get(toolchain).with_context(|| {
            format!("nothing is recorded for {toolchain}: run make record-instructions and commit perf/instructions.json")
        })
    }

    /// Put `counts` in place of what was recorded for `toolchain`.
    pub(crate) fn replace(&mut self, toolchain: String, counts: Counts) {
        self.0.insert(toolchain, counts);
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("instructions.json")
}

/// Print both, and fail when a stage has grown too much or has no count to compare with.
pub(crate) fn compare(before: &Counts, now: &Counts) -> anyhow::Result<()> {
    let mut grown = Vec::new();
    for (stage, now) in now {
        let was = before.get(stage).with_context(|| {
            format!("stage {stage} is not recorded: run make record-instructions and commit perf/instructions.json")
        })?;
        println!(
            "{stage:<8} {now:>8.1} instructions per packet, {was:.1} recorded, {:+.1} %",
            (now / was - 1.0) * 100.0
        );
        if *now > was * MOST_GROWTH {
            grown.push(stage.as_str());
        }
    }
    anyhow::ensure!(
        grown.is_empty(),
        "more than 3 % more instructions in: {}; if that is meant, run make record-instructions and say why in the commit",
        grown.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(burst: f64, new: f64) -> Counts {
        [("burst".to_owned(), burst), ("new".to_owned(), new)].into()
    }

    #[test]
    fn growth_fails_and_its_stage_is_named() {
        compare(&counts(100.0, 200.0), &counts(103.0, 150.0)).expect("3 % is allowed");
        let error = compare(&counts(100.0, 200.0), &counts(100.0, 206.1)).expect_err("grown");
        assert!(error.to_string().contains("in: new;"), "{error}");
    }

    #[test]
    fn what_is_not_recorded_fails() {
        let before = Counts::from([("new".to_owned(), 200.0)]);
        let error = compare(&before, &counts(1.0, 1.0)).expect_err("no count of burst");
        assert!(error.to_string().contains("make record-instructions"), "{error}");
        let mut recorded = Recorded::default();
        recorded.replace("rustc 1".to_owned(), before.clone());
        assert_eq!(recorded.of("rustc 1").expect("recorded"), &before);
        let error = recorded.of("rustc 2").expect_err("another toolchain");
        assert!(error.to_string().contains("make record-instructions"), "{error}");
    }
}
