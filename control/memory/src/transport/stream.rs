//! A stream between two hosts: TCP as it is, or under TLS. The seam at which tests cut, shorten and damage.

use std::{
    io,
    net::{Shutdown, TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use rustix::{
    fs::sendfile,
    net::{SendFlags, send},
};

use crate::{
    Mapping, MemoryError,
    copy::{SILENCE, message::connection},
};

/// Longest a connection may take to be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What is being done while a connection is made.
pub const CONNECTING: &str = "connecting";
/// What is being done while one is made with TLS.
pub const CONNECTING_TLS: &str = "connecting with TLS";

/// Ends both directions of a stream from any thread; whoever uses it sees its end.
pub type Cut = Box<dyn Fn() + Send + Sync>;

/// Bytes to and from another host, in order. Each method moves all it is asked to, or fails.
pub trait Stream: Send {
    /// Send bytes.
    ///
    /// # Errors
    /// The connection's.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Send `head`, then a range of memory.
    ///
    /// # Errors
    /// The connection's; [`MemoryError::OutOfBounds`].
    fn send_memory(
        &mut self,
        head: &[u8],
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError>;

    /// Fill a buffer with what comes.
    ///
    /// # Errors
    /// The connection's; its end is one.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<()>;

    /// Fill a range of memory with what comes.
    ///
    /// # Errors
    /// The connection's; its end is one. [`MemoryError::OutOfBounds`].
    fn receive_memory(
        &mut self,
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError>;

    /// How long receiving waits for anything to come; `None`: until the stream is cut.
    ///
    /// # Errors
    /// The system's.
    fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()>;

    /// Say that nothing more will be sent.
    fn end_sending(&mut self);

    /// Take and forget what still comes, until the other side closes or `patience` is over: closing before would lose
    /// what was sent last.
    fn drain(&mut self, patience: Duration);

    /// What ends this stream.
    ///
    /// # Errors
    /// The system's.
    fn cut(&self) -> io::Result<Cut>;
}

/// Makes streams to one host.
pub trait Dial: Send + Sync {
    /// A new stream.
    ///
    /// # Errors
    /// [`MemoryError::Connection`].
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError>;

    /// Whether its streams are encrypted.
    fn is_encrypted(&self) -> bool;
}

/// A TCP connection without encryption.
#[derive(Debug)]
pub struct Plain(TcpStream);

impl Plain {
    /// Take over a connection.
    ///
    /// # Errors
    /// The system's.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        prepare(&stream)?;
        Ok(Self(stream))
    }
}

/// Small messages must not wait for each other, and a silent peer must not hold us for ever.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

pub(crate) fn cut(stream: &TcpStream) -> io::Result<Cut> {
    let stream = stream.try_clone()?;
    Ok(Box::new(move || {
        // Closed already is fine.
        let _ = stream.shutdown(Shutdown::Both);
    }))
}

pub(crate) fn drain(mut stream: &TcpStream, patience: Duration) {
    let until = Instant::now() + patience;
    let mut sink = vec![0; 64 * 1024];
    let _ = stream.set_read_timeout(Some(patience));
    while Instant::now() < until && io::Read::read(&mut stream, &mut sink).is_ok_and(|len| len > 0)
    {
    }
}

impl Stream for Plain {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.0, bytes)
    }

    fn send_memory(
        &mut self,
        head: &[u8],
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        // The range is there: the kernel would only send less.
        memory.slice(offset, len_bytes)?;
        send_all(&self.0, head, SendFlags::MORE).map_err(connection("sending memory"))?;
        let (mut at, end) = (offset, offset + len_bytes);
        while at < end {
            let left = (end - at) as usize;
            // The file's pages themselves go out; nothing is copied on this side.
            match sendfile(&self.0, memory.file(), Some(&mut at), left) {
                Ok(0) => {
                    let source = io::Error::new(io::ErrorKind::WriteZero, "nothing can be sent");
                    return Err(connection("sending memory")(source));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(connection("sending memory")(error.into())),
            }
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(&mut self.0, into)
    }

    fn receive_memory(
        &mut self,
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        memory.fill_from(offset, len_bytes, &mut self.0)
    }

    fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(patience)
    }

    fn end_sending(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    fn drain(&mut self, patience: Duration) {
        drain(&self.0, patience);
    }

    fn cut(&self) -> io::Result<Cut> {
        cut(&self.0)
    }
}

fn send_all(stream: &TcpStream, mut bytes: &[u8], flags: SendFlags) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(stream, bytes, flags | SendFlags::NOSIGNAL) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Connections to `host:port` without encryption.
#[derive(Clone, Debug)]
pub struct DialPlain(pub String);

impl Dial for DialPlain {
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError> {
        let stream = connect(&self.0).and_then(Plain::new);
        Ok(Box::new(stream.map_err(connection(CONNECTING))?))
    }

    fn is_encrypted(&self) -> bool {
        false
    }
}

pub(crate) fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
