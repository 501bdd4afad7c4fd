//! A destination behind another switch.

use tidegate_api::{
    manager::{self as proto, MigrationSpec, MigrationState},
    switch::{Backend, Encap, EncapKind, Rewrite},
};

use tidegate_manager::{phase::Phase, record::Fact};

use crate::{
    fakes::{Lab, finished, order},
    preflight::refusal,
};

fn vxlan() -> Encap {
    Encap {
        kind: EncapKind::Vxlan.into(),
        remote: "192.0.2.7".to_owned(),
        local: "192.0.2.1".to_owned(),
        vni: 7,
        udp_port: 0,
    }
}

fn ipip() -> Encap {
    Encap {
        kind: EncapKind::Ipip.into(),
        remote: "2001:db8:2::7".to_owned(),
        local: "2001:db8:2::1".to_owned(),
        ..Encap::default()
    }
}

/// A clone behind `encap`, and no port is named.
fn behind(encap: Encap) -> MigrationSpec {
    MigrationSpec { destination_port: String::new(), destination_encap: Some(encap), ..order() }
}

/// The destination as the switch got it.
async fn told(lab: &Lab, spec: MigrationSpec) -> Backend {
    let manager = lab.manager().await;
    let id = manager.start(Some(spec)).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    lab.world().address.home.clone().expect("home")
}

#[tokio::test]
async fn a_clone_goes_behind_a_tunnel_that_carries_frames() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let (_, findings) = manager.plan(Some(behind(vxlan()))).await.expect("plan");
    let detail = |name| {
        let check = findings.checks.iter().find(|check| check.name == name).expect("made");
        check.result.clone().expect("good")
    };
    assert_eq!(detail("destination port"), "VXLAN 7 from 192.0.2.1 to 192.0.2.7, at port `up`");
    assert_eq!(detail("rewrite"), "l2, in VXLAN 7 from 192.0.2.1 to 192.0.2.7");
    drop(manager);
    let there = told(&lab, behind(vxlan())).await;
    let expected = Backend {
        name: "vm-b".to_owned(),
        port: "up".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        rewrite: Rewrite::L2.into(),
        locator: String::new(),
        encap: Some(Encap { udp_port: 4789, ..vxlan() }),
    };
    assert_eq!(there, expected);
}

#[tokio::test]
async fn where_no_frames_go_the_switch_is_told_no_mac() {
    let lab = Lab::new().await;
    let spec = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        destination_boot_wait_s: 1,
        ..behind(ipip())
    };
    let there = told(&lab, spec).await;
    assert_eq!((there.mac.as_str(), there.locator.as_str()), ("", "10.1.0.9"));
    assert_eq!(there.encap, Some(ipip()));
    let guest = lab.world().guests["h2"]["vm-b"].clone();
    assert_eq!(guest.spec.expect("spec").nics[0].mac, "02:00:00:00:00:09", "the guest has one");
}

#[tokio::test]
async fn a_restarted_manager_knows_its_destination_as_the_switch_writes_it() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(behind(vxlan()))).await.expect("started");
    while lab.called("SetDestination") == 0 {
        tokio::task::yield_now().await;
    }
    manager.kill();
    drop(manager);
    let manager = lab.manager().await;
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.called("SetDestination"), 1);
    let records = manager.journal().records(&id, 0).expect("records");
    let at = |fits: fn(&Fact) -> bool| records.iter().position(|record| fits(&record.fact));
    let resumed = at(|fact| matches!(fact, Fact::Resumed { .. }));
    let taken_over = at(|fact| matches!(fact, Fact::Finished { phase: Phase::Takeover, .. }));
    assert!(resumed.is_some() && resumed < taken_over, "killed within the takeover: {records:?}");
}

#[tokio::test]
async fn what_does_not_go_together_is_said_before_anything_changes() {
    let lab = Lab::new().await;
    let nowhere = MigrationSpec { destination_port: String::new(), ..order() };
    let text = refusal(&lab, nowhere).await;
    assert!(text.starts_with("destination_port: missing; name the destination's port"), "{text}");

    let text = refusal(&lab, behind(Encap { vni: 1 << 24, ..vxlan() })).await;
    assert!(text.starts_with("destination_encap.vni: 16777216 is too large"), "{text}");

    let text = refusal(&lab, behind(Encap { local: "192.0.2.9".to_owned(), ..vxlan() })).await;
    assert!(
        text.starts_with(
            "destination port: 192.0.2.9 is no address of switch `edge`; it has 192.0.2.1/24, "
        ),
        "{text}"
    );

    let text = refusal(&lab, behind(Encap { remote: "169.254.1.1".to_owned(), ..vxlan() })).await;
    assert!(
        text.contains("169.254.1.1 is an address of switch `edge` itself, on port `vm0`"),
        "{text}"
    );

    let spec = MigrationSpec { destination_port: "vm7".to_owned(), ..behind(vxlan()) };
    assert!(refusal(&lab, spec).await.contains("has no port `vm7`"));

    // Of two guests behind one tunnel none can be told from the other, unless each has a locator.
    lab.world().address.home.as_mut().expect("home").encap =
        Some(Encap { udp_port: 4789, ..vxlan() });
    let text = refusal(&lab, behind(vxlan())).await;
    assert!(text.contains("VXLAN 7 from 192.0.2.1 to 192.0.2.7 is the source's tunnel"), "{text}");
    let manager = lab.manager().await;
    let (_, findings) =
        manager.plan(Some(behind(Encap { vni: 8, ..vxlan() }))).await.expect("plan");
    assert!(findings.ok(), "{findings:?}");
}
