use std::{
    collections::btree_map::Entry,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate_api::{
    Request, Response, Status,
    host::GuestState,
    switch::{
        self as proto, Address, AddressState, Backend, MigrationEvent, MigrationState, Rewrite,
        switch_server::Switch,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::World;

pub(super) struct FakeSwitch {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) old_sessions: watch::Sender<u64>,
}

pub(super) fn tracked_address() -> Address {
    Address {
        address: "10.0.0.1".to_owned(),
        state: AddressState::Tracked.into(),
        epoch: 1,
        home: Some(Backend {
            name: "vm-a".to_owned(),
            port: "vm0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            rewrite: Rewrite::L2.into(),
            locator: String::new(),
            encap: None,
        }),
        ..Address::default()
    }
}

impl FakeSwitch {
    fn act<T>(
        &self,
        call: &str,
        address: &str,
        action: impl FnOnce(&mut World) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let mut world = self.world.lock().expect("world");
        let lost = world.enter(call)?;
        if address != world.address.address {
            return Err(Status::not_found(format!("address {address} is not configured")));
        }
        let answer = action(&mut world)?;
        lost.map_or(Ok(Response::new(answer)), Err)
    }
}

#[tonic::async_trait]
impl Switch for FakeSwitch {
    type WatchMigrationStream = ReceiverStream<Result<MigrationEvent, Status>>;
    type ListSessionsStream = ReceiverStream<Result<proto::Session, Status>>;

    async fn get_status(
        &self,
        _: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::Status>, Status> {
        let mut world = self.world.lock().expect("world");
        let down = world.source_down > 0;
        world.source_down = world.source_down.saturating_sub(1);
        let port = |name: &str, link_up, addresses: &[&str]| proto::Port {
            name: name.to_owned(),
            link_up,
            addresses: addresses.iter().map(|it| (*it).to_owned()).collect(),
            ..proto::Port::default()
        };
        Ok(Response::new(proto::Status {
            version: "0.1.0".to_owned(),
            ports: vec![
                port("up", true, &["192.0.2.1/24", "2001:db8:2::1/64"]),
                port("vm0", !down, &["169.254.1.1/32"]),
                // Nobody is there yet.
                port("vm1", false, &["169.254.1.1/32"]),
            ],
            longest_silence_ms: world.longest_silence_ms,
            ..proto::Status::default()
        }))
    }

    async fn add_port(
        &self,
        _: Request<proto::AddPortRequest>,
    ) -> Result<Response<proto::Port>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn remove_port(
        &self,
        _: Request<proto::RemovePortRequest>,
    ) -> Result<Response<proto::RemovePortResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn hold_port(
        &self,
        request: Request<proto::HoldPortRequest>,
    ) -> Result<Response<proto::HoldPortResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world.lock().expect("world");
        let lost = world.enter("HoldPort")?;
        assert!(request.deadline_ms > 0, "it ends by itself");
        assert_eq!(request.name, "vm0", "the source's");
        lost.map_or(Ok(Response::new(proto::HoldPortResponse {})), Err)
    }

    async fn release_port(
        &self,
        request: Request<proto::ReleasePortRequest>,
    ) -> Result<Response<proto::ReleasePortResponse>, Status> {
        let mut world = self.world.lock().expect("world");
        let lost = world.enter("ReleasePort")?;
        assert_eq!(request.into_inner().name, "vm0", "the source's");
        lost.map_or(Ok(Response::new(proto::ReleasePortResponse { held_packets: 17 })), Err)
    }

    async fn add_address(
        &self,
        _: Request<proto::AddAddressRequest>,
    ) -> Result<Response<Address>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn remove_address(
        &self,
        _: Request<proto::RemoveAddressRequest>,
    ) -> Result<Response<proto::RemoveAddressResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_addresses(
        &self,
        _: Request<proto::ListAddressesRequest>,
    ) -> Result<Response<proto::ListAddressesResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_address(
        &self,
        request: Request<proto::GetAddressRequest>,
    ) -> Result<Response<Address>, Status> {
        self.act("GetAddress", &request.into_inner().address, |world| Ok(world.address.clone()))
    }

    async fn takeover(
        &self,
        request: Request<proto::TakeoverRequest>,
    ) -> Result<Response<Address>, Status> {
        self.act("Takeover", &request.into_inner().address, |world| {
            if world.address.hosted {
                return Err(Status::failed_precondition("hosted already"));
            }
            world.address.hosted = true;
            world.address.set_state(AddressState::Hosted);
            Ok(world.address.clone())
        })
    }

    async fn set_destination(
        &self,
        request: Request<proto::SetDestinationRequest>,
    ) -> Result<Response<Address>, Status> {
        let request = request.into_inner();
        self.act("SetDestination", &request.address, |world| {
            if world.address.destination.is_some() || !world.address.hosted {
                return Err(Status::failed_precondition("has one, or is not hosted"));
            }
            let mut destination = request.destination.expect("a destination");
            if destination.encap.is_some() && destination.port.is_empty() {
                destination.port = "up".to_owned();
            }
            world.address.destination = Some(destination);
            Ok(world.address.clone())
        })
    }

    async fn cutover(
        &self,
        request: Request<proto::CutoverRequest>,
    ) -> Result<Response<proto::CutoverResponse>, Status> {
        let old_sessions = *self.old_sessions.borrow();
        let request = request.into_inner();
        self.act("Cutover", &request.address.clone(), |world| {
            world.cutovers.push(request);
            if world.address.state() != AddressState::Hosted || world.address.destination.is_none()
            {
                return Err(Status::failed_precondition("not prepared, or cut over already"));
            }
            world.address.epoch += 1;
            world.address.home_sessions = old_sessions;
            world.address.set_state(AddressState::Draining);
            let epoch = world.address.epoch;
            Ok(proto::CutoverResponse { epoch, old_sessions, workers: 2, elapsed_ns: 1000 })
        })
    }

    async fn import_sessions(
        &self,
        request: Request<proto::ImportSessionsRequest>,
    ) -> Result<Response<proto::ImportSessionsResponse>, Status> {
        let proto::ImportSessionsRequest { address, sessions } = request.into_inner();
        self.act("ImportSessions", &address, |world| {
            if world.address.state() != AddressState::Hosted {
                return Err(Status::failed_precondition("not tracked, or cut over"));
            }
            assert!(sessions.len() <= 10_000, "{}", sessions.len());
            let mut answer = proto::ImportSessionsResponse::default();
            let mut no_room = 0;
            for it in sessions {
                let key = (it.client.clone(), it.client_port, it.address_port);
                if world.no_room.contains(&it.client_port) {
                    no_room += 1;
                } else if let Entry::Vacant(free) = world.imported.entry(key) {
                    free.insert(it);
                    answer.imported += 1;
                } else {
                    answer.known += 1;
                }
            }
            if no_room > 0 {
                let reason = "the table is full".to_owned();
                answer.refused = vec![proto::RefusedSessions { reason, count: no_room }];
            }
            Ok(answer)
        })
    }

    async fn watch_migration(
        &self,
        request: Request<proto::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        self.act("WatchMigration", &request.into_inner().address, |_| Ok(()))?;
        let (events, stream) = mpsc::channel(4);
        let (world, mut old) = (Arc::clone(&self.world), self.old_sessions.subscribe());
        tokio::spawn(async move {
            loop {
                let (event, broken) = {
                    let old_sessions = *old.borrow_and_update();
                    let mut world = world.lock().expect("world");
                    let broken = world.streams_to_break > 0;
                    world.streams_to_break = world.streams_to_break.saturating_sub(1);
                    if old_sessions == 0
                        && !broken
                        && world.address.state() == AddressState::Draining
                    {
                        world.address.set_state(AddressState::Drained);
                    }
                    (event(&world.address, old_sessions), broken)
                };
                let drained = event.state() == MigrationState::Drained;
                if events.send(Ok(event)).await.is_err() || drained {
                    return;
                }
                if broken {
                    let _ = events.send(Err(Status::unavailable("the stream broke"))).await;
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), old.changed()).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn abort(
        &self,
        request: Request<proto::AbortRequest>,
    ) -> Result<Response<Address>, Status> {
        self.act("Abort", &request.into_inner().address, |world| {
            if world.address.destination.take().is_none() && !world.address.hosted {
                return Err(Status::failed_precondition("not in a migration"));
            }
            world.address.set_state(AddressState::Tracked);
            world.address.hosted = false;
            Ok(world.address.clone())
        })
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let request = request.into_inner();
        self.act("Release", &request.address, |world| {
            if request.with_sessions {
                let source = world.guests["h1"]["vm-a"].state();
                assert_ne!(source, GuestState::Running, "its sessions go while it runs");
                world.handovers += 1;
            } else if world.address.state() != AddressState::Drained {
                return Err(Status::failed_precondition("not drained"));
            }
            world.address.home = world.address.destination.take();
            world.address.set_state(AddressState::Bound);
            world.address.hosted = false;
            let address = Some(world.address.clone());
            let (kept, cut) = if request.with_sessions { (7, 3) } else { (0, 0) };
            Ok(proto::ReleaseResponse {
                address,
                forgotten_sessions: world.forgotten_sessions,
                kept_sessions: kept,
                cut_sessions: cut,
            })
        })
    }

    async fn list_sessions(
        &self,
        _: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_counters(
        &self,
        _: Request<proto::GetCountersRequest>,
    ) -> Result<Response<proto::Counters>, Status> {
        Err(Status::unimplemented("fake"))
    }
}

fn event(address: &Address, old_sessions: u64) -> MigrationEvent {
    let state = match address.state() {
        AddressState::Drained => MigrationState::Drained,
        AddressState::Draining => MigrationState::Draining,
        _ => MigrationState::Aborted,
    };
    MigrationEvent { state: state.into(), epoch: address.epoch, old_sessions, new_sessions: 3 }
}
