//! T0 of guests that never stand still, by either way.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::host::{self as api, CaptureWay};

use super::{
    rewriter::{self, Rewriter},
    rig::{Rig, number, refusal, spec},
};

const GUEST: Rewriter = Rewriter { memory_mib: 128, rewritten_mib: 32 };

async fn start(rig: &mut Rig) -> api::Guest {
    let spec = guest(rig, "web");
    fs::write(&spec.kernel, GUEST.kernel()).expect("kernel");
    let guest = rig.start_guest(spec).await;
    rewriter::ready(&guest.console_path).await;
    guest
}

fn guest(rig: &Rig, name: &str) -> api::GuestSpec {
    let kernel = rig.dir.path().join("rewriter").display().to_string();
    api::GuestSpec { memory_mib: GUEST.memory_mib, kernel, ..spec(name) }
}

fn order(id: &str, way: CaptureWay) -> api::CaptureRequest {
    api::CaptureRequest {
        migration_id: id.to_owned(),
        guest: "web".to_owned(),
        clone: true,
        way: way.into(),
        audit: true,
        ..Default::default()
    }
}

async fn capture(rig: &mut Rig, id: &str, way: CaptureWay) -> api::CaptureReport {
    let report = rig.client.capture(order(id, way)).await.expect("captured").into_inner();
    println!("{way:?}: {report:?}");
    assert_eq!(report.way(), way);
    assert_eq!(rig.state("web").await, api::GuestState::Running, "the source goes on");
    report
}

fn twin(rig: &Rig, id: &str) -> (u32, u32) {
    GUEST.progress(&rig.config.twin_dir.join(id).join("ram"))
}

/// Wait until something of the guest's has come to a twin.
async fn begun(twin: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while !twin.exists() || number(twin, u64::from(rewriter::WRITES_FROM)) == 0 {
        assert!(Instant::now() < until, "nothing comes to {}", twin.display());
        tokio::task::yield_now().await;
    }
}

/// How far a running guest is.
async fn progress(rig: &mut Rig, name: &str) -> (u32, u32) {
    let request = api::PauseGuestRequest { name: name.to_owned() };
    rig.client.pause_guest(request).await.expect("paused");
    let now = GUEST.progress(&rig.memory(name, "ram"));
    let request = api::ContinueGuestRequest { name: name.to_owned() };
    rig.client.continue_guest(request).await.expect("continued");
    now
}

/// Wait until a guest has written on.
async fn goes_on(rig: &mut Rig, name: &str, since: (u32, u32)) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let now = progress(rig, name).await;
        if now > since {
            return;
        }
        assert!(Instant::now() < until, "`{name}` stays at {now:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_writes_all_the_time_is_captured_at_one_instant() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    start(&mut a).await;

    // Each way after the other, so that none leaves QEMU in a state that the next cannot use.
    let mut before = (0, 0);
    for (id, way) in
        [("passes-1", CaptureWay::Passes), ("stop", CaptureWay::Stop), ("m1", CaptureWay::Passes)]
    {
        let report = capture(&mut a, id, way).await;
        let taken = twin(&a, id);
        assert!(taken > before, "{taken:?} is later than {before:?}");
        before = taken;
        match way {
            CaptureWay::Passes => {
                assert_eq!(
                    report.pass_bytes.len(),
                    2,
                    "under TCG there is one, and the last: {report:?}"
                );
                let all: u64 = report.pass_bytes.iter().sum();
                assert!(all >= 100 << 20, "the guest has written to all its memory: {report:?}");
            }
            _ => assert!(report.pass_bytes.is_empty(), "{report:?}"),
        }
        goes_on(&mut a, "web", taken).await;
    }

    // The last one is what a clone begins with.
    let data = b.prepare(guest(&a, "web-2"), true).await;
    a.send(&data).await.expect("sent");
    let request = api::StartDestinationRequest {
        migration_id: "m1".to_owned(),
        paused: true,
        ..Default::default()
    };
    let started = b.client.start_destination(request).await.expect("started").into_inner();
    assert_eq!(started.state(), api::GuestState::Paused);
    let image = b.memory("web-2", "ram");
    assert_eq!(GUEST.progress(&image), before);
    let (then, now) = (fs::read(a.config.twin_dir.join("m1/ram")), fs::read(&image));
    let (then, now) = (then.expect("twin"), now.expect("image"));
    let differ = then.iter().zip(&now).filter(|(was, is)| was != is).count();
    assert!(differ <= 16, "only the new vmgenid differs, not {differ} bytes");
    goes_on(&mut b, "web-2", before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_dies_while_it_is_captured_leaves_an_error_and_nothing_else() {
    let mut host = Rig::new("h").await;
    let guest = start(&mut host).await;
    let mut client = host.client.clone();
    let capturing =
        tokio::spawn(async move { client.capture(order("m1", CaptureWay::Passes)).await });
    let twin = host.config.twin_dir.join("m1");
    let ram = twin.join("ram");
    // Something has arrived: QEMU is in the middle of it.
    begun(&ram).await;
    kill_process(Pid::from_raw(guest.pid as i32).expect("pid"), Signal::KILL).expect("killed");
    let asked = Instant::now();
    let (_, message) = refusal(capturing.await.expect("no panic"));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(message.contains("`web` ended while it was captured"), "{message}");
    assert!(!twin.exists() && !host.config.state_dir.join("guests/web/out.sock").exists());
    let record = fs::read_to_string(host.config.state_dir.join("migrations/m1/migration.json"));
    assert!(record.expect("record").contains("\"capture\": null"));
    let delete = api::DeleteGuestRequest { name: "web".into(), purge: true };
    host.client.delete_guest(delete).await.expect("deleted");
    start(&mut host).await;
    capture(&mut host, "m1", CaptureWay::Passes).await;
}

/// Give QEMU an order by a monitor that the host knows nothing of.
fn order_qemu(socket: &Path, command: &str) {
    let mut stream = UnixStream::connect(socket).expect("a monitor");
    let mut answers = BufReader::new(stream.try_clone().expect("cloned"));
    for command in ["qmp_capabilities", command] {
        writeln!(stream, "{{\"execute\": \"{command}\"}}").expect("written");
        let mut line = String::new();
        while !line.contains("\"return\"") {
            line.clear();
            assert!(answers.read_line(&mut line).expect("an answer") > 0, "{command}: no answer");
            assert!(!line.contains("\"error\""), "{line}");
        }
    }
}

/// Nothing of a capture is left, and its source runs on.
async fn nothing_is_left(host: &mut Rig) {
    assert_eq!(host.state("web").await, api::GuestState::Running);
    let since = progress(host, "web").await;
    goes_on(host, "web", since).await;
    let twin = host.config.twin_dir.join("m1");
    let socket = host.config.state_dir.join("guests/web/out.sock");
    assert!(!twin.exists() && !socket.exists(), "{twin:?} or {socket:?} is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cancelled_leaves_an_error_and_nothing_else() {
    let mut host = Rig::new("h").await;
    let monitor = host.dir.path().join("other-monitor");
    let listen = format!("unix:{},server=on,wait=off", monitor.display());
    let spec = api::GuestSpec { extra_args: vec!["-qmp".into(), listen], ..guest(&host, "web") };
    fs::write(&spec.kernel, GUEST.kernel()).expect("kernel");
    let started = host.start_guest(spec).await;
    rewriter::ready(&started.console_path).await;
    let mut client = host.client.clone();
    let capturing =
        tokio::spawn(async move { client.capture(order("m1", CaptureWay::Passes)).await });
    begun(&host.config.twin_dir.join("m1/ram")).await;
    order_qemu(&monitor, "migrate_cancel");
    let (_, message) = refusal(capturing.await.expect("no panic"));
    assert!(message.contains("QEMU's state transfer is `cancel"), "{message}");
    nothing_is_left(&mut host).await;
    let record = fs::read_to_string(host.config.state_dir.join("migrations/m1/migration.json"));
    assert!(record.expect("record").contains("\"capture\": null"));
    capture(&mut host, "m1", CaptureWay::Passes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_given_up_while_its_source_is_captured_leaves_nothing() {
    let mut host = Rig::new("h").await;
    start(&mut host).await;
    let mut client = host.client.clone();
    let capturing =
        tokio::spawn(async move { client.capture(order("m1", CaptureWay::Passes)).await });
    begun(&host.config.twin_dir.join("m1/ram")).await;
    // As a manager does that aborts: it waits for the answer no more.
    capturing.abort();
    assert!(capturing.await.expect_err("the call is over").is_cancelled());
    let forget = || api::ForgetRequest { migration_id: "m1".into() };
    host.client.forget(forget()).await.expect("forgotten");
    nothing_is_left(&mut host).await;
    assert!(!host.config.state_dir.join("migrations/m1").exists());
    host.client.forget(forget()).await.expect("there is nothing to forget");
    capture(&mut host, "m1", CaptureWay::Passes).await;
}

/// Stand between the host and a guest's monitor until what this gives is renamed to the monitor's socket. QEMU hangs once it has
/// stopped the guest, before the host hears of that.
fn hang_at_stop(guest: &api::Guest, pid: Pid) -> PathBuf {
    let socket = PathBuf::from(&guest.qmp_socket);
    let behind = socket.with_extension("behind");
    fs::rename(&socket, &behind).expect("moved");
    let hosts = UnixListener::bind(&socket).expect("in its place");
    let monitor = behind.clone();
    thread::spawn(move || {
        for host in hosts.incoming().map_while(Result::ok) {
            let Ok(qemu) = UnixStream::connect(&monitor) else { return };
            let stops = Arc::new(AtomicBool::new(false));
            let (asks, asked) = (host.try_clone().expect("cloned"), qemu.try_clone());
            let stopping = stops.clone();
            thread::spawn(move || {
                pass_on(asks, asked.expect("cloned"), |line| {
                    stopping.fetch_or(line.contains("\"stop\""), Ordering::SeqCst);
                });
            });
            thread::spawn(move || {
                pass_on(qemu, host, |line| {
                    if line.contains("\"return\"") && stops.swap(false, Ordering::SeqCst) {
                        kill_process(pid, Signal::STOP).expect("stopped");
                    }
                });
            });
        }
    });
    behind
}

/// Pass lines on, each after `heard` was told, until one side has closed.
fn pass_on(from: UnixStream, mut to: UnixStream, heard: impl Fn(&str)) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        heard(&line);
        if writeln!(to, "{line}").is_err() {
            break;
        }
    }
    // Closed already is fine.
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_could_not_be_continued_is_remembered() {
    let mut host = Rig::new("h").await;
    let guest = start(&mut host).await;
    let pid = Pid::from_raw(guest.pid as i32).expect("pid");
    let monitor = hang_at_stop(&guest, pid);
    // It is paused, and will neither save its devices nor continue.
    let (_, message) = refusal(host.client.capture(order("m1", CaptureWay::Stop)).await);
    assert!(message.contains("nothing came for"), "{message}");
    kill_process(pid, Signal::CONT).expect("goes on");
    fs::rename(&monitor, &guest.qmp_socket).expect("moved back");
    host.stop().await;
    host.restart().await;
    assert_eq!(host.state("web").await, api::GuestState::Running);
    assert!(!host.config.twin_dir.join("m1").exists());
    capture(&mut host, "m1", CaptureWay::Stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_is_chosen_and_foretold() {
    let mut host = Rig::new("h").await;
    start(&mut host).await;
    let check = |clone, way: CaptureWay| api::CheckCaptureRequest {
        guest: "web".to_owned(),
        clone,
        way: way.into(),
        ..Default::default()
    };
    let plan = |plan: tonic::Response<api::CheckCaptureResponse>| plan.into_inner();
    let regions = host.client.check_capture(check(false, CaptureWay::Unspecified)).await;
    let regions = plan(regions.expect("planned"));
    assert_eq!(regions.way(), CaptureWay::Stop);
    assert!(regions.why.starts_with("only regions"), "{}", regions.why);
    let stop =
        plan(host.client.check_capture(check(true, CaptureWay::Stop)).await.expect("planned"));
    assert!(stop.why.contains("MiB in use") && stop.predicted_pause_ns > 0, "{stop:?}");
    let (_, message) = refusal(host.client.check_capture(check(false, CaptureWay::Passes)).await);
    assert!(message.starts_with("way: passes are QEMU's way"), "{message}");
    let unknown = api::CheckCaptureRequest { way: 9, ..check(true, CaptureWay::Stop) };
    let (_, message) = refusal(host.client.check_capture(unknown).await);
    assert!(message.starts_with("way: 9 is unknown"), "{message}");
}
