//! Ports that come and go while the workers run.
//!
//! A port's number is a slot. Its queues are handed to the workers with an order each, and come back with a report, so
//! that the device is opened, stopped and closed by the control core alone; a worker that has no packets of it any more
//! has lost two places in its arrays.

use tidegate_dataplane::{packet::Mac, pipeline::BURST, steering::PortId};
use tidegate_dpdk::{Port, PortStats};

use crate::{
    PortError, PortSpec, WorkerError, Workers,
    hold::{Hold, HoldOrder},
    link::{Order, PortShare, Report},
    mesh,
    outbox::{Exit, Outbox},
    ports::{self, OpenPort},
};

/// Rounds after which a worker has taken every packet that was in its rings from other workers before, and one that may
/// have been under way.
const ROUNDS_TO_SETTLE: u64 = mesh::DEPTH.div_ceil(BURST) as u64 + 2;

/// A port that is there.
pub(crate) struct Slot {
    spec: PortSpec,
    port: Port,
    mac: Mac,
    queues: u16,
    /// What the workers had counted for this number before.
    transmit_full_before: u64,
}

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// Its MAC.
    pub mac: Mac,
    /// Whether its link is up.
    pub link_up: bool,
    /// Queue pairs in use.
    pub queues: u16,
}

impl Workers {
    /// Open a port and have every worker take it up. Its number is the lowest that is free. Packets go there once a
    /// snapshot says so.
    ///
    /// # Errors
    /// [`PortError`]. But for [`PortError::Worker`], nothing has changed.
    pub fn add_port(&mut self, spec: &PortSpec) -> Result<PortId, PortError> {
        let most = self.slots.len() as u16;
        let free = self.slots.iter().position(Option::is_none).ok_or(PortError::Full { most })?;
        let id = PortId(free as u16);
        let workers = self.count();
        let like = spec.mac_of.and_then(|port| self.slots.get(port)?.as_ref()).map(|it| it.mac);
        let wanted = like.or(spec.mac);
        let OpenPort { port, mac, queues } =
            ports::open(&self.eal, spec, wanted, workers as u16, &self.pool)?;
        let (count, transmit_full_before) = (queues.len(), self.counted_transmit_full(id));
        self.slots[free] = Some(Slot {
            spec: spec.clone(),
            port,
            mac,
            queues: count as u16,
            transmit_full_before,
        });
        let mut queues = queues.into_iter();
        for worker in 0..workers {
            // Queue n goes to worker n. A worker without one sends by another's.
            let (entry, exit) = match queues.next() {
                Some(pair) => (Some(pair.rx), Exit::Own(Box::new(Outbox::new(id, pair.tx)))),
                None => (None, Exit::Worker((worker % count.max(1)) as u16)),
            };
            self.order(worker, Order::TakeUp(Box::new(PortShare { port: id, entry, exit })))?;
        }
        for worker in 0..workers {
            self.await_share(worker)?;
        }
        Ok(id)
    }

    /// Have every worker let go of a port, and close it. Its number is then free for another. Packets that are still sent
    /// there end as [`PortGone`], so publish a snapshot without it first.
    ///
    /// [`PortGone`]: tidegate_dataplane::pipeline::Outcome::PortGone
    ///
    /// # Errors
    /// [`PortError`]. After [`PortError::Worker`] the port is there, but carries nothing.
    pub fn remove_port(&mut self, id: PortId) -> Result<(), PortError> {
        if !self.slots.get(usize::from(id.0)).is_some_and(Option::is_some) {
            return Err(PortError::Unknown { port: id });
        }
        let workers = self.count();
        for worker in 0..workers {
            let share = PortShare { port: id, entry: None, exit: Exit::None };
            self.order(worker, Order::LetGo(Box::new(share)))?;
        }
        let shares: Result<Vec<_>, _> =
            (0..workers).map(|worker| self.await_share(worker)).collect();
        let shares = shares?;
        self.settle()?;
        // The queues, of which the last stops the port, before the port.
        drop(shares);
        let slot = self.slots[usize::from(id.0)].take();
        let Slot { spec, port, .. } = slot.ok_or(PortError::Unknown { port: id })?;
        drop(port);
        self.eal.detach(&spec.device).map_err(|reason| PortError::Close {
            port: spec.name,
            device: spec.device,
            reason: Box::new(reason),
        })
    }

    /// Hold a port until `until_ms` of the workers' clock: what its device does not take is kept, in order, as long as there is
    /// room. Held already, it is until then.
    ///
    /// # Errors
    /// [`PortError`]; some workers may hold it.
    pub fn hold_port(&mut self, port: PortId, until_ms: u64) -> Result<(), PortError> {
        self.order_hold(port, |this, worker| {
            let room = Some(Box::new(Hold::new(until_ms)));
            this.order(worker, Order::Hold(Box::new(HoldOrder { port, until_ms, room, held: 0 })))
        })
        .map(drop)
    }

    /// Hold a port only until what is kept has left. Gives how many packets had to wait; 0 when the hold was over by itself.
    ///
    /// # Errors
    /// [`PortError`]; some workers may still hold it.
    pub fn release_port(&mut self, port: PortId) -> Result<u64, PortError> {
        self.order_hold(port, |this, worker| {
            let order = HoldOrder { port, until_ms: 0, room: None, held: 0 };
            this.order(worker, Order::Release(Box::new(order)))
        })
    }

    /// Give every worker an order about a port's hold, and await what they say: how many packets had to wait.
    fn order_hold(
        &mut self,
        port: PortId,
        order: impl Fn(&mut Self, usize) -> Result<(), WorkerError>,
    ) -> Result<u64, PortError> {
        if !self.slots.get(usize::from(port.0)).is_some_and(Option::is_some) {
            return Err(PortError::Unknown { port });
        }
        for worker in 0..self.count() {
            order(self, worker)?;
        }
        let answers = (0..self.count()).map(|worker| {
            self.await_report(worker, |report| match report {
                Report::Held(order) => Ok(*order),
                other => Err(other),
            })
        });
        let held = |order: HoldOrder| order.held;
        let held: Result<Vec<_>, WorkerError> = answers.map(|answer| answer.map(held)).collect();
        Ok(held?.iter().sum())
    }

    /// The ports as they are now, by [`PortId`].
    #[must_use]
    pub fn ports(&self) -> Vec<Option<PortReport>> {
        let now = |slot: &Slot| PortReport {
            mac: slot.mac,
            link_up: slot.port.link().is_ok_and(|link| link.up),
            queues: slot.queues,
        };
        self.slots.iter().map(|slot| slot.as_ref().map(now)).collect()
    }

    /// What a port has moved; all zeros for one that is not there or cannot say.
    #[must_use]
    pub fn port_stats(&self, id: PortId) -> PortStats {
        let slot = self.slots.get(usize::from(id.0)).and_then(Option::as_ref);
        slot.and_then(|slot| slot.port.stats().ok()).unwrap_or_default()
    }

    /// Packets dropped because the port's transmit queue was full.
    #[must_use]
    pub fn transmit_full(&self, id: PortId) -> u64 {
        let slot = self.slots.get(usize::from(id.0)).and_then(Option::as_ref);
        slot.map_or(0, |slot| self.counted_transmit_full(id) - slot.transmit_full_before)
    }

    /// Packet buffers that are neither free nor kept by a worker for its next packets; an estimate while packets move.
    #[must_use]
    pub fn buffers_in_use(&self) -> u32 {
        self.pool.in_use()
    }

    fn counted_transmit_full(&self, id: PortId) -> u64 {
        self.links.iter().map(|link| link.counters.transmit_full(id)).sum()
    }

    fn await_share(&mut self, worker: usize) -> Result<Box<PortShare>, WorkerError> {
        self.await_report(worker, |report| match report {
            Report::Share(share) => Ok(share),
            other => Err(other),
        })
    }

    /// Wait until no packet is under way between workers that was so before.
    fn settle(&mut self) -> Result<(), WorkerError> {
        let polls = |this: &Self, worker: usize| this.links[worker].counters.polls.get();
        let before: Vec<_> = (0..self.count()).map(|worker| polls(self, worker)).collect();
        before.into_iter().enumerate().try_for_each(|(worker, before)| {
            self.await_worker(worker, |this| {
                let passed = polls(this, worker).wrapping_sub(before);
                (passed >= ROUNDS_TO_SETTLE).then_some(())
            })
        })
    }
}
