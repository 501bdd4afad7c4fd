//! The host daemon goes away and comes back; guests and migrations stay.

use std::{
    fs,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::host as api;
use tidegate_region::MergeType;

use super::rig::{COUNTER, Rig, format_region, number, spec, write};

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_and_migrations_outlive_the_daemon() {
    let mut host = Rig::new("h").await;
    let before = host.start_guest(spec("web")).await;
    let source = host.memory("web", "region-counts");
    format_region(&source, MergeType::Sum);
    let report = host.capture("web", true).await.expect("captured");
    host.prepare(spec("web-2"), true).await;
    host.stop().await;

    host.restart().await;
    let request = api::GetGuestRequest { name: "web".into() };
    let after = host.client.get_guest(request).await.expect("known").into_inner();
    assert_eq!(after, before);
    assert_eq!(host.capture("web", true).await, Ok(report));
    let data = host.prepare(spec("web-2"), true).await;
    host.send(&data).await.expect("sent");
    host.stop().await;

    host.restart().await;
    let request = api::StartDestinationRequest { migration_id: id(), ..Default::default() };
    host.client.start_destination(request).await.expect("started");
    write(&source, COUNTER, &5_u64.to_le_bytes());
    host.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let data_endpoint = host.prepare(spec("web-2"), true).await;
    let request = api::SendDiffRequest { migration_id: id(), data_endpoint, ..Default::default() };
    host.client.send_diff(request).await.expect("diff");
    host.stop().await;

    host.restart().await;
    let merge = || api::MergeRequest { migration_id: id() };
    let merged = host.client.merge(merge()).await.expect("merged").into_inner();
    let destination = host.memory("web-2", "region-counts");
    assert_eq!(number(&destination, COUNTER), 5);
    host.stop().await;

    // As if the daemon had died with the bytes half written: the redo file is there, the guest paused.
    let record = host.config.state_dir.join("migrations/m1");
    fs::rename(record.join("merge.done"), record.join("merge.redo")).expect("undo");
    write(&destination, COUNTER, &[0; 8]);
    host.restart().await;
    let again = host.client.merge(merge()).await.expect("carried through").into_inner();
    assert_eq!(number(&destination, COUNTER), 5);
    assert_eq!(again.merged_bytes, merged.merged_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_paused_by_a_capture_that_died_is_continued() {
    let mut host = Rig::new("h").await;
    host.start_guest(spec("web")).await;
    host.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    host.stop().await;
    // What the daemon leaves when it is killed between pausing the guest and the report.
    let record = host.config.state_dir.join("migrations/m1");
    fs::create_dir_all(&record).expect("directory");
    let capture = serde_json::json!({
        "id": "m1", "receive": null,
        "capture": { "guest": "web", "clone": true, "regions": [], "taken": null },
    });
    fs::write(record.join("migration.json"), capture.to_string()).expect("record");
    let twin = host.config.twin_dir.join("m1");
    fs::create_dir_all(&twin).expect("directory");
    fs::write(twin.join("ram"), "partial").expect("twin");

    host.restart().await;
    assert_eq!(host.state("web").await, api::GuestState::Running);
    assert!(!twin.exists());
    host.capture("web", true).await.expect("can be taken now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_ended_is_seen_and_can_be_deleted() {
    let mut host = Rig::new("h").await;
    let guest = host.start_guest(spec("web")).await;
    let pid = Pid::from_raw(guest.pid as i32).expect("pid");
    kill_process(pid, Signal::KILL).expect("killed");
    for _ in 0..100 {
        if host.state("web").await == api::GuestState::Exited {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(host.state("web").await, api::GuestState::Exited);
    let message = host.capture("web", true).await.expect_err("refused");
    assert!(message.contains("its process has ended; start it first"), "{message}");
    let delete = api::DeleteGuestRequest { name: "web".into(), purge: true };
    host.client.delete_guest(delete).await.expect("deleted");
    host.start_guest(spec("web")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_keeps_its_connection_does_not_hold_up_the_end() {
    let mut host = Rig::new("h").await;
    let socket = host.dir.path().join("api");
    let _silent = UnixStream::connect(&socket).expect("connects");
    // Answered, so the one before has been accepted.
    host.start_guest(spec("web")).await;
    let began = Instant::now();
    host.stop().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(!socket.exists());
    host.restart().await;
    assert_eq!(host.state("web").await, api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_on_a_guest_is_finished_first() {
    let mut host = Rig::new("h").await;
    let mut client = host.client.clone();
    let starting = tokio::spawn(async move {
        client.start_guest(api::StartGuestRequest { spec: Some(spec("web")) }).await
    });
    let record = host.config.state_dir.join("guests/web/guest.json");
    while !record.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(&record).expect("read")).expect("record");
    let pid = Pid::from_raw(record["pid"].as_i64().expect("pid") as i32).expect("pid");
    // Longer than clients are waited for.
    kill_process(pid, Signal::STOP).expect("stopped");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(3500)).await;
        kill_process(pid, Signal::CONT).expect("goes on");
    });
    host.stop().await;
    // Answered by now, but for the client's own turn to read it.
    let answer = tokio::time::timeout(Duration::from_millis(500), starting).await;
    let guest = answer.expect("not stopped in the middle").expect("no panic").expect("started");
    let guest = guest.into_inner();
    assert_eq!(guest.pid, pid.as_raw_nonzero().get() as u32);
    host.restart().await;
    assert_eq!(host.state("web").await, api::GuestState::Running);
}
