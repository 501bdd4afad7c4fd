//! The sending end's lane.

use std::{sync::Arc, thread, time::Duration};

use tidegate_fabric::{Endpoint, Error, Event, Message, Peer, Source, Window, Write};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use super::{
    OUT_OF_ORDER, broken, cannot,
    packed::{self, HEAD_BYTES, MESSAGE_BYTES, SMALL_BYTES},
};
use crate::{
    Mapping, MemoryError,
    transport::{Lane, Piece},
};

/// Messages that may be on their way while the next is put together.
const PLACES: usize = 4;
/// The number of every write; messages have that of their place.
const WRITE: u64 = u64::MAX;
/// Writes that may go out before a message that was begun earlier.
const HELD_BACK: u32 = OUT_OF_ORDER / 2;
const DURING: &str = "sending memory";

pub(super) struct FabricLane {
    endpoint: Endpoint,
    peer: Peer,
    /// By object.
    objects: Vec<Object>,
    messages: Arc<MmapRegion>,
    messages_source: Source,
    /// By place: a message leaves from it.
    leaving: [bool; PLACES],
    message: packed::Message,
    /// Writes and messages that were given a number: the next one's. The message at hand has one already.
    begun: u64,
}

struct Object {
    memory: Arc<Mapping>,
    source: Source,
    window: Window,
}

impl FabricLane {
    pub(super) fn new(
        mut endpoint: Endpoint,
        peer: Peer,
        windows: Vec<Window>,
        memory: &[Arc<Mapping>],
    ) -> Result<Self, MemoryError> {
        let provider = endpoint.provider();
        let mut attach = |memory| endpoint.attach(memory).map_err(|error| cannot(provider, error));
        let messages = packed::places(PLACES)?;
        let messages_source = attach(messages.clone())?;
        let objects = memory.iter().zip(windows).map(|(memory, window)| {
            let source = attach(memory.region())?;
            Ok(Object { memory: memory.clone(), source, window })
        });
        let objects = objects.collect::<Result<_, MemoryError>>()?;
        Ok(Self {
            endpoint,
            peer,
            objects,
            messages,
            messages_source,
            leaving: [false; PLACES],
            message: packed::Message::default(),
            begun: 0,
        })
    }

    /// Let bytes move until `done` says that what it wanted is done.
    fn until(
        &mut self,
        mut done: impl FnMut(&mut Self) -> Result<bool, Error>,
    ) -> Result<(), MemoryError> {
        let mut idle = Idle::default();
        while !done(self).map_err(broken(DURING))? {
            idle.after(self.step()?);
        }
        Ok(())
    }

    /// Let bytes move; how many writes and messages have left.
    fn step(&mut self) -> Result<usize, MemoryError> {
        let leaving = &mut self.leaving;
        let found = self.endpoint.poll(&mut |event| {
            if let Event::Sent { id } = event
                && let Some(leaving) = leaving.get_mut(id as usize)
            {
                *leaving = false;
            }
        });
        found.map_err(broken(DURING))
    }

    fn write(&mut self, piece: Piece) -> Result<(), MemoryError> {
        let Piece { object, offset, len_bytes } = piece;
        let number = self.begun as u32;
        if self.message.number().is_some_and(|held| number.wrapping_sub(held) >= HELD_BACK) {
            self.flush()?;
        }
        self.until(|lane| {
            let Object { source, window, .. } = &lane.objects[object];
            lane.endpoint.write(&Write {
                source: *source,
                from: offset,
                len: len_bytes,
                peer: lane.peer,
                to: window,
                at: offset,
                data: number,
                id: WRITE,
            })
        })?;
        self.begun += 1;
        Ok(())
    }

    /// Put a piece into the message at hand.
    fn pack(&mut self, piece: Piece, memory: Option<&Mapping>) -> Result<u64, MemoryError> {
        let bytes = memory.map_or(0, |_| piece.len_bytes);
        if !self.message.has_room(bytes) {
            self.flush()?;
        }
        if self.message.number().is_none() {
            self.message.begin(self.begun as u32);
            self.begun += 1;
        }
        self.message.push(piece, memory)?;
        Ok(HEAD_BYTES as u64 + bytes)
    }

    /// Send the message at hand, if there is one.
    fn flush(&mut self) -> Result<(), MemoryError> {
        let len = self.message.bytes().len();
        if len == 0 {
            return Ok(());
        }
        self.until(|lane| Ok(lane.leaving.contains(&false)))?;
        let place = self.leaving.iter().position(|leaving| !leaving).unwrap_or(0);
        let from = place * MESSAGE_BYTES;
        let copied = self.messages.as_volatile_slice().write_slice(self.message.bytes(), from);
        copied.map_err(|error| MemoryError::Protocol(error.to_string()))?;
        self.message.clear();
        self.until(|lane| {
            lane.endpoint.send(&Message {
                source: lane.messages_source,
                from: from as u64,
                len: len as u64,
                peer: lane.peer,
                id: place as u64,
            })
        })?;
        self.leaving[place] = true;
        Ok(())
    }
}

impl Lane for FabricLane {
    fn put(&mut self, piece: Piece, memory: &Mapping) -> Result<u64, MemoryError> {
        let object = self
            .objects
            .get(piece.object)
            .ok_or_else(|| MemoryError::Protocol(format!("there is no object {}", piece.object)))?;
        if !std::ptr::eq(memory, &*object.memory) {
            return Err(MemoryError::Protocol(format!(
                "object {} is to be sent from another mapping than was registered",
                piece.object
            )));
        }
        if piece.len_bytes <= SMALL_BYTES {
            return self.pack(piece, Some(memory));
        }
        self.write(piece)?;
        Ok(piece.len_bytes)
    }

    fn zero(&mut self, piece: Piece) -> Result<u64, MemoryError> {
        self.pack(piece, None)
    }

    fn mark(&mut self) -> Result<u64, MemoryError> {
        // Bytes move only while somebody polls, and hashing may take its time.
        self.step()?;
        Ok(self.begun)
    }

    fn rest(&mut self) -> Result<(), MemoryError> {
        self.flush()?;
        self.until(|lane| Ok(lane.endpoint.in_flight() == 0))
    }
}

/// How to pass the time while nothing completes. Who spins takes the CPU from guests, and from the other side where it is on
/// the same machine; who sleeps is woken at once when there is a CPU. What is in flight lasts for longer than a sleep.
#[derive(Default)]
pub(super) struct Idle(u32);

impl Idle {
    /// Polls in vain after which nothing is under way.
    const LAZY: u32 = 2000;

    pub(super) fn after(&mut self, found: usize) {
        if found > 0 {
            self.0 = 0;
            return;
        }
        self.0 = self.0.saturating_add(1);
        let pause_us = if self.0 < Self::LAZY { 20 } else { 1000 };
        thread::sleep(Duration::from_micros(pause_us));
    }
}
