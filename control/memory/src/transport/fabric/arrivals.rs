//! The receiving end: a thread that lets bytes land, and counts them.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tidegate_fabric::{Endpoint, Event};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use super::{
    OUT_OF_ORDER, cannot,
    lane::Idle,
    packed::{self, MESSAGE_BYTES},
};
use crate::{MemoryError, copy::ground::Ground, locked, transport::Arrivals};

/// Messages that may be under way: as many as the sender has, so that none waits for its place.
const PLACES: usize = 4;

/// Dropping it ends the thread, which closes the endpoint: nothing lands any more.
pub(super) struct Arriving {
    offer: Vec<u8>,
    shared: Arc<Shared>,
    poller: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Arrived without a gap.
    count: u64,
    /// Arrived behind a gap.
    ahead: BTreeSet<u64>,
    /// Why nothing more will come.
    failed: Option<String>,
}

impl Arriving {
    pub(super) fn start(
        mut endpoint: Endpoint,
        ground: Arc<Ground>,
        offer: Vec<u8>,
    ) -> Result<Self, MemoryError> {
        let messages = packed::places(PLACES)?;
        let provider = endpoint.provider();
        endpoint
            .receive_into(messages.clone(), MESSAGE_BYTES as u64)
            .map_err(|error| cannot(provider, error))?;
        let shared = Arc::<Shared>::default();
        let poller = Poller { endpoint, ground, messages, shared: shared.clone() };
        let poller = Some(thread::spawn(move || poller.run()));
        Ok(Self { offer, shared, poller })
    }
}

impl Arrivals for Arriving {
    fn offer(&self) -> Vec<u8> {
        self.offer.clone()
    }

    fn wait(&self, lane: usize, mark: u64, patience: Duration) -> Result<u64, MemoryError> {
        if lane != 0 {
            return Err(MemoryError::Protocol(format!("lane {lane} of a path that has one")));
        }
        let state = locked(&self.shared.state);
        let short = |state: &mut State| state.count < mark && state.failed.is_none();
        let waited = self.shared.changed.wait_timeout_while(state, patience, short);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.ok()?;
        Ok(state.count)
    }

    fn check(&self) -> Result<(), MemoryError> {
        locked(&self.shared.state).ok()
    }

    fn lands_unseen(&self) -> bool {
        true
    }
}

impl State {
    /// Something with this number has arrived.
    fn arrived(&mut self, number: u32) -> Result<(), String> {
        let distance = number.wrapping_sub(self.count as u32);
        if distance >= OUT_OF_ORDER || !self.ahead.insert(self.count + u64::from(distance)) {
            return Err(format!(
                "number {number} arrived, when {} was the next",
                self.count as u32
            ));
        }
        while self.ahead.remove(&self.count) {
            self.count += 1;
        }
        Ok(())
    }

    fn ok(&self) -> Result<(), MemoryError> {
        let Some(failed) = &self.failed else { return Ok(()) };
        Err(MemoryError::connection("receiving memory")(io::Error::other(failed.clone())))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Relaxed: the thread looks at it again and again, and joining it orders everything.
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(poller) = self.poller.take() {
            // It does not panic; if it did, its endpoint is closed all the same.
            let _ = poller.join();
        }
    }
}

struct Poller {
    endpoint: Endpoint,
    ground: Arc<Ground>,
    messages: Arc<MmapRegion>,
    shared: Arc<Shared>,
}

impl Poller {
    fn run(mut self) {
        let mut idle = Idle::default();
        let mut message = vec![0; MESSAGE_BYTES];
        while !self.shared.over.load(Ordering::Relaxed) {
            match self.step(&mut message) {
                Ok(found) => idle.after(found),
                Err(failed) => {
                    locked(&self.shared.state).failed = Some(failed);
                    self.shared.changed.notify_all();
                    return;
                }
            }
        }
    }

    fn step(&mut self, message: &mut [u8]) -> Result<usize, String> {
        let mut arrived = Vec::new();
        let mut received = Vec::new();
        let found = self.endpoint.poll(&mut |event| match event {
            Event::Arrived { data } => arrived.push(data),
            Event::Received { place, len } => received.push((place, len)),
            Event::Sent { .. } => {}
        });
        let found = found.map_err(|error| error.to_string())?;
        for (place, len) in received {
            let message =
                message.get_mut(..len as usize).ok_or("a message longer than its place")?;
            let from = place as usize * MESSAGE_BYTES;
            let copied = self.messages.as_volatile_slice().read_slice(message, from);
            copied.map_err(|error| error.to_string())?;
            let landed = packed::land(message, &self.ground);
            arrived.push(landed.map_err(|error| error.to_string())?);
            self.endpoint.give_back(place).map_err(|error| error.to_string())?;
        }
        if !arrived.is_empty() {
            let mut state = locked(&self.shared.state);
            arrived.into_iter().try_for_each(|number| state.arrived(number))?;
            self.shared.changed.notify_all();
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_is_counted_up_to_the_first_gap() {
        let mut state = State { count: u64::from(u32::MAX) - 1, ..State::default() };
        let first = state.count;
        let mut arrive = |number: u64| state.arrived(number as u32).map(|()| state.count - first);
        assert_eq!(arrive(first + 1), Ok(0));
        assert_eq!(arrive(first + 3), Ok(0));
        assert_eq!(arrive(first), Ok(2));
        assert_eq!(arrive(first + 2), Ok(4));
        arrive(first + 3).expect_err("twice");
        arrive(first + 4 + u64::from(OUT_OF_ORDER)).expect_err("too far");
        assert_eq!(arrive(first + 5), Ok(4));
        arrive(first + 5).expect_err("twice, ahead");
    }
}
