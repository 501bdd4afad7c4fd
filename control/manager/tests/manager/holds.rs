//! The source's port is held while it is captured.

use tidegate_api::{Status, manager::MigrationState};

use crate::fakes::{Fault, Lab, PACE, finished, order};

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
