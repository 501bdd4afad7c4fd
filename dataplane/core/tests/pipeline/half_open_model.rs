//! Random beginnings, answers, ends, silence and migrations against a small table: the counts of half-open sessions are those
//! of the sessions there are (the box compares them behind each burst), nobody is kept out, and what a cutover has made old
//! stays.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tidegate_dataplane::{
    pipeline::Outcome,
    session::{SessionRecord, SessionState, Tuple},
    steering::Unknown,
};

use crate::switch_box::{
    SwitchBox,
    traffic::{ACK, Body, Flow, GIVEN_UP, Packet, SYN, SYN_ACK, segment, tcp},
    world::{CLIENT, Mode, Vm},
};

const CAPACITY: u32 = 512;
const QUOTA: usize = CAPACITY as usize / 4;
const PORTS: u16 = 2048;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// Which client's, and how many of them.
type Some = (u16, u16);

#[derive(Clone, Debug)]
enum Step {
    Begin(Kind, Some),
    Answer(Kind, Some),
    /// The client goes on.
    GoOn(Kind, Some),
    /// The client's exact RST.
    Reset(Some),
    /// The VM begins.
    Call(Some),
    Silence(u64),
    Sweep(u32),
    CutOver,
    Abort,
    Release,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![2 => Just(Kind::Tcp), 1 => Just(Kind::Udp), 1 => Just(Kind::Echo)]
}

fn some() -> impl Strategy<Value = Some> {
    (0..PORTS, prop_oneof![3 => 1u16..8, 2 => 8u16..200])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (kind(), some()).prop_map(|(kind, some)| Step::Begin(kind, some)),
        4 => (kind(), some()).prop_map(|(kind, some)| Step::Answer(kind, some)),
        4 => (kind(), some()).prop_map(|(kind, some)| Step::GoOn(kind, some)),
        2 => some().prop_map(Step::Reset),
        1 => some().prop_map(Step::Call),
        2 => (0u64..200_000).prop_map(Step::Silence),
        2 => (0u32..2 * CAPACITY).prop_map(Step::Sweep),
        2 => Just(Step::CutOver),
        2 => Just(Step::Abort),
        1 => Just(Step::Release),
    ]
}

struct Migrated {
    switch_box: SwitchBox,
    /// The home, and who is to be it next.
    vms: [Vm; 2],
    /// Half open at the last cutover, and not about to expire.
    old: BTreeSet<Tuple>,
    /// Cutovers since all were forgotten that was half open.
    cutovers: usize,
}

impl Migrated {
    fn new(mode: Mode) -> Self {
        let vms = [Vm::old(1, mode), Vm::new(2, mode)];
        let switch_box = SwitchBox::with_capacity(1, CAPACITY, vms[0]);
        Self { switch_box, vms, old: BTreeSet::new(), cutovers: 0 }
    }

    fn is_cut_over(&self) -> bool {
        self.switch_box.address.destination.is_some_and(|it| it.cut_over.is_some())
    }

    fn half_open(&self) -> Vec<SessionRecord> {
        let sessions = self.switch_box.sessions().into_iter();
        sessions.filter(|it| it.state == SessionState::Opening).collect()
    }

    fn go(&mut self, step: &Step) {
        match *step {
            Step::Begin(kind, some) => self.feed(some, |_, flow| flow.to_service(begins(kind))),
            Step::Answer(kind, some) => {
                self.feed(some, |vms, flow| {
                    let body = match kind {
                        Kind::Tcp => segment(SYN_ACK, 499, 1001),
                        Kind::Udp => Body::Udp,
                        Kind::Echo => Body::EchoReply,
                    };
                    flow.sent_by(vms[usize::from(flow.client_port % 2)], body)
                });
            }
            Step::GoOn(Kind::Tcp, some) => {
                self.feed(some, |_, flow| flow.to_service(segment(ACK, 1001, 500)));
            }
            Step::GoOn(kind, some) => self.feed(some, |_, flow| flow.to_service(begins(kind))),
            Step::Reset(some) => self.feed(some, |_, flow| flow.to_service(GIVEN_UP)),
            Step::Call(some) => self.feed(some, |vms, flow| flow.sent_by(vms[0], tcp(SYN))),
            Step::Silence(ms) => {
                self.switch_box.advance(ms);
                self.old.clear();
                let timeouts = self.switch_box.timeouts;
                if ms > timeouts.tcp_opening_ms.max(timeouts.udp_ms).max(timeouts.echo_ms) {
                    self.switch_box.sweep();
                    assert_eq!(self.half_open(), []);
                    self.cutovers = 0;
                }
            }
            Step::Sweep(budget) => self.switch_box.sweep_some(budget),
            Step::CutOver if !self.is_cut_over() => {
                self.switch_box.set_destination(self.vms[1]);
                let lasting = self.half_open().into_iter().filter(|it| it.idle_ms == 0);
                self.old = lasting.map(|it| it.tuple).collect();
                self.switch_box.cutover(Unknown::Source);
                self.cutovers += 1;
            }
            Step::CutOver => {}
            Step::Abort => {
                self.switch_box.abort();
                self.old.clear();
            }
            Step::Release if self.is_cut_over() => {
                self.switch_box.release();
                self.vms.reverse();
                self.old.clear();
            }
            Step::Release => {}
        }
    }

    /// Feed a packet for each of some flows.
    fn feed(&mut self, (first, count): Some, packet: impl Fn([Vm; 2], Flow) -> Packet) {
        let ports = (first..first + count).map(|port| port % PORTS);
        let packets: Vec<_> = ports.map(|port| packet(self.vms, Flow::new(CLIENT, port))).collect();
        for ended in self.switch_box.feed(&packets) {
            assert_ne!(ended.outcome, Outcome::HalfOpenLimited, "there is somebody to go");
        }
    }

    fn check(&mut self) {
        let half_open = self.half_open();
        if self.cutovers <= 1 {
            let most = 2 * QUOTA + QUOTA / 8;
            assert!(half_open.len() <= most, "{} are half open", half_open.len());
        }
        let sessions = self.switch_box.sessions();
        let there: BTreeSet<_> = sessions.iter().map(|it| it.tuple).collect();
        assert!(self.old.is_subset(&there), "lost: {:?}", self.old.difference(&there));
    }
}

fn begins(kind: Kind) -> Body {
    match kind {
        Kind::Tcp => tcp(SYN),
        Kind::Udp => Body::Udp,
        Kind::Echo => Body::EchoRequest,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn standings_are_counted_right(
        steps in prop::collection::vec(step(), 1..60),
        mode in prop_oneof![Just(Mode::Nat), Just(Mode::L2)],
    ) {
        let mut migrated = Migrated::new(mode);
        for step in &steps {
            migrated.go(step);
            migrated.check();
        }
    }
}
