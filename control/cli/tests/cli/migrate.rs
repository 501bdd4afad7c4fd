use serde_json::json;
use tidegate_api::{
    Status,
    host::CaptureWay,
    manager::{
        self as proto, Check, CopyProgress, DrainProgress, Ended, Figures, Migration,
        MigrationEvent, MigrationSpec, MigrationState, Phase, PhaseFinished, PhaseStarted,
        PhaseTime, Plan, migration_event::What,
    },
};
use tidegate_cli::error::Exit;

use crate::fakes::Processes;

const CLONE: &str = "migrate --address 10.0.0.1 --guest vm-a --to vm-b --clone --port vm1 \
                     --vhost-socket /run/vm1.sock";

fn plan(ok: bool) -> Plan {
    let check = |name: &str, ok, detail: &str| Check {
        name: name.to_owned(),
        ok,
        detail: detail.to_owned(),
        warning: name == "session list",
    };
    Plan {
        checks: vec![
            check("switch reachable", true, "switch `edge`, version 0.1.0"),
            check("session list", true, "none: there is no agent"),
            check("destination port", ok, "switch `edge` has no port `vm1`; it has up, vm0"),
        ],
        ok,
        steps: vec!["preflight".to_owned(), "takeover".to_owned()],
    }
}

fn migration(state: MigrationState) -> Migration {
    let spec = MigrationSpec {
        address: "10.0.0.1".to_owned(),
        switch_name: "edge".to_owned(),
        source_host: "h1".to_owned(),
        source_guest: "vm-a".to_owned(),
        destination_host: "h1".to_owned(),
        destination_guest: "vm-b".to_owned(),
        kind: proto::DestinationKind::Clone.into(),
        finish: proto::FinishMode::Merge.into(),
        transport: "tcp".to_owned(),
        bandwidth_mbps: 800,
        final_bandwidth_mbps: Some(0),
        ..MigrationSpec::default()
    };
    let message = if state == MigrationState::Completed { "" } else { "copy failed: disk full" };
    Migration {
        id: "m-1".to_owned(),
        spec: Some(spec),
        state: state.into(),
        phase: Phase::Drain.into(),
        message: message.to_owned(),
        phases: vec![PhaseTime { phase: Phase::Takeover.into(), elapsed_us: 1_500 }],
        figures: Some(Figures {
            copied_bytes: 4096,
            merged_bytes: 96,
            forgotten_sessions: 3,
            imported_sessions: 20,
            session_list_missing: "2 refused: the table is full".to_owned(),
            capture_way: CaptureWay::Passes.into(),
            capture_why: "1024 MiB in use take 250 ms to copy".to_owned(),
            pass_bytes: vec![4096, 0],
            held_packets: Some(17),
            ..Figures::default()
        }),
        started_unix_ms: 1000,
    }
}

fn event(sequence: u64, phase: Phase, what: What) -> Result<MigrationEvent, Status> {
    Ok(MigrationEvent { sequence, unix_ms: 1000 + sequence, phase: phase.into(), what: Some(what) })
}

fn ended(sequence: u64, state: MigrationState) -> Result<MigrationEvent, Status> {
    let migration = migration(state);
    let message = migration.message.clone();
    let ended = Ended { state: state.into(), message, migration: Some(migration) };
    event(sequence, Phase::Drain, What::Ended(ended))
}

/// A stream that ends in `state`.
fn stream(state: MigrationState) -> Vec<Result<MigrationEvent, Status>> {
    let finished = PhaseFinished { elapsed_us: 1_500, detail: "done".to_owned() };
    let copy =
        CopyProgress { sent_bytes: 10, covered_bytes: 20, total_bytes: 40, rate_bytes_per_s: 5 };
    vec![
        event(1, Phase::Takeover, What::Started(PhaseStarted {})),
        event(2, Phase::Takeover, What::Finished(finished)),
        event(2, Phase::Capture, What::Copy(copy)),
        event(2, Phase::Copy, What::Copy(copy)),
        event(2, Phase::Drain, What::Drain(DrainProgress { old_sessions: 7, new_sessions: 3 })),
        ended(3, state),
    ]
}

async fn processes(state: MigrationState) -> Processes {
    let processes = Processes::new().await;
    processes.script(|script| {
        script.plan = plan(true);
        script.migration = migration(state);
        script.streams = vec![stream(state)];
    });
    processes
}

#[tokio::test]
async fn a_completed_migration_in_lines() {
    let processes = processes(MigrationState::Completed).await;
    let (exit, text) = processes.run(CLONE).await;
    assert_eq!(exit.expect("no error"), Exit::Done);
    for line in [
        "ok    switch reachable: switch `edge`, version 0.1.0",
        "warn  session list: none: there is no agent",
        "migration m-1",
        "takeover         1.5 ms  done",
        "drain                    7 old session(s) left, 3 new",
        "state                         completed",
        "memory copied                 4.00 KiB",
        "sessions cut by the release   3",
        "sessions imported             20",
        "sessions not counted          2 refused: the table is full",
    ] {
        assert!(text.lines().any(|there| there == line), "{line:?} in\n{text}");
    }
    let spec = processes.script.lock().expect("script").started.clone().expect("started");
    assert_eq!(spec.destination_guest, "vm-b");
    let capped = format!("{CLONE} --bandwidth-mbps 800 --transport tcp --detach");
    processes.run(&capped).await.0.expect("no error");
    let spec = processes.script.lock().expect("script").started.clone().expect("started");
    assert_eq!((spec.bandwidth_mbps, spec.transport.as_str()), (800, "tcp"));
}

#[tokio::test]
async fn every_event_is_an_object_and_the_last_is_the_migration() {
    let processes = processes(MigrationState::Completed).await;
    let (exit, objects) = processes.run_json(CLONE).await;
    assert_eq!(exit, Exit::Done);
    let events: Vec<_> = objects.iter().map(|it| it["event"].as_str().expect("event")).collect();
    assert_eq!(
        events,
        ["plan", "accepted", "started", "finished", "copy", "copy", "drain", "ended", "migration"]
    );
    // RAM that goes straight.
    assert_eq!(
        (&objects[4]["phase"], &objects[4]["covered_bytes"]),
        (&json!("capture"), &json!(20))
    );
    assert_eq!(objects[0]["checks"][0]["name"], "switch reachable");
    assert_eq!(
        objects[3],
        json!({
            "event": "finished", "sequence": 2, "unix_ms": 1002, "phase": "takeover",
            "elapsed_us": 1500, "detail": "done",
        })
    );
    assert_eq!(
        objects[5],
        json!({
            "event": "copy", "sequence": 2, "unix_ms": 1002, "phase": "copy",
            "sent_bytes": 10, "covered_bytes": 20, "total_bytes": 40, "rate_bytes_per_s": 5,
        })
    );
    assert_eq!(
        objects[8],
        json!({
            "event": "migration", "id": "m-1", "state": "completed", "phase": "drain",
            "message": "", "started_unix_ms": 1000,
            "spec": {
                "address": "10.0.0.1", "switch": "edge", "source_host": "h1",
                "source_guest": "vm-a", "destination_host": "h1", "destination_guest": "vm-b",
                "kind": "clone", "finish": "merge",
                "transport": "tcp", "bandwidth_mbps": 800, "final_bandwidth_mbps": 0,
            },
            "phases": [{ "name": "takeover", "elapsed_us": 1500 }],
            "figures": {
                "ram_bytes": 0, "copied_bytes": 4096, "device_state_bytes": 0, "diff_bytes": 0,
                "merged_bytes": 96, "pause_ns": 0, "destination_pause_ns": 0,
                "old_sessions_at_cutover": 0, "cutover_ns": 0, "epoch": 0, "conflicts": 0,
                "forgotten_sessions": 3, "imported_sessions": 20,
                "session_list_missing": "2 refused: the table is full",
                "capture_way": "passes", "capture_why": "1024 MiB in use take 250 ms to copy",
                "pass_bytes": [4096, 0], "held_packets": 17,
                "ahead_bytes": [], "image_pause_ns": 0, "image_digest": "", "kept_sessions": 0, "cut_sessions": 0,
            },
        })
    );
}

#[tokio::test]
async fn exit_codes_say_how_it_ended() {
    for (state, exit, code) in [
        (MigrationState::Completed, Exit::Done, 0),
        (MigrationState::Aborted, Exit::Aborted, 3),
        (MigrationState::Failed, Exit::Failed, 4),
    ] {
        let processes = processes(state).await;
        let (ended, text) = processes.run("watch m-1").await;
        assert_eq!(ended.expect("no error"), exit);
        assert_eq!(exit.code(), code);
        assert_eq!(text.contains("disk full"), state != MigrationState::Completed, "{text}");
    }
}

#[tokio::test]
async fn a_failed_check_starts_nothing() {
    let processes = processes(MigrationState::Completed).await;
    processes.script(|script| script.plan = plan(false));
    let (exit, text) = processes.run(CLONE).await;
    assert_eq!(exit.expect("no error"), Exit::NotPossible);
    assert!(text.contains("FAIL  destination port: switch `edge` has no port"), "{text}");
    assert!(processes.script.lock().expect("script").started.is_none());
}

#[tokio::test]
async fn a_dry_run_and_a_detached_one_do_not_watch() {
    let processes = processes(MigrationState::Completed).await;
    let (exit, text) = processes.run(&format!("{CLONE} --dry-run")).await;
    assert_eq!(exit.expect("no error"), Exit::Done);
    assert!(text.contains("would go through: preflight, takeover"), "{text}");
    assert!(processes.script.lock().expect("script").started.is_none());

    let (exit, objects) = processes.run_json(&format!("{CLONE} --detach")).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(objects.last().expect("accepted")["id"], "m-1");
    assert_eq!(processes.script.lock().expect("script").streams.len(), 1, "not watched");
}

#[tokio::test]
async fn a_restarted_manager_is_waited_for_and_nothing_is_said_twice() {
    let processes = processes(MigrationState::Completed).await;
    processes.script(|script| {
        let mut broken = stream(MigrationState::Completed);
        broken.pop();
        broken.push(Err(Status::unavailable("the manager is stopping")));
        script.streams.insert(0, broken);
    });
    let (exit, objects) = processes.run_json("watch m-1").await;
    assert_eq!(exit, Exit::Done);
    let finished = objects.iter().filter(|it| it["event"] == "finished").count();
    assert_eq!(finished, 1, "{objects:?}");
}

#[tokio::test]
async fn what_cannot_be_done_says_so() {
    let processes = processes(MigrationState::Completed).await;
    let (result, _) = processes.run("watch m-9").await;
    assert_eq!(result.expect_err("unknown").to_string(), "there is no migration `m-9`");
    let (result, _) = processes.run("--manager unix:/nowhere/m.sock migrations").await;
    let text = result.expect_err("away").to_string();
    assert!(text.starts_with("cannot reach unix:/nowhere/m.sock: "), "{text}");
    assert!(text.ends_with("is tidegate-manager running? Say where with --manager"), "{text}");
}

#[tokio::test]
async fn bandwidth_is_passed_on() {
    let processes = processes(MigrationState::Running).await;
    let (exit, text) = processes.run("bandwidth m-1 800").await;
    assert_eq!(exit.expect("no error"), Exit::Done);
    assert_eq!(text, "migration m-1: at most 800 Mbit/s\n");
    let (_, text) = processes.run("bandwidth m-1 0").await;
    assert_eq!(text, "migration m-1: no limit\n");
    assert_eq!(processes.script.lock().expect("script").bandwidths, [800, 0]);
}

#[tokio::test]
async fn abort_says_how_it_stands() {
    let processes = processes(MigrationState::Aborted).await;
    let (exit, text) = processes.run("abort m-1").await;
    assert_eq!(exit.expect("no error"), Exit::Done);
    assert_eq!(text, "migration m-1: aborted (copy failed: disk full)\n");
}
