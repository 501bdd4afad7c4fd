//! The source's sessions reach the switch, and it is said when they do not.

use std::time::Duration;

use tidegate_api::{
    Status,
    host::{Socket, SocketSource, SocketState},
    manager::{self as proto, Migration, MigrationSpec, MigrationState, SessionList},
    switch::{ImportedSession, ImportedState, Rewrite},
};

use crate::fakes::{Fault, Lab, finished, order};

/// The source's end of a session from `port`.
pub(crate) fn socket(local: &str, port: u32) -> Socket {
    Socket {
        protocol: 6,
        local_address: local.to_owned(),
        local_port: 7000,
        remote_address: "192.0.2.7".to_owned(),
        remote_port: port,
        state: SocketState::Established.into(),
    }
}

fn listed_by(list: SessionList) -> MigrationSpec {
    MigrationSpec { session_list: list.into(), ..order() }
}

async fn migrated(lab: &Lab, spec: MigrationSpec) -> Migration {
    let manager = lab.manager().await;
    let id = manager.start(Some(spec)).await.expect("started");
    finished(&manager, &id).await
}

/// The check's detail, and whether it warns.
async fn checked(lab: &Lab, spec: MigrationSpec) -> (Result<String, String>, bool) {
    let (_, findings) = lab.manager().await.plan(Some(spec)).await.expect("plan");
    let check = findings.checks.into_iter().find(|check| check.name == "session list");
    check.map(|check| (check.result, check.warning)).expect("the check was made")
}

fn no_agent() -> Fault {
    Fault::Refuse(Status::failed_precondition("guest `vm-a` has no channel for a guest agent"))
}

#[tokio::test]
async fn the_list_is_imported_once_hosted_and_again_right_before_cutover() {
    let lab = Lab::new().await;
    lab.world().sockets =
        [socket("10.0.0.1", 1), socket("10.0.0.1", 2), socket("10.9.9.9", 3)].into();
    let (result, warning) = checked(&lab, order()).await;
    assert_eq!((result.as_deref(), warning), (Ok("2 session(s), by the guest agent"), false));
    lab.world().calls.clear();

    let migration = migrated(&lab, order()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let figures = migration.figures.expect("figures");
    assert_eq!((figures.imported_sessions, figures.session_list_missing.as_str()), (2, ""));
    let world = lab.world();
    let steps = ["SetDestination", "ListSockets", "ImportSessions", "Capture", "Cutover"];
    let made: Vec<_> = world.calls.iter().filter(|call| steps.contains(&call.as_str())).collect();
    assert_eq!(
        made,
        [
            // The preflight's.
            "ListSockets",
            "SetDestination",
            "ListSockets",
            "ImportSessions",
            "Capture",
            "ListSockets",
            "ImportSessions",
            "Cutover"
        ]
    );
    for asked in &world.lists_asked {
        assert_eq!((asked.guest.as_str(), asked.source()), ("vm-a", SocketSource::Agent));
        assert_eq!(asked.addresses, ["10.0.0.1"]);
    }
}

#[tokio::test]
async fn each_comes_in_the_state_it_is_in_and_one_that_opens_does_not() {
    let lab = Lab::new().await;
    let states = [
        (SocketState::Opening, None),
        (SocketState::Established, Some(ImportedState::Established)),
        (SocketState::ClosedLocally, Some(ImportedState::ClosedByBackend)),
        (SocketState::ClosedRemotely, Some(ImportedState::ClosedByClient)),
        (SocketState::Closing, Some(ImportedState::Closing)),
    ];
    for (port, (state, _)) in (1..).zip(states) {
        lab.world().sockets.push(Socket { state: state.into(), ..socket("10.0.0.1", port) });
    }
    let migration = migrated(&lab, order()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let world = lab.world();
    for (port, (_, state)) in (1..).zip(states) {
        let mut imported = world.imported.values();
        let there = imported.find(|session| session.client_port == port);
        assert_eq!(there.map(ImportedSession::state), state);
    }
}

#[tokio::test]
async fn behind_nat_the_source_has_its_own_address() {
    let lab = Lab::new().await;
    {
        let mut world = lab.world();
        let home = world.address.home.as_mut().expect("home");
        home.set_rewrite(Rewrite::Nat);
        home.locator = "10.1.0.5".to_owned();
        // The last one never leaves the guest.
        let own = Socket { remote_address: "10.1.0.5".to_owned(), ..socket("10.1.0.5", 3) };
        world.sockets = [socket("10.0.0.1", 1), socket("10.1.0.5", 2), own].into();
    }
    let spec = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        destination_boot_wait_s: 1,
        ..listed_by(SessionList::Conntrack)
    };
    let migration = migrated(&lab, spec).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(migration.figures.expect("figures").imported_sessions, 2);
    let world = lab.world();
    let asked = world.lists_asked.last().expect("asked");
    assert_eq!(asked.addresses, ["10.0.0.1", "10.1.0.5"]);
    assert_eq!(asked.source(), SocketSource::Conntrack);
    let clients: Vec<_> = world.imported.keys().map(|session| session.1).collect();
    assert_eq!(clients, [1, 2]);
}

#[tokio::test]
async fn without_a_list_it_warns_goes_on_and_says_so() {
    let lab = Lab::new().await;
    lab.world().address.tracked_ms = 90_500;
    lab.fail("ListSockets", [no_agent()]);
    let (result, warning) = checked(&lab, order()).await;
    let detail = result.expect("no failure");
    assert!(warning && detail.contains("has no channel for a guest agent"), "{detail}");
    assert!(detail.contains("10.0.0.1 is tracked for 90 s only"), "{detail}");

    // Who has watched for long enough needs no list.
    lab.world().longest_silence_ms = 90_000;
    lab.fail("ListSockets", [no_agent()]);
    let (result, warning) = checked(&lab, order()).await;
    assert!(!warning && result.expect("fine").starts_with("not needed: "));

    lab.fail("ListSockets", std::iter::repeat_with(no_agent).take(3));
    let migration = migrated(&lab, order()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let figures = migration.figures.expect("figures");
    let missing = &figures.session_list_missing;
    assert!(
        missing.starts_with("no list of the source's sessions: host `h1` refused"),
        "{missing}"
    );
    assert_eq!(lab.called("ImportSessions"), 0);
}

#[tokio::test]
async fn who_wants_no_list_is_not_warned_and_nobody_is_asked() {
    let lab = Lab::new().await;
    let spec = listed_by(SessionList::None);
    assert_eq!(checked(&lab, spec.clone()).await, (Ok("not asked for".to_owned()), false));
    let migration = migrated(&lab, spec).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(migration.figures.expect("figures").session_list_missing, "");
    assert_eq!(lab.called("ListSockets") + lab.called("ImportSessions"), 0);
}

#[tokio::test]
async fn a_list_that_was_asked_for_must_be_there() {
    let lab = Lab::new().await;
    lab.fail("ListSockets", [no_agent()]);
    let (result, _) = checked(&lab, listed_by(SessionList::Agent)).await;
    assert!(result.expect_err("fails").contains("has no channel"));

    // The agent dies after the preflight, or after the takeover; or the switch takes no list then.
    for call in ["ListSockets", "ImportSessions"] {
        for good in [0, 1] {
            let lab = Lab::new().await;
            lab.world().sockets = [socket("10.0.0.1", 1)].into();
            let fine = if call == "ListSockets" { 1 + good } else { good };
            let fine = std::iter::repeat_with(|| Fault::None).take(fine);
            lab.fail(call, fine.chain([no_agent()]));
            let migration = migrated(&lab, listed_by(SessionList::Agent)).await;
            assert_eq!(migration.state(), MigrationState::Aborted, "{call} {good}");
            let phase = if good == 0 { proto::Phase::Takeover } else { proto::Phase::Cutover };
            assert_eq!(migration.phase(), phase, "{}", migration.message);
            assert_eq!(lab.called("Cutover"), 0);
            lab.assert_source_owns_everything();
        }
    }
}

#[tokio::test]
async fn a_host_that_is_away_for_a_moment_is_no_missing_list() {
    let lab = Lab::new().await;
    lab.world().sockets = [socket("10.0.0.1", 1)].into();
    let away = || Fault::Refuse(Status::unavailable("restarting"));
    lab.fail("ListSockets", [Fault::None, Fault::None, away(), away()]);
    let migration = migrated(&lab, order()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.called("ListSockets"), 5, "preflight, takeover, cutover at its third attempt");
    assert_eq!(migration.figures.expect("figures").session_list_missing, "");
}

#[tokio::test]
async fn a_file_is_read_anew_for_the_cutover() {
    let lab = Lab::new().await;
    let path = lab.state_dir().join("list");
    let line = |port: u32| format!("tcp ESTAB 0 0 10.0.0.1:7000 192.0.2.7:{port}\n");
    let spec = MigrationSpec {
        session_list_path: path.display().to_string(),
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        destination_ready_text: "ready".to_owned(),
        ..listed_by(SessionList::File)
    };
    std::fs::write(&path, line(1) + "nonsense\n").expect("written");
    let (result, _) = checked(&lab, spec.clone()).await;
    assert!(result.expect_err("fails").starts_with("line 2 of the session list /"));

    std::fs::write(&path, line(1)).expect("written");
    let manager = lab.manager().await;
    let id = manager.start(Some(spec)).await.expect("started");
    while lab.called("StartDestination") == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(lab.world().imported.len(), 1);
    std::fs::write(&path, line(1) + &line(2)).expect("written");
    lab.world().console += "ready\n";
    let migration = finished(&manager, &id).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    assert_eq!(lab.world().imported.len(), 2);
    assert_eq!(lab.called("ListSockets"), 0);
}

#[tokio::test]
async fn a_long_list_takes_several_calls_and_what_has_no_room_is_told() {
    let lab = Lab::new().await;
    lab.world().sockets = (1..=25_000).map(|port| socket("10.0.0.1", port)).collect();
    lab.world().no_room = [7, 20_000].into();
    let migration = migrated(&lab, order()).await;
    assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
    let figures = migration.figures.expect("figures");
    assert_eq!(figures.imported_sessions, 24_998);
    assert_eq!(figures.session_list_missing, "2 refused: the table is full");
    assert_eq!(lab.called("ImportSessions"), 6);
}

#[tokio::test]
async fn an_order_names_the_list_well() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let cases = [
        (SessionList::File, "", "session_list_path: missing"),
        (SessionList::File, "list", "session_list_path: `list` is not an absolute path"),
        (SessionList::Agent, "/list", "session_list_path: `/list` goes only with FILE"),
    ];
    for (list, path, says) in cases {
        let spec = MigrationSpec { session_list_path: path.to_owned(), ..listed_by(list) };
        let error = manager.start(Some(spec)).await.expect_err("refused").to_string();
        assert!(error.starts_with(says), "{error}");
    }
    let unknown = MigrationSpec { session_list: 9, ..order() };
    let error = manager.start(Some(unknown)).await.expect_err("refused").to_string();
    assert!(error.starts_with("session_list: 9 is unknown; say AUTO"), "{error}");
}
