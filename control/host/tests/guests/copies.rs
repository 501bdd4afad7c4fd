//! Copies that are capped, broken off and taken up again, over TLS and with a receiver that is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tidegate_api::{
    Channel,
    endpoint::{Endpoint, connect},
    host::{self as api, host_client::HostClient},
};
use tidegate_host::{DataConfig, TlsConfig};
use tonic::Code;

use super::rig::{RAM_MIB, Rig, noise, refusal, spec, write};

#[path = "../../../memory/examples/authority/mod.rs"]
mod authority;

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

fn slowly(data_endpoint: &str, bandwidth_mbps: u64) -> api::SendTwinRequest {
    let data_endpoint = data_endpoint.to_owned();
    api::SendTwinRequest { migration_id: id(), data_endpoint, bandwidth_mbps, ..Default::default() }
}

/// A captured guest with noise in all of its RAM that can be spared.
async fn captured(host: &mut Rig) {
    host.start_guest(spec("web")).await;
    write(&host.memory("web", "ram"), 20 << 20, &noise(8 << 20));
    host.capture("web", true).await.expect("captured");
}

fn assert_same(a: &Rig, memory: &Path) {
    let twin = fs::read(a.config.twin_dir.join("m1/ram")).expect("twin");
    assert!(fs::read(memory.join("web-2/ram")).expect("ram") == twin, "byte for byte");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_kept_until_it_is_changed() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    captured(&mut a).await;
    let data = b.prepare(spec("web-2"), true).await;
    let (code, _) = refusal(
        a.client
            .set_bandwidth(api::SetBandwidthRequest { migration_id: "m2".into(), mbps: 1 })
            .await,
    );
    assert_eq!(code, Code::NotFound);
    // More than a minute.
    let began = Instant::now();
    let mut stream = a.client.send_twin(slowly(&data, 1)).await.expect("begins").into_inner();
    let first = stream.message().await.expect("goes on").expect("progress");
    assert!(!first.done && first.sent_bytes < 4 << 20, "{first:?}");
    assert_eq!(first.transport, "tcp");
    assert!(first.transport_reason.contains("fabric:verbs"), "{}", first.transport_reason);
    let request = api::SetBandwidthRequest { migration_id: id(), mbps: 0 };
    a.client.set_bandwidth(request).await.expect("lifted");
    let mut last = first;
    while let Some(progress) = stream.message().await.expect("goes on") {
        last = progress;
    }
    assert!(last.done && last.sent_bytes > 8 << 20, "{last:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_same(&a, &b.config.memory_dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_is_not_there_is_refused() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    captured(&mut a).await;
    let data = b.prepare(spec("web-2"), true).await;
    for (transport, expected) in [
        ("pigeon", "transport: `pigeon` is no transport; use auto, tcp, fabric:verbs"),
        ("fabric:", "transport: `fabric:` is no transport"),
        ("fabric:nonsense", "transport: `fabric:nonsense` is no transport"),
        // Both hosts are this process.
        ("fabric:shm", "shm is for two"),
    ] {
        let request = api::SendTwinRequest { transport: transport.to_owned(), ..slowly(&data, 0) };
        let told = async {
            let mut stream = a.client.send_twin(request).await?.into_inner();
            stream.message().await
        };
        let message = told.await.expect_err("refused").message().to_owned();
        assert!(message.contains(expected), "`{expected}` in `{message}`");
    }
    for (transport, path, reason) in
        [("fabric:tcp", "fabric:tcp;ofi_rxm", "does not encrypt"), ("tcp", "tcp", "asked for")]
    {
        let request = api::SendTwinRequest { transport: transport.to_owned(), ..slowly(&data, 0) };
        let mut stream = a.client.send_twin(request).await.expect("begins").into_inner();
        let mut last = api::SendProgress::default();
        while let Some(progress) = stream.message().await.expect("goes on") {
            last = progress;
        }
        assert_eq!((last.done, &*last.transport), (true, path));
        assert!(last.transport_reason.contains(reason), "{}", last.transport_reason);
        assert_same(&a, &b.config.memory_dir);
    }
}

/// A host in a process of its own that can be killed.
pub(crate) struct Daemon {
    pub(crate) process: Child,
    pub(crate) client: HostClient<Channel>,
}

impl Daemon {
    pub(crate) async fn start(dir: &Path) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_tidegate-hostd"))
            .arg("--config")
            .arg(dir.join("hostd.toml"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("hostd");
        let endpoint = Endpoint::Unix(dir.join("api"));
        let until = Instant::now() + Duration::from_secs(20);
        let channel = loop {
            match connect(&endpoint).await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() > until => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Self { process, client: HostClient::new(channel) }
    }

    pub(crate) async fn prepare(&mut self, spec: api::GuestSpec) -> String {
        let spec = Some(spec);
        let request = api::PrepareReceiveRequest {
            migration_id: id(),
            spec,
            clone: true,
            ..Default::default()
        };
        self.client.prepare_receive(request).await.expect("prepared").into_inner().data_endpoint
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn configure(dir: &Path) -> PathBuf {
    let memory = dir.join("memory");
    let text = format!(
        "name = 'b'\nstate_dir = '{0}/state'\nmemory_dir = '{1}'\ntwin_dir = '{0}/twin'\n\
         [api]\nlisten = ['unix:{0}/api']\n",
        dir.display(),
        memory.display()
    );
    fs::write(dir.join("hostd.toml"), text).expect("configuration");
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_killed_goes_on_where_it_was() {
    let mut a = Rig::new("a").await;
    captured(&mut a).await;
    let dir = tempfile::tempdir().expect("dir");
    let memory = configure(dir.path());
    let mut b = Daemon::start(dir.path()).await;
    let data = b.prepare(spec("web-2")).await;
    // 32 MiB of RAM are one section: capped, so that it is in the middle of it for long. Device state and region are
    // committed meanwhile by the other lanes.
    let mut stream = a.client.send_twin(slowly(&data, 8)).await.expect("begins").into_inner();
    let ledger = dir.path().join("state/migrations/m1/twin.ledger");
    let until = Instant::now() + Duration::from_secs(60);
    let head = 88;
    while fs::metadata(&ledger).map_or(0, |meta| meta.len()) <= head {
        assert!(Instant::now() < until, "no section was committed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    b.process.kill().expect("killed");
    let failed = loop {
        match stream.message().await {
            Ok(Some(progress)) => assert!(!progress.done, "{progress:?}"),
            Ok(None) => panic!("it ended without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    drop(b);

    let mut b = Daemon::start(dir.path()).await;
    let data = b.prepare(spec("web-2")).await;
    let lifted = api::SetBandwidthRequest { migration_id: id(), mbps: 0 };
    a.client.set_bandwidth(lifted).await.expect("lifted");
    let sent = a.send(&data).await.expect("sent");
    assert!(sent.done && sent.resumed_bytes > 0, "{sent:?}");
    assert_same(&a, &memory);
    // All of it is there: nothing goes over the wire when the answer was lost.
    let again = a.send(&data).await.expect("sent again");
    assert_eq!((again.sent_bytes, again.resumed_bytes), (0, again.total_bytes));
    assert_eq!(again.digest, sent.digest);
    assert_eq!(
        u64::from(RAM_MIB) << 20,
        fs::metadata(memory.join("web-2/ram")).expect("ram").len()
    );
}

/// Of a host that sends and takes memory over TLS only, from whoever this authority knows.
pub(crate) fn proven(dir: &Path, authority: &str) -> DataConfig {
    let [certificate, key, ca] = authority::make(dir, authority, &["127.0.0.1"]);
    let tls = Some(TlsConfig { certificate, key, ca });
    DataConfig { tls, require_encryption: true, ..DataConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_prove_to_each_other_who_they_are() {
    let dir = tempfile::tempdir().expect("dir");
    let ours = proven(dir.path(), "ours");
    let (mut a, mut b) = (Rig::with("a", ours.clone()).await, Rig::with("b", ours).await);
    captured(&mut a).await;
    let endpoint = b.prepare(spec("web-2"), true).await;
    let sent = a.send(&endpoint).await.expect("sent");
    assert!(sent.done, "{sent:?}");
    assert_same(&a, &b.config.memory_dir);

    let mut stranger = Rig::with("s", proven(dir.path(), "strangers")).await;
    let endpoint = stranger.prepare(spec("web-2"), true).await;
    let message = a.send(&endpoint).await.expect_err("a stranger");
    assert!(message.contains("UnknownIssuer"), "{message}");
    let request =
        api::SendTwinRequest { transport: "fabric:tcp".to_owned(), ..slowly(&endpoint, 0) };
    let mut stream = a.client.send_twin(request).await.expect("begins").into_inner();
    let message = stream.message().await.expect_err("in the clear").message().to_owned();
    assert!(message.contains("take tcp with TLS"), "{message}");
}
