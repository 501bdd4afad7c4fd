//! A shard fed with frames made in memory: more sessions than a capture can hold, and a clock of its own.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use anyhow::Context as _;
use tidegate_dataplane::{
    counters::ShardCounters,
    packet::{Address as _, Mac, PacketBuf},
    pipeline::{BURST, Capacity, Origin, Outcome, Shard, ShardSelector, Verdict},
    session::Connections,
    steering::{
        Backend, BackendSlot, IpPrefix, Link, ManagedAddress, Neighbour, NextHop, Port, PortId,
        PortRole, Rewrite, Routing, Snapshot, Timeouts,
    },
};

use crate::frame::{
    self, ACCESS_MAC, CLIENT_MAC, Kind, LOCATOR, MANAGED, SMALLEST, SOURCE_MAC, UPLINK_MAC, v4,
};

const UPLINK: PortId = PortId(0);
const ACCESS: PortId = PortId(1);
/// The router behind the uplink, 10.9.0.2.
const ROUTER: u32 = 0x0a09_0002;

/// A frame on cache lines of its own, as packet buffers are.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Frame([u8; SMALLEST]);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Of one size: there is nothing before it and nothing to be taken away.
impl PacketBuf for Frame {
    fn prepend(&mut self, _: usize) -> bool {
        false
    }

    fn trim_front(&mut self, _: usize) -> bool {
        false
    }

    fn truncate(&mut self, _: usize) -> bool {
        false
    }
}

/// What a burst consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// Segments of clients in the middle of their sessions.
    Segments,
    /// First segments of clients.
    Syns,
    /// The home's answers.
    Replies,
}

/// A shard and what it is fed.
pub struct Bench {
    shard: Shard,
    snapshot: Snapshot,
    now_ms: u64,
    segment: Frame,
    syn: Frame,
    reply: Frame,
    frames: [Frame; BURST],
    /// Where the frames arrive.
    port: PortId,
    verdicts: [Verdict; BURST],
}

impl Bench {
    /// With room for `capacity` sessions.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(capacity: u32) -> anyhow::Result<Self> {
        Self::one_of(0, ShardSelector::new(1), capacity, Timeouts::default())
    }

    /// Shard `number` of those `selector` chooses from.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn one_of(
        number: u16,
        selector: ShardSelector,
        capacity: u32,
        timeouts: Timeouts,
    ) -> anyhow::Result<Self> {
        let counters = Arc::new(ShardCounters::default());
        let (capacity, connections) =
            (Capacity { v4: capacity, v6: 0 }, Arc::new(Connections::new(0)));
        let shard = Shard::new(number, selector, capacity, connections, counters)?;
        let segment = template(frame::build(0, Kind::ACK, SMALLEST))?;
        Ok(Self {
            shard,
            snapshot: snapshot(timeouts)?,
            now_ms: 0,
            segment,
            syn: template(frame::build(0, Kind::SYN, SMALLEST))?,
            reply: template(v4::reply(0, Kind::ACK, SMALLEST))?,
            frames: [segment; BURST],
            port: UPLINK,
            verdicts: [Verdict::Drop(Outcome::Truncated); BURST],
        })
    }

    /// Adopt the sessions of these clients, and have the home answer each; time passes so that the rate limit allows it.
    ///
    /// # Errors
    /// When one is not adopted.
    pub fn fill(&mut self, clients: impl IntoIterator<Item = u32>) -> anyhow::Result<()> {
        let mut clients = clients.into_iter().peekable();
        while clients.peek().is_some() {
            self.now_ms += BURST as u64 / 8;
            let mut last = 0;
            let burst = std::array::from_fn(|_| {
                last = clients.next().unwrap_or(last);
                last
            });
            self.segments(&burst);
            self.sent()?;
            self.make(Packets::Replies, &burst);
            self.process();
            self.sent()?;
        }
        Ok(())
    }

    /// A burst of segments in the middle of these clients' sessions.
    #[inline]
    pub fn segments(&mut self, clients: &[u32; BURST]) {
        self.make(Packets::Segments, clients);
        self.process();
    }

    /// A burst of first segments of these clients.
    #[inline]
    pub fn syns(&mut self, clients: &[u32; BURST]) {
        self.make(Packets::Syns, clients);
        self.process();
    }

    /// Make a burst of these clients' packets.
    #[inline]
    pub fn make(&mut self, packets: Packets, clients: &[u32; BURST]) {
        // Where the client's address and port are.
        let (template, port, address_at, port_at) = match packets {
            Packets::Segments => (&self.segment, UPLINK, 26, 34),
            Packets::Syns => (&self.syn, UPLINK, 26, 34),
            Packets::Replies => (&self.reply, ACCESS, 30, 36),
        };
        self.port = port;
        for (frame, &client) in self.frames.iter_mut().zip(clients) {
            let (address, port) = frame::client(client);
            *frame = *template;
            frame.0[address_at..address_at + 4].copy_from_slice(&address.to_be_bytes());
            frame.0[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        }
        // Packets come from a card's memory, not out of the CPU's store queue, where reading what was written in pieces
        // takes many cycles.
        fence(Ordering::SeqCst);
    }

    /// Take the burst that was made through the shard.
    #[inline]
    pub fn process(&mut self) {
        let mut ports = [self.port; BURST];
        self.shard.process(
            &self.snapshot,
            self.now_ms,
            Origin::Port,
            &mut self.frames,
            &mut ports,
            &mut self.verdicts,
        );
        black_box(&self.frames);
    }

    /// Whether all of the last burst went to the home, or to clients if they came from there.
    ///
    /// # Errors
    /// With the verdict of one that did not.
    pub fn sent(&self) -> anyhow::Result<()> {
        let wanted = match self.port {
            UPLINK => Verdict::Transmit(ACCESS, Outcome::ToSource),
            _ => Verdict::Transmit(UPLINK, Outcome::ToClient),
        };
        let other = self.verdicts.iter().find(|&&verdict| verdict != wanted);
        other.map_or(Ok(()), |verdict| anyhow::bail!("a packet ended as {verdict:?}"))
    }

    /// Let time pass, and look at `budget` places, and what new sessions call for, for expired ones.
    #[inline]
    pub fn sweep(&mut self, now_ms: u64, budget: u32) {
        self.now_ms = now_ms;
        self.shard.sweep(&self.snapshot, now_ms, budget);
    }

    /// The shard's clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Sessions in the table.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.shard.counters().sessions.get()
    }
}

fn template(bytes: Vec<u8>) -> anyhow::Result<Frame> {
    Ok(Frame(bytes.try_into().ok().context("a smallest frame has its size")?))
}

fn snapshot(timeouts: Timeouts) -> anyhow::Result<Snapshot> {
    let port = |device, mac: Mac, role| {
        Some(Port { mac, addresses: Vec::new(), role, link: Link::untagged(device), twin: None })
    };
    let ports = vec![
        port(UPLINK, UPLINK_MAC, PortRole::Uplink),
        port(ACCESS, ACCESS_MAC, PortRole::Access),
    ];
    let home = Backend {
        slot: BackendSlot(0),
        port: ACCESS,
        mac: SOURCE_MAC,
        rewrite: Rewrite::Nat(LOCATOR.ip()),
    };
    let address = ManagedAddress {
        address: MANAGED.ip(),
        hosted: true,
        tracked: true,
        epoch: 1,
        home,
        destination: None,
        quic: None,
    };
    let everywhere = IpPrefix::new(0u32.ip(), 0).context("no bits are a prefix")?;
    let route = (everywhere, NextHop { port: UPLINK, via: Some(ROUTER.ip()) });
    let router = (ROUTER.ip(), Neighbour { port: UPLINK, mac: CLIENT_MAC });
    let routing = Routing::plain(&ports, [route], [router]);
    let mut snapshot = Snapshot::new(1, ports, [address], routing)?;
    snapshot.timeouts = timeouts;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_begin_are_followed_and_expire() {
        let timeouts = Timeouts { tcp_syn_ms: 10, ..Timeouts::default() };
        let mut bench = Bench::one_of(0, ShardSelector::new(1), 4096, timeouts).expect("memory");
        bench.fill(0..1000).expect("adopted");
        assert_eq!(bench.sessions(), 1000);
        bench.segments(&std::array::from_fn(|at| at as u32));
        bench.sent().expect("followed");
        bench.syns(&std::array::from_fn(|at| 1000 + at as u32));
        bench.sent().expect("begun");
        assert_eq!(bench.sessions(), 1000 + BURST as u64);
        bench.make(Packets::Replies, &std::array::from_fn(|at| at as u32));
        bench.process();
        bench.sent().expect("answered");
        assert_eq!(bench.sessions(), 1000 + BURST as u64);
        bench.sweep(bench.now_ms() + 11, bench.shard.places().v4);
        assert_eq!(bench.sessions(), 1000);
    }
}
