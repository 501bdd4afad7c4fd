//! Between the control core and one worker: two single-producer rings and the shard's counters.
//!
//! The worker never waits for the control core and never frees what the control core made: used snapshots and filled
//! listings go back by the report ring.

use std::{hint::black_box, mem::MaybeUninit, net::IpAddr, sync::Arc};

use rtrb::{Consumer, Producer, RingBuffer};
use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{Import, ImportedSession, Punt},
    session::SessionRecord,
    steering::{PortId, Snapshot},
};
use tidegate_dpdk::{Mbuf, RxQueue};

use crate::{
    hold::{Hold, HoldOrder},
    outbox::Exit,
};

/// Orders under way at once; the control core waits for each but transmissions.
const ORDERS: usize = 64;
/// Reports not yet read; punts beyond are forgotten, because what caused them comes again.
const REPORTS: usize = 512;

/// From the control core to a worker.
pub(crate) enum Order {
    /// Act on this snapshot from now on.
    Install(Arc<Snapshot>),
    /// Fill this listing.
    List(Box<Listing>),
    /// Take these sessions up.
    Import(Box<ImportList>),
    /// Send this frame.
    Transmit(PortId, Mbuf),
    /// Take this port up.
    TakeUp(Box<PortShare>),
    /// Put into this what there is of its port, and let go of the port.
    LetGo(Box<PortShare>),
    /// Hold this port from now on, or until later than was said.
    Hold(Box<HoldOrder>),
    /// Hold it only until what is kept has left.
    Release(Box<HoldOrder>),
    /// End.
    Stop,
}

/// From a worker to the control core.
pub(crate) enum Report {
    /// No longer in use.
    Retired(Arc<Snapshot>),
    /// Full or complete.
    Listed(Box<Listing>),
    /// All of them have been looked at.
    Imported(Box<ImportList>),
    /// Of a port taken up, empty; of one let go, what the worker had of it.
    Share(Box<PortShare>),
    /// The hold is as ordered.
    Held(Box<HoldOrder>),
    /// A hold came to its end by itself.
    HoldOver(Box<Hold>),
    /// Noticed in a packet.
    Noticed(Punt),
}

/// What a worker has of a port. Made and dropped by the control core: a worker must neither allocate nor stop a port.
pub(crate) struct PortShare {
    pub(crate) port: PortId,
    /// Its receive queue, if it has one there.
    pub(crate) entry: Option<RxQueue>,
    /// Where it sends the port's packets.
    pub(crate) exit: Exit,
}

/// Sessions to take up, and how far that is.
#[derive(Debug)]
pub(crate) struct ImportList {
    pub(crate) sessions: Vec<ImportedSession>,
    /// How many of them have been looked at.
    pub(crate) done: usize,
    /// What became of those.
    pub(crate) import: Import,
}

/// A request to copy sessions, and the copies.
#[derive(Debug)]
pub struct Listing {
    /// Only with these addresses, unless there are none.
    pub addresses: Vec<IpAddr>,
    /// The copies; never more than its capacity when it was sent.
    pub records: Vec<SessionRecord>,
    /// Table place to go on from; `None` when the whole table was seen.
    pub next: Option<u32>,
}

impl Listing {
    /// With room for `room` copies.
    ///
    /// The control core touches the memory, so that the worker takes no page fault when it writes there: packets would
    /// wait for the kernel.
    pub(crate) fn with_room(addresses: Vec<IpAddr>, room: usize) -> Self {
        // The compiler must not see that the memory is new: it would ask for zeroed memory, which is not touched either.
        let mut records = black_box(Vec::with_capacity(room));
        records.spare_capacity_mut().fill_with(MaybeUninit::zeroed);
        Self { addresses, records, next: Some(0) }
    }
}

/// The control core's end.
pub(crate) struct ControlEnd {
    pub(crate) orders: Producer<Order>,
    pub(crate) reports: Consumer<Report>,
    pub(crate) counters: Arc<ShardCounters>,
}

/// The worker's end.
pub(crate) struct WorkerEnd {
    pub(crate) orders: Consumer<Order>,
    pub(crate) reports: Producer<Report>,
}

pub(crate) fn link(counters: Arc<ShardCounters>) -> (ControlEnd, WorkerEnd) {
    let (to_worker, orders) = RingBuffer::new(ORDERS);
    let (reports, from_worker) = RingBuffer::new(REPORTS);
    let control = ControlEnd { orders: to_worker, reports: from_worker, counters };
    (control, WorkerEnd { orders, reports })
}

impl WorkerEnd {
    /// Report what may be forgotten when the control core is behind.
    pub(crate) fn notice(&mut self, punt: Punt) {
        // Room is kept for what must not be lost.
        if self.reports.slots() > ORDERS {
            let _ = self.reports.push(Report::Noticed(punt));
        }
    }

    /// Report what must arrive. There is room: at most one such report per order, and `notice` leaves as many.
    pub(crate) fn answer(&mut self, report: Report) {
        let pushed = self.reports.push(report);
        debug_assert!(pushed.is_ok(), "the report ring has room for an answer to every order");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use tidegate_dataplane::{
        packet::protocol,
        session::{Session, SessionKey, SessionState},
        steering::BackendSlot,
    };

    use super::*;

    /// Page faults of this thread that were served without a disk: the tenth field of its `stat`.
    fn faults() -> u64 {
        let stat = fs::read_to_string("/proc/thread-self/stat").expect("there");
        let (_, after_name) = stat.rsplit_once(')').expect("a name");
        after_name.split_whitespace().nth(7).expect("a field").parse().expect("a number")
    }

    #[test]
    fn who_fills_a_listing_takes_no_page_fault() {
        let key = SessionKey::new((1u32, 2), (3, 4), protocol::TCP);
        let record =
            Session::new(&key, BackendSlot(0), 1, SessionState::Established, false, 0).record(0);
        // So much that the allocator gets it from the kernel anew.
        let mut listing = Box::new(Listing::with_room(Vec::new(), 1 << 18));
        let taken = thread::spawn(move || {
            // Whatever reading the number touches is touched now.
            faults();
            let before = faults();
            while listing.records.len() < listing.records.capacity() {
                listing.records.push(record);
            }
            faults() - before
        });
        let taken = taken.join().expect("no panic");
        assert!(taken < 8, "{taken} page faults");
    }
}
