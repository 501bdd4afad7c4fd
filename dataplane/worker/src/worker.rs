//! One worker: a loop on one CPU that owns its queues and its shard.
//!
//! A round: orders of the control core, a burst from each port, packets from other workers, upkeep. What came from one
//! port leaves before the next one's burst is taken: it does not wait for a port that is flooded. Nothing in a round
//! waits, locks or allocates; the one system call is the sleep of an idle worker.

use std::{mem, sync::Arc};

use tidegate_dataplane::{
    pipeline::{BURST, Origin, Outcome, Released, Shard, Verdict},
    steering::{PortId, Snapshot},
};
use tidegate_dpdk::{Burst, Mbuf, RxQueue, burst::Drain};

use crate::{
    clock::Clock,
    held::Held,
    hold::HoldOrder,
    host_limit::HostLimit,
    idle::Idler,
    link::{ImportList, Listing, Order, PortShare, Report, WorkerEnd},
    mesh::{MeshEnd, Parcel},
    outbox::Exit,
};

/// Table places looked at for expired sessions in a round with packets, besides those that new sessions call for.
const SWEPT_BUSY: u32 = 4;
/// The same in a round without packets.
const SWEPT_IDLE: u32 = 128;
/// Rounds between two pieces of a listing while packets flow.
const LISTED_EVERY: u32 = 16;
/// Sessions in one piece of an import.
const IMPORTED: usize = 32;
/// Table places looked at in one piece of a listing.
const LISTED: u32 = 128;

pub(crate) struct Worker {
    pub(crate) shard: Shard,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) link: WorkerEnd,
    pub(crate) mesh: MeshEnd,
    pub(crate) held: Held,
    /// Its receive queues; room for as many as there may be ports.
    pub(crate) entries: Vec<(PortId, RxQueue)>,
    /// By port, as many as there may be.
    pub(crate) exits: Vec<Exit>,
    /// Ports whose own exit has packets that are not sent yet; room for as many as there may be.
    pub(crate) waiting: Vec<PortId>,
    pub(crate) idler: Idler,
    pub(crate) listing: Option<Box<Listing>>,
    pub(crate) importing: Option<Box<ImportList>>,
    pub(crate) clock: Clock,
    pub(crate) stopped: bool,
    pub(crate) host_limit: HostLimit,
    /// Whether some port is held.
    pub(crate) holding: bool,
}

impl Worker {
    /// Run until told to stop.
    pub(crate) fn run(mut self) {
        self.shard.install(&self.snapshot);
        let mut rounds = 0u32;
        while !self.stopped {
            let now_ms = self.clock.now_ms();
            self.take_orders();
            let packets = self.receive(now_ms) + self.take_parcels(now_ms);
            if self.holding {
                self.look_after_holds(now_ms);
            }
            rounds = rounds.wrapping_add(1);
            self.shard.counters().polls.add(1);
            if packets > 0 {
                self.idler.busy();
            } else if self.listing.is_none() && self.importing.is_none() && self.idler.rest() {
                self.shard.counters().idle_sleeps.add(1);
            }
            let swept = if packets > 0 { SWEPT_BUSY } else { SWEPT_IDLE };
            self.shard.sweep(&self.snapshot, now_ms, swept);
            self.release(now_ms);
            if packets == 0 || rounds.is_multiple_of(LISTED_EVERY) {
                self.go_on_listing(now_ms);
                self.go_on_importing(now_ms);
            }
        }
        self.flush();
        for exit in &mut self.exits {
            if let Exit::Own(outbox) = exit {
                // Its room is freed with the worker.
                let _ = outbox.end_hold(self.shard.counters());
            }
        }
    }

    /// Send what waits at this worker's own exits.
    #[inline]
    fn flush(&mut self) {
        for port in self.waiting.drain(..) {
            if let Some(Exit::Own(outbox)) = self.exits.get_mut(usize::from(port.0)) {
                outbox.flush(self.shard.counters());
            }
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.link.orders.pop() {
            match order {
                Order::Install(snapshot) => {
                    self.shard.install(&snapshot);
                    let retired = mem::replace(&mut self.snapshot, snapshot);
                    self.link.answer(Report::Retired(retired));
                }
                Order::List(listing) => self.listing = Some(listing),
                Order::Import(list) => self.importing = Some(list),
                Order::Transmit(port, mbuf) => {
                    self.shard.counters().received.add(1);
                    self.leave(port, Outcome::Originated, mbuf);
                }
                Order::TakeUp(share) => self.take_up(share),
                Order::LetGo(share) => self.let_go(share),
                Order::Hold(hold) => self.hold(hold),
                Order::Release(hold) => self.release_port(hold),
                Order::Stop => self.stopped = true,
            }
        }
    }

    fn hold(&mut self, mut order: Box<HoldOrder>) {
        // Who sends by another worker's queue has nothing to keep, and gives the room back.
        if let Some(Exit::Own(outbox)) = self.exits.get_mut(usize::from(order.port.0))
            && let Some(room) = order.room.take()
        {
            order.room = outbox.hold(room, order.until_ms);
            self.holding = true;
        }
        self.link.answer(Report::Held(order));
    }

    fn release_port(&mut self, mut order: Box<HoldOrder>) {
        if let Some(Exit::Own(outbox)) = self.exits.get_mut(usize::from(order.port.0)) {
            let now_ms = self.clock.now_ms();
            (order.held, order.room) = outbox.release(now_ms, self.shard.counters());
        }
        self.link.answer(Report::Held(order));
    }

    /// Try what is kept for held ports again, and end holds whose time is over.
    #[cold]
    fn look_after_holds(&mut self, now_ms: u64) {
        self.holding = false;
        for exit in &mut self.exits {
            let Exit::Own(outbox) = exit else { continue };
            if let Some(over) = outbox.look_after_hold(now_ms, self.shard.counters()) {
                self.link.answer(Report::HoldOver(over));
            }
            self.holding |= outbox.is_held();
        }
    }

    fn take_up(&mut self, mut share: Box<PortShare>) {
        let exit = &mut self.exits[usize::from(share.port.0)];
        mem::swap(exit, &mut share.exit);
        if let Some(queue) = share.entry.take() {
            // There is room: see the field.
            self.entries.push((share.port, queue));
        }
        self.link.answer(Report::Share(share));
    }

    fn let_go(&mut self, mut share: Box<PortShare>) {
        let exit = &mut self.exits[usize::from(share.port.0)];
        mem::swap(exit, &mut share.exit);
        if let Exit::Own(outbox) = &mut share.exit {
            outbox.flush(self.shard.counters());
            let kept = outbox.kept() as u64;
            self.shard.counters().count(Outcome::PortGone, kept);
        }
        // They would be taken for those of the next port with this number.
        let forgotten = self.held.forget_port(share.port);
        self.shard.counters().count(Outcome::PortGone, forgotten as u64);
        let entry = self.entries.iter().position(|(port, _)| *port == share.port);
        share.entry = entry.map(|at| self.entries.swap_remove(at).1);
        self.link.answer(Report::Share(share));
    }

    /// One burst from each receive queue. Returns how many packets there were.
    #[inline]
    fn receive(&mut self, now_ms: u64) -> usize {
        let mut total = 0;
        for entry in 0..self.entries.len() {
            let mut burst: Burst<BURST> = Burst::new();
            let (port, queue) = &mut self.entries[entry];
            let (port, count) = (*port, queue.rx_burst(&mut burst));
            if count > 0 {
                burst.prefetch_data();
                self.shard.counters().received.add(count as u64);
                if !burst.as_slice().iter().all(Mbuf::is_contiguous) {
                    self.join_segments(&mut burst);
                }
                self.process(Origin::Port, &mut [port; BURST], &mut burst, now_ms);
                self.flush();
                total += count;
            }
        }
        total
    }

    /// Make each packet one piece, or drop it: the shard sees only a packet's first piece, and what it checked there need
    /// not be what is sent. Devices that ignore the MTU (vhost) deliver chains.
    #[cold]
    fn join_segments(&self, burst: &mut Burst<BURST>) {
        let mut whole: Burst<BURST> = Burst::new();
        for mut mbuf in burst.drain() {
            if mbuf.linearize() {
                // There is room: they come from a burst of that size.
                let _ = whole.push(mbuf);
            } else {
                self.shard.counters().count(Outcome::Segmented, 1);
            }
        }
        *burst = whole;
    }

    /// Packets other workers have handed over. Returns how many there were.
    #[inline]
    fn take_parcels(&mut self, now_ms: u64) -> usize {
        let mut total = 0;
        for other in 0..self.mesh.from.len() {
            let mut burst: Burst<BURST> = Burst::new();
            let mut ports = [PortId(0); BURST];
            // No more than a burst of all kinds: who hands over must not keep this worker from its own ports.
            for _ in 0..BURST {
                let Some(ring) = &mut self.mesh.from[other] else { break };
                match ring.pop() {
                    Ok(Parcel::Process(port, mbuf)) => {
                        ports[burst.len()] = port;
                        // There is room: the loop's condition.
                        let _ = burst.push(mbuf);
                        total += 1;
                    }
                    Ok(Parcel::Transmit(port, outcome, mbuf)) => {
                        self.leave(port, outcome, mbuf);
                        total += 1;
                    }
                    Err(_) => break,
                }
            }
            if !burst.is_empty() {
                burst.prefetch_data();
                self.process(Origin::Worker, &mut ports, &mut burst, now_ms);
            }
        }
        // Also what orders and expired holds have left.
        self.flush();
        total
    }

    /// Take a burst through the shard, and what it releases behind it.
    #[inline]
    fn process(
        &mut self,
        origin: Origin,
        ports: &mut [PortId; BURST],
        burst: &mut Burst<BURST>,
        now_ms: u64,
    ) {
        self.steer(origin, ports, burst, now_ms);
        self.release(now_ms);
    }

    /// Take up what the shard holds no more.
    #[inline]
    fn release(&mut self, now_ms: u64) {
        while let Some(released) = self.shard.next_released() {
            self.release_burst(released, now_ms);
        }
    }

    /// The same for up to a burst of frames, of which this is the first.
    #[cold]
    fn release_burst(&mut self, first: Released, now_ms: u64) {
        let mut burst: Burst<BURST> = Burst::new();
        let mut ports = [PortId(0); BURST];
        let mut next = Some(first);
        while let Some(released) = next {
            match released {
                Released::Process(place) => {
                    if let Some((port, mbuf)) = self.held.take(place) {
                        ports[burst.len()] = port;
                        // There is room: the loop ends when there is none.
                        let _ = burst.push(mbuf);
                    }
                }
                Released::Drop(place, outcome) => {
                    let held = self.held.take(place);
                    self.shard.counters().count(outcome, u64::from(held.is_some()));
                }
            }
            next = if burst.is_full() { None } else { self.shard.next_released() };
        }
        if !burst.is_empty() {
            self.steer(Origin::Worker, &mut ports, &mut burst, now_ms);
        }
    }

    /// Take a burst through the shard.
    #[inline]
    fn steer(
        &mut self,
        origin: Origin,
        ports: &mut [PortId; BURST],
        burst: &mut Burst<BURST>,
        now_ms: u64,
    ) {
        let mut verdicts = [Verdict::Drop(Outcome::Truncated); BURST];
        let frames = burst.as_mut_slice();
        let count = frames.len();
        self.shard.process(&self.snapshot, now_ms, origin, frames, ports, &mut verdicts);
        let (mut mbufs, mut ports) = (burst.drain(), &ports[..count]);
        // Packets that came together mostly go the same way, and move together.
        for run in verdicts[..count].chunk_by(|a, b| a == b) {
            let run_ports;
            (run_ports, ports) = ports.split_at(run.len());
            let run_mbufs = mbufs.take_front(run.len());
            match run[0] {
                Verdict::Transmit(port, Outcome::ToHost) => {
                    self.leave_to_host(port, run_mbufs, now_ms);
                }
                Verdict::Transmit(port, outcome) => self.leave_all(port, outcome, run_mbufs),
                Verdict::Redirect(owner) => {
                    for (mbuf, &port) in run_mbufs.zip(run_ports) {
                        self.redirect(owner, port, mbuf);
                    }
                }
                Verdict::Hold(place) => {
                    for (mbuf, &port) in run_mbufs.zip(run_ports) {
                        let displaced = u64::from(self.held.put(place, port, mbuf).is_some());
                        self.shard.counters().count(Outcome::FragmentNoRoom, displaced);
                    }
                }
                Verdict::Drop(outcome) => {
                    self.shard.counters().count(outcome, run.len() as u64);
                    drop(run_mbufs);
                }
            }
        }
        for punt in self.shard.take_punts() {
            self.link.notice(punt);
        }
    }

    /// Send frames for the kernel out by `port`, as many as may go.
    #[cold]
    fn leave_to_host(&mut self, port: PortId, mbufs: Drain<'_>, now_ms: u64) {
        for mbuf in mbufs {
            if self.host_limit.admits(mbuf.data(), now_ms) {
                self.leave(port, Outcome::ToHost, mbuf);
            } else {
                self.shard.counters().count(Outcome::HostLimited, 1);
            }
        }
    }

    /// Send finished packets out by `port`.
    #[inline]
    fn leave_all(&mut self, port: PortId, outcome: Outcome, mbufs: Drain<'_>) {
        match self.exits.get_mut(usize::from(port.0)) {
            Some(Exit::Own(outbox)) => {
                if outbox.is_empty() {
                    self.waiting.push(port);
                }
                outbox.extend(mbufs, outcome, self.shard.counters());
            }
            _ => mbufs.for_each(|mbuf| self.leave(port, outcome, mbuf)),
        }
    }

    /// Send a finished packet out by `port`, by whichever worker has a queue there.
    #[inline]
    fn leave(&mut self, port: PortId, outcome: Outcome, mbuf: Mbuf) {
        match self.exits.get_mut(usize::from(port.0)) {
            Some(Exit::Own(outbox)) => {
                if outbox.is_empty() {
                    self.waiting.push(port);
                }
                outbox.push(mbuf, outcome, self.shard.counters());
            }
            Some(&mut Exit::Worker(owner)) => {
                self.hand_over(owner, Parcel::Transmit(port, outcome, mbuf));
            }
            // On its way while the port was removed.
            Some(Exit::None) | None => self.shard.counters().count(Outcome::PortGone, 1),
        }
    }

    #[inline]
    fn redirect(&mut self, owner: u16, port: PortId, mbuf: Mbuf) {
        self.shard.counters().redirected.add(1);
        self.hand_over(owner, Parcel::Process(port, mbuf));
    }

    #[inline]
    fn hand_over(&mut self, worker: u16, parcel: Parcel) {
        let ring = self.mesh.to.get_mut(usize::from(worker)).and_then(Option::as_mut);
        if ring.is_none_or(|ring| ring.push(parcel).is_err()) {
            self.shard.counters().count(Outcome::RingFull, 1);
        }
    }

    /// A bounded piece of an import under way.
    fn go_on_importing(&mut self, now_ms: u64) {
        let Some(mut list) = self.importing.take() else { return };
        let ImportList { sessions, done, import } = &mut *list;
        let piece = *done..sessions.len().min(*done + IMPORTED);
        *import += self.shard.import(&self.snapshot, &sessions[piece.clone()], now_ms);
        *done = piece.end;
        if *done == sessions.len() {
            self.link.answer(Report::Imported(list));
        } else {
            self.importing = Some(list);
        }
    }

    /// A bounded piece of a listing under way.
    fn go_on_listing(&mut self, now_ms: u64) {
        let Some(mut listing) = self.listing.take() else { return };
        let Listing { addresses, records, next } = &mut *listing;
        *next = self.shard.list(addresses, now_ms, next.unwrap_or(0), LISTED, records);
        if next.is_none() || records.len() == records.capacity() {
            self.link.answer(Report::Listed(listing));
        } else {
            self.listing = Some(listing);
        }
    }
}
