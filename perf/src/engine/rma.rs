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
    /// Writes that are in the target's memory. Written by its thread: once it is read, so are the bytes.
    arrived: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    target: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Rma {
    /// With a target that lets these memories be written.
    ///
    /// # Errors
    /// When the provider is not there.
    pub fn new(provider: Provider, memories: Vec<Arc<MmapRegion>>) -> anyhow::Result<Self> {
        let (arrived, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (tell, told) = mpsc::channel();
        let target = {
            let (arrived, is_over) = (Arc::clone(&arrived), Arc::clone(&is_over));
            thread::spawn(move || {
                let mut endpoint = Endpoint::open(provider, LOOPBACK)?;
                let windows: Result<Vec<_>, _> =
                    memories.into_iter().map(|memory| endpoint.expose(memory)).collect();
                tell.send((endpoint.address().to_vec(), windows?)).context("nobody writes")?;
                while !is_over.load(Relaxed) {
                    endpoint.poll(&mut |_| {
                        arrived.fetch_add(1, Release);
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
        Ok(Self { writer, peer, windows, arrived, is_over, target: Some(target) })
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
        let (began, before) = (Instant::now(), self.arrived.load(Acquire));
        let (mut begun, mut left) = (0, 0);
        while left < pieces.len() || self.arrived.load(Acquire) < before + pieces.len() as u64 {
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

impl Drop for Rma {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(target) = self.target.take() {
            // Its failure shows at the writer.
            let _ = target.join();
        }
    }
}
