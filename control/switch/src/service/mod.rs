//! The gRPC service: requests become valid types, go to the core, and its answers become messages.

mod answer;
mod encap;
mod request;
mod status;
mod watch;

use std::{pin::Pin, sync::Arc};

use tidegate_api::{
    Request, Response, Status,
    switch::{self as proto, switch_server::Switch},
};
use tidegate_dataplane::pipeline::{Capacity, Import};
use tokio::sync::watch as latest;
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    core::{Core, CoreHandle},
    steering::AddressSpec,
};

/// What of the box never changes while it runs.
#[derive(Clone, Debug)]
pub struct BoxInfo {
    /// Version of DPDK.
    pub dpdk_version: String,
    /// Sessions each worker has room for.
    pub sessions_capacity: Capacity,
}

/// The service; clones share the core.
#[derive(Clone)]
pub struct SwitchService {
    core: CoreHandle,
    info: Arc<BoxInfo>,
    stopping: latest::Receiver<bool>,
}

impl SwitchService {
    /// The service of the box `info` over `core`. Streams end when `stopping` becomes true.
    #[must_use]
    pub fn new(core: CoreHandle, info: BoxInfo, stopping: latest::Receiver<bool>) -> Self {
        Self { core, info: Arc::new(info), stopping }
    }

    /// Have the core do `work`. Names of ports are turned into numbers and back there: ports come and go.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.core.call(work).await
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Switch for SwitchService {
    type WatchMigrationStream = ReceiverStream<Result<proto::MigrationEvent, Status>>;
    type ListSessionsStream = Messages<proto::Session>;

    async fn get_status(&self, _: Request<proto::GetStatusRequest>) -> Answer<proto::Status> {
        let report = self.ask(|core| Ok(core.status())).await?;
        Ok(Response::new(answer::status(report, &self.info)))
    }

    async fn add_port(&self, request: Request<proto::AddPortRequest>) -> Answer<proto::Port> {
        let config = request::port(request.into_inner())?;
        let (name, device) = (config.name.clone(), config.device().map(str::to_owned));
        let report = self.ask(move |core| Ok(core.add_port(config)?)).await?;
        tracing::info!(port = name, device, "port added");
        Ok(Response::new(answer::port(report)))
    }

    async fn remove_port(
        &self,
        request: Request<proto::RemovePortRequest>,
    ) -> Answer<proto::RemovePortResponse> {
        let name = request.into_inner().name;
        let port = name.clone();
        self.ask(move |core| Ok(core.remove_port(&port)?)).await?;
        tracing::info!(port = name, "port removed");
        Ok(Response::new(proto::RemovePortResponse {}))
    }

    async fn hold_port(
        &self,
        request: Request<proto::HoldPortRequest>,
    ) -> Answer<proto::HoldPortResponse> {
        let proto::HoldPortRequest { name, deadline_ms } = request.into_inner();
        let time = request::deadline(deadline_ms)?;
        let port = name.clone();
        self.ask(move |core| Ok(core.hold_port(&port, time)?)).await?;
        tracing::info!(port = name, deadline_ms, "port held");
        Ok(Response::new(proto::HoldPortResponse {}))
    }

    async fn release_port(
        &self,
        request: Request<proto::ReleasePortRequest>,
    ) -> Answer<proto::ReleasePortResponse> {
        let name = request.into_inner().name;
        let port = name.clone();
        let held_packets = self.ask(move |core| Ok(core.release_port(&port)?)).await?;
        tracing::info!(port = name, held_packets, "port released");
        Ok(Response::new(proto::ReleasePortResponse { held_packets }))
    }

    async fn add_address(
        &self,
        request: Request<proto::AddAddressRequest>,
    ) -> Answer<proto::Address> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let quic = request::quic(request.quic.as_ref())?;
        let added = self.ask(move |core| {
            let home = request::backend(address, "home", request.home, core.network())?;
            let report = core.add(AddressSpec { address, home, quic })?;
            Ok(answer::address(&report, core.network()))
        });
        let added = added.await?;
        let home = added.home.as_ref().map(|home| home.name.as_str());
        tracing::info!(%address, home, "address added");
        Ok(Response::new(added))
    }

    async fn remove_address(
        &self,
        request: Request<proto::RemoveAddressRequest>,
    ) -> Answer<proto::RemoveAddressResponse> {
        let address = request::address(&request.get_ref().address)?;
        self.ask(move |core| Ok(core.remove(address)?)).await?;
        tracing::info!(%address, "address removed");
        Ok(Response::new(proto::RemoveAddressResponse {}))
    }

    async fn list_addresses(
        &self,
        _: Request<proto::ListAddressesRequest>,
    ) -> Answer<proto::ListAddressesResponse> {
        let addresses = self.ask(|core| {
            let reports = core.addresses();
            let messages = reports.iter().map(|report| answer::address(report, core.network()));
            Ok(messages.collect())
        });
        Ok(Response::new(proto::ListAddressesResponse { addresses: addresses.await? }))
    }

    async fn get_address(
        &self,
        request: Request<proto::GetAddressRequest>,
    ) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let found = self.ask(move |core| {
            let report = core.address(address)?;
            Ok(answer::address(&report, core.network()))
        });
        Ok(Response::new(found.await?))
    }

    async fn takeover(&self, request: Request<proto::TakeoverRequest>) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let hosted = self.ask(move |core| {
            let report = core.takeover(address)?;
            Ok(answer::address(&report, core.network()))
        });
        let hosted = hosted.await?;
        tracing::info!(%address, "taken over");
        Ok(Response::new(hosted))
    }

    async fn set_destination(
        &self,
        request: Request<proto::SetDestinationRequest>,
    ) -> Answer<proto::Address> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let changed = self.ask(move |core| {
            let network = core.network();
            let destination =
                request::backend(address, "destination", request.destination, network)?;
            let report = core.set_destination(address, destination)?;
            Ok(answer::address(&report, core.network()))
        });
        let changed = changed.await?;
        let destination = changed.destination.as_ref().map(|destination| destination.name.as_str());
        tracing::info!(%address, destination, "destination set");
        Ok(Response::new(changed))
    }

    async fn cutover(
        &self,
        request: Request<proto::CutoverRequest>,
    ) -> Answer<proto::CutoverResponse> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let policy = request::cutover(&request)?;
        let report = self.ask(move |core| Ok(core.cutover(address, policy)?)).await?;
        tracing::info!(
            %address,
            epoch = report.epoch,
            old_sessions = report.old_sessions,
            elapsed_us = report.elapsed.as_micros(),
            "cut over"
        );
        Ok(Response::new(answer::cutover(&report)))
    }

    async fn import_sessions(
        &self,
        request: Request<proto::ImportSessionsRequest>,
    ) -> Answer<proto::ImportSessionsResponse> {
        let proto::ImportSessionsRequest { address, sessions } = request.into_inner();
        let address = request::address(&address)?;
        let sessions = request::sessions(address, sessions)?;
        let import = self.ask(move |core| Ok(core.import(address, &sessions)?)).await?;
        let Import { imported, known, .. } = import;
        tracing::info!(%address, imported, known, "sessions imported");
        Ok(Response::new(answer::import(import)))
    }

    async fn watch_migration(
        &self,
        request: Request<proto::WatchMigrationRequest>,
    ) -> Answer<Self::WatchMigrationStream> {
        let address = request::address(&request.get_ref().address)?;
        let interval = request::interval(request.get_ref().interval_ms)?;
        let progress = self.ask(move |core| Ok(core.watch(address)?)).await?;
        Ok(Response::new(watch::events(progress, interval, self.stopping.clone())))
    }

    async fn abort(&self, request: Request<proto::AbortRequest>) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let aborted = self.ask(move |core| {
            let report = core.abort(address)?;
            Ok(answer::address(&report, core.network()))
        });
        let aborted = aborted.await?;
        tracing::info!(%address, "aborted");
        Ok(Response::new(aborted))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Answer<proto::ReleaseResponse> {
        let proto::ReleaseRequest { address, keep_tracking, force, with_sessions } =
            request.into_inner();
        let address = request::address(&address)?;
        let released = self.ask(move |core| {
            if with_sessions {
                let report = core.release_with_sessions(address, keep_tracking)?;
                return Ok(answer::handover(&report, core.network()));
            }
            let (report, forgotten_sessions) = core.release(address, keep_tracking, force)?;
            let address = Some(answer::address(&report, core.network()));
            Ok(proto::ReleaseResponse { address, forgotten_sessions, ..Default::default() })
        });
        let released = released.await?;
        let proto::ReleaseResponse { forgotten_sessions, kept_sessions, cut_sessions, .. } =
            released;
        tracing::info!(%address, forgotten_sessions, kept_sessions, cut_sessions, "released");
        Ok(Response::new(released))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Answer<Self::ListSessionsStream> {
        let address = request::optional_address(&request.get_ref().address)?;
        let limit = request::limit(request.get_ref().limit);
        let sessions = self.ask(move |core| Ok(core.sessions(address, limit)?)).await?;
        let messages = sessions.into_iter().map(|session| Ok(answer::session(session)));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn get_counters(&self, _: Request<proto::GetCountersRequest>) -> Answer<proto::Counters> {
        let report = self.ask(|core| Ok(core.counters())).await?;
        Ok(Response::new(answer::counters(report)))
    }
}
