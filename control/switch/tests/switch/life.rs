//! Migrations from start to end.

use std::time::Duration;

use tidegate_api::switch::{self as proto, AddressState, SessionState};
use tidegate_dataplane::{
    packet::{Mac, arp},
    pipeline::{Outcome, Verdict},
};
use tidegate_switch::{
    core::{Core, CoreError, CoreThread},
    steering::Network,
};
use tonic::Code;

use crate::{
    testbox::{ADDRESS, TestBox, east, nat, west},
    wire::{CLIENT, CLIENT_MAC, EAST, Tcp, UPLINK, UPLINK_MAC, WEST},
};

const MANAGED: u32 = 0x0a08_0064;

fn answers_arp(tested: &TestBox) -> bool {
    let question = arp::request(Mac(CLIENT_MAC), u32::from_be_bytes(CLIENT), MANAGED);
    tested.shards.arrive(UPLINK, question.to_vec()).is_ok()
}

#[tokio::test]
async fn a_whole_migration() {
    let mut tested = TestBox::start().await;
    let added = tested.add(east()).await.expect("add");
    assert_eq!((added.state(), added.hosted, added.epoch), (AddressState::Tracked, false, 1));
    assert!(!answers_arp(&tested), "not hosted yet");
    assert_eq!(tested.tcp(1).open(), EAST, "tracked before it is hosted");

    let hosted = tested.takeover().await.expect("takeover");
    assert_eq!((hosted.state(), hosted.hosted), (AddressState::Hosted, true));
    assert!(answers_arp(&tested));
    for port in 2..=7 {
        assert_eq!(tested.tcp(port).open(), EAST);
    }
    tested.tcp(7).close(EAST);
    let prepared = tested.set_destination(west()).await.expect("destination");
    assert_eq!(prepared.state(), AddressState::Hosted);
    assert_eq!(prepared.destination.expect("set").name, "green");
    assert_eq!(tested.tcp(8).open(), EAST, "nothing goes to the destination before cutover");

    let cutover = tested.cutover().await.expect("cutover");
    assert_eq!(
        (cutover.epoch, cutover.old_sessions, cutover.workers),
        (2, 7, 2),
        "a closed one is not old"
    );
    for port in 20..30 {
        assert_eq!(tested.tcp(port).open(), WEST, "new sessions go to the destination");
    }
    for port in [1, 2, 3, 4, 5, 6] {
        assert_eq!(tested.tcp(port).talk(), Ok(EAST), "old ones stay");
        tested.tcp(port).close(EAST);
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    let left = tested.get().await.expect("known");
    assert_eq!(
        (left.state(), left.home_sessions),
        (AddressState::Draining, 1),
        "all but one is not drained"
    );
    assert_eq!(left.destination_sessions, 10);

    tested.tcp(8).close(EAST);
    tested.reach(AddressState::Drained).await;
    let (released, forgotten) = tested.release(true, false).await.expect("release");
    assert_eq!(
        (released.state(), released.hosted, released.epoch),
        (AddressState::Tracked, false, 2)
    );
    assert_eq!((released.home.expect("home").name.as_str(), forgotten), ("green", 0));
    assert_eq!((released.destination, released.home_sessions), (None, 10));
    assert!(!answers_arp(&tested));
    assert_eq!(tested.tcp(20).talk(), Ok(WEST), "its sessions go on");
    tested.stop().await;
}

#[tokio::test]
async fn guests_with_addresses_of_their_own() {
    let mut tested = TestBox::start().await;
    let (home, guest) = (nat("blue", "east", 0x0b), [10, 8, 0, 11]);
    tested.add(home).await.expect("add");
    tested.takeover().await.expect("takeover");
    assert_eq!(tested.tcp(1).open_with(guest), EAST);
    // Told apart by locator, so they may share a port.
    tested.set_destination(nat("green", "east", 0x0c)).await.expect("destination");
    assert_eq!(tested.cutover().await.expect("cutover").old_sessions, 1);
    tested.tcp(2).open_with([10, 8, 0, 12]);
    tested.tcp(1).close_with(EAST, guest);
    tested.reach(AddressState::Drained).await;
    let (released, _) = tested.release(true, false).await.expect("release");
    assert_eq!(released.home.expect("home").locator, "10.8.0.12");
    tested.stop().await;
}

#[tokio::test]
async fn cutover_without_sessions_is_drained_at_once() {
    let mut tested = TestBox::start().await;
    assert_eq!(tested.drain(0).await.old_sessions, 0);
    assert_eq!(tested.get().await.expect("known").state(), AddressState::Drained);
    tested.stop().await;
}

#[tokio::test]
async fn drained_stays_drained() {
    let mut tested = TestBox::start().await;
    tested.drain(0).await;
    tested.reach(AddressState::Drained).await;
    // A session nobody had seen turns up at the source: adopted, but the event has been told.
    assert_eq!(tested.tcp(5).talk(), Ok(EAST));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let address = tested.get().await.expect("known");
    assert_eq!((address.state(), address.home_sessions), (AddressState::Drained, 1));
    let (_, forgotten) = tested.release(true, false).await.expect("release");
    assert_eq!(forgotten, 1, "it is counted all the same");
    tested.stop().await;
}

#[tokio::test]
async fn abort_gives_everything_back() {
    let mut tested = TestBox::start().await;
    tested.drain(3).await;
    assert_eq!(tested.tcp(10).open(), WEST);
    let aborted = tested.abort().await.expect("abort");
    assert_eq!((aborted.state(), aborted.hosted, aborted.epoch), (AddressState::Tracked, false, 2));
    assert_eq!((aborted.home_sessions, aborted.destination), (3, None));
    assert_eq!(tested.tcp(1).talk(), Ok(EAST));
    assert_eq!(tested.tcp(11).open(), EAST, "new sessions go to the source again");
    assert_eq!(tested.tcp(10).talk(), Ok(EAST), "the destination's are the source's to reset");
    // The next migration begins a further epoch.
    tested.takeover().await.expect("takeover");
    tested.set_destination(west()).await.expect("destination");
    let cutover = tested.cutover().await.expect("cutover");
    assert_eq!((cutover.epoch, cutover.old_sessions), (3, 5));
    tested.stop().await;
}

#[tokio::test]
async fn abort_before_cutover_undoes_takeover_and_destination() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    assert_eq!(tested.abort().await.expect("abort").epoch, 1);
    assert!(!answers_arp(&tested));
    tested.set_destination(west()).await.expect("destination");
    let aborted = tested.abort().await.expect("abort");
    assert_eq!((aborted.state(), aborted.destination), (AddressState::Tracked, None));
    tested.stop().await;
}

#[tokio::test]
async fn release_before_drained_is_refused_or_forced() {
    let mut tested = TestBox::start().await;
    tested.drain(4).await;
    let refused = tested.release(true, false).await.expect_err("old sessions are left");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("DRAINING") && refused.message().contains("WatchMigration"),
        "{refused}"
    );
    assert_eq!(tested.tcp(1).talk(), Ok(EAST), "the source still serves");
    let (released, forgotten) = tested.release(true, true).await.expect("forced");
    assert_eq!((released.state(), forgotten), (AddressState::Tracked, 4));
    tested.stop().await;
}

#[tokio::test]
async fn sessions_go_over_with_the_address() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    for port in 1..=5 {
        assert_eq!(tested.tcp(port).open(), EAST);
    }
    tested.tcp(5).close(EAST);
    tested.set_destination(west()).await.expect("destination");
    let mut events = tested.watch(1).await.expect("watch");
    let (released, kept, cut) = tested.release_with_sessions(true).await.expect("released");
    assert_eq!((kept, cut), (4, 0), "a closed one is over");
    assert_eq!(
        (released.state(), released.hosted, released.epoch),
        (AddressState::Tracked, false, 1)
    );
    assert_eq!(released.home.expect("home").name, "green");
    assert_eq!((released.destination, released.home_sessions), (None, 4));
    assert!(!answers_arp(&tested));
    for port in 1..=4 {
        assert_eq!(tested.tcp(port).talk(), Ok(WEST), "it goes on at the destination");
        tested.tcp(port).close(WEST);
    }
    assert_eq!(tested.tcp(9).open(), WEST);
    assert_eq!(tested.get().await.expect("known").home_sessions, 1);
    let mut last = None;
    while let Some(event) = events.message().await.expect("event") {
        last = Some((event.state(), event.new_sessions));
    }
    assert_eq!(last, Some((proto::MigrationState::Released, 4)));

    // And back again: the place it left can be a destination.
    tested.takeover().await.expect("takeover");
    tested.set_destination(east()).await.expect("destination");
    let (_, kept, _) = tested.release_with_sessions(false).await.expect("released");
    assert_eq!(kept, 1);
    assert_eq!(tested.tcp(9).talk(), Ok(EAST), "without tracking, too");
    assert_eq!(tested.get().await.expect("known").state(), AddressState::Bound);
    tested.stop().await;
}

#[tokio::test]
async fn the_destinations_own_sessions_are_cut_and_counted_when_the_sources_go_over() {
    let mut tested = TestBox::start().await;
    tested.drain(3).await;
    for port in 20..27 {
        assert_eq!(tested.tcp(port).open(), WEST);
    }
    tested.tcp(26).close(WEST);
    let (released, kept, cut) = tested.release_with_sessions(true).await.expect("released");
    assert_eq!((kept, cut), (3, 6));
    assert_eq!((released.state(), released.home_sessions), (AddressState::Tracked, 3));
    assert_eq!(tested.tcp(1).talk(), Ok(WEST), "an old one goes on");
    // Its ports are not known any more; what speaks there is the guest's to reset.
    assert_eq!(tested.tcp(20).talk(), Ok(WEST));
    tested.stop().await;
}

#[tokio::test]
async fn without_tracking_nothing_is_left_of_sessions() {
    let mut tested = TestBox::start().await;
    tested.drain(0).await;
    tested.tcp(1).open();
    let (released, _) = tested.release(false, false).await.expect("release");
    assert_eq!((released.state(), released.home_sessions), (AddressState::Bound, 0));
    assert_eq!(tested.tcp(1).talk(), Ok(WEST), "packets still go home");
    let hosted = tested.takeover().await.expect("takeover");
    assert_eq!(
        (hosted.state(), hosted.home_sessions),
        (AddressState::Hosted, 0),
        "it begins afresh"
    );
    assert_eq!(tested.tcp(1).talk(), Ok(WEST));
    assert_eq!(tested.get().await.expect("known").home_sessions, 1, "adopted when seen again");
    tested.stop().await;
}

#[tokio::test]
async fn a_worker_that_does_not_answer_changes_nothing() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open();
    tested.set_destination(west()).await.expect("destination");
    tested.shards.stick(true);
    let failed = tested.cutover().await.expect_err("not acknowledged");
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("worker 1"), "{failed}");
    let address = tested.get().await.expect("known");
    assert_eq!((address.state(), address.epoch), (AddressState::Hosted, 1));
    tested.shards.stick(false);
    assert_eq!(tested.cutover().await.expect("again").old_sessions, 1);
    tested.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_with_their_owner() {
    let mut tested = TestBox::start().await;
    tested.drain(2).await;
    tested.tcp(10).open();
    tested.tcp(2).close(EAST);
    tested.shards.advance(Duration::from_millis(700));
    let request = proto::ListSessionsRequest { address: ADDRESS.into(), limit: 0 };
    let mut stream = tested.client.list_sessions(request).await.expect("list").into_inner();
    let mut listed = Vec::new();
    while let Some(session) = stream.message().await.expect("no error") {
        listed.push(session);
    }
    listed.sort_by_key(|session| session.client_port);
    let brief: Vec<_> = listed
        .iter()
        .map(|s| (s.client_port, s.owner.as_str(), s.old, s.birth_epoch, s.state()))
        .collect();
    assert_eq!(
        brief,
        [
            (1, "blue", true, 1, SessionState::Established),
            (2, "blue", true, 1, SessionState::Lingering),
            (10, "green", false, 2, SessionState::Established),
        ]
    );
    let first = &listed[0];
    assert_eq!(
        (first.client.as_str(), first.protocol, first.address_port, first.idle_ms),
        ("10.9.0.2", 6, 80, 700)
    );
    let request = proto::ListSessionsRequest { address: String::new(), limit: 1 };
    let mut stream = tested.client.list_sessions(request).await.expect("list").into_inner();
    assert!(stream.message().await.expect("one").is_some());
    assert!(stream.message().await.expect("end").is_none());
    tested.stop().await;
}

#[tokio::test]
async fn sessions_with_a_guests_own_address_are_listed_as_the_managed_ones() {
    let mut tested = TestBox::start().await;
    tested.add(nat("blue", "east", 0x0b)).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open_with([10, 8, 0, 11]);
    Tcp { address: [10, 8, 0, 11], ..tested.tcp(2) }.open();
    tested.set_destination(nat("green", "east", 0x0c)).await.expect("destination");
    assert_eq!(tested.cutover().await.expect("cutover").old_sessions, 2);
    Tcp { address: [10, 8, 0, 12], ..tested.tcp(3) }.open();
    for address in [ADDRESS, ""] {
        let request = proto::ListSessionsRequest { address: address.into(), limit: 0 };
        let mut stream = tested.client.list_sessions(request).await.expect("list").into_inner();
        let mut listed = Vec::new();
        while let Some(it) = stream.message().await.expect("no error") {
            assert_eq!(it.address, ADDRESS);
            listed.push((it.client_port, it.locator, it.owner, it.old));
        }
        listed.sort();
        let own = |port, locator: &str, owner: &str, old| (port, locator.into(), owner.into(), old);
        let expected = [
            own(1, "", "blue", true),
            own(2, "10.8.0.11", "blue", true),
            own(3, "10.8.0.12", "green", false),
        ];
        assert_eq!(listed, expected);
    }
    tested.stop().await;
}

#[tokio::test]
async fn a_removed_address_is_forgotten() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.tcp(1).open();
    let request = proto::RemoveAddressRequest { address: ADDRESS.into() };
    tested.client.remove_address(request).await.expect("removed");
    assert_eq!(tested.get().await.expect_err("gone").code(), Code::NotFound);
    // Plain forwarding now: the guest is an unknown neighbour.
    assert_eq!(tested.tcp(1).talk(), Err(Verdict::Drop(Outcome::NeighbourUnknown)));
    assert_eq!(tested.add(east()).await.expect("again").home_sessions, 0);
    tested.stop().await;
}

/// A core over one port and one worker, without a service.
fn bare_core() -> (CoreThread, crate::double::Shards) {
    let (double, shards) = crate::double::Double::new(1, 1);
    let config = tidegate_switch::config::parse(
        std::path::Path::new("test.toml"),
        "[api]\nlisten = [\"unix:/a\"]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\nrole = \"access\"\n",
    );
    let network = Network::new(&config.expect("valid"), &[Mac(UPLINK_MAC)]);
    let core = Core::new(Box::new(double), network, []).expect("core");
    (CoreThread::start(core).expect("thread"), shards)
}

#[tokio::test]
async fn a_worker_that_ends_ends_the_core() {
    let (mut core, shards) = bare_core();
    shards.end_worker(0);
    core.ended().await;
    assert!(core.stop().is_some());
}

#[tokio::test]
async fn a_core_that_panics_is_noticed() {
    let (mut core, _shards) = bare_core();
    let answer = core.handle().call(|_| -> Result<(), CoreError> { panic!("on purpose") }).await;
    assert!(matches!(answer, Err(CoreError::Stopped)));
    core.ended().await;
    assert!(core.stop().is_none());
}
