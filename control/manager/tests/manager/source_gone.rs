//! A source that does not run any more: the destination stays.

use std::time::Duration;

use tidegate_api::{
    Status,
    manager::{MigrationSpec, MigrationState},
};
use tidegate_manager::phase::Phase;

use crate::fakes::{Fault, Lab, draining, finished, order, recorded, started};

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
