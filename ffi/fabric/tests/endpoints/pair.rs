//! Two endpoints that know each other, moved by hand.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_fabric::{Endpoint, Error, Event, Peer, Provider, Source, Window, Write};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Nothing here may take longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn region(bytes: u64) -> Arc<MmapRegion> {
    Arc::new(MmapRegion::new(bytes as usize).expect("memory"))
}

/// A region whose every word says where it is.
pub(crate) fn image(bytes: u64) -> Arc<MmapRegion> {
    let image = region(bytes);
    let mut page = vec![0; MIB as usize];
    for start in (0..bytes).step_by(page.len()) {
        for (index, word) in page.chunks_exact_mut(8).enumerate() {
            let at = (start + 8 * index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&at.to_le_bytes());
        }
        let len = (bytes - start).min(MIB) as usize;
        image.as_volatile_slice().write_slice(&page[..len], start as usize).expect("in bounds");
    }
    image
}

pub(crate) fn bytes_of(region: &MmapRegion, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    region.as_volatile_slice().read_slice(&mut bytes, offset as usize).expect("in bounds");
    bytes
}

pub(crate) fn same(one: &MmapRegion, other: &MmapRegion) -> bool {
    one.size() == other.size()
        && (0..one.size() as u64).step_by(MIB as usize).all(|start| {
            let len = (one.size() as u64 - start).min(MIB);
            bytes_of(one, start, len) == bytes_of(other, start, len)
        })
}

pub(crate) struct Pair {
    pub(crate) writer: Endpoint,
    pub(crate) target: Endpoint,
    pub(crate) peer: Peer,
    pub(crate) source: Source,
    pub(crate) window: Window,
    pub(crate) into: Arc<MmapRegion>,
}

impl Pair {
    pub(crate) fn new(provider: Provider, from: &Arc<MmapRegion>) -> Self {
        let mut target = Endpoint::open(provider, LOOPBACK).expect("target");
        let mut writer = Endpoint::open(provider, LOOPBACK).expect("writer");
        let into = region(from.size() as u64);
        let window = target.expose(into.clone()).expect("window");
        let peer = writer.connect(target.address()).expect("peer");
        let source = writer.attach(from.clone()).expect("source");
        Self { writer, target, peer, source, window, into }
    }

    pub(crate) fn write(&self, at: u64, len: u64, number: u64) -> Write<'_> {
        let (source, peer) = (self.source, self.peer);
        let data = number as u32;
        Write { source, from: at, len, peer, to: &self.window, at, data, id: number }
    }

    /// Let bytes move on both sides until `done` or an error of one of them.
    pub(crate) fn run(
        &mut self,
        mut done: impl FnMut(&mut Endpoint, &[Event], &[Event]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let (mut sent, mut arrived) = (vec![], vec![]);
        while !done(&mut self.writer, &sent, &arrived)? {
            self.writer.poll(&mut |event| sent.push(event))?;
            self.target.poll(&mut |event| arrived.push(event))?;
            assert!(began.elapsed() < DEADLINE, "hangs: sent {sent:?}, arrived {arrived:?}");
        }
        Ok(())
    }

    /// Write once and wait for it on both sides.
    pub(crate) fn write_once(&mut self, at: u64, len: u64, window: Window) -> Result<(), Error> {
        let (source, peer) = (self.source, self.peer);
        let write = Write { source, from: 0, len, peer, to: &window, at, data: 1, id: 1 };
        let mut begun = false;
        self.run(|writer, sent, arrived| {
            begun = begun || writer.write(&write)?;
            Ok(!sent.is_empty() && !arrived.is_empty())
        })
    }
}

/// The same test for each provider that is on every machine.
macro_rules! for_each_provider {
    ($($test:ident)*) => {
        mod tcp {
            $(#[test] fn $test() { super::$test(tidegate_fabric::Provider::Tcp); })*
        }
        mod shm {
            $(#[test] fn $test() { super::$test(tidegate_fabric::Provider::Shm); })*
        }
    };
}
pub(crate) use for_each_provider;
