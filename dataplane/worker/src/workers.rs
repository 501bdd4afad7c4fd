//! All workers, as the control core holds them.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{Capacity, HELD, Import, ImportedSession, Punt, Shard, ShardSelector},
    session::{Connections, SessionRecord},
    steering::{BackendSlot, PortId, RouteChange, RouteTables, Snapshot},
};
use tidegate_dpdk::{Eal, LcoreTask, PktMbufPool, PoolConfig};

use crate::{
    PortError, WorkersConfig,
    clock::Clock,
    held::Held,
    hold,
    host_limit::HostLimit,
    idle::Idler,
    link::{ControlEnd, ImportList, Listing, Order, Report, link},
    mesh::{MeshEnd, mesh},
    outbox::Exit,
    routes::Routes,
    slots::Slot,
    worker::Worker,
};

/// How long a worker may take to answer: many times the longest round and sleep.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sessions copied per listing.
const LISTING: usize = 4096;

/// Why the workers did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// DPDK's environment did not start.
    #[error(
        "DPDK did not start: {0}; its own messages are above. Hugepages missing? Reserve them (deploy/host/hugepages), or set `hugepages = false` in [eal]"
    )]
    Eal(Box<tidegate_dpdk::Error>),
    /// A port did not open.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Packet buffers could not be had.
    #[error(
        "{mbufs} packet buffers of {} bytes could not be had from {memory_mib} MiB: {reason}; raise `memory_mib` in [eal], or set `mbufs` there to fewer",
        PoolConfig::default().data_bytes
    )]
    Pool {
        /// How many.
        mbufs: u32,
        /// What there is.
        memory_mib: u32,
        /// Why.
        reason: Box<tidegate_dpdk::Error>,
    },
    /// The route tables could not be had.
    #[error(
        "no memory for the route tables: {reason}; they take about 250 MiB, raise `memory_mib` in [eal], or keep few routes in `table = \"map\"` of [routes]"
    )]
    Routes {
        /// Why.
        reason: Box<tidegate_dpdk::Error>,
    },
    /// The session tables could not be had.
    #[error(
        "no memory for tables of {} sessions over IPv4 and {} over IPv6: {source}; lower `sessions` or `sessions_ipv6` in [workers]",
        sessions.v4, sessions.v6
    )]
    Sessions {
        /// Sessions per worker.
        sessions: Capacity,
        /// Why.
        source: io::Error,
    },
    /// A CPU could not be given a worker.
    #[error("worker {worker} did not start: {reason}")]
    Launch {
        /// Which.
        worker: usize,
        /// Why.
        reason: Box<tidegate_dpdk::Error>,
    },
}

/// Why a worker did not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// It did not answer in time.
    #[error("worker {worker} did not answer within {} ms", waited.as_millis())]
    Silent {
        /// Which.
        worker: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// It has ended.
    #[error("worker {worker} has stopped")]
    Stopped {
        /// Which.
        worker: usize,
    },
    /// A worker holds on to route tables that were to be changed.
    #[error("old route tables are still in use after {} ms", waited.as_millis())]
    OldRoutes {
        /// How long was waited.
        waited: Duration,
    },
    /// No packet buffer was free for a frame of the control core.
    #[error("no packet buffer is free")]
    NoBuffer,
}

/// QUIC connection IDs that are remembered, the youngest: 2 MiB.
const QUIC_CONNECTIONS: usize = 1 << 18;

/// Live sessions of a backend at the instant each worker took a snapshot up, summed over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The backend.
    pub slot: BackendSlot,
    /// Its live sessions.
    pub live: u64,
    /// Those of them that it began itself.
    pub begun_by_vm: u64,
}

/// Every worker acts on the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// From publishing to the last acknowledgement.
    pub elapsed: Duration,
    /// For each slot the snapshot asked to count.
    pub counted: Vec<Counted>,
}

/// The running workers. Dropping it stops them and closes the ports.
pub struct Workers {
    pub(crate) links: Vec<ControlEnd>,
    tasks: Vec<Option<LcoreTask<()>>>,
    /// By [`PortId`], as many as there may be.
    pub(crate) slots: Vec<Option<Slot>>,
    pub(crate) pool: PktMbufPool,
    noticed: Vec<Punt>,
    clock: Clock,
    selector: ShardSelector,
    connections: Arc<Connections>,
    routes: Routes,
    pub(crate) eal: Eal,
}

impl Workers {
    /// Start DPDK, launch the workers and open the ports. Until the first snapshot is published they drop
    /// everything.
    ///
    /// # Errors
    /// [`StartError`]; what was opened is closed again.
    pub fn start(config: &WorkersConfig) -> Result<Self, StartError> {
        let eal = Eal::init(config.eal_arguments()).map_err(|e| StartError::Eal(Box::new(e)))?;
        let workers = config.cpus.len();
        let pool =
            eal.create_pool("packets", &pool_config(config)).map_err(|error| StartError::Pool {
                mbufs: pool_config(config).mbufs,
                memory_mib: config.memory_mib,
                reason: Box::new(error),
            })?;
        let routes = Routes::new(&eal, config.routes)
            .map_err(|error| StartError::Routes { reason: Box::new(error) })?;
        let mut this = Self {
            links: Vec::new(),
            tasks: Vec::new(),
            slots: (0..config.port_slots()).map(|_| None).collect(),
            pool,
            noticed: Vec::new(),
            clock: Clock::start(eal.tsc_hz()),
            selector: ShardSelector::new(workers as u16),
            connections: Arc::new(Connections::new(QUIC_CONNECTIONS)),
            routes,
            eal,
        };
        for (number, mesh) in mesh(workers).into_iter().enumerate() {
            this.launch(number, mesh, config)?;
        }
        for port in &config.ports {
            this.add_port(port)?;
        }
        Ok(this)
    }

    /// Launch worker `number`, which has no ports yet.
    fn launch(
        &mut self,
        number: usize,
        mesh: MeshEnd,
        config: &WorkersConfig,
    ) -> Result<(), StartError> {
        let counters = Arc::new(ShardCounters::default());
        let (control_end, worker_end) = link(Arc::clone(&counters));
        let (sessions, selector) = (config.sessions, self.selector.clone());
        let connections = Arc::clone(&self.connections);
        let shard = Shard::new(number as u16, selector, sessions, connections, counters)
            .map_err(|source| StartError::Sessions { sessions, source })?;
        let worker = Worker {
            shard,
            snapshot: Arc::new(Snapshot::empty()),
            link: worker_end,
            mesh,
            held: Held::new(),
            entries: Vec::with_capacity(self.slots.len()),
            exits: self.slots.iter().map(|_| Exit::None).collect(),
            waiting: Vec::with_capacity(self.slots.len()),
            idler: Idler::new(config.idle),
            listing: None,
            importing: None,
            clock: self.clock,
            stopped: false,
            host_limit: HostLimit::new(),
            holding: false,
        };
        let lcore = self.eal.worker_lcores()[number];
        let task = self.eal.launch(lcore, move || worker.run());
        let task =
            task.map_err(|source| StartError::Launch { worker: number, reason: Box::new(source) })?;
        self.links.push(control_end);
        self.tasks.push(Some(task));
        Ok(())
    }

    /// The workers' clock: milliseconds since they were started.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// How many workers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// A worker that has ended although nobody told it to.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        let ended = |task: &Option<LcoreTask<()>>| task.as_ref().is_none_or(LcoreTask::is_finished);
        self.tasks.iter().position(ended)
    }

    /// The counters of a worker's shard.
    ///
    /// # Panics
    /// When there is no such worker.
    #[must_use]
    pub fn counters(&self, worker: usize) -> &ShardCounters {
        &self.links[worker].counters
    }

    /// Hand `snapshot` to every worker and wait until all act on it.
    ///
    /// # Errors
    /// [`WorkerError`] when one does not; the others may.
    pub fn publish(&mut self, snapshot: &Arc<Snapshot>) -> Result<Acknowledged, WorkerError> {
        let started = Instant::now();
        for worker in 0..self.links.len() {
            self.order(worker, Order::Install(Arc::clone(snapshot)))?;
        }
        self.await_generation(snapshot.generation)?;
        let elapsed = started.elapsed();
        self.read_reports();
        let counters = || self.links.iter().map(|link| &link.counters);
        let sum = |&slot| Counted {
            slot,
            live: counters().map(|it| u64::from(it.at_install(slot))).sum(),
            begun_by_vm: counters().map(|it| u64::from(it.at_install_begun_by_vm(slot))).sum(),
        };
        Ok(Acknowledged { elapsed, counted: snapshot.counted_at_install.iter().map(sum).collect() })
    }

    /// Tell the route tables these changes, and give them as they are then.
    ///
    /// # Errors
    /// [`WorkerError::OldRoutes`] when a worker still reads the ones before after a while.
    pub fn change_routes(&mut self, changes: &[RouteChange]) -> Result<RouteTables, WorkerError> {
        // Whoever reads the copies to be changed has a snapshot that is on its way back.
        let started = Instant::now();
        while !self.routes.are_free() {
            if started.elapsed() > PATIENCE {
                return Err(WorkerError::OldRoutes { waited: PATIENCE });
            }
            self.read_reports();
            thread::sleep(Duration::from_micros(20));
        }
        Ok(self.routes.change(changes))
    }

    /// Copies of sessions with their worker's number: with these addresses, or all if none is given, at most `limit`. A session that moves while the
    /// listing goes on, to make room for a new one, may be missing or there twice.
    ///
    /// # Errors
    /// [`WorkerError`] when a worker does not answer.
    pub fn sessions(
        &mut self,
        addresses: &[IpAddr],
        limit: usize,
    ) -> Result<Vec<(usize, SessionRecord)>, WorkerError> {
        let mut all = Vec::new();
        let mut listing = Box::new(Listing::with_room(addresses.to_vec(), LISTING.min(limit)));
        for worker in 0..self.links.len() {
            listing.next = Some(0);
            while listing.next.is_some() && all.len() < limit {
                self.order(worker, Order::List(listing))?;
                listing = self.await_listing(worker)?;
                let room = limit - all.len();
                all.extend(listing.records.drain(..).take(room).map(|record| (worker, record)));
            }
        }
        Ok(all)
    }

    /// Take up sessions of home backends that the workers have not seen begin, each by the worker whose shard it belongs to.
    ///
    /// # Errors
    /// [`WorkerError`] when a worker does not answer; others may have taken theirs up.
    pub fn import(&mut self, sessions: &[ImportedSession]) -> Result<Import, WorkerError> {
        let mut lists: Vec<Vec<ImportedSession>> = vec![Vec::new(); self.links.len()];
        for session in sessions {
            lists[usize::from(self.selector.shard_of(&session.tuple))].push(*session);
        }
        let mut total = Import::default();
        for (worker, sessions) in lists.into_iter().enumerate().filter(|(_, it)| !it.is_empty()) {
            let list = Box::new(ImportList { sessions, done: 0, import: Import::default() });
            self.order(worker, Order::Import(list))?;
            total += self.await_import(worker)?.import;
        }
        Ok(total)
    }

    /// Send a frame of the control core.
    ///
    /// # Errors
    /// [`WorkerError::NoBuffer`], or a worker that does not take orders.
    pub fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), WorkerError> {
        let mut mbuf = self.pool.alloc().ok_or(WorkerError::NoBuffer)?;
        if !mbuf.set_data(frame) {
            return Err(WorkerError::NoBuffer);
        }
        self.order(0, Order::Transmit(port, mbuf))
    }

    /// What the workers noticed since the last call.
    pub fn take_punts(&mut self) -> impl Iterator<Item = Punt> + '_ {
        self.read_reports();
        self.noticed.drain(..)
    }

    pub(crate) fn order(&mut self, worker: usize, order: Order) -> Result<(), WorkerError> {
        let mut waiting = Some(order);
        self.await_worker(worker, |this| {
            let Some(order) = waiting.take() else { return Some(()) };
            match this.links[worker].orders.push(order) {
                Ok(()) => Some(()),
                Err(rtrb::PushError::Full(order)) => {
                    waiting = Some(order);
                    None
                }
            }
        })
    }

    fn await_generation(&mut self, generation: u64) -> Result<(), WorkerError> {
        (0..self.links.len()).try_for_each(|worker| {
            self.await_worker(worker, |this| {
                (this.links[worker].counters.generation() >= generation).then_some(())
            })
        })
    }

    fn await_listing(&mut self, worker: usize) -> Result<Box<Listing>, WorkerError> {
        self.await_report(worker, |report| match report {
            Report::Listed(listing) => Ok(listing),
            other => Err(other),
        })
    }

    fn await_import(&mut self, worker: usize) -> Result<Box<ImportList>, WorkerError> {
        self.await_report(worker, |report| match report {
            Report::Imported(list) => Ok(list),
            other => Err(other),
        })
    }

    /// Wait for the report that `wanted` takes; it gives back others.
    pub(crate) fn await_report<T>(
        &mut self,
        worker: usize,
        wanted: impl Fn(Report) -> Result<T, Report>,
    ) -> Result<T, WorkerError> {
        self.await_worker(worker, |this| {
            while let Ok(report) = this.links[worker].reports.pop() {
                match wanted(report) {
                    Ok(answer) => return Some(answer),
                    Err(other) => this.keep(other),
                }
            }
            None
        })
    }

    /// Ask again and again until there is an answer, patience is over, or the worker has ended.
    pub(crate) fn await_worker<T>(
        &mut self,
        worker: usize,
        mut answer: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, WorkerError> {
        let started = Instant::now();
        loop {
            if let Some(answer) = answer(self) {
                return Ok(answer);
            }
            if self.tasks[worker].as_ref().is_none_or(LcoreTask::is_finished) {
                return Err(WorkerError::Stopped { worker });
            }
            if started.elapsed() > PATIENCE {
                return Err(WorkerError::Silent { worker, waited: PATIENCE });
            }
            thread::sleep(Duration::from_micros(20));
        }
    }

    fn read_reports(&mut self) {
        for worker in 0..self.links.len() {
            while let Ok(report) = self.links[worker].reports.pop() {
                self.keep(report);
            }
        }
    }

    /// Keep what matters of a report that nobody waits for.
    fn keep(&mut self, report: Report) {
        match report {
            Report::Noticed(punt) => self.noticed.push(punt),
            Report::Retired(snapshot) => drop(snapshot),
            // Whoever asked for these has given up.
            Report::Listed(listing) => drop(listing),
            Report::Imported(list) => drop(list),
            Report::Share(share) => drop(share),
            Report::Held(order) => drop(order),
            Report::HoldOver(hold) => {
                if !hold.is_ending() || hold.is_over(self.now_ms()) {
                    tracing::warn!(held = hold.held(), "a port was held until the deadline");
                }
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in 0..self.links.len() {
            if let Err(error) = self.order(worker, Order::Stop) {
                tracing::error!(%error, "a worker could not be told to stop");
                continue;
            }
            // It stops within one round; what it owned is dropped with it.
            if let Some(Err(error)) = self.tasks[worker].take().map(LcoreTask::join) {
                tracing::error!(worker, %error, "a worker ended badly");
            }
        }
    }
}

fn pool_config(config: &WorkersConfig) -> PoolConfig {
    // Each port's receive and transmit rings, what is between workers, what they hold, what waits for a held port, and room
    // to spare.
    let rings = usize::from(config.port_slots()) * config.cpus.len() * 2 * 1024;
    let mesh = config.cpus.len() * config.cpus.len() * 1024;
    let held = config.cpus.len() * HELD;
    let kept = config.cpus.len() * hold::DEPTH;
    let needed = (rings + mesh + held + kept + 1024) as u32;
    PoolConfig { mbufs: config.mbufs.unwrap_or(needed), ..PoolConfig::default() }
}
