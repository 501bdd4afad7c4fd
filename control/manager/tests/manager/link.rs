//! A clone is made of a source that is connected to the switch, or not at all.

use tidegate_api::{
    manager::{self as proto, MigrationSpec, MigrationState},
    switch::{Encap, EncapKind},
};

use crate::{
    fakes::{Lab, finished, order},
    preflight::refusal,
};

const FOR_EVER: u32 = u32::MAX;

#[tokio::test]
async fn a_source_without_a_link_is_not_cloned() {
    let lab = Lab::new().await;
    lab.world().source_down = FOR_EVER;
    let text = refusal(&lab, order()).await;
    assert!(text.starts_with("source port: port `vm0` of switch `edge` has no link"), "{text}");
    assert!(text.contains("a clone of it would stay silent"), "{text}");
}

#[tokio::test]
async fn a_link_that_comes_up_is_waited_for() {
    let lab = Lab::new().await;
    // The status itself, then the first two looks at the port.
    lab.world().source_down = 3;
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.world().source_down, 0);
}

#[tokio::test]
async fn a_link_that_is_lost_before_the_capture_ends_the_migration_there() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    // The preflight was good: from here on nobody but the capture asks.
    lab.world().source_down = FOR_EVER;
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Aborted, "{}", migration.message);
    assert_eq!(migration.phase(), proto::Phase::Capture);
    let says = "port `vm0` of switch `edge` has no link";
    assert!(migration.message.contains(says), "{}", migration.message);
    assert_eq!(lab.called("Capture"), 0, "nothing was captured");
    lab.assert_source_owns_everything();
}

#[tokio::test]
async fn neither_a_booted_destination_nor_a_source_behind_a_tunnel_needs_it() {
    let lab = Lab::new().await;
    lab.world().source_down = FOR_EVER;
    let booted = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        ..order()
    };
    let manager = lab.manager().await;
    let (_, findings) = manager.plan(Some(booted)).await.expect("plan");
    assert!(findings.ok(), "{findings:?}");

    // Its link is the other switch's.
    lab.world().address.home.as_mut().expect("home").encap = Some(Encap {
        kind: EncapKind::Vxlan.into(),
        remote: "192.0.2.7".to_owned(),
        local: "192.0.2.1".to_owned(),
        vni: 7,
        udp_port: 4789,
    });
    let id = manager.start(Some(order())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
}
