//! What the core says, as messages.

use tidegate_api::switch as proto;
use tidegate_dataplane::{
    packet::Tags,
    pipeline::{Import, Outcome},
    session::SessionState,
    steering::{Link, PortRole, Quic, Rewrite},
};

use super::{BoxInfo, encap};
use crate::{
    core::{
        AddressReport, CountersReport, CutoverReport, HandoverReport, MigrationState, PortReport,
        Progress, SessionReport, StatusReport,
    },
    steering::{AddressState, BackendSpec, NO_MAC, Network},
};

pub(super) fn status(report: StatusReport, info: &BoxInfo) -> proto::Status {
    proto::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dpdk_version: info.dpdk_version.clone(),
        workers: report.workers as u32,
        sessions_capacity: info.sessions_capacity.v4.into(),
        sessions_capacity_ipv6: info.sessions_capacity.v6.into(),
        ports: report.ports.into_iter().map(port).collect(),
        hosted_addresses: report.hosted as u64,
        migrations: report.migrations as u64,
        sessions: report.sessions,
        longest_silence_ms: report.longest_silence_ms,
    }
}

pub(super) fn port(report: PortReport) -> proto::Port {
    let PortReport { config, device, mac, info } = report;
    let role = match config.role {
        PortRole::Uplink => proto::PortRole::Uplink,
        PortRole::Access => proto::PortRole::Access,
        // No port of a request or the configuration.
        PortRole::Twin(_) => proto::PortRole::Unspecified,
    };
    let tags = match config.link() {
        Link::Device { tags, .. } => tags,
        Link::Tunnel(_) => Tags::NONE,
    };
    proto::Port {
        device,
        mac: mac.to_string(),
        link_up: info.link_up,
        queues: info.queues.into(),
        addresses: config.addresses.iter().map(ToString::to_string).collect(),
        vlan: if tags == Tags::NONE { String::new() } else { tags.to_string() },
        mtu: config.mtu.into(),
        role: role.into(),
        name: config.name,
    }
}

fn quic(quic: Quic) -> proto::Quic {
    let ports = quic.ports.into_iter().filter(|port| *port != 0).map(u32::from).collect();
    proto::Quic { connection_id_length: quic.connection_id_len.into(), ports }
}

pub(super) fn address(report: &AddressReport, network: &Network) -> proto::Address {
    let address = &report.address;
    let state = match address.state() {
        AddressState::Bound => proto::AddressState::Bound,
        AddressState::Tracked => proto::AddressState::Tracked,
        AddressState::Hosted => proto::AddressState::Hosted,
        AddressState::Draining => proto::AddressState::Draining,
        AddressState::Drained => proto::AddressState::Drained,
    };
    proto::Address {
        address: address.address.to_string(),
        state: state.into(),
        hosted: address.hosted,
        epoch: address.epoch,
        home: Some(backend(&address.home.spec, network)),
        destination: address
            .destination
            .as_ref()
            .map(|target| backend(&target.placed.spec, network)),
        home_sessions: report.home_sessions,
        destination_sessions: report.destination_sessions,
        tracked_ms: report
            .tracked
            .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        quic: address.quic.map(quic),
    }
}

fn backend(spec: &BackendSpec, network: &Network) -> proto::Backend {
    let (rewrite, locator) = match spec.rewrite {
        Rewrite::Nat(locator) => (proto::Rewrite::Nat, locator.to_string()),
        Rewrite::L2 => (proto::Rewrite::L2, String::new()),
    };
    proto::Backend {
        name: spec.name.clone(),
        port: network.port(spec.port).map_or_else(String::new, |port| port.config.name.clone()),
        mac: if spec.mac == NO_MAC { String::new() } else { spec.mac.to_string() },
        encap: spec.tunnel.as_ref().map(encap::message),
        rewrite: rewrite.into(),
        locator,
    }
}

pub(super) fn cutover(report: &CutoverReport) -> proto::CutoverResponse {
    proto::CutoverResponse {
        epoch: report.epoch,
        old_sessions: report.old_sessions,
        workers: report.workers as u32,
        elapsed_ns: u64::try_from(report.elapsed.as_nanos()).unwrap_or(u64::MAX),
    }
}

pub(super) fn handover(report: &HandoverReport, network: &Network) -> proto::ReleaseResponse {
    proto::ReleaseResponse {
        address: Some(address(&report.address, network)),
        forgotten_sessions: 0,
        kept_sessions: report.kept_sessions,
        cut_sessions: report.cut_sessions,
    }
}

pub(super) fn import(import: Import) -> proto::ImportSessionsResponse {
    let Import { imported, known, no_room, not_tracked } = import;
    let refused = [
        ("the session table has no room", no_room),
        ("the address's sessions are not recorded any more", not_tracked),
    ];
    let refused = refused.into_iter().filter(|(_, count)| *count > 0);
    let refused = refused
        .map(|(reason, count)| proto::RefusedSessions { reason: reason.to_owned(), count })
        .collect();
    proto::ImportSessionsResponse { imported, known, refused }
}

pub(super) fn event(progress: Progress) -> proto::MigrationEvent {
    let state = match progress.state {
        MigrationState::Preparing => proto::MigrationState::Preparing,
        MigrationState::Draining => proto::MigrationState::Draining,
        MigrationState::Drained => proto::MigrationState::Drained,
        MigrationState::Released => proto::MigrationState::Released,
        MigrationState::Aborted => proto::MigrationState::Aborted,
    };
    proto::MigrationEvent {
        state: state.into(),
        epoch: progress.epoch,
        old_sessions: progress.old_sessions,
        new_sessions: progress.new_sessions,
    }
}

pub(super) fn session(report: SessionReport) -> proto::Session {
    let record = report.record;
    let state = match record.state {
        SessionState::Opening => proto::SessionState::Opening,
        SessionState::Established => proto::SessionState::Established,
        SessionState::Closing => proto::SessionState::Closing,
        SessionState::Resetting => proto::SessionState::Resetting,
        SessionState::Lingering => proto::SessionState::Lingering,
    };
    let locator = Some(record.tuple.address).filter(|named| *named != report.address);
    proto::Session {
        address: report.address.to_string(),
        locator: locator.map(|it| it.to_string()).unwrap_or_default(),
        protocol: record.tuple.protocol.into(),
        client: record.tuple.client.to_string(),
        client_port: record.tuple.client_port.into(),
        address_port: record.tuple.address_port.into(),
        owner: report.owner,
        birth_epoch: record.birth_epoch,
        old: report.old,
        state: state.into(),
        idle_ms: record.idle_ms,
        worker: report.worker as u32,
    }
}

pub(super) fn counters(report: CountersReport) -> proto::Counters {
    let outcomes = report.outcomes.iter().map(|(outcome, packets)| outcome_of(*outcome, *packets));
    let ports = report.ports.into_iter().map(|(name, stats)| proto::PortCounters {
        name,
        rx_packets: stats.rx_packets,
        tx_packets: stats.tx_packets,
        rx_bytes: stats.rx_bytes,
        tx_bytes: stats.tx_bytes,
        tx_full_drops: stats.tx_full_drops,
    });
    let workers = (0..).zip(&report.workers).map(|(worker, counters)| proto::WorkerCounters {
        worker,
        received: counters.received,
        redirected: counters.redirected,
        sessions: counters.sessions,
        polls: counters.polls,
        idle_sleeps: counters.idle_sleeps,
        half_open_evicted: counters.half_open_evicted,
        quic_moved: counters.quic_moved,
        quic_unknown: counters.quic_unknown,
        outcomes: counters
            .outcomes
            .iter()
            .map(|(outcome, packets)| outcome_of(*outcome, *packets))
            .collect(),
    });
    proto::Counters {
        received: report.workers.iter().map(|worker| worker.received).sum(),
        outcomes: outcomes.collect(),
        ports: ports.collect(),
        workers: workers.collect(),
    }
}

fn outcome_of(outcome: Outcome, packets: u64) -> proto::Outcome {
    proto::Outcome {
        name: outcome.name().to_owned(),
        help: outcome.help().to_owned(),
        packets,
        drop: outcome.is_drop(),
    }
}
