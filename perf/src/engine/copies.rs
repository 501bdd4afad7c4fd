//! Copies between two ends in this process, over loopback: the whole of the copy protocol, the bytes over one data path.
//!
//! A copy is begun once and then brought up to date again and again ([`Copying::pass`]), so that each time all pages are
//! sent to memory that is there already.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::Context as _;
use tidegate_fabric::Provider;
use tidegate_memory::{
    Mapping, Object, ObjectKind,
    copy::{Controls, Landing, Place, Received, Receiver, Sending, Source, send::Stretch},
    transport::{
        Compression, Dial, DialPlain, DialTls, Plain, Stream, TcpSender, TlsIdentity, Transport,
        fabric::{FabricReceiver, FabricSender},
    },
};

const MIGRATION: &str = "bench";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The way the bytes take.
pub enum Way {
    /// TCP with so many streams; encrypted with an identity.
    Tcp(usize, Option<TlsIdentity>),
    /// libfabric.
    Fabric(Provider),
}

/// A copy in progress.
pub struct Copying {
    sending: Sending,
    size_bytes: u64,
}

struct Shelf(PathBuf);

impl Landing for Shelf {
    fn admit(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn place(&self, _: &str, _: &[Object]) -> Result<Place, String> {
        let files = vec![self.0.join("received")];
        Ok(Place { files, ledger: self.0.join("ledger"), zeros: false })
    }

    fn arrived(&self, _: &Received) -> Result<(), String> {
        Ok(())
    }
}

impl Copying {
    /// Begin to copy `memory` into `dir`.
    ///
    /// # Errors
    /// When the two ends do not come to terms.
    pub fn begin(dir: &Path, memory: &Arc<Mapping>, way: Way) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let controls = Arc::new(Controls::new(None));
        let (streams, identity, provider) = match way {
            Way::Tcp(streams, identity) => (streams, identity, None),
            Way::Fabric(provider) => (0, None, Some(provider)),
        };
        let others = provider.map(|provider| -> Arc<dyn Transport> {
            Arc::new(FabricReceiver { provider, local: LOOPBACK })
        });
        let receiver = Receiver::new(identity.is_some(), others.into_iter().collect());
        serve(listener, receiver, identity.clone(), Shelf(dir.to_owned()), 1 + streams);
        let dial: Arc<dyn Dial> = match identity {
            None => Arc::new(DialPlain(address)),
            Some(identity) => Arc::new(DialTls { address, identity }),
        };
        let transport: Arc<dyn Transport> = match provider {
            Some(provider) => Arc::new(FabricSender { provider, peer: LOOPBACK }),
            None => Arc::new(TcpSender {
                dial: Arc::clone(&dial),
                streams,
                compression: Compression::Off,
                controls: Arc::clone(&controls),
            }),
        };
        let size_bytes = memory.size_bytes();
        let object = Object { kind: ObjectKind::Ram, size_bytes };
        let source = Source { object, memory: Arc::clone(memory), hashes: None };
        let sending = Sending::begin(&*dial, MIGRATION, vec![source], &[transport], controls)?;
        Ok(Self { sending, size_bytes })
    }

    /// Bring the other end up to date; bytes of memory per second, from the order until all has arrived.
    ///
    /// # Errors
    /// The copy's.
    pub fn pass(&mut self) -> anyhow::Result<f64> {
        let all = Stretch { object: 0, range: 0..self.size_bytes };
        let began = Instant::now();
        self.sending.pass(&[all], &mut |_| {})?;
        Ok(self.size_bytes as f64 / began.elapsed().as_secs_f64())
    }

    /// Commit it, which has every section's digest compared.
    ///
    /// # Errors
    /// The copy's.
    pub fn finish(self) -> anyhow::Result<()> {
        self.sending.finish(&mut |_| {}).context("commit the copy").map(drop)
    }
}

/// Take so many connections, each on a thread of its own. What goes wrong shows at the sender.
fn serve(
    listener: TcpListener,
    receiver: Receiver,
    identity: Option<TlsIdentity>,
    shelf: Shelf,
    connections: usize,
) {
    let shared = Arc::new((receiver, shelf));
    thread::spawn(move || {
        for stream in listener.incoming().take(connections).map_while(Result::ok) {
            let (shared, identity) = (Arc::clone(&shared), identity.clone());
            thread::spawn(move || {
                let stream: Box<dyn Stream> = match &identity {
                    None => Box::new(Plain::new(stream)?),
                    Some(identity) => identity.accept(stream)?,
                };
                let (receiver, shelf) = &*shared;
                receiver.serve(stream, shelf)?;
                anyhow::Ok(())
            });
        }
    });
}
