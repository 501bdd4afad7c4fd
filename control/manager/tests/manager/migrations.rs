//! Migrations against a switch and hosts that only remember.

use std::time::Duration;

use crate::fakes::{Fault, Lab, PACE, finished, order, recorded};
use tidegate_api::{
    Status,
    host::{CaptureWay, GuestState},
    manager::{self as proto, MigrationSpec, MigrationState, Phase as ProtoPhase},
    switch::{AddressState, Rewrite},
};
use tidegate_manager::{
    migrations::Migrations,
    phase::Phase,
    record::{Fact, MigrationId},
};

/// The journal says that `phase` has begun.
fn started(phase: Phase) -> impl Fn(&Fact) -> bool {
    move |fact| *fact == Fact::Started { phase }
}

/// A migration that drains.
async fn draining(lab: &Lab) -> (Migrations, MigrationId) {
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    recorded(&manager, &id, started(Phase::Drain)).await;
    (manager, id)
}

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
async fn ram_goes_straight_to_a_host_that_takes_it() {
    for takes in [true, false] {
        let lab = Lab::new().await;
        lab.world().takes_straight = takes;
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
        let to = takes.then(|| "127.0.0.1:7433".to_owned());
        assert_eq!(lab.world().straight_to, [to]);
        let straight_bytes = if takes { 60 << 20 } else { 0 };
        assert_eq!(migration.figures.expect("figures").copied_bytes, straight_bytes + 3000);
        let records = manager.journal().records(&id, 0).expect("records");
        let told = records.iter().map(|record| record.fact.to_string()).collect::<String>();
        let said = "RAM straight to the destination's host, 62914560 bytes by tcp";
        assert_eq!(told.contains(said), takes, "{told}");
    }
}

#[tokio::test]
async fn a_straight_capture_may_take_its_time_and_not_for_ever() {
    // 65 MiB, twice, at 64 MiB a second.
    let longest = PACE.straight(65 << 20, 0);
    assert!(longest > PACE.capture);
    for (takes, state) in [
        (longest - Duration::from_millis(500), MigrationState::Completed),
        (Duration::from_secs(600), MigrationState::Aborted),
    ] {
        let lab = Lab::new().await;
        {
            let mut world = lab.world();
            (world.takes_straight, world.capture_takes) = (true, takes);
        }
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), state, "{}", migration.message);
        if state == MigrationState::Aborted {
            let said = "capture failed: host `h1` did not answer Capture within";
            assert!(migration.message.starts_with(said), "{}", migration.message);
            lab.assert_source_owns_everything();
        }
    }
}

#[tokio::test]
async fn a_boot_has_no_ram_to_send() {
    let lab = Lab::new().await;
    lab.world().takes_straight = true;
    let manager = lab.manager().await;
    let spec = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        ..order()
    };
    let id = manager.start(Some(spec)).await.expect("started");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    assert_eq!(lab.world().straight_to, [None]);
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
async fn a_copy_that_breaks_is_asked_for_again() {
    for refused in [true, false] {
        let lab = Lab::new().await;
        if refused {
            let away = Status::unavailable("the destination's host cannot be reached");
            lab.fail("SendTwin", [Fault::Refuse(away)]);
        } else {
            lab.world().copies_break_after = vec![1000];
        }
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
        assert_eq!((lab.called("Capture"), lab.called("SendTwin")), (1, 2));
        lab.assert_destination_owns_everything();
    }
}

#[tokio::test]
async fn a_copy_that_gets_on_between_its_breaks_is_not_given_up() {
    let lab = Lab::new().await;
    // With the pause behind each, longer than all attempts without progress may take.
    lab.world().copies_break_after = (1..=100).map(|at| at * 10).collect();
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.called("SendTwin"), 101);
}

#[tokio::test]
async fn a_copy_that_stays_broken_ends_at_the_source() {
    let lab = Lab::new().await;
    lab.world().copies_break_after = vec![1000; 10_000];
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted, "{}", migration.message);
    for part in ["copy failed: host `h1`", "connection reset", "no more has arrived", "reach each"]
    {
        assert!(migration.message.contains(part), "{part}: {}", migration.message);
    }
    assert!(lab.called("SendTwin") > 3);
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn an_operator_can_abort_a_copy_that_stays_broken() {
    let lab = Lab::new().await;
    lab.world().copies_break_after = vec![1000; 10_000];
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    recorded(&manager, &id, started(Phase::Copy)).await;
    manager.abort(&id).await.expect("aborted");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert_eq!(migration.message, "aborted by an operator");
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn a_capture_that_breaks_is_begun_anew_for_a_while() {
    let broken = || Fault::Refuse(Status::unavailable("RAM of guest `vm-a` did not get over"));
    for (breaks, state) in [(2, MigrationState::Completed), (10_000, MigrationState::Aborted)] {
        let lab = Lab::new().await;
        lab.fail("Capture", std::iter::repeat_with(broken).take(breaks));
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), state, "{}", migration.message);
        assert_eq!(lab.called("HoldPort"), lab.called("Capture"));
        if state == MigrationState::Aborted {
            let said = "capture failed: host `h1` refused Capture: RAM of guest `vm-a` did not";
            assert!(migration.message.starts_with(said), "{}", migration.message);
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
async fn killed_between_or_within_any_two_steps_it_completes_exactly_once() {
    let of_mirror = [Phase::Ahead, Phase::Settle, Phase::Mirror, Phase::Continue];
    let phases = tidegate_manager::phase::ALL.into_iter().skip(1);
    for phase in phases.filter(|phase| !of_mirror.contains(phase)) {
        for finished_it in [false, true] {
            let lab = Lab::new().await;
            if phase == Phase::Drain && !finished_it {
                lab.old_sessions.send_replace(3);
            }
            let manager = lab.manager().await;
            let id = manager.start(Some(order())).await.expect("started");
            recorded(&manager, &id, |fact| match fact {
                Fact::Started { phase: begun } => !finished_it && *begun == phase,
                Fact::Finished { phase: done, .. } => finished_it && *done == phase,
                _ => false,
            })
            .await;
            manager.kill();
            drop(manager);
            lab.old_sessions.send_replace(0);
            let manager = lab.manager().await;
            let migration = finished(&manager, &id).await;
            let at = format!("{phase}, finished: {finished_it}: {}", migration.message);
            assert_eq!(migration.state(), MigrationState::Completed, "{at}");
            lab.assert_destination_owns_everything();
            // The fakes refuse a second takeover, cutover and release.
            let world = lab.world();
            assert_eq!((world.destinations_started, world.merges_applied), (1, 1), "{at}");
        }
    }
}

#[tokio::test]
async fn a_switch_that_cannot_hold_a_port_does_not_end_the_migration() {
    for call in ["HoldPort", "ReleasePort"] {
        let lab = Lab::new().await;
        lab.fail(call, [Fault::Refuse(Status::unimplemented("an older one"))]);
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), MigrationState::Completed, "{call}: {}", migration.message);
        assert_eq!(migration.figures.expect("figures").held_packets, None);
    }
}

#[tokio::test]
async fn a_hold_that_is_not_prolonged_once_is_prolonged_again() {
    let lab = Lab::new().await;
    lab.world().capture_takes = 5 * PACE.hold_again;
    let busy = Fault::Refuse(Status::unavailable("busy"));
    lab.fail("HoldPort", [Fault::None, busy]);
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert!(lab.called("HoldPort") > 2, "{}", lab.called("HoldPort"));
    assert_eq!(migration.figures.expect("figures").held_packets, Some(17));
}

#[tokio::test]
async fn a_capture_that_fails_leaves_no_port_held() {
    let lab = Lab::new().await;
    lab.fail("Capture", [Fault::Refuse(Status::failed_precondition("its twin has no room"))]);
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted, "{}", migration.message);
    assert_eq!((lab.called("HoldPort"), lab.called("ReleasePort")), (1, 1));
}

#[tokio::test]
async fn answers_lost_with_the_manager_are_found_again() {
    for call in ["Takeover", "SetDestination", "Capture", "StartDestination", "Cutover", "Release"]
    {
        let lab = Lab::new().await;
        lab.old_sessions.send_replace(1);
        // While memory goes over and past the cutover a lost answer is retried within the step; else it aborts.
        let manager = lab.manager().await;
        let lost = Fault::LoseAnswer(Status::unavailable("connection lost"));
        lab.fail(call, [lost]);
        let id = manager.start(Some(order())).await.expect("started");
        lab.old_sessions.send_replace(0);
        let migration = finished(&manager, &id).await;
        if matches!(call, "Capture" | "Cutover" | "Release") {
            assert_eq!(
                migration.state(),
                MigrationState::Completed,
                "{call}: {}",
                migration.message
            );
            lab.assert_destination_owns_everything();
        } else {
            assert_eq!(migration.state(), MigrationState::Aborted, "{call}");
            lab.assert_source_owns_everything();
        }
    }
}

#[tokio::test]
async fn stopped_in_the_middle_of_a_drain_it_goes_on_after_a_restart() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(5);
    let (manager, id) = draining(&lab).await;
    manager.stop().await;
    drop(manager);
    {
        let world = lab.world();
        assert_eq!(world.address.state(), AddressState::Draining, "the switch keeps steering");
        assert_eq!(world.guests["h1"]["vm-a"].state(), GuestState::Running, "the source serves");
    }
    let manager = lab.manager().await;
    lab.old_sessions.send_replace(0);
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    assert_eq!(lab.called("Cutover"), 1);
}

#[tokio::test]
async fn a_broken_drain_stream_is_opened_again_also_when_the_switch_was_away() {
    let mut lab = Lab::new().await;
    lab.old_sessions.send_replace(5);
    lab.world().streams_to_break = 3;
    let (manager, id) = draining(&lab).await;
    while lab.called("WatchMigration") < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.unserve("edge").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    lab.serve("edge").await;
    lab.old_sessions.send_replace(0);
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
}

#[tokio::test]
async fn a_switch_that_comes_back_without_the_cutover_ends_the_migration_at_the_source() {
    for knows_the_address in [true, false] {
        let mut lab = Lab::new().await;
        lab.old_sessions.send_replace(5);
        let as_configured = lab.world().address.clone();
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        recorded(&manager, &id, started(Phase::Drain)).await;
        while lab.called("WatchMigration") == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lab.unserve("edge").await;
        lab.world().streams_to_break = 1;
        while lab.world().streams_to_break > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lab.world().address = as_configured;
        if !knows_the_address {
            let gone = Status::not_found("address 10.0.0.1 is not managed by this box");
            // Asked for by the drain and by the abort.
            lab.fail("GetAddress", [Fault::Refuse(gone.clone()), Fault::Refuse(gone)]);
        }
        lab.serve("edge").await;
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), MigrationState::Aborted);
        for part in ["`edge`", "no longer knows", "10.0.0.1", "restarted", "start the migration"] {
            assert!(migration.message.contains(part), "{part}: {}", migration.message);
        }
        lab.assert_source_owns_everything();
    }
}

#[tokio::test]
async fn a_source_that_dies_while_it_drains_does_not_take_the_destination_along() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let (manager, id) = draining(&lab).await;
    lab.kill_source();
    let error = manager.abort(&id).await.expect_err("there is nobody to give back to");
    assert!(error.to_string().contains("source `vm-a` does not run any more"), "{error}");
    // Its memory is still there, so the migration can complete.
    lab.old_sessions.send_replace(0);
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn with_a_dead_source_a_failed_step_keeps_the_destination_and_can_be_resumed() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let (manager, id) = draining(&lab).await;
    lab.kill_source();
    lab.fail("SendDiff", [Fault::Refuse(Status::internal("a bad day"))]);
    lab.old_sessions.send_replace(0);
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed);
    for part in ["a bad day", "source `vm-a` does not run any more", "tidegate resume"] {
        assert!(migration.message.contains(part), "{part}: {}", migration.message);
    }
    lab.assert_destination_is_kept();
    manager.resume_failed(&id).await.expect("resumed");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_source_host_that_does_not_answer_does_not_take_the_destination_along() {
    let mut lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let (manager, id) = draining(&lab).await;
    lab.unserve("h1").await;
    let error = manager.abort(&id).await.expect_err("nobody knows whether it runs").to_string();
    assert!(error.contains("host `h1` cannot be reached"), "{error}");
    lab.old_sessions.send_replace(0);
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed);
    for part in ["quiesce failed", "Whether the source still runs is not known", "tidegate resume"]
    {
        assert!(migration.message.contains(part), "{part}: {}", migration.message);
    }
    lab.assert_destination_is_kept();
    lab.serve("h1").await;
    manager.resume_failed(&id).await.expect("resumed");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_source_that_dies_at_a_cutover_without_an_answer_leaves_the_destination() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    lab.fail("Cutover", [Fault::LoseAnswerAndSource(Status::internal("the box is confused"))]);
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed, "{}", migration.message);
    lab.assert_destination_is_kept();
    manager.resume_failed(&id).await.expect("resumed");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn a_passed_deadline_with_a_dead_source_can_be_resumed() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(2);
    let manager = lab.manager().await;
    let spec = MigrationSpec { drain_deadline_s: 1, ..order() };
    let id = manager.start(Some(spec)).await.expect("started");
    recorded(&manager, &id, started(Phase::Drain)).await;
    lab.kill_source();
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Failed);
    for part in ["deadline of 1 s passed", "source `vm-a` does not run any more"] {
        assert!(migration.message.contains(part), "{part}: {}", migration.message);
    }
    lab.assert_destination_is_kept();
    // Still not drained when it is taken up again: its time begins anew.
    manager.resume_failed(&id).await.expect("resumed");
    tokio::time::sleep(Duration::from_millis(100)).await;
    lab.old_sessions.send_replace(0);
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    lab.assert_destination_owns_everything();
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
