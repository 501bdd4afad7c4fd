//! The model and real boxes side by side: the same to all of them, and the same expected of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tidegate_dataplane::{
    packet::Mac,
    pipeline::{BURST, Import, ImportedSession, Outcome},
    session::{ImportedState, SessionState, Tuple},
    steering::{BackendSlot, ManagedAddress, PortId},
};

use crate::{
    model::{Model, backends, speaks_as},
    packet::Packet,
    real::{Frame, RealBox},
    trace::{Done, Ends, Trace, ends_of},
    world::{mac_of, port_mac, wire},
};

/// A packet that the boxes have yet to be given.
struct Pending {
    /// `None` where there is no more to it than its frame.
    packet: Option<Packet>,
    arrives: Frame,
    outcome: Outcome,
    leaves: Option<Frame>,
}

pub(crate) struct Pair {
    pub(crate) model: Model,
    boxes: Vec<RealBox>,
    trace: Trace,
    seed: u64,
    burst: Vec<Pending>,
    asked: BTreeSet<(PortId, IpAddr)>,
}

impl Pair {
    pub(crate) fn new(seed: u64, now_ms: u64, boxes: Vec<RealBox>) -> Self {
        let model = Model { now_ms, ..Model::default() };
        let mut pair = Self {
            model,
            boxes,
            trace: Trace::default(),
            seed,
            burst: Vec::new(),
            asked: BTreeSet::new(),
        };
        pair.install(&[]);
        pair
    }

    /// One packet arrives.
    pub(crate) fn packet(&mut self, packet: Packet) {
        let expected = self.model.packet(&packet);
        let arrives = frame(&packet, mac_of(packet.source), port_mac(packet.port));
        let leaves = expected.sent.as_ref();
        let leaves = leaves.map(|(sent, to)| frame(sent, port_mac(sent.port), *to));
        self.asked.extend(expected.asks);
        let outcome = expected.outcome;
        self.trace.push(Done::Packet(packet.clone(), expected));
        self.pend(Pending { packet: Some(packet), arrives, outcome, leaves });
    }

    /// A frame arrives that ends like this whatever is in it.
    pub(crate) fn stray(&mut self, arrives: Frame, outcome: Outcome) {
        self.pend(Pending { packet: None, arrives, outcome, leaves: None });
    }

    fn pend(&mut self, pending: Pending) {
        self.burst.push(pending);
        if self.burst.len() == BURST {
            self.flush();
        }
    }

    /// Give the boxes what has arrived as one burst, and compare.
    pub(crate) fn flush(&mut self) {
        let burst = std::mem::take(&mut self.burst);
        let asked = std::mem::take(&mut self.asked);
        let frames: Vec<Frame> = burst.iter().map(|it| it.arrives.clone()).collect();
        let counts = self.model.counts();
        for at in 0..self.boxes.len() {
            let ended = self.boxes[at].burst(self.model.now_ms, &frames);
            for (pending, (outcome, sent)) in burst.iter().zip(ended) {
                if (outcome, &sent) != (pending.outcome, &pending.leaves) {
                    self.packet_differs(at, pending, outcome, sent.as_ref());
                }
            }
            self.boxes[at].check_sum();
            let asked_for = self.boxes[at].asked();
            self.compare(at, "neighbours asked for", &asked, &asked_for);
            self.compare(at, "counts", &counts, &self.boxes[at].counts());
        }
    }

    /// Every session is the same: owner, epoch, state, silence.
    pub(crate) fn compare_sessions(&mut self) {
        self.flush();
        type Row = (BackendSlot, u32, SessionState, u64);
        let now_ms = self.model.now_ms;
        let remembered = self.model.sessions.iter();
        let expected: BTreeMap<Tuple, Row> = remembered
            .map(|(tuple, it)| (*tuple, (it.owner, it.birth_epoch, it.state, now_ms - it.last_ms)))
            .collect();
        for at in 0..self.boxes.len() {
            let listed = self.boxes[at].sessions(now_ms).into_iter();
            let listed: BTreeMap<Tuple, Row> = listed
                .map(|(tuple, it)| (tuple, (it.owner, it.birth_epoch, it.state, it.idle_ms)))
                .collect();
            let tuples: BTreeSet<_> = expected.keys().chain(listed.keys()).collect();
            for tuple in tuples {
                let (expected, listed) = (expected.get(tuple), listed.get(tuple));
                if expected != listed {
                    let what =
                        format!("session of {tuple}\n  model {expected:?}\n  box   {listed:?}");
                    let addresses = self.addresses_of(&[tuple.address]);
                    self.fail(at, &what, ends_of_tuple(tuple), &addresses);
                }
            }
        }
    }

    /// Take up changes of some addresses: `None` removes one. Live sessions of `counted` are counted on the way.
    pub(crate) fn configure(
        &mut self,
        changes: Vec<(&str, IpAddr, Option<ManagedAddress>)>,
        counted: &[BackendSlot],
    ) {
        self.flush();
        for (name, address, to) in changes {
            let text = format!("{name} {address}: {to:?}");
            self.trace.push(Done::Step(Some(address), text));
            match to {
                Some(to) => self.model.addresses.insert(address, to),
                None => self.model.addresses.remove(&address),
            };
        }
        self.install(counted);
        let counts = self.model.counts();
        for slot in counted {
            let expected = counts.get(slot).copied().unwrap_or_default();
            let expected = (expected.live, expected.begun_by_vm);
            for at in 0..self.boxes.len() {
                let what = format!("sessions of {slot:?} at cutover");
                self.compare(at, &what, &expected, &self.boxes[at].at_install(*slot));
            }
        }
    }

    fn install(&mut self, counted: &[BackendSlot]) {
        for real in &mut self.boxes {
            real.install(self.model.addresses.values(), self.model.timeouts, counted);
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.flush();
        self.model.now_ms += ms;
        if ms > 1000 {
            self.trace.push(Done::Step(None, format!("{ms} ms pass")));
        }
    }

    /// Sweep all there is, in `pieces`.
    pub(crate) fn sweep(&mut self, pieces: u32) {
        self.flush();
        self.trace.push(Done::Step(None, "sweep".into()));
        self.model.sweep();
        for real in &mut self.boxes {
            real.sweep(self.model.now_ms, pieces);
        }
        self.compare_sessions();
    }

    /// The box is told of a session of the home.
    pub(crate) fn import(&mut self, tuple: Tuple, state: ImportedState) {
        self.flush();
        self.trace.push(Done::Step(Some(tuple.address), format!("import {tuple} {state:?}")));
        let expected = match self.model.import(tuple, state) {
            Some(true) => Import { imported: 1, ..Import::default() },
            Some(false) => Import { known: 1, ..Import::default() },
            None => Import { not_tracked: 1, ..Import::default() },
        };
        let session = ImportedSession { tuple, state };
        for at in 0..self.boxes.len() {
            let import = self.boxes[at].import(self.model.now_ms, session);
            self.compare(at, "import", &expected, &import);
        }
    }

    /// How many packets each box was fed.
    pub(crate) fn fed(&self) -> u64 {
        self.boxes[0].fed()
    }

    /// How many packets of each outcome there were.
    pub(crate) fn reached(&self, outcome: Outcome) -> u64 {
        self.boxes[0].outcome(outcome)
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&self, at: usize, what: &str, model: &T, real: &T) {
        if model != real {
            let what = format!("{what}\n  model {model:?}\n  box   {real:?}");
            let nobody = (IpAddr::from([0; 4]), 0, 0, 0);
            // The listing says which session it is, if it shows there.
            eprintln!("{what}\n{}", self.sessions_that_differ(at));
            self.fail(at, &what, nobody, &[]);
        }
    }

    fn sessions_that_differ(&self, at: usize) -> String {
        let listed = self.boxes[at].sessions(self.model.now_ms);
        let model = &self.model.sessions;
        let tuples: BTreeSet<_> = model.keys().chain(listed.keys()).copied().collect();
        let row = |tuple: &Tuple| {
            let expected = model.get(tuple).map(|it| (it.owner, it.birth_epoch, it.state));
            let listed = listed.get(tuple).map(|it| (it.owner, it.birth_epoch, it.state));
            let trace =
                || self.trace.about(ends_of_tuple(tuple), &self.addresses_of(&[tuple.address]));
            let text = || format!("{tuple}: model {expected:?}, box {listed:?}\n{}", trace());
            (expected != listed).then(text)
        };
        tuples.iter().filter_map(row).take(3).collect()
    }

    fn packet_differs(&self, at: usize, it: &Pending, outcome: Outcome, sent: Option<&Frame>) -> ! {
        let text = |outcome: Outcome, sent: Option<&Frame>| match sent {
            Some((device, frame)) => {
                format!("{}, device {} {frame:02x?}", outcome.name(), device.0)
            }
            None => outcome.name().to_owned(),
        };
        let packet = it.packet.as_ref().map(ToString::to_string).unwrap_or_default();
        let expected = text(it.outcome, it.leaves.as_ref());
        let what = format!("packet {packet}\n  model {expected}\n  box   {}", text(outcome, sent));
        let Some(packet) = &it.packet else { panic!("seed {}: {what}", self.seed) };
        let addresses = self.addresses_of(&[packet.source, packet.destination]);
        self.fail(at, &what, ends_of(packet), &addresses)
    }

    /// Managed addresses that have to do with these.
    fn addresses_of(&self, named: &[IpAddr]) -> Vec<IpAddr> {
        let concerns = |address: &&ManagedAddress| {
            let mut words = backends(address).map(|vm| speaks_as(address, &vm));
            named.contains(&address.address) || words.any(|word| named.contains(&word))
        };
        self.model.addresses.values().filter(concerns).map(|address| address.address).collect()
    }

    fn fail(&self, at: usize, what: &str, ends: Ends, addresses: &[IpAddr]) -> ! {
        panic!(
            "TIDEGATE_ORACLE_SEED={}, step {}, {} shards: {what}\n{}",
            self.seed,
            self.trace.count(),
            self.boxes[at].shards(),
            self.trace.about(ends, addresses)
        )
    }
}

fn frame(packet: &Packet, from: Mac, to: Mac) -> Frame {
    (wire(packet.port).0, packet.frame(from, to))
}

fn ends_of_tuple(tuple: &Tuple) -> Ends {
    (tuple.client, tuple.client_port, tuple.address_port, tuple.protocol)
}
