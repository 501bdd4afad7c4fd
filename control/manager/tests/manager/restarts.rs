//! Managers and switches that go in the middle of a migration and come back.

use std::time::Duration;

use tidegate_api::{Status, host::GuestState, manager::MigrationState, switch::AddressState};
use tidegate_manager::phase::Phase;

use crate::fakes::{Fault, Lab, draining, finished, order, reached, recorded, started};

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
            recorded(&manager, &id, reached(phase, finished_it)).await;
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
