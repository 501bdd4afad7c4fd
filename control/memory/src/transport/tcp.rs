//! Guest bytes over TCP streams, joined to a copy's control stream by a token.

use std::{sync::Arc, time::Instant};

use crate::{
    Mapping, MemoryError,
    copy::{
        Controls,
        ground::Ground,
        message::{Join, Kind, TOKEN_BYTES, chunk_head, connection, expect, write_message, zero},
    },
    transport::{
        Arrivals, Dial, Lane, Piece, Stream, Transport,
        joins::{Arriving, Joins},
        pack::{Compression, Packer},
    },
};

/// Its name.
pub const NAME: &str = "tcp";

/// The sending end: so many streams to one host.
pub struct TcpSender {
    /// Makes the streams.
    pub dial: Arc<dyn Dial>,
    /// How many.
    pub streams: usize,
    /// Whether bytes are compressed.
    pub compression: Compression,
    /// Where the cap is, which decides whether compressing pays.
    pub controls: Arc<Controls>,
}

/// The receiving end: streams that a listener was given, and that say by a token what they belong to.
pub struct TcpReceiver {
    joins: Arc<Joins>,
    encrypted: bool,
}

impl TcpReceiver {
    /// For streams that are handed to `joins`.
    #[must_use]
    pub fn new(joins: Arc<Joins>, encrypted: bool) -> Self {
        Self { joins, encrypted }
    }
}

impl Transport for TcpSender {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn is_encrypted(&self) -> bool {
        self.dial.is_encrypted()
    }

    fn connect(
        &self,
        offer: &[u8],
        _: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError> {
        let token: [u8; TOKEN_BYTES] = offer.try_into().map_err(|_| {
            MemoryError::Protocol(format!("a token of {} bytes, not {TOKEN_BYTES}", offer.len()))
        })?;
        let mut lanes: Vec<Box<dyn Lane>> = Vec::with_capacity(self.streams);
        for lane in 0..self.streams.max(1) {
            let mut stream = self.dial.dial()?;
            let join = Join { lane, token };
            write_message(&mut *stream, Kind::Join, &join.encode())?;
            expect(&mut *stream, Kind::Welcome, "joining a data stream")?;
            let packer = Packer::new(self.compression, self.controls.clone(), self.streams.max(1));
            lanes.push(Box::new(TcpLane { stream, packer, messages: 0 }));
        }
        Ok(lanes)
    }

    fn accept(&self, _: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError> {
        Err(MemoryError::Protocol("this end of a data path only sends".to_owned()))
    }
}

impl Transport for TcpReceiver {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    fn connect(
        &self,
        _: &[u8],
        _: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError> {
        Err(MemoryError::Protocol("this end of a data path only receives".to_owned()))
    }

    fn accept(&self, ground: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError> {
        Ok(Box::new(Arriving::new(&self.joins, ground)?))
    }
}

/// One data stream. Its count is of messages.
struct TcpLane {
    stream: Box<dyn Stream>,
    packer: Packer,
    messages: u64,
}

impl Lane for TcpLane {
    fn put(&mut self, piece: Piece, memory: &Mapping) -> Result<u64, MemoryError> {
        let Piece { offset, len_bytes, .. } = piece;
        self.messages += 1;
        let packed = self.packer.pack(piece, memory)?;
        let began = Instant::now();
        let wire_bytes = match packed {
            Some(message) => {
                self.stream.send(message).map_err(connection("sending memory"))?;
                message.len() as u64
            }
            None => {
                let head = chunk_head(piece);
                self.stream.send_memory(&head, memory, offset, len_bytes)?;
                head.len() as u64 + len_bytes
            }
        };
        self.packer.took(began.elapsed(), wire_bytes);
        Ok(wire_bytes)
    }

    fn zero(&mut self, piece: Piece) -> Result<u64, MemoryError> {
        self.messages += 1;
        let message = zero(piece);
        self.stream.send(&message).map_err(connection("sending memory"))?;
        Ok(message.len() as u64)
    }

    fn mark(&mut self) -> Result<u64, MemoryError> {
        Ok(self.messages)
    }
}
