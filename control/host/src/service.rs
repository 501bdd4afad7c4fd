//! The gRPC service: requests in, answers out; the work is elsewhere.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_api::{Request, Response, Status, host as api, host::host_server};
use tidegate_memory::{mapping::free_bytes, send::Progress};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    HostError,
    capture::{Asked, Order, Way},
    inner::Inner,
    ready::Ready,
    sockets::Source,
    spec::{GuestSpec, checked_migration, checked_name},
};

/// Progress is told this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);
const REPORTS_WAITING: usize = 16;

type Answer<T> = Result<Response<T>, Status>;

/// The service over a host's state.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Inner>);

impl Service {
    /// Do the work whether or not the caller waits for it: a guest must not stay paused because a
    /// connection broke.
    async fn detached<T, W>(&self, work: impl FnOnce(Arc<Inner>) -> W) -> Answer<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        let (inner, work) = (self.0.clone(), work(self.0.clone()));
        let joined = tokio::spawn(async move {
            // For as long as it works: the end of this program waits for it.
            let stopping = inner.stopping.read().await;
            if *stopping { Err(HostError::Stopping) } else { work.await }
        });
        let done = joined.await.map_err(|error| HostError::Internal(error.to_string()))?;
        Ok(Response::new(done?))
    }
}

fn endpoint(text: String) -> Result<String, HostError> {
    if text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    }) {
        return Ok(text);
    }
    let reason = format!("`{text}` is not `host:port`");
    Err(HostError::Invalid { field: "data_endpoint", reason })
}

fn address(text: &str) -> Result<IpAddr, HostError> {
    let address = text.parse::<IpAddr>().map_err(|_| HostError::Invalid {
        field: "addresses",
        reason: format!("`{}` is not an address", text.escape_debug()),
    })?;
    Ok(address.to_canonical())
}

fn asked_way(value: i32) -> Result<Asked, HostError> {
    match api::CaptureWay::try_from(value) {
        Ok(api::CaptureWay::Unspecified) => Ok(Asked::Auto),
        Ok(api::CaptureWay::Stop) => Ok(Asked::Only(Way::Stop)),
        Ok(api::CaptureWay::Passes) => Ok(Asked::Only(Way::Passes)),
        Err(_) => Err(HostError::Invalid {
            field: "way",
            reason: format!("{value} is unknown; use CAPTURE_WAY_STOP or CAPTURE_WAY_PASSES"),
        }),
    }
}

fn way_of(way: Way) -> api::CaptureWay {
    match way {
        Way::Stop => api::CaptureWay::Stop,
        Way::Passes => api::CaptureWay::Passes,
    }
}

fn source_of_sockets(value: i32) -> Result<Source, HostError> {
    match api::SocketSource::try_from(value) {
        Ok(api::SocketSource::Unspecified | api::SocketSource::Agent) => Ok(Source::Agent),
        Ok(api::SocketSource::Conntrack) => Ok(Source::Conntrack),
        Err(_) => Err(HostError::Invalid {
            field: "source",
            reason: format!(
                "{value} is unknown; use SOCKET_SOURCE_AGENT or SOCKET_SOURCE_CONNTRACK"
            ),
        }),
    }
}

#[tonic::async_trait]
impl host_server::Host for Service {
    async fn get_status(&self, _: Request<api::GetStatusRequest>) -> Answer<api::Status> {
        let inner = &self.0;
        let twin_free_bytes = free_bytes(&inner.config.twin_dir).map_err(HostError::from)?;
        Ok(Response::new(api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: inner.config.name.clone(),
            qemu_version: inner.qemu_version().await,
            data_endpoint: inner.data_endpoint.clone(),
            twin_free_bytes,
        }))
    }

    async fn start_guest(&self, request: Request<api::StartGuestRequest>) -> Answer<api::Guest> {
        let spec = GuestSpec::try_from(request.into_inner().spec)?;
        self.detached(|inner| async move { inner.start_guest(spec).await?.describe().await }).await
    }

    async fn get_guest(&self, request: Request<api::GetGuestRequest>) -> Answer<api::Guest> {
        let guest = self.0.guest(&request.into_inner().name)?;
        Ok(Response::new(guest.describe().await?))
    }

    async fn list_guests(
        &self,
        _: Request<api::ListGuestsRequest>,
    ) -> Answer<api::ListGuestsResponse> {
        let mut guests = Vec::new();
        for guest in self.0.guests() {
            guests.push(guest.describe().await?);
        }
        Ok(Response::new(api::ListGuestsResponse { guests }))
    }

    async fn pause_guest(&self, request: Request<api::PauseGuestRequest>) -> Answer<api::Guest> {
        let guest = self.0.guest(&request.into_inner().name)?;
        self.detached(|_| async move {
            guest.pause().await?;
            guest.describe().await
        })
        .await
    }

    async fn continue_guest(
        &self,
        request: Request<api::ContinueGuestRequest>,
    ) -> Answer<api::Guest> {
        let guest = self.0.guest(&request.into_inner().name)?;
        self.detached(|_| async move {
            guest.resume().await?;
            guest.describe().await
        })
        .await
    }

    async fn delete_guest(
        &self,
        request: Request<api::DeleteGuestRequest>,
    ) -> Answer<api::DeleteGuestResponse> {
        let api::DeleteGuestRequest { name, purge } = request.into_inner();
        self.detached(|inner| async move {
            inner.delete_guest(&name, purge).await?;
            Ok(api::DeleteGuestResponse {})
        })
        .await
    }

    type ListSocketsStream = Pin<Box<dyn Stream<Item = Result<api::Socket, Status>> + Send>>;

    async fn list_sockets(
        &self,
        request: Request<api::ListSocketsRequest>,
    ) -> Answer<Self::ListSocketsStream> {
        let api::ListSocketsRequest { guest, addresses, source } = request.into_inner();
        let guest = self.0.guest(&guest)?;
        let addresses = addresses.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
        // Not detached: it changes nothing, and whoever gives up needs no answer.
        let sockets = guest.sockets(source_of_sockets(source)?, addresses).await?;
        let sockets = sockets.into_iter().map(|socket| Ok(socket.into()));
        Ok(Response::new(Box::pin(tokio_stream::iter(sockets))))
    }

    async fn check_capture(
        &self,
        request: Request<api::CheckCaptureRequest>,
    ) -> Answer<api::CheckCaptureResponse> {
        let api::CheckCaptureRequest { guest, clone, regions, way } = request.into_inner();
        let order = Order { guest, clone, regions, way: asked_way(way)?, audit: false };
        let plan = self.0.plan_capture(&order).await?;
        let mut files = plan.guest.region_files();
        files.retain(|file| plan.regions.contains(&file.name));
        Ok(Response::new(api::CheckCaptureResponse {
            ram_bytes: plan.ram_bytes,
            region_bytes: plan.region_bytes,
            regions: files,
            spec: Some(plan.guest.record.spec.clone().into()),
            way: way_of(plan.choice.way).into(),
            why: plan.choice.why,
            predicted_pause_ns: plan.choice.predicted_pause.as_nanos() as u64,
        }))
    }

    async fn capture(&self, request: Request<api::CaptureRequest>) -> Answer<api::CaptureReport> {
        let api::CaptureRequest { migration_id, guest, clone, regions, way, audit } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let guest = checked_name("guest", &guest)?;
        let order = Order { guest, clone, regions, way: asked_way(way)?, audit };
        self.detached(|inner| async move {
            let taken = inner.capture(&id, &order).await?;
            Ok(api::CaptureReport {
                way: taken.way.map(way_of).unwrap_or_default().into(),
                why: taken.why,
                pass_bytes: taken.pass_bytes,
                pause_ns: taken.pause_ns,
                ram_bytes: taken.ram_bytes,
                region_bytes: taken.region_bytes,
                device_state_bytes: taken.device_state_bytes,
            })
        })
        .await
    }

    async fn prepare_receive(
        &self,
        request: Request<api::PrepareReceiveRequest>,
    ) -> Answer<api::PrepareReceiveResponse> {
        let api::PrepareReceiveRequest { migration_id, spec, clone } = request.into_inner();
        let id = checked_migration(&migration_id)?;
        let spec = GuestSpec::try_from(spec)?;
        self.detached(|inner| async move {
            inner.prepare_receive(&id, spec, clone).await?;
            Ok(api::PrepareReceiveResponse { data_endpoint: inner.data_endpoint.clone() })
        })
        .await
    }

    type SendTwinStream = Pin<Box<dyn Stream<Item = Result<api::SendProgress, Status>> + Send>>;

    async fn send_twin(
        &self,
        request: Request<api::SendTwinRequest>,
    ) -> Answer<Self::SendTwinStream> {
        let api::SendTwinRequest { migration_id, data_endpoint } = request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        // Told here, not in the stream, when there is nothing to send.
        self.0.migrations.capture(&id)?;
        let (answers, stream) = mpsc::channel(REPORTS_WAITING);
        let inner = self.0.clone();
        let progress = answers.clone();
        tokio::spawn(async move {
            let mut told_at = Instant::now();
            let report = move |now: Progress| {
                if told_at.elapsed() >= REPORT_EVERY {
                    told_at = Instant::now();
                    // A slow listener misses some.
                    let _ = progress.try_send(Ok(describe(now, false, String::new())));
                }
            };
            let last = match inner.send_twin(id, data_endpoint, report).await {
                Ok(sent) => Ok(describe(sent.progress, true, sent.digest)),
                Err(error) => Err(error.into()),
            };
            // Nobody may be listening any more.
            let _ = answers.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn start_destination(
        &self,
        request: Request<api::StartDestinationRequest>,
    ) -> Answer<api::Guest> {
        let api::StartDestinationRequest { migration_id, paused, ready_text, ready_timeout_s } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let ready = Ready::asked(ready_text, ready_timeout_s);
        let say = ready.is_some();
        let started = self
            .detached(move |inner| async move { inner.start_destination(&id, paused, say).await });
        let guest = started.await?.into_inner();
        // Only for as long as the caller waits: whoever gives up must be able to delete the guest.
        if let Some(ready) = ready {
            guest.ready(&ready).await?;
        }
        Ok(Response::new(guest.describe().await?))
    }

    async fn send_diff(&self, request: Request<api::SendDiffRequest>) -> Answer<api::DiffReport> {
        let api::SendDiffRequest { migration_id, data_endpoint } = request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        self.detached(|inner| async move { inner.send_diff(id, data_endpoint).await }).await
    }

    async fn merge(&self, request: Request<api::MergeRequest>) -> Answer<api::MergeReport> {
        let id = checked_migration(&request.into_inner().migration_id)?;
        self.detached(|inner| async move { inner.merge(&id).await }).await
    }

    async fn forget(&self, request: Request<api::ForgetRequest>) -> Answer<api::ForgetResponse> {
        let id = checked_migration(&request.into_inner().migration_id)?;
        self.detached(|inner| async move {
            inner.forget(&id).await?;
            Ok(api::ForgetResponse {})
        })
        .await
    }
}

fn describe(progress: Progress, done: bool, digest: String) -> api::SendProgress {
    api::SendProgress {
        sent_bytes: progress.sent_bytes,
        covered_bytes: progress.covered_bytes,
        total_bytes: progress.total_bytes,
        done,
        digest,
    }
}
