//! The real workers behind the [`Dataplane`] edge.

use std::{net::IpAddr, sync::Arc};

use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{Import, ImportedSession, Punt},
    session::SessionRecord,
    steering::{PortId, RouteChange, RouteTables, Snapshot},
};
use tidegate_switch::{
    config::{Config, Idle, PortConfig, RoutesIn},
    dataplane::{Acknowledged, Counted, Dataplane, DataplaneError, PortInfo, PortStats},
    steering::Network,
};
use tidegate_worker::{PortReport, PortSpec, StartError, WorkerError, Workers, WorkersConfig};

/// The running workers, and the ports as last looked at.
struct DpdkWorkers {
    workers: Workers,
    ports: Vec<PortInfo>,
}

/// Open the ports and launch the workers of `config`; they drop everything until the first snapshot.
pub(crate) fn start(config: &Config) -> Result<(Box<dyn Dataplane>, Network), StartError> {
    let workers = Workers::start(&workers_config(config))?;
    let reports = workers.ports();
    let ports = devices(config).zip(&reports).map(info).collect();
    let macs: Vec<_> = reports.iter().map(|report| report.mac).collect();
    Ok((Box::new(DpdkWorkers { workers, ports }), Network::new(config, &macs)))
}

fn workers_config(config: &Config) -> WorkersConfig {
    let port = |(port, device): (&PortConfig, &str)| PortSpec {
        name: port.name.clone(),
        device: device.to_owned(),
        mac: port.mac,
        mac_of: None,
        mtu: port.mtu,
    };
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
    let twins = config.ports.iter().enumerate().filter_map(twin);
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
        ports: devices(config).map(port).chain(twins).collect(),
    }
}

/// The ports that have a device of their own. They come first, so that their numbers are those of the devices.
fn devices(config: &Config) -> impl Iterator<Item = (&PortConfig, &str)> {
    config.ports.iter().filter_map(|port| Some((port, port.device()?)))
}

fn info(((port, device), report): ((&PortConfig, &str), &PortReport)) -> PortInfo {
    PortInfo {
        name: port.name.clone(),
        device: device.to_owned(),
        mac: report.mac,
        link_up: report.link_up,
        queues: report.queues,
    }
}

fn failed(error: WorkerError) -> DataplaneError {
    match error {
        WorkerError::Silent { worker, waited } => DataplaneError::NoAnswer { worker, waited },
        WorkerError::Stopped { worker } => DataplaneError::WorkerStopped { worker },
        WorkerError::OldRoutes { waited } => DataplaneError::OldRoutes { waited },
        WorkerError::NoBuffer => DataplaneError::NoBuffer,
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

    fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    fn refresh_ports(&mut self) {
        for (port, report) in self.ports.iter_mut().zip(self.workers.ports()) {
            port.link_up = report.link_up;
        }
    }

    fn port_stats(&mut self) -> Vec<PortStats> {
        let full = |port| {
            let workers = 0..self.workers.count();
            workers.map(|worker| self.workers.counters(worker).transmit_full(port)).sum()
        };
        let stats =
            (0..).map(PortId).zip(self.workers.port_stats()).map(|(port, stats)| PortStats {
                rx_packets: stats.rx_packets,
                tx_packets: stats.tx_packets,
                rx_bytes: stats.rx_bytes,
                tx_bytes: stats.tx_bytes,
                tx_full_drops: full(port),
            });
        stats.collect()
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
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<Vec<(usize, SessionRecord)>, DataplaneError> {
        self.workers.sessions(address, limit).map_err(failed)
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
