//! Migrations against a switch and hosts that only remember.

use std::time::Duration;

use crate::fakes::{Fault, Lab, draining, finished, order, recorded, started};
use tidegate_api::{
    Status,
    host::{CaptureWay, GuestState},
    manager::{self as proto, MigrationSpec, MigrationState, Phase as ProtoPhase},
    switch::Rewrite,
};
use tidegate_manager::phase::Phase;

#[tokio::test]
async fn a_clone_goes_through_all_phases() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(50);
    let (manager, id) = draining(&lab).await;
    assert_eq!(lab.world().guests["h1"]["vm-a"].state(), GuestState::Running);
    lab.old_sessions.send_replace(0);
    let migration = finished(&manager, &id).await;

    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
    let figures = migration.figures.expect("figures");
    assert_eq!(figures.old_sessions_at_cutover, 50);
    assert_eq!((figures.copied_bytes, figures.merged_bytes, figures.epoch), (3000, 96, 2));
    assert_eq!(figures.capture_way(), CaptureWay::Passes);
    assert_eq!(figures.pass_bytes, [64 << 20, 1 << 20]);
    assert_eq!(figures.held_packets, Some(17));
    let phases: Vec<_> = migration.phases.iter().map(proto::PhaseTime::phase).collect();
    assert_eq!(phases.len(), 12);
    assert_eq!((phases[0], phases[11]), (ProtoPhase::Preflight, ProtoPhase::Cleanup));
    let order_of = |call: &str| {
        lab.world().calls.iter().position(|made| made == call).unwrap_or_else(|| panic!("{call}"))
    };
    let acts = [
        "PrepareReceive",
        "Takeover",
        "SetDestination",
        "HoldPort",
        "Capture",
        "ReleasePort",
        "SendTwin",
        "StartDestination",
        "Cutover",
        "WatchMigration",
        "PauseGuest",
        "SendDiff",
        "Merge",
        "Release",
        "DeleteGuest",
        "Forget",
    ];
    for pair in acts.windows(2) {
        assert!(order_of(pair[0]) < order_of(pair[1]), "{} before {}", pair[0], pair[1]);
    }
}

#[tokio::test]
async fn finish_none_neither_diffs_nor_merges_and_can_keep_the_source() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let finish = proto::FinishMode::None.into();
    let spec = MigrationSpec { finish, keep_source: true, ..order() };
    let id = manager.start(Some(spec)).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.called("SendDiff") + lab.called("Merge") + lab.called("DeleteGuest"), 0);
    assert_eq!(lab.world().guests["h1"]["vm-a"].state(), GuestState::Paused);
}

#[tokio::test]
async fn a_booted_destination_is_reached_at_its_own_address() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let spec = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        destination_cmdline: "ip=10.1.0.9".to_owned(),
        destination_boot_wait_s: 1,
        ..order()
    };
    lab.old_sessions.send_replace(1);
    let id = manager.start(Some(spec)).await.expect("started");
    recorded(&manager, &id, started(Phase::Drain)).await;
    {
        let world = lab.world();
        let destination = world.address.destination.clone().expect("destination");
        assert_eq!(destination.rewrite(), Rewrite::Nat);
        assert_eq!(destination.locator, "10.1.0.9");
        let started = world.guests["h2"]["vm-b"].spec.clone().expect("spec");
        assert_eq!(started.cmdline, "ip=10.1.0.9");
        assert_eq!(started.nics[0].mac, "02:00:00:00:00:09");
    }
    lab.old_sessions.send_replace(0);
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
}

#[tokio::test]
async fn a_failure_at_any_step_before_the_merge_gives_everything_back() {
    let calls = [
        "Takeover",
        "SetDestination",
        "Capture",
        "PrepareReceive",
        "SendTwin",
        "StartDestination",
        "Cutover",
        "WatchMigration",
        "PauseGuest",
        "SendDiff",
    ];
    for call in calls {
        for lose_answer in [false, true] {
            let lab = Lab::new().await;
            let status = Status::failed_precondition("the disk is on fire");
            let fault = if lose_answer { Fault::LoseAnswer(status) } else { Fault::Refuse(status) };
            lab.fail(call, [fault]);
            let manager = lab.manager().await;
            let id = manager.start(Some(order())).await.expect("started");
            let migration = finished(&manager, &id).await;
            assert_eq!(migration.state(), MigrationState::Aborted, "{call}");
            let message = &migration.message;
            assert!(message.contains("the disk is on fire") && message.contains(call), "{message}");
            assert!(!message.contains("Left behind"), "{message}");
            lab.assert_source_owns_everything();
        }
    }
}

#[tokio::test]
async fn an_operator_can_abort_while_it_drains_and_not_once_it_merges() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(7);
    let (manager, id) = draining(&lab).await;
    manager.abort(&id).await.expect("aborted");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Aborted);
    lab.assert_source_owns_everything();
    let error = manager.abort(&id).await.expect_err("over").to_string();
    assert!(error.contains("was aborted"), "{error}");

    lab.old_sessions.send_replace(0);
    let busy = || Fault::Refuse(Status::unavailable("busy"));
    lab.fail("Merge", std::iter::repeat_with(busy).take(8));
    let id = manager.start(Some(order())).await.expect("a second one");
    recorded(&manager, &id, started(Phase::Merge)).await;
    let error = manager.abort(&id).await.expect_err("too late").to_string();
    assert!(error.contains("phase merge has begun"), "{error}");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_refused_merge_changes_nothing_and_aborts() {
    let lab = Lab::new().await;
    lab.fail("Merge", [Fault::Refuse(Status::aborted("region counts: conflict at 0x40"))]);
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert!(migration.message.contains("conflict at 0x40"), "{}", migration.message);
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn past_the_merge_it_fails_only_for_good_and_can_be_resumed() {
    let lab = Lab::new().await;
    lab.fail("Release", [Fault::Refuse(Status::internal("no worker answers"))]);
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed);
    assert!(migration.message.contains(&format!("tidegate resume {id}")), "{}", migration.message);
    manager.resume_failed(&id).await.expect("resumed");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
    assert_eq!(lab.called("Merge"), 1);
}

#[tokio::test]
async fn an_abort_after_the_source_was_deleted_is_told_that_it_is_too_late() {
    let lab = Lab::new().await;
    let busy = || Fault::Refuse(Status::unavailable("busy"));
    lab.fail("Forget", std::iter::repeat_with(busy).take(8));
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    recorded(&manager, &id, started(Phase::Cleanup)).await;
    while lab.called("DeleteGuest") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = manager.abort(&id).await.expect_err("too late").to_string();
    assert!(error.contains("phase cleanup has begun"), "{error}");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
}

#[tokio::test]
async fn sessions_that_a_release_cut_are_among_the_figures() {
    let lab = Lab::new().await;
    lab.world().forgotten_sessions = 3;
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(migration.figures.expect("figures").forgotten_sessions, 3);
    let records = manager.journal().records(&id, 0).expect("records");
    let told = records.iter().map(|record| record.fact.to_string()).collect::<String>();
    assert!(told.contains("3 session(s) of the source"), "{told}");
}

#[tokio::test]
async fn a_passed_drain_deadline_cuts_nothing() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let manager = lab.manager().await;
    let spec = MigrationSpec { drain_deadline_s: 1, ..order() };
    let id = manager.start(Some(spec)).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert!(migration.message.contains("2 old session(s) were left"), "{}", migration.message);
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn the_address_can_be_migrated_by_one_at_a_time() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(1);
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let error = manager.start(Some(order())).await.expect_err("busy");
    assert!(error.to_string().contains(&format!("migration {id}")), "{error}");
    // Both at once: one gets it.
    manager.abort(&id).await.expect("aborted");
    let (one, other) = tokio::join!(manager.start(Some(order())), manager.start(Some(order())));
    assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|&&ok| ok).count(), 1);
    assert_ne!(id, one.or(other).expect("one"));
}
