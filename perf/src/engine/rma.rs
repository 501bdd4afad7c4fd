//! libfabric without a protocol around it: a writer here, and a target that polls on a thread of its own.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tidegate_fabric::{Endpoint, Event, Peer, Provider, Source, Window, Write};
use vm_memory::MmapRegion;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What arrives arrives sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// A writer and its target.
pub struct Rma {
    writer: Endpoint,
    peer: Peer,
    windows: Vec<Window>,
    shared: Arc<Shared>,
    target: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// Writes that are in the target's memory. Written by its thread: once it is read, so are the bytes.
    arrived: AtomicU64,
    /// Writes that there will be: with all of them there, the target gives its CPU up. Written by the writer.
    wanted: AtomicU64,
    is_over: AtomicBool,
}

impl Rma {
    /// With a target that lets these memories be written.
    ///
    /// # Errors
    /// When the provider is not there.
    pub fn new(provider: Provider, memories: Vec<Arc<MmapRegion>>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (tell, told) = mpsc::channel();
        let target = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut endpoint = Endpoint::open(provider, LOOPBACK)?;
                let windows: Result<Vec<_>, _> =
                    memories.into_iter().map(|memory| endpoint.expose(memory)).collect();
                tell.send((endpoint.address().to_vec(), windows?)).context("nobody writes")?;
                while !shared.is_over.load(Relaxed) {
                    if shared.arrived.load(Relaxed) == shared.wanted.load(Relaxed) {
                        thread::park();
                    }
                    endpoint.poll(&mut |_| {
                        shared.arrived.fetch_add(1, Release);
                    })?;
                }
                Ok(())
            })
        };
        let Ok((address, windows)) = told.recv() else {
            target.join().map_err(|_| anyhow::anyhow!("the target panicked"))??;
            anyhow::bail!("the target ended");
        };
        let mut writer = Endpoint::open(provider, LOOPBACK)?;
        let peer = writer.connect(&address)?;
        Ok(Self { writer, peer, windows, shared, target: Some(target) })
    }

    /// Memory that can be written from.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn attach(&mut self, memory: Arc<MmapRegion>) -> anyhow::Result<Source> {
        Ok(self.writer.attach(memory)?)
    }

    /// Write pieces (offset, length) of `source` to the same places of a memory of the target, and wait until all are
    /// there.
    ///
    /// # Errors
    /// When they do not arrive.
    pub fn write(
        &mut self,
        source: Source,
        window: usize,
        pieces: &[(u64, u64)],
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let wanted =
            self.shared.wanted.fetch_add(pieces.len() as u64, Relaxed) + pieces.len() as u64;
        self.wake();
        let (mut begun, mut left) = (0, 0);
        while left < pieces.len() || self.shared.arrived.load(Acquire) < wanted {
            while let Some(&(at, len)) = pieces.get(begun) {
                let (peer, to) = (self.peer, &self.windows[window]);
                let write =
                    Write { source, from: at, len, peer, to, at, data: 0, id: begun as u64 };
                if !self.writer.write(&write)? {
                    break;
                }
                begun += 1;
            }
            self.writer
                .poll(&mut |event| left += usize::from(matches!(event, Event::Sent { .. })))?;
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "{begun} of {} writes begun, {left} left after {PATIENCE:?}",
                pieces.len()
            );
        }
        Ok(())
    }
}

impl Rma {
    fn wake(&self) {
        if let Some(target) = &self.target {
            target.thread().unpark();
        }
    }
}

impl Drop for Rma {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        self.wake();
        if let Some(target) = self.target.take() {
            // Its failure shows at the writer.
            let _ = target.join();
        }
    }
}
