//! Migrations that make the destination the source's image, and the source's coming to rest before.

use tidegate_api::{
    Code, Status,
    host::{GuestState, Safety},
    manager::{self as proto, MigrationSpec, MigrationState, NewSessions},
};
use tidegate_manager::{phase::Phase, record::MigrationId};

use crate::fakes::{Fault, GENERATION, Lab, finished, order, reached, recorded, started};

fn mirror(new_sessions: NewSessions) -> MigrationSpec {
    MigrationSpec {
        finish: proto::FinishMode::Mirror.into(),
        new_sessions: new_sessions.into(),
        ..order()
    }
}

fn hold() -> MigrationSpec {
    mirror(NewSessions::Hold)
}

/// A migration to its end, and what its journal tells.
async fn run(lab: &Lab, spec: MigrationSpec) -> (proto::Migration, Vec<String>) {
    let manager = lab.manager().await;
    let id: MigrationId = manager.start(Some(spec)).await.expect("started");
    let migration = finished(&manager, &id).await;
    let records = manager.journal().records(&id, 0).expect("records");
    (migration, records.iter().map(|record| record.fact.to_string()).collect())
}

fn positions(lab: &Lab, acts: &[&str]) -> Vec<usize> {
    let world = lab.world();
    let of = |act: &&str| world.calls.iter().position(|made| made == act);
    acts.iter().map(|act| of(act).unwrap_or_else(|| panic!("{act}: {:?}", world.calls))).collect()
}

#[tokio::test]
async fn with_sessions_held_nothing_is_cut_over_and_nothing_drains() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(9);
    let manager = lab.manager().await;
    let id = manager.start(Some(hold())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
    let calls = ["Cutover", "WatchMigration", "SendDiff", "Merge"];
    assert_eq!(calls.map(|call| lab.called(call)), [0; 4], "{:?}", lab.world().calls);
    let acts = [
        "PrepareReceive",
        "Takeover",
        "Capture",
        "SendTwin",
        "StartDestination",
        "SendAhead",
        "PauseGuest",
        "SendImage",
        "ApplyImage",
        "ContinueGuest",
        "Release",
        "DeleteGuest",
    ];
    let positions = positions(&lab, &acts);
    assert!(positions.is_sorted(), "{:?}", lab.world().calls);
    {
        let world = lab.world();
        assert_eq!((world.handovers, world.keeps_t0), (1, false));
        let spec = world.guests["h2"]["vm-b"].spec.clone().expect("spec");
        assert_eq!((spec.generation_id.as_str(), spec.identity.as_str()), (GENERATION, "vm-a"));
    }
    let figures = migration.figures.expect("figures");
    assert_eq!((figures.kept_sessions, figures.cut_sessions), (7, 3));
    assert_eq!((figures.diff_bytes, figures.merged_bytes), (8192, 8192));
    assert_eq!(figures.ahead_bytes, [4096, 512]);
    assert_eq!(figures.image_digest, "d2");
    assert!(figures.image_pause_ns > 0 && figures.image_pause_ns < 20_000_000_000);
    let told: Vec<_> = manager
        .journal()
        .records(&id, 0)
        .expect("records")
        .iter()
        .map(|record| record.fact.to_string())
        .collect();
    let ahead = told.iter().find(|line| line.starts_with("ahead finished")).expect("told");
    assert!(ahead.contains("4608 bytes sent in 2 pass(es); 0 MiB differ"), "{ahead}");
    let release = told.iter().find(|line| line.starts_with("release finished")).expect("told");
    for part in ["7 session(s) of the source go on", "3 session(s) of the destination are cut"] {
        assert!(release.contains(part), "{release}");
    }
}

#[tokio::test]
async fn new_sessions_that_will_be_cut_are_served_by_a_clone_until_the_others_have_drained() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let manager = lab.manager().await;
    let id = manager.start(Some(mirror(NewSessions::Cut))).await.expect("started");
    recorded(&manager, &id, started(Phase::Drain)).await;
    {
        let world = lab.world();
        assert!(world.keeps_t0, "what the clone changes is undone by it");
        let clone = &world.guests["h2"]["vm-b"];
        assert_eq!(clone.state(), GuestState::Running);
        let spec = clone.spec.clone().expect("spec");
        assert_eq!((spec.generation_id.as_str(), spec.identity.as_str()), ("", ""));
        assert_eq!(world.guests["h1"]["vm-a"].state(), GuestState::Running);
    }
    lab.old_sessions.send_replace(0);
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
    assert_eq!(migration.figures.expect("figures").cut_sessions, 3);
    assert_eq!(lab.world().handovers, 1);
}

#[tokio::test]
async fn a_manager_killed_in_any_phase_or_behind_it_goes_on_and_completes() {
    for new_sessions in [NewSessions::Hold, NewSessions::Cut] {
        for phase in tidegate_manager::phase::ALL {
            let drains = matches!(phase, Phase::Cutover | Phase::Drain);
            let never = matches!(phase, Phase::Preflight | Phase::Merge);
            if never || drains && new_sessions == NewSessions::Hold {
                continue;
            }
            for finished_it in [false, true] {
                let lab = Lab::new().await;
                lab.world().settles_at_last = true;
                let manager = lab.manager().await;
                let quiesce = proto::Quiesce::Settle.into();
                let spec = MigrationSpec { quiesce, ..mirror(new_sessions) };
                let id = manager.start(Some(spec)).await.expect("started");
                recorded(&manager, &id, reached(phase, finished_it)).await;
                manager.kill();
                drop(manager);
                let manager = lab.manager().await;
                let migration = finished(&manager, &id).await;
                let at = format!("{phase}, finished: {finished_it}: {}", migration.message);
                assert_eq!(migration.state(), MigrationState::Completed, "{at}");
                lab.assert_destination_owns_everything();
                let world = lab.world();
                assert_eq!((world.destinations_started, world.handovers), (1, 1), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn a_step_that_fails_before_the_destination_goes_on_gives_everything_back() {
    for new_sessions in [NewSessions::Hold, NewSessions::Cut] {
        for call in [
            "PrepareReceive",
            "Takeover",
            "Capture",
            "SendTwin",
            "StartDestination",
            "SendAhead",
            "PauseGuest",
            "SendImage",
            "ApplyImage",
        ] {
            for fault in [
                Fault::Refuse(Status::failed_precondition("a bad day")),
                Fault::LoseAnswer(Status::internal("a bad day")),
                // No patience while the source stands still.
                Fault::Refuse(Status::unavailable("a bad day")),
            ] {
                let passes = matches!(&fault, Fault::Refuse(it) if it.code() == Code::Unavailable);
                if passes && matches!(call, "Capture" | "SendTwin" | "SendAhead") {
                    // The source runs.
                    continue;
                }
                let lab = Lab::new().await;
                lab.fail(call, [fault.clone()]);
                let (migration, _) = run(&lab, mirror(new_sessions)).await;
                let state = migration.state();
                assert_eq!(state, MigrationState::Aborted, "{call}, {fault:?}: {migration:?}");
                assert!(migration.message.contains("a bad day"), "{}", migration.message);
                lab.assert_source_owns_everything();
            }
        }
    }
}

#[tokio::test]
async fn what_goes_ahead_is_waited_for_while_the_source_runs() {
    let lab = Lab::new().await;
    let away = Fault::Refuse(Status::unavailable("a bad day"));
    lab.fail("SendAhead", [away.clone(), away]);
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!((lab.called("SendAhead"), lab.called("PauseGuest")), (3, 1));
}

#[tokio::test]
async fn a_destination_with_another_digest_is_never_continued() {
    let lab = Lab::new().await;
    lab.world().image_digest = "d3".to_owned();
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert!(migration.message.contains("digest d3, the source d2"), "{}", migration.message);
    lab.assert_source_owns_everything();
    assert_eq!(lab.called("Release"), 0);
}

#[tokio::test]
async fn an_answer_lost_when_it_was_continued_carries_the_migration_through() {
    let lab = Lab::new().await;
    lab.fail("ContinueGuest", [Fault::LoseAnswer(Status::unavailable("cut"))]);
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_release_without_answer_is_found_done() {
    let lab = Lab::new().await;
    lab.fail("Release", [Fault::LoseAnswer(Status::unavailable("cut"))]);
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_destination_that_ends_before_it_goes_on_gives_everything_back() {
    let lab = Lab::new().await;
    lab.world().destination_dies_after = Some("ApplyImage".to_owned());
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Aborted, "{}", migration.message);
    assert!(migration.message.contains("was not continued"), "{}", migration.message);
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn a_destination_host_that_is_away_when_it_is_to_go_on_gives_everything_back() {
    let lab = Lab::new().await;
    lab.world().goes_with_image = Some(lab.socket("h2"));
    let (migration, _) = run(&lab, hold()).await;
    assert_eq!(migration.state(), MigrationState::Aborted, "{}", migration.message);
    assert_eq!(lab.world().guests["h1"]["vm-a"].state(), GuestState::Running);
    assert_eq!(lab.world().address.home.clone().expect("home").name, "vm-a");
    assert!(migration.message.contains("Left behind"), "{}", migration.message);
}

#[tokio::test]
async fn an_abort_is_possible_until_the_destination_goes_on() {
    for phase in [Phase::Destination, Phase::Ahead, Phase::Quiesce, Phase::Diff, Phase::Mirror] {
        let lab = Lab::new().await;
        let manager = lab.manager().await;
        let id = manager.start(Some(hold())).await.expect("started");
        recorded(&manager, &id, started(phase)).await;
        match manager.abort(&id).await {
            Ok(()) => {
                assert_eq!(finished(&manager, &id).await.state(), MigrationState::Aborted);
                lab.assert_source_owns_everything();
            }
            // It was faster.
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("can no longer be") || error.contains("is over"), "{error}");
                assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
            }
        }
    }
}

#[tokio::test]
async fn a_source_that_dies_while_it_stands_does_not_take_its_image_along() {
    let lab = Lab::new().await;
    lab.fail("ApplyImage", [Fault::LoseAnswerAndSource(Status::internal("a bad day"))]);
    let manager = lab.manager().await;
    let id = manager.start(Some(hold())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed, "{}", migration.message);
    assert!(migration.message.contains("tidegate resume"), "{}", migration.message);
    lab.assert_destination_is_kept();
    manager.resume_failed(&id).await.expect("resumed");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

fn settle(unsettled: proto::Unsettled) -> MigrationSpec {
    MigrationSpec {
        quiesce: proto::Quiesce::Settle.into(),
        settle_ms: 250,
        settle_deadline_s: 9,
        unsettled: unsettled.into(),
        ..order()
    }
}

#[tokio::test]
async fn a_source_whose_memory_has_settled_is_paused() {
    let lab = Lab::new().await;
    lab.world().settles_at_last = true;
    let (migration, told) = run(&lab, settle(proto::Unsettled::Abort)).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let positions = positions(&lab, &["WatchMigration", "Settle", "PauseGuest", "SendDiff"]);
    assert!(positions.is_sorted(), "{:?}", lab.world().calls);
    let asked = lab.world().settles[0].clone();
    assert_eq!((asked.settle_ms, asked.deadline_s, asked.ram), (250, 9, false));
    assert_eq!(asked.regions, ["counts"]);
    let line = told.iter().find(|line| line.starts_with("settle finished")).expect("told");
    assert!(line.contains("stopped changing, watched for 40 ms"), "{line}");
}

#[tokio::test]
async fn a_mirror_waits_for_all_memory_to_settle() {
    let lab = Lab::new().await;
    lab.world().settles_at_last = true;
    let finish = proto::FinishMode::Mirror.into();
    let spec = MigrationSpec { finish, ..settle(proto::Unsettled::Abort) };
    let (migration, _) = run(&lab, spec).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert!(lab.world().settles[0].ram);
}

#[tokio::test]
async fn memory_that_does_not_settle_ends_as_was_asked_for() {
    let lab = Lab::new().await;
    let (migration, _) = run(&lab, settle(proto::Unsettled::Abort)).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    for part in ["settle failed", "5 page(s) of 256", "unsettled STOP"] {
        assert!(migration.message.contains(part), "{part}: {}", migration.message);
    }
    lab.assert_source_owns_everything();
    assert_eq!(lab.called("PauseGuest"), 0);

    let lab = Lab::new().await;
    let (migration, told) = run(&lab, settle(proto::Unsettled::Stop)).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let line = told.iter().find(|line| line.starts_with("settle finished")).expect("told");
    assert!(line.contains("did not stop changing in 40 ms, 5 of 256 page(s)"), "{line}");
}

#[tokio::test]
async fn an_unsafe_clone_is_refused_and_a_known_danger_is_told() {
    let lab = Lab::new().await;
    let safety = |ok, warning, detail: &str| Safety {
        name: "disks".to_owned(),
        ok,
        detail: detail.to_owned(),
        warning,
    };
    lab.world().safety =
        vec![safety(true, true, "each in an overlay"), safety(false, false, "both write")];
    let manager = lab.manager().await;
    let (_, findings) = manager.plan(Some(hold())).await.expect("a plan");
    assert!(!findings.ok());
    let told: Vec<_> =
        findings.checks.iter().filter(|check| check.name == "clone safety").cloned().collect();
    assert_eq!(told[0].result, Ok("disks: each in an overlay".to_owned()));
    assert!(told[0].warning);
    assert_eq!(told[1].result, Err("disks: both write".to_owned()));
    let error = manager.start(Some(hold())).await.expect_err("refused").to_string();
    assert_eq!(error, "clone safety: disks: both write");
    assert_eq!(lab.called("Takeover"), 0);
}

#[tokio::test]
async fn a_destination_without_room_is_told_before_anything_changes() {
    let lab = Lab::new().await;
    lab.world().memory_free_bytes = 100 << 20;
    let manager = lab.manager().await;
    manager.plan(Some(hold())).await.expect("a plan").1.outcome().expect("one copy fits");
    let error = manager.start(Some(mirror(NewSessions::Cut))).await.expect_err("T0 does not, too");
    let error = error.to_string();
    assert!(
        error.starts_with("destination memory: the destination needs 136314880 bytes"),
        "{error}"
    );
    assert_eq!(lab.called("PrepareReceive"), 0);

    // Somebody else takes it in between.
    let full = Status::resource_exhausted("not enough room in /m: 5 bytes are needed, 1 free");
    lab.fail("PrepareReceive", [Fault::Refuse(full)]);
    let id = manager.start(Some(hold())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert!(migration.message.contains("not enough room in /m"), "{}", migration.message);
    assert_eq!((lab.called("Takeover"), lab.called("Capture"), lab.called("Abort")), (0, 0, 0));
    lab.assert_source_owns_everything();
}
