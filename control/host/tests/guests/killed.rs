//! The daemon is killed behind every step of a migration: what it had answered holds, and asking again changes nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::host as api;
use tidegate_region::MergeType;

use super::{
    copies::{Daemon, configure},
    rewriter,
    rig::{COUNTER, format_region, kill_guests, noise, number, spec, write},
    straight,
};

/// A daemon that is source and destination, and is killed and started again.
struct Killed {
    dir: tempfile::TempDir,
    memory: PathBuf,
    daemon: Daemon,
}

impl Drop for Killed {
    fn drop(&mut self) {
        kill_guests(&self.dir.path().join("state"), self.dir.path());
    }
}

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

impl Killed {
    async fn start() -> Self {
        Self::configured("").await
    }

    /// With these lines in its configuration.
    async fn configured(lines: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("dir");
        let memory = configure(dir.path());
        let path = dir.path().join("hostd.toml");
        let others = fs::read_to_string(&path).expect("configuration");
        fs::write(path, format!("{lines}\n{others}")).expect("configuration");
        let daemon = Daemon::start(dir.path()).await;
        Self { dir, memory, daemon }
    }

    async fn kill(&mut self) {
        self.daemon.process.kill().expect("killed");
        self.daemon.process.wait().expect("ended");
        self.daemon = Daemon::start(self.dir.path()).await;
    }

    fn file(&self, guest: &str, name: &str) -> PathBuf {
        self.memory.join(guest).join(name)
    }

    async fn guest(&mut self, name: &str) -> api::Guest {
        let request = api::GetGuestRequest { name: name.to_owned() };
        self.daemon.client.get_guest(request).await.expect("known").into_inner()
    }

    async fn prepare(&mut self, generation_id: &str) -> String {
        let spec = api::GuestSpec { generation_id: generation_id.to_owned(), ..spec("web-2") };
        let request = api::PrepareReceiveRequest {
            migration_id: id(),
            spec: Some(spec),
            clone: true,
            keep_t0: false,
        };
        let prepared = self.daemon.client.prepare_receive(request).await.expect("prepared");
        prepared.into_inner().data_endpoint
    }

    async fn send(&mut self, generation_id: &str) -> api::SendProgress {
        let data_endpoint = self.prepare(generation_id).await;
        self.send_to(data_endpoint).await
    }

    async fn send_to(&mut self, data_endpoint: String) -> api::SendProgress {
        let request =
            api::SendTwinRequest { migration_id: id(), data_endpoint, ..Default::default() };
        let mut stream = self.daemon.client.send_twin(request).await.expect("begins").into_inner();
        let mut last = api::SendProgress::default();
        while let Some(progress) = stream.message().await.expect("sent") {
            last = progress;
        }
        last
    }

    /// A guest `web` whose clone `web-2` runs, or waits for its image; its generation.
    async fn cloned(&mut self, await_image: bool) -> String {
        let request = api::StartGuestRequest { spec: Some(spec("web")) };
        let source = self.daemon.client.start_guest(request).await.expect("started").into_inner();
        format_region(&self.file("web", "region-counts"), MergeType::Sum);
        self.kill().await;
        assert_eq!(self.guest("web").await, source);
        let check =
            api::CheckCaptureRequest { guest: "web".into(), clone: true, ..Default::default() };
        let checked = self.daemon.client.check_capture(check).await.expect("fine").into_inner();
        let generation = if await_image { checked.generation_id } else { String::new() };

        let clone_use = if await_image { api::CloneUse::Instead } else { api::CloneUse::Beside };
        let capture = || api::CaptureRequest {
            migration_id: id(),
            guest: "web".into(),
            clone: true,
            clone_use: clone_use.into(),
            ..Default::default()
        };
        let taken = self.daemon.client.capture(capture()).await.expect("captured").into_inner();
        self.kill().await;
        let again = self.daemon.client.capture(capture()).await.expect("captured").into_inner();
        assert_eq!(again, taken);

        self.prepare(&generation).await;
        self.kill().await;
        let sent = self.send(&generation).await;
        assert!(sent.done && sent.sent_bytes > 0, "{sent:?}");
        self.kill().await;
        let again = self.send(&generation).await;
        assert_eq!((again.sent_bytes, again.digest), (0, sent.digest), "all of it is there");

        let start = || api::StartDestinationRequest {
            migration_id: id(),
            await_image,
            ..Default::default()
        };
        let client = &mut self.daemon.client;
        let started = client.start_destination(start()).await.expect("started").into_inner();
        self.kill().await;
        let client = &mut self.daemon.client;
        let again = client.start_destination(start()).await.expect("started").into_inner();
        assert_eq!(again.pid, started.pid);
        generation
    }

    async fn data_endpoint(&mut self) -> String {
        let status = self.daemon.client.get_status(api::GetStatusRequest {}).await;
        status.expect("status").into_inner().data_endpoint
    }

    /// The daemon is killed in the middle of what goes ahead of an image.
    async fn killed_while_it_goes_ahead(&mut self) {
        let request = api::SendAheadRequest {
            migration_id: id(),
            data_endpoint: self.data_endpoint().await,
            bandwidth_mbps: Some(16),
        };
        let sending = self.daemon.client.send_ahead(request.clone()).await;
        let mut stream = sending.expect("begins").into_inner();
        let progress = stream.message().await.expect("goes on").expect("goes on");
        assert!(!progress.done && progress.sent_bytes > 0, "{progress:?}");
        self.kill().await;
        // Nobody knows what of it has arrived.
        let data_endpoint = self.data_endpoint().await;
        let request = api::SendAheadRequest { data_endpoint, bandwidth_mbps: Some(0), ..request };
        let mut stream = self.daemon.client.send_ahead(request).await.expect("begins").into_inner();
        let progress = stream.message().await.expect("goes on").expect("goes on");
        assert!(progress.done && progress.sent_bytes >= 10 << 20, "{progress:?}");
        self.kill().await;
    }

    /// Pause the source; where its host takes memory.
    async fn paused(&mut self) -> String {
        let request = api::PauseGuestRequest { name: "web".into() };
        self.daemon.client.pause_guest(request).await.expect("paused");
        self.kill().await;
        assert_eq!(self.guest("web").await.state(), api::GuestState::Paused);
        self.data_endpoint().await
    }

    /// Forget the migration: nothing of it is left, and the destination runs.
    async fn forgotten(&mut self) {
        for _ in 0..2 {
            let request = api::ForgetRequest { migration_id: id() };
            self.daemon.client.forget(request).await.expect("forgotten");
            self.kill().await;
            for left in ["twin/m1", "state/migrations/m1"] {
                assert!(!self.dir.path().join(left).exists(), "{left}");
            }
        }
        assert_eq!(self.guest("web-2").await.state(), api::GuestState::Running);
        for name in ["web", "web-2"] {
            let request = api::DeleteGuestRequest { name: name.to_owned(), purge: true };
            self.daemon.client.delete_guest(request).await.expect("deleted");
        }
        let left = fs::read_dir(&self.memory).expect("listed").count();
        assert_eq!(left, 0, "memory of guests that are gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_is_carried_through() {
    let mut host = Killed::start().await;
    host.cloned(false).await;
    write(&host.file("web", "region-counts"), COUNTER, &5_u64.to_le_bytes());
    let data_endpoint = host.paused().await;
    let request = api::SendDiffRequest { migration_id: id(), data_endpoint, ..Default::default() };
    let sent = host.daemon.client.send_diff(request).await.expect("sent").into_inner();
    assert!(sent.changed_bytes > 0, "{sent:?}");
    host.kill().await;
    let merge = || api::MergeRequest { migration_id: id() };
    let merged = host.daemon.client.merge(merge()).await.expect("merged").into_inner();
    host.kill().await;
    let again = host.daemon.client.merge(merge()).await.expect("merged").into_inner();
    assert_eq!(again.merged_bytes, merged.merged_bytes);
    assert_eq!(number(&host.file("web-2", "region-counts"), COUNTER), 5, "added once");
    host.forgotten().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_carried_through() {
    let mut host = Killed::start().await;
    let generation_id = host.cloned(true).await;
    write(&host.file("web", "ram"), 10 << 20, &noise(10 << 20));
    host.killed_while_it_goes_ahead().await;
    write(&host.file("web", "ram"), 10 << 20, &[0; 4096]);
    write(&host.file("web", "ram"), 20 << 20, b"after T0");
    let data_endpoint = host.paused().await;
    let request = api::SendImageRequest { migration_id: id(), data_endpoint, ..Default::default() };
    let sent = host.daemon.client.send_image(request).await.expect("sent").into_inner();
    assert!(sent.sent_bytes < 3 << 20, "{sent:?}");
    host.kill().await;
    let apply = || api::ApplyImageRequest {
        migration_id: id(),
        digest: sent.digest.clone(),
        generation_id: generation_id.clone(),
        identity: "web".into(),
        disks: Vec::new(),
    };
    let applied = host.daemon.client.apply_image(apply()).await.expect("applied").into_inner();
    host.kill().await;
    let again = host.daemon.client.apply_image(apply()).await.expect("applied").into_inner();
    assert_eq!(again, applied);
    let [source, image] =
        ["web", "web-2"].map(|guest| fs::read(host.file(guest, "ram")).expect("read"));
    assert!(source == image, "byte for byte");
    let request = api::ContinueGuestRequest { name: "web-2".into() };
    host.daemon.client.continue_guest(request).await.expect("goes on");
    host.kill().await;
    host.forgotten().await;
}

/// When in a straight capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The guest runs.
    Passes,
    /// The guest stands, and QEMU still sends.
    LastPass,
    /// The guest stands, for an audit. QEMU has sent everything, and not all of it has left for the other host.
    Sent,
}

impl At {
    /// So slowly that it can be met.
    fn mbps(self) -> u64 {
        if self == Self::Passes { 64 } else { 256 }
    }
}

/// A monitor of a guest beside that of its host.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).expect("a monitor");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").expect("written");
        let mut monitor = Self(BufReader::new(stream));
        monitor.hear(&["\"return\""]);
        monitor
    }

    /// Wait for a line in which all of this is.
    fn hear(&mut self, parts: &[&str]) {
        let mut line = String::new();
        while line.is_empty() || !parts.iter().all(|part| line.contains(part)) {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("a line") > 0, "{parts:?}: it is closed");
        }
    }
}

impl Killed {
    /// What the guest rewrites, as it is now.
    fn rewritten(&self, guest: &str) -> Vec<u8> {
        let mut bytes = vec![0; (straight::GUEST.rewritten_mib as usize) << 20];
        let ram = fs::File::open(self.file(guest, "ram")).expect("ram");
        ram.read_exact_at(&mut bytes, u64::from(rewriter::WRITES_FROM)).expect("read");
        bytes
    }

    fn assert_stands(&self) {
        let before = self.rewritten("web");
        std::thread::sleep(Duration::from_millis(100));
        assert!(self.rewritten("web") == before, "it runs");
    }

    /// Kill the daemon in the middle of a straight capture, and start it again.
    async fn kill_in_capture(&mut self, at: At, monitor: &mut Monitor) {
        // It stands for a moment at the start.
        monitor.hear(&["\"MIGRATION\"", "\"setup\""]);
        monitor.hear(&["\"RESUME\""]);
        match at {
            At::Passes => {}
            At::LastPass => {
                monitor.hear(&["\"STOP\""]);
                let pid = Pid::from_raw(self.daemon.process.id() as i32).expect("pid");
                kill_process(pid, Signal::STOP).expect("stopped");
                self.assert_stands();
            }
            At::Sent => {
                monitor.hear(&["\"MIGRATION\"", "\"completed\""]);
                self.daemon.process.kill().expect("killed");
                self.assert_stands();
            }
        }
        self.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_straight_capture_is_undone() {
    // What it writes would be packed into next to nothing.
    let lines = "twin_memory_bytes = 0\ndata.compression = 'off'";
    let mut host = Killed::configured(lines).await;
    let kernel = host.dir.path().join("rewriter");
    fs::write(&kernel, straight::GUEST.kernel()).expect("kernel");
    let monitor = host.dir.path().join("monitor");
    let listen = format!("unix:{},server=on,wait=off", monitor.display());
    let spec = api::GuestSpec {
        extra_args: vec!["-qmp".into(), listen],
        ..straight::guest(&kernel, "web")
    };
    let request = api::StartGuestRequest { spec: Some(spec) };
    let source = host.daemon.client.start_guest(request).await.expect("started").into_inner();
    rewriter::ready(&source.console_path).await;
    let twin = host.dir.path().join("twin/m1");
    let destination = straight::guest(&kernel, "web-2");
    let mut monitor = Monitor::connect(&monitor);
    for at in [At::Passes, At::LastPass, At::Sent] {
        let data = host.daemon.prepare(destination.clone()).await;
        let mut client = host.daemon.client.clone();
        let slowly =
            api::CaptureRequest { audit: at == At::Sent, ..straight::order(&data, at.mbps()) };
        let capturing = tokio::spawn(async move { client.capture(slowly).await });
        straight::begun(&twin).await;
        host.kill_in_capture(at, &mut monitor).await;
        capturing.await.expect("no panic").expect_err("its host was killed");
        assert_eq!(host.guest("web").await, source, "{at:?}: it goes on");
        assert!(!twin.exists(), "{at:?}: pages that were on their way");
        let before = host.rewritten("web");
        let until = Instant::now() + Duration::from_secs(20);
        while host.rewritten("web") == before {
            assert!(Instant::now() < until, "{at:?}: it stands");
        }
    }
    let data = host.daemon.prepare(destination).await;
    let captured = host.daemon.client.capture(straight::order(&data, 0)).await;
    assert!(captured.expect("captured").into_inner().straight);
    assert_eq!(host.guest("web").await, source);
    straight::GUEST.progress(&host.file("web-2", "ram"));
    assert!(host.send_to(data).await.done);
}
