//! What is refused before anything changes, and in which words.

use crate::fakes::{Lab, order};
use tidegate_api::{
    Status,
    host::GuestState,
    manager::{self as proto, MigrationSpec},
    switch::{AddressState, Rewrite},
};

const WRITTEN: &str =
    "address: `ten` is not a unicast IP address; write it as in 10.0.0.1 or 2001:db8::1";

/// The refusal of `spec`; and nothing has changed.
pub(crate) async fn refusal(lab: &Lab, spec: MigrationSpec) -> String {
    let (address, guests) = {
        let world = lab.world();
        (world.address.clone(), world.guests.clone())
    };
    let manager = lab.manager().await;
    let error = manager.start(Some(spec)).await.expect_err("refused").to_string();
    assert_eq!(lab.world().address, address);
    assert_eq!(lab.world().guests, guests);
    assert!(manager.journal().migrations().expect("list").is_empty());
    error
}

#[tokio::test]
async fn a_plan_lists_every_check_and_step() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let (_, findings) = manager.plan(Some(order())).await.expect("plan");
    let names: Vec<_> = findings.checks.iter().map(|check| check.name).collect();
    assert!(findings.ok(), "{findings:?}");
    assert_eq!(
        names,
        [
            "address free",
            "switch reachable",
            "address known",
            "address not in a migration",
            "destination port",
            "source port",
            "source host reachable",
            "source running",
            "source can be captured",
            "twin space",
            "regions",
            "session list",
            "destination host reachable",
            "destination name free",
            "qemu versions",
            "network card",
            "rewrite",
            "policies",
            "destination memory",
        ]
    );
    let twin = findings.checks.iter().find(|check| check.name == "twin space").expect("checked");
    let said = twin.result.as_ref().expect("fine");
    assert!(said.ends_with(" bytes free; of RAM is kept: a hash a page, 262208 bytes"), "{said}");
    let harmless = ["GetAddress", "GetGuest", "CheckCapture", "ListSockets"];
    assert!(lab.world().calls.iter().all(|call| harmless.contains(&call.as_str())));
}

#[tokio::test]
async fn orders_that_make_no_sense_name_the_field() {
    let lab = Lab::new().await;
    let same = MigrationSpec {
        destination_guest: "vm-a".to_owned(),
        destination_host: String::new(),
        ..order()
    };
    let text = refusal(&lab, same).await;
    assert!(text.contains("destination_guest: `vm-a` on host `h1` is the source itself"), "{text}");
    let no_address = MigrationSpec { address: "ten".to_owned(), ..order() };
    assert_eq!(refusal(&lab, no_address).await, WRITTEN);
    let no_host = MigrationSpec { source_host: "h9".to_owned(), ..order() };
    let text = refusal(&lab, no_host).await;
    assert!(text.contains("`h9` is not configured in this manager; it knows `h1`, `h2`"), "{text}");
    let which = MigrationSpec { source_host: String::new(), ..order() };
    assert!(refusal(&lab, which).await.contains("which one?"));
    let kind = MigrationSpec { kind: proto::DestinationKind::Boot.into(), ..order() };
    assert!(refusal(&lab, kind).await.contains("destination_mac: missing"));
}

#[tokio::test]
async fn peers_that_are_away_are_named() {
    let mut lab = Lab::new().await;
    lab.unserve("h2").await;
    let text = refusal(&lab, order()).await;
    assert!(
        text.starts_with("destination host reachable: host `h2` cannot be reached at"),
        "{text}"
    );
    assert!(text.contains("see that tidegate-hostd runs there"), "{text}");
    lab.unserve("edge").await;
    let text = refusal(&lab, order()).await;
    assert!(text.starts_with("switch reachable: switch `edge` cannot be reached at"), "{text}");
}

#[tokio::test]
async fn what_does_not_fit_is_found_before_anything_changes() {
    let lab = Lab::new().await;
    let unknown = MigrationSpec { address: "10.0.0.7".to_owned(), ..order() };
    let text = refusal(&lab, unknown).await;
    assert!(text.contains("switch `edge` does not know 10.0.0.7"), "{text}");

    let port = MigrationSpec { destination_port: "vm7".to_owned(), ..order() };
    let text = refusal(&lab, port).await;
    assert!(text.contains("has no port `vm7`; it has up, vm0, vm1"), "{text}");

    let port = MigrationSpec { destination_port: "vm0".to_owned(), ..order() };
    assert!(refusal(&lab, port).await.contains("port `vm0` is the source's"));

    let regions = MigrationSpec { regions: vec!["sums".to_owned()], ..order() };
    let text = refusal(&lab, regions).await;
    assert!(text.contains("`vm-a` has no region `sums`; it has counts"), "{text}");

    let located = MigrationSpec { destination_locator: "10.1.0.9".to_owned(), ..order() };
    assert!(refusal(&lab, located).await.contains("a clone has the source's addresses"));

    let mac = MigrationSpec { destination_mac: "02:00:00:00:00:77".to_owned(), ..order() };
    assert!(refusal(&lab, mac).await.contains("a clone has the source's MAC"));

    lab.world().twin_free_bytes = 1000;
    let text = refusal(&lab, order()).await;
    assert!(text.contains("the twin needs 68157440 bytes, host `h1` has 1000 free"), "{text}");
    lab.world().twin_free_bytes = 1 << 30;

    lab.world().qemu_versions.insert("h2".to_owned(), "8.0.0".to_owned());
    let text = refusal(&lab, order()).await;
    assert!(text.contains("source's host has QEMU 7.2.22, the destination's 8.0.0"), "{text}");
    lab.world().qemu_versions.insert("h2".to_owned(), "7.2.22".to_owned());

    let not_shared = "guest vm-a has no shared RAM file; start it with memory_shared = true";
    lab.world().capture_refusal = Some(Status::failed_precondition(not_shared));
    let text = refusal(&lab, order()).await;
    assert!(text.contains("host `h1` refused CheckCapture: guest vm-a has no shared"), "{text}");
    lab.world().capture_refusal = None;

    let taken = crate::fakes::guest("vm-b");
    lab.world().guests.get_mut("h2").expect("h2").insert("vm-b".to_owned(), taken);
    let text = refusal(&lab, order()).await;
    assert!(text.contains("host `h2` has a guest `vm-b` already"), "{text}");
    lab.world().guests.get_mut("h2").expect("h2").clear();

    lab.world().address.home.as_mut().expect("home").set_rewrite(Rewrite::Nat);
    assert!(refusal(&lab, order()).await.contains("boot the destination with a locator"));
    lab.world().address.home.as_mut().expect("home").set_rewrite(Rewrite::L2);

    lab.world().address.set_state(AddressState::Draining);
    assert!(refusal(&lab, order()).await.contains("is in a migration on switch `edge`"));
    lab.world().address.set_state(AddressState::Tracked);

    let paused = |lab: &Lab| {
        let mut world = lab.world();
        let guest = world.guests.get_mut("h1").and_then(|guests| guests.get_mut("vm-a"));
        guest.expect("vm-a").set_state(GuestState::Paused);
    };
    paused(&lab);
    let text = refusal(&lab, order()).await;
    assert!(text.contains("`vm-a` on host `h1` is paused"), "{text}");
}
