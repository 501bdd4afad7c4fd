//! A destination becomes the image of its source and goes on as it; and a source's memory settles.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tidegate_api::host as api;
use tidegate_region::MergeType;
use tonic::Code;

use super::rig::{COUNTER, Rig, format_region, noise, number, refusal, spec, write};

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

/// A clone of `web` on the other host, which waits for its image or runs.
pub(crate) async fn cloned(a: &mut Rig, b: &mut Rig, spec: api::GuestSpec, waits: bool) -> String {
    let checked = api::CheckCaptureRequest {
        guest: "web".into(),
        clone: true,
        clone_use: if waits { api::CloneUse::Instead } else { api::CloneUse::Beside }.into(),
        ..Default::default()
    };
    let checked = a.client.check_capture(checked).await.expect("fine").into_inner();
    let unsafe_ones: Vec<_> = checked.safety.iter().filter(|it| !it.ok).collect();
    assert!(unsafe_ones.is_empty(), "{unsafe_ones:?}");
    let request = api::CaptureRequest {
        migration_id: id(),
        guest: "web".into(),
        clone: true,
        clone_use: if waits { api::CloneUse::Instead } else { api::CloneUse::Beside }.into(),
        ..Default::default()
    };
    a.client.capture(request).await.expect("captured");
    let generation_id = if waits { checked.generation_id.clone() } else { String::new() };
    let spec = api::GuestSpec { generation_id, disks: checked.clone_disks, ..spec };
    let request = api::PrepareReceiveRequest {
        migration_id: id(),
        spec: Some(spec),
        clone: true,
        keep_t0: !waits,
    };
    let prepared = b.client.prepare_receive(request).await.expect("prepared").into_inner();
    a.send(&prepared.data_endpoint).await.expect("sent");
    let request = api::StartDestinationRequest {
        migration_id: id(),
        await_image: waits,
        ..Default::default()
    };
    let guest = b.client.start_destination(request).await.expect("started").into_inner();
    let state = if waits { api::GuestState::Paused } else { api::GuestState::Running };
    assert_eq!(guest.state(), state);
    checked.generation_id
}

/// Pause the source and send what makes its image.
pub(crate) async fn sent(a: &mut Rig, b: &mut Rig) -> api::ImageReport {
    a.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    let data_endpoint = status.data_endpoint;
    let request = api::SendImageRequest { migration_id: id(), data_endpoint, ..Default::default() };
    a.client.send_image(request).await.expect("sent").into_inner()
}

/// Send what changed until now, while the source runs; the last that is said of it.
async fn goes_ahead(a: &mut Rig, b: &mut Rig) -> Result<api::AheadProgress, tonic::Status> {
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    let data_endpoint = status.data_endpoint;
    let request = api::SendAheadRequest { migration_id: id(), data_endpoint, ..Default::default() };
    let mut stream = a.client.send_ahead(request).await.expect("asked").into_inner();
    let mut last = api::AheadProgress::default();
    while let Some(progress) = stream.message().await? {
        last = progress;
    }
    assert!(last.done, "{last:?}");
    Ok(last)
}

pub(crate) fn apply(sent: &api::ImageReport, generation_id: &str) -> api::ApplyImageRequest {
    api::ApplyImageRequest {
        migration_id: id(),
        digest: sent.digest.clone(),
        generation_id: generation_id.to_owned(),
        identity: "web".to_owned(),
        disks: sent.disks.clone(),
    }
}

pub(crate) fn same(a: &Path, b: &Path) {
    assert!(fs::read(a).expect("read") == fs::read(b).expect("read"), "{}", b.display());
}

pub(crate) async fn goes_on(b: &mut Rig) {
    let request = api::ContinueGuestRequest { name: "web-2".into() };
    let guest = b.client.continue_guest(request).await.expect("continues").into_inner();
    assert_eq!(guest.state(), api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_becomes_the_source_byte_for_byte() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    let (ram, region) = (a.memory("web", "ram"), a.memory("web", "region-counts"));
    write(&ram, 20 << 20, b"before T0");
    let generation = cloned(&mut a, &mut b, spec("web-2"), true).await;
    for at in [0x20_0000, (20 << 20) + 3, (31 << 20) + 4090] {
        write(&ram, at, b"after T0");
    }
    write(&region, 777, b"after T0");
    // The destination's host is started again while it waits.
    b.stop().await;
    b.restart().await;
    let early = api::ImageReport { digest: "d".into(), ..Default::default() };
    let (_, message) = refusal(b.client.apply_image(apply(&early, &generation)).await);
    assert!(message.contains("no image has arrived"), "{message}");

    let sent = sent(&mut a, &mut b).await;
    assert!(sent.changed_bytes >= 32 && sent.device_state_bytes > 1000, "{sent:?}");
    let applied = b.client.apply_image(apply(&sent, &generation)).await;
    let applied = applied.expect("applied").into_inner();
    assert_eq!(applied.digest, sent.digest);
    same(&ram, &b.memory("web-2", "ram"));
    same(&region, &b.memory("web-2", "region-counts"));
    b.stop().await;
    b.restart().await;
    let again = b.client.apply_image(apply(&sent, &generation)).await.expect("again").into_inner();
    assert_eq!(again, applied);
    goes_on(&mut b).await;
    assert_eq!(a.state("web").await, api::GuestState::Paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_clone_that_served_meanwhile() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    let (ram, region) = (a.memory("web", "ram"), a.memory("web", "region-counts"));
    let generation = cloned(&mut a, &mut b, spec("web-2"), false).await;
    write(&b.memory("web-2", "ram"), 25 << 20, b"the clone's own");
    write(&b.memory("web-2", "region-counts"), 999, b"the clone's own");
    write(&ram, 24 << 20, b"the source's");
    let sent = sent(&mut a, &mut b).await;
    b.client.apply_image(apply(&sent, &generation)).await.expect("applied");
    same(&ram, &b.memory("web-2", "ram"));
    same(&region, &b.memory("web-2", "region-counts"));
    assert_eq!(b.state("web-2").await, api::GuestState::Paused);
    goes_on(&mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_ahead_while_the_source_ran_is_not_sent_in_the_pause() {
    for (waits, limit) in [(true, None), (false, None), (true, Some(0))] {
        let (mut a, mut b) = (Rig::keeping("a", limit).await, Rig::new("b").await);
        a.start_guest(spec("web")).await;
        let ram = a.memory("web", "ram");
        let generation = cloned(&mut a, &mut b, spec("web-2"), waits).await;
        if !waits {
            write(&b.memory("web-2", "ram"), 25 << 20, b"the clone's own");
        }
        write(&ram, 16 << 20, &noise(10 << 20));
        let ahead = goes_ahead(&mut a, &mut b).await.expect("went");
        let [sent_bytes] = ahead.pass_bytes[..] else { panic!("{ahead:?}") };
        assert!((10 << 20..11 << 20).contains(&sent_bytes), "{ahead:?}");
        assert!(ahead.why.ends_with("differ, which is little"), "{ahead:?}");
        let again = goes_ahead(&mut a, &mut b).await.expect("nothing to do");
        assert_eq!(again.pass_bytes, [0_u64; 0]);
        // One page more, and one as it was at T0.
        write(&ram, 30 << 20, b"later");
        write(&ram, 16 << 20, &[0; 4096]);
        // Nothing of it is in memory: what the twin says must be on its disk.
        a.stop().await;
        a.restart().await;
        let sent = sent(&mut a, &mut b).await;
        assert!(sent.changed_bytes < 1 << 20, "{sent:?}");
        assert!(sent.sent_bytes < 3 << 20, "{sent:?}");
        b.client.apply_image(apply(&sent, &generation)).await.expect("applied");
        same(&ram, &b.memory("web-2", "ram"));
        goes_on(&mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_to_the_memory_of_a_clone_that_runs_on_it() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    b.prepare(spec("web-2"), true).await;
    a.capture("web", true).await.expect("captured");
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    a.send(&status.data_endpoint).await.expect("sent");
    let request = api::StartDestinationRequest { migration_id: id(), ..Default::default() };
    b.client.start_destination(request).await.expect("started");
    write(&a.memory("web", "ram"), 16 << 20, &noise(10 << 20));
    let refused = goes_ahead(&mut a, &mut b).await.expect_err("refused");
    assert!(refused.message().contains("`web-2` neither awaits an image nor"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_is_not_the_sources_keeps_the_destination_from_going_on() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    let generation = cloned(&mut a, &mut b, spec("web-2"), true).await;
    // Where the source has changed nothing.
    write(&b.memory("web-2", "ram"), 27 << 20, b"x");
    let sent = sent(&mut a, &mut b).await;
    let (code, message) = refusal(b.client.apply_image(apply(&sent, &generation)).await);
    assert_eq!(code, Code::DataLoss);
    assert!(message.contains("is not the source's image"), "{message}");
    let request = api::GetGuestRequest { name: "web-2".into() };
    assert_eq!(refusal(b.client.get_guest(request).await).0, Code::NotFound);
    let request = api::ContinueGuestRequest { name: "web".into() };
    let source = a.client.continue_guest(request).await.expect("goes on").into_inner();
    assert_eq!(source.state(), api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_sent_as_fast_as_was_said() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    cloned(&mut a, &mut b, spec("web-2"), true).await;
    a.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    write(&a.memory("web", "ram"), 20 << 20, &noise(4 << 20));
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    let slow = api::SendImageRequest {
        migration_id: id(),
        data_endpoint: status.data_endpoint,
        bandwidth_mbps: Some(1),
    };
    // Half a minute.
    let mut client = a.client.clone();
    let sending = tokio::spawn(async move { client.send_image(slow).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!sending.is_finished());
    let lifted = api::SetBandwidthRequest { migration_id: id(), mbps: 0 };
    a.client.set_bandwidth(lifted).await.expect("lifted");
    let sent = tokio::time::timeout(Duration::from_secs(15), sending).await.expect("fast");
    let sent = sent.expect("no panic").expect("sent").into_inner();
    assert!(sent.sent_bytes > 4 << 20, "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_source_has_no_image() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    cloned(&mut a, &mut b, spec("web-2"), true).await;
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    let data_endpoint = status.data_endpoint;
    let request = api::SendImageRequest { migration_id: id(), data_endpoint, ..Default::default() };
    let (code, message) = refusal(a.client.send_image(request).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("is not paused"), "{message}");
}

async fn settle(host: &mut Rig, deadline_s: u32) -> api::SettleProgress {
    let request = api::SettleRequest {
        guest: "web".into(),
        settle_ms: 300,
        deadline_s,
        ..Default::default()
    };
    let mut stream = host.client.settle(request).await.expect("watched").into_inner();
    let mut last = api::SettleProgress::default();
    while let Some(progress) = stream.message().await.expect("progress") {
        last = progress;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_settles_when_nobody_writes_for_long_enough() {
    let mut host = Rig::new("h").await;
    host.start_guest(spec("web")).await;
    let region = host.memory("web", "region-counts");
    format_region(&region, MergeType::Sum);
    let still = settle(&mut host, 20).await;
    assert!(still.done && still.settled && still.unchanged_ms >= 300, "{still:?}");
    assert_eq!(still.watched_pages, 16);

    let stop = Arc::new(AtomicBool::new(false));
    let (writing, path) = (Arc::clone(&stop), region.clone());
    let writer = thread::spawn(move || {
        while !writing.load(Ordering::Relaxed) {
            let next = number(&path, COUNTER).wrapping_add(1);
            write(&path, COUNTER, &next.to_le_bytes());
            thread::sleep(Duration::from_millis(20));
        }
    });
    let restless = settle(&mut host, 1).await;
    assert!(restless.done && !restless.settled, "{restless:?}");
    assert!(restless.watched_ms >= 1000, "{restless:?}");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("writer");
    assert!(settle(&mut host, 20).await.settled);
    assert_eq!(host.state("web").await, api::GuestState::Running, "nothing was done to it");
    let request =
        api::SettleRequest { guest: "web".into(), regions: vec!["x".into()], ..Default::default() };
    let mut stream = host.client.settle(request).await.expect("asked").into_inner();
    let error = stream.message().await.expect_err("no such region");
    assert!(error.message().contains("no region `x`"), "{error}");
}

fn disk(path: &Path) -> api::Disk {
    api::Disk { path: path.display().to_string(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_writes_into_an_overlay_on_what_was_there_at_t0() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    let base = a.dir.path().join("web.raw");
    fs::write(&base, vec![7; 1 << 20]).expect("disk");
    let disks = vec![api::Disk { overlay: true, ..disk(&base) }];
    a.start_guest(api::GuestSpec { disks, ..spec("web") }).await;
    cloned(&mut a, &mut b, spec("web-2"), false).await;
    let mut images: Vec<_> = fs::read_dir(a.dir.path())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
        .filter(|name| name.starts_with("web.raw"))
        .collect();
    images.sort();
    assert_eq!(
        images,
        [
            "web.raw",
            "web.raw.web.qcow2",
            "web.raw.web.qcow2.m1.qcow2",
            "web.raw.web.qcow2.web-2.qcow2",
        ]
    );
    assert_eq!(fs::read(&base).expect("disk"), vec![7; 1 << 20]);
    assert_eq!(a.state("web").await, api::GuestState::Running);
    assert_eq!(b.state("web-2").await, api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_goes_over_to_who_goes_on_as_the_source() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    let path = a.dir.path().join("web.raw");
    fs::write(&path, vec![7; 1 << 20]).expect("disk");
    a.start_guest(api::GuestSpec { disks: vec![disk(&path)], ..spec("web") }).await;
    let beside =
        api::CheckCaptureRequest { guest: "web".into(), clone: true, ..Default::default() };
    let checked = a.client.check_capture(beside).await.expect("answered").into_inner();
    let problem = checked.safety.iter().find(|it| !it.ok).expect("two writers");
    assert!(problem.detail.contains("web.raw can be written by the source and by its clone"));

    let generation = cloned(&mut a, &mut b, spec("web-2"), true).await;
    let sent = sent(&mut a, &mut b).await;
    b.client.apply_image(apply(&sent, &generation)).await.expect("applied");
    goes_on(&mut b).await;
    let delete = api::DeleteGuestRequest { name: "web".into(), purge: true };
    a.client.delete_guest(delete).await.expect("deleted");
    assert_eq!(b.state("web-2").await, api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_for_a_clone_is_taken_before_anything_arrives() {
    use std::os::unix::fs::MetadataExt as _;
    let mut host = Rig::new("h").await;
    host.prepare(spec("web-2"), true).await;
    let ram = fs::metadata(host.memory("web-2", "ram")).expect("there");
    assert_eq!((ram.len(), ram.blocks() * 512), (32 << 20, 32 << 20));
    let large = api::GuestSpec { memory_mib: 8 << 20, ..spec("web-3") };
    let request = api::PrepareReceiveRequest {
        migration_id: "m2".into(),
        spec: Some(large),
        clone: true,
        keep_t0: false,
    };
    let (code, message) = refusal(host.client.prepare_receive(request).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("not enough room in"), "{message}");
    assert!(!host.memory("web-3", "ram").exists());
}
