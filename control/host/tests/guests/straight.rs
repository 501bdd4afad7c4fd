//! RAM that goes to the destination's host while it is captured, of guests that never stand still.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tidegate_api::host::{self as api, CaptureWay};
use tidegate_host::{Compressing, DataConfig};
use tidegate_region::MergeType;
use tonic::Code;

use super::{
    copies::{Daemon, configure, proven},
    image::{apply, goes_on, same, sent},
    rewriter::{self, Rewriter},
    rig::{COUNTER, REGION_BYTES, Rig, format_region, number, refusal, spec, write},
};

pub(crate) const GUEST: Rewriter = Rewriter { memory_mib: 128, rewritten_mib: 32 };
const RAM_BYTES: u64 = (GUEST.memory_mib as u64) << 20;
/// Of RAM that was not sent, there may be so much.
const WINDOW_BYTES: u64 = 8 << 20;

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

pub(crate) fn guest(kernel: &Path, name: &str) -> api::GuestSpec {
    let kernel = kernel.display().to_string();
    api::GuestSpec { memory_mib: GUEST.memory_mib, kernel, ..spec(name) }
}

/// A host that keeps no RAM, with a guest `web` that rewrites a part of its own.
async fn writing() -> (Rig, api::GuestSpec) {
    writing_at(DataConfig::default()).await
}

/// The same, on a host that sends so.
async fn writing_at(data: DataConfig) -> (Rig, api::GuestSpec) {
    // What it writes would be packed into next to nothing.
    let data = DataConfig { compression: Compressing::Off, ..data };
    let mut a = Rig::configured("a", data, Some(0)).await;
    let kernel = a.dir.path().join("rewriter");
    fs::write(&kernel, GUEST.kernel()).expect("kernel");
    let started = a.start_guest(guest(&kernel, "web")).await;
    rewriter::ready(&started.console_path).await;
    let destination = guest(&kernel, "web-2");
    (a, destination)
}

pub(crate) fn order(data_endpoint: &str, bandwidth_mbps: u64) -> api::CaptureRequest {
    let data_endpoint = data_endpoint.to_owned();
    let straight = api::Straight { data_endpoint, bandwidth_mbps, ..Default::default() };
    api::CaptureRequest {
        migration_id: id(),
        guest: "web".to_owned(),
        clone: true,
        way: CaptureWay::Passes.into(),
        straight: Some(straight),
        ..Default::default()
    }
}

fn twin(a: &Rig) -> PathBuf {
    a.config.twin_dir.join("m1")
}

/// Bytes of all files of the twin.
fn twin_bytes(twin: &Path) -> u64 {
    let Ok(files) = fs::read_dir(twin) else { return 0 };
    files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}

fn assert_gone(a: &Rig) {
    assert!(!twin(a).exists());
    let record = fs::read_to_string(a.config.state_dir.join("migrations/m1/migration.json"));
    assert!(record.expect("record").contains("\"capture\": null"));
}

/// Wait until RAM is on its way.
pub(crate) async fn begun(twin: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while twin_bytes(twin) < WINDOW_BYTES / 2 {
        assert!(Instant::now() < until, "nothing is put into the window");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How far it is.
async fn progress(a: &mut Rig) -> Option<api::SendProgress> {
    let asked = a.client.get_copy(api::GetCopyRequest { migration_id: id() }).await;
    asked.expect("answered").into_inner().progress
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_captured_is_at_the_destination_and_hashes_are_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let proven = |authority: &str| proven(dir.path(), authority);
    // With an audit in the clear, without over TLS.
    for audit in [true, false] {
        let how = if audit { DataConfig::default() } else { proven("ours") };
        let (mut a, destination) = writing_at(how.clone()).await;
        if !audit {
            let mut stranger = Rig::with("s", proven("strangers")).await;
            let data = stranger.prepare(destination.clone(), true).await;
            let (_, message) = refusal(a.client.capture(order(&data, 0)).await);
            assert!(message.contains("UnknownIssuer"), "{message}");
            assert_gone(&a);
        }
        let mut b = Rig::with("b", how).await;
        let data = b.prepare(destination.clone(), true).await;
        let request = api::CaptureRequest { audit, ..order(&data, 0) };
        let report = a.client.capture(request.clone()).await.expect("captured").into_inner();
        println!("audit {audit}: {report:?}");
        assert!(report.straight && report.way() == CaptureWay::Passes, "{report:?}");
        assert_eq!((report.ram_bytes, &*report.transport), (RAM_BYTES, "tcp"));
        assert!(report.sent_bytes > 100 << 20, "the guest has written to all its memory");
        assert_eq!(a.state("web").await, api::GuestState::Running);
        let kept = twin_bytes(&twin(&a));
        assert!(kept < RAM_BYTES / 200 + REGION_BYTES + (2 << 20), "{kept} bytes are kept");
        // Of one instant; with an audit, it was compared with the source's memory.
        let image = b.memory("web-2", "ram");
        let taken = GUEST.progress(&image);
        let again = a.client.capture(request).await.expect("again").into_inner();
        assert_eq!(again, report);

        // Not before the rest is there.
        let start = |await_image| api::StartDestinationRequest {
            migration_id: id(),
            paused: true,
            await_image,
            ..Default::default()
        };
        let (_, message) = refusal(b.client.start_destination(start(false)).await);
        assert!(message.contains("has not arrived whole"), "{message}");
        a.stop().await;
        a.restart().await;
        let hashes = twin(&a).join("ram.hashes");
        let file = || fs::metadata(&hashes).expect("hashes").ino();
        let written = file();
        for first in [true, false] {
            let rest = a.send(&data).await.expect("sent");
            assert!(rest.done && rest.sent_bytes < 8 << 20, "{rest:?}");
            assert_eq!(
                (rest.resumed_bytes == rest.total_bytes, rest.transport),
                (!first, "tcp".to_owned())
            );
            assert_eq!(file(), written, "they are not written anew");
        }
        b.client.start_destination(start(false)).await.expect("started");
        assert_eq!(GUEST.progress(&image), taken);
        goes_on(&mut b).await;
        let until = Instant::now() + Duration::from_secs(20);
        let pause = || api::PauseGuestRequest { name: "web-2".to_owned() };
        loop {
            b.client.pause_guest(pause()).await.expect("paused");
            if GUEST.progress(&image) > taken {
                break;
            }
            assert!(Instant::now() < until, "the clone stands still");
            goes_on(&mut b).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_ends_as_the_source() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let checked = api::CheckCaptureRequest {
        guest: "web".into(),
        clone: true,
        clone_use: api::CloneUse::Instead.into(),
        ..Default::default()
    };
    let generation_id = a.client.check_capture(checked).await.expect("fine").into_inner();
    let generation_id = generation_id.generation_id;
    let destination = api::GuestSpec { generation_id: generation_id.clone(), ..destination };
    let data = b.prepare(destination, true).await;
    let request =
        api::CaptureRequest { clone_use: api::CloneUse::Instead.into(), ..order(&data, 0) };
    assert!(a.client.capture(request).await.expect("captured").into_inner().straight);
    a.send(&data).await.expect("sent");
    let request = api::StartDestinationRequest {
        migration_id: id(),
        await_image: true,
        ..Default::default()
    };
    b.client.start_destination(request).await.expect("started");
    let sent = sent(&mut a, &mut b).await;
    assert!(sent.changed_bytes >= u64::from(GUEST.rewritten_mib) << 19, "{sent:?}");
    assert!(sent.changed_bytes < RAM_BYTES / 2, "{sent:?}");
    b.client.apply_image(apply(&sent, &generation_id)).await.expect("applied");
    same(&a.memory("web", "ram"), &b.memory("web-2", "ram"));
    same(&a.memory("web", "region-counts"), &b.memory("web-2", "region-counts"));
    goes_on(&mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_takes_the_merge_of_its_region() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let source = a.memory("web", "region-counts");
    format_region(&source, MergeType::Sum);
    write(&source, COUNTER, &3_u64.to_le_bytes());
    let data = b.prepare(destination, true).await;
    assert!(a.client.capture(order(&data, 0)).await.expect("captured").into_inner().straight);
    a.send(&data).await.expect("sent");
    let request = api::StartDestinationRequest { migration_id: id(), ..Default::default() };
    b.client.start_destination(request).await.expect("started");
    write(&source, COUNTER, &5_u64.to_le_bytes());
    let clone = b.memory("web-2", "region-counts");
    write(&clone, COUNTER, &10_u64.to_le_bytes());
    a.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let request =
        api::SendDiffRequest { migration_id: id(), data_endpoint: data, ..Default::default() };
    a.client.send_diff(request).await.expect("diff");
    b.client.merge(api::MergeRequest { migration_id: id() }).await.expect("merged");
    assert_eq!(number(&clone, COUNTER), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_holds_qemu_up_and_not_the_guest() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let data = b.prepare(destination, true).await;
    let mut client = a.client.clone();
    // A quarter of a minute for what is not zeros, if the cap stayed.
    let slowly = order(&data, 64);
    let began = Instant::now();
    let capturing = tokio::spawn(async move { client.capture(slowly).await });
    begun(&twin(&a)).await;
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(3) {
        most = most.max(twin_bytes(&twin(&a)));
        assert_eq!(a.state("web").await, api::GuestState::Running);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!capturing.is_finished(), "the cap is kept");
    let so_far = progress(&mut a).await.expect("it is on its way");
    println!("{so_far:?}");
    assert_eq!((so_far.total_bytes, &*so_far.transport, so_far.done), (RAM_BYTES, "tcp", false));
    assert!((4 << 20..36 << 20).contains(&so_far.sent_bytes), "{so_far:?}");
    // What lies below the guest's kernel and around it is zeros, and comes first.
    assert!(so_far.covered_bytes > so_far.sent_bytes + (8 << 20), "{so_far:?}");
    assert!(so_far.covered_bytes < RAM_BYTES / 2, "{so_far:?}");
    assert!((1_000_000..12_000_000).contains(&so_far.rate_bytes_per_s), "{so_far:?}");
    let others = REGION_BYTES + (1 << 20);
    assert!(most > WINDOW_BYTES / 4 && most <= WINDOW_BYTES + others, "{most} bytes were here");
    let lifted = api::SetBandwidthRequest { migration_id: id(), mbps: 0 };
    a.client.set_bandwidth(lifted).await.expect("lifted");
    let report = capturing.await.expect("no panic").expect("captured").into_inner();
    println!("{most} bytes were here, {report:?}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(progress(&mut a).await, None, "nothing is on its way any more");
    GUEST.progress(&b.memory("web-2", "ram"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pause_does_not_wait_for_a_slow_way() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let data = b.prepare(destination, true).await;
    let mut client = a.client.clone();
    let slowly = order(&data, 128);
    let capturing = tokio::spawn(async move { client.capture(slowly).await });
    begun(&twin(&a)).await;
    // It has to wait for the last pass, and not until that has left.
    let pause = api::PauseGuestRequest { name: "web".to_owned() };
    a.client.pause_guest(pause).await.expect("paused");
    assert_eq!(a.state("web").await, api::GuestState::Paused);
    assert!(!capturing.is_finished(), "RAM is still on its way");
    let request = api::ContinueGuestRequest { name: "web".to_owned() };
    a.client.continue_guest(request).await.expect("goes on");
    let report = capturing.await.expect("no panic").expect("captured").into_inner();
    println!("{report:?}");
    // What the guest rewrites would take two seconds.
    let last_pass = *report.pass_bytes.last().expect("a last pass");
    assert!(last_pass >= 16 << 20, "{report:?}");
    let at_the_cap = Duration::from_secs_f64(last_pass as f64 / 16e6);
    let paused = Duration::from_nanos(report.pause_ns);
    assert!(paused < at_the_cap / 2, "{paused:?} beside {at_the_cap:?}");
    GUEST.progress(&b.memory("web-2", "ram"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_killed_costs_the_source_nothing() {
    let (mut a, destination) = writing().await;
    let dir = tempfile::tempdir().expect("dir");
    let memory = configure(dir.path());
    let mut b = Daemon::start(dir.path()).await;
    let data = b.prepare(destination.clone()).await;
    let mut client = a.client.clone();
    let slowly = order(&data, 64);
    let capturing = tokio::spawn(async move { client.capture(slowly).await });
    begun(&twin(&a)).await;
    b.process.kill().expect("killed");
    let asked = Instant::now();
    let (code, message) = refusal(capturing.await.expect("no panic"));
    println!("{message}");
    assert_eq!(code, Code::Unavailable);
    for part in [&*format!("destination's host at {data}"), "`web`", "then capture again"] {
        assert!(message.contains(part), "`{part}` in {message}");
    }
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(a.state("web").await, api::GuestState::Running);
    assert_gone(&a);
    drop(b);

    let mut b = Daemon::start(dir.path()).await;
    let data = b.prepare(destination).await;
    let report = a.client.capture(order(&data, 0)).await.expect("captured").into_inner();
    assert!(report.straight, "{report:?}");
    GUEST.progress(&memory.join("web-2/ram"));
    assert!(a.send(&data).await.expect("sent").done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gives_up_or_stops_need_not_wait() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let data = b.prepare(destination.clone(), true).await;
    for stops in [false, true] {
        let mut client = a.client.clone();
        let slowly = order(&data, 32);
        let capturing = tokio::spawn(async move { client.capture(slowly).await });
        begun(&twin(&a)).await;
        let asked = Instant::now();
        if stops {
            a.stop().await;
        } else {
            let forget = api::ForgetRequest { migration_id: id() };
            a.client.forget(forget).await.expect("forgotten");
        }
        let message = capturing.await.expect("no panic").expect_err("given up").to_string();
        println!("{message}");
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        let why = if stops { "the host is stopping" } else { "the migration is given up" };
        assert!(message.contains(&format!("the copy was cancelled: {why}")), "{message}");
        if stops {
            a.restart().await;
        } else {
            b.prepare(destination.clone(), true).await;
        }
        assert!(!twin(&a).exists());
        assert_eq!(a.state("web").await, api::GuestState::Running);
    }
    let report = a.client.capture(order(&data, 0)).await.expect("captured").into_inner();
    assert!(report.straight, "{report:?}");
    GUEST.progress(&b.memory("web-2", "ram"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_straight_is_foretold() {
    let ((mut a, destination), mut b) = (writing().await, Rig::new("b").await);
    let check = |straight, way: CaptureWay| api::CheckCaptureRequest {
        guest: "web".into(),
        clone: true,
        way: way.into(),
        straight,
        ..Default::default()
    };
    let room = |it: &api::CheckCaptureResponse| it.twin_room_bytes;
    let asked = a.client.check_capture(check(true, CaptureWay::Passes)).await;
    let goes = asked.expect("planned").into_inner();
    assert!(goes.straight && room(&goes) < WINDOW_BYTES + (17 << 20), "{goes:?}");
    let said = "RAM goes straight to the destination's host; until then 8388608 bytes";
    assert!(goes.twin_kept.contains(said), "{}", goes.twin_kept);
    for (straight, way) in [(false, CaptureWay::Passes), (true, CaptureWay::Stop)] {
        let asked = a.client.check_capture(check(straight, way)).await;
        let stays = asked.expect("planned").into_inner();
        assert!(!stays.straight && room(&stays) >= RAM_BYTES + REGION_BYTES, "{stays:?}");
        assert!(stays.twin_kept.contains("all bytes until then"), "{}", stays.twin_kept);
    }

    // Asked for with what cannot, it does not; whether that way is there is told as well.
    let by = |transport: &str, data_endpoint: &str| api::CheckCaptureRequest {
        transport: transport.to_owned(),
        data_endpoint: data_endpoint.to_owned(),
        ..check(true, CaptureWay::Passes)
    };
    let here = "127.0.0.1:7433";
    let asked = a.client.check_capture(by("fabric:tcp", here)).await.expect("planned");
    let stays = asked.into_inner();
    assert!(!stays.straight && room(&stays) >= RAM_BYTES + REGION_BYTES, "{stays:?}");
    let goes = a.client.check_capture(by("", here)).await.expect("planned").into_inner();
    assert!(goes.straight && goes.carriage.as_ref().is_some_and(|way| way.ok), "{goes:?}");
    let asked = a.client.check_capture(by("fabric:verbs", here)).await.expect("planned");
    let way = asked.into_inner().carriage.expect("looked at");
    let devices = fs::read_dir("/sys/class/infiniband").is_ok_and(|mut all| all.next().is_some());
    assert_eq!(way.ok, devices, "{way:?}");
    if !devices {
        assert!(way.detail.starts_with("transport: the data path fabric:verbs"), "{way:?}");
        assert!(way.detail.contains("no RDMA device"), "{way:?}");
        assert!(way.detail.ends_with("choose auto or tcp"), "{way:?}");
    }
    let asked = a.client.check_capture(by("", "192.0.2.1:7433")).await.expect("planned");
    let way = asked.into_inner().carriage.expect("looked at");
    assert!(!way.ok && way.detail.contains("configure [data.tls] on both hosts"), "{way:?}");
    let asked = a.client.check_capture(by("fabric:pigeon", here)).await;
    let (code, message) = refusal(asked);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("transport: `fabric:pigeon` is no transport"), "{message}");

    // By the way that stops, and where it must not go over TCP, there is a twin.
    let data = b.prepare(destination, true).await;
    let straight = |transport: &str| {
        let (data_endpoint, transport) = (data.clone(), transport.to_owned());
        Some(api::Straight { data_endpoint, transport, ..Default::default() })
    };
    for (way, transport) in [(CaptureWay::Stop, ""), (CaptureWay::Passes, "fabric:tcp")] {
        let straight = straight(transport);
        let request = api::CaptureRequest { way: way.into(), straight, ..order(&data, 0) };
        let report = a.client.capture(request).await.expect("captured").into_inner();
        assert!(!report.straight && report.transport.is_empty(), "{report:?}");
        assert!(twin(&a).join("ram").exists());
        a.client.forget(api::ForgetRequest { migration_id: id() }).await.expect("forgotten");
    }
    let nobody = order("127.0.0.1:1", 0);
    let (code, message) = refusal(a.client.capture(nobody).await);
    assert_eq!(code, Code::Unavailable, "{message}");
    assert!(message.contains("cannot reach the destination's host at 127.0.0.1:1"), "{message}");
    let (code, message) = refusal(a.client.capture(order("here", 0)).await);
    assert_eq!(
        (code, &*message),
        (Code::InvalidArgument, "data_endpoint: `here` is not `host:port`")
    );
    assert_eq!(a.state("web").await, api::GuestState::Running);
    assert_gone(&a);
}
