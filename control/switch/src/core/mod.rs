//! The control core: one thread that owns the workers' edge and the steering, and does one thing at a time.
//!
//! Requests come as closures over a queue ([`CoreHandle::call`]); between them the core ticks: it learns neighbours
//! and asks for missing ones, announces what was taken over, and watches drains. With nothing to do it wakes up a
//! few dozen times a second.

mod announce;
mod drain;
mod links;
mod ports;
mod report;
mod run;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use announce::Announcer;
use drain::Migrations;
pub use drain::{MigrationState, Progress};
use links::Links;
pub use report::{
    AddressReport, CountersReport, PortReport, SessionReport, StatusReport, WorkerReport,
};
pub use run::{CoreHandle, CoreThread};
use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{Import, ImportedSession},
    steering::{BackendSlot, Cutover, Rewrite, RouteChange, RouteTables, SnapshotError, Unknown},
};
use tokio::sync::watch;

use crate::{
    dataplane::{Acknowledged, Dataplane, DataplaneError, PortFailure},
    kernel::Mirror,
    steering::{AddressSpec, BackendSpec, DrainPolicy, Network, Refused, SlotInUse, Steering},
};

/// Why the core did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The step does not fit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The workers failed. What the core knows is as before, and what workers know will be.
    #[error("{0}; what was in force before comes back by itself, try again")]
    Dataplane(#[from] DataplaneError),
    /// A port was not opened or closed.
    #[error(transparent)]
    Port(#[from] PortFailure),
    /// A snapshot could not be made, although every step was checked.
    #[error("steering is inconsistent: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The core is not running any more.
    #[error("the control core has stopped; tidegated is going down")]
    Stopped,
}

/// How a cutover is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutoverPolicy {
    /// What happens to unknown TCP.
    pub unknown_tcp: Unknown,
    /// What happens to unknown QUIC.
    pub unknown_quic: Unknown,
    /// How long the source's sessions that are not TCP last at most, though packets keep coming.
    pub datagram_max_age: Option<Duration>,
    /// Whether the drain does not wait for sessions that the source began itself.
    pub ignores_begun_by_source: bool,
}

/// What a cutover came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutoverReport {
    /// The new epoch.
    pub epoch: u32,
    /// Live sessions of the source at the instant of cutover.
    pub old_sessions: u64,
    /// Workers that acknowledged.
    pub workers: usize,
    /// From publishing to the last acknowledgement.
    pub elapsed: Duration,
}

/// What a release with sessions came to.
#[derive(Clone, Debug)]
pub struct HandoverReport {
    /// The address as it is now.
    pub address: AddressReport,
    /// Live sessions of the source, which go on at the destination.
    pub kept_sessions: u64,
    /// Live sessions of the destination, which are cut.
    pub cut_sessions: u64,
}

/// How long after a failed publication the workers are told again.
const RESYNC_AFTER: Duration = Duration::from_secs(1);
/// Tick while something is going on.
const BUSY_TICK: Duration = Duration::from_millis(5);
/// Tick otherwise. The first packet to an unknown neighbour waits this long at most before the neighbour is asked for.
const IDLE_TICK: Duration = Duration::from_millis(20);

/// The core's state.
pub struct Core {
    dataplane: Box<dyn Dataplane>,
    network: Network,
    steering: Steering,
    generation: u64,
    /// Set while some worker may act on something else than `steering`.
    resync_at: Option<Instant>,
    links: Links,
    announcer: Announcer,
    migrations: Migrations,
    /// As they were last given.
    tables: RouteTables,
    /// Changes they have not taken yet.
    untold: Vec<RouteChange>,
    kernel: Option<Mirror>,
}

impl Core {
    /// A core over `dataplane`, managing `addresses` from the start. Publishes the first snapshot.
    ///
    /// # Errors
    /// [`CoreError`] when an address cannot be managed or the workers do not take the snapshot up.
    pub fn new(
        dataplane: Box<dyn Dataplane>,
        network: Network,
        addresses: impl IntoIterator<Item = AddressSpec>,
    ) -> Result<Self, CoreError> {
        let mut core = Self {
            dataplane,
            network,
            steering: Steering::default(),
            generation: 0,
            resync_at: None,
            links: Links::default(),
            announcer: Announcer::default(),
            migrations: Migrations::default(),
            tables: RouteTables::default(),
            untold: Vec::new(),
            kernel: None,
        };
        let mut steering = Steering::default();
        for spec in addresses {
            core.check_own(spec.address, &spec.home)?;
            steering.add(spec, &|_| false)?;
        }
        core.publish(&steering, Vec::new())?;
        core.steering = steering;
        Ok(core)
    }

    /// Manage an address.
    pub fn add(&mut self, spec: AddressSpec) -> Result<AddressReport, CoreError> {
        let address = spec.address;
        self.check_own(address, &spec.home)?;
        self.change(|steering, in_use| steering.add(spec, in_use))?;
        self.address(address)
    }

    /// Forget `address`.
    pub fn remove(&mut self, address: IpAddr) -> Result<(), CoreError> {
        self.change(|steering, _| steering.remove(address))?;
        self.announcer.cancel(address);
        Ok(())
    }

    /// Host `address` and announce it.
    pub fn takeover(&mut self, address: IpAddr) -> Result<AddressReport, CoreError> {
        self.change(|steering, in_use| steering.takeover(address, in_use))?;
        self.announcer.begin(address, Instant::now());
        self.address(address)
    }

    /// Name the destination of the coming migration.
    pub fn set_destination(
        &mut self,
        address: IpAddr,
        destination: BackendSpec,
    ) -> Result<AddressReport, CoreError> {
        self.check_own(address, &destination)?;
        self.change(|steering, in_use| steering.set_destination(address, destination, in_use))?;
        let progress = self.progress(address, MigrationState::Preparing)?;
        self.migrations.begin(address, progress);
        self.address(address)
    }

    /// Begin a new epoch.
    pub fn cutover(
        &mut self,
        address: IpAddr,
        policy: CutoverPolicy,
    ) -> Result<CutoverReport, CoreError> {
        let mut next = self.settled()?.clone();
        let end_ms = |age: Duration| self.dataplane.now_ms() + age.as_millis() as u64;
        let drain = DrainPolicy {
            cutover: Cutover {
                unknown_tcp: policy.unknown_tcp,
                unknown_quic: policy.unknown_quic,
                datagrams_end_ms: policy.datagram_max_age.map(end_ms),
            },
            ignores_begun_by_source: policy.ignores_begun_by_source,
        };
        let source = next.cutover(address, drain)?;
        let acknowledged = self.publish(&next, vec![source])?;
        self.steering = next;
        let progress = self.progress(address, MigrationState::Draining)?;
        self.migrations.update(address, progress);
        Ok(CutoverReport {
            epoch: progress.epoch,
            old_sessions: counted(&acknowledged, source, policy.ignores_begun_by_source),
            workers: self.dataplane.workers(),
            elapsed: acknowledged.elapsed,
        })
    }

    /// Take up sessions of the home of `address` that the box may not have seen; their tuples are of that address.
    ///
    /// # Errors
    /// The address is unknown, not tracked, or cut over already.
    pub fn import(
        &mut self,
        address: IpAddr,
        sessions: &[ImportedSession],
    ) -> Result<Import, CoreError> {
        let record = self.settled()?.get(address)?;
        let state = record.state();
        if !record.tracked {
            return Err(Refused::NotTracked { address, state }.into());
        }
        if record.destination.as_ref().is_some_and(|target| target.cut_over.is_some()) {
            return Err(Refused::AlreadyCutOver { address, state }.into());
        }
        Ok(self.dataplane.import(sessions)?)
    }

    /// Follow the migration of `address`.
    pub fn watch(&mut self, address: IpAddr) -> Result<watch::Receiver<Progress>, CoreError> {
        let record = self.steering.get(address)?;
        let state = match &record.destination {
            None => {
                return Err(Refused::NoDestination { address, state: record.state() }.into());
            }
            Some(target) if target.drained => MigrationState::Drained,
            Some(target) if target.cut_over.is_some() => MigrationState::Draining,
            Some(_) => MigrationState::Preparing,
        };
        let progress = self.progress(address, state)?;
        Ok(self.migrations.follow(address, progress))
    }

    /// Give everything back to the source.
    pub fn abort(&mut self, address: IpAddr) -> Result<AddressReport, CoreError> {
        self.change(|steering, _| steering.abort(address))?;
        self.announcer.cancel(address);
        let progress = self.progress(address, MigrationState::Aborted)?;
        self.migrations.end(address, progress);
        self.address(address)
    }

    /// Make the destination the home. Gives how many live sessions of the source were forgotten, too.
    pub fn release(
        &mut self,
        address: IpAddr,
        keep_tracking: bool,
        force: bool,
    ) -> Result<(AddressReport, u64), CoreError> {
        let mut next = self.settled()?.clone();
        let source = next.release(address, keep_tracking, force)?;
        let acknowledged = self.publish(&next, vec![source])?;
        self.steering = next;
        self.announcer.cancel(address);
        let forgotten = counted(&acknowledged, source, false);
        // The destination is the home now, so its sessions are counted there.
        let progress = self.progress(address, MigrationState::Released)?;
        let progress =
            Progress { old_sessions: 0, new_sessions: progress.old_sessions, ..progress };
        self.migrations.end(address, progress);
        Ok((self.address(address)?, forgotten))
    }

    /// Make the destination, which goes on as the source, the home with all of the source's sessions.
    pub fn release_with_sessions(
        &mut self,
        address: IpAddr,
        keep_tracking: bool,
    ) -> Result<HandoverReport, CoreError> {
        let mut next = self.settled()?.clone();
        let handover = next.release_with_sessions(address, keep_tracking)?;
        let acknowledged = self.publish(&next, vec![handover.kept, handover.given_up])?;
        self.steering = next;
        self.announcer.cancel(address);
        let kept_sessions = counted(&acknowledged, handover.kept, false);
        let progress = self.progress(address, MigrationState::Released)?;
        let progress = Progress { old_sessions: 0, new_sessions: kept_sessions, ..progress };
        self.migrations.end(address, progress);
        Ok(HandoverReport {
            address: self.address(address)?,
            kept_sessions,
            cut_sessions: counted(&acknowledged, handover.given_up, false),
        })
    }

    /// Its ports, routes and neighbours.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Do what is due. Returns when to be called next, at the latest.
    pub fn tick(&mut self, now: Instant) -> Instant {
        if self.resync_at.is_some_and(|at| at <= now)
            && let Err(error) = self.settled()
        {
            tracing::error!(%error, "workers still act on different configurations; trying again");
        }
        let heard = self.hear_links(now);
        self.announce(now);
        let draining = self.watch_drains();
        let busy = heard || draining || self.links.is_waiting();
        let tick = now + if busy { BUSY_TICK } else { IDLE_TICK };
        self.announcer.next().map_or(tick, |at| at.min(tick))
    }

    /// Change a copy of the steering, publish it, keep it.
    fn change(
        &mut self,
        step: impl FnOnce(&mut Steering, SlotInUse<'_>) -> Result<(), Refused>,
    ) -> Result<(), CoreError> {
        let mut next = self.settled()?.clone();
        step(&mut next, &|slot| self.slot_in_use(slot))?;
        self.publish(&next, Vec::new())?;
        self.steering = next;
        Ok(())
    }

    /// The steering, once every worker acts on it.
    fn settled(&mut self) -> Result<&Steering, CoreError> {
        if self.resync_at.is_some() {
            let steering = self.steering.clone();
            self.publish(&steering, Vec::new())?;
            tracing::info!("all workers act on one configuration again");
        }
        Ok(&self.steering)
    }

    fn publish(
        &mut self,
        steering: &Steering,
        counted: Vec<BackendSlot>,
    ) -> Result<Acknowledged, CoreError> {
        self.generation += 1;
        let tables = self.tell_routes(steering)?;
        let snapshot = self.network.snapshot(self.generation, steering, tables, counted)?;
        match self.dataplane.publish(Arc::new(snapshot)) {
            Ok(acknowledged) => {
                self.resync_at = None;
                self.links.published();
                let elapsed_us = acknowledged.elapsed.as_micros();
                tracing::debug!(generation = self.generation, elapsed_us, "snapshot in force");
                Ok(acknowledged)
            }
            Err(error) => {
                self.resync_at = Some(Instant::now() + RESYNC_AFTER);
                tracing::error!(generation = self.generation, %error, "snapshot not in force everywhere");
                Err(error.into())
            }
        }
    }

    /// The route tables with all that has changed.
    fn tell_routes(&mut self, steering: &Steering) -> Result<RouteTables, CoreError> {
        self.untold.extend(self.network.take_route_changes(steering));
        if !self.untold.is_empty() {
            self.tables = self.dataplane.change_routes(&self.untold)?;
            self.untold.clear();
        }
        Ok(self.tables.clone())
    }

    fn slot_in_use(&self, slot: BackendSlot) -> bool {
        (0..self.dataplane.workers())
            .any(|worker| self.dataplane.counters(worker).entries(slot) != 0)
    }

    fn live(&self, slot: BackendSlot) -> u64 {
        self.sum(|counters| counters.live(slot))
    }

    /// Live sessions of `slot` that it did not begin itself.
    fn live_begun_by_clients(&self, slot: BackendSlot) -> u64 {
        // The worker writes one counter after the other.
        self.live(slot).saturating_sub(self.sum(|counters| counters.live_begun_by_vm(slot)))
    }

    fn sum(&self, of: impl Fn(&ShardCounters) -> u32) -> u64 {
        let workers = 0..self.dataplane.workers();
        workers.map(|worker| u64::from(of(self.dataplane.counters(worker)))).sum()
    }

    /// Neither a managed address nor a locator can be the box's own.
    fn check_own(&self, address: IpAddr, backend: &BackendSpec) -> Result<(), Refused> {
        let locator = match backend.rewrite {
            Rewrite::Nat(locator) => Some(locator),
            Rewrite::L2 => None,
        };
        for wanted in std::iter::once(address).chain(locator) {
            if let Some(port) = self.network.owner_of(wanted) {
                return Err(Refused::OwnAddress {
                    address: wanted,
                    port: port.config.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Live sessions of `slot` as the workers counted them; `ignoring` those it began itself.
fn counted(acknowledged: &Acknowledged, slot: BackendSlot, ignoring: bool) -> u64 {
    let of_slot = acknowledged.counted.iter().filter(|counted| counted.slot == slot);
    of_slot.map(|it| it.live - if ignoring { it.begun_by_vm } else { 0 }).sum()
}
