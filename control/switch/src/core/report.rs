//! What the core tells about itself.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tidegate_dataplane::{packet::Mac, pipeline::Outcome, session::SessionRecord};

use super::{Core, CoreError};
use crate::{
    config::PortConfig,
    dataplane::{PortInfo, PortStats},
    steering::Address,
};

/// An address and its live sessions.
#[derive(Clone, Debug)]
pub struct AddressReport {
    /// Its record.
    pub address: Address,
    /// For how long its sessions have been recorded, if they are.
    pub tracked: Option<Duration>,
    /// Live sessions of the home.
    pub home_sessions: u64,
    /// Live sessions of the destination.
    pub destination_sessions: u64,
}

/// A session, where it is and whose.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Worker that has it.
    pub worker: usize,
    /// The managed address it belongs to; its client may have named a locator instead.
    pub address: IpAddr,
    /// What the shard says of it.
    pub record: SessionRecord,
    /// Name of the owner.
    pub owner: String,
    /// Whether it was born before the migration's epoch.
    pub old: bool,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// What is configured on it.
    pub config: PortConfig,
    /// The device that carries its frames.
    pub device: String,
    /// The MAC it really has.
    pub mac: Mac,
    /// What its device says.
    pub info: PortInfo,
}

/// The box as a whole.
#[derive(Clone, Debug)]
pub struct StatusReport {
    /// Number of workers.
    pub workers: usize,
    /// Ports.
    pub ports: Vec<PortReport>,
    /// Hosted addresses.
    pub hosted: usize,
    /// Migrations in progress.
    pub migrations: usize,
    /// Session table entries of all workers.
    pub sessions: u64,
    /// How long a session may be silent at most.
    pub longest_silence_ms: u64,
}

/// One worker's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// Packets taken from ports.
    pub received: u64,
    /// Packets handed to the worker that owns their session.
    pub redirected: u64,
    /// Session table entries.
    pub sessions: u64,
    /// Poll rounds.
    pub polls: u64,
    /// Sleeps for want of packets.
    pub idle_sleeps: u64,
    /// Sessions that were only begun and made room for others.
    pub half_open_evicted: u64,
    /// QUIC clients whose address changed, and whose connection was known by its ID.
    pub quic_moved: u64,
    /// Packets of QUIC connections that have no session and an ID nobody knows.
    pub quic_unknown: u64,
    /// Packets by how they ended.
    pub outcomes: Vec<(Outcome, u64)>,
}

/// All counters.
#[derive(Clone, Debug)]
pub struct CountersReport {
    /// Packets by how they ended, summed over workers.
    pub outcomes: Vec<(Outcome, u64)>,
    /// By worker.
    pub workers: Vec<WorkerReport>,
    /// By port, with its name.
    pub ports: Vec<(String, PortStats)>,
}

impl Core {
    /// One address.
    pub fn address(&self, address: IpAddr) -> Result<AddressReport, CoreError> {
        Ok(self.report(self.steering.get(address)?))
    }

    /// All addresses, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<AddressReport> {
        self.steering.addresses().map(|address| self.report(address)).collect()
    }

    fn report(&self, address: &Address) -> AddressReport {
        let destination = address.destination.as_ref();
        AddressReport {
            address: address.clone(),
            tracked: address.tracked.then(|| address.tracked_since.elapsed()),
            // What the shards have yet to forget of an untracked address is no session any more.
            home_sessions: if address.tracked { self.live(address.home.slot) } else { 0 },
            destination_sessions: destination.map_or(0, |target| self.live(target.placed.slot)),
        }
    }

    /// The box as a whole.
    pub fn status(&mut self) -> StatusReport {
        self.dataplane.refresh_ports();
        StatusReport {
            workers: self.dataplane.workers(),
            ports: self.network.ports().iter().filter_map(|port| self.port_report(port)).collect(),
            hosted: self.steering.addresses().filter(|address| address.hosted).count(),
            migrations: self
                .steering
                .addresses()
                .filter(|address| address.destination.is_some())
                .count(),
            sessions: self.workers().iter().map(|worker| worker.sessions).sum(),
            longest_silence_ms: self.network.timeouts().longest_ms(),
        }
    }

    /// Sessions of `address`, those with its backends' locators among them, or of all; at most `limit`.
    pub fn sessions(
        &mut self,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<Vec<SessionReport>, CoreError> {
        let ways_in = match address {
            Some(address) => self.steering.get(address)?.ways_in().collect(),
            None => Vec::new(),
        };
        let listed = self.dataplane.sessions(&ways_in, limit)?;
        let wanted = self
            .steering
            .addresses()
            .filter(|record| address.is_none_or(|only| only == record.address));
        let tracked = wanted.filter(|record| record.tracked);
        let owners: HashMap<_, _> = tracked
            .flat_map(|record| {
                record.ways_in().flat_map(move |way| {
                    record.backends().map(move |placed| ((way, placed.slot), (record, placed)))
                })
            })
            .collect();
        let report = |(worker, session): (usize, SessionRecord)| {
            // Without an owner it is forgotten; the shard will notice.
            let (record, placed) = owners.get(&(session.tuple.address, session.owner))?;
            let cut_over =
                record.destination.as_ref().is_some_and(|target| target.cut_over.is_some());
            let old = cut_over && session.birth_epoch < record.epoch;
            let (address, owner) = (record.address, placed.spec.name.clone());
            Some(SessionReport { worker, address, record: session, owner, old })
        };
        Ok(listed.into_iter().filter_map(report).collect())
    }

    /// All counters.
    pub fn counters(&mut self) -> CountersReport {
        let (network, dataplane) = (&self.network, &mut self.dataplane);
        let ports = network
            .ports()
            .iter()
            .filter(|port| port.config.device().is_some())
            .map(|port| (port.config.name.clone(), dataplane.port_stats(port.config.id)));
        let ports = ports.collect();
        let workers = self.workers();
        let mut outcomes = Outcome::ALL.map(|outcome| (outcome, 0));
        // Of one reading, so that the sum is that of the workers.
        for (sum, (_, packets)) in workers.iter().flat_map(|it| (0..).zip(&it.outcomes)) {
            let sum: usize = sum;
            outcomes[sum].1 += packets;
        }
        CountersReport { outcomes: outcomes.to_vec(), workers, ports }
    }

    fn workers(&self) -> Vec<WorkerReport> {
        let of = |worker| {
            let counters = self.dataplane.counters(worker);
            WorkerReport {
                received: counters.received.get(),
                redirected: counters.redirected.get(),
                sessions: counters.sessions.get(),
                polls: counters.polls.get(),
                idle_sleeps: counters.idle_sleeps.get(),
                half_open_evicted: counters.half_open_evicted.get(),
                quic_moved: counters.quic_moved.get(),
                quic_unknown: counters.quic_unknown.get(),
                outcomes: Outcome::ALL.map(|outcome| (outcome, counters.outcome(outcome))).to_vec(),
            }
        };
        (0..self.dataplane.workers()).map(of).collect()
    }
}
