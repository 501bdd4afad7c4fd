//! Managed addresses of both families, in orders and in journals that were written when there was one.

use tidegate_api::{
    host::Socket,
    manager::{self as proto, MigrationSpec, MigrationState, SessionList},
    switch::Rewrite,
};
use tidegate_manager::{record::Fact, spec::Policies};

use crate::{
    fakes::{Lab, finished, order},
    preflight::refusal,
    sessions::socket,
};

const MANAGED: &str = "2001:db8::100";
const SOURCE: &str = "2001:db8:8::11";

/// The address is IPv6, its home is reached by nat.
async fn lab() -> Lab {
    let lab = Lab::new().await;
    {
        let mut world = lab.world();
        world.address.address = MANAGED.to_owned();
        let home = world.address.home.as_mut().expect("home");
        home.set_rewrite(Rewrite::Nat);
        home.locator = SOURCE.to_owned();
    }
    lab
}

fn booted(locator: &str) -> MigrationSpec {
    MigrationSpec {
        address: MANAGED.to_owned(),
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: locator.to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        destination_boot_wait_s: 1,
        ..order()
    }
}

#[tokio::test]
async fn an_ipv6_address_moves_with_its_sessions() {
    let lab = lab().await;
    let from = |local: &str, port| Socket {
        remote_address: "2001:db8:7::7".to_owned(),
        ..socket(local, port)
    };
    let path = lab.state_dir().join("list");
    let line = format!("tcp ESTAB 0 0 [{MANAGED}]:7000 [2001:db8:7::7]:3\n");
    // The last one is IPv4 and no session of the address.
    std::fs::write(&path, line + "tcp ESTAB 0 0 10.0.0.1:7000 192.0.2.7:4\n").expect("written");
    lab.world().sockets = [from(MANAGED, 1), from(SOURCE, 2), from("2001:db8::101", 9)].into();
    let manager = lab.manager().await;
    for (list, path, many) in [
        (SessionList::Agent, "", 2),
        (SessionList::Conntrack, "", 2),
        (SessionList::File, path.to_str().expect("text"), 1),
    ] {
        let listed = MigrationSpec {
            session_list: list.into(),
            session_list_path: path.to_owned(),
            ..booted("2001:db8:8::12")
        };
        let (_, findings) = manager.plan(Some(listed)).await.expect("plan");
        assert!(findings.ok(), "{findings:?}");
        let check = findings.checks.iter().find(|check| check.name == "session list");
        let detail = check.expect("made").result.clone().expect("good");
        assert!(detail.starts_with(&format!("{many} session(s), ")), "{detail}");
    }

    let id = manager.start(Some(booted("2001:DB8:8:0::12"))).await.expect("started");
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(migration.figures.expect("figures").imported_sessions, 2);
    let world = lab.world();
    let home = world.address.home.as_ref().expect("home");
    assert_eq!((home.name.as_str(), home.locator.as_str()), ("vm-b", "2001:db8:8::12"));
    assert_eq!(world.lists_asked.last().expect("asked").addresses, [MANAGED, SOURCE]);
}

#[tokio::test]
async fn an_address_and_its_locator_are_of_one_family() {
    let lab = lab().await;
    let text = refusal(&lab, booted("10.1.0.9")).await;
    assert_eq!(
        text,
        "destination_locator: 10.1.0.9 is of another IP family than 2001:db8::100; give the guest's address of \
         the same family"
    );
    let v4 = MigrationSpec { address: "10.0.0.1".to_owned(), ..booted("2001:db8::9") };
    assert!(refusal(&lab, v4).await.starts_with("destination_locator: 2001:db8::9 is of another"));
    for no_address in ["2001:db8::9/64", "ff02::1", "::", "::1", "0.0.0.0"] {
        let text = refusal(&lab, booted(no_address)).await;
        let says = format!("destination_locator: `{no_address}` is not a unicast IP address");
        assert!(text.starts_with(&says), "{text}");
    }
    // Written in another way, and yet the source's.
    let text = refusal(&lab, booted("2001:DB8:8:0:0::11")).await;
    assert!(text.contains("the locator 2001:db8:8::11 is the source's"), "{text}");
}

/// As the last version before IPv6 wrote it.
const OLD_RECORD: &str = r#"{"fact":"accepted","spec":{"address":"10.0.0.1","switch":"edge",
    "source_host":"h1","source_guest":"vm-a","destination_host":"h2","destination_guest":"vm-b",
    "kind":"boot","finish":"merge","regions":[],"port":"vm1","mac":"02:00:00:00:00:09",
    "locator":"10.1.0.9","vhost_socket":"/run/vm1.sock","cmdline":null,"keep_source":false,
    "keep_tracking":false,"boot_wait_s":10,"ready_text":null,"session_list":"auto",
    "drain_deadline_s":null}}"#;

#[test]
fn an_order_of_an_old_journal_is_still_understood() {
    let Fact::Accepted { spec } = serde_json::from_str(OLD_RECORD).expect("understood") else {
        panic!("not an order")
    };
    assert_eq!(spec.address.to_string(), "10.0.0.1");
    assert_eq!(spec.locator.map(|it| it.to_string()).as_deref(), Some("10.1.0.9"));
    assert_eq!((spec.port.as_deref(), spec.encap), (Some("vm1"), None));
    assert_eq!(spec.policies, Policies::default());
    // And what is written now is read as it was.
    let written = serde_json::to_string(&Fact::Accepted { spec: spec.clone() }).expect("written");
    let read: Fact = serde_json::from_str(&written).expect("read");
    assert_eq!(read, Fact::Accepted { spec });
}
