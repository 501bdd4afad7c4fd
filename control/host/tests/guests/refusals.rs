//! Bad input gets a clear error, and the source still runs.

use std::{fs, io::Read as _, io::Write as _, net::TcpStream};

use tidegate_api::host as api;
use tonic::Code;

use super::rig::{RAM_MIB, Rig, refusal, spec};

fn check(guest: &str, regions: &[&str]) -> api::CheckCaptureRequest {
    api::CheckCaptureRequest {
        guest: guest.to_owned(),
        clone: true,
        regions: regions.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn capture(migration_id: &str, guest: &str) -> api::CaptureRequest {
    let (migration_id, guest) = (migration_id.to_owned(), guest.to_owned());
    api::CaptureRequest { migration_id, guest, clone: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_captured_is_told_with_the_remedy() {
    let mut host = Rig::new("h").await;
    let (code, message) = refusal(host.client.check_capture(check("web", &[])).await);
    assert_eq!(code, Code::NotFound);
    assert_eq!(message, "guest `web` is not known to this host");

    host.start_guest(spec("web")).await;
    let plan = host.client.check_capture(check("web", &[])).await.expect("fine").into_inner();
    assert_eq!(plan.ram_bytes, u64::from(RAM_MIB) << 20);
    assert_eq!(plan.regions.len(), 1);
    let (code, message) = refusal(host.client.check_capture(check("web", &["other"])).await);
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(message, "regions: guest `web` has no region `other`; it has counts");

    let request = api::StartGuestRequest { spec: Some(spec("web")) };
    let (code, message) = refusal(host.client.start_guest(request).await);
    assert_eq!((code, message.contains("exists already")), (Code::AlreadyExists, true));

    let private = api::GuestSpec { memory_shared: false, regions: vec![], ..spec("private") };
    host.start_guest(private).await;
    let (code, message) = refusal(host.client.capture(capture("m1", "private")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("no shared RAM file") && message.contains("memory_shared"));

    let pause = api::PauseGuestRequest { name: "web".into() };
    host.client.pause_guest(pause).await.expect("paused");
    let (code, message) = refusal(host.client.capture(capture("m1", "web")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("it is paused; continue it first"), "{message}");
    let go_on = api::ContinueGuestRequest { name: "web".into() };
    host.client.continue_guest(go_on).await.expect("continues");

    let (code, message) = refusal(host.client.capture(capture("../m1", "web")).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("migration_id: `../m1` is not allowed"), "{message}");
    let request = api::SendTwinRequest {
        migration_id: "m1".into(),
        data_endpoint: "127.0.0.1:1".into(),
        ..Default::default()
    };
    let (code, _) = refusal(host.client.send_twin(request).await.map(|_| tonic::Response::new(())));
    assert_eq!(code, Code::NotFound);
    assert_eq!(host.state("web").await, api::GuestState::Running);
}

/// A RAM file that says it is larger than any disk: no other way to fill one without being root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_for_the_twin_is_found_before_the_source_is_paused() {
    let mut host = Rig::new("h").await;
    host.start_guest(spec("web")).await;
    // Sparse, and only for as long as the check looks at it.
    let region = host.memory("web", "region-counts");
    let file = fs::OpenOptions::new().write(true).open(&region).expect("open");
    file.set_len(1 << 42).expect("grow");
    let (code, message) = refusal(host.client.capture(capture("m1", "web")).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("not enough room in") && message.contains("bytes are needed"));
    assert!(message.contains(&host.config.twin_dir.display().to_string()), "{message}");
    assert_eq!(host.state("web").await, api::GuestState::Running);
    assert!(!host.config.twin_dir.join("m1").exists());
    file.set_len(super::rig::REGION_BYTES).expect("shrink");
    host.capture("web", true).await.expect("now there is room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_fails_in_the_pause_continues_the_source() {
    let mut host = Rig::new("h").await;
    // Without `master=on` this device forbids saving the guest's state.
    let extra =
        ["-object", "memory-backend-ram,id=x,size=4096", "-device", "ivshmem-plain,memdev=x"];
    let extra_args = extra.map(str::to_owned).to_vec();
    host.start_guest(api::GuestSpec { extra_args, ..spec("web") }).await;
    let message = host.capture("web", true).await.expect_err("refused");
    assert!(message.contains("QEMU refused `migrate`"), "{message}");
    assert_eq!(host.state("web").await, api::GuestState::Running);
    assert!(!host.config.twin_dir.join("m1").exists());
    // Nothing is left of it: the same id can be used.
    host.capture("web", false).await.expect("regions only need no device state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qemu_that_ends_at_once_is_told_with_its_last_words() {
    let mut host = Rig::new("h").await;
    let start = |change: fn(&mut api::GuestSpec)| {
        let mut spec = spec("web");
        change(&mut spec);
        api::StartGuestRequest { spec: Some(spec) }
    };
    let request = start(|spec| spec.extra_args = vec!["-nonsense".into()]);
    let (_, message) = refusal(host.client.start_guest(request).await);
    assert!(message.contains("-nonsense: invalid option"), "{message}");
    let nic = |spec: &mut api::GuestSpec| {
        let mac = "52:54:00:00:00:01".into();
        spec.nics = vec![api::Nic { vhost_socket: "/nonexistent/v.sock".into(), mac }];
    };
    let (_, message) = refusal(host.client.start_guest(start(nic)).await);
    assert!(message.contains("/nonexistent/v.sock") && message.contains("start the switch box"));
    assert!(!host.config.memory_dir.join("web").exists());
    host.start_guest(spec("web")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_do_not_fit_refuse_each_other() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    a.capture("web", true).await.expect("captured");
    let message = a.send("127.0.0.1:1").await.expect_err("nobody there");
    assert!(message.contains("cannot reach the destination's host at 127.0.0.1:1"), "{message}");
    let status = b.client.get_status(api::GetStatusRequest {}).await.expect("status").into_inner();
    assert!(status.qemu_version.starts_with(char::is_numeric), "{status:?}");
    let message = a.send(&status.data_endpoint).await.expect_err("not prepared");
    assert_eq!(message, "the other host refused: migration `m1` was not prepared here");

    let small = api::GuestSpec { memory_mib: 16, ..spec("web-2") };
    let data = b.prepare(small, true).await;
    let message = a.send(&data).await.expect_err("too large");
    assert!(message.contains("ram of 33554432 bytes does not fit"), "{message}");
    let start = api::StartDestinationRequest { migration_id: "m1".into(), ..Default::default() };
    let (_, message) = refusal(b.client.start_destination(start.clone()).await);
    assert!(message.contains("has not arrived whole"), "{message}");
    let forget = api::ForgetRequest { migration_id: "m1".into() };
    b.client.forget(forget.clone()).await.expect("forgotten");

    // A sender that goes away in the middle leaves nothing that could be started.
    let data = b.prepare(spec("web-2"), true).await;
    let mut stream = TcpStream::connect(&data).expect("connect");
    let mut hello = vec![1, 0, 0, 0, 14, 0, 0, 0];
    hello.extend(b"TIDEGATE\x02\x00\x02\x00m1");
    stream.write_all(&hello).expect("hello");
    let mut welcome = [0; 8];
    stream.read_exact(&mut welcome).expect("welcome");
    let (_, message) = refusal(b.client.start_destination(start.clone()).await);
    assert!(message.contains("has not arrived whole"), "{message}");
    // The first connection is still there; the newer one takes its place.
    a.send(&data).await.expect("sent");
    drop(stream);
    // Spoilt between arrival and start: QEMU refuses, and it can be sent again.
    let state = b.config.state_dir.join("migrations/m1/device-state");
    let good = fs::read(&state).expect("state");
    fs::write(&state, &good[..good.len() / 2]).expect("spoil");
    let (_, message) = refusal(b.client.start_destination(start.clone()).await);
    assert!(message.contains("did not load the source's device state"), "{message}");
    a.send(&data).await.expect("sent again");
    b.client.start_destination(start).await.expect("started");
    assert_eq!(a.state("web").await, api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_without_its_switch_is_refused_before_anything_is_prepared() {
    let mut host = Rig::new("h").await;
    let socket = host.dir.path().join("vm2").display().to_string();
    let nic = api::Nic { vhost_socket: socket.clone(), mac: "52:54:00:00:00:02".into() };
    let request = api::PrepareReceiveRequest {
        migration_id: "m1".into(),
        spec: Some(api::GuestSpec { nics: vec![nic], ..spec("web-2") }),
        clone: true,
        keep_t0: false,
    };
    let (code, message) = refusal(host.client.prepare_receive(request).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains(&socket) && message.contains("start the switch box"), "{message}");
    assert!(!host.memory("web-2", "ram").exists());
}
