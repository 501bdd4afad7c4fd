//! The real workers behind the [`Dataplane`] edge.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tidegate_dataplane::{
    counters::ShardCounters,
    packet::Mac,
    pipeline::{Import, ImportedSession, Punt},
    session::SessionRecord,
    steering::{PortId, RouteChange, RouteTables, Snapshot},
};
use tidegate_switch::{
    config::{Config, Idle, PortConfig, RoutesIn},
    dataplane::{
        Acknowledged, Counted, Dataplane, DataplaneError, PortFailure, PortInfo, PortStats,
    },
    steering::Network,
};
use tidegate_worker::{
    PortError, PortReport, PortSpec, StartError, WorkerError, Workers, WorkersConfig,
};

/// The running workers, and the ports as last looked at.
struct DpdkWorkers {
    workers: Workers,
    ports: Vec<Option<PortInfo>>,
}

/// Open the ports and launch the workers of `config`; they drop everything until the first snapshot.
pub(crate) fn start(config: &Config) -> Result<(Box<dyn Dataplane>, Network), StartError> {
    let workers = Workers::start(&workers_config(config))?;
    let reports = workers.ports();
    // The configured ones have the first numbers.
    let macs: Vec<_> = reports.iter().flatten().map(|report| report.mac).collect();
    let ports = reports.iter().map(|report| report.as_ref().map(info)).collect();
    Ok((Box::new(DpdkWorkers { workers, ports }), Network::new(config, &macs)))
}

fn spec(port: &PortConfig, device: &str) -> PortSpec {
    PortSpec {
        name: port.name.clone(),
        device: device.to_owned(),
        mac: port.mac,
        mac_of: None,
        mtu: port.mtu,
    }
}

fn workers_config(config: &Config) -> WorkersConfig {
    let twin = |(number, port): (usize, &PortConfig)| {
        let interface = port.twin.as_ref()?;
        Some(PortSpec {
            name: format!("{}'s twin", port.name),
            device: format!("net_tap_twin{number},iface={interface}"),
            mac: None,
            mac_of: Some(number),
            mtu: port.mtu,
        })
    };
    let twins: Vec<_> = config.ports.iter().enumerate().filter_map(twin).collect();
    WorkersConfig {
        hugepages: config.eal.hugepages,
        memory_mib: config.eal.memory_mib,
        mbufs: config.eal.mbufs,
        routes: match config.routes_in {
            RoutesIn::Lpm => tidegate_worker::Routes::Lpm,
            RoutesIn::Map => tidegate_worker::Routes::Map,
        },
        eal_args: config.eal.args.clone(),
        cpus: config.workers.cpus.clone(),
        idle: match config.workers.idle {
            Idle::Sleep => tidegate_worker::Idle::Sleep,
            Idle::Poll => tidegate_worker::Idle::Poll,
        },
        sessions: config.workers.sessions,
        max_ports: config.eal.max_ports + twins.len() as u16,
        ports: devices(config).map(|(port, device)| spec(port, device)).chain(twins).collect(),
    }
}

/// The ports that have a device of their own. They come first, so that their numbers are those of the devices.
fn devices(config: &Config) -> impl Iterator<Item = (&PortConfig, &str)> {
    config.ports.iter().filter_map(|port| Some((port, port.device()?)))
}

fn info(report: &PortReport) -> PortInfo {
    PortInfo { link_up: report.link_up, queues: report.queues }
}

fn failed(error: WorkerError) -> DataplaneError {
    match error {
        WorkerError::Silent { worker, waited } => DataplaneError::NoAnswer { worker, waited },
        WorkerError::Stopped { worker } => DataplaneError::WorkerStopped { worker },
        WorkerError::OldRoutes { waited } => DataplaneError::OldRoutes { waited },
        WorkerError::NoBuffer => DataplaneError::NoBuffer,
    }
}

fn port_failed(error: PortError) -> PortFailure {
    match error {
        PortError::Worker(error) => failed(error).into(),
        PortError::Full { .. } => PortFailure::Full(error.to_string()),
        other => PortFailure::Device(other.to_string()),
    }
}

impl Dataplane for DpdkWorkers {
    fn workers(&self) -> usize {
        self.workers.count()
    }

    fn change_routes(&mut self, changes: &[RouteChange]) -> Result<RouteTables, DataplaneError> {
        self.workers.change_routes(changes).map_err(failed)
    }

    fn now_ms(&self) -> u64 {
        self.workers.now_ms()
    }

    fn stopped_worker(&self) -> Option<usize> {
        self.workers.stopped()
    }

    fn ports(&self) -> &[Option<PortInfo>] {
        &self.ports
    }

    fn add_port(&mut self, port: &PortConfig, device: &str) -> Result<(PortId, Mac), PortFailure> {
        let id = self.workers.add_port(&spec(port, device)).map_err(port_failed)?;
        let at = usize::from(id.0);
        let report =
            self.workers.ports()[at].ok_or_else(|| port_failed(PortError::Unknown { port: id }))?;
        self.ports[at] = Some(info(&report));
        Ok((id, report.mac))
    }

    fn remove_port(&mut self, port: PortId) -> Result<(), PortFailure> {
        let removed = self.workers.remove_port(port);
        if !matches!(removed, Err(PortError::Worker(_))) {
            self.ports[usize::from(port.0)] = None;
        }
        removed.map_err(port_failed)
    }

    fn hold_port(&mut self, port: PortId, time: Duration) -> Result<(), PortFailure> {
        let until_ms = self.workers.now_ms().saturating_add(time.as_millis() as u64);
        self.workers.hold_port(port, until_ms).map_err(port_failed)
    }

    fn release_port(&mut self, port: PortId) -> Result<u64, PortFailure> {
        self.workers.release_port(port).map_err(port_failed)
    }

    fn refresh_ports(&mut self) {
        for (port, report) in self.ports.iter_mut().zip(self.workers.ports()) {
            if let (Some(port), Some(report)) = (port, report) {
                port.link_up = report.link_up;
            }
        }
    }

    fn port_stats(&mut self, port: PortId) -> PortStats {
        let stats = self.workers.port_stats(port);
        PortStats {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            tx_full_drops: self.workers.transmit_full(port),
        }
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<Acknowledged, DataplaneError> {
        let acknowledged = self.workers.publish(&snapshot).map_err(failed)?;
        let counted = |it: &tidegate_worker::Counted| Counted {
            slot: it.slot,
            live: it.live,
            begun_by_vm: it.begun_by_vm,
        };
        let counted = acknowledged.counted.iter().map(counted).collect();
        Ok(Acknowledged { elapsed: acknowledged.elapsed, counted })
    }

    fn counters(&self, worker: usize) -> &ShardCounters {
        self.workers.counters(worker)
    }

    fn sessions(
        &mut self,
        addresses: &[IpAddr],
        limit: usize,
    ) -> Result<Vec<(usize, SessionRecord)>, DataplaneError> {
        self.workers.sessions(addresses, limit).map_err(failed)
    }

    fn import(&mut self, sessions: &[ImportedSession]) -> Result<Import, DataplaneError> {
        self.workers.import(sessions).map_err(failed)
    }

    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), DataplaneError> {
        self.workers.transmit(port, frame).map_err(failed)
    }

    fn take_punts(&mut self, each: &mut dyn FnMut(Punt)) {
        self.workers.take_punts().for_each(each);
    }
}
