//! Hosts for tests, with real QEMU processes that are gone when the test is.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::{
    endpoint::{Endpoint, connect},
    host::{self as api, host_client::HostClient},
};
use tidegate_host::{ApiConfig, DataConfig, Host, HostConfig, QemuConfig};
use tidegate_region::{HEADER_BYTES, Header, MergeType, Range};
use tonic::{Code, transport::Channel};

pub(crate) const RAM_MIB: u32 = 32;
pub(crate) const REGION_BYTES: u64 = 65536;
pub(crate) const COUNTER: u64 = 8192;

/// A host in a directory of its own.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: HostConfig,
    host: Option<Host>,
    pub(crate) client: HostClient<Channel>,
}

impl Rig {
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, DataConfig::default()).await
    }

    /// One that keeps no more than this of RAM twins.
    pub(crate) async fn keeping(name: &str, twin_memory_bytes: Option<u64>) -> Self {
        Self::configured(name, DataConfig::default(), twin_memory_bytes).await
    }

    pub(crate) async fn with(name: &str, data: DataConfig) -> Self {
        Self::configured(name, data, None).await
    }

    pub(crate) async fn configured(
        name: &str,
        data: DataConfig,
        twin_memory_bytes: Option<u64>,
    ) -> Self {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::tempdir_in(base).expect("directory");
        let config = HostConfig {
            name: name.to_owned(),
            state_dir: dir.path().join("s"),
            memory_dir: dir.path().join("m"),
            twin_dir: dir.path().join("t"),
            twin_memory_bytes,
            api: ApiConfig { listen: vec![format!("unix:{}/api", dir.path().display())] },
            data,
            qemu: QemuConfig::default(),
        };
        let (host, client) = start(&config).await;
        Self { dir, config, host: Some(host), client }
    }

    pub(crate) async fn stop(&mut self) {
        self.host.take().expect("running").shutdown().await;
    }

    pub(crate) async fn restart(&mut self) {
        let (host, client) = start(&self.config).await;
        (self.host, self.client) = (Some(host), client);
    }

    pub(crate) async fn start_guest(&mut self, spec: api::GuestSpec) -> api::Guest {
        let request = api::StartGuestRequest { spec: Some(spec) };
        self.client.start_guest(request).await.expect("guest starts").into_inner()
    }

    pub(crate) async fn state(&mut self, name: &str) -> api::GuestState {
        let request = api::GetGuestRequest { name: name.to_owned() };
        self.client.get_guest(request).await.expect("guest").into_inner().state()
    }

    pub(crate) async fn capture(
        &mut self,
        guest: &str,
        clone: bool,
    ) -> Result<api::CaptureReport, String> {
        let request = api::CaptureRequest {
            migration_id: "m1".into(),
            guest: guest.into(),
            clone,
            regions: vec![],
            ..Default::default()
        };
        let report = self.client.capture(request).await;
        report.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }

    pub(crate) async fn prepare(&mut self, spec: api::GuestSpec, clone: bool) -> String {
        let migration_id = "m1".into();
        let spec = Some(spec);
        let request = api::PrepareReceiveRequest { migration_id, spec, clone, keep_t0: false };
        let answer = self.client.prepare_receive(request).await.expect("prepared");
        answer.into_inner().data_endpoint
    }

    pub(crate) async fn send(&mut self, data_endpoint: &str) -> Result<api::SendProgress, String> {
        let request = api::SendTwinRequest {
            migration_id: "m1".into(),
            data_endpoint: data_endpoint.to_owned(),
            ..api::SendTwinRequest::default()
        };
        let text = |status: tonic::Status| status.message().to_owned();
        let mut stream = self.client.send_twin(request).await.map_err(text)?.into_inner();
        let mut last = api::SendProgress::default();
        while let Some(progress) = stream.message().await.map_err(text)? {
            last = progress;
        }
        Ok(last)
    }

    pub(crate) fn memory(&self, guest: &str, file: &str) -> PathBuf {
        self.config.memory_dir.join(guest).join(file)
    }
}

async fn start(config: &HostConfig) -> (Host, HostClient<Channel>) {
    let host = Host::start(config.clone()).await.expect("host starts");
    let endpoint: Endpoint = config.api.listen[0].parse().expect("endpoint");
    let channel = connect(&endpoint).await.expect("host answers");
    (host, HostClient::new(channel))
}

impl Drop for Rig {
    fn drop(&mut self) {
        kill_guests(&self.config.state_dir, self.dir.path());
    }
}

/// End the guests of a host that keeps everything under `ours`.
pub(crate) fn kill_guests(state_dir: &Path, ours: &Path) {
    let Ok(guests) = fs::read_dir(state_dir.join("guests")) else { return };
    for guest in guests.flatten() {
        let Ok(record) = fs::read_to_string(guest.path().join("guest.json")) else { continue };
        let record: serde_json::Value = serde_json::from_str(&record).expect("record");
        let pid = record["pid"].as_i64().expect("pid") as i32;
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&*ours.to_string_lossy()) {
            let _ = kill_process(Pid::from_raw(pid).expect("pid"), Signal::KILL);
        }
    }
}

/// A guest that only runs its firmware, with a region `counts`.
pub(crate) fn spec(name: &str) -> api::GuestSpec {
    api::GuestSpec {
        name: name.to_owned(),
        memory_mib: RAM_MIB,
        memory_shared: true,
        regions: vec![api::Region { name: "counts".into(), size_bytes: REGION_BYTES }],
        ..Default::default()
    }
}

/// Format a region as a service would: values of one merge type at [`COUNTER`].
pub(crate) fn format_region(path: &Path, merge_type: MergeType) {
    let width = if merge_type.is_arithmetic() { 8 } else { 1 };
    let range = Range { offset: COUNTER, len_bytes: 64, merge_type, width };
    let header = Header::new(1, 1, REGION_BYTES, &[range]).expect("header");
    let mut bytes = [0; HEADER_BYTES];
    header.encode(&mut bytes);
    write(path, 0, &bytes);
}

/// Bytes that no compression makes fewer.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    let mut state = 1_u64;
    for word in noise.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.copy_from_slice(&state.to_le_bytes());
    }
    noise
}

pub(crate) fn write(path: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

pub(crate) fn number(path: &Path, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(path).expect("open").read_exact_at(&mut bytes, offset).expect("read");
    u64::from_le_bytes(bytes)
}

/// Code and message of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> (Code, String) {
    let status = answer.expect_err("refused");
    (status.code(), status.message().to_owned())
}
