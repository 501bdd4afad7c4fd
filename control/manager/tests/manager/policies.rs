//! The switch box cuts over by the policies of the order.

use tidegate_api::{
    Status,
    manager::{MigrationSpec, MigrationState},
    switch::{CutoverRequest, Quic, Unknown},
};

use crate::{
    fakes::{Fault, Lab, finished, order},
    preflight::refusal,
};

async fn cut_over(lab: &Lab, spec: MigrationSpec) -> Vec<CutoverRequest> {
    let manager = lab.manager().await;
    let id = manager.start(Some(spec.clone())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let told = migration.spec.expect("spec");
    assert_eq!(told.datagram_max_age_s, spec.datagram_max_age_s);
    assert_eq!(told.ignore_begun_by_source, spec.ignore_begun_by_source);
    lab.world().cutovers.clone()
}

#[tokio::test]
async fn left_out_they_keep_every_session() {
    let lab = Lab::new().await;
    let cutovers = cut_over(&lab, order()).await;
    let expected = CutoverRequest {
        address: "10.0.0.1".to_owned(),
        unknown_tcp: Unknown::Source.into(),
        unknown_quic: Unknown::Source.into(),
        ..CutoverRequest::default()
    };
    assert_eq!(cutovers, [expected]);
}

#[tokio::test]
async fn each_reaches_the_box_also_at_a_second_attempt() {
    let lab = Lab::new().await;
    lab.fail("Cutover", [Fault::Refuse(Status::unavailable("a worker is slow"))]);
    let spec = MigrationSpec {
        unknown_tcp: Unknown::Drop.into(),
        unknown_quic: Unknown::Destination.into(),
        datagram_max_age_s: 300,
        ignore_begun_by_source: true,
        ..order()
    };
    let (_, findings) = lab.manager().await.plan(Some(spec.clone())).await.expect("plan");
    let check = findings.checks.iter().find(|check| check.name == "policies").expect("made");
    let detail = check.result.clone().expect("good");
    assert!(detail.starts_with("TCP of no known session is dropped; QUIC of no"), "{detail}");
    let unsaid = "; but 10.0.0.1 speaks no QUIC at the box: all UDP is alike";
    assert!(check.warning && detail.ends_with(unsaid), "{detail}");
    lab.world().address.quic = Some(Quic { connection_id_length: 8, ports: vec![443] });
    let (_, findings) = lab.manager().await.plan(Some(spec.clone())).await.expect("plan");
    assert!(findings.ok() && findings.checks.iter().all(|check| !check.warning), "{findings:?}");
    let expected = CutoverRequest {
        address: "10.0.0.1".to_owned(),
        unknown_tcp: Unknown::Drop.into(),
        unknown_quic: Unknown::Destination.into(),
        datagram_max_age_s: 300,
        ignore_begun_by_source: true,
    };
    let cutovers = cut_over(&lab, spec).await;
    assert!(!cutovers.is_empty() && cutovers.iter().all(|it| *it == expected), "{cutovers:?}");
}

#[tokio::test]
async fn what_the_box_would_refuse_is_refused_first() {
    let lab = Lab::new().await;
    let long = MigrationSpec { datagram_max_age_s: 604_801, ..order() };
    assert!(refusal(&lab, long).await.starts_with("datagram_max_age_s: 604801 is too long"));
    let unknown = MigrationSpec { unknown_tcp: 9, ..order() };
    assert!(refusal(&lab, unknown).await.starts_with("unknown_tcp: 9 is unknown; say SOURCE"));
}
