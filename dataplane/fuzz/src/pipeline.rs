//! The whole pipeline: bytes say what happens, and in between are frames.

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use tidegate_dataplane::{
    pipeline::{BURST, Capacity, HELD, Origin, Outcome, Released, Shard, ShardSelector, Verdict},
    session::Connections,
    steering::{Cutover, Destination, ManagedAddress, PortId, Snapshot, Unknown},
};

use crate::{
    bytes::Bytes,
    network::{self, CLIENTS, L2, LOCATORS, NAT, PORT_MAC, PORTS, ip},
};

const SHARDS: u16 = 2;
const CAPACITY: Capacity = Capacity { v4: 96, v6: 96 };
/// More steps than this take long and find little.
const MOST_STEPS: usize = 64;
const SLOTS: u32 = 8;
/// Of a fragment from one VM to another: to gatherer and session, the same on the other side, and back with an error.
const MOST_HOPS: u32 = 5;

/// A frame and the port it arrived on.
type Frame = (PortId, Vec<u8>);

struct FuzzedBox {
    shards: Vec<Shard>,
    snapshot: Snapshot,
    managed: Vec<ManagedAddress>,
    now_ms: u64,
    fed: u64,
    /// By shard and place.
    held: Vec<Vec<Option<Frame>>>,
}

thread_local! {
    /// Made once: its memory takes longer to get than a run.
    static BOX: RefCell<FuzzedBox> = RefCell::new(FuzzedBox::new());
}

pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    BOX.with_borrow_mut(|fuzzed| {
        for _ in 0..MOST_STEPS {
            if bytes.is_empty() {
                break;
            }
            fuzzed.step(&mut bytes);
            fuzzed.check();
        }
        fuzzed.forget();
    });
}

impl FuzzedBox {
    fn new() -> Self {
        let selector = ShardSelector::new(SHARDS);
        let connections = Arc::new(Connections::new(64));
        let shard = |number| {
            let connections = Arc::clone(&connections);
            Shard::new(number, selector.clone(), CAPACITY, connections, Arc::default())
        };
        let managed = network::managed();
        let mut made = Self {
            shards: (0..SHARDS).map(|number| shard(number).expect("memory")).collect(),
            snapshot: network::snapshot(1, managed.clone()),
            managed,
            now_ms: 1_000,
            fed: 0,
            held: (0..SHARDS).map(|_| vec![None; HELD]).collect(),
        };
        made.install();
        made
    }

    fn install(&mut self) {
        let generation = self.snapshot.generation + 1;
        self.snapshot = network::snapshot(generation, self.managed.clone());
        self.shards.iter_mut().for_each(|shard| shard.install(&self.snapshot));
    }

    /// Back to the beginning, without sessions and fragments.
    fn forget(&mut self) {
        self.managed = network::managed();
        self.managed.iter_mut().for_each(|address| address.tracked = false);
        self.install();
        // Longer than fragments wait or are remembered.
        self.now_ms += 60_000;
        self.sweep(u32::MAX);
        assert!(self.held.iter().flatten().all(Option::is_none), "none waits for ever");
        for shard in &self.shards {
            assert_eq!(shard.counters().sessions.get(), 0, "all are forgotten");
        }
        self.managed = network::managed();
        self.install();
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 16 {
            0 => self.now_ms += u64::from(bytes.u16()) * 64,
            1 => {
                let budget = u32::from(bytes.u16());
                self.sweep(budget);
            }
            2 => self.steer(bytes),
            _ => {
                let frames: Vec<_> = (0..1 + bytes.below(4)).map(|_| frame(bytes)).collect();
                self.feed(frames);
            }
        }
    }

    /// One step of a migration of one address, fitting or not.
    fn steer(&mut self, bytes: &mut Bytes<'_>) {
        let number = bytes.below(self.managed.len());
        let managed = &mut self.managed[number];
        match bytes.byte() % 6 {
            0 => managed.tracked = !managed.tracked,
            1 => managed.hosted = !managed.hosted,
            2 => managed.destination = None,
            3 => {
                let place = 1 - managed.home.slot.0 % 2;
                let backend = network::backend(number as u32, managed.address, place);
                managed.destination = Some(Destination { backend, cut_over: None });
            }
            4 => {
                let policies = [Unknown::Source, Unknown::Destination, Unknown::Drop];
                let [unknown_tcp, unknown_quic] = [(); 2].map(|()| policies[bytes.below(3)]);
                let datagrams_end_ms =
                    bytes.byte().is_multiple_of(2).then_some(self.now_ms + 5_000);
                if let Some(destination) = &mut managed.destination {
                    destination.cut_over =
                        Some(Cutover { unknown_tcp, unknown_quic, datagrams_end_ms });
                    managed.epoch += 1;
                }
            }
            _ => {
                if let Some(destination) = managed.destination.take() {
                    managed.home = destination.backend;
                }
            }
        }
        self.install();
    }

    fn feed(&mut self, frames: Vec<Frame>) {
        self.fed += frames.len() as u64;
        let first = frames.first().and_then(|(_, frame)| frame.first());
        let at = usize::from(first.is_some_and(|byte| byte & 2 == 0));
        self.pass(at, Origin::Port, frames, 0);
        for shard in &mut self.shards {
            assert!(shard.take_punts().count() <= BURST);
        }
    }

    /// One shard takes frames that were redirected so often; what it redirects or releases goes on.
    fn pass(&mut self, at: usize, origin: Origin, frames: Vec<Frame>, hops: u32) {
        let (mut ports, mut frames): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let mut verdicts = [Verdict::Redirect(u16::MAX); BURST];
        let (snapshot, now_ms) = (&self.snapshot, self.now_ms);
        let shard = &mut self.shards[at];
        shard.process(snapshot, now_ms, origin, &mut frames, &mut ports, &mut verdicts);
        // As workers do: all verdicts of a burst are carried out before a shard is given another.
        let mut redirected = Vec::new();
        for ((frame, port), verdict) in frames.into_iter().zip(ports).zip(verdicts) {
            match verdict {
                Verdict::Redirect(to) => {
                    assert!(hops < MOST_HOPS && usize::from(to) != at, "it comes to rest");
                    redirected.push((usize::from(to), (port, frame)));
                }
                Verdict::Hold(place) => {
                    let held = self.held[at][usize::from(place)].replace((port, frame));
                    let displaced = u64::from(held.is_some());
                    self.shards[at].counters().count(Outcome::FragmentNoRoom, displaced);
                }
                verdict => self.end(at, verdict, &frame),
            }
        }
        self.release(at);
        for (to, frame) in redirected {
            self.pass(to, Origin::Worker, vec![frame], hops + 1);
        }
    }

    fn release(&mut self, at: usize) {
        while let Some(released) = self.shards[at].next_released() {
            let (Released::Process(place) | Released::Drop(place, _)) = released;
            let held = self.held[at][usize::from(place)].take().expect("it is held there");
            match released {
                Released::Process(_) => self.pass(at, Origin::Worker, vec![held], 0),
                Released::Drop(_, outcome) => self.end(at, Verdict::Drop(outcome), &held.1),
            }
        }
    }

    fn sweep(&mut self, budget: u32) {
        for at in 0..self.shards.len() {
            self.shards[at].sweep(&self.snapshot, self.now_ms, budget);
            self.release(at);
        }
    }

    fn end(&self, shard: usize, verdict: Verdict, frame: &[u8]) {
        let outcome = match verdict {
            Verdict::Transmit(device, outcome) => {
                assert!(!outcome.is_drop() && device.0 < PORTS && frame.len() >= 14);
                outcome
            }
            Verdict::Drop(outcome) => {
                assert!(outcome.is_drop());
                outcome
            }
            Verdict::Redirect(_) | Verdict::Hold(_) => unreachable!("it came to rest"),
        };
        self.shards[shard].counters().count(outcome, 1);
    }

    fn check(&self) {
        let mut ended = 0;
        for shard in &self.shards {
            let counters = shard.counters();
            ended += Outcome::ALL.iter().map(|outcome| counters.outcome(*outcome)).sum::<u64>();
            let slots = || (0..SLOTS).map(tidegate_dataplane::steering::BackendSlot);
            let entries: u32 = slots().map(|slot| counters.entries(slot)).sum();
            assert_eq!(u64::from(entries), counters.sessions.get());
            shard.assert_half_open_counts();
            for slot in slots() {
                assert!(counters.live(slot) <= counters.entries(slot));
                assert!(counters.live_begun_by_vm(slot) <= counters.live(slot));
            }
        }
        let held = self.held.iter().flatten().flatten().count() as u64;
        assert_eq!(ended + held, self.fed, "every packet ends in one outcome");
    }
}

/// A frame: any bytes, or a whole packet with some bytes changed.
fn frame(bytes: &mut Bytes<'_>) -> Frame {
    let place = bytes.byte();
    let port = PortId(u16::from(place) % PORTS);
    let kind = bytes.byte();
    if kind == 0xff {
        let length = bytes.below(128);
        return (port, bytes.take(length).to_vec());
    }
    let family = usize::from(kind & 1);
    let all = [L2, NAT, LOCATORS[0], LOCATORS[1]];
    let ours = all[usize::from(kind >> 1 & 3)][family];
    // Now and then the client is a VM as well, or the same.
    let client = if place & 0x30 == 0 { all[usize::from(place >> 6)] } else { CLIENTS };
    let (client, ours) = (ip(client[family]), ip(ours));
    let by_client = kind & 8 == 0;
    let (source, destination) = if by_client { (client, ours) } else { (ours, client) };
    let mut frame = packet((source, destination), by_client, kind >> 4, bytes);
    if kind >> 4 & 8 != 0 {
        make_fragment(&mut frame, bytes);
    }
    for _ in 0..bytes.below(4) {
        let at = bytes.below(96);
        let value = bytes.byte();
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
    }
    if bytes.byte().is_multiple_of(16) {
        frame.truncate(bytes.below(100));
    }
    (port, frame)
}

/// TCP, UDP, echo, an error with a quote, another protocol; checksums are not right.
fn packet(
    (source, destination): (IpAddr, IpAddr),
    by_client: bool,
    kind: u8,
    bytes: &mut Bytes<'_>,
) -> Vec<u8> {
    let client_port = 1 + bytes.byte() % 8;
    let ports = match by_client {
        true => [0, client_port, 0, 80],
        false => [0, 80, 0, client_port],
    };
    let is_v4 = source.is_ipv4();
    let (protocol, transport) = match kind & 7 {
        0..=3 => {
            let mut tcp = [0; 20];
            tcp[..4].copy_from_slice(&ports);
            (tcp[7], tcp[11]) = (bytes.byte() % 8, bytes.byte() % 8);
            (tcp[12], tcp[13]) = (0x50, bytes.byte() & 0x17);
            (6, tcp.to_vec())
        }
        4 => {
            let payload = bytes.below(24);
            let payload = bytes.take(payload);
            let length = 8 + payload.len() as u8;
            (17, [&ports[..], &[0, length, 0, 0], payload].concat())
        }
        5 => {
            let kinds = if is_v4 { [8, 0] } else { [128, 129] };
            let echo = [kinds[bytes.below(2)], 0, 0, 0, 0, client_port, 0, 1];
            (if is_v4 { 1 } else { 58 }, echo.to_vec())
        }
        6 => {
            let kind = if is_v4 { 3 } else { 1 };
            let mut error = vec![kind, 4, 0, 0, 0, 0, 0, 0];
            let quoted = [&ports[2..], &ports[..2], &[0, 8, 0, 0]].concat();
            error.extend(&ip_packet(destination, source, 17, &quoted)[14..]);
            let checksum = icmp_checksum(source, destination, &error);
            error[2..4].copy_from_slice(&checksum.to_be_bytes());
            (if is_v4 { 1 } else { 58 }, error)
        }
        _ => (bytes.byte(), bytes.take(16).to_vec()),
    };
    ip_packet(source, destination, protocol, &transport)
}

fn ip_packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [PORT_MAC.0, [2, 0, 0, 0, 9, 2]].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + payload.len()) as u8;
            frame.extend([8, 0, 0x45, 0, 0, length, 0, 7, 0, 0, 64, protocol, 0, 0]);
            frame.extend([source.octets(), destination.octets()].concat());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64]);
            frame.extend([source.octets(), destination.octets()].concat());
        }
        _ => unreachable!("one family"),
    }
    frame.extend(payload);
    frame
}

/// Make a packet one of few fragments of few datagrams.
fn make_fragment(frame: &mut Vec<u8>, bytes: &mut Bytes<'_>) {
    const IPV4: u8 = 8;
    let identification = bytes.byte() % 4;
    let offset = [0, 0, 1, 100][bytes.below(4)];
    let more = u16::from(bytes.byte() % 2);
    if frame[12] == IPV4 {
        frame[18..20].copy_from_slice(&[0, identification]);
        frame[20..22].copy_from_slice(&(more << 13 | offset).to_be_bytes());
        return;
    }
    let [upper, lower] = (offset << 3 | more).to_be_bytes();
    let header = [frame[20], 0, upper, lower, 0, 0, 0, identification];
    frame[20] = 44;
    frame[19] = frame[19].saturating_add(8);
    frame.splice(54..54, header);
}

fn icmp_checksum(source: IpAddr, destination: IpAddr, message: &[u8]) -> u16 {
    use tidegate_dataplane::packet::checksum;
    let frame = ip_packet(source, destination, 58, message);
    if source.is_ipv4() {
        checksum::of_icmp(message)
    } else {
        checksum::of_icmpv6(&frame[14..], message)
    }
}
