//! Memory goes by what the order says, and as fast.

use tidegate_api::{
    host::Safety,
    manager::{FinishMode, MigrationSpec, MigrationState},
};
use tidegate_manager::{phase::Phase, record::Fact};

use crate::{
    fakes::{Lab, finished, order, recorded},
    preflight::refusal,
};

fn capped() -> MigrationSpec {
    MigrationSpec { bandwidth_mbps: 800, transport: "fabric:tcp".to_owned(), ..order() }
}

/// How the source's host was told to send.
async fn sent(spec: MigrationSpec) -> Vec<(&'static str, Option<u64>, String)> {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let id = manager.start(Some(spec.clone())).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(migration.spec.expect("spec").bandwidth_mbps, spec.bandwidth_mbps);
    lab.world().sent.clone()
}

#[tokio::test]
async fn left_out_it_is_as_the_host_is_configured() {
    let plain = String::new();
    assert_eq!(
        sent(order()).await,
        [("SendTwin", Some(0), plain.clone()), ("SendDiff", None, plain)]
    );
}

#[tokio::test]
async fn each_copy_goes_as_the_order_says() {
    let by = "fabric:tcp;ofi_rxm".to_owned();
    let expected = [("SendTwin", Some(800), by.clone()), ("SendDiff", Some(800), by.clone())];
    assert_eq!(sent(capped()).await, expected);
    let mirror = MigrationSpec { finish: FinishMode::Mirror.into(), ..capped() };
    // An image has a stream of its own.
    let own = String::new;
    let expected = [
        ("SendTwin", Some(800), by),
        ("SendAhead", Some(800), own()),
        ("SendImage", Some(800), own()),
    ];
    assert_eq!(sent(mirror).await, expected);
}

#[tokio::test]
async fn what_is_sent_while_the_guest_stands_has_a_bandwidth_of_its_own() {
    let by = "fabric:tcp;ofi_rxm".to_owned();
    for mbps in [0, 8000] {
        let spec = |finish: FinishMode| MigrationSpec {
            finish: finish.into(),
            final_bandwidth_mbps: Some(mbps),
            ..capped()
        };
        let copied = ("SendTwin", Some(800), by.clone());
        let expected = [copied.clone(), ("SendDiff", Some(mbps), by.clone())];
        assert_eq!(sent(spec(FinishMode::Merge)).await, expected);
        // What goes ahead goes while the guest runs.
        let [ahead, last] = [("SendAhead", 800), ("SendImage", mbps)]
            .map(|(call, mbps)| (call, Some(mbps), String::new()));
        assert_eq!(sent(spec(FinishMode::Mirror)).await, [copied, ahead, last]);
    }
}

#[tokio::test]
async fn a_dry_run_of_the_diff_goes_so_too() {
    for (final_bandwidth_mbps, mbps) in [(None, 800), (Some(8000), 8000), (Some(0), 0)] {
        let lab = Lab::new().await;
        lab.old_sessions.send_replace(1);
        let manager = lab.manager().await;
        let spec = MigrationSpec { final_bandwidth_mbps, ..capped() };
        let id = manager.start(Some(spec)).await.expect("started");
        recorded(&manager, &id, |fact| *fact == Fact::Started { phase: Phase::Drain }).await;
        manager.dry_run(&id).await.expect("answered");
        let by = "fabric:tcp;ofi_rxm".to_owned();
        assert_eq!(lab.world().sent.last(), Some(&("DryRunDiff", Some(mbps), by)));
    }
}

#[tokio::test]
async fn the_plan_says_it_when_it_was_asked_for() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let (_, findings) = manager.plan(Some(capped())).await.expect("plan");
    let check = findings.checks.iter().find(|check| check.name == "carriage").expect("made");
    assert_eq!(check.result, Ok("by fabric:tcp;ofi_rxm, at most 800 Mbit/s".to_owned()));
}

#[tokio::test]
async fn what_the_source_s_host_cannot_do_is_refused_before_anything_changes() {
    let lab = Lab::new().await;
    let detail =
        "transport: the data path fabric:tcp;ofi_rxm cannot be taken: libfabric is not installed";
    let (name, detail) = ("fabric:tcp;ofi_rxm".to_owned(), detail.to_owned());
    lab.world().carriage = Some(Safety { name, detail: detail.clone(), ..Safety::default() });
    assert_eq!(refusal(&lab, capped()).await, format!("carriage: {detail}"));
    // It may be configured so.
    assert_eq!(refusal(&lab, order()).await, format!("carriage: {detail}"));
    let to = "127.0.0.1:7433".to_owned();
    let by = "fabric:tcp;ofi_rxm".to_owned();
    assert_eq!(lab.world().carriages_asked, [(by, to.clone()), (String::new(), to)]);
}

#[tokio::test]
async fn what_no_host_can_do_is_refused_before_anything_changes() {
    let lab = Lab::new().await;
    let pigeon = MigrationSpec { transport: "pigeon".to_owned(), ..order() };
    let text = refusal(&lab, pigeon).await;
    assert!(text.starts_with("transport: `pigeon` is no transport; use auto, tcp, fab"), "{text}");
    let bytes = MigrationSpec { bandwidth_mbps: 125_000_000, ..order() };
    let text = refusal(&lab, bytes).await;
    assert!(text.starts_with("bandwidth_mbps: 125000000 is too much; give Mbit/s, at"), "{text}");
    let finish = FinishMode::None.into();
    let none = MigrationSpec { finish, final_bandwidth_mbps: Some(0), ..order() };
    let text = refusal(&lab, none).await;
    assert!(text.starts_with("final_bandwidth_mbps: goes only with MERGE or MIRROR"), "{text}");
}
