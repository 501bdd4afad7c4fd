//! Sessions that the box is told of.

use std::time::Duration;

use tidegate_api::switch::{
    self as proto, AddressState, ImportedSession, ImportedState, SessionState,
};
use tonic::{Code, Status};

use crate::testbox::{ADDRESS, TestBox, east, imported, nat, west};

fn counts(answer: Result<proto::ImportSessionsResponse, Status>) -> (u64, u64, u64) {
    let answer = answer.expect("imported");
    (answer.imported, answer.known, answer.refused.iter().map(|it| it.count).sum())
}

#[tokio::test]
async fn they_are_old_after_the_cutover_and_of_the_home() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    assert_eq!(counts(tested.import(1..21).await), (20, 0, 0), "tracked is enough");
    tested.takeover().await.expect("takeover");
    tested.set_destination(west()).await.expect("destination");
    assert_eq!(counts(tested.import(11..31).await), (10, 10, 0), "again, and a few more");
    assert_eq!(tested.get().await.expect("there").home_sessions, 30);
    assert_eq!(tested.cutover().await.expect("cutover").old_sessions, 30);

    let request = proto::ListSessionsRequest { address: ADDRESS.into(), limit: 0 };
    let mut listed = tested.client.list_sessions(request).await.expect("listed").into_inner();
    let mut count = 0;
    while let Some(session) = listed.message().await.expect("no error") {
        assert!(session.old && session.owner == "blue", "{session:?}");
        assert_eq!((session.client.as_str(), session.address_port), ("192.0.2.7", 80));
        assert_eq!(session.state(), SessionState::Established);
        count += 1;
    }
    assert_eq!(count, 30);
    let late = tested.import(40..41).await.expect_err("cut over");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    tested.stop().await;
}

#[tokio::test]
async fn what_has_no_room_is_counted_by_reason() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    let answer = tested.import(1..2000).await.expect("imported");
    assert_eq!(answer.refused.len(), 1);
    assert_eq!(answer.refused[0].reason, "the session table has no room");
    assert!(answer.imported > 0 && answer.imported + answer.refused[0].count == 1999);
    tested.stop().await;
}

#[tokio::test]
async fn an_address_says_since_when_it_is_tracked() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let first = tested.get().await.expect("there").tracked_ms;
    assert!(first >= 20, "{first}");
    tested.takeover().await.expect("takeover");
    assert!(tested.get().await.expect("there").tracked_ms >= first, "goes on");
    tested.set_destination(west()).await.expect("destination");
    tested.cutover().await.expect("cutover");
    tested.reach(AddressState::Drained).await;
    let (released, _) = tested.release(false, false).await.expect("released");
    assert_eq!(released.tracked_ms, 0);
    let refused = tested.import(1..2).await.expect_err("bound");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let anew = tested.takeover().await.expect("takeover").tracked_ms;
    assert!(anew < first, "{anew} begins anew");

    let request = proto::GetStatusRequest {};
    let status = tested.client.get_status(request).await.expect("status").into_inner();
    assert_eq!(status.longest_silence_ms, 7_440_000);
    tested.stop().await;
}

#[tokio::test]
async fn one_that_makes_no_sense_is_named_and_none_is_taken_up() {
    let mut tested = TestBox::start().await;
    tested.add(nat("blue", "east", 5)).await.expect("add");
    let good = || imported(1);
    let udp =
        |state: ImportedState| ImportedSession { protocol: 17, state: state.into(), ..good() };
    let cases = [
        (ImportedSession { protocol: 1, ..good() }, "sessions[1].protocol: 1 cannot"),
        (ImportedSession { protocol: 262, ..good() }, "sessions[1].protocol: 262"),
        (ImportedSession { client: "ten".into(), ..good() }, "sessions[1].client: `ten`"),
        (ImportedSession { client: "224.0.0.1".into(), ..good() }, "sessions[1].client"),
        (ImportedSession { client: "2001:db8::7".into(), ..good() }, "of another IP family"),
        (ImportedSession { client_port: 0, ..good() }, "sessions[1].client_port: 0 is not a port"),
        (ImportedSession { address_port: 65_536, ..good() }, "sessions[1].address_port: 65536"),
        (ImportedSession { state: 9, ..good() }, "sessions[1].state: 9"),
        (udp(ImportedState::Closing), "sessions[1].state: 4 is not a state to import"),
    ];
    for (bad, says) in cases {
        let sessions = vec![imported(2), bad];
        let request = proto::ImportSessionsRequest { address: ADDRESS.into(), sessions };
        let status = tested.client.import_sessions(request).await.expect_err(says);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "`{says}` in: {status}");
    }
    let status = tested.import(1..10_002).await.expect_err("too many");
    assert!(status.message().starts_with("sessions: 10001 are too many"), "{status}");
    assert_eq!(tested.get().await.expect("there").home_sessions, 0);
    let request = proto::ImportSessionsRequest {
        address: ADDRESS.into(),
        sessions: vec![udp(ImportedState::Established)],
    };
    assert_eq!(
        counts(tested.client.import_sessions(request).await.map(tonic::Response::into_inner)),
        (1, 0, 0)
    );
    let request = proto::ImportSessionsRequest { address: "10.8.0.7".into(), sessions: vec![] };
    let status = tested.client.import_sessions(request).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
    tested.stop().await;
}
