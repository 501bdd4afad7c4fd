//! Bad requests: each has its code, says what is wrong and what to do, and changes nothing.

use tidegate_api::switch::{self as proto, Backend, Rewrite};
use tonic::{Code, Status};

use crate::{
    testbox::{ADDRESS, TestBox, backend, east, nat, west},
    wire::EAST,
};

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, says: &[&str]) {
    let status = result.expect_err("refused");
    assert_eq!(status.code(), code, "{status}");
    for words in says {
        assert!(status.message().contains(words), "`{words}` in: {}", status.message());
    }
}

#[tokio::test]
async fn malformed_requests_name_the_field() {
    let mut tested = TestBox::start().await;
    let cases: [(Backend, Code, &[&str]); 9] = [
        (Backend { name: String::new(), ..east() }, Code::InvalidArgument, &["home.name"]),
        (Backend { name: "a b".into(), ..east() }, Code::InvalidArgument, &["home.name", "`a b`"]),
        (
            Backend { port: "north".into(), ..east() },
            Code::NotFound,
            &["home.port", "`north`", "`east`"],
        ),
        (Backend { mac: "x".into(), ..east() }, Code::InvalidArgument, &["home.mac", "`x`"]),
        (Backend { rewrite: 0, ..east() }, Code::InvalidArgument, &["home.rewrite", "REWRITE_L2"]),
        (Backend { rewrite: 9, ..east() }, Code::InvalidArgument, &["home.rewrite", "9"]),
        (
            Backend { rewrite: Rewrite::Nat.into(), ..east() },
            Code::InvalidArgument,
            &["home.locator"],
        ),
        (
            Backend { locator: "10.8.0.5".into(), ..east() },
            Code::InvalidArgument,
            &["home.locator", "REWRITE_L2"],
        ),
        (
            Backend { locator: "224.0.0.1".into(), ..nat("b", "east", 1) },
            Code::InvalidArgument,
            &["home.locator"],
        ),
    ];
    for (home, code, says) in cases {
        refused(tested.add(home).await, code, says);
    }
    for address in ["", "10.8.0", "10.8.0.100/24", "255.255.255.255", "::1"] {
        let request =
            proto::AddAddressRequest { address: address.into(), home: Some(east()), quic: None };
        refused(tested.client.add_address(request).await, Code::InvalidArgument, &["address: "]);
    }
    let request = proto::AddAddressRequest { address: ADDRESS.into(), home: None, quic: None };
    refused(tested.client.add_address(request).await, Code::InvalidArgument, &["home: missing"]);
    let request =
        proto::CutoverRequest { address: ADDRESS.into(), unknown_tcp: 7, ..Default::default() };
    refused(tested.client.cutover(request).await, Code::InvalidArgument, &["unknown_tcp: 7"]);
    let request =
        proto::CutoverRequest { address: ADDRESS.into(), unknown_quic: -1, ..Default::default() };
    let says = ["unknown_quic: -1", "UNKNOWN_DROP"];
    refused(tested.client.cutover(request).await, Code::InvalidArgument, &says);
    let quics = [
        (0, vec![], "quic.connection_id_length: 0"),
        (21, vec![], "1 to 20"),
        (8, vec![0], "quic.ports: 0"),
        (8, vec![443, 65_536], "65536"),
        (8, vec![1, 2, 3, 4, 5], "at most 4"),
    ];
    for (connection_id_length, ports, says) in quics {
        let quic = Some(proto::Quic { connection_id_length, ports });
        let request =
            proto::AddAddressRequest { address: ADDRESS.into(), home: Some(east()), quic };
        refused(tested.client.add_address(request).await, Code::InvalidArgument, &[says]);
    }
    let request = proto::CutoverRequest {
        address: ADDRESS.into(),
        datagram_max_age_s: 604_801,
        ..Default::default()
    };
    let says = ["datagram_max_age_s: 604801", "at most 604800"];
    refused(tested.client.cutover(request).await, Code::InvalidArgument, &says);
    refused(tested.watch(60_001).await.map(drop), Code::InvalidArgument, &["interval_ms"]);
    tested.stop().await;
}

#[tokio::test]
async fn an_unknown_address_is_not_found() {
    let mut tested = TestBox::start().await;
    let says = &[ADDRESS, "AddAddress"];
    refused(tested.get().await, Code::NotFound, says);
    refused(tested.takeover().await, Code::NotFound, says);
    refused(tested.set_destination(west()).await, Code::NotFound, says);
    refused(tested.cutover().await, Code::NotFound, says);
    refused(tested.abort().await, Code::NotFound, says);
    refused(tested.release(true, true).await, Code::NotFound, says);
    refused(tested.watch(0).await.map(drop), Code::NotFound, says);
    let request = proto::RemoveAddressRequest { address: ADDRESS.into() };
    refused(tested.client.remove_address(request).await, Code::NotFound, says);
    let request = proto::ListSessionsRequest { address: ADDRESS.into(), limit: 0 };
    refused(tested.client.list_sessions(request).await.map(drop), Code::NotFound, says);
    tested.stop().await;
}

#[tokio::test]
async fn what_is_taken_cannot_be_taken_again() {
    let mut tested = TestBox::start().await;
    tested.add(nat("blue", "east", 0x0b)).await.expect("add");
    refused(tested.add(east()).await, Code::AlreadyExists, &[ADDRESS, "RemoveAddress"]);
    let mut add = async |address: &str, home| {
        let request =
            proto::AddAddressRequest { address: address.into(), home: Some(home), quic: None };
        tested.client.add_address(request).await
    };
    let says = &["10.8.0.11", ADDRESS];
    refused(add("10.8.0.101", nat("red", "west", 0x0b)).await, Code::AlreadyExists, says);
    refused(add("10.8.0.11", east()).await, Code::AlreadyExists, says);
    refused(add("10.9.0.1", east()).await, Code::InvalidArgument, &["10.9.0.1", "`uplink`"]);
    refused(
        add("10.8.0.102", nat("red", "west", 1)).await,
        Code::InvalidArgument,
        &["10.8.0.1", "`east`"],
    );
    refused(
        add("10.8.0.102", nat("red", "west", 100)).await,
        Code::InvalidArgument,
        &["locator", ADDRESS],
    );
    refused(
        add("10.8.0.102", nat("red", "west", 102)).await,
        Code::InvalidArgument,
        &["locator", "10.8.0.102"],
    );
    tested.stop().await;
}

#[tokio::test]
async fn the_destination_must_be_another_place() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open();
    let same = Backend { name: "other".into(), ..east() };
    refused(
        tested.set_destination(same).await,
        Code::InvalidArgument,
        &["already lives", "`blue`"],
    );
    let named = Backend { name: "blue".into(), ..west() };
    refused(
        tested.set_destination(named).await,
        Code::InvalidArgument,
        &["`blue`", "another name"],
    );
    let beside = backend("green", "east", 0x0c);
    refused(tested.set_destination(beside).await, Code::InvalidArgument, &["same port", "L2"]);
    assert_eq!(tested.get().await.expect("known").destination, None);
    assert_eq!(tested.tcp(1).talk(), Ok(EAST), "the source still serves");

    let request = proto::AddAddressRequest {
        address: "10.8.0.101".into(),
        home: Some(nat("a", "east", 0x21)),
        quic: None,
    };
    tested.client.add_address(request).await.expect("add");
    let request = proto::SetDestinationRequest {
        address: "10.8.0.101".into(),
        destination: Some(Backend { name: "b".into(), ..nat("a", "west", 0x21) }),
    };
    refused(
        tested.client.set_destination(request).await,
        Code::InvalidArgument,
        &["already lives"],
    );
    tested.stop().await;
}

#[tokio::test]
async fn steps_out_of_order_say_what_comes_first() {
    let mut tested = TestBox::start().await;
    let failed = Code::FailedPrecondition;
    tested.add(east()).await.expect("add");
    refused(tested.cutover().await, failed, &["TRACKED", "SetDestination"]);
    refused(tested.release(true, true).await, failed, &["TRACKED", "SetDestination"]);
    refused(tested.abort().await, failed, &["TRACKED", "no migration"]);
    refused(tested.watch(0).await.map(drop), failed, &["TRACKED", "SetDestination"]);
    let with_sessions = tested.release_with_sessions(true).await;
    refused(with_sessions, failed, &["TRACKED", "SetDestination"]);
    tested.set_destination(west()).await.expect("destination");
    refused(tested.cutover().await, failed, &["TRACKED", "Takeover"]);
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open();
    refused(tested.release(true, true).await, failed, &["HOSTED", "Cutover first"]);
    tested.cutover().await.expect("cutover");
    refused(tested.cutover().await, failed, &["DRAINING", "cut over already", "Abort"]);
    tested.stop().await;
}

#[tokio::test]
async fn sessions_do_not_go_over_to_a_guest_with_another_address() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.set_destination(nat("green", "west", 0x0c)).await.expect("destination");
    let refusal = tested.release_with_sessions(true).await;
    refused(refusal, Code::FailedPrecondition, &["rewrite NAT", "sockets", "use rewrite L2"]);
    assert_eq!(tested.get().await.expect("known").home.expect("home").name, "blue");
    tested.stop().await;
}

#[tokio::test]
async fn a_second_migration_is_refused_and_the_first_goes_on() {
    let mut tested = TestBox::start().await;
    tested.drain(2).await;
    let says = &["DRAINING", "`green`", "Release or Abort"];
    let failed = Code::FailedPrecondition;
    refused(tested.set_destination(nat("red", "west", 0x0d)).await, failed, says);
    refused(tested.set_destination(west()).await, failed, says);
    let request = proto::RemoveAddressRequest { address: ADDRESS.into() };
    refused(tested.client.remove_address(request).await, failed, says);
    let address = tested.get().await.expect("known");
    assert_eq!((address.epoch, address.home_sessions), (2, 2));
    assert_eq!(tested.tcp(1).talk(), Ok(EAST), "the source still serves");
    tested.stop().await;
}
