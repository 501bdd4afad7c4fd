//! A whole switch box without its ports: shards, the redirects between them, and the steps of a migration.
//!
//! Every burst arrives at one worker; what it redirects is drained before the next burst, so packets of one session
//! keep their order. After each burst every shard's counters are compared with what its table really holds, and
//! every IPv4 frame that leaves is read back by [`wire`].

pub(crate) mod carrier;
pub(crate) mod fragments;
pub(crate) mod summed;
pub(crate) mod traffic;
pub(crate) mod wire;
pub(crate) mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{
        BURST, Capacity, HELD, Import, ImportedSession, Origin, Outcome, Punt, Released, Shard,
        ShardSelector, Verdict,
    },
    session::{Connections, SessionRecord},
    steering::{
        BackendSlot, Cutover, Destination, ManagedAddress, PortId, Snapshot, Timeouts, Unknown,
    },
};

use fragments::is_fragment;
use traffic::Packet;
use wire::Seen;
use world::{Vm, managed, snapshot};

/// Room of each shard where a test does not care.
const CAPACITY: u32 = 512;
/// Slots below this are looked at when counts are checked.
const SLOTS: u32 = 64;

/// How one packet ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// The shard that said so.
    pub(crate) shard: u16,
    /// The frame that left and its port, without tags and tunnel.
    pub(crate) sent: Option<(PortId, Vec<u8>)>,
    /// The frame that left and its device.
    pub(crate) wire: Option<(PortId, Vec<u8>)>,
}

impl Ended {
    /// What left, read independently.
    #[track_caller]
    pub(crate) fn seen(&self) -> Seen {
        let (port, frame) = self.sent.as_ref().unwrap_or_else(|| panic!("not sent: {self:?}"));
        Seen::read(*port, frame)
    }
}

/// The box, and the managed address it steers; perhaps another beside it.
pub(crate) struct SwitchBox {
    shards: Vec<Shard>,
    selector: ShardSelector,
    snapshot: Snapshot,
    pub(crate) address: ManagedAddress,
    beside: Option<ManagedAddress>,
    pub(crate) timeouts: Timeouts,
    pub(crate) now_ms: u64,
    /// Whether frames that leave must have right checksums: not when the test fed wrong ones.
    pub(crate) verify: bool,
    bursts: usize,
    fed: u64,
    counted: [u64; Outcome::COUNT],
    /// On their way to each shard.
    rings: Vec<VecDeque<Flight>>,
    /// By shard and place.
    held: Vec<Vec<Option<Flight>>>,
    ended: BTreeMap<u64, Ended>,
}

/// A frame on its way through the box.
struct Flight {
    number: u64,
    port: PortId,
    frame: Vec<u8>,
    redirects: u32,
}

impl Flight {
    /// It is `frame` of `port` from now on, and may have lost tags or a tunnel's headers, and nothing else; unless it is on
    /// its way from one VM to another.
    fn strip(&mut self, port: PortId, frame: &[u8]) {
        if port == self.port && port != PortId::HAIRPIN {
            assert_eq!(frame, self.frame, "a frame that goes on must be untouched");
        } else if port != PortId::HAIRPIN {
            assert_eq!(carrier::onto_wire(port, frame.to_vec()).0, self.port, "the wrong port");
            assert!(self.frame.ends_with(&frame[14..]));
        }
        (self.port, self.frame) = (port, frame.to_vec());
    }
}

impl SwitchBox {
    /// `shards` shards in front of `home`.
    pub(crate) fn new(shards: u16, home: Vm) -> Self {
        Self::with_capacity(shards, CAPACITY, home)
    }

    /// As [`SwitchBox::new`], with room for `capacity` sessions on each shard.
    pub(crate) fn with_capacity(shards: u16, capacity: u32, home: Vm) -> Self {
        let (selector, count) = (ShardSelector::new(shards), shards);
        let capacity = Capacity { v4: capacity, v6: capacity };
        let connections = Arc::new(Connections::new(4096));
        let shards = (0..shards)
            .map(|number| {
                let (selector, connections) = (selector.clone(), Arc::clone(&connections));
                Shard::new(number, selector, capacity, connections, Arc::default()).expect("memory")
            })
            .collect();
        let address = managed(home);
        let mut made = Self {
            shards,
            selector,
            snapshot: snapshot(0, [address]),
            address,
            beside: None,
            timeouts: Timeouts::default(),
            now_ms: 1_000,
            verify: true,
            bursts: 0,
            fed: 0,
            counted: [0; Outcome::COUNT],
            rings: (0..count).map(|_| VecDeque::new()).collect(),
            held: (0..count).map(|_| (0..HELD).map(|_| None).collect()).collect(),
            ended: BTreeMap::new(),
        };
        made.install(address, &[]);
        made
    }

    /// Publish `address` to every shard.
    pub(crate) fn install(&mut self, address: ManagedAddress, counted: &[BackendSlot]) {
        self.address = address;
        let addresses = [address].into_iter().chain(self.beside);
        let mut snapshot = snapshot(self.snapshot.generation + 1, addresses);
        snapshot.counted_at_install = counted.to_vec();
        snapshot.timeouts = self.timeouts;
        for shard in &mut self.shards {
            shard.install(&snapshot);
            assert_eq!(shard.counters().generation(), snapshot.generation);
        }
        self.snapshot = snapshot;
    }

    /// Publish this address beside the box's own from now on.
    pub(crate) fn install_beside(&mut self, address: Option<ManagedAddress>) {
        self.beside = address;
        self.install(self.address, &[]);
    }

    pub(crate) fn set_destination(&mut self, vm: Vm) {
        let destination = Some(Destination { backend: vm.backend, cut_over: None });
        self.install(ManagedAddress { destination, hosted: true, ..self.address }, &[]);
    }

    /// Cut over, and return the number of old sessions the shards counted.
    pub(crate) fn cutover(&mut self, unknown_tcp: Unknown) -> u32 {
        self.cutover_with(Cutover { unknown_tcp, ..Cutover::default() })
    }

    pub(crate) fn cutover_with(&mut self, cutover: Cutover) -> u32 {
        let destination = self.address.destination.expect("a destination to cut over to");
        let source = self.address.home.slot;
        let address = ManagedAddress {
            epoch: self.address.epoch + 1,
            destination: Some(Destination { cut_over: Some(cutover), ..destination }),
            ..self.address
        };
        self.install(address, &[source]);
        self.at_install(source)
    }

    /// Live sessions of `slot` as the shards noted them when they were last asked to.
    pub(crate) fn at_install(&self, slot: BackendSlot) -> u32 {
        self.counters().map(|it| it.at_install(slot)).sum()
    }

    /// The source owns everything again.
    pub(crate) fn abort(&mut self) {
        self.install(ManagedAddress { destination: None, hosted: false, ..self.address }, &[]);
    }

    /// The address belongs to the destination.
    pub(crate) fn release(&mut self) {
        let home = self.address.destination.expect("a destination to release to").backend;
        let released = ManagedAddress { home, destination: None, hosted: false, ..self.address };
        self.install(released, &[]);
    }

    pub(crate) fn import(&mut self, sessions: &[ImportedSession]) -> Import {
        let mut total = Import::default();
        for session in sessions {
            let shard = &mut self.shards[usize::from(self.selector.shard_of(&session.tuple))];
            total += shard.import(&self.snapshot, std::slice::from_ref(session), self.now_ms);
        }
        self.check_counts();
        total
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// Sweep every shard from end to end.
    pub(crate) fn sweep(&mut self) {
        self.sweep_some(u32::MAX);
    }

    /// Places of the first shard's table for IPv4.
    pub(crate) fn places(&self) -> u32 {
        self.shards[0].places().v4
    }

    /// Sweep the next `budget` places of every shard.
    pub(crate) fn sweep_some(&mut self, budget: u32) {
        for shard in &mut self.shards {
            shard.sweep(&self.snapshot, self.now_ms, budget);
        }
        (0..self.shards.len()).for_each(|shard| self.let_go(shard));
        self.check_counts();
    }

    /// Feed one packet.
    pub(crate) fn one(&mut self, packet: &Packet) -> Ended {
        self.frames(vec![carrier::onto_wire(packet.port, packet.frame())]).remove(0)
    }

    /// Feed packets in order, in bursts as large as can be.
    pub(crate) fn feed(&mut self, packets: &[Packet]) -> Vec<Ended> {
        let frames = packets.iter().map(|packet| carrier::onto_wire(packet.port, packet.frame()));
        self.frames(frames.collect())
    }

    /// Feed frames in order, in bursts as large as can be. All of them end at once.
    pub(crate) fn frames(&mut self, frames: Vec<(PortId, Vec<u8>)>) -> Vec<Ended> {
        let numbers = self.send(frames);
        numbers.map(|number| self.ended(number).expect("every packet ends at once")).collect()
    }

    /// Feed frames in order, in bursts as large as can be, and return their numbers: what is held has not [`ended`].
    ///
    /// [`ended`]: SwitchBox::ended
    pub(crate) fn send(&mut self, frames: Vec<(PortId, Vec<u8>)>) -> Range<u64> {
        let numbers = self.fed..self.fed + frames.len() as u64;
        let mut frames = frames.into_iter().peekable();
        while frames.peek().is_some() {
            let flight = |(port, frame)| {
                self.fed += 1;
                Flight { number: self.fed - 1, port, frame, redirects: 0 }
            };
            let burst = frames.by_ref().take(BURST).map(flight).collect();
            self.burst(burst);
        }
        self.check_counts();
        numbers
    }

    /// How the frame with this number ended, if it has; asked once.
    pub(crate) fn ended(&mut self, number: u64) -> Option<Ended> {
        self.ended.remove(&number)
    }

    /// Frames that wait for others.
    pub(crate) fn held(&self) -> usize {
        self.held.iter().flatten().flatten().count()
    }

    /// One burst arrives at one worker; what it redirects reaches the others before anything else does.
    fn burst(&mut self, burst: Vec<Flight>) {
        let at = self.bursts % self.shards.len();
        self.bursts += 1;
        self.pass(at, Origin::Port, burst);
        while let Some(to) = self.rings.iter().position(|ring| !ring.is_empty()) {
            let waiting = self.rings[to].len().min(BURST);
            let burst = self.rings[to].drain(..waiting).collect();
            self.pass(to, Origin::Worker, burst);
        }
    }

    /// One shard takes a burst; what it releases goes through it again.
    fn pass(&mut self, shard: usize, origin: Origin, burst: Vec<Flight>) {
        let mut ports: Vec<_> = burst.iter().map(|flight| flight.port).collect();
        let mut frames: Vec<_> = burst.iter().map(|flight| flight.frame.clone()).collect();
        let mut verdicts = vec![Verdict::Redirect(u16::MAX); burst.len()];
        let now_ms = self.now_ms;
        let Self { snapshot, shards, .. } = self;
        shards[shard].process(snapshot, now_ms, origin, &mut frames, &mut ports, &mut verdicts);
        let after = ports.into_iter().zip(frames);
        for ((mut flight, verdict), (port, frame)) in burst.into_iter().zip(verdicts).zip(after) {
            if let Verdict::Redirect(_) | Verdict::Hold(_) = verdict {
                flight.strip(port, &frame);
            }
            match verdict {
                Verdict::Redirect(to) => {
                    assert_ne!(usize::from(to), shard, "redirected to itself");
                    flight.redirects += 1;
                    let most = most_redirects(port, &frame);
                    assert!(flight.redirects <= most, "redirected again, from {shard} to {to}");
                    self.rings[usize::from(to)].push_back(flight);
                }
                Verdict::Hold(place) => {
                    if let Some(late) = self.held[shard][usize::from(place)].replace(flight) {
                        let verdict = Verdict::Drop(Outcome::FragmentNoRoom);
                        self.end(shard, late.number, verdict, late.frame);
                    }
                }
                verdict => self.end(shard, flight.number, verdict, frame),
            }
        }
        self.let_go(shard);
    }

    /// What a shard no longer holds goes through it again, or ends.
    fn let_go(&mut self, shard: usize) {
        let mut burst = Vec::new();
        while let Some(released) = self.shards[shard].next_released() {
            let (Released::Process(place) | Released::Drop(place, _)) = released;
            let held = self.held[shard][usize::from(place)].take().expect("held there");
            match released {
                Released::Process(_) => burst.push(held),
                Released::Drop(_, outcome) => {
                    self.end(shard, held.number, Verdict::Drop(outcome), held.frame);
                }
            }
        }
        while !burst.is_empty() {
            let rest = burst.split_off(burst.len().min(BURST));
            self.pass(shard, Origin::Worker, std::mem::replace(&mut burst, rest));
        }
    }

    /// Count as a worker does, and read what leaves.
    fn end(&mut self, shard: usize, number: u64, verdict: Verdict, frame: Vec<u8>) {
        let (outcome, wire) = match verdict {
            Verdict::Transmit(device, outcome) => {
                assert!(!outcome.is_drop(), "{outcome:?} is sent");
                (outcome, Some((device, frame)))
            }
            Verdict::Drop(outcome) => {
                assert!(outcome.is_drop(), "{outcome:?} is dropped");
                (outcome, None)
            }
            Verdict::Redirect(_) | Verdict::Hold(_) => unreachable!("it goes on"),
        };
        let sent = wire.as_ref().map(|(device, frame)| carrier::off_wire(*device, frame));
        if let Some((port, frame)) = sent.as_ref().filter(|_| self.verify)
            && frame[12..14] != [8, 6]
        {
            Seen::read(*port, frame);
        }
        self.shards[shard].counters().count(outcome, 1);
        let ended = Ended { outcome, shard: shard as u16, sent, wire };
        assert!(self.ended.insert(number, ended).is_none(), "a packet ends once");
    }

    /// Outcomes that moved since the last call. Their sum over all time is what was fed.
    pub(crate) fn moved(&mut self) -> BTreeMap<&'static str, u64> {
        let total = |outcome| self.shards.iter().map(|it| it.counters().outcome(outcome)).sum();
        let now = Outcome::ALL.map(total);
        let ended = now.iter().sum::<u64>();
        let held = self.held() as u64;
        assert_eq!(ended + held, self.fed, "every packet ends in exactly one outcome");
        let before = std::mem::replace(&mut self.counted, now);
        let differences = Outcome::ALL.iter().zip(now.iter().zip(before));
        differences
            .map(|(outcome, (now, before))| (outcome.name(), now - before))
            .filter(|(_, difference)| *difference > 0)
            .collect()
    }

    pub(crate) fn live(&self, vm: Vm) -> u32 {
        self.counters().map(|it| it.live(vm.backend.slot)).sum()
    }

    pub(crate) fn entries(&self, vm: Vm) -> u32 {
        self.counters().map(|it| it.entries(vm.backend.slot)).sum()
    }

    fn counters(&self) -> impl Iterator<Item = &Arc<ShardCounters>> {
        self.shards.iter().map(Shard::counters)
    }

    pub(crate) fn take_punts(&mut self) -> Vec<Punt> {
        self.shards.iter_mut().flat_map(Shard::take_punts).collect()
    }

    /// All sessions of all shards, as a listing shows them.
    pub(crate) fn sessions(&self) -> Vec<SessionRecord> {
        self.sessions_of(&[])
    }

    /// Those of these addresses, which clients named; of all when there are none.
    pub(crate) fn sessions_of(&self, addresses: &[IpAddr]) -> Vec<SessionRecord> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| sessions(shard, addresses, self.now_ms)).collect()
    }

    /// Each shard's counters say what its table holds.
    fn check_counts(&self) {
        for shard in &self.shards {
            shard.assert_half_open_counts();
            let (counters, listed) = (shard.counters(), sessions(shard, &[], self.now_ms));
            assert_eq!(counters.sessions.get(), listed.len() as u64);
            for slot in (0..SLOTS).map(BackendSlot) {
                let owned = || listed.iter().filter(|session| session.owner == slot);
                assert_eq!(counters.entries(slot) as usize, owned().count(), "{slot:?}");
                let live = owned().filter(|session| world::is_live(session)).count();
                assert_eq!(counters.live(slot) as usize, live, "{slot:?}");
            }
        }
    }
}

/// To a session's shard, by the gatherer if it is a fragment; from one VM to another the same again, and then back with
/// what the box says about it.
fn most_redirects(port: PortId, frame: &[u8]) -> u32 {
    match port {
        PortId::HAIRPIN => 5,
        _ if is_fragment(frame) => 2,
        _ => 1,
    }
}

/// All sessions of a shard, listed a few at a time.
fn sessions(shard: &Shard, addresses: &[IpAddr], now_ms: u64) -> Vec<SessionRecord> {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let mut piece = Vec::with_capacity(64);
        from = shard.list(addresses, now_ms, at, 100, &mut piece);
        all.append(&mut piece);
    }
    all
}

/// Exactly these outcomes moved since the last time, each by so much, and nothing else.
macro_rules! assert_moved {
    ($switch_box:expr $(, $outcome:ident $count:expr)* $(,)?) => {
        let expected: std::collections::BTreeMap<&str, u64> =
            [$((tidegate_dataplane::pipeline::Outcome::$outcome.name(), $count)),*].into();
        assert_eq!($switch_box.moved(), expected);
    };
}
pub(crate) use assert_moved;
