//! Beginning writes and messages, and taking messages.

use std::ffi::c_void;
use std::ptr;
use std::time::Instant;

use tidegate_fabric_sys as sys;

use super::{Endpoint, Message, PATIENCE, Peer, Places, Source, Write};
use crate::{Errno, Error, MAX_WRITE_BYTES};

impl Endpoint {
    /// Begin a write. `false` when there is no room for it now, or the way to the peer is still being made: poll,
    /// then try again.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Call`] and [`Error::Stuck`] when the peer cannot be reached.
    pub fn write(&mut self, write: &Write<'_>) -> Result<bool, Error> {
        let Write { source, from, len, peer, to, at, data, id } = *write;
        let (memory, desc, peer) = self.way(source, from, len, peer)?;
        within("the window", at, len, to.len)?;
        let remote =
            to.base.checked_add(at).ok_or_else(|| outside("the window", at, len, to.len))?;
        if self.in_flight >= self.offer.most_in_flight {
            return self.waits();
        }
        // SAFETY: the endpoint is enabled, and the memory is as `way` says. The context is a number, which no provider
        // follows: we offer no mode that would let it (FI_CONTEXT).
        let answer = unsafe {
            let (ep, len, data) = (self.ep.get(), len as usize, u64::from(data));
            sys::tg_fi_writedata(ep, memory, len, desc, data, peer, remote, to.key, number(id))
        };
        self.begun("fi_writedata", answer)
    }

    /// Begin to send a message. `false` as with [`Endpoint::write`].
    ///
    /// # Errors
    /// As [`Endpoint::write`].
    pub fn send(&mut self, message: &Message) -> Result<bool, Error> {
        let Message { source, from, len, peer, id } = *message;
        let (memory, desc, peer) = self.way(source, from, len, peer)?;
        if self.in_flight >= self.offer.most_in_flight {
            return self.waits();
        }
        // SAFETY: as in `write`.
        let answer =
            unsafe { sys::tg_fi_send(self.ep.get(), memory, len as usize, desc, peer, number(id)) };
        self.begun("fi_send", answer)
    }

    /// Let a place be used for the next message. Only what [`Event::Received`](super::Event::Received) named may be
    /// given back, once.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when there is no such place, [`Error::Call`].
    pub fn give_back(&mut self, place: u64) -> Result<(), Error> {
        let unknown = self.failed("fi_recv", Errno::EINVAL);
        let Places { memory, bytes } = self.places.ok_or(unknown)?;
        let registered = &self.registered[memory.0];
        let start = place.saturating_mul(bytes);
        within("the places for messages", start, bytes, registered.memory.size() as u64)?;
        // In bounds (checked).
        let memory = registered.memory.as_ptr().wrapping_add(start as usize);
        // SAFETY: the endpoint is enabled; the memory is mapped, registered if the provider wants that, and stays so until
        // the endpoint is closed. Should a place be posted twice, the provider writes one message over the other.
        let answer = unsafe {
            let (ep, len, desc) = (self.ep.get(), bytes as usize, registered.desc());
            sys::tg_fi_recv(ep, memory.cast(), len, desc, number(place))
        };
        if answer == 0 { Ok(()) } else { Err(self.failed("fi_recv", Errno::of(answer as i64))) }
    }

    /// A stretch of a source, checked, with its descriptor, and the peer's number. The memory is mapped, registered if
    /// the provider wants that, and stays so until the endpoint is closed.
    fn way(
        &self,
        source: Source,
        from: u64,
        len: u64,
        peer: Peer,
    ) -> Result<(*const c_void, *mut c_void, u64), Error> {
        let unknown = || self.failed("fi_writedata", Errno::EINVAL);
        let peer = self.peers.get(peer.0).ok_or_else(unknown)?.address;
        let source = self.registered.get(source.0).ok_or_else(unknown)?;
        within("a transfer", 0, len, MAX_WRITE_BYTES)?;
        within("the source", from, len, source.memory.size() as u64)?;
        // In bounds, so the cast fits; the pointer is only handed on.
        let memory = source.memory.as_ptr().wrapping_add(from as usize);
        Ok((memory.cast_const().cast(), source.desc(), peer))
    }

    fn begun(&mut self, call: &'static str, answer: isize) -> Result<bool, Error> {
        if answer == 0 {
            self.in_flight += 1;
            self.waits_since = None;
            return Ok(true);
        }
        match Errno::of(answer as i64) {
            Errno::EAGAIN => self.waits(),
            errno => Err(self.failed(call, errno)),
        }
    }

    /// Not now; and not for ever.
    pub(super) fn waits(&mut self) -> Result<bool, Error> {
        let silence = self.waits_since.get_or_insert_with(Instant::now).elapsed();
        if silence < PATIENCE {
            return Ok(false);
        }
        Err(Error::Stuck { provider: self.provider, silence })
    }
}

/// A number where libfabric wants a context.
fn number(id: u64) -> *mut c_void {
    ptr::without_provenance_mut(id as usize)
}

fn within(what: &'static str, offset: u64, len: u64, size: u64) -> Result<(), Error> {
    let fits = len > 0 && offset.checked_add(len).is_some_and(|end| end <= size);
    if fits { Ok(()) } else { Err(outside(what, offset, len, size)) }
}

fn outside(what: &'static str, offset: u64, len: u64, size: u64) -> Error {
    Error::OutOfBounds { what, offset, len, size }
}
