use std::sync::{Arc, Mutex};

use tidegate_api::{
    Request, Response, Status,
    host::{self, Guest, GuestSpec, GuestState, host_server::Host},
    manager::{self, DestinationKind, Figures, Migration, MigrationSpec, Phase},
    switch::{
        self, Address, AddressState, Backend, Encap, EncapKind, MigrationEvent, MigrationState,
        PortRole, Rewrite, Unknown, switch_server::Switch,
    },
};
use tidegate_cli::error::Exit;
use tokio_stream::{Iter, iter};

use crate::fakes::{Processes, Script};

pub(crate) struct FakeSwitch;
pub(crate) struct FakeHost(pub(crate) Arc<Mutex<Script>>);

type Stream<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

fn unscripted<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not scripted"))
}

#[tokio::test]
async fn migrations_and_inventory() {
    let processes = Processes::new().await;
    processes.script(|script| {
        script.migration = Migration {
            id: "m-1".to_owned(),
            spec: Some(MigrationSpec {
                address: "10.0.0.1".to_owned(),
                source_host: "h1".to_owned(),
                source_guest: "vm-a".to_owned(),
                destination_host: "h2".to_owned(),
                destination_guest: "vm-b".to_owned(),
                kind: DestinationKind::Clone.into(),
                ..MigrationSpec::default()
            }),
            state: manager::MigrationState::Running.into(),
            phase: Phase::Drain.into(),
            figures: Some(Figures::default()),
            ..Migration::default()
        };
    });
    let (_, text) = processes.run("migrations").await;
    assert_eq!(
        text,
        "ID   ADDRESS   SOURCE   DESTINATION  STATE    PHASE  TIME  MESSAGE\n\
         m-1  10.0.0.1  h1/vm-a  h2/vm-b      running  drain  0 us\n"
    );
    let (_, text) = processes.run("inventory").await;
    assert!(text.contains("switch  edge  127.0.0.1:1  yes      version 0.1.0\n"), "{text}");
    let (_, objects) = processes.run_json("inventory").await;
    assert_eq!(objects[1]["role"], "host");
    assert_eq!(objects[1]["reachable"], false);
}

#[tokio::test]
async fn switch_tables_and_objects() {
    let processes = Processes::new().await;
    let (_, text) = processes.run("switch status").await;
    assert!(text.contains("workers                    2\n"), "{text}");
    assert!(
        text.contains(
            "up    uplink  down  02:00:00:00:00:ff       1  1400  10.0.0.254/24  net_tap0  100.7\n"
        ),
        "{text}"
    );
    let (_, text) = processes.run("switch addresses").await;
    assert_eq!(
        text,
        "ADDRESS   STATE     HOSTED  EPOCH  HOME                         DESTINATION\n\
         10.0.0.1  draining  yes         2  vm-a (l2 vm0): 7 session(s)  vm-b (nat 10.1.0.2, gue to 192.0.2.7): 3 session(s)\n"
    );
    let (_, text) = processes.run("switch sessions --limit 1").await;
    assert_eq!(
        text,
        "PROTO  CLIENT         ADDRESS      OWNER  EPOCH  OLD  STATE        IDLE MS  WORKER\n\
         tcp    10.0.0.9:4000  10.0.0.1:80  vm-a       1  old  established      120       1\n"
    );
    let (_, objects) = processes.run_json("switch sessions").await;
    assert_eq!(objects[0]["state"], "established");
    let (_, text) = processes.run("switch counters").await;
    assert!(text.contains("forwarded       10        to a backend\n"), "{text}");
    assert!(!text.contains("bad_checksum"), "{text}");
    let (_, text) = processes.run("switch counters --all").await;
    assert!(text.contains("bad_checksum"), "{text}");
    let (_, objects) = processes.run_json("switch counters").await;
    assert_eq!(objects[0]["received"], 10);
}

#[tokio::test]
async fn an_address_is_steered_by_hand() {
    let processes = Processes::new().await;
    let home = "--name vm-a --port vm0 --mac 02:00:00:00:00:0a";
    let (_, objects) = processes.run_json(&format!("address add 2001:db8::1 {home}")).await;
    assert_eq!(
        (&objects[0]["state"], &objects[0]["home"]["rewrite"]),
        (&"tracked".into(), &"l2".into())
    );
    let nat = format!("address add 10.0.0.1 {home} --locator 10.1.0.2");
    let (_, objects) = processes.run_json(&nat).await;
    assert_eq!(objects[0]["home"]["locator"], "10.1.0.2");
    let (_, objects) = processes.run_json("address cutover 10.0.0.1 --unknown-tcp drop").await;
    assert_eq!(objects[0]["old_sessions"], 7);
    let (_, text) = processes.run("address watch 10.0.0.1").await;
    assert_eq!(text, "draining: 7 old session(s), 3 new\ndrained: 0 old session(s), 3 new\n");
    let (result, _) = processes.run("address abort 10.0.0.1").await;
    assert_eq!(result.expect_err("refused").to_string(), "not scripted");
}

#[tokio::test]
async fn ports() {
    let processes = Processes::new().await;
    let (_, text) = processes.run("port list").await;
    assert_eq!(
        text,
        "PORT  ROLE    LINK  MAC                QUEUES   MTU  ADDRESSES      DEVICE    VLAN\n\
         up    uplink  down  02:00:00:00:00:ff       1  1400  10.0.0.254/24  net_tap0  100.7\n"
    );
    let add = "port add vm2 net_vhost2,iface=/run/vm2.sock --role access --mac 02:00:00:00:02:01 \
               --address 169.254.1.1/32 --address fe80::1/64 --mtu 9000";
    let (_, text) = processes.run(add).await;
    assert!(
        text.contains(
            "vm2   access  up    02:00:00:00:02:01       1  9000  169.254.1.1/32,fe80::1/64  net_vhost2,iface=/run/vm2.sock\n"
        ),
        "{text}"
    );
    let (_, objects) = processes.run_json("port add vm3 net_tap3 --role uplink").await;
    assert_eq!((&objects[0]["role"], &objects[0]["mac"]), (&"uplink".into(), &"".into()));
    let (_, text) = processes.run("port remove vm2").await;
    assert_eq!(text, "port vm2 removed\n");
    let (result, _) = processes.run("port remove vm9").await;
    assert_eq!(result.expect_err("unknown").to_string(), "there is no port `vm9`");
}

#[tokio::test]
async fn guests() {
    let processes = Processes::new().await;
    let spec = processes.directory.path().join("vm-a.toml");
    let text = "name = \"vm-a\"\nmemory_mib = 64\nkernel = \"/boot/vmlinuz\"\n";
    std::fs::write(&spec, text).expect("write");
    let (exit, shown) = processes.run(&format!("guest start {}", spec.display())).await;
    assert_eq!(exit.expect("started"), Exit::Done);
    assert!(shown.contains("state         running\n"), "{shown}");
    let started = processes.script.lock().expect("script").guest_started.clone().expect("spec");
    assert!(started.memory_shared && started.kernel == "/boot/vmlinuz");

    std::fs::write(&spec, format!("{text}memory = 3\n")).expect("write");
    let (result, _) = processes.run(&format!("guest start {}", spec.display())).await;
    let message = result.expect_err("unknown key").to_string();
    assert!(message.contains("vm-a.toml:4:1: unknown key `memory`"), "{message}");

    let (_, text) = processes.run("guest list").await;
    assert_eq!(text, "GUEST  STATE    PID  MIB  MAC  REGIONS\nvm-a   running   42   64\n");
    let (_, objects) = processes.run_json("guest show vm-a").await;
    assert_eq!(objects[0]["spec"]["memory_mib"], 64);
    let (_, text) = processes.run("guest sockets vm-a").await;
    assert_eq!(
        text,
        "PROTO  LOCAL               REMOTE          STATE\n\
         tcp    10.0.0.1:7000       10.0.0.9:40000  established\n\
         tcp    [2001:db8::1]:7000  10.0.0.9:40000  established\n"
    );
    let (_, objects) = processes.run_json("guest sockets vm-a --address 2001:db8::1").await;
    assert_eq!((objects.len(), &objects[0]["local_address"]), (1, &"2001:db8::1".into()));
    let (_, text) = processes.run("guest delete vm-a --purge").await;
    assert_eq!(text, "guest vm-a deleted\n");
    let (result, _) = processes.run("guest show vm-z").await;
    assert_eq!(result.expect_err("unknown").to_string(), "there is no guest `vm-z`");
}

#[tonic::async_trait]
impl Switch for FakeSwitch {
    type WatchMigrationStream = Stream<MigrationEvent>;
    type ListSessionsStream = Stream<switch::Session>;

    async fn get_status(
        &self,
        _: Request<switch::GetStatusRequest>,
    ) -> Result<Response<switch::Status>, Status> {
        Ok(Response::new(switch::Status {
            version: "0.1.0".to_owned(),
            workers: 2,
            ports: vec![switch::Port {
                name: "up".to_owned(),
                device: "net_tap0".to_owned(),
                mac: "02:00:00:00:00:ff".to_owned(),
                link_up: false,
                queues: 1,
                addresses: vec!["10.0.0.254/24".to_owned()],
                vlan: "100.7".to_owned(),
                mtu: 1400,
                role: PortRole::Uplink.into(),
            }],
            ..switch::Status::default()
        }))
    }

    async fn add_port(
        &self,
        request: Request<switch::AddPortRequest>,
    ) -> Result<Response<switch::Port>, Status> {
        let switch::AddPortRequest { name, device, mac, addresses, role, mtu } =
            request.into_inner();
        let (link_up, queues, vlan) = (true, 1, String::new());
        Ok(Response::new(switch::Port {
            name,
            device,
            mac,
            addresses,
            role,
            link_up,
            queues,
            vlan,
            mtu,
        }))
    }

    async fn remove_port(
        &self,
        request: Request<switch::RemovePortRequest>,
    ) -> Result<Response<switch::RemovePortResponse>, Status> {
        match request.into_inner().name.as_str() {
            "vm2" => Ok(Response::new(switch::RemovePortResponse {})),
            name => Err(Status::not_found(format!("there is no port `{name}`"))),
        }
    }

    async fn hold_port(
        &self,
        _: Request<switch::HoldPortRequest>,
    ) -> Result<Response<switch::HoldPortResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn release_port(
        &self,
        _: Request<switch::ReleasePortRequest>,
    ) -> Result<Response<switch::ReleasePortResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn add_address(
        &self,
        request: Request<switch::AddAddressRequest>,
    ) -> Result<Response<Address>, Status> {
        let switch::AddAddressRequest { address, home, quic } = request.into_inner();
        let state = AddressState::Tracked.into();
        Ok(Response::new(Address { address, state, home, quic, ..Address::default() }))
    }

    async fn remove_address(
        &self,
        _: Request<switch::RemoveAddressRequest>,
    ) -> Result<Response<switch::RemoveAddressResponse>, Status> {
        unscripted()
    }

    async fn list_addresses(
        &self,
        _: Request<switch::ListAddressesRequest>,
    ) -> Result<Response<switch::ListAddressesResponse>, Status> {
        let home = Backend {
            name: "vm-a".to_owned(),
            port: "vm0".to_owned(),
            rewrite: Rewrite::L2.into(),
            ..Backend::default()
        };
        let destination = Backend {
            name: "vm-b".to_owned(),
            rewrite: Rewrite::Nat.into(),
            locator: "10.1.0.2".to_owned(),
            encap: Some(Encap {
                kind: EncapKind::Gue.into(),
                remote: "192.0.2.7".to_owned(),
                ..Encap::default()
            }),
            ..Backend::default()
        };
        let address = Address {
            address: "10.0.0.1".to_owned(),
            state: AddressState::Draining.into(),
            hosted: true,
            epoch: 2,
            home: Some(home),
            destination: Some(destination),
            home_sessions: 7,
            destination_sessions: 3,
            tracked_ms: 90_500,
            quic: Some(switch::Quic { connection_id_length: 8, ports: vec![443, 8443] }),
        };
        Ok(Response::new(switch::ListAddressesResponse { addresses: vec![address] }))
    }

    async fn get_address(
        &self,
        _: Request<switch::GetAddressRequest>,
    ) -> Result<Response<Address>, Status> {
        unscripted()
    }

    async fn takeover(
        &self,
        _: Request<switch::TakeoverRequest>,
    ) -> Result<Response<Address>, Status> {
        unscripted()
    }

    async fn set_destination(
        &self,
        _: Request<switch::SetDestinationRequest>,
    ) -> Result<Response<Address>, Status> {
        unscripted()
    }

    async fn import_sessions(
        &self,
        _: Request<switch::ImportSessionsRequest>,
    ) -> Result<Response<switch::ImportSessionsResponse>, Status> {
        unscripted()
    }

    async fn cutover(
        &self,
        request: Request<switch::CutoverRequest>,
    ) -> Result<Response<switch::CutoverResponse>, Status> {
        assert_eq!(request.into_inner().unknown_tcp(), Unknown::Drop);
        Ok(Response::new(switch::CutoverResponse {
            epoch: 2,
            old_sessions: 7,
            workers: 1,
            elapsed_ns: 12_000,
        }))
    }

    async fn watch_migration(
        &self,
        _: Request<switch::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let event = |state: MigrationState, old_sessions| {
            Ok(MigrationEvent { state: state.into(), epoch: 2, old_sessions, new_sessions: 3 })
        };
        Ok(Response::new(iter(vec![
            event(MigrationState::Draining, 7),
            event(MigrationState::Drained, 0),
        ])))
    }

    async fn abort(&self, _: Request<switch::AbortRequest>) -> Result<Response<Address>, Status> {
        unscripted()
    }

    async fn release(
        &self,
        _: Request<switch::ReleaseRequest>,
    ) -> Result<Response<switch::ReleaseResponse>, Status> {
        unscripted()
    }

    async fn list_sessions(
        &self,
        _: Request<switch::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        Ok(Response::new(iter(vec![Ok(switch::Session {
            address: "10.0.0.1".to_owned(),
            protocol: 6,
            client: "10.0.0.9".to_owned(),
            client_port: 4000,
            address_port: 80,
            owner: "vm-a".to_owned(),
            birth_epoch: 1,
            old: true,
            state: switch::SessionState::Established.into(),
            idle_ms: 120,
            worker: 1,
            locator: String::new(),
        })])))
    }

    async fn get_counters(
        &self,
        _: Request<switch::GetCountersRequest>,
    ) -> Result<Response<switch::Counters>, Status> {
        let outcome = |name: &str, help: &str, packets, drop| switch::Outcome {
            name: name.to_owned(),
            help: help.to_owned(),
            packets,
            drop,
        };
        Ok(Response::new(switch::Counters {
            received: 10,
            outcomes: vec![
                outcome("forwarded", "to a backend", 10, false),
                outcome("bad_checksum", "IPv4 header checksum is wrong", 0, true),
            ],
            ..switch::Counters::default()
        }))
    }
}

fn guest() -> Guest {
    Guest {
        spec: Some(GuestSpec { name: "vm-a".to_owned(), memory_mib: 64, ..GuestSpec::default() }),
        state: GuestState::Running.into(),
        pid: 42,
        ..Guest::default()
    }
}

#[tonic::async_trait]
impl Host for FakeHost {
    type SendTwinStream = Stream<host::SendProgress>;
    type SettleStream = Stream<host::SettleProgress>;
    type SendAheadStream = Stream<host::AheadProgress>;
    type ListSocketsStream = Stream<host::Socket>;

    async fn list_sockets(
        &self,
        request: Request<host::ListSocketsRequest>,
    ) -> Result<Response<Self::ListSocketsStream>, Status> {
        let socket = |local: &str| host::Socket {
            protocol: 6,
            local_address: local.to_owned(),
            local_port: 7000,
            remote_address: "10.0.0.9".to_owned(),
            remote_port: 40000,
            state: host::SocketState::Established.into(),
        };
        let addresses = request.into_inner().addresses;
        let mut sockets = vec![socket("10.0.0.1"), socket("2001:db8::1")];
        sockets.retain(|it| addresses.is_empty() || addresses.contains(&it.local_address));
        Ok(Response::new(iter(sockets.into_iter().map(Ok).collect::<Vec<_>>())))
    }

    async fn get_status(
        &self,
        _: Request<host::GetStatusRequest>,
    ) -> Result<Response<host::Status>, Status> {
        unscripted()
    }

    async fn start_guest(
        &self,
        request: Request<host::StartGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        self.0.lock().expect("script").guest_started = request.into_inner().spec;
        Ok(Response::new(guest()))
    }

    async fn get_guest(
        &self,
        request: Request<host::GetGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        let name = request.into_inner().name;
        if name == "vm-a" {
            return Ok(Response::new(guest()));
        }
        Err(Status::not_found(format!("there is no guest `{name}`")))
    }

    async fn list_guests(
        &self,
        _: Request<host::ListGuestsRequest>,
    ) -> Result<Response<host::ListGuestsResponse>, Status> {
        Ok(Response::new(host::ListGuestsResponse { guests: vec![guest()] }))
    }

    async fn pause_guest(
        &self,
        _: Request<host::PauseGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        unscripted()
    }

    async fn continue_guest(
        &self,
        _: Request<host::ContinueGuestRequest>,
    ) -> Result<Response<Guest>, Status> {
        unscripted()
    }

    async fn delete_guest(
        &self,
        _: Request<host::DeleteGuestRequest>,
    ) -> Result<Response<host::DeleteGuestResponse>, Status> {
        Ok(Response::new(host::DeleteGuestResponse {}))
    }

    async fn check_capture(
        &self,
        _: Request<host::CheckCaptureRequest>,
    ) -> Result<Response<host::CheckCaptureResponse>, Status> {
        unscripted()
    }

    async fn capture(
        &self,
        _: Request<host::CaptureRequest>,
    ) -> Result<Response<host::CaptureReport>, Status> {
        unscripted()
    }

    async fn prepare_receive(
        &self,
        _: Request<host::PrepareReceiveRequest>,
    ) -> Result<Response<host::PrepareReceiveResponse>, Status> {
        unscripted()
    }

    async fn settle(
        &self,
        _: Request<host::SettleRequest>,
    ) -> Result<Response<Self::SettleStream>, Status> {
        unscripted()
    }

    async fn send_ahead(
        &self,
        _: Request<host::SendAheadRequest>,
    ) -> Result<Response<Self::SendAheadStream>, Status> {
        unscripted()
    }

    async fn send_image(
        &self,
        _: Request<host::SendImageRequest>,
    ) -> Result<Response<host::ImageReport>, Status> {
        unscripted()
    }

    async fn apply_image(
        &self,
        _: Request<host::ApplyImageRequest>,
    ) -> Result<Response<host::ImageApplied>, Status> {
        unscripted()
    }

    async fn send_twin(
        &self,
        _: Request<host::SendTwinRequest>,
    ) -> Result<Response<Self::SendTwinStream>, Status> {
        unscripted()
    }

    async fn start_destination(
        &self,
        _: Request<host::StartDestinationRequest>,
    ) -> Result<Response<Guest>, Status> {
        unscripted()
    }

    async fn get_copy(
        &self,
        _: Request<host::GetCopyRequest>,
    ) -> Result<Response<host::GetCopyResponse>, Status> {
        unscripted()
    }

    async fn set_bandwidth(
        &self,
        _: Request<host::SetBandwidthRequest>,
    ) -> Result<Response<host::SetBandwidthResponse>, Status> {
        unscripted()
    }

    async fn send_diff(
        &self,
        _: Request<host::SendDiffRequest>,
    ) -> Result<Response<host::DiffReport>, Status> {
        unscripted()
    }

    async fn dry_run_diff(
        &self,
        _: Request<host::DryRunDiffRequest>,
    ) -> Result<Response<host::DryRunDiffReport>, Status> {
        unscripted()
    }

    async fn dry_run_merge(
        &self,
        _: Request<host::DryRunMergeRequest>,
    ) -> Result<Response<host::DryRunMergeReport>, Status> {
        unscripted()
    }

    async fn merge(
        &self,
        _: Request<host::MergeRequest>,
    ) -> Result<Response<host::MergeReport>, Status> {
        unscripted()
    }

    async fn forget(
        &self,
        _: Request<host::ForgetRequest>,
    ) -> Result<Response<host::ForgetResponse>, Status> {
        unscripted()
    }
}
