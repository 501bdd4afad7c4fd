//! Copies and captures that break.

use tidegate_api::{Status, manager::MigrationState};
use tidegate_manager::phase::Phase;

use crate::fakes::{Fault, Lab, finished, order, recorded, started};

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
