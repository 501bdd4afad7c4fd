//! The gRPC service: requests become valid types, go to the core, and its answers become messages.

mod answer;
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

use crate::{core::CoreHandle, steering::Network};

/// What of the box never changes while it runs.
#[derive(Clone, Debug)]
pub struct BoxInfo {
    /// Version of DPDK.
    pub dpdk_version: String,
    /// Sessions each worker has room for.
    pub sessions_capacity: Capacity,
    /// The ports, for turning names into numbers and back.
    pub network: Network,
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

    fn network(&self) -> &Network {
        &self.info.network
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Switch for SwitchService {
    type WatchMigrationStream = ReceiverStream<Result<proto::MigrationEvent, Status>>;
    type ListSessionsStream = Messages<proto::Session>;

    async fn get_status(&self, _: Request<proto::GetStatusRequest>) -> Answer<proto::Status> {
        let report = self.core.call(|core| Ok(core.status())).await.map_err(status::of)?;
        Ok(Response::new(answer::status(report, &self.info)))
    }

    async fn add_address(
        &self,
        request: Request<proto::AddAddressRequest>,
    ) -> Answer<proto::Address> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let home = request::backend(address, "home", request.home, self.network())?;
        let name = home.name.clone();
        let report =
            self.core.call(move |core| core.add(address, home)).await.map_err(status::of)?;
        tracing::info!(%address, home = name, "address added");
        Ok(Response::new(answer::address(&report, self.network())))
    }

    async fn remove_address(
        &self,
        request: Request<proto::RemoveAddressRequest>,
    ) -> Answer<proto::RemoveAddressResponse> {
        let address = request::address(&request.get_ref().address)?;
        self.core.call(move |core| core.remove(address)).await.map_err(status::of)?;
        tracing::info!(%address, "address removed");
        Ok(Response::new(proto::RemoveAddressResponse {}))
    }

    async fn list_addresses(
        &self,
        _: Request<proto::ListAddressesRequest>,
    ) -> Answer<proto::ListAddressesResponse> {
        let reports = self.core.call(|core| Ok(core.addresses())).await.map_err(status::of)?;
        let addresses =
            reports.iter().map(|report| answer::address(report, self.network())).collect();
        Ok(Response::new(proto::ListAddressesResponse { addresses }))
    }

    async fn get_address(
        &self,
        request: Request<proto::GetAddressRequest>,
    ) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let report = self.core.call(move |core| core.address(address)).await.map_err(status::of)?;
        Ok(Response::new(answer::address(&report, self.network())))
    }

    async fn takeover(&self, request: Request<proto::TakeoverRequest>) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let report =
            self.core.call(move |core| core.takeover(address)).await.map_err(status::of)?;
        tracing::info!(%address, "taken over");
        Ok(Response::new(answer::address(&report, self.network())))
    }

    async fn set_destination(
        &self,
        request: Request<proto::SetDestinationRequest>,
    ) -> Answer<proto::Address> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let destination =
            request::backend(address, "destination", request.destination, self.network())?;
        let name = destination.name.clone();
        let work = move |core: &mut crate::core::Core| core.set_destination(address, destination);
        let report = self.core.call(work).await.map_err(status::of)?;
        tracing::info!(%address, destination = name, "destination set");
        Ok(Response::new(answer::address(&report, self.network())))
    }

    async fn cutover(
        &self,
        request: Request<proto::CutoverRequest>,
    ) -> Answer<proto::CutoverResponse> {
        let request = request.into_inner();
        let address = request::address(&request.address)?;
        let policy = request::cutover(&request)?;
        let report =
            self.core.call(move |core| core.cutover(address, policy)).await.map_err(status::of)?;
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
        let work = move |core: &mut crate::core::Core| core.import(address, &sessions);
        let import = self.core.call(work).await.map_err(status::of)?;
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
        let progress = self.core.call(move |core| core.watch(address)).await.map_err(status::of)?;
        Ok(Response::new(watch::events(progress, interval, self.stopping.clone())))
    }

    async fn abort(&self, request: Request<proto::AbortRequest>) -> Answer<proto::Address> {
        let address = request::address(&request.get_ref().address)?;
        let report = self.core.call(move |core| core.abort(address)).await.map_err(status::of)?;
        tracing::info!(%address, "aborted");
        Ok(Response::new(answer::address(&report, self.network())))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Answer<proto::ReleaseResponse> {
        let proto::ReleaseRequest { address, keep_tracking, force } = request.into_inner();
        let address = request::address(&address)?;
        let work = move |core: &mut crate::core::Core| core.release(address, keep_tracking, force);
        let (report, forgotten_sessions) = self.core.call(work).await.map_err(status::of)?;
        tracing::info!(%address, forgotten_sessions, "released");
        let address = Some(answer::address(&report, self.network()));
        Ok(Response::new(proto::ReleaseResponse { address, forgotten_sessions }))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Answer<Self::ListSessionsStream> {
        let address = request::optional_address(&request.get_ref().address)?;
        let limit = request::limit(request.get_ref().limit);
        let sessions =
            self.core.call(move |core| core.sessions(address, limit)).await.map_err(status::of)?;
        let messages = sessions.into_iter().map(|session| Ok(answer::session(session)));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn get_counters(&self, _: Request<proto::GetCountersRequest>) -> Answer<proto::Counters> {
        let report = self.core.call(|core| Ok(core.counters())).await.map_err(status::of)?;
        Ok(Response::new(answer::counters(report)))
    }
}
