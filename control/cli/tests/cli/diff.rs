//! `tidegate diff`: what a merge would do.

use tidegate_api::{host, manager as proto};
use tidegate_cli::error::Exit;

use crate::fakes::Processes;

fn dry_run() -> proto::DryRun {
    let ram = host::Compared {
        size_bytes: 64 << 20,
        dirty_pages: 4096,
        changed_bytes: 1 << 20,
        runs: 9000,
        packed_bytes: 2 << 20,
        ..host::Compared::default()
    };
    let region = host::Compared {
        region: "counts".to_owned(),
        size_bytes: 1 << 20,
        dirty_pages: 2,
        changed_bytes: 10,
        runs: 2,
        packed_bytes: 40,
    };
    let conflict = host::Conflict {
        region: "counts".to_owned(),
        offset: 8192,
        base: vec![0, 1],
        ours: vec![0, 2],
        theirs: vec![0, 3],
        resolution: "abort".to_owned(),
        cause: "both changed".to_owned(),
    };
    let range = host::RangeConflicts {
        region: "counts".to_owned(),
        offset: 8192,
        len_bytes: 512,
        merge_type: "abort".to_owned(),
        count: 30,
    };
    proto::DryRun {
        diff: Some(host::DryRunDiffReport {
            compared: vec![ram, region],
            sent_bytes: 77,
            pause_ns: 12_300_000,
            approximate: true,
            image_pause_ns: 0,
        }),
        merge: Some(host::DryRunMergeReport {
            merged_bytes: 8,
            pause_ns: 1_500_000,
            conflicts: vec![conflict],
            conflict_count: 0,
            refused_count: 30,
            ranges: vec![range],
            approximate: true,
        }),
        merge_missing: String::new(),
    }
}

#[tokio::test]
async fn a_merge_that_would_be_refused_is_shown_with_all_values() {
    let processes = Processes::new().await;
    processes.script(|script| script.dry_run = dry_run());
    let (exit, text) = processes.run("diff m-1").await;
    assert_eq!(exit.expect("shown"), Exit::NotPossible);
    let expected = "\
MEMORY         SIZE       DIRTY    CHANGED   RUNS  PACKED
ram            64.00 MiB  25.00 %  1.00 MiB  9000  2.00 MiB
region counts  1.00 MiB   0.78 %   10 B         2  40 B

REGION  RANGE  BYTES  TYPE   CONFLICTS
counts   8192    512  abort         30

REGION  OFFSET  TYPE   CAUSE         T0      DESTINATION  SOURCE
counts    8192  abort  both changed  0x0001  0x0002       0x0003
... and 29 more

source stopped for about       12.3 ms
destination stopped for about  1.5 ms
would be merged                8 B
conflicts decided by type      0
conflicts that refuse it       30
The guests run: what changes until the end is not in it.
";
    assert_eq!(text, expected);
    let (exit, objects) = processes.run_json("diff m-1").await;
    assert_eq!(exit, Exit::NotPossible);
    let [diff] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!((&diff["event"], &diff["approximate"]), (&"diff".into(), &true.into()));
    assert_eq!(diff["compared"][0]["region"], serde_json::Value::Null);
    assert_eq!(diff["compared"][0]["dirty_ratio"], 0.25);
    assert_eq!(diff["source_pause_ns"], 12_300_000);
    assert_eq!(diff["merge"]["conflicts"][0]["source"], "0003");
    assert_eq!(diff["merge"]["ranges"][0]["count"], 30);
}

#[tokio::test]
async fn without_a_merge_the_reason_is_said() {
    let processes = Processes::new().await;
    processes.script(|script| {
        let merge_missing = "the destination has not been started yet".to_owned();
        script.dry_run = proto::DryRun { merge: None, merge_missing, ..dry_run() };
    });
    let (exit, text) = processes.run("diff m-1").await;
    assert_eq!(exit.expect("shown"), Exit::Done);
    assert!(text.contains("compared in  12.3 ms\nno merge     the destination has not"), "{text}");
    assert!(!text.contains("stopped for"), "{text}");
    let (_, objects) = processes.run_json("diff m-1").await;
    assert_eq!(objects[0]["merge"], serde_json::Value::Null);
    assert_eq!(objects[0]["source_pause_ns"], serde_json::Value::Null);
    assert_eq!(objects[0]["compared_ns"], 12_300_000);
    assert_eq!(objects[0]["merge_missing"], "the destination has not been started yet");
    assert_eq!(objects[0]["image_pause_ns"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_mirror_says_how_long_its_guest_would_stand() {
    let processes = Processes::new().await;
    processes.script(|script| {
        let mut dry_run = proto::DryRun { merge: None, ..dry_run() };
        dry_run.diff.as_mut().expect("there").image_pause_ns = 250_000_000;
        script.dry_run = dry_run;
    });
    let (_, text) = processes.run("diff m-1").await;
    assert!(text.contains("guest would stand for about  250.0 ms"), "{text}");
    let (_, objects) = processes.run_json("diff m-1").await;
    assert_eq!(objects[0]["image_pause_ns"], 250_000_000);
}
