//! The manager's gRPC service.

use tidegate_api::{
    Code, Request, Response, Status,
    host::GetStatusRequest as HostStatusRequest,
    manager::{self as proto, manager_server::Manager},
    switch::GetStatusRequest as SwitchStatusRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    error::Error,
    events,
    migrations::Migrations,
    pace::CALL,
    peers::Peer,
    phase::Phase,
    record::{Fact, MigrationId},
};

/// Events waiting for a slow watcher before its stream waits too.
const WATCH_BACKLOG: usize = 64;

/// Serves [`Migrations`].
pub struct Service {
    migrations: Migrations,
}

impl Service {
    /// A service of `migrations`.
    #[must_use]
    pub fn new(migrations: Migrations) -> Self {
        Self { migrations }
    }

    fn describe(&self, id: &MigrationId) -> Result<Response<proto::Migration>, Status> {
        let progress = self.migrations.journal().progress(id).map_err(|error| status(&error))?;
        Ok(Response::new(events::migration(id, &progress)))
    }
}

/// An error as an API status.
#[must_use]
pub fn status(error: &Error) -> Status {
    let code = match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::Busy { .. } => Code::AlreadyExists,
        Error::Unknown { .. } => Code::NotFound,
        Error::Preflight { .. }
        | Error::TooLate { .. }
        | Error::Over { .. }
        | Error::NoT0 { .. }
        | Error::SourceGone { .. }
        | Error::NotFailed { .. } => Code::FailedPrecondition,
        Error::Stopping => Code::Unavailable,
        Error::Refused { code, .. } => *code,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

#[tonic::async_trait]
impl Manager for Service {
    type WatchMigrationStream = ReceiverStream<Result<proto::MigrationEvent, Status>>;

    async fn plan_migration(
        &self,
        request: Request<proto::PlanMigrationRequest>,
    ) -> Result<Response<proto::Plan>, Status> {
        let plan = self.migrations.plan(request.into_inner().spec).await;
        let (spec, findings) = plan.map_err(|error| status(&error))?;
        let ok = findings.ok();
        let checks = findings.checks.into_iter().map(|check| proto::Check {
            name: check.name.to_owned(),
            ok: check.result.is_ok(),
            warning: check.warning,
            detail: check.result.unwrap_or_else(|problem| problem),
        });
        let steps = Phase::sequence(&spec).map(|phase| phase.name().to_owned());
        Ok(Response::new(proto::Plan { checks: checks.collect(), ok, steps: steps.collect() }))
    }

    async fn start_migration(
        &self,
        request: Request<proto::StartMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        let started = self.migrations.start(request.into_inner().spec).await;
        self.describe(&started.map_err(|error| status(&error))?)
    }

    async fn get_migration(
        &self,
        request: Request<proto::GetMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        self.describe(&MigrationId::named(&request.into_inner().id))
    }

    async fn list_migrations(
        &self,
        _: Request<proto::ListMigrationsRequest>,
    ) -> Result<Response<proto::ListMigrationsResponse>, Status> {
        let journal = self.migrations.journal();
        let mut migrations = Vec::new();
        for id in journal.migrations().map_err(|error| status(&error))? {
            match journal.progress(&id) {
                Ok(progress) => migrations.push(events::migration(&id, &progress)),
                Err(error) => tracing::error!("{error}; not listed"),
            }
        }
        Ok(Response::new(proto::ListMigrationsResponse { migrations }))
    }

    async fn watch_migration(
        &self,
        request: Request<proto::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let id = MigrationId::named(&request.into_inner().id);
        self.migrations.journal().progress(&id).map_err(|error| status(&error))?;
        let (events, stream) = mpsc::channel(WATCH_BACKLOG);
        let migrations = self.migrations.clone();
        tokio::spawn(async move {
            let told = tokio::select! {
                told = tell(&migrations, &id, &events) => told,
                () = events.closed() => return,
                () = migrations.stopping() => Err(status(&Error::Stopping)),
            };
            if let Err(status) = told {
                // The watcher may be gone; then nobody needs to know.
                let _ = events.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn abort_migration(
        &self,
        request: Request<proto::AbortMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        let id = MigrationId::named(&request.into_inner().id);
        self.migrations.abort(&id).await.map_err(|error| status(&error))?;
        self.describe(&id)
    }

    async fn resume_migration(
        &self,
        request: Request<proto::ResumeMigrationRequest>,
    ) -> Result<Response<proto::Migration>, Status> {
        let id = MigrationId::named(&request.into_inner().id);
        self.migrations.resume_failed(&id).await.map_err(|error| status(&error))?;
        self.describe(&id)
    }

    async fn set_bandwidth(
        &self,
        request: Request<proto::SetBandwidthRequest>,
    ) -> Result<Response<proto::SetBandwidthResponse>, Status> {
        let proto::SetBandwidthRequest { id, mbps } = request.into_inner();
        let set = self.migrations.set_bandwidth(&MigrationId::named(&id), mbps).await;
        set.map_err(|error| status(&error))?;
        Ok(Response::new(proto::SetBandwidthResponse {}))
    }

    async fn dry_run_diff(
        &self,
        request: Request<proto::DryRunDiffRequest>,
    ) -> Result<Response<proto::DryRun>, Status> {
        let id = MigrationId::named(&request.into_inner().id);
        let dry_run = self.migrations.dry_run(&id).await.map_err(|error| status(&error))?;
        Ok(Response::new(dry_run))
    }

    async fn list_inventory(
        &self,
        _: Request<proto::ListInventoryRequest>,
    ) -> Result<Response<proto::Inventory>, Status> {
        let inventory = self.migrations.inventory();
        let mut answer = proto::Inventory::default();
        for peer in &inventory.switches {
            answer.switches.push(node(peer, switch_version(peer).await));
        }
        for peer in &inventory.hosts {
            answer.hosts.push(node(peer, host_version(peer).await));
        }
        Ok(Response::new(answer))
    }
}

type Told = mpsc::Sender<Result<proto::MigrationEvent, Status>>;

/// The journal so far, then what comes, until the migration's last record. Progress may be skipped by a slow
/// watcher; records never are.
async fn tell(migrations: &Migrations, id: &MigrationId, events: &Told) -> Result<(), Status> {
    let journal = migrations.journal();
    let mut live = migrations.live(id);
    let mut next = 0;
    loop {
        let now = live.as_mut().map(|live| *live.borrow_and_update());
        for record in journal.records(id, next).map_err(|error| status(&error))? {
            next = record.sequence + 1;
            let event = events::recorded(journal, id, &record).map_err(|error| status(&error))?;
            let Some(event) = event else { continue };
            if events.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
        let (Some(now), Some(watch)) = (now, live.as_mut()) else { return Ok(()) };
        if now.over {
            return Ok(());
        }
        if let Some(advance) = now.advance
            && events.send(Ok(events::advanced(now.sequence, advance))).await.is_err()
        {
            return Ok(());
        }
        if watch.changed().await.is_err() {
            // The driver is gone; one more look at the journal.
            if !ended(migrations, id) {
                return Err(status(&Error::Stopping));
            }
            live = None;
        }
    }
}

fn ended(migrations: &Migrations, id: &MigrationId) -> bool {
    let records = migrations.journal().records(id, 0).unwrap_or_default();
    matches!(records.last().map(|record| &record.fact), Some(Fact::Ended { .. }))
}

fn node(peer: &Peer, version: Result<String, Error>) -> proto::Node {
    proto::Node {
        name: peer.name().to_owned(),
        endpoint: peer.title().endpoint.clone(),
        reachable: version.is_ok(),
        detail: version.unwrap_or_else(|error| error.to_string()),
    }
}

async fn switch_version(peer: &Peer) -> Result<String, Error> {
    let mut switch = peer.switch().await?;
    let status = peer.answer("GetStatus", CALL, switch.get_status(SwitchStatusRequest {})).await?;
    let (workers, addresses) = (status.workers, status.hosted_addresses);
    Ok(format!("version {}, {workers} worker(s), {addresses} hosted address(es)", status.version))
}

async fn host_version(peer: &Peer) -> Result<String, Error> {
    let mut host = peer.host().await?;
    let status = peer.answer("GetStatus", CALL, host.get_status(HostStatusRequest {})).await?;
    Ok(format!("version {}, QEMU {}", status.version, status.qemu_version))
}
