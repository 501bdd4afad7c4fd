//! Values off a stream, through a buffer: one call of the system for many pages.

use std::{
    io::{self, Read},
    str,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Malformed;

/// Small enough to stay in the cache until it is copied on, large enough that calls do not count.
const BUFFER_BYTES: usize = 256 << 10;

pub(super) struct Reader<'a, R> {
    source: R,
    buffer: Box<[u8]>,
    /// What is in the buffer and not yet taken.
    start: usize,
    end: usize,
    /// Bytes that were in the buffer before what is there now.
    before: u64,
    /// Told after each read.
    read_bytes: &'a AtomicU64,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(super) fn new(source: R, read_bytes: &'a AtomicU64) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { source, buffer, start: 0, end: 0, before: 0, read_bytes }
    }

    /// Bytes taken so far.
    pub(super) fn at(&self) -> u64 {
        self.before + self.start as u64
    }

    pub(super) fn wrong(&self, reason: impl Into<String>) -> Malformed {
        Malformed::new(self.at(), reason)
    }

    /// The next `len` bytes, at most a buffer.
    pub(super) fn bytes(&mut self, len: usize, awaited: &str) -> Result<&[u8], Malformed> {
        while self.end - self.start < len {
            if !self.refill()? {
                return Err(Malformed::ended(self.at(), awaited));
            }
        }
        let taken = &self.buffer[self.start..self.start + len];
        self.start += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, awaited: &str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, awaited)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, awaited: &str) -> Result<u8, Malformed> {
        self.array(awaited).map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self, awaited: &str) -> Result<u32, Malformed> {
        self.array(awaited).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, awaited: &str) -> Result<u64, Malformed> {
        self.array(awaited).map(u64::from_be_bytes)
    }

    /// The next byte, left where it is.
    pub(super) fn peek(&mut self, awaited: &str) -> Result<u8, Malformed> {
        let byte = self.u8(awaited)?;
        // It was taken from the buffer just now.
        self.start -= 1;
        Ok(byte)
    }

    pub(super) fn name(&mut self, awaited: &str) -> Result<String, Malformed> {
        let len = usize::from(self.u8(awaited)?);
        self.text(len, awaited)
    }

    pub(super) fn text(&mut self, len: usize, awaited: &str) -> Result<String, Malformed> {
        let at = self.at();
        let text = str::from_utf8(self.bytes(len, awaited)?).map(str::to_owned);
        text.map_err(|_| Malformed::new(at, format!("{awaited} is not text")))
    }

    /// Everything up to the end.
    pub(super) fn rest(&mut self, most: usize) -> Result<Vec<u8>, Malformed> {
        let mut rest = Vec::new();
        loop {
            rest.extend_from_slice(&self.buffer[self.start..self.end]);
            self.start = self.end;
            if rest.len() > most {
                return Err(self.wrong(format!("more than {most} bytes of devices")));
            }
            if !self.refill()? {
                return Ok(rest);
            }
        }
    }

    /// Read more behind what is there; false at the end.
    fn refill(&mut self) -> Result<bool, Malformed> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.before += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.end += read;
                    self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Malformed::unread(self.at(), &error)),
            }
        }
    }
}
