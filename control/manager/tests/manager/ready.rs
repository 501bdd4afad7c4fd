//! A booted destination that says when it is ready.

use std::time::Duration;

use tidegate_api::{
    manager::{self as proto, MigrationSpec, MigrationState, Phase as ProtoPhase},
    switch::AddressState,
};
use tidegate_manager::{migrations::Migrations, phase::Phase, record::MigrationId};

use crate::fakes::{Lab, finished, order};

/// A booted destination that prints `service: ready` when it serves.
fn boot() -> MigrationSpec {
    MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        // Longer than a test may take: only the text counts.
        destination_boot_wait_s: 3600,
        destination_ready_text: "service: ready".to_owned(),
        ..order()
    }
}

/// Wait until the host was asked `times` to start the destination.
async fn asked(lab: &Lab, times: usize) {
    while lab.called("StartDestination") < times {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A little later it still waits.
async fn assert_waits(lab: &Lab, manager: &Migrations, id: &MigrationId) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let progress = manager.journal().progress(id).expect("progress");
    assert_eq!(progress.begun(), Some(Phase::Destination));
    assert_eq!(lab.world().address.state(), AddressState::Hosted, "not cut over");
}

#[tokio::test]
async fn no_session_goes_to_it_before_it_is_ready_and_no_time_is_lost_then() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(boot())).await.expect("started");
    asked(&lab, 1).await;
    assert_waits(&lab, &manager, &id).await;
    lab.world().console += "service: ready on port 7000\n";
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.assert_destination_owns_everything();
    let spec = migration.spec.expect("spec");
    assert_eq!(
        (spec.destination_ready_text.as_str(), spec.destination_boot_wait_s),
        ("service: ready", 0)
    );
}

#[tokio::test]
async fn a_manager_that_is_started_again_goes_on_waiting() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(boot())).await.expect("started");
    asked(&lab, 1).await;
    manager.stop().await;
    drop(manager);
    let manager = lab.manager().await;
    asked(&lab, 2).await;
    assert_waits(&lab, &manager, &id).await;
    manager.kill();
    drop(manager);
    // Printed while nobody waits.
    lab.world().console += "service: ready\n";
    let manager = lab.manager().await;
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.world().destinations_started, 1);
    lab.assert_destination_owns_everything();
}

#[tokio::test]
async fn one_that_does_not_get_ready_leaves_everything_with_the_source() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    lab.world().console += "service: no disk\n";
    let id = manager.start(Some(boot())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted);
    assert_eq!(migration.phase(), ProtoPhase::Destination);
    assert!(migration.message.contains("service: no disk"), "{}", migration.message);
    assert_eq!(lab.called("StartDestination"), 1, "not waited for over and over");
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn an_operator_can_abort_while_it_is_waited_for() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(boot())).await.expect("started");
    asked(&lab, 1).await;
    manager.abort(&id).await.expect("aborted");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Aborted);
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn a_clone_has_nothing_to_say() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let spec = MigrationSpec { destination_ready_text: "ready".to_owned(), ..order() };
    let error = manager.start(Some(spec)).await.expect_err("refused").to_string();
    assert!(error.starts_with("destination_ready_text: a clone does not boot"), "{error}");
}
