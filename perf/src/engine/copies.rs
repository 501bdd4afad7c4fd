//! Copies to another process over loopback: the whole of the copy protocol, the bytes over one data path.
//!
//! A copy is begun once and then brought up to date again and again ([`Copying::pass`]), so that each time all pages are
//! sent to memory that is there already. The receiving end is this program once more ([`receive`]).

use std::{
    env,
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use tidegate_fabric::Provider;
use tidegate_lab::process::Process;
use tidegate_memory::{
    Mapping, Object, ObjectKind,
    copy::{Controls, Landing, Place, Received, Receiver, Sending, Source, send::Stretch},
    transport::{
        Compression, Dial, DialPlain, DialTls, Plain, Stream, TcpSender, TlsIdentity, Transport,
        fabric::{FabricSender, receivers},
        tls::TlsFiles,
    },
};

use super::streams;

const MIGRATION: &str = "bench";
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const READY: Duration = Duration::from_secs(10);
const LISTENING: &str = "listening on ";

/// The way the bytes take.
#[derive(Clone, Debug)]
pub enum Way {
    /// TCP with so many streams; encrypted with what is in the files.
    Tcp(usize, Option<TlsFiles>),
    /// libfabric.
    Fabric(Provider),
}

/// A copy in progress.
pub struct Copying {
    sending: Sending,
    size_bytes: u64,
    /// Ends with the copy.
    _receiver: Process,
}

impl Copying {
    /// Begin to copy `memory` into `dir`.
    ///
    /// # Errors
    /// When the two ends do not come to terms.
    pub fn begin(dir: &Path, memory: &Arc<Mapping>, way: &Way) -> anyhow::Result<Self> {
        let files = if let Way::Tcp(_, files) = way { files.as_ref() } else { None };
        let options = files.map_or(Vec::new(), |TlsFiles { certificate, key, ca }| {
            [&PathBuf::from("--tls"), certificate, key, ca].map(Clone::clone).into()
        });
        let (process, address) = start(dir, &options)?;
        let dial: Arc<dyn Dial> = match files {
            None => Arc::new(DialPlain(address)),
            Some(files) => Arc::new(DialTls { address, identity: TlsIdentity::load(files)? }),
        };
        let controls = Arc::new(Controls::new(None));
        let transport: Arc<dyn Transport> = match *way {
            Way::Fabric(provider) => Arc::new(FabricSender { provider, peer: LOOPBACK }),
            Way::Tcp(streams, _) => Arc::new(TcpSender {
                dial: Arc::clone(&dial),
                streams,
                compression: Compression::Off,
                controls: Arc::clone(&controls),
            }),
        };
        let size_bytes = memory.size_bytes();
        let object = Object { kind: ObjectKind::Ram, size_bytes };
        let source = Source { object, memory: Some(Arc::clone(memory)), hashes: None };
        let sending = Sending::begin(&*dial, MIGRATION, vec![source], &[transport], controls)?;
        Ok(Self { sending, size_bytes, _receiver: process })
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

/// This program as receiver, and where it listens.
pub(super) fn start(
    dir: &Path,
    options: &[impl AsRef<OsStr>],
) -> anyhow::Result<(Process, String)> {
    fs::create_dir_all(dir)?;
    let mut command = Command::new(env::current_exe()?);
    command.arg("receive").arg(dir).args(options);
    let mut process = Process::start("receiver", &mut command, dir)?;
    process.wait_for("\n", READY)?;
    let printed = process.printed();
    let address = printed.lines().find_map(|line| line.strip_prefix(LISTENING));
    let address = address.with_context(|| format!("the receiver says: {printed}"))?;
    Ok((process, address.to_owned()))
}

/// Tell [`start`] where to reach this one.
pub(super) fn announce(listener: &TcpListener) -> anyhow::Result<()> {
    println!("{LISTENING}{}", listener.local_addr()?);
    Ok(())
}

/// The receiving end.
#[derive(Args, Debug)]
pub struct Receiving {
    /// Where what arrives is put.
    dir: PathBuf,
    /// Files of certificate, key and authority.
    #[arg(long, num_args = 3)]
    tls: Vec<PathBuf>,
    /// Not copies, but bare streams into so many bytes.
    #[arg(long, conflicts_with = "tls")]
    bare: Option<u64>,
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

/// Take copies until killed: every connection on a thread of its own. What goes wrong with one shows at its sender.
///
/// # Errors
/// When it cannot listen.
pub fn receive(options: &Receiving) -> anyhow::Result<()> {
    if let Some(size_bytes) = options.bare {
        return streams::receive(&options.dir, size_bytes);
    }
    let identity = match &options.tls[..] {
        [certificate, key, ca] => {
            let [certificate, key, ca] = [certificate, key, ca].map(Clone::clone);
            Some(TlsIdentity::load(&TlsFiles { certificate, key, ca })?)
        }
        _ => None,
    };
    let receiver = Receiver::new(identity.is_some(), receivers(LOOPBACK));
    let shared = Arc::new((receiver, identity, Shelf(options.dir.clone())));
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    announce(&listener)?;
    for stream in listener.incoming() {
        let (stream, shared) = (stream?, Arc::clone(&shared));
        thread::spawn(move || {
            let (receiver, identity, shelf) = &*shared;
            let stream: Box<dyn Stream> = match identity {
                None => Box::new(Plain::new(stream)?),
                Some(identity) => identity.accept(stream)?,
            };
            receiver.serve(stream, shelf)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}
