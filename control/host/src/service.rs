//! The gRPC service: requests in, answers out; the work is elsewhere.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tidegate_api::{Request, Response, Status, host as api, host::host_server};
use tidegate_memory::{copy::Progress, mapping::free_bytes};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tracing::info;

use crate::{
    HostError,
    ahead::WentAhead,
    capture::{Asked, Order, To, Way},
    data::{Choice, cap_of},
    destination::Beginning,
    disks,
    inner::Inner,
    migration::locked,
    mirror::{Applied, AsSource},
    ready::Ready,
    safety::{self, CloneUse},
    send::{Carried, How},
    settle::{Seen, Watch},
    sockets::Source,
    spec::{Disk, GuestSpec, checked_migration, checked_name, disk, generation_id},
};

/// Progress is told this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);
const REPORTS_WAITING: usize = 16;
/// How long memory must not have changed to have settled, if the caller does not say.
const DEFAULT_SETTLE_MS: u32 = 1000;
/// How long that is waited for.
const DEFAULT_SETTLE_DEADLINE_S: u32 = 60;

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
        let memory_free_bytes = free_bytes(&inner.config.memory_dir).map_err(HostError::from)?;
        Ok(Response::new(api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: inner.config.name.clone(),
            qemu_version: inner.qemu_version().await,
            data_endpoint: inner.data_endpoint.clone(),
            twin_free_bytes,
            memory_free_bytes,
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
        let api::CheckCaptureRequest {
            guest,
            clone,
            regions,
            way,
            clone_use,
            merge,
            straight,
            transport,
            data_endpoint,
        } = request.into_inner();
        let clone_use = CloneUse::from_proto(clone_use)?;
        let way = asked_way(way)?;
        let known = Some(data_endpoint).filter(|text| !text.is_empty());
        let known = known.map(endpoint).transpose()?;
        let to =
            To { data_endpoint: known.clone().unwrap_or_default(), how: how(None, &transport)? };
        let straight = straight.then(|| to.clone());
        let order = Order { guest, clone, regions, way, clone_use, audit: false, straight };
        let plan = self.0.plan_capture(None, &order).await?;
        let spec = &plan.guest.record.spec;
        let mut safety = Vec::new();
        let mut generation_id = String::new();
        if clone {
            let asked = plan.guest.ask_for_clone().await?;
            safety.extend(safety::of_clone(spec, &asked, clone_use));
            generation_id = asked.generation_id;
        }
        if merge {
            let of = |name: &String| safety::of_region(name, &plan.guest.places.region(name));
            safety.extend(plan.regions.iter().map(of));
        }
        let carriage = match known {
            Some(_) => Some(self.0.check_carriage(&plan, to).await?),
            None => None,
        };
        let mut kept = self.0.what_to_keep(None, plan.ram_bytes);
        if plan.straight.is_some() {
            kept = kept.straight(plan.ram_bytes);
        }
        let mut files = plan.guest.region_files();
        files.retain(|file| plan.regions.contains(&file.name));
        Ok(Response::new(api::CheckCaptureResponse {
            ram_bytes: plan.ram_bytes,
            region_bytes: plan.region_bytes,
            regions: files,
            spec: Some(spec.clone().into()),
            way: way_of(plan.choice.way).into(),
            why: plan.choice.why.clone(),
            predicted_pause_ns: plan.choice.predicted_pause.as_nanos() as u64,
            safety,
            generation_id,
            clone_disks: disks::of_clone(&plan.guest, clone_use)
                .iter()
                .map(Disk::to_proto)
                .collect(),
            // Without RAM there is nothing to choose.
            twin_kept: if clone { kept.why } else { String::new() },
            twin_kept_bytes: kept.kept_bytes,
            straight: plan.straight.is_some(),
            twin_room_bytes: plan.room_bytes,
            carriage,
        }))
    }

    async fn capture(&self, request: Request<api::CaptureRequest>) -> Answer<api::CaptureReport> {
        let api::CaptureRequest {
            migration_id,
            guest,
            clone,
            regions,
            way,
            audit,
            straight,
            clone_use,
        } = request.into_inner();
        let straight = straight.map(straight_to).transpose()?;
        let clone_use = CloneUse::from_proto(clone_use)?;
        let id = checked_migration(&migration_id)?;
        let guest = checked_name("guest", &guest)?;
        let way = asked_way(way)?;
        let order = Order { guest, clone, regions, way, clone_use, audit, straight };
        self.detached(|inner| async move {
            let taken = inner.capture(&id, &order).await?;
            let straight = taken.straight.is_some();
            let (sent_bytes, transport) =
                taken.straight.map(|went| (went.sent_bytes, went.transport)).unwrap_or_default();
            Ok(api::CaptureReport {
                straight,
                sent_bytes,
                transport,
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
        let api::PrepareReceiveRequest { migration_id, spec, clone, keep_t0 } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let spec = GuestSpec::try_from(spec)?;
        self.detached(|inner| async move {
            inner.prepare_receive(&id, spec, clone, keep_t0).await?;
            let data_endpoint = inner.data_endpoint.clone();
            Ok(api::PrepareReceiveResponse { data_endpoint, straight: true })
        })
        .await
    }

    type SendTwinStream = Pin<Box<dyn Stream<Item = Result<api::SendProgress, Status>> + Send>>;

    async fn send_twin(
        &self,
        request: Request<api::SendTwinRequest>,
    ) -> Answer<Self::SendTwinStream> {
        let api::SendTwinRequest { migration_id, data_endpoint, bandwidth_mbps, transport } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        // As the host is configured when none is given.
        let how = how(Some(bandwidth_mbps).filter(|&mbps| mbps != 0), &transport)?;
        // Told here, not in the stream, when there is nothing to send.
        self.0.migrations.capture(&id)?;
        let (answers, stream) = mpsc::channel(REPORTS_WAITING);
        let inner = self.0.clone();
        let progress = answers.clone();
        tokio::spawn(async move {
            let mut told_at = Instant::now();
            let last_way = Arc::new(Mutex::new(Carried::default()));
            let seen_way = last_way.clone();
            let report = move |way: &Carried, now: Progress| {
                if told_at.elapsed() >= REPORT_EVERY {
                    told_at = Instant::now();
                    // A slow listener misses some.
                    let _ = progress.try_send(Ok(describe(way, now)));
                }
                locked(&seen_way).clone_from(way);
            };
            let last = match inner.send_twin(id, data_endpoint, how, report).await {
                Ok(sent) => Ok(api::SendProgress {
                    done: true,
                    digest: sent.digest,
                    ..describe(&locked(&last_way), sent.progress)
                }),
                Err(error) => Err(error.into()),
            };
            // Nobody may be listening any more.
            let _ = answers.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_copy(
        &self,
        request: Request<api::GetCopyRequest>,
    ) -> Answer<api::GetCopyResponse> {
        let id = checked_migration(&request.into_inner().migration_id)?;
        let told = self.0.copies.progress(&id);
        let progress = told.map(|(way, progress)| describe(&way, progress));
        Ok(Response::new(api::GetCopyResponse { progress }))
    }

    async fn set_bandwidth(
        &self,
        request: Request<api::SetBandwidthRequest>,
    ) -> Answer<api::SetBandwidthResponse> {
        let api::SetBandwidthRequest { migration_id, mbps } = request.into_inner();
        let id = checked_migration(&migration_id)?;
        let inner = &self.0;
        inner.migrations.begun_capture(&id)?;
        inner.copies.set_cap(&id, cap_of(mbps));
        info!(migration = id, mbps, "bandwidth changed");
        Ok(Response::new(api::SetBandwidthResponse {}))
    }

    async fn start_destination(
        &self,
        request: Request<api::StartDestinationRequest>,
    ) -> Answer<api::Guest> {
        let api::StartDestinationRequest {
            migration_id,
            paused,
            ready_text,
            ready_timeout_s,
            await_image,
        } = request.into_inner();
        let how = match (paused, await_image) {
            (_, true) => Beginning::AwaitImage,
            (true, false) => Beginning::Paused,
            (false, false) => Beginning::Run,
        };
        let id = checked_migration(&migration_id)?;
        let ready = Ready::asked(ready_text, ready_timeout_s);
        let say = ready.is_some();
        let started =
            self.detached(move |inner| async move { inner.start_destination(&id, how, say).await });
        let guest = started.await?.into_inner();
        // Only for as long as the caller waits: whoever gives up must be able to delete the guest.
        if let Some(ready) = ready {
            guest.ready(&ready).await?;
        }
        Ok(Response::new(guest.describe().await?))
    }

    async fn send_diff(&self, request: Request<api::SendDiffRequest>) -> Answer<api::DiffReport> {
        let api::SendDiffRequest { migration_id, data_endpoint, bandwidth_mbps, transport } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        let how = how(bandwidth_mbps, &transport)?;
        self.detached(|inner| async move { inner.send_diff(id, data_endpoint, how).await }).await
    }

    async fn dry_run_diff(
        &self,
        request: Request<api::DryRunDiffRequest>,
    ) -> Answer<api::DryRunDiffReport> {
        let api::DryRunDiffRequest {
            migration_id,
            data_endpoint,
            bandwidth_mbps,
            transport,
            image,
        } = request.into_inner();
        let id = checked_migration(&migration_id)?;
        let wanted = Some(data_endpoint).filter(|text| !text.is_empty());
        let data_endpoint = wanted.map(endpoint).transpose()?;
        let how = how(bandwidth_mbps, &transport)?;
        self.detached(
            |inner| async move { inner.dry_run_diff(id, data_endpoint, how, image).await },
        )
        .await
    }

    async fn dry_run_merge(
        &self,
        request: Request<api::DryRunMergeRequest>,
    ) -> Answer<api::DryRunMergeReport> {
        let id = checked_migration(&request.into_inner().migration_id)?;
        self.detached(|inner| async move { inner.dry_run_merge(&id).await }).await
    }

    async fn merge(&self, request: Request<api::MergeRequest>) -> Answer<api::MergeReport> {
        let id = checked_migration(&request.into_inner().migration_id)?;
        self.detached(|inner| async move { inner.merge(&id).await }).await
    }

    type SettleStream = Pin<Box<dyn Stream<Item = Result<api::SettleProgress, Status>> + Send>>;

    async fn settle(&self, request: Request<api::SettleRequest>) -> Answer<Self::SettleStream> {
        let api::SettleRequest { guest, ram, regions, settle_ms, deadline_s } =
            request.into_inner();
        let guest = self.0.guest(&guest)?;
        let or = |value: u32, default: u32| u64::from(if value == 0 { default } else { value });
        let watch = Watch {
            ram,
            regions,
            settle: Duration::from_millis(or(settle_ms, DEFAULT_SETTLE_MS)),
            deadline: Duration::from_secs(or(deadline_s, DEFAULT_SETTLE_DEADLINE_S)),
        };
        let (answers, stream) = mpsc::channel(REPORTS_WAITING);
        // Not detached: it changes nothing, and ends when nobody waits for it.
        tokio::task::spawn_blocking(move || {
            let progress = answers.clone();
            let last = watch.until_settled(&guest, |seen| {
                // A slow listener misses some.
                let _ = progress.try_send(Ok(describe_settling(seen, false)));
                !progress.is_closed()
            });
            let last = last.map(|seen| describe_settling(seen, true)).map_err(Status::from);
            let _ = answers.blocking_send(last);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type SendAheadStream = Pin<Box<dyn Stream<Item = Result<api::AheadProgress, Status>> + Send>>;

    async fn send_ahead(
        &self,
        request: Request<api::SendAheadRequest>,
    ) -> Answer<Self::SendAheadStream> {
        let api::SendAheadRequest { migration_id, data_endpoint, bandwidth_mbps } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        let how = How { bandwidth_mbps, transport: None };
        let (answers, stream) = mpsc::channel(REPORTS_WAITING);
        let (inner, progress) = (self.0.clone(), answers.clone());
        tokio::spawn(async move {
            let report = |sent_bytes, differing_bytes| {
                // A slow listener misses some.
                let far = api::AheadProgress { sent_bytes, differing_bytes, ..Default::default() };
                let _ = progress.try_send(Ok(far));
            };
            let went = inner.send_ahead(id, data_endpoint, how, report).await;
            let last = went.map(|WentAhead { pass_bytes, why }| api::AheadProgress {
                sent_bytes: pass_bytes.iter().sum(),
                done: true,
                pass_bytes,
                why,
                ..Default::default()
            });
            // Nobody may be listening any more.
            let _ = answers.send(last.map_err(Status::from)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn send_image(
        &self,
        request: Request<api::SendImageRequest>,
    ) -> Answer<api::ImageReport> {
        let api::SendImageRequest { migration_id, data_endpoint, bandwidth_mbps } =
            request.into_inner();
        let id = checked_migration(&migration_id)?;
        let data_endpoint = endpoint(data_endpoint)?;
        let how = How { bandwidth_mbps, transport: None };
        self.detached(|inner| async move { inner.send_image(id, data_endpoint, how).await }).await
    }

    async fn apply_image(
        &self,
        request: Request<api::ApplyImageRequest>,
    ) -> Answer<api::ImageApplied> {
        let request = request.into_inner();
        let id = checked_migration(&request.migration_id)?;
        let as_source = AsSource {
            generation_id: generation_id(request.generation_id)?,
            identity: checked_name("identity", &request.identity)?,
            disks: request.disks.into_iter().map(disk).collect::<Result<_, _>>()?,
        };
        self.detached(|inner| async move {
            let applied = inner.apply_image(&id, &request.digest, as_source).await?;
            let Applied { applied_bytes, digest } = applied;
            Ok(api::ImageApplied { applied_bytes, digest })
        })
        .await
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

fn describe_settling(seen: Seen, done: bool) -> api::SettleProgress {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    api::SettleProgress {
        unchanged_ms: ms(seen.unchanged),
        changed_pages: seen.changed_pages,
        watched_pages: seen.watched_pages,
        done,
        settled: seen.settled,
        watched_ms: ms(seen.watched),
    }
}

fn describe(way: &Carried, progress: Progress) -> api::SendProgress {
    api::SendProgress {
        sent_bytes: progress.sent_bytes,
        covered_bytes: progress.covered_bytes,
        total_bytes: progress.total_bytes,
        rate_bytes_per_s: progress.rate_bytes_per_s,
        transport: way.transport.clone(),
        transport_reason: way.reason.clone(),
        resumed_bytes: way.resumed_bytes,
        ..api::SendProgress::default()
    }
}

/// An empty transport is the configured one.
fn how(bandwidth_mbps: Option<u64>, transport: &str) -> Result<How, HostError> {
    let wanted = Some(transport).filter(|text| !text.is_empty());
    let choice = wanted.map(str::parse::<Choice>).transpose();
    let transport = choice.map_err(|reason| HostError::Invalid { field: "transport", reason })?;
    Ok(How { bandwidth_mbps, transport })
}

fn straight_to(straight: api::Straight) -> Result<To, HostError> {
    let api::Straight { data_endpoint, bandwidth_mbps, transport } = straight;
    let how = how(Some(bandwidth_mbps).filter(|&mbps| mbps != 0), &transport)?;
    Ok(To { data_endpoint: endpoint(data_endpoint)?, how })
}
