//! All migrations of a manager: starting, resuming, aborting; one driver for each that runs.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tidegate_api::{host, manager as proto};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    driver::{AbortOrder, Driver},
    error::Error,
    fold::Progress,
    journal::{Journal, unix_ms},
    live::Live,
    pace::{CALL, Pace},
    peers::Inventory,
    phase::Phase,
    preflight::{self, Findings},
    record::{End, Fact, MigrationId, Resumer},
    spec::Spec,
};

/// How long an abort's caller waits for its end.
const ABORT_WAIT: Duration = Duration::from_secs(60);

/// The manager's core. Cloning shares it.
#[derive(Clone)]
pub struct Migrations {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    inventory: Arc<Inventory>,
    pace: Pace,
    stop: watch::Sender<bool>,
    table: Mutex<Table>,
}

/// What runs. Written when a migration starts; a driver's end shows in its `Live`.
#[derive(Default)]
struct Table {
    running: HashMap<MigrationId, Running>,
    /// Addresses in preflight, not in the journal yet.
    reserved: HashSet<IpAddr>,
    drivers: JoinSet<()>,
}

struct Running {
    address: IpAddr,
    aborts: mpsc::Sender<AbortOrder>,
    live: watch::Receiver<Live>,
}

impl Table {
    /// Who has the address. The journal decides: a driver that has written its last record is about to end.
    fn busy(&self, address: IpAddr, journal: &Journal) -> Option<String> {
        let runs = |id: &MigrationId| journal.progress(id).is_ok_and(|it| it.end.is_none());
        let of_address = |(id, running): (&MigrationId, &Running)| {
            let has_it = running.address == address && !running.live.borrow().over && runs(id);
            has_it.then(|| id.to_string())
        };
        let reserved =
            || self.reserved.contains(&address).then(|| "another one, in preflight".to_owned());
        self.running.iter().find_map(of_address).or_else(reserved)
    }
}

/// Gives an address free again if the start does not come to its end.
struct Reservation {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.table().reserved.remove(&self.address);
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that can panic happens under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Migrations {
    /// Take over what the journal says is running.
    ///
    /// # Errors
    /// [`Error::Journal`]. A migration whose records make no sense is logged and left alone.
    pub async fn resume(journal: Journal, inventory: Inventory, pace: Pace) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            journal,
            inventory: Arc::new(inventory),
            pace,
            stop: watch::Sender::new(false),
            table: Mutex::default(),
        });
        let migrations = Self { shared };
        for id in migrations.journal().migrations()? {
            match migrations.journal().progress(&id) {
                Ok(progress) if progress.end.is_none() => {
                    tracing::info!(migration = %id, "resuming");
                    migrations.go_on(&id, Resumer::Restart).await?;
                }
                Ok(_) => {}
                Err(error) => tracing::error!("{error}; left alone"),
            }
        }
        Ok(migrations)
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Switches and hosts.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.shared.inventory
    }

    /// Make every preflight check.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub async fn plan(
        &self,
        spec: Option<proto::MigrationSpec>,
    ) -> Result<(Spec, Findings), Error> {
        let spec = Spec::from_proto(spec, self.inventory())?;
        let busy = self.shared.table().busy(spec.address, self.journal());
        let findings = preflight::check(&spec, self.inventory(), self.shared.pace, busy).await;
        Ok((spec, findings))
    }

    /// Start a migration if its preflight is good.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Busy`], [`Error::Preflight`], [`Error::Journal`].
    pub async fn start(&self, spec: Option<proto::MigrationSpec>) -> Result<MigrationId, Error> {
        let spec = Spec::from_proto(spec, self.inventory())?;
        if *self.shared.stop.borrow() {
            return Err(Error::Stopping);
        }
        let reservation = self.reserve(spec.address)?;
        let clock = Instant::now();
        let findings = preflight::check(&spec, self.inventory(), self.shared.pace, None).await;
        let outcome = findings.outcome()?;
        let elapsed_us = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);

        let id = self.unused_id()?;
        let phase = Phase::Preflight;
        let facts = vec![
            Fact::Accepted { spec: Box::new(spec) },
            Fact::Started { phase },
            Fact::Finished { phase, elapsed_us, outcome },
        ];
        self.journal().append(&id, facts).await?;
        self.spawn(&id)?;
        drop(reservation);
        Ok(id)
    }

    fn reserve(&self, address: IpAddr) -> Result<Reservation, Error> {
        let mut table = self.shared.table();
        if let Some(id) = table.busy(address, self.journal()) {
            return Err(Error::Busy { address, id });
        }
        table.reserved.insert(address);
        Ok(Reservation { shared: Arc::clone(&self.shared), address })
    }

    fn unused_id(&self) -> Result<MigrationId, Error> {
        let mut now = unix_ms();
        loop {
            let id = MigrationId::at(now);
            if self.journal().records(&id, 0)?.is_empty() {
                return Ok(id);
            }
            now += 1;
        }
    }

    /// Change the bandwidth of a running migration's copies. It holds for those that begin later, too.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Over`]; the source's host's refusal when nothing was captured yet.
    pub async fn set_bandwidth(&self, id: &MigrationId, mbps: u64) -> Result<(), Error> {
        let progress = self.journal().progress(id)?;
        if progress.end.is_some() {
            return Err(Error::Over { id: id.clone(), how: "ended" });
        }
        let peer = self.inventory().host(&progress.spec.source_host)?;
        let request = host::SetBandwidthRequest { migration_id: id.to_string(), mbps };
        let mut host = peer.host().await?;
        peer.answer("SetBandwidth", CALL, host.set_bandwidth(request)).await.map(drop)
    }

    /// Take a failed migration up again.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::NotFailed`], [`Error::Busy`], [`Error::Journal`].
    pub async fn resume_failed(&self, id: &MigrationId) -> Result<(), Error> {
        let progress = self.journal().progress(id)?;
        let how = match progress.end {
            Some((End::Failed, _)) => None,
            Some((End::Completed, _)) => Some("completed"),
            Some((End::Aborted, _)) => Some("was aborted"),
            None => Some("is running"),
        };
        if let Some(how) = how {
            return Err(Error::NotFailed { id: id.clone(), how });
        }
        let _reservation = self.reserve(progress.spec.address)?;
        self.go_on(id, Resumer::Operator).await
    }

    async fn go_on(&self, id: &MigrationId, by: Resumer) -> Result<(), Error> {
        self.journal().append(id, vec![Fact::Resumed { by }]).await?;
        self.spawn(id)
    }

    fn spawn(&self, id: &MigrationId) -> Result<(), Error> {
        let progress = self.journal().progress(id)?;
        let address = progress.spec.address;
        let live = Live { sequence: progress.last_sequence, advance: None, over: false };
        let (live, watch) = watch::channel(live);
        let (aborts, orders) = mpsc::channel(4);
        let driver = Driver {
            id: id.clone(),
            progress,
            journal: self.journal().clone(),
            inventory: Arc::clone(&self.shared.inventory),
            pace: self.shared.pace,
            live,
            aborts: orders,
            stop: self.shared.stop.subscribe(),
        };
        let mut table = self.shared.table();
        table.running.retain(|_, running| !running.live.borrow().over);
        table.running.insert(id.clone(), Running { address, aborts, live: watch });
        table.drivers.spawn(driver.run());
        Ok(())
    }

    /// Abort a migration and wait, for a while, until everything is the source's again.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Over`], [`Error::TooLate`].
    pub async fn abort(&self, id: &MigrationId) -> Result<(), Error> {
        let progress = self.journal().progress(id)?;
        let over = |progress: Progress| {
            let how = match progress.end {
                Some((End::Completed, _)) => "completed",
                Some((End::Aborted, _)) => "was aborted",
                Some((End::Failed, _)) | None => "failed; resume it instead",
            };
            Err(Error::Over { id: id.clone(), how })
        };
        let running = {
            let table = self.shared.table();
            table.running.get(id).map(|running| (running.aborts.clone(), running.live.clone()))
        };
        let Some((aborts, mut live)) = running else { return over(progress) };
        let (order, answer) = oneshot::channel();
        if aborts.send(order).await.is_err() {
            return over(self.journal().progress(id)?);
        }
        match answer.await {
            Ok(result) => result?,
            Err(_) => return over(self.journal().progress(id)?),
        }
        let _ = tokio::time::timeout(ABORT_WAIT, live.wait_for(|live| live.over)).await;
        Ok(())
    }

    /// What watchers of a running migration see; None when it does not run.
    #[must_use]
    pub fn live(&self, id: &MigrationId) -> Option<watch::Receiver<Live>> {
        self.shared.table().running.get(id).map(|running| running.live.clone())
    }

    /// Stop all drivers; what runs stays in the journal. Answers when they have stopped.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let mut drivers = std::mem::take(&mut self.shared.table().drivers);
        while drivers.join_next().await.is_some() {}
    }

    /// Resolves once [`Self::stop`] was called.
    pub async fn stopping(&self) {
        let _ = self.shared.stop.subscribe().wait_for(|&stop| stop).await;
    }

    /// End all drivers where they are, as a power failure would.
    pub fn kill(&self) {
        self.shared.stop.send_replace(true);
        self.shared.table().drivers.abort_all();
    }
}
