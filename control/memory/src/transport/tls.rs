//! TLS 1.3 under a stream, both ends authenticated.
//!
//! A host trusts whoever has a certificate from its authority, and the receiver's must be for the name or address it was
//! reached by. The cryptography is *ring*'s. Guest memory is copied once, into the buffer it is encrypted from, or
//! out of the one it was decrypted into.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, UnbufferedClientConnection},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{UnbufferedServerConnection, WebPkiClientVerifier},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
    version::TLS13,
};

use crate::{
    Mapping, MemoryError,
    copy::message::connection,
    transport::stream::{self, CONNECTING_TLS, Cut, Dial, Stream},
};

/// Read from the socket at once.
const INCOMING_BYTES: usize = 256 * 1024;
/// Encrypted and written at once.
const OUTGOING_BYTES: usize = 128 * 1024;
/// What encryption adds to that, at most: records have 16 KiB, and 22 bytes around.
const OVERHEAD_BYTES: usize = 1024;

/// What a host proves itself with, and whom it trusts.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This host's certificate and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authority that all hosts' certificates come from.
    pub ca: PathBuf,
}

impl TlsIdentity {
    /// Read what is in the files.
    ///
    /// # Errors
    /// [`MemoryError::Tls`] with the file and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self, MemoryError> {
        let certificates = certificates(&files.certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key, error))?;
        let mut roots = RootCertStore::empty();
        for certificate in self::certificates(&files.ca)? {
            roots.add(certificate).map_err(|error| bad(&files.ca, error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(provider());
        let wrong = |error: rustls::Error| bad(&files.certificate, error);

        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier.map_err(|error| bad(&files.ca, error))?)
            .with_single_cert(certificates.clone(), key.clone_key())
            .map_err(wrong)?;
        // Streams are few and long: nothing is to be resumed.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key)
            .map_err(wrong)?;
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// Let whoever connected prove itself, and prove ourselves to it.
    ///
    /// # Errors
    /// The handshake's.
    pub fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Stream>> {
        let side =
            UnbufferedServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        Ok(Box::new(Tls::new(socket, Side::Server(side))?))
    }
}

/// The fastest cipher first.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MemoryError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| bad(path, error))?;
    if read.is_empty() { Err(bad(path, "there is no certificate in it")) } else { Ok(read) }
}

fn bad(path: &Path, error: impl std::fmt::Display) -> MemoryError {
    MemoryError::Tls(format!("{}: {error}", path.display()))
}

/// Encrypted connections to `host:port`.
#[derive(Clone, Debug)]
pub struct DialTls {
    /// Where to.
    pub address: String,
    /// Who we are.
    pub identity: TlsIdentity,
}

impl Dial for DialTls {
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError> {
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| MemoryError::Tls(format!("`{host}`: {error}")))?;
        let dial = || -> io::Result<Box<dyn Stream>> {
            let side = UnbufferedClientConnection::new(self.identity.client.clone(), name);
            let side = Side::Client(side.map_err(io::Error::other)?);
            Ok(Box::new(Tls::new(stream::connect(&self.address)?, side)?))
        };
        dial().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => MemoryError::Tls(format!("{}: {error}", self.address)),
            _ => connection(CONNECTING_TLS)(error),
        })
    }

    fn is_encrypted(&self) -> bool {
        true
    }
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A TCP connection under TLS.
struct Tls {
    socket: TcpStream,
    side: Side,
    /// From the socket; what is between `start` and `end` was not decrypted yet.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
    /// Encrypted, to the socket.
    outgoing: Vec<u8>,
    /// Decrypted, and not asked for yet; from `left_at` on.
    left: Vec<u8>,
    left_at: usize,
    clear: Box<[u8]>,
}

/// Takes a stretch of what comes, and where it begins.
type Sink<'a> = dyn FnMut(usize, &[u8]) -> Result<(), MemoryError> + 'a;

/// What the connection wants next.
enum Step {
    /// To be asked again.
    Again,
    /// So many bytes are to be written to the socket later.
    Encoded(usize),
    /// They are to be written now.
    Transmit,
    /// More bytes from the socket.
    Hungry,
    /// Nothing: it is open, and everything that came is decrypted.
    Open,
    Closed,
}

impl Tls {
    fn new(socket: TcpStream, side: Side) -> io::Result<Self> {
        stream::prepare(&socket)?;
        let mut tls = Self {
            socket,
            side,
            incoming: vec![0; INCOMING_BYTES].into(),
            start: 0,
            end: 0,
            outgoing: vec![0; OUTGOING_BYTES + OVERHEAD_BYTES],
            left: Vec::new(),
            left_at: 0,
            clear: vec![0; OUTGOING_BYTES].into(),
        };
        tls.open()?;
        Ok(tls)
    }

    /// Go through the handshake. What the peer says right behind its own is kept.
    fn open(&mut self) -> io::Result<()> {
        loop {
            match self.step_keeping()? {
                Step::Open => return Ok(()),
                Step::Hungry => self.read_more()?,
                Step::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Step::Again | Step::Encoded(_) | Step::Transmit => {}
            }
        }
    }

    fn step_keeping(&mut self) -> io::Result<Step> {
        let mut left = std::mem::take(&mut self.left);
        let step = self.step(&mut |bytes| left.extend_from_slice(bytes));
        self.left = left;
        step
    }

    /// Let the connection go on with what is there. `record` takes what was decrypted.
    fn step(&mut self, record: &mut dyn FnMut(&[u8])) -> io::Result<Step> {
        let mut filled = 0;
        let mut failed = None;
        loop {
            let bytes = &mut self.incoming[self.start..self.end];
            let (discard, step) = match &mut self.side {
                Side::Client(side) => {
                    advance(side.process_tls_records(bytes), &mut self.outgoing, filled, record)
                }
                Side::Server(side) => {
                    advance(side.process_tls_records(bytes), &mut self.outgoing, filled, record)
                }
            };
            self.start += discard;
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            match (step, failed.take()) {
                (Ok(Step::Encoded(len)), None) => filled += len,
                (Ok(Step::Transmit), None) => {
                    self.socket.write_all(&self.outgoing[..filled])?;
                    filled = 0;
                }
                (Ok(step), None) => return Ok(step),
                // Once more: an alert that tells the peer may be waiting. Never a third time, for the bytes that failed would fail again.
                (Err(error), None) => failed = Some(error),
                (step, Some(error)) => {
                    if let Ok(Step::Encoded(len)) = step {
                        self.socket.write_all(&self.outgoing[..filled + len])?;
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.end == self.incoming.len() {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = loop {
            match self.socket.read(&mut self.incoming[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += read;
        Ok(())
    }

    /// Take `total` bytes; `sink` is given each stretch and where it begins.
    fn receive_with(&mut self, total: usize, sink: &mut Sink<'_>) -> Result<(), MemoryError> {
        const DURING: &str = "receiving memory";
        let have = (self.left.len() - self.left_at).min(total);
        sink(0, &self.left[self.left_at..self.left_at + have])?;
        self.left_at += have;
        let mut got = have;
        if self.left_at == self.left.len() {
            self.left.clear();
            self.left_at = 0;
        }
        while got < total {
            let mut left = std::mem::take(&mut self.left);
            let mut sunk = Ok(());
            let step = self.step(&mut |bytes| {
                let (now, later) = bytes.split_at(bytes.len().min(total - got));
                if sunk.is_ok() && !now.is_empty() {
                    sunk = sink(got, now);
                }
                got += now.len();
                left.extend_from_slice(later);
            });
            self.left = left;
            sunk?;
            match step.map_err(connection(DURING))? {
                Step::Hungry | Step::Open if got < total => {
                    self.read_more().map_err(connection(DURING))?;
                }
                Step::Closed => {
                    return Err(connection(DURING)(io::ErrorKind::UnexpectedEof.into()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Encrypt and send the first `len` bytes of `clear`.
    fn send_clear(&mut self, len: usize) -> io::Result<()> {
        loop {
            match self.step_keeping()? {
                Step::Open => break,
                Step::Again => {}
                _ => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
        let bytes = &mut self.incoming[self.start..self.end];
        let clear = &self.clear[..len];
        let len = match &mut self.side {
            Side::Client(side) => {
                encrypt(side.process_tls_records(bytes), clear, &mut self.outgoing)
            }
            Side::Server(side) => {
                encrypt(side.process_tls_records(bytes), clear, &mut self.outgoing)
            }
        }?;
        self.socket.write_all(&self.outgoing[..len])
    }
}

fn advance<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    filled: usize,
    record: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(found)) => {
                    discard += found.discard;
                    record(found.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut encoded = data.encode(&mut outgoing[filled..]);
            if let Err(EncodeError::InsufficientSize(short)) = &encoded {
                outgoing.resize(filled + short.required_size, 0);
                encoded = data.encode(&mut outgoing[filled..]);
            }
            encoded.map(Step::Encoded).map_err(|error| rustls::Error::General(error.to_string()))
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Transmit)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Hungry),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Open),
        Ok(_) => Ok(Step::Closed),
        Err(error) => Err(error),
    };
    (discard, step)
}

fn encrypt<D>(
    status: UnbufferedStatus<'_, '_, D>,
    clear: &[u8],
    outgoing: &mut [u8],
) -> io::Result<usize> {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            traffic.encrypt(clear, outgoing).map_err(io::Error::other)
        }
        Ok(_) => Err(io::ErrorKind::NotConnected.into()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

impl Stream for Tls {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(OUTGOING_BYTES) {
            self.clear[..piece.len()].copy_from_slice(piece);
            self.send_clear(piece.len())?;
        }
        Ok(())
    }

    fn send_memory(
        &mut self,
        head: &[u8],
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        let (mut at, end) = (offset, offset + len_bytes);
        self.clear[..head.len()].copy_from_slice(head);
        let mut filled = head.len();
        while at < end {
            let len = (end - at).min((OUTGOING_BYTES - filled) as u64) as usize;
            memory.read(at, &mut self.clear[filled..filled + len])?;
            self.send_clear(filled + len).map_err(connection("sending memory"))?;
            at += len as u64;
            filled = 0;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        let len = into.len();
        let received = self.receive_with(len, &mut |at, bytes| {
            into[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        });
        received.map_err(|error| match error {
            MemoryError::Connection { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
    }

    fn receive_memory(
        &mut self,
        memory: &Mapping,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        self.receive_with(len_bytes as usize, &mut |at, bytes| {
            memory.write(offset + at as u64, bytes)
        })
    }

    fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(patience)
    }

    fn end_sending(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn drain(&mut self, patience: Duration) {
        stream::drain(&self.socket, patience);
    }

    fn cut(&self) -> io::Result<Cut> {
        stream::cut(&self.socket)
    }
}
