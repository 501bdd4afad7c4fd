//! A switch box.

use serde::Serialize;
use tidegate_api::switch::{
    self as proto, AddressState, EncapKind, MigrationState, PortRole, Rewrite, SessionState,
};

use super::Invalid;

/// A switch box.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Status in switch.proto
pub struct Status {
    pub version: String,
    pub dpdk_version: String,
    pub workers: u32,
    pub sessions_capacity: u64,
    pub sessions_capacity_ipv6: u64,
    pub hosted_addresses: u64,
    pub migrations: u64,
    pub sessions: u64,
    pub ports: Vec<Port>,
}

/// One of its ports.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Port in switch.proto
pub struct Port {
    pub name: String,
    pub device: String,
    pub mac: String,
    pub link_up: bool,
    pub queues: u32,
    pub addresses: Vec<String>,
    pub vlan: String,
    pub mtu: u32,
    pub role: &'static str,
}

impl TryFrom<proto::Port> for Port {
    type Error = Invalid;

    fn try_from(port: proto::Port) -> Result<Self, Invalid> {
        let role = match port.role() {
            PortRole::Uplink => "uplink",
            PortRole::Access => "access",
            PortRole::Unspecified => {
                return Err(Invalid::Unknown { field: "role", value: port.role });
            }
        };
        let proto::Port { name, device, mac, link_up, queues, addresses, vlan, mtu, .. } = port;
        Ok(Self { name, device, mac, link_up, queues, addresses, vlan, mtu, role })
    }
}

impl TryFrom<proto::Status> for Status {
    type Error = Invalid;

    fn try_from(status: proto::Status) -> Result<Self, Invalid> {
        let ports = status.ports.into_iter().map(Port::try_from);
        Ok(Self {
            version: status.version,
            dpdk_version: status.dpdk_version,
            workers: status.workers,
            sessions_capacity: status.sessions_capacity,
            sessions_capacity_ipv6: status.sessions_capacity_ipv6,
            hosted_addresses: status.hosted_addresses,
            migrations: status.migrations,
            sessions: status.sessions,
            ports: ports.collect::<Result<_, _>>()?,
        })
    }
}

/// A managed address.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Address in switch.proto
pub struct Address {
    pub address: String,
    pub state: &'static str,
    pub hosted: bool,
    pub epoch: u32,
    pub home: Backend,
    pub home_sessions: u64,
    pub destination: Option<Backend>,
    pub destination_sessions: u64,
    pub tracked_ms: u64,
    pub quic: Option<Quic>,
}

/// Where an address speaks QUIC.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Quic in switch.proto
pub struct Quic {
    pub connection_id_length: u32,
    pub ports: Vec<u32>,
}

impl From<proto::Quic> for Quic {
    fn from(quic: proto::Quic) -> Self {
        let proto::Quic { connection_id_length, ports } = quic;
        Self { connection_id_length, ports }
    }
}

/// Where an address's packets can go.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Backend in switch.proto
pub struct Backend {
    pub name: String,
    pub port: String,
    pub mac: String,
    pub rewrite: &'static str,
    pub locator: String,
    pub encap: Option<Encap>,
}

/// The tunnel a backend is behind.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Encap in switch.proto
pub struct Encap {
    pub kind: &'static str,
    pub remote: String,
    pub local: String,
    pub vni: u32,
    pub udp_port: u32,
}

impl TryFrom<proto::Encap> for Encap {
    type Error = Invalid;

    fn try_from(encap: proto::Encap) -> Result<Self, Invalid> {
        let kind = match encap.kind() {
            EncapKind::Ipip => "ipip",
            EncapKind::Gue => "gue",
            EncapKind::Vxlan => "vxlan",
            EncapKind::Unspecified => {
                return Err(Invalid::Unknown { field: "kind", value: encap.kind });
            }
        };
        let proto::Encap { remote, local, vni, udp_port, .. } = encap;
        Ok(Self { kind, remote, local, vni, udp_port })
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = Invalid;

    fn try_from(backend: proto::Backend) -> Result<Self, Invalid> {
        let rewrite = match backend.rewrite() {
            Rewrite::Nat => "nat",
            Rewrite::L2 => "l2",
            Rewrite::Unspecified => {
                return Err(Invalid::Unknown { field: "rewrite", value: backend.rewrite });
            }
        };
        let proto::Backend { name, port, mac, locator, encap, .. } = backend;
        let encap = encap.map(Encap::try_from).transpose()?;
        Ok(Self { name, port, mac, rewrite, locator, encap })
    }
}

impl TryFrom<proto::Address> for Address {
    type Error = Invalid;

    fn try_from(address: proto::Address) -> Result<Self, Invalid> {
        let state = match address.state() {
            AddressState::Bound => "bound",
            AddressState::Tracked => "tracked",
            AddressState::Hosted => "hosted",
            AddressState::Draining => "draining",
            AddressState::Drained => "drained",
            AddressState::Unspecified => {
                return Err(Invalid::Unknown { field: "state", value: address.state });
            }
        };
        let home = address.home.ok_or(Invalid::Missing { message: "Address", field: "home" })?;
        Ok(Self {
            address: address.address,
            state,
            hosted: address.hosted,
            epoch: address.epoch,
            home: home.try_into()?,
            home_sessions: address.home_sessions,
            destination: address.destination.map(Backend::try_from).transpose()?,
            destination_sessions: address.destination_sessions,
            tracked_ms: address.tracked_ms,
            quic: address.quic.map(Quic::from),
        })
    }
}

/// How a migration stands at the box.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of MigrationEvent in switch.proto
pub struct MigrationEvent {
    pub state: &'static str,
    pub epoch: u32,
    pub old_sessions: u64,
    pub new_sessions: u64,
}

impl TryFrom<proto::MigrationEvent> for MigrationEvent {
    type Error = Invalid;

    fn try_from(event: proto::MigrationEvent) -> Result<Self, Invalid> {
        let state = match event.state() {
            MigrationState::Preparing => "preparing",
            MigrationState::Draining => "draining",
            MigrationState::Drained => "drained",
            MigrationState::Released => "released",
            MigrationState::Aborted => "aborted",
            MigrationState::Unspecified => {
                return Err(Invalid::Unknown { field: "state", value: event.state });
            }
        };
        let proto::MigrationEvent { epoch, old_sessions, new_sessions, .. } = event;
        Ok(Self { state, epoch, old_sessions, new_sessions })
    }
}

/// A session.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Session in switch.proto
pub struct Session {
    pub address: String,
    pub protocol: u32,
    pub client: String,
    pub client_port: u32,
    pub address_port: u32,
    pub owner: String,
    pub birth_epoch: u32,
    pub old: bool,
    pub state: &'static str,
    pub idle_ms: u64,
    pub worker: u32,
    pub locator: String,
}

impl TryFrom<proto::Session> for Session {
    type Error = Invalid;

    fn try_from(session: proto::Session) -> Result<Self, Invalid> {
        let state = match session.state() {
            SessionState::Opening => "opening",
            SessionState::Established => "established",
            SessionState::Closing => "closing",
            SessionState::Resetting => "resetting",
            SessionState::Lingering => "lingering",
            SessionState::Unspecified => {
                return Err(Invalid::Unknown { field: "state", value: session.state });
            }
        };
        Ok(Self {
            address: session.address,
            protocol: session.protocol,
            client: session.client,
            client_port: session.client_port,
            address_port: session.address_port,
            owner: session.owner,
            birth_epoch: session.birth_epoch,
            old: session.old,
            state,
            idle_ms: session.idle_ms,
            worker: session.worker,
            locator: session.locator,
        })
    }
}

/// Counters.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Counters in switch.proto
pub struct Counters {
    pub received: u64,
    pub outcomes: Vec<Outcome>,
    pub ports: Vec<PortCounters>,
    pub workers: Vec<WorkerCounters>,
}

/// Packets of one outcome.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Outcome in switch.proto
pub struct Outcome {
    pub name: String,
    pub help: String,
    pub packets: u64,
    pub drop: bool,
}

/// A port's counters.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of PortCounters in switch.proto
pub struct PortCounters {
    pub name: String,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub tx_full_drops: u64,
}

/// A worker's counters.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of WorkerCounters in switch.proto
pub struct WorkerCounters {
    pub worker: u32,
    pub received: u64,
    pub redirected: u64,
    pub sessions: u64,
    pub polls: u64,
    pub idle_sleeps: u64,
    pub half_open_evicted: u64,
    pub quic_moved: u64,
    pub quic_unknown: u64,
    pub outcomes: Vec<Outcome>,
}

impl From<proto::Counters> for Counters {
    fn from(counters: proto::Counters) -> Self {
        let outcome = |outcome: proto::Outcome| Outcome {
            name: outcome.name,
            help: outcome.help,
            packets: outcome.packets,
            drop: outcome.drop,
        };
        let port = |port: proto::PortCounters| PortCounters {
            name: port.name,
            rx_packets: port.rx_packets,
            tx_packets: port.tx_packets,
            rx_bytes: port.rx_bytes,
            tx_bytes: port.tx_bytes,
            tx_full_drops: port.tx_full_drops,
        };
        let worker = |worker: proto::WorkerCounters| WorkerCounters {
            worker: worker.worker,
            received: worker.received,
            redirected: worker.redirected,
            sessions: worker.sessions,
            polls: worker.polls,
            idle_sleeps: worker.idle_sleeps,
            half_open_evicted: worker.half_open_evicted,
            quic_moved: worker.quic_moved,
            quic_unknown: worker.quic_unknown,
            outcomes: worker.outcomes.into_iter().map(outcome).collect(),
        };
        Self {
            received: counters.received,
            outcomes: counters.outcomes.into_iter().map(outcome).collect(),
            ports: counters.ports.into_iter().map(port).collect(),
            workers: counters.workers.into_iter().map(worker).collect(),
        }
    }
}
