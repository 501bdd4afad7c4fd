//! The same random packets and steps to the plain [`Model`] and to the real pipeline on 1 to 4 shards: the same
//! outcome for each packet, the same sessions, owners and counts after each step.
//!
//! `PROPTEST_CASES` sets the number of cases per number of shards.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tidegate_dataplane::{packet::TcpFlags, pipeline::Outcome, steering::UnknownTcp};

use crate::{
    model::{Model, key_of},
    switch_box::{
        SwitchBox,
        traffic::{Body, Flow, Packet, segment},
        world::{CLIENT, CLIENT_2, Mode, OTHER_PORT, Vm},
    },
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Packets(Vec<Move>),
    SetDestination,
    Cutover(UnknownTcp),
    Abort,
    Release,
    Advance(u64),
    Sweep,
}

/// Who sends a packet, and to whom.
#[derive(Clone, Copy, Debug)]
enum Way {
    ToService,
    /// To the own address of the VM on port 1 or 2.
    ToOld,
    ToNew,
    FromOld,
    FromNew,
    /// The VM's words, from a port that is not its own.
    Forged,
}

/// One packet of a small universe, so that sessions meet again and again.
#[derive(Clone, Debug)]
struct Move {
    way: Way,
    flow: Flow,
    body: Body,
    payload: &'static [u8],
}

fn body() -> impl Strategy<Value = Body> {
    let flags = prop_oneof![
        4 => Just(0x02), 3 => Just(0x12), 6 => Just(0x10), 4 => Just(0x11),
        2 => Just(0x04), 1 => Just(0x14), 1 => Just(0x01), 1 => Just(0x00), 1 => Just(0x03),
        1 => Just(0x06),
    ];
    // Few numbers around the wrap, so that FINs are acknowledged, or nearly.
    let number = || (0u32..4).prop_map(|n| n.wrapping_sub(2));
    prop_oneof![
        8 => (flags, number(), number()).prop_map(|(flags, sequence, acknowledgement)| {
            segment(TcpFlags(flags), sequence, acknowledgement)
        }),
        2 => Just(Body::Udp),
        1 => Just(Body::EchoRequest),
        1 => Just(Body::EchoReply),
    ]
}

fn packet() -> impl Strategy<Value = Move> {
    let way = prop_oneof![
        12 => Just(Way::ToService), 2 => Just(Way::ToOld), 2 => Just(Way::ToNew),
        6 => Just(Way::FromOld), 6 => Just(Way::FromNew), 1 => Just(Way::Forged),
    ];
    let client = prop_oneof![Just(CLIENT), Just(CLIENT_2)];
    let payload = prop_oneof![3 => Just(&b""[..]), 1 => Just(&b"x"[..])];
    (way, client, 0u16..5, body(), payload).prop_map(|(way, client, port, body, payload)| Move {
        way,
        flow: Flow::new(client, port),
        body,
        payload,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let policy = prop_oneof![
        Just(UnknownTcp::Source),
        Just(UnknownTcp::Destination),
        Just(UnknownTcp::Drop)
    ];
    let pause = prop_oneof![
        Just(1),
        Just(3_000),
        Just(4_001),
        Just(60_001),
        Just(120_001),
        Just(240_001),
        Just(7_440_001),
    ];
    prop_oneof![
        12 => prop::collection::vec(packet(), 1..48).prop_map(Step::Packets),
        4 => Just(Step::SetDestination),
        4 => policy.prop_map(Step::Cutover),
        1 => Just(Step::Abort),
        2 => Just(Step::Release),
        2 => pause.prop_map(Step::Advance),
        2 => Just(Step::Sweep),
    ]
}

/// The model and the box side by side.
struct Pair {
    model: Model,
    switch_box: SwitchBox,
    /// How the VMs on ports 1 and 2 are reached.
    modes: (Mode, Mode),
    last_slot: u32,
}

impl Pair {
    fn new(shards: u16, modes: (Mode, Mode)) -> Self {
        let home = Vm::old(1, modes.0);
        let switch_box = SwitchBox::new(shards, home);
        let model = Model::new(home, switch_box.now_ms);
        Self { model, switch_box, modes, last_slot: 1 }
    }

    /// Do `step` on both, where it applies, and compare.
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Packets(moves) => self.packets(moves)?,
            Step::SetDestination if self.model.destination.is_none() => {
                self.last_slot += 1;
                let vm = if self.model.home.backend.port == Vm::old(0, Mode::L2).backend.port {
                    Vm::new(self.last_slot, self.modes.1)
                } else {
                    Vm::old(self.last_slot, self.modes.0)
                };
                self.switch_box.set_destination(vm);
                self.model.destination = Some(vm);
            }
            Step::Cutover(policy)
                if self.model.destination.is_some() && self.model.policy.is_none() =>
            {
                let counted = self.switch_box.cutover(*policy);
                prop_assert_eq!(counted, self.model.cutover(*policy), "old sessions at cutover");
            }
            Step::Abort if self.model.destination.is_some() => {
                self.switch_box.abort();
                self.model.abort();
            }
            Step::Release if self.model.policy.is_some() => {
                self.switch_box.release();
                self.model.release();
            }
            Step::Advance(ms) => {
                self.switch_box.advance(*ms);
                self.model.now_ms = self.switch_box.now_ms;
            }
            Step::Sweep => {
                self.switch_box.sweep();
                self.model.sweep(&self.switch_box.timeouts);
                let entries = self.switch_box.sessions().len();
                prop_assert_eq!(entries, self.model.sessions.len(), "nothing else is left");
            }
            _ => return Ok(()),
        }
        self.compare()
    }

    fn packets(&mut self, moves: &[Move]) -> Result<(), TestCaseError> {
        let packets: Vec<Packet> = moves.iter().map(|it| self.packet(it)).collect();
        let ended = self.switch_box.feed(&packets);
        for (packet, ended) in packets.iter().zip(ended) {
            let expected = self.model.packet(packet);
            prop_assert_eq!(ended.outcome, expected.outcome, "{:?}", packet);
            let sent = ended.sent.is_some().then(|| ended.seen());
            let sent = sent.map(|it| (it.port, it.source, it.destination));
            prop_assert_eq!(sent, expected.sent, "{:?}", packet);
        }
        Ok(())
    }

    fn packet(&self, it: &Move) -> Packet {
        let (old, new) = (Vm::old(0, self.modes.0), Vm::new(0, self.modes.1));
        let packet = match it.way {
            Way::ToService => it.flow.to_service(it.body),
            Way::ToOld => it.flow.to(old.locator, it.body),
            Way::ToNew => it.flow.to(new.locator, it.body),
            Way::FromOld => it.flow.sent_by(old, it.body),
            Way::FromNew => it.flow.sent_by(new, it.body),
            Way::Forged => it.flow.sent_by(old, it.body).on(OTHER_PORT),
        };
        packet.with_payload(it.payload)
    }

    /// Sessions of backends are the same on both sides, one by one, and so are the counts.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let mut counted = Vec::new();
        for vm in [Some(self.model.home), self.model.destination].into_iter().flatten() {
            prop_assert_eq!(self.switch_box.live(vm), self.model.live(vm), "live of {:?}", vm);
            counted.push(vm.backend.slot);
        }
        let listed: BTreeMap<_, _> = self
            .switch_box
            .sessions()
            .into_iter()
            .filter(|it| counted.contains(&it.owner))
            .map(|it| (key_of(it.tuple), (it.owner, it.birth_epoch, it.state)))
            .collect();
        let remembered = self.model.sessions.iter();
        let expected: BTreeMap<_, _> = remembered
            .map(|(key, it)| (*key, (it.owner.backend.slot, it.birth_epoch, it.state())))
            .collect();
        prop_assert_eq!(listed, expected);
        Ok(())
    }
}

/// Run `steps` on both, and give the outcomes they had.
fn run(shards: u16, modes: (Mode, Mode), steps: &[Step]) -> Result<Outcomes, TestCaseError> {
    let mut pair = Pair::new(shards, modes);
    for step in steps {
        pair.step(step)?;
    }
    Ok(pair.switch_box.moved())
}

type Outcomes = BTreeMap<&'static str, u64>;

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Nat), Just(Mode::L2)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

/// The comparison is worth nothing for what the streams never reach.
#[test]
fn the_streams_reach_every_outcome_of_steering() {
    let mut runner = TestRunner::deterministic();
    let strategy = (mode(), mode(), steps());
    let mut reached = Outcomes::new();
    for _ in 0..100 {
        let (old, new, steps) = strategy.new_tree(&mut runner).expect("a case").current();
        for (name, count) in run(2, (old, new), &steps).expect("model and box agree") {
            *reached.entry(name).or_default() += count;
        }
    }
    let expected = [
        Outcome::ToSource,
        Outcome::ToDestination,
        Outcome::ToClient,
        Outcome::Forwarded,
        Outcome::Spoofed,
        Outcome::OtherOwner,
        Outcome::BeforeCutover,
        Outcome::StaleClone,
        Outcome::UnknownTcp,
    ];
    for outcome in expected {
        let count = reached.remove(outcome.name()).unwrap_or(0);
        assert!(count >= 10, "{} only {count} times of {reached:?}", outcome.name());
    }
    assert!(reached.is_empty(), "the model does not know {reached:?}");
}

/// Cases that fit an ordinary test run; proptest's own default reads `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 150;
    }
    config
}

macro_rules! on_shards {
    ($($name:ident $shards:literal,)*) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $name(old in mode(), new in mode(), steps in steps()) {
                    run($shards, (old, new), &steps)?;
                }
            )*
        }
    };
}

on_shards! {
    on_one_shard 1,
    on_two_shards 2,
    on_three_shards 3,
    on_four_shards 4,
}
