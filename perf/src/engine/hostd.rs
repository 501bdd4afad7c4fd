//! Ours: two `tidegate-hostd` over loopback, told what a manager tells them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tidegate_api::{
    Channel,
    endpoint::{Endpoint, connect},
    host::{
        ApplyImageRequest, CaptureReport, CaptureRequest, CaptureWay, CheckCaptureRequest,
        CloneUse, ContinueGuestRequest, DeleteGuestRequest, ForgetRequest, Guest, GuestSpec,
        PauseGuestRequest, PrepareReceiveRequest, SendAheadRequest, SendImageRequest,
        SendTwinRequest, StartDestinationRequest, StartGuestRequest, Straight,
        host_client::HostClient,
    },
};
use tidegate_guest_service::REWRITING;
use tidegate_lab::process::{Process, built, wait_until};
use tokio::runtime::Runtime;

use super::{
    Place,
    footprint::Watched,
    guest::{Image, Workload},
    silence::Listening,
};

const READY: Duration = Duration::from_secs(20);
/// Filling memory under TCG takes long on a busy machine.
const BOOT: Duration = Duration::from_secs(180);
/// A guest that has been moved is heard again by then.
const GOES_ON: Duration = Duration::from_millis(300);
const MIGRATION: &str = "bench";
const SOURCE: &str = "source";
const DESTINATION: &str = "destination";
/// The guest as a bench names it.
pub const GUEST: &str = SOURCE;

/// What a host may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Most that it sends, in bytes per second.
    pub cap: Option<u64>,
    /// `twin_memory_bytes`.
    pub twin_memory_bytes: Option<u64>,
}

/// A host's daemon.
pub struct Hostd {
    process: Process,
    runtime: Runtime,
    client: HostClient<Channel>,
    dir: PathBuf,
}

impl Hostd {
    /// Start one that keeps everything in `dir`. Nothing is compressed, as QEMU's pre-copy compresses nothing.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(name: &str, dir: &Path, limits: Limits) -> anyhow::Result<Self> {
        let dir = dir.join(name);
        let under = |part: &str| dir.join(part);
        for part in ["state", "memory", "twin"] {
            fs::create_dir_all(under(part))?;
        }
        let socket = format!("unix:{}", under("api").display());
        let file = under("hostd.toml");
        // 0: no cap. Rounded down, to our disadvantage.
        let mbps = limits.cap.map_or(0, |cap| cap * 8 / 1_000_000);
        let budget = limits.twin_memory_bytes;
        let budget =
            budget.map_or_else(String::new, |bytes| format!("twin_memory_bytes = {bytes}"));
        let text = format!(
            r#"name = "{name}"
state_dir = "{}"
memory_dir = "{}"
twin_dir = "{}"
{budget}

[api]
listen = ["{socket}"]

[data]
bandwidth_mbps = {mbps}
compression = "off"
"#,
            under("state").display(),
            under("memory").display(),
            under("twin").display(),
        );
        fs::write(&file, text)?;
        let mut command = Command::new(built("tidegate-hostd")?);
        command.arg("--config").arg(&file);
        let mut process = Process::start(name, &mut command, &dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint: Endpoint = socket.parse()?;
        let channel = wait_until("the host's API", READY, || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("tidegate-hostd ended ({status}):\n{}", process.printed());
            }
            Ok(runtime.block_on(connect(&endpoint)).ok())
        })?;
        Ok(Self { process, runtime, client: HostClient::new(channel), dir })
    }

    /// Start a guest and wait until it rewrites its memory.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_guest(&mut self, workload: &Workload) -> anyhow::Result<Guest> {
        let image = Image::find()?;
        let spec = GuestSpec {
            name: SOURCE.to_owned(),
            memory_mib: workload.memory_mib,
            memory_shared: true,
            cpus: 1,
            accel: "tcg".to_owned(),
            kernel: image.kernel.display().to_string(),
            initrd: image.initrd.display().to_string(),
            cmdline: workload.cmdline(),
            ..Default::default()
        };
        let request = StartGuestRequest { spec: Some(spec) };
        let guest = self.runtime.block_on(self.client.start_guest(request))?.into_inner();
        wait_until("the guest rewrites its memory", BOOT, || {
            let printed = fs::read_to_string(&guest.console_path).unwrap_or_default();
            Ok(printed.contains(REWRITING).then_some(()))
        })?;
        Ok(guest)
    }

    /// Capture T0 of all of its guest, by a way or as the host chooses.
    ///
    /// # Errors
    /// When it is refused.
    pub fn capture(
        &mut self,
        way: CaptureWay,
        straight: Option<Straight>,
    ) -> anyhow::Result<CaptureReport> {
        let request = CaptureRequest {
            migration_id: MIGRATION.to_owned(),
            guest: SOURCE.to_owned(),
            clone: true,
            way: way.into(),
            clone_use: CloneUse::Instead.into(),
            straight,
            ..Default::default()
        };
        let report = self.runtime.block_on(self.client.capture(request))?.into_inner();
        let is_asked = way == CaptureWay::Unspecified || report.way() == way;
        anyhow::ensure!(is_asked, "it captured by {:?}, not {way:?}", report.way());
        Ok(report)
    }

    /// Forget what was captured.
    ///
    /// # Errors
    /// When it is refused.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        let request = ForgetRequest { migration_id: MIGRATION.to_owned() };
        self.runtime.block_on(self.client.forget(request))?;
        Ok(())
    }

    /// Have a guest stand still.
    ///
    /// # Errors
    /// When it is refused.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        let request = PauseGuestRequest { name: SOURCE.to_owned() };
        self.runtime.block_on(self.client.pause_guest(request))?;
        Ok(())
    }

    /// Have a guest go on.
    ///
    /// # Errors
    /// When it is refused.
    pub fn go_on(&mut self, name: &str) -> anyhow::Result<()> {
        let request = ContinueGuestRequest { name: name.to_owned() };
        self.runtime.block_on(self.client.continue_guest(request))?;
        Ok(())
    }

    /// End a guest.
    fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        let request = DeleteGuestRequest { name: name.to_owned(), purge: true };
        self.runtime.block_on(self.client.delete_guest(request))?;
        Ok(())
    }
}

/// What a move by `mirror` took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Bytes sent from host to host: memory as of T0, then what changed, and device states.
    pub bytes: f64,
    /// From the capture's beginning until the destination ran as the source, without the start of its QEMU. No session has
    /// to be waited for.
    pub total_ms: f64,
    /// Of that: room at the destination, T0's capture, and the copy.
    pub steps_ms: [f64; 3],
    /// How long the source stood for the capture.
    pub t0_pause_ms: f64,
    /// How long neither ran at the end: from asking the source to pause until the destination had been continued.
    pub final_pause_ms: f64,
    /// Of that: pausing, the image on its way, its device state loaded and all memory digested, and the continuing.
    pub stops_ms: [f64; 4],
    /// The longest time in which nothing was heard of the guest, until it stood for its image and in all.
    pub silences_ms: [f64; 2],
    /// All time in which the guest was kept from running.
    pub lost_ms: f64,
}

/// How long each step took, given when each was through.
fn step_ms<const N: usize>(ends: &[Duration]) -> [f64; N] {
    let mut began = Duration::ZERO;
    let mut took = [0.0; N];
    for (took, end) in took.iter_mut().zip(ends) {
        *took = (*end - began).as_secs_f64() * 1e3;
        began = *end;
    }
    took
}

/// Two hosts and a guest that rewrites its memory.
pub struct Hosts {
    source: Hostd,
    destination: Hostd,
    guest: Guest,
    place: Place,
}

impl Hosts {
    /// Start them.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(workload: &Workload, limits: Limits) -> anyhow::Result<Self> {
        let place = Place::new("hosts")?;
        let mut source = Hostd::start("a", place.dir(), limits)?;
        let destination = Hostd::start("b", place.dir(), limits)?;
        let guest = source.start_guest(workload)?;
        Ok(Self { source, destination, guest, place })
    }

    /// Where each of them can be watched.
    #[must_use]
    pub fn watched(&self) -> [Watched; 2] {
        [&self.source, &self.destination]
            .map(|host| Watched { pid: host.process.pid(), dir: host.dir.clone() })
    }

    /// Move the guest by `mirror`.
    ///
    /// # Errors
    /// When it is not moved.
    pub fn mirror(mut self, way: CaptureWay) -> anyhow::Result<Moved> {
        let generation_id = self.generation_id()?;
        let listening = Listening::to(self.guest.console_path.clone().into());
        let began = Instant::now();
        let mut steps = Vec::new();
        let data_endpoint = self.prepare(&generation_id)?;
        steps.push(began.elapsed());
        let straight = Straight { data_endpoint: data_endpoint.clone(), ..Straight::default() };
        let taken = self.source.capture(way, Some(straight))?;
        steps.push(began.elapsed());
        let copied_bytes = self.copy(&data_endpoint)?;
        steps.push(began.elapsed());
        let start = StartDestinationRequest {
            migration_id: MIGRATION.to_owned(),
            paused: true,
            await_image: true,
            ..Default::default()
        };
        let Hostd { runtime, client, .. } = &mut self.destination;
        let starting = Instant::now();
        let waiting = runtime.block_on(client.start_destination(start))?.into_inner();
        listening.and_to(waiting.console_path.into());
        // Pre-copy's QEMU is there before its time begins.
        let started = starting.elapsed();
        let ahead_bytes = self.ahead(&data_endpoint)?;

        let paused = Instant::now();
        self.source.pause()?;
        let mut stops = vec![paused.elapsed()];
        let image_bytes =
            self.image(data_endpoint, generation_id, || stops.push(paused.elapsed()))?;
        self.destination.go_on(DESTINATION)?;
        let (total, stood) = (began.elapsed() - started, paused.elapsed());
        stops.push(stood);
        let heard = listening.end(GOES_ON);
        anyhow::ensure!(heard.since(paused + stood), "the guest was not heard where it goes on");
        self.source.delete(SOURCE)?;
        self.destination.delete(DESTINATION)?;
        drop(self.place);
        Ok(Moved {
            bytes: (taken.sent_bytes + copied_bytes + ahead_bytes + image_bytes) as f64,
            total_ms: total.as_secs_f64() * 1e3,
            steps_ms: step_ms(&steps),
            t0_pause_ms: taken.pause_ns as f64 / 1e6,
            final_pause_ms: stood.as_secs_f64() * 1e3,
            stops_ms: step_ms(&stops),
            silences_ms: [heard.longest_ms(Some(paused)), heard.longest_ms(None)],
            lost_ms: heard.lost_ms(),
        })
    }

    /// What the guest has, and is to keep.
    fn generation_id(&mut self) -> anyhow::Result<String> {
        let request = CheckCaptureRequest {
            guest: SOURCE.to_owned(),
            clone: true,
            clone_use: CloneUse::Instead.into(),
            ..Default::default()
        };
        let Hostd { runtime, client, .. } = &mut self.source;
        Ok(runtime.block_on(client.check_capture(request))?.into_inner().generation_id)
    }

    /// Have the destination make room; where memory is to be sent.
    fn prepare(&mut self, generation_id: &str) -> anyhow::Result<String> {
        let spec = GuestSpec {
            name: DESTINATION.to_owned(),
            generation_id: generation_id.to_owned(),
            identity: SOURCE.to_owned(),
            ..self.guest.spec.clone().unwrap_or_default()
        };
        let request = PrepareReceiveRequest {
            migration_id: MIGRATION.to_owned(),
            spec: Some(spec),
            clone: true,
            ..Default::default()
        };
        let Hostd { runtime, client, .. } = &mut self.destination;
        Ok(runtime.block_on(client.prepare_receive(request))?.into_inner().data_endpoint)
    }

    /// Send memory as of T0; bytes sent.
    fn copy(&mut self, data_endpoint: &str) -> anyhow::Result<u64> {
        let request = SendTwinRequest {
            migration_id: MIGRATION.to_owned(),
            data_endpoint: data_endpoint.to_owned(),
            ..Default::default()
        };
        let Hostd { runtime, client, .. } = &mut self.source;
        let last = runtime.block_on(async {
            let mut progress = client.send_twin(request).await?.into_inner();
            let mut last = None;
            while let Some(message) = progress.message().await? {
                last = Some(message);
            }
            anyhow::Ok(last)
        })?;
        let last = last.filter(|last| last.done).context("the copy ended before it was done")?;
        Ok(last.sent_bytes)
    }

    /// Send what changed while the guest runs, as far as the host finds it worth it; bytes sent.
    fn ahead(&mut self, data_endpoint: &str) -> anyhow::Result<u64> {
        let request = SendAheadRequest {
            migration_id: MIGRATION.to_owned(),
            data_endpoint: data_endpoint.to_owned(),
            ..Default::default()
        };
        let Hostd { runtime, client, .. } = &mut self.source;
        let last = runtime.block_on(async {
            let mut progress = client.send_ahead(request).await?.into_inner();
            let mut last = None;
            while let Some(message) = progress.message().await? {
                last = Some(message);
            }
            anyhow::Ok(last)
        })?;
        let last = last.filter(|last| last.done).context("it ended before it was done")?;
        eprintln!("    ahead: {:?}: {}", last.pass_bytes, last.why);
        Ok(last.sent_bytes)
    }

    /// Send what changed since, and make the destination the source; bytes sent. `step` is called behind each but the last.
    fn image(
        &mut self,
        data_endpoint: String,
        generation_id: String,
        mut step: impl FnMut(),
    ) -> anyhow::Result<u64> {
        let migration_id = MIGRATION.to_owned();
        let request = SendImageRequest {
            migration_id: migration_id.clone(),
            data_endpoint,
            // As QEMU does it: no cap while the guest stands.
            bandwidth_mbps: Some(0),
        };
        let Hostd { runtime, client, .. } = &mut self.source;
        let sent = runtime.block_on(client.send_image(request))?.into_inner();
        step();
        let request = ApplyImageRequest {
            migration_id,
            digest: sent.digest,
            generation_id,
            identity: SOURCE.to_owned(),
            disks: sent.disks,
        };
        let Hostd { runtime, client, .. } = &mut self.destination;
        runtime.block_on(client.apply_image(request))?;
        step();
        Ok(sent.sent_bytes)
    }
}
