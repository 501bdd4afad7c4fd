//! The edge between the control core and the workers.
//!
//! Real workers stand behind it in `tidegated`; tests put shards there that are driven by hand.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tidegate_dataplane::{
    counters::ShardCounters,
    packet::Mac,
    pipeline::{Import, ImportedSession, Punt},
    session::SessionRecord,
    steering::{BackendSlot, PortId, RouteChange, RouteTables, Snapshot},
};

use crate::config::PortConfig;

/// A port as the device reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Whether its link was up when last looked at.
    pub link_up: bool,
    /// Its receive queues.
    pub queues: u16,
}

/// Why a port was not opened or closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortFailure {
    /// The device is at fault; the text says which and why.
    #[error("{0}")]
    Device(String),
    /// There are as many ports as there may be.
    #[error("{0}")]
    Full(String),
    /// A worker is at fault.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

/// What a port has moved since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped because the peer's queue was full.
    pub tx_full_drops: u64,
}

/// Live sessions of a backend at the instant each worker took a snapshot up, summed over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The backend.
    pub slot: BackendSlot,
    /// Its live sessions.
    pub live: u64,
    /// Those of them that it began itself.
    pub begun_by_vm: u64,
}

/// Every worker acts on the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// From publishing to the last acknowledgement.
    pub elapsed: Duration,
    /// For each of the snapshot's counted slots.
    pub counted: Vec<Counted>,
}

/// Why the workers could not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataplaneError {
    /// A worker has ended.
    #[error("worker {worker} has stopped; restart tidegated")]
    WorkerStopped {
        /// Which.
        worker: usize,
    },
    /// A worker did not acknowledge a snapshot or answer a question.
    #[error("worker {worker} did not answer within {} ms; it is stuck or overloaded", waited.as_millis())]
    NoAnswer {
        /// Which.
        worker: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// A worker holds on to route tables that were to be changed.
    #[error("a worker still used old route tables after {} ms; it is stuck or overloaded", waited.as_millis())]
    OldRoutes {
        /// How long was waited.
        waited: Duration,
    },
    /// Every packet buffer is in use, or the frame does not fit one.
    #[error("no packet buffer is free for a frame of the control core; raise `mbufs` in [eal]")]
    NoBuffer,
}

/// The workers as the control core sees them. Owned by one thread.
pub trait Dataplane: Send {
    /// How many workers there are.
    fn workers(&self) -> usize;

    /// Tell the route tables these changes, and give them as they are then. Those of snapshots in use are as they were.
    ///
    /// # Errors
    /// [`DataplaneError::OldRoutes`] when a worker holds on to the ones before.
    fn change_routes(&mut self, changes: &[RouteChange]) -> Result<RouteTables, DataplaneError>;

    /// The workers' clock, milliseconds.
    fn now_ms(&self) -> u64;

    /// A worker that has ended although nobody told it to: its sessions' packets go nowhere.
    fn stopped_worker(&self) -> Option<usize>;

    /// The ports, by [`PortId`]; `link_up` is as of the last [`Dataplane::refresh_ports`].
    fn ports(&self) -> &[Option<PortInfo>];

    /// Open this device as a port and have every worker take it up. Gives its number, which no other port has, and the MAC
    /// it really has.
    ///
    /// # Errors
    /// [`PortFailure`].
    fn add_port(&mut self, port: &PortConfig, device: &str) -> Result<(PortId, Mac), PortFailure>;

    /// Have every worker let go of a port that no snapshot in force names, and close it.
    ///
    /// # Errors
    /// [`PortFailure`].
    fn remove_port(&mut self, port: PortId) -> Result<(), PortFailure>;

    /// For `time` from now on, keep what the port's device does not take, in order, as long as there is room.
    ///
    /// # Errors
    /// [`PortFailure`].
    fn hold_port(&mut self, port: PortId, time: Duration) -> Result<(), PortFailure>;

    /// End that. Gives how many packets had to wait; 0 when it was over.
    ///
    /// # Errors
    /// [`PortFailure`].
    fn release_port(&mut self, port: PortId) -> Result<u64, PortFailure>;

    /// Ask the devices for their links' state.
    fn refresh_ports(&mut self);

    /// What a port has moved.
    fn port_stats(&mut self, port: PortId) -> PortStats;

    /// Hand the snapshot to every worker and wait until all acknowledged.
    ///
    /// # Errors
    /// [`DataplaneError`] when not all did; some may act on it.
    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<Acknowledged, DataplaneError>;

    /// The counters of the worker's shard.
    ///
    /// # Panics
    /// When there is no such worker.
    fn counters(&self, worker: usize) -> &ShardCounters;

    /// Sessions with their worker: those with these addresses, or all if none is given; at most `limit`.
    ///
    /// # Errors
    /// [`DataplaneError`] when a worker did not answer.
    fn sessions(
        &mut self,
        addresses: &[IpAddr],
        limit: usize,
    ) -> Result<Vec<(usize, SessionRecord)>, DataplaneError>;

    /// Take up sessions of home backends that the workers have not seen begin.
    ///
    /// # Errors
    /// [`DataplaneError`] when a worker did not answer; some may have taken theirs up.
    fn import(&mut self, sessions: &[ImportedSession]) -> Result<Import, DataplaneError>;

    /// Send a frame of the control plane: an ARP announcement or request.
    ///
    /// # Errors
    /// [`DataplaneError`] when it could not be handed to a worker.
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), DataplaneError>;

    /// Give what the workers noticed since the last call to `each`.
    fn take_punts(&mut self, each: &mut dyn FnMut(Punt));
}
