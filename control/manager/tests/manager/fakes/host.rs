use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tidegate_api::{
    Request, Response, Status,
    host::{
        self as proto, Guest, GuestSpec, GuestState, Nic, Region, RegionFile, host_server::Host,
    },
};
use tokio_stream::{Iter, iter};

use super::World;

pub(super) struct FakeHost {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) name: String,
}

/// What a clone's host says it keeps of T0.
pub(crate) const TWIN_KEPT: &str = "a hash a page, 262208 bytes";
/// What the source sees as its generation.
pub(crate) const GENERATION: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";

/// A running guest with 64 MiB and one region.
pub(crate) fn guest(name: &str) -> Guest {
    let spec = GuestSpec {
        name: name.to_owned(),
        memory_mib: 64,
        memory_shared: true,
        cpus: 1,
        cmdline: "console=ttyS0".to_owned(),
        nics: vec![Nic {
            vhost_socket: "/run/vm0.sock".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
        }],
        regions: vec![Region { name: "counts".to_owned(), size_bytes: 1 << 20 }],
        ..GuestSpec::default()
    };
    Guest { spec: Some(spec), state: GuestState::Running.into(), pid: 42, ..Guest::default() }
}

impl FakeHost {
    fn act<T>(
        &self,
        call: &str,
        action: impl FnOnce(&mut World) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let mut world = self.world.lock().expect("world");
        let lost = world.enter(call)?;
        let answer = action(&mut world)?;
        lost.map_or(Ok(Response::new(answer)), Err)
    }

    fn set_state(
        &self,
        call: &str,
        name: &str,
        state: GuestState,
    ) -> Result<Response<Guest>, Status> {
        self.act(call, |world| {
            let guests = world.guests.get_mut(&self.name).expect("host");
            let guest = guests.get_mut(name).ok_or_else(|| no_guest(name))?;
            if guest.state() == GuestState::Exited {
                return Err(Status::failed_precondition(format!("guest `{name}` has ended")));
            }
            guest.set_state(state);
            Ok(guest.clone())
        })
    }
}

fn no_guest(name: &str) -> Status {
    Status::not_found(format!("there is no guest `{name}`"))
}

#[tonic::async_trait]
impl Host for FakeHost {
    type SendTwinStream = Iter<std::vec::IntoIter<Result<proto::SendProgress, Status>>>;
    type ListSocketsStream = Iter<std::vec::IntoIter<Result<proto::Socket, Status>>>;
    type SendAheadStream = Iter<std::vec::IntoIter<Result<proto::AheadProgress, Status>>>;
    type SettleStream = Iter<std::vec::IntoIter<Result<proto::SettleProgress, Status>>>;

    async fn list_sockets(
        &self,
        request: Request<proto::ListSocketsRequest>,
    ) -> Result<Response<Self::ListSocketsStream>, Status> {
        let request = request.into_inner();
        self.act("ListSockets", |world| {
            world.lists_asked.push(request.clone());
            let mut sockets = world.sockets.clone();
            sockets.retain(|socket| request.addresses.contains(&socket.local_address));
            Ok(iter(sockets.into_iter().map(Ok).collect::<Vec<_>>()))
        })
    }

    async fn get_status(
        &self,
        _: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::Status>, Status> {
        let world = self.world.lock().expect("world");
        Ok(Response::new(proto::Status {
            version: "0.1.0".to_owned(),
            name: self.name.clone(),
            qemu_version: world.qemu_versions[&self.name].clone(),
            data_endpoint: "127.0.0.1:7433".to_owned(),
            twin_free_bytes: world.twin_free_bytes,
            memory_free_bytes: world.memory_free_bytes,
        }))
    }

    async fn start_guest(
        &self,
        _: Request<proto::StartGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_guest(
        &self,
        request: Request<proto::GetGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        let name = request.into_inner().name;
        self.act("GetGuest", |world| {
            world.guests[&self.name].get(&name).cloned().ok_or_else(|| no_guest(&name))
        })
    }

    async fn list_guests(
        &self,
        _: Request<proto::ListGuestsRequest>,
    ) -> Result<Response<proto::ListGuestsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn pause_guest(
        &self,
        request: Request<proto::PauseGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        self.set_state("PauseGuest", &request.into_inner().name, GuestState::Paused)
    }

    async fn continue_guest(
        &self,
        request: Request<proto::ContinueGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        self.set_state("ContinueGuest", &request.into_inner().name, GuestState::Running)
    }

    async fn delete_guest(
        &self,
        request: Request<proto::DeleteGuestRequest>,
    ) -> Result<Response<proto::DeleteGuestResponse>, Status> {
        let name = request.into_inner().name;
        self.act("DeleteGuest", |world| {
            let gone = world.guests.get_mut(&self.name).expect("host").remove(&name);
            gone.map(|_| proto::DeleteGuestResponse {}).ok_or_else(|| no_guest(&name))
        })
    }

    async fn check_capture(
        &self,
        request: Request<proto::CheckCaptureRequest>,
    ) -> Result<Response<proto::CheckCaptureResponse>, Status> {
        let request = request.into_inner();
        self.act("CheckCapture", |world| {
            if let Some(refusal) = world.capture_refusal.clone() {
                return Err(refusal);
            }
            let to = (request.transport, request.data_endpoint);
            world.carriages_asked.push(to);
            let guest = &world.guests[&self.name][&request.guest];
            let spec = guest.spec.clone().expect("spec");
            let file = |region: &Region| RegionFile {
                name: region.name.clone(),
                path: String::new(),
                size_bytes: region.size_bytes,
            };
            Ok(proto::CheckCaptureResponse {
                ram_bytes: if request.clone { u64::from(spec.memory_mib) << 20 } else { 0 },
                region_bytes: 1 << 20,
                regions: spec.regions.iter().map(file).collect(),
                clone_disks: spec.disks.clone(),
                spec: Some(spec),
                way: proto::CaptureWay::Passes.into(),
                why: "64 MiB in use take 30 ms to copy".to_owned(),
                predicted_pause_ns: 20_000_000,
                safety: world.safety.clone(),
                generation_id: GENERATION.to_owned(),
                twin_kept: if request.clone { TWIN_KEPT.to_owned() } else { String::new() },
                twin_kept_bytes: if request.clone { 262_208 } else { 0 },
                straight: request.straight,
                twin_room_bytes: 0,
                carriage: world.carriage.clone(),
            })
        })
    }

    async fn capture(
        &self,
        request: Request<proto::CaptureRequest>,
    ) -> Result<Response<proto::CaptureReport>, Status> {
        let request = request.into_inner();
        // It goes on whether or not the caller waits.
        let over = self.world.lock().expect("world").capture_over();
        tokio::time::sleep_until(over.into()).await;
        self.act("Capture", |world| {
            world.captured.insert(request.migration_id);
            let to = request.straight.as_ref().map(|straight| straight.data_endpoint.clone());
            world.straight_to.push(to);
            Ok(proto::CaptureReport {
                pause_ns: 5_000_000,
                ram_bytes: 64 << 20,
                region_bytes: 1 << 20,
                device_state_bytes: 700_000,
                way: proto::CaptureWay::Passes.into(),
                why: "64 MiB in use take 30 ms to copy".to_owned(),
                pass_bytes: vec![64 << 20, 1 << 20],
                straight: request.straight.is_some(),
                sent_bytes: if request.straight.is_some() { 60 << 20 } else { 0 },
                transport: request.straight.map(|_| "tcp".to_owned()).unwrap_or_default(),
            })
        })
    }

    async fn prepare_receive(
        &self,
        request: Request<proto::PrepareReceiveRequest>,
    ) -> Result<Response<proto::PrepareReceiveResponse>, Status> {
        let request = request.into_inner();
        self.act("PrepareReceive", |world| {
            world.keeps_t0 = request.keep_t0;
            world.prepared.insert(request.migration_id, request.spec.expect("spec"));
            let data_endpoint = "127.0.0.1:7433".to_owned();
            Ok(proto::PrepareReceiveResponse { data_endpoint, straight: world.takes_straight })
        })
    }

    async fn send_twin(
        &self,
        request: Request<proto::SendTwinRequest>,
    ) -> Result<Response<Self::SendTwinStream>, Status> {
        let request = request.into_inner();
        let id = request.migration_id;
        self.act("SendTwin", |world| {
            world.sent.push(("SendTwin", Some(request.bandwidth_mbps), request.transport));
            if !world.captured.contains(&id) || !world.prepared.contains_key(&id) {
                return Err(Status::failed_precondition("no twin, or nobody receives it"));
            }
            let progress = |sent_bytes, done| {
                Ok(proto::SendProgress {
                    sent_bytes,
                    covered_bytes: sent_bytes * 2,
                    total_bytes: 65 << 20,
                    done,
                    digest: if done { "d1".to_owned() } else { String::new() },
                    transport: "tcp".to_owned(),
                    transport_reason: "asked for".to_owned(),
                    ..proto::SendProgress::default()
                })
            };
            if !world.copies_break_after.is_empty() {
                let sent_bytes = world.copies_break_after.remove(0);
                let reset = Status::unavailable("sending: connection reset by peer");
                return Ok(iter(vec![progress(sent_bytes, false), Err(reset)]));
            }
            Ok(iter(vec![progress(1000, false), progress(2000, false), progress(3000, true)]))
        })
    }

    async fn get_copy(
        &self,
        request: Request<proto::GetCopyRequest>,
    ) -> Result<Response<proto::GetCopyResponse>, Status> {
        let id = request.into_inner().migration_id;
        self.act("GetCopy", |world| {
            let gone = world.gone_straight.filter(|_| !world.captured.contains(&id));
            let progress = gone.map(|sent_bytes| proto::SendProgress {
                sent_bytes,
                covered_bytes: sent_bytes * 2,
                total_bytes: 64 << 20,
                rate_bytes_per_s: 5000,
                ..proto::SendProgress::default()
            });
            Ok(proto::GetCopyResponse { progress })
        })
    }

    async fn set_bandwidth(
        &self,
        request: Request<proto::SetBandwidthRequest>,
    ) -> Result<Response<proto::SetBandwidthResponse>, Status> {
        let request = request.into_inner();
        self.act("SetBandwidth", |world| {
            if !world.captured.contains(&request.migration_id) {
                return Err(Status::not_found("nothing was captured"));
            }
            world.bandwidths.push(request.mbps);
            Ok(proto::SetBandwidthResponse {})
        })
    }

    async fn start_destination(
        &self,
        request: Request<proto::StartDestinationRequest>,
    ) -> Result<Response<Guest>, Status> {
        let request = request.into_inner();
        let started = self.act("StartDestination", |world| {
            let spec = world.prepared.get(&request.migration_id).cloned();
            let spec = spec.ok_or_else(|| Status::failed_precondition("nothing was received"))?;
            let guests = world.guests.get_mut(&self.name).expect("host");
            let started = guests.entry(spec.name.clone()).or_insert_with(|| {
                world.destinations_started += 1;
                let waits =
                    if request.await_image { GuestState::Paused } else { GuestState::Running };
                Guest { spec: Some(spec), state: waits.into(), ..guest("") }
            });
            Ok(started.clone())
        });
        let (text, seconds) = (&request.ready_text, request.ready_timeout_s);
        let until = Instant::now() + Duration::from_secs(u64::from(seconds));
        loop {
            let console = self.world.lock().expect("world").console.clone();
            if started.is_err() || console.contains(text) {
                return started;
            }
            if Instant::now() >= until {
                let late = format!("no `{text}` in {seconds} s; the console ends:\n{console}");
                return Err(Status::deadline_exceeded(late));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send_diff(
        &self,
        request: Request<proto::SendDiffRequest>,
    ) -> Result<Response<proto::DiffReport>, Status> {
        let request = request.into_inner();
        let id = request.migration_id;
        self.act("SendDiff", |world| {
            world.sent.push(("SendDiff", request.bandwidth_mbps, request.transport));
            assert!(world.captured.contains(&id), "diff needs the twin");
            let source = &world.guests[&self.name]["vm-a"];
            assert_ne!(source.state(), GuestState::Running, "diff of a running source");
            Ok(proto::DiffReport {
                compared_bytes: 1 << 20,
                changed_bytes: 96,
                sent_bytes: 200,
                runs: 4,
            })
        })
    }

    async fn dry_run_diff(
        &self,
        request: Request<proto::DryRunDiffRequest>,
    ) -> Result<Response<proto::DryRunDiffReport>, Status> {
        let request = request.into_inner();
        self.act("DryRunDiff", |world| {
            assert!(world.captured.contains(&request.migration_id), "a dry run needs the twin");
            world.sent.push(("DryRunDiff", request.bandwidth_mbps, request.transport.clone()));
            let sent_bytes = if request.data_endpoint.is_empty() { 0 } else { 200 };
            let image_pause_ns = if request.image { 7 } else { 0 };
            Ok(proto::DryRunDiffReport { sent_bytes, image_pause_ns, ..Default::default() })
        })
    }

    async fn dry_run_merge(
        &self,
        request: Request<proto::DryRunMergeRequest>,
    ) -> Result<Response<proto::DryRunMergeReport>, Status> {
        let id = request.into_inner().migration_id;
        self.act("DryRunMerge", |world| {
            assert!(world.prepared.contains_key(&id), "a dry run needs the destination");
            Ok(proto::DryRunMergeReport { merged_bytes: 96, ..Default::default() })
        })
    }

    async fn merge(
        &self,
        request: Request<proto::MergeRequest>,
    ) -> Result<Response<proto::MergeReport>, Status> {
        let id = request.into_inner().migration_id;
        self.act("Merge", |world| {
            assert!(world.prepared.contains_key(&id), "merge needs what was received");
            world.merges_applied = 1;
            Ok(proto::MergeReport {
                merged_bytes: 96,
                pause_ns: 1_000_000,
                ..proto::MergeReport::default()
            })
        })
    }

    async fn settle(
        &self,
        request: Request<proto::SettleRequest>,
    ) -> Result<Response<Self::SettleStream>, Status> {
        let request = request.into_inner();
        self.act("Settle", |world| {
            world.settles.push(request);
            let seen = |changed_pages, done, settled| {
                let watched_ms = 40;
                Ok(proto::SettleProgress {
                    changed_pages,
                    watched_pages: 256,
                    done,
                    settled,
                    watched_ms,
                    ..Default::default()
                })
            };
            let left = if world.settles_at_last { 0 } else { 5 };
            Ok(iter(vec![seen(9, false, false), seen(left, true, world.settles_at_last)]))
        })
    }

    async fn send_ahead(
        &self,
        request: Request<proto::SendAheadRequest>,
    ) -> Result<Response<Self::SendAheadStream>, Status> {
        let request = request.into_inner();
        let id = request.migration_id;
        self.act("SendAhead", |world| {
            world.sent.push(("SendAhead", request.bandwidth_mbps, String::new()));
            assert!(world.captured.contains(&id), "what changed is told by the twin");
            let source = &world.guests["h1"]["vm-a"];
            assert_eq!(source.state(), GuestState::Running, "it goes while the source runs");
            let far = proto::AheadProgress {
                sent_bytes: 100,
                differing_bytes: 8192,
                ..Default::default()
            };
            let why = "0 MiB differ, which is little".to_owned();
            let pass_bytes = vec![4096, 512];
            Ok(iter(vec![
                Ok(far),
                Ok(proto::AheadProgress {
                    sent_bytes: 4608,
                    done: true,
                    pass_bytes,
                    why,
                    ..Default::default()
                }),
            ]))
        })
    }

    async fn send_image(
        &self,
        request: Request<proto::SendImageRequest>,
    ) -> Result<Response<proto::ImageReport>, Status> {
        let request = request.into_inner();
        let id = request.migration_id;
        self.act("SendImage", |world| {
            world.sent.push(("SendImage", request.bandwidth_mbps, String::new()));
            assert!(world.captured.contains(&id), "an image needs the twin");
            let source = &world.guests[&self.name]["vm-a"];
            assert_eq!(source.state(), GuestState::Paused, "an image of a source that runs");
            world.image_sent = true;
            Ok(proto::ImageReport {
                compared_bytes: 65 << 20,
                changed_bytes: 8192,
                sent_bytes: 700_200,
                device_state_bytes: 700_000,
                digest: "d2".to_owned(),
                disks: Vec::new(),
            })
        })
    }

    async fn apply_image(
        &self,
        request: Request<proto::ApplyImageRequest>,
    ) -> Result<Response<proto::ImageApplied>, Status> {
        let request = request.into_inner();
        self.act("ApplyImage", |world| {
            assert!(world.image_sent && world.prepared.contains_key(&request.migration_id));
            assert_eq!((request.digest.as_str(), request.identity.as_str()), ("d2", "vm-a"));
            assert_eq!(request.generation_id, GENERATION);
            let guests = world.guests.get_mut(&self.name).expect("host");
            let destination = guests.get_mut("vm-b").ok_or_else(|| no_guest("vm-b"))?;
            // What served new sessions ends; what goes on as the source waits.
            destination.set_state(GuestState::Paused);
            if world.destination_dies_after.as_deref() == Some("ApplyImage") {
                world.guests.get_mut(&self.name).expect("host").remove("vm-b");
            }
            if let Some(socket) = world.goes_with_image.take() {
                std::fs::remove_file(socket).expect("socket");
            }
            let digest = world.image_digest.clone();
            Ok(proto::ImageApplied { applied_bytes: 8192, digest })
        })
    }

    async fn forget(
        &self,
        request: Request<proto::ForgetRequest>,
    ) -> Result<Response<proto::ForgetResponse>, Status> {
        let id = request.into_inner().migration_id;
        self.act("Forget", |world| {
            // The source's host has the twin, the destination's what it received.
            if self.name == "h1" {
                world.captured.remove(&id);
            } else {
                world.prepared.remove(&id);
            }
            Ok(proto::ForgetResponse {})
        })
    }
}
