//! A switch and hosts that only remember: they record calls, keep just enough state to refuse what the real
//! ones refuse, and fail where a test says so.

mod host;
mod switch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tidegate_api::{
    Status,
    endpoint::{Endpoint, Listener},
    host::{Guest, host_server::HostServer},
    manager::{self as proto, Migration, MigrationSpec},
    switch::{Address, AddressState, CutoverRequest, ImportedSession, switch_server::SwitchServer},
};
use tidegate_manager::{
    journal::Journal,
    migrations::Migrations,
    pace::Pace,
    peers::{Inventory, Peer},
    phase::Phase,
    record::{Fact, MigrationId},
};
use tokio::{sync::watch, task::JoinHandle};
use tonic::service::Routes;

pub(crate) use host::{GENERATION, guest};

/// How an injected failure happens.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It goes well this time.
    None,
    /// Instead of acting.
    Refuse(Status),
    /// After acting: the answer is lost.
    LoseAnswer(Status),
    /// As before, and the source's process ends with it.
    LoseAnswerAndSource(Status),
}

/// What the fakes know.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) calls: Vec<String>,
    pub(crate) faults: BTreeMap<String, Vec<Fault>>,
    pub(crate) address: Address,
    /// Per host name.
    pub(crate) guests: BTreeMap<String, BTreeMap<String, Guest>>,
    pub(crate) prepared: BTreeMap<String, tidegate_api::host::GuestSpec>,
    pub(crate) captured: BTreeSet<String>,
    /// The destination's host is of a version that takes RAM alone.
    pub(crate) takes_straight: bool,
    pub(crate) capture_takes: Duration,
    capture_over: Option<Instant>,
    /// Bytes of RAM that have gone straight, while it is captured.
    pub(crate) gone_straight: Option<u64>,
    /// Where a capture was told to send RAM.
    pub(crate) straight_to: Vec<Option<String>>,
    /// What SetBandwidth was told.
    pub(crate) bandwidths: Vec<u64>,
    /// How the source's host was told to send: by which call, at most so many Mbit/s, by what.
    pub(crate) sent: Vec<(&'static str, Option<u64>, String)>,
    /// Copies that break after so many bytes, in order.
    pub(crate) copies_break_after: Vec<u64>,
    pub(crate) destinations_started: u32,
    /// What destinations have printed.
    pub(crate) console: String,
    pub(crate) merges_applied: u32,
    pub(crate) qemu_versions: BTreeMap<String, String>,
    pub(crate) twin_free_bytes: u64,
    pub(crate) memory_free_bytes: u64,
    pub(crate) safety: Vec<tidegate_api::host::Safety>,
    /// What the source's host says of the way to the destination's, and of which it was asked.
    pub(crate) carriage: Option<tidegate_api::host::Safety>,
    pub(crate) carriages_asked: Vec<(String, String)>,
    pub(crate) keeps_t0: bool,
    pub(crate) settles: Vec<tidegate_api::host::SettleRequest>,
    /// Whether the source's memory comes to rest.
    pub(crate) settles_at_last: bool,
    pub(crate) image_sent: bool,
    /// The destination's process ends with this call.
    pub(crate) destination_dies_after: Option<String>,
    /// The destination's host takes no connections any more once it has applied an image: its socket, which goes.
    pub(crate) goes_with_image: Option<PathBuf>,
    /// What the destination says it has.
    pub(crate) image_digest: String,
    /// What a release with sessions said.
    pub(crate) handovers: u32,
    pub(crate) capture_refusal: Option<Status>,
    /// The source's.
    pub(crate) sockets: Vec<tidegate_api::host::Socket>,
    pub(crate) lists_asked: Vec<tidegate_api::host::ListSocketsRequest>,
    /// What the switch knows by importing it, by client, its port, and the address's port.
    pub(crate) imported: BTreeMap<(String, u32, u32), ImportedSession>,
    /// Sessions the switch has no room for.
    pub(crate) no_room: BTreeSet<u32>,
    pub(crate) longest_silence_ms: u64,
    /// What a release says it cut.
    pub(crate) forgotten_sessions: u64,
    /// What the switch was told at cutovers, those it refused included.
    pub(crate) cutovers: Vec<CutoverRequest>,
    /// So many times still, the source's port is said to have no link.
    pub(crate) source_down: u32,
    /// Drain streams to break after one event.
    pub(crate) streams_to_break: u32,
}

/// World, sockets and servers of one test.
pub(crate) struct Lab {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) old_sessions: watch::Sender<u64>,
    pub(crate) directory: tempfile::TempDir,
    servers: Vec<(String, JoinHandle<()>)>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, server) in &self.servers {
            server.abort();
        }
    }
}

pub(crate) const PACE: Pace = Pace {
    retry_first: Duration::from_millis(5),
    retry_longest: Duration::from_millis(20),
    retry_budget: Duration::from_millis(400),
    capture: Duration::from_secs(1),
    slowest_bytes_per_s: 64 << 20,
    capture_budget: Duration::from_millis(400),
    stream_silence: Duration::from_secs(2),
    boot: Duration::from_millis(500),
    link: Duration::from_millis(300),
    hold_again: Duration::from_millis(50),
    stop_grace: Duration::from_millis(500),
};

impl Lab {
    /// A switch `edge` with address 10.0.0.1 at home `vm-a`, and hosts `h1` (with guest `vm-a`) and `h2`.
    pub(crate) async fn new() -> Self {
        let mut world = World {
            twin_free_bytes: 1 << 30,
            memory_free_bytes: 1 << 30,
            image_digest: "d2".to_owned(),
            ..World::default()
        };
        world.address = switch::tracked_address();
        for host in ["h1", "h2"] {
            world.guests.insert(host.to_owned(), BTreeMap::new());
            world.qemu_versions.insert(host.to_owned(), "7.2.22".to_owned());
        }
        world.guests.get_mut("h1").expect("h1").insert("vm-a".to_owned(), guest("vm-a"));
        let mut lab = Self {
            world: Arc::new(Mutex::new(world)),
            old_sessions: watch::Sender::new(0),
            directory: tempfile::tempdir().expect("directory"),
            servers: Vec::new(),
        };
        for name in ["edge", "h1", "h2"] {
            lab.serve(name).await;
        }
        lab
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("world")
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.sock"))
    }

    /// Bring up the peer `name`.
    pub(crate) async fn serve(&mut self, name: &str) {
        let endpoint = Endpoint::Unix(self.socket(name));
        let listener = Listener::bind(&endpoint).await.expect("bind");
        let routes = if name == "edge" {
            Routes::new(SwitchServer::new(switch::FakeSwitch {
                world: Arc::clone(&self.world),
                old_sessions: self.old_sessions.clone(),
            }))
        } else {
            Routes::new(HostServer::new(host::FakeHost {
                world: Arc::clone(&self.world),
                name: name.to_owned(),
            }))
        };
        let server = tokio::spawn(async move {
            listener.serve(routes, std::future::pending()).await.expect("serve");
        });
        self.servers.push((name.to_owned(), server));
    }

    /// Take the peer `name` away.
    pub(crate) async fn unserve(&mut self, name: &str) {
        for (served, server) in &self.servers {
            if served == name {
                server.abort();
            }
        }
        self.servers.retain(|(served, _)| served != name);
        std::fs::remove_file(self.socket(name)).expect("socket");
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let peer = |role, name: &str| Peer::new(role, name, Endpoint::Unix(self.socket(name)));
        Inventory {
            switches: vec![peer("switch", "edge")],
            hosts: vec![peer("host", "h1"), peer("host", "h2")],
        }
    }

    pub(crate) fn state_dir(&self) -> &Path {
        self.directory.path()
    }

    /// A manager; the journal of one before it is taken over.
    pub(crate) async fn manager(&self) -> Migrations {
        // The journal's lock goes with the last driver of the manager before.
        for _ in 0..200 {
            match Journal::open(self.state_dir()) {
                Ok(journal) => {
                    return Migrations::resume(journal, self.inventory(), PACE)
                        .await
                        .expect("resume");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("the journal stays locked");
    }

    /// Let a call fail, once per fault, in order.
    pub(crate) fn fail(&self, call: &str, faults: impl IntoIterator<Item = Fault>) {
        self.world().faults.insert(call.to_owned(), faults.into_iter().collect());
    }

    pub(crate) fn called(&self, call: &str) -> usize {
        self.world().calls.iter().filter(|made| made.as_str() == call).count()
    }

    /// The source's process ends.
    pub(crate) fn kill_source(&self) {
        self.world().kill_source();
    }

    /// The destination and its sessions are as they were.
    pub(crate) fn assert_destination_is_kept(&self) {
        let world = self.world();
        assert!(world.guests["h2"].contains_key("vm-b"), "the destination is kept");
        assert!(world.address.destination.is_some(), "the switch steers to it");
        assert!(!world.calls.iter().any(|call| call == "Abort" || call == "DeleteGuest"));
    }

    /// Everything is as before the migration.
    pub(crate) fn assert_source_owns_everything(&self) {
        let world = self.world();
        let address = &world.address;
        assert_eq!(address.home.as_ref().expect("home").name, "vm-a");
        assert_eq!(address.destination, None);
        assert!(!address.hosted);
        assert!(!matches!(address.state(), AddressState::Draining | AddressState::Drained));
        assert_eq!(world.guests["h1"]["vm-a"].state(), tidegate_api::host::GuestState::Running);
        let others: usize = world.guests.values().map(BTreeMap::len).sum();
        assert_eq!(others, 1, "the destination is gone");
        assert!(world.captured.is_empty(), "the twin is forgotten");
        assert!(world.prepared.is_empty(), "the received files are forgotten");
    }

    /// The destination has everything, the source is gone.
    pub(crate) fn assert_destination_owns_everything(&self) {
        let world = self.world();
        assert_eq!(world.address.home.as_ref().expect("home").name, "vm-b");
        assert_eq!(world.address.destination, None);
        assert!(!world.guests["h1"].contains_key("vm-a"));
        assert_eq!(world.guests["h2"]["vm-b"].state(), tidegate_api::host::GuestState::Running);
        assert!(world.captured.is_empty() && world.prepared.is_empty());
    }
}

impl World {
    fn kill_source(&mut self) {
        let source = self.guests.get_mut("h1").and_then(|guests| guests.get_mut("vm-a"));
        source.expect("vm-a").set_state(tidegate_api::host::GuestState::Exited);
    }

    fn capture_over(&mut self) -> Instant {
        *self.capture_over.get_or_insert_with(|| Instant::now() + self.capture_takes)
    }

    /// Note a call; the fault to be shown after acting, if any.
    fn enter(&mut self, call: &str) -> Result<Option<Status>, Status> {
        self.calls.push(call.to_owned());
        let faults = self.faults.get_mut(call).filter(|faults| !faults.is_empty());
        match faults.map(|faults| faults.remove(0)) {
            Some(Fault::Refuse(status)) => Err(status),
            Some(Fault::LoseAnswer(status)) => Ok(Some(status)),
            Some(Fault::LoseAnswerAndSource(status)) => {
                self.kill_source();
                Ok(Some(status))
            }
            Some(Fault::None) | None => Ok(None),
        }
    }
}

/// A clone of `vm-a` to `vm-b` on the other host.
pub(crate) fn order() -> MigrationSpec {
    MigrationSpec {
        address: "10.0.0.1".to_owned(),
        source_host: "h1".to_owned(),
        source_guest: "vm-a".to_owned(),
        destination_host: "h2".to_owned(),
        destination_guest: "vm-b".to_owned(),
        kind: proto::DestinationKind::Clone.into(),
        finish: proto::FinishMode::Merge.into(),
        destination_port: "vm1".to_owned(),
        destination_vhost_socket: "/run/vm1.sock".to_owned(),
        ..MigrationSpec::default()
    }
}

/// Wait until it is over.
pub(crate) async fn finished(manager: &Migrations, id: &MigrationId) -> Migration {
    let over = async {
        loop {
            let progress = manager.journal().progress(id).expect("progress");
            if progress.end.is_some() {
                return tidegate_manager::events::migration(id, &progress);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.expect("it ends")
}

/// Wait until the journal has a record that `fits`.
pub(crate) async fn recorded(manager: &Migrations, id: &MigrationId, fits: impl Fn(&Fact) -> bool) {
    let there = async {
        loop {
            let records = manager.journal().records(id, 0).expect("records");
            if records.iter().any(|record| fits(&record.fact)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.expect("it is recorded");
}

/// The journal says that `phase` has begun.
pub(crate) fn started(phase: Phase) -> impl Fn(&Fact) -> bool {
    move |fact| *fact == Fact::Started { phase }
}

/// The journal says that `phase` has begun, or that it has finished.
pub(crate) fn reached(phase: Phase, finished_it: bool) -> impl Fn(&Fact) -> bool {
    move |fact| match fact {
        Fact::Started { phase: begun } => !finished_it && *begun == phase,
        Fact::Finished { phase: done, .. } => finished_it && *done == phase,
        _ => false,
    }
}

/// A migration that drains.
pub(crate) async fn draining(lab: &Lab) -> (Migrations, MigrationId) {
    let manager = lab.manager().await;
    let id = manager.start(Some(order())).await.expect("started");
    recorded(&manager, &id, started(Phase::Drain)).await;
    (manager, id)
}
