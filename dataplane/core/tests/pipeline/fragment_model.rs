//! Random fragments of random datagrams, lost, late, twice and out of order, with a cutover in between, against an oracle:
//! each one's outcome follows from its first fragment's, and what arrived whole is what was sent.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidegate_dataplane::{
    packet::TcpFlags,
    pipeline::Outcome,
    steering::{PortId, Unknown},
};

use crate::{
    fragments::PAYLOAD,
    switch_box::{
        Ended, SwitchBox,
        fragments::{cut, joined},
        traffic::{ACK, Body, Flow, Packet, tcp},
        wire::Seen,
        world::{CLIENT, CLIENT_2, Mode, SERVICE, UPLINK, Vm},
    },
};

/// How long a fragment waits for its first, milliseconds.
const PATIENCE_MS: u64 = 1_000;
/// First fragments of different datagrams never come in the same millisecond: their order is their sessions'.
const MOST_DATAGRAMS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Client,
    Old,
    New,
}

/// A datagram, and what becomes of its fragments on their way to the box.
#[derive(Clone, Debug)]
struct Datagram {
    flow: Flow,
    body: Body,
    from: From,
    len: usize,
    size: usize,
    start: u64,
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    lost: bool,
    twice: bool,
    delay_ms: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay_ms = prop_oneof![6 => Just(0), 6 => 0u64..40, 2 => 0u64..1_200, 1 => 900u64..2_200];
    (prop::bool::weighted(0.07), prop::bool::weighted(0.15), delay_ms)
        .prop_map(|(lost, twice, delay_ms)| Fate { lost, twice, delay_ms })
}

fn datagram() -> impl Strategy<Value = Datagram> {
    let client = prop_oneof![Just(CLIENT), Just(CLIENT_2)];
    let flow = (client, 0u16..3).prop_map(|(client, port)| Flow::new(client, port));
    let body = prop_oneof![
        3 => Just(Body::Udp), 1 => Just(Body::UdpWithoutChecksum), 2 => Just(Body::EchoRequest),
        2 => Just(tcp(ACK)), 1 => Just(tcp(TcpFlags(0x18))),
    ];
    let from = prop_oneof![4 => Just(From::Client), 2 => Just(From::Old), 2 => Just(From::New)];
    let fates = prop::collection::vec(fate(), 11);
    (flow, body, from, 120usize..1000, 12usize..40, 0u64..200, fates).prop_map(
        |(flow, body, from, len, words, start, fates)| Datagram {
            flow,
            body,
            from,
            len,
            size: words * 8,
            start,
            fates,
        },
    )
}

/// A fragment that arrives.
struct Arrival {
    datagram: usize,
    part: usize,
    port: PortId,
    frame: Vec<u8>,
}

/// What is known of a datagram's first fragment, and where its others should end.
#[derive(Default)]
struct Led {
    first_ms: Option<u64>,
    outcome: Option<Outcome>,
}

struct Oracle {
    mode: Mode,
    cut_over: bool,
    owners: BTreeMap<(Flow, u8), From>,
    led: Vec<Led>,
}

impl Oracle {
    /// By the rules: who gets a packet, or first fragment, of this kind.
    fn judge(&mut self, datagram: &Datagram) -> Outcome {
        let is_tcp = matches!(datagram.body, Body::Tcp { .. });
        let protocol = match datagram.body {
            Body::Tcp { .. } => 6,
            Body::EchoRequest => 1,
            _ => 17,
        };
        let owner = self.owners.get(&(datagram.flow, protocol)).copied();
        let newcomer = if self.cut_over && !is_tcp { From::New } else { From::Old };
        let owner_now = match (owner, datagram.from) {
            (Some(owner), _) => owner,
            (None, From::Client) => newcomer,
            (None, From::Old) => From::Old,
            (None, From::New) if self.cut_over && is_tcp => return Outcome::StaleClone,
            (None, From::New) if self.cut_over => From::New,
            (None, From::New) if self.mode == Mode::Nat => return Outcome::Forwarded,
            (None, From::New) => return Outcome::BeforeCutover,
        };
        self.owners.insert((datagram.flow, protocol), owner_now);
        match (datagram.from, owner_now) {
            (From::Client, From::New) => Outcome::ToDestination,
            (From::Client, _) => Outcome::ToSource,
            (sender, owner) if sender == owner => Outcome::ToClient,
            _ => Outcome::OtherOwner,
        }
    }
}

/// The packet, and its fragments.
fn fragments(datagram: &Datagram, identification: u32, old: Vm, new: Vm) -> (Packet, Vec<Vec<u8>>) {
    let answer = match datagram.body {
        Body::EchoRequest => Body::EchoReply,
        body => body,
    };
    let packet = match datagram.from {
        From::Client => datagram.flow.to_service(datagram.body),
        From::Old => datagram.flow.sent_by(old, answer),
        From::New => datagram.flow.sent_by(new, answer),
    };
    let packet = packet.with_payload(&PAYLOAD[..datagram.len]);
    let fragments = cut(&packet.frame(), identification, datagram.size);
    (packet, fragments)
}

/// All that arrives, by time. Identifications begin anew with each pair of addresses and each sender.
fn arrivals(datagrams: &[Datagram], old: Vm, new: Vm) -> BTreeMap<u64, Vec<Arrival>> {
    let mut arrivals: BTreeMap<u64, Vec<Arrival>> = BTreeMap::new();
    let mut identifications: BTreeMap<(u32, u8), u32> = BTreeMap::new();
    for (number, datagram) in datagrams.iter().enumerate() {
        let next = identifications.entry((datagram.flow.client, datagram.from as u8)).or_insert(0);
        *next += 1;
        let (packet, parts) = fragments(datagram, *next, old, new);
        for (part, (frame, fate)) in parts.into_iter().zip(&datagram.fates).enumerate() {
            let first = part == 0;
            let delay = if first {
                fate.delay_ms.next_multiple_of(MOST_DATAGRAMS as u64)
            } else {
                fate.delay_ms
            };
            let at = datagram.start * MOST_DATAGRAMS as u64 + number as u64 + delay;
            let arrival = |frame| Arrival { datagram: number, part, port: packet.port, frame };
            if fate.lost {
                continue;
            }
            if fate.twice {
                // A first one in the same millisecond: no cutover comes between.
                let again = if first { at } else { at + 5 };
                arrivals.entry(again).or_default().push(arrival(frame.clone()));
            }
            arrivals.entry(at).or_default().push(arrival(frame));
        }
    }
    arrivals
}

fn check(mode: Mode, shards: u16, datagrams: &[Datagram], cutover_ms: u64) {
    let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
    let mut switch_box = SwitchBox::new(shards, old);
    switch_box.set_destination(new);
    let led = datagrams.iter().map(|_| Led::default()).collect();
    let mut oracle = Oracle { mode, cut_over: false, owners: BTreeMap::new(), led };
    let start_ms = switch_box.now_ms;
    // What was fed and when: number of the frame, datagram, part.
    let mut fed: Vec<(u64, usize, usize, u64)> = Vec::new();
    for (at, arrived) in arrivals(datagrams, old, new) {
        switch_box.now_ms = start_ms + at;
        switch_box.sweep();
        if at >= cutover_ms && !oracle.cut_over {
            switch_box.cutover(Unknown::Source);
            oracle.cut_over = true;
        }
        for it in arrived.iter().filter(|it| it.part == 0) {
            if oracle.led[it.datagram].first_ms.is_none() {
                let outcome = oracle.judge(&datagrams[it.datagram]);
                oracle.led[it.datagram] = Led { first_ms: Some(at), outcome: Some(outcome) };
            }
        }
        let identity: Vec<_> = arrived.iter().map(|it| (it.datagram, it.part)).collect();
        let frames = arrived.into_iter().map(|it| (it.port, it.frame)).collect();
        let numbers = switch_box.send(frames);
        fed.extend(
            numbers.zip(identity).map(|(number, (datagram, part))| (number, datagram, part, at)),
        );
    }
    switch_box.advance(PATIENCE_MS + 1);
    switch_box.sweep();
    assert_eq!(switch_box.held(), 0);
    switch_box.moved();

    let mut sent: Vec<BTreeMap<usize, Ended>> = datagrams.iter().map(|_| BTreeMap::new()).collect();
    for (number, datagram, part, at) in fed {
        let ended = switch_box.ended(number).expect("ended");
        let led = &oracle.led[datagram];
        let came_in_time = led.first_ms.is_some_and(|first_ms| first_ms <= at + PATIENCE_MS);
        let expected = match led.outcome {
            Some(outcome) if part == 0 => outcome,
            Some(outcome) if came_in_time && outcome.is_drop() => Outcome::FragmentOrphan,
            Some(outcome) if came_in_time => outcome,
            _ => Outcome::FragmentExpired,
        };
        assert_eq!(ended.outcome, expected, "part {part} at {at} ms of {:?}", datagrams[datagram]);
        if ended.sent.is_some() {
            sent[datagram].insert(part, ended);
        }
    }
    for (datagram, parts) in datagrams.iter().zip(sent) {
        arrived_right(datagram, &parts, old, new);
    }
}

/// What left is for one and the same machine, and if it is all there, it is what was sent.
fn arrived_right(datagram: &Datagram, parts: &BTreeMap<usize, Ended>, old: Vm, new: Vm) {
    let Some(outcome) = parts.values().next().map(|ended| ended.outcome) else { return };
    let client = datagram.flow.client;
    let (port, source, destination) = match outcome {
        Outcome::ToSource => (old.backend.port, client, old.speaks_as()),
        Outcome::ToDestination => (new.backend.port, client, new.speaks_as()),
        Outcome::ToClient => (UPLINK, SERVICE, client),
        _ => (UPLINK, new.locator, client),
    };
    let frames: Vec<_> = parts.values().filter_map(|ended| ended.sent.as_ref()).collect();
    for (by, frame) in &frames {
        let seen = Seen::read(*by, frame);
        assert_eq!((seen.port, seen.source, seen.destination), (port, source, destination));
    }
    if let Some(whole) = joined(frames.into_iter().map(|(_, frame)| frame)) {
        assert_eq!(Seen::read(port, &whole).payload, PAYLOAD[..datagram.len]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fragments_follow_their_first(
        datagrams in prop::collection::vec(datagram(), 1..=MOST_DATAGRAMS),
        mode in prop_oneof![Just(Mode::Nat), Just(Mode::L2)],
        shards in 1u16..5,
        cutover_ms in 0u64..3_000,
    ) {
        check(mode, shards, &datagrams, cutover_ms);
    }
}
