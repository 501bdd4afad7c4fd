//! What has completed, and what failed.

use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidegate_fabric_sys as sys;

use super::{BATCH, Endpoint, Event, LOOK};
use crate::library::text;
use crate::{Errno, Error};

impl Endpoint {
    /// Let bytes move, and hand what has completed to `sink`; how many that were. Never waits.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Arrival`], [`Error::PeerGone`], [`Error::Stuck`]: what was asked for will not be done, and the endpoint should
    /// be dropped.
    pub fn poll(&mut self, sink: &mut dyn FnMut(Event)) -> Result<usize, Error> {
        let mut entries = [sys::fi_cq_data_entry::default(); BATCH];
        // SAFETY: the queue is open and has this format; there is room for so many.
        let read = unsafe { sys::tg_fi_cq_read(self.cq.get(), entries.as_mut_ptr(), BATCH) };
        if let Ok(found) = usize::try_from(read) {
            for entry in &entries[..found.min(BATCH)] {
                sink(self.event(entry));
            }
            return Ok(found);
        }
        match Errno::of(read as i64) {
            Errno::EAGAIN => self.nothing().map(|()| 0),
            Errno::EAVAIL => Err(self.error()),
            errno => Err(self.failed("fi_cq_read", errno)),
        }
    }

    fn event(&mut self, entry: &sys::fi_cq_data_entry) -> Event {
        let is = |flag: u32| entry.flags & u64::from(flag) != 0;
        let number = entry.op_context.addr() as u64;
        if is(sys::FI_RECV) {
            return Event::Received { place: number, len: entry.len as u64 };
        }
        if is(sys::FI_REMOTE_CQ_DATA) {
            // A peer sends what it likes; of ours the upper half is zero.
            return Event::Arrived { data: entry.data as u32 };
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.waits_since = None;
        Event::Sent { id: number }
    }

    /// The error at the head of the queue.
    fn error(&mut self) -> Error {
        let provider = self.provider;
        let mut entry = sys::fi_cq_err_entry::default();
        let mut said = [0_u8; 256];
        // SAFETY: the queue is open; `err_data` in the entry is null with no room, or the provider's own until the next
        // read, which comes after this block; the text has the room that is said.
        let read = unsafe {
            let read = sys::tg_fi_cq_readerr(self.cq.get(), &raw mut entry);
            if read == 1 {
                let room = said.as_mut_ptr().cast();
                sys::tg_fi_cq_strerror(self.cq.get(), &raw const entry, room, said.len());
            }
            read
        };
        if read != 1 {
            return self.failed("fi_cq_readerr", Errno::of(read as i64));
        }
        let (errno, said) = (Errno(entry.err), text(&said));
        let is = |flag: u32| entry.flags & u64::from(flag) != 0;
        if is(sys::FI_WRITE | sys::FI_SEND) && !is(sys::FI_REMOTE_WRITE) {
            self.in_flight = self.in_flight.saturating_sub(1);
            return Error::Write { provider, id: entry.op_context.addr() as u64, errno, said };
        }
        Error::Arrival { provider, errno, said }
    }

    /// Nothing has completed: is there still somebody for whom to wait?
    fn nothing(&mut self) -> Result<(), Error> {
        self.look_after_peers()?;
        if self.in_flight > 0 {
            self.waits()?;
        }
        Ok(())
    }

    fn look_after_peers(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now.duration_since(self.looked) < LOOK {
            return Ok(());
        }
        self.looked = now;
        for (pid, process) in self.peers.iter().filter_map(|peer| peer.process.as_ref()) {
            let mut ended = [PollFd::new(process, PollFlags::IN)];
            // A handle of a process becomes readable when it ends (pidfd_open(2)).
            if poll(&mut ended, Some(&Timespec::default())).is_ok_and(|found| found > 0) {
                return Err(Error::PeerGone { provider: self.provider, pid: *pid });
            }
        }
        Ok(())
    }
}
