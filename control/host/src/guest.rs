//! A guest: its record on disk, its QEMU process, its state.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_api::host as api;
use tokio::{
    process::{Child, Command},
    sync::Mutex,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    HostError,
    qemu::{self, Places},
    qmp::Qmp,
    records,
    spec::GuestSpec,
};

/// How long QEMU may take until its monitor answers.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to end when asked.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may still show after its monitor was cut.
const DYING: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);
/// How much of QEMU's last words is passed on.
const TAIL_BYTES: usize = 2000;

/// What is on disk about a guest, so that a restarted host daemon takes it over again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: GuestSpec,
    pub(crate) pid: u32,
}

/// A guest of this host.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) record: Record,
    pub(crate) places: Places,
    /// Held for a piece of work on its monitor: pause, capture, merge, end.
    pub(crate) monitor: Mutex<()>,
    /// Held while its agent is talked to.
    pub(crate) agent: Mutex<()>,
    /// It is captured while it runs. Written by the capture, which has the monitor.
    pub(crate) passing: Arc<AtomicBool>,
}

/// What a guest's processors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Paused,
    Exited,
}

/// How to start QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The guest boots.
    Boot,
    /// The guest is ready to boot, its processors stopped.
    BootPaused,
    /// Wait for a guest's state to come in.
    Incoming,
}

impl Guest {
    /// Start QEMU; its files must be there. Returns when its monitor answers.
    pub(crate) async fn start(
        binary: &str,
        spec: GuestSpec,
        places: Places,
        start: Start,
    ) -> Result<Self, HostError> {
        check_sockets(&spec, &places)?;
        fs::create_dir_all(&places.state).map_err(HostError::file("create", &places.state))?;
        let args =
            qemu::arguments(&spec, &places, start == Start::Incoming, start == Start::BootPaused);
        let log = places.log();
        let output = fs::File::create(&log).map_err(HostError::file("create", &log))?;
        let errors = output.try_clone().map_err(HostError::file("open", &log))?;
        let mut child = Command::new(binary)
            .args(&args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // A guest outlives this process, also when a terminal interrupts it.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                HostError::Precondition(format!(
                    "cannot start `{binary}` for guest `{}`: {error}; install QEMU or set \
                     `[qemu] binary`",
                    spec.name
                ))
            })?;
        let record = Record { pid: child.id().unwrap_or_default(), spec };
        let path = places.state.join(records::GUEST);
        // Recorded before it is waited for: a crash in between must not leave a QEMU nobody knows.
        let mut started = records::save(&path, &record);
        if started.is_ok() {
            started = monitor_answers(&mut child, &record.spec, &places).await;
        }
        if let Err(error) = started {
            // Already gone is fine, for both.
            let _ = child.kill().await;
            let _ = fs::remove_file(path);
            return Err(error);
        }
        // Somebody must take note of its end, or it stays as a zombie.
        tokio::spawn(async move { child.wait().await });
        info!(guest = record.spec.name, pid = record.pid, "QEMU started");
        Ok(Self::adopt(record, places))
    }

    /// A guest from its record.
    pub(crate) fn adopt(record: Record, places: Places) -> Self {
        Self {
            record,
            places,
            monitor: Mutex::default(),
            agent: Mutex::default(),
            passing: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.record.spec.name
    }

    /// Whether the process is there and is this guest's QEMU: a pid can have been reused.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(cmdline) = fs::read(format!("/proc/{}/cmdline", self.record.pid)) else {
            return false;
        };
        let qmp = self.places.qmp();
        String::from_utf8_lossy(&cmdline).contains(&*qmp.to_string_lossy())
    }

    /// The monitor, for a guest whose process is there.
    pub(crate) async fn qmp(&self) -> Result<Qmp, HostError> {
        if !self.is_alive() {
            return Err(HostError::Qemu {
                guest: self.name().to_owned(),
                what: "has ended".to_owned(),
                log: self.places.log(),
                tail: tail(&self.places.log()),
            });
        }
        Qmp::connect(&self.places.qmp()).await
    }

    pub(crate) async fn state(&self) -> Result<State, HostError> {
        let _turn = match self.monitor.try_lock() {
            Ok(turn) => turn,
            // A capture has the monitor for as long as its memory takes to go.
            Err(_) if self.passing.load(Ordering::Relaxed) && self.is_alive() => {
                return Ok(State::Running);
            }
            Err(_) => self.monitor.lock().await,
        };
        if !self.is_alive() {
            return Ok(State::Exited);
        }
        let asked = async { state(&mut self.qmp().await?).await }.await;
        // A process that is just dying cuts its monitor before it is gone.
        if asked.is_err() && self.is_gone_within(DYING).await {
            return Ok(State::Exited);
        }
        asked
    }

    /// Whether it waits for a state to come in.
    pub(crate) async fn awaits_state(&self) -> Result<bool, HostError> {
        let _turn = self.monitor.lock().await;
        let status = self.qmp().await?.execute("query-status", json!({})).await?;
        Ok(status["status"] == "inmigrate")
    }

    pub(crate) async fn pause(&self) -> Result<(), HostError> {
        let _turn = self.monitor.lock().await;
        self.qmp().await?.execute("stop", json!({})).await.map(drop)
    }

    pub(crate) async fn resume(&self) -> Result<(), HostError> {
        let _turn = self.monitor.lock().await;
        self.qmp().await?.execute("cont", json!({})).await.map(drop)
    }

    /// End the process: asked first, then forced.
    pub(crate) async fn end(&self) -> Result<(), HostError> {
        let _turn = self.monitor.lock().await;
        if !self.is_alive() {
            return Ok(());
        }
        let asked = match self.qmp().await {
            Ok(mut qmp) => qmp.execute("quit", json!({})).await.is_ok(),
            Err(_) => false,
        };
        if asked && self.is_gone_within(QUIT_PATIENCE).await {
            return Ok(());
        }
        warn!(guest = self.name(), pid = self.record.pid, "QEMU does not quit and is killed");
        if let Some(pid) = i32::try_from(self.record.pid).ok().and_then(Pid::from_raw) {
            // Gone in between is fine.
            let _ = kill_process(pid, Signal::KILL);
        }
        if self.is_gone_within(QUIT_PATIENCE).await {
            return Ok(());
        }
        let pid = self.record.pid;
        Err(HostError::Internal(format!(
            "QEMU of guest `{}` (pid {pid}) does not end",
            self.name()
        )))
    }

    async fn is_gone_within(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() > until {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// How callers see it.
    pub(crate) async fn describe(&self) -> Result<api::Guest, HostError> {
        let state = match self.state().await? {
            State::Running => api::GuestState::Running,
            State::Paused => api::GuestState::Paused,
            State::Exited => api::GuestState::Exited,
        };
        let spec = &self.record.spec;
        let shown = |path: PathBuf| path.display().to_string();
        Ok(api::Guest {
            spec: Some(spec.clone().into()),
            state: state.into(),
            pid: if state == api::GuestState::Exited { 0 } else { self.record.pid },
            qmp_socket: shown(self.places.qmp()),
            ram_path: if spec.memory_shared { shown(self.places.ram()) } else { String::new() },
            regions: self.region_files(),
            console_path: shown(self.places.console()),
        })
    }

    pub(crate) fn region_files(&self) -> Vec<api::RegionFile> {
        let regions = self.record.spec.regions.iter();
        regions
            .map(|region| api::RegionFile {
                name: region.name.clone(),
                path: self.places.region(&region.name).display().to_string(),
                size_bytes: region.size_bytes,
            })
            .collect()
    }
}

/// Run state by QMP's names: everything but `running` stands still.
pub(crate) async fn state(qmp: &mut Qmp) -> Result<State, HostError> {
    let status = qmp.execute("query-status", json!({})).await?;
    Ok(match status["status"].as_str() {
        Some("running") => State::Running,
        Some("shutdown" | "guest-panicked" | "internal-error") => State::Exited,
        _ => State::Paused,
    })
}

async fn monitor_answers(
    child: &mut Child,
    spec: &GuestSpec,
    places: &Places,
) -> Result<(), HostError> {
    let qemu = |what: String| HostError::Qemu {
        guest: spec.name.clone(),
        what,
        log: places.log(),
        tail: tail(&places.log()),
    };
    let until = Instant::now() + START_PATIENCE;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(qemu(format!("did not start ({status})"))),
            Err(error) => return Err(HostError::Internal(format!("waiting for QEMU: {error}"))),
        }
        // QEMU makes the socket before the guest is ready, and answers after.
        if places.qmp().exists() && Qmp::connect(&places.qmp()).await.is_ok() {
            return Ok(());
        }
        if Instant::now() > until {
            let seconds = START_PATIENCE.as_secs();
            return Err(qemu(format!("did not answer on its monitor for {seconds} s")));
        }
        sleep(POLL).await;
    }
}

/// What QEMU would only wait for silently.
pub(crate) fn check_sockets(spec: &GuestSpec, places: &Places) -> Result<(), HostError> {
    let agent = spec.guest_agent.then(|| ("guest agent", places.agent()));
    for (whose, path) in agent.into_iter().chain([("monitor", places.qmp())]) {
        let len = path.as_os_str().len();
        if len > qemu::MAX_SOCKET_PATH {
            return Err(HostError::Precondition(format!(
                "the {whose}'s socket {} has {len} bytes, {} are possible; use a shorter state_dir \
                 or guest name",
                path.display(),
                qemu::MAX_SOCKET_PATH
            )));
        }
    }
    for nic in &spec.nics {
        if !Path::new(&nic.vhost_socket).exists() {
            return Err(HostError::Precondition(format!(
                "vhost-user socket {} of guest `{}` is not there; start the switch box with a port \
                 on it first",
                nic.vhost_socket, spec.name
            )));
        }
    }
    Ok(())
}

/// The end of a log.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    let text = String::from_utf8_lossy(&bytes[start..]);
    let text = text.trim();
    if text.is_empty() { "(nothing)".to_owned() } else { text.to_owned() }
}
