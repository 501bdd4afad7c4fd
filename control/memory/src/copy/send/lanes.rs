//! A thread for each lane, and the one that answers them.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::{
    MemoryError,
    copy::send::{Shared, work::Work},
    locked,
    page_hashes::Digest,
    transport::Lane,
};

/// Longest time without an answer.
const TICK: Duration = Duration::from_millis(100);

/// A lane has done a piece of work.
pub(super) struct Event {
    pub(super) lane: usize,
    pub(super) mark: u64,
    pub(super) digest: Option<Digest>,
}

/// Work and those who do it.
pub(super) struct Crew<'a> {
    shared: &'a Shared,
    queue: Mutex<Queue>,
    more: Condvar,
}

struct Queue {
    work: VecDeque<Work>,
    /// Nothing is left, or nothing more is to be done.
    over: bool,
    /// Given out or waiting, and not answered yet.
    open: usize,
}

type Result1<T> = Result<T, MemoryError>;

impl<'a> Crew<'a> {
    pub(super) fn new(shared: &'a Shared, work: Vec<Work>) -> Self {
        let queue = Queue { open: work.len(), over: work.is_empty(), work: work.into() };
        Self { shared, queue: Mutex::new(queue), more: Condvar::new() }
    }

    /// Do all work. `answer` is called for each piece that is done and may give more, and with nothing when
    /// nothing was done for a tick.
    pub(super) fn run(
        &self,
        lanes: &mut [Box<dyn Lane>],
        mut answer: impl FnMut(Option<(&Event, &Work)>) -> Result1<Option<Work>>,
    ) -> Result1<()> {
        let (events, done) = channel();
        thread::scope(|scope| {
            let threads = lanes.iter_mut().enumerate().map(|(number, lane)| {
                let events = events.clone();
                scope.spawn(move || self.work(number, &mut **lane, &events))
            });
            let threads: Vec<_> = threads.collect();
            drop(events);
            let mut outcome = loop {
                if locked(&self.queue).open == 0 {
                    break Ok(());
                }
                match done.recv_timeout(TICK) {
                    Ok(Ok((event, work))) => match answer(Some((&event, &work))) {
                        Ok(more) => self.answered(more),
                        Err(error) => break Err(error),
                    },
                    Ok(Err(error)) => break Err(error),
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(error) = answer(None) {
                            break Err(error);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let source = std::io::Error::other("no lane is left");
                        break Err(MemoryError::connection("sending memory")(source));
                    }
                }
            };
            self.stop();
            if outcome.is_err() {
                self.shared.halt();
            }
            for thread in threads {
                // One that panics takes this one with it, at the scope's end.
                outcome = outcome.and(thread.join().unwrap_or(Ok(())));
            }
            outcome
        })
    }

    fn answered(&self, more: Option<Work>) {
        let mut queue = locked(&self.queue);
        match more {
            Some(work) => queue.work.push_back(work),
            None => queue.open -= 1,
        }
        self.more.notify_all();
    }

    fn stop(&self) {
        let mut queue = locked(&self.queue);
        queue.over = true;
        queue.work.clear();
        self.more.notify_all();
    }

    fn next(&self) -> Option<Work> {
        let mut queue = locked(&self.queue);
        loop {
            if queue.over {
                return None;
            }
            if let Some(work) = queue.work.pop_front() {
                return Some(work);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What is to be done now, without waiting for it.
    fn at_hand(&self) -> Option<Work> {
        let mut queue = locked(&self.queue);
        if queue.over { None } else { queue.work.pop_front() }
    }

    /// A lane's thread. Work that fails is an event; what fails when the lane comes to rest is the answer.
    fn work(
        &self,
        number: usize,
        lane: &mut dyn Lane,
        events: &Sender<Result1<(Event, Work)>>,
    ) -> Result1<()> {
        loop {
            let work = match self.at_hand() {
                Some(work) => work,
                None => {
                    if self.shared.check().is_ok() {
                        lane.rest()?;
                    }
                    let Some(work) = self.next() else { return Ok(()) };
                    work
                }
            };
            let done = self.shared.bring(&work, lane).and_then(|digest| {
                let event = Event { lane: number, mark: lane.mark()?, digest };
                Ok((event, work))
            });
            let failed = done.is_err();
            // Nobody listens any more when something else has failed.
            if events.send(done).is_err() || failed {
                return Ok(());
            }
        }
    }
}
