//! Streams over a socket pair, with a fault in between.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::Host;
use crate::{
    Mapping, MemoryError,
    copy::{SILENCE, message::connection},
    transport::{Cut, Dial, Stream},
};

/// What is wrong with a stream's sending.
#[derive(Clone, Default)]
pub(in crate::copy) struct Fault {
    /// Messages that still go through over all streams; then all are cut, the next one half said.
    pub(in crate::copy) messages_left: Option<Arc<AtomicUsize>>,
    /// Bytes of memory that are still right; then one is damaged.
    pub(in crate::copy) right_bytes: Option<Arc<Mutex<Option<u64>>>>,
    /// Damage the first byte of memory of each message.
    pub(in crate::copy) always_wrong: bool,
}

/// One end of a socket pair. It hands over and takes a few bytes at a time.
pub(in crate::copy) struct Double {
    socket: UnixStream,
    fault: Fault,
    /// So that each call moves another number of bytes.
    step: usize,
}

impl Double {
    pub(in crate::copy) fn pair(fault: Fault) -> (Self, Self) {
        let (near, far) = UnixStream::pair().expect("pair");
        let of = |socket: UnixStream, fault| {
            socket.set_read_timeout(Some(SILENCE)).expect("timeout");
            Self { socket, fault, step: 1 }
        };
        (of(near, fault), of(far, Fault::default()))
    }

    fn cut_now(&self, counted: usize) -> io::Result<bool> {
        let Some(left) = &self.fault.messages_left else { return Ok(false) };
        let spent = |left: usize| left.checked_sub(counted);
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent) {
            Ok(_) => Ok(false),
            Err(_) => Ok(true),
        }
    }

    fn send_or_cut(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.cut_now(1)? {
            let _ = self.socket.write_all(&bytes[..bytes.len() / 2]);
            let _ = self.socket.shutdown(Shutdown::Both);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.socket.write_all(bytes)
    }

    fn damage(&self, bytes: &mut [u8]) {
        if self.fault.always_wrong {
            bytes[0] ^= 1;
        }
        if let Some(right) = &self.fault.right_bytes {
            let mut right = right.lock().expect("lock");
            let Some(left) = &mut *right else { return };
            match bytes.get_mut(*left as usize) {
                Some(byte) => {
                    *byte ^= 0x10;
                    *right = None;
                }
                None => *left -= bytes.len() as u64,
            }
        }
    }
}

impl Stream for Double {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_or_cut(bytes)
    }

    fn send_memory(
        &mut self,
        head: &[u8],
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        let mut bytes = vec![0; len_bytes as usize];
        memory.read(offset, &mut bytes)?;
        self.damage(&mut bytes);
        self.send_or_cut(&[head, &bytes].concat()).map_err(connection("sending memory"))
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        while at < into.len() {
            self.step = self.step % 7000 + 619;
            let end = into.len().min(at + self.step);
            match self.socket.read(&mut into[at..end])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read,
            }
        }
        Ok(())
    }

    fn receive_memory(
        &mut self,
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        let mut bytes = vec![0; len_bytes as usize];
        self.receive(&mut bytes).map_err(connection("receiving memory"))?;
        memory.write(offset, &bytes)
    }

    fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(patience)
    }

    fn end_sending(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn drain(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        let _ = self.socket.set_read_timeout(Some(patience));
        let mut sink = [0; 4096];
        while Instant::now() < until && self.socket.read(&mut sink).is_ok_and(|len| len > 0) {}
    }

    fn cut(&self) -> io::Result<Cut> {
        let socket = self.socket.try_clone()?;
        Ok(Box::new(move || {
            let _ = socket.shutdown(Shutdown::Both);
        }))
    }
}

/// Makes doubles whose other ends a host serves.
pub(in crate::copy) struct DialDouble {
    host: Arc<Host>,
    fault: Fault,
}

impl DialDouble {
    pub(in crate::copy) fn to(host: &Arc<Host>, fault: Fault) -> Arc<dyn Dial> {
        Arc::new(Self { host: host.clone(), fault })
    }
}

impl Dial for DialDouble {
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError> {
        let (near, far) = Double::pair(self.fault.clone());
        self.host.serve(Box::new(far));
        Ok(Box::new(near))
    }

    fn is_encrypted(&self) -> bool {
        false
    }
}
