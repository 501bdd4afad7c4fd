//! Processes that answer from a script, and a way to run a command against them.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use clap::Parser as _;
use tidegate_api::{
    Request, Response, Status,
    endpoint::{Endpoint, Listener},
    host::{self, host_server::HostServer},
    manager::{self as proto, manager_server::Manager, manager_server::ManagerServer},
    switch::switch_server::SwitchServer,
};
use tidegate_cli::{args::Cli, error::Error, error::Exit, output::Output};
use tokio::task::JoinHandle;
use tokio_stream::{Iter, iter};
use tonic::service::Routes;

use crate::lists::{FakeHost, FakeSwitch};

/// What the fake manager answers.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) plan: proto::Plan,
    /// Answers to watchers, one stream after the other.
    pub(crate) streams: Vec<Vec<Result<proto::MigrationEvent, Status>>>,
    pub(crate) migration: proto::Migration,
    pub(crate) started: Option<proto::MigrationSpec>,
    pub(crate) bandwidths: Vec<u64>,
    pub(crate) guest_started: Option<host::GuestSpec>,
    pub(crate) dry_run: proto::DryRun,
}

/// The processes' sockets and script.
pub(crate) struct Processes {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) directory: tempfile::TempDir,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

/// A buffer that the program writes to and the test reads.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("buffer").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Processes {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let script = Arc::new(Mutex::new(Script::default()));
        let manager = ManagerServer::new(FakeManager(Arc::clone(&script)));
        let host = HostServer::new(FakeHost(Arc::clone(&script)));
        let mut processes = Self { script, directory, servers: Vec::new() };
        processes.serve("manager", Routes::new(manager)).await;
        processes.serve("switch", Routes::new(SwitchServer::new(FakeSwitch))).await;
        processes.serve("host", Routes::new(host)).await;
        processes
    }

    async fn serve(&mut self, name: &str, routes: Routes) {
        let listener = Listener::bind(&Endpoint::Unix(self.socket(name))).await.expect("bind");
        self.servers.push(tokio::spawn(async move {
            listener.serve(routes, std::future::pending()).await.expect("serve");
        }));
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("script"));
    }

    /// Run `tidegate` with `line`.
    pub(crate) async fn run(&self, line: &str) -> (Result<Exit, Error>, String) {
        let mut words = vec!["tidegate".to_owned()];
        for name in ["manager", "switch", "host"] {
            if !line.contains(&format!("--{name} ")) {
                words.push(format!("--{name}=unix:{}", self.socket(name).display()));
            }
        }
        words.extend(line.split_whitespace().map(str::to_owned));
        let cli = Cli::try_parse_from(words).expect("command line");
        let buffer = Buffer::default();
        let mut output = Output::new(Box::new(buffer.clone()), cli.json, false);
        let result = tidegate_cli::run(&cli, &mut output).await;
        let text = String::from_utf8(buffer.0.lock().expect("buffer").clone()).expect("text");
        (result, text)
    }

    /// Run it with `--json`.
    pub(crate) async fn run_json(&self, line: &str) -> (Exit, Vec<serde_json::Value>) {
        let (result, text) = self.run(&format!("--json {line}")).await;
        let objects =
            text.lines().map(|line| serde_json::from_str(line).expect("an object a line"));
        (result.expect("no error"), objects.collect())
    }
}

struct FakeManager(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl Manager for FakeManager {
    type WatchMigrationStream = Iter<std::vec::IntoIter<Result<proto::MigrationEvent, Status>>>;

    async fn plan_migration(
        &self,
        _: Request<proto::PlanMigrationRequest>,
    ) -> Result<Response<proto::Plan>, Status> {
        Ok(Response::new(self.0.lock().expect("script").plan.clone()))
    }

    async fn start_migration(
        &self,
        request: Request<proto::StartMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        let mut script = self.0.lock().expect("script");
        script.started = request.into_inner().spec;
        let running = proto::MigrationState::Running.into();
        Ok(Response::new(proto::Migration { state: running, ..script.migration.clone() }))
    }

    async fn get_migration(
        &self,
        _: Request<proto::GetMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        Ok(Response::new(self.0.lock().expect("script").migration.clone()))
    }

    async fn list_migrations(
        &self,
        _: Request<proto::ListMigrationsRequest>,
    ) -> Result<Response<proto::ListMigrationsResponse>, Status> {
        let migrations = vec![self.0.lock().expect("script").migration.clone()];
        Ok(Response::new(proto::ListMigrationsResponse { migrations }))
    }

    async fn watch_migration(
        &self,
        request: Request<proto::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let mut script = self.0.lock().expect("script");
        let id = request.into_inner().id;
        if id != script.migration.id {
            return Err(Status::not_found(format!("there is no migration `{id}`")));
        }
        assert!(!script.streams.is_empty(), "watched more often than scripted");
        Ok(Response::new(iter(script.streams.remove(0))))
    }

    async fn set_bandwidth(
        &self,
        request: Request<proto::SetBandwidthRequest>,
    ) -> Result<Response<proto::SetBandwidthResponse>, Status> {
        self.0.lock().expect("script").bandwidths.push(request.into_inner().mbps);
        Ok(Response::new(proto::SetBandwidthResponse {}))
    }

    async fn abort_migration(
        &self,
        _: Request<proto::AbortMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        Ok(Response::new(self.0.lock().expect("script").migration.clone()))
    }

    async fn resume_migration(
        &self,
        _: Request<proto::ResumeMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        Ok(Response::new(self.0.lock().expect("script").migration.clone()))
    }

    async fn dry_run_diff(
        &self,
        request: Request<proto::DryRunDiffRequest>,
    ) -> Result<Response<proto::DryRun>, Status> {
        assert_eq!(request.into_inner().id, "m-1");
        Ok(Response::new(self.0.lock().expect("script").dry_run.clone()))
    }

    async fn list_inventory(
        &self,
        _: Request<proto::ListInventoryRequest>,
    ) -> Result<Response<proto::Inventory>, Status> {
        let node = |name: &str, reachable| proto::Node {
            name: name.to_owned(),
            endpoint: "127.0.0.1:1".to_owned(),
            reachable,
            detail: "version 0.1.0".to_owned(),
        };
        Ok(Response::new(proto::Inventory {
            switches: vec![node("edge", true)],
            hosts: vec![node("h1", false)],
        }))
    }
}
