//! Receive and transmit queues of a started port.

use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use crate::burst::Burst;
use crate::start::Started;

/// One receive and one transmit queue of the same number. Take it apart to give the halves away.
#[derive(Debug)]
pub struct QueuePair {
    /// Where packets come from.
    pub rx: RxQueue,
    /// Where packets go to.
    pub tx: TxQueue,
}

impl QueuePair {
    /// Called once per number and start of the port (`Port::start`): that is what makes the handles unique.
    pub(crate) fn new(started: &Arc<Started>, number: u16) -> Self {
        let port = started.port_id();
        Self {
            rx: RxQueue { port, queue: number, _started: Arc::clone(started) },
            tx: TxQueue { port, queue: number, _started: Arc::clone(started) },
        }
    }
}

/// The only handle to a receive queue. While it lives the port stays started.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    _started: Arc<Started>,
}

impl RxQueue {
    /// The queue's number on its port.
    pub fn number(&self) -> u16 {
        self.queue
    }

    /// Receives into the free places of the burst, behind what is there; returns how many were added.
    /// Never waits. Vectorised drivers round the free places down to 4 or more, so poll with an empty burst.
    /// (`rte_eth_rx_burst`)
    #[inline]
    pub fn rx_burst<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        // SAFETY: the port is started and the queue set up (`_started`), only this value polls it (`&mut`, not
        // Clone, made once), and there is room for `room` pointers (`fill`). The driver hands over what it
        // returns.
        burst
            .fill(|spare, room| unsafe { sys::tg_eth_rx_burst(self.port, self.queue, spare, room) })
    }
}

/// The only handle to a transmit queue. While it lives the port stays started.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    _started: Arc<Started>,
}

impl TxQueue {
    /// The queue's number on its port.
    pub fn number(&self) -> u16 {
        self.queue
    }

    /// Hands the burst to the driver and returns what it did not take, in order: the tail, when the queue is
    /// full. Never waits. (`rte_eth_tx_burst`)
    #[inline]
    #[must_use = "dropping the rest frees packets that were not sent; count them"]
    pub fn tx_burst<const N: usize>(&mut self, mut burst: Burst<N>) -> Burst<N> {
        self.tx_drain(&mut burst);
        burst
    }

    /// As [`TxQueue::tx_burst`], in place: what the driver took has left the burst, the rest has moved to its
    /// front. Returns how many it took.
    #[inline]
    pub fn tx_drain<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let (mbufs, len) = burst.raw_parts();
        // SAFETY: the port is started and the queue set up (`_started`), only this value uses it (`&mut`, not
        // Clone, made once), and `mbufs` holds `len` owned mbufs. The driver owns the first `taken` from here
        // on, and the burst gives up exactly those.
        let taken = unsafe {
            let taken = sys::tg_eth_tx_burst(self.port, self.queue, mbufs, len);
            burst.release_front(taken);
            taken
        };
        usize::from(taken)
    }
}
