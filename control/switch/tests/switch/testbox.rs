//! A box with two workers, an uplink and two access ports, and a client of its interface.

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use tidegate_api::{
    endpoint::{Endpoint, connect},
    switch::{
        self as proto, Address, AddressState, Backend, CutoverResponse, MigrationEvent, Rewrite,
        switch_client::SwitchClient,
    },
};
use tidegate_dataplane::{packet::Mac, pipeline::Capacity};
use tidegate_switch::{
    config,
    core::{Core, CoreThread},
    kernel::Change,
    server::Server,
    service::{BoxInfo, SwitchService},
    steering::Network,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    double::{Double, Shards},
    wire::{GATEWAY_MAC, Tcp, UPLINK_MAC},
};

pub(crate) const ADDRESS: &str = "10.8.0.100";
const ADDRESS_BYTES: [u8; 4] = [10, 8, 0, 100];

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const CONFIG: &str = r#"
    [api]
    listen = ["unix:/run/unused.sock"]
    [workers]
    cpus = [0, 1]
    [[port]]
    name = "uplink"
    device = "net_null0"
    addresses = ["10.9.0.1/24"]
    role = "uplink"
    [[port]]
    name = "east"
    device = "net_null1"
    mac = "02:00:00:00:00:fe"
    addresses = ["10.8.0.1/24"]
    role = "access"
    [[port]]
    name = "west"
    device = "net_null2"
    mac = "02:00:00:00:00:fe"
    addresses = ["10.8.0.1/24"]
    role = "access"
    [[neighbour]]
    address = "10.9.0.2"
    mac = "02:00:00:00:09:02"
    port = "uplink"
    [[route]]
    to = "10.66.0.0/16"
    via = "10.9.0.2"
"#;

pub(crate) struct TestBox {
    pub(crate) client: SwitchClient<Channel>,
    pub(crate) channel: Channel,
    pub(crate) shards: Shards,
    pub(crate) socket: std::path::PathBuf,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    core: CoreThread,
    _folder: TempDir,
}

impl TestBox {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more in its configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        Self::start_configured(&format!("{CONFIG}{more}")).await
    }

    /// With another configuration, of an uplink and two access ports.
    pub(crate) async fn start_configured(text: &str) -> Self {
        let config = config::parse(Path::new("test.toml"), text).expect("valid");
        let macs = [Mac(UPLINK_MAC), Mac(GATEWAY_MAC), Mac(GATEWAY_MAC)];
        let (double, shards) = Double::new(config.ports.len(), 2);
        let network = Network::new(&config, &macs);
        let core = Core::new(Box::new(double), network, []).expect("core");
        let core = CoreThread::start(core).expect("thread");
        let folder = tempfile::tempdir().expect("folder");
        let socket = folder.path().join("tidegated.sock");
        let endpoint = Endpoint::Unix(socket.clone());
        let server = Server::bind(std::slice::from_ref(&endpoint)).await.expect("bind");
        let (stop, stopping) = watch::channel(false);
        let sessions_capacity = Capacity { v4: 256, v6: 256 };
        let info = BoxInfo { dpdk_version: "none".to_owned(), sessions_capacity };
        let service = SwitchService::new(core.handle(), info, stopping.clone());
        let server =
            tokio::spawn(async move { server.serve(service, stopping).await.expect("served") });
        let channel = connect(&endpoint).await.expect("connected");
        let client = SwitchClient::new(channel.clone());
        Self { client, channel, shards, socket, stop, server, core, _folder: folder }
    }

    /// Stop as the daemon does.
    pub(crate) async fn stop(self) {
        self.stop.send(true).expect("serving");
        timeout(PATIENCE, self.server).await.expect("the server ends").expect("no panic");
        let stopped = tokio::task::spawn_blocking(|| self.core.stop()).await.expect("no panic");
        assert!(stopped.is_some(), "the core gives the workers back");
    }

    /// As the kernel's mirror does.
    pub(crate) fn tell_of_kernel(&self, changes: Vec<Change>) {
        self.core.handle().tell(|core| core.follow_kernel(changes));
    }

    pub(crate) fn tcp(&self, client_port: u16) -> Tcp<'_> {
        Tcp { shards: &self.shards, address: ADDRESS_BYTES, client_port }
    }

    pub(crate) async fn add(&mut self, home: Backend) -> Result<Address, Status> {
        let request =
            proto::AddAddressRequest { address: ADDRESS.into(), home: Some(home), quic: None };
        self.client.add_address(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn takeover(&mut self) -> Result<Address, Status> {
        let request = proto::TakeoverRequest { address: ADDRESS.into() };
        self.client.takeover(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn set_destination(
        &mut self,
        destination: Backend,
    ) -> Result<Address, Status> {
        let destination = Some(destination);
        let request = proto::SetDestinationRequest { address: ADDRESS.into(), destination };
        self.client.set_destination(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn cutover(&mut self) -> Result<CutoverResponse, Status> {
        let request = proto::CutoverRequest { address: ADDRESS.into(), ..Default::default() };
        self.client.cutover(request).await.map(tonic::Response::into_inner)
    }

    /// Import TCP sessions from client 192.0.2.7 and these ports, to port 80.
    pub(crate) async fn import(
        &mut self,
        ports: std::ops::Range<u32>,
    ) -> Result<proto::ImportSessionsResponse, Status> {
        let request = proto::ImportSessionsRequest {
            address: ADDRESS.into(),
            sessions: ports.map(imported).collect(),
        };
        self.client.import_sessions(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn abort(&mut self) -> Result<Address, Status> {
        let request = proto::AbortRequest { address: ADDRESS.into() };
        self.client.abort(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn release(
        &mut self,
        keep_tracking: bool,
        force: bool,
    ) -> Result<(Address, u64), Status> {
        let address = ADDRESS.into();
        let request = proto::ReleaseRequest { address, keep_tracking, force, with_sessions: false };
        let answer = self.client.release(request).await?.into_inner();
        Ok((answer.address.expect("an address"), answer.forgotten_sessions))
    }

    /// Release with the source's sessions: the address, how many go on, how many are cut.
    pub(crate) async fn release_with_sessions(
        &mut self,
        keep_tracking: bool,
    ) -> Result<(Address, u64, u64), Status> {
        let address = ADDRESS.into();
        let request =
            proto::ReleaseRequest { address, keep_tracking, force: false, with_sessions: true };
        let answer = self.client.release(request).await?.into_inner();
        let address = answer.address.expect("an address");
        Ok((address, answer.kept_sessions, answer.cut_sessions))
    }

    pub(crate) async fn get(&mut self) -> Result<Address, Status> {
        let request = proto::GetAddressRequest { address: ADDRESS.into() };
        self.client.get_address(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn watch(
        &mut self,
        interval_ms: u32,
    ) -> Result<Streaming<MigrationEvent>, Status> {
        let request = proto::WatchMigrationRequest { address: ADDRESS.into(), interval_ms };
        self.client.watch_migration(request).await.map(tonic::Response::into_inner)
    }

    /// Added, taken over, `old` sessions open from client ports 1 on, destination set, cut over.
    pub(crate) async fn drain(&mut self, old: u16) -> CutoverResponse {
        self.add(east()).await.expect("add");
        self.takeover().await.expect("takeover");
        for port in 1..=old {
            self.tcp(port).open();
        }
        self.set_destination(west()).await.expect("destination");
        self.cutover().await.expect("cutover")
    }

    /// Wait until the address is in `state`.
    pub(crate) async fn reach(&mut self, state: AddressState) -> Address {
        let reached = async {
            loop {
                let address = self.get().await.expect("known");
                if address.state() == state {
                    return address;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the state is reached")
    }
}

/// A TCP session to import.
pub(crate) fn imported(client_port: u32) -> proto::ImportedSession {
    let client = "192.0.2.7".to_owned();
    proto::ImportedSession { protocol: 6, client, client_port, address_port: 80, state: 0 }
}

pub(crate) fn east() -> Backend {
    backend("blue", "east", 0x0b)
}

pub(crate) fn west() -> Backend {
    backend("green", "west", 0x0c)
}

pub(crate) fn backend(name: &str, port: &str, last: u8) -> Backend {
    Backend {
        name: name.to_owned(),
        port: port.to_owned(),
        mac: format!("02:00:00:00:08:{last:02x}"),
        rewrite: Rewrite::L2.into(),
        locator: String::new(),
        encap: None,
    }
}

pub(crate) fn nat(name: &str, port: &str, last: u8) -> Backend {
    Backend {
        rewrite: Rewrite::Nat.into(),
        locator: format!("10.8.0.{last}"),
        ..backend(name, port, last)
    }
}

/// The next event of a watched migration.
pub(crate) async fn next(events: &mut Streaming<MigrationEvent>) -> Option<MigrationEvent> {
    timeout(PATIENCE, events.message()).await.expect("in time").expect("no error")
}
