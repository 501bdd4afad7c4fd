//! Rings between workers: every ordered pair has one.

use rtrb::{Consumer, Producer, RingBuffer};
use tidegate_dataplane::{pipeline::Outcome, steering::PortId};
use tidegate_dpdk::Mbuf;

/// Packets one ring holds.
pub(crate) const DEPTH: usize = 1024;

/// A packet on its way to another worker.
pub(crate) enum Parcel {
    /// Its shard owns the session: take it through from the start. It arrived on this port.
    Process(PortId, Mbuf),
    /// It is finished, and the port's only transmit queue belongs to that worker.
    Transmit(PortId, Outcome, Mbuf),
}

/// One worker's ends of the mesh, by the other worker's number; its own place is `None`.
pub(crate) struct MeshEnd {
    pub(crate) to: Vec<Option<Producer<Parcel>>>,
    pub(crate) from: Vec<Option<Consumer<Parcel>>>,
}

/// The mesh of `workers` workers.
pub(crate) fn mesh(workers: usize) -> Vec<MeshEnd> {
    let empty = || MeshEnd {
        to: (0..workers).map(|_| None).collect(),
        from: (0..workers).map(|_| None).collect(),
    };
    let mut ends: Vec<MeshEnd> = (0..workers).map(|_| empty()).collect();
    for sender in 0..workers {
        for receiver in (0..workers).filter(|&receiver| receiver != sender) {
            let (producer, consumer) = RingBuffer::new(DEPTH);
            ends[sender].to[receiver] = Some(producer);
            ends[receiver].from[sender] = Some(consumer);
        }
    }
    ends
}
