//! Watching a migration.

use std::time::Duration;

use tidegate_api::switch::{AddressState, MigrationState};
use tonic::Code;

use crate::{
    testbox::{PATIENCE, TestBox, east, next, west},
    wire::EAST,
};

#[tokio::test]
async fn counts_then_drained_once_then_the_end() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open();
    tested.tcp(2).open();
    tested.set_destination(west()).await.expect("destination");
    let mut events = tested.watch(5).await.expect("watch");
    let first = next(&mut events).await.expect("at once");
    assert_eq!((first.state(), first.epoch), (MigrationState::Preparing, 1));
    tested.cutover().await.expect("cutover");
    let mut event = next(&mut events).await.expect("draining");
    assert_eq!((event.state(), event.epoch, event.old_sessions), (MigrationState::Draining, 2, 2));
    tested.tcp(9).open();
    tested.tcp(1).close(EAST);
    while event.old_sessions == 2 || event.new_sessions == 0 {
        event = next(&mut events).await.expect("draining");
        assert_eq!(event.state(), MigrationState::Draining);
    }
    assert_eq!((event.old_sessions, event.new_sessions), (1, 1));
    for _ in 0..5 {
        let event = next(&mut events).await.expect("at the interval");
        assert_eq!((event.state(), event.old_sessions), (MigrationState::Draining, 1));
    }
    tested.tcp(2).close(EAST);
    while event.state() == MigrationState::Draining {
        event = next(&mut events).await.expect("drained");
    }
    assert_eq!((event.state(), event.old_sessions), (MigrationState::Drained, 0));
    assert_eq!(next(&mut events).await, None, "nothing after DRAINED");
    tested.stop().await;
}

#[tokio::test]
async fn whoever_comes_back_after_drained_hears_it_at_once() {
    let mut tested = TestBox::start().await;
    tested.drain(1).await;
    let mut lost = tested.watch(1000).await.expect("watch");
    assert_eq!(next(&mut lost).await.expect("draining").old_sessions, 1);
    drop(lost);
    tested.tcp(1).close(EAST);
    tested.reach(AddressState::Drained).await;
    for _ in 0..2 {
        let mut events = tested.watch(60_000).await.expect("watch");
        assert_eq!(next(&mut events).await.expect("at once").state(), MigrationState::Drained);
        assert_eq!(next(&mut events).await, None);
    }
    tested.stop().await;
}

#[tokio::test]
async fn several_watch_and_a_slow_one_holds_nobody_up() {
    let mut tested = TestBox::start().await;
    tested.drain(1).await;
    // Never read until the end: its events must pile up nowhere.
    let mut slow = tested.watch(1).await.expect("watch");
    let mut quick = tested.watch(10).await.expect("watch");
    let mut patient = tested.watch(60_000).await.expect("watch");
    assert_eq!(next(&mut patient).await.expect("at once").state(), MigrationState::Draining);
    tokio::time::sleep(Duration::from_millis(200)).await;
    tested.tcp(1).close(EAST);
    let drained = next(&mut patient).await.expect("without waiting for the interval");
    assert_eq!(drained.state(), MigrationState::Drained);
    for events in [&mut quick, &mut slow] {
        let mut last = None;
        while let Some(event) = next(events).await {
            last = Some(event.state());
        }
        assert_eq!(last, Some(MigrationState::Drained));
    }
    tested.stop().await;
}

#[tokio::test]
async fn abort_and_release_end_a_watch() {
    let mut tested = TestBox::start().await;
    tested.drain(1).await;
    let mut events = tested.watch(60_000).await.expect("watch");
    next(&mut events).await.expect("draining");
    tested.abort().await.expect("abort");
    let event = next(&mut events).await.expect("aborted");
    assert_eq!((event.state(), event.old_sessions), (MigrationState::Aborted, 1));
    assert_eq!(next(&mut events).await, None);

    tested.takeover().await.expect("takeover");
    tested.set_destination(west()).await.expect("destination");
    tested.cutover().await.expect("cutover");
    let mut events = tested.watch(60_000).await.expect("watch");
    next(&mut events).await.expect("draining");
    tested.tcp(8).open();
    tested.release(false, true).await.expect("forced");
    let event = next(&mut events).await.expect("released");
    assert_eq!(
        (event.state(), event.old_sessions, event.new_sessions),
        (MigrationState::Released, 0, 1)
    );
    assert_eq!(next(&mut events).await, None);

    let over = tested.watch(0).await.expect_err("no migration any more");
    assert_eq!(over.code(), Code::FailedPrecondition);
    assert!(
        over.message().contains("BOUND") && over.message().contains("SetDestination"),
        "{over}"
    );
    tested.stop().await;
}

#[tokio::test]
async fn a_stopping_box_ends_its_streams() {
    let mut tested = TestBox::start().await;
    tested.drain(1).await;
    let mut events = tested.watch(60_000).await.expect("watch");
    next(&mut events).await.expect("draining");
    let socket = tested.socket.clone();
    tested.stop().await;
    let ended = tokio::time::timeout(PATIENCE, events.message()).await.expect("in time");
    assert_eq!(ended.expect_err("not a clean end").code(), Code::Unavailable);
    assert!(!socket.exists(), "the socket is removed");
}
