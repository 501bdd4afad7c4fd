//! The loop: ports in, answers out, new packets at their time.

use std::{sync::Arc, thread, time::Duration};

use tidegate_dpdk::{Burst, Eal, PktMbufPool, QueuePair, clock};
use tidegate_packets::client;

use crate::{
    arp,
    conductor::{Conductor, Phase},
    frame::{self, Mac},
    latency::{Recorder, Way},
    life::{Answer, Arrival, Life, Stage},
    pace::Pace,
    ports::{Devices, Start, StartError},
    report::{Packets, Poller, Report, Sessions},
    topology::Topology,
};

/// The clients' port; VM port `n` is port `n + 1`.
const CLIENTS: usize = 0;
/// Packets received or sent at once.
const BURST: usize = 32;
/// How long links may take to come up.
const LINKS: Duration = Duration::from_secs(30);
/// What has not come back for so long is not waited for, microseconds.
const WRITTEN_OFF_US: u64 = 2_000;
/// A rest ends so long before a packet is due, and is not begun for less, microseconds.
const REST_MARGIN_US: u64 = 8;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sessions open at a time.
    pub sessions: u32,
    /// Packets per second, all that the generator sends: clients' and VMs'.
    pub rate: u64,
    /// Sessions ended, and begun in their place, per second of data.
    pub churn: u64,
    /// Bytes of a frame, from [`frame::SMALLEST`] to [`frame::LARGEST`].
    pub frame_bytes: usize,
    /// Packets sent at once by the clients, at most 32.
    pub burst: usize,
    /// Data before latencies are recorded.
    pub warm_up: Duration,
    /// Data while they are.
    pub measure: Duration,
    /// How long nothing may arrive at the end until the rest is lost.
    pub drain: Duration,
    /// A longer time between two polls is a stall.
    pub stall: Duration,
    /// Give the CPU away while nothing is under way.
    pub rest: bool,
}

/// What the clients do when it is their turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Open,
    Data,
    Close,
    Wait,
}

/// A port and what has passed there.
struct Gate {
    queues: QueuePair,
    /// What the port has not taken yet. Nothing else is sent there before, and nothing received that is answered there.
    held: Burst<BURST>,
    sent: u64,
    received: u64,
    /// Times its queue was full.
    full: u64,
}

impl Gate {
    /// Try again to send what is held. Whether nothing is.
    #[inline]
    fn is_free(&mut self) -> bool {
        if !self.held.is_empty() {
            self.sent += self.queues.tx.tx_drain(&mut self.held) as u64;
        }
        self.held.is_empty()
    }
}

/// Clients and VMs on their ports.
pub struct Generator {
    plan: Plan,
    life: Life,
    gates: Vec<Gate>,
    pool: PktMbufPool,
    pace: Pace,
    churn: Pace,
    /// Whether the next change of sessions is an end.
    ends_next: bool,
    stage: Stage,
    recorder: Recorder,
    conductor: Arc<Conductor>,
    poller: Poller,
    foreign: u64,
    /// When the ports were last polled.
    polled: u64,
    /// The end of the last stall.
    stalled: u64,
    /// When a packet last came back.
    heard: u64,
    /// Packets that are no longer waited for: missing since the checkpoint before the last.
    written_off: u64,
    /// When the last one was, and what had been sent by then.
    checkpoint: (u64, u64),
    /// A longer time between two polls is a stall, ticks.
    longest: u64,
    tsc_hz: u64,
}

impl Generator {
    /// Open the ports and wait for their links. Run it on an EAL thread, which has a cache of packet buffers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        eal: &Eal,
        start: &Start,
        devices: &Devices,
        topology: Topology,
        plan: Plan,
        conductor: Arc<Conductor>,
    ) -> Result<Self, StartError> {
        // As many again, so that ports rest before they are used anew.
        let slots = plan.sessions.saturating_mul(2).min(client::MOST);
        let life = Life::new(slots, topology).map_err(|it| StartError::Sessions(slots, it))?;
        let pool = start.pool(eal)?;
        let gates = devices.open(eal, &pool, LINKS)?.into_iter();
        let gates = gates.map(|it| Gate {
            queues: it.queues,
            held: Burst::new(),
            sent: 0,
            received: 0,
            full: 0,
        });
        let (tsc_hz, now) = (eal.tsc_hz(), clock::tsc());
        Ok(Self {
            life,
            gates: gates.collect(),
            pool,
            pace: Pace::new(plan.rate, 2 * BURST as u64, tsc_hz, now),
            churn: Pace::new(0, 0, tsc_hz, now),
            ends_next: true,
            stage: Stage::Before,
            recorder: Recorder::new(tsc_hz),
            conductor,
            poller: Poller::default(),
            foreign: 0,
            polled: now,
            stalled: 0,
            heard: now,
            written_off: 0,
            checkpoint: (now, 0),
            longest: (plan.stall.as_secs_f64() * tsc_hz as f64) as u64,
            tsc_hz,
            plan,
        })
    }

    /// Begin all sessions, send data, close them, and say what came of it. The ports stay open as long as this lives.
    pub fn run(&mut self) -> Report {
        self.enter(Phase::Opening);
        self.open();
        self.enter(Phase::WarmUp);
        let rate = 2 * self.plan.churn;
        self.churn = Pace::new(rate, BURST as u64, self.tsc_hz, clock::tsc());
        self.data(self.plan.warm_up);
        self.enter(Phase::Measuring);
        let poller = self.measure();
        self.enter(Phase::Closing);
        self.close();
        self.enter(Phase::Draining);
        self.drive(Work::Wait, Self::is_silent);
        self.enter(Phase::Ended);
        self.report(poller)
    }

    fn enter(&mut self, phase: Phase) {
        self.conductor.enter(phase);
        self.heard = clock::tsc();
        self.polled = self.heard;
    }

    /// Until every session is open, or nothing more comes back.
    fn open(&mut self) {
        self.drive(Work::Open, |this, now| {
            this.life.tally.established >= u64::from(this.plan.sessions) || this.is_silent(now)
        });
    }

    /// Until none is open or opening.
    fn close(&mut self) {
        self.drive(Work::Close, |this, now| {
            let tally = &this.life.tally;
            (this.life.open_sessions() == 0 && tally.opened == tally.established)
                || this.is_silent(now)
        });
    }

    /// Whether nothing has come back for as long as anything may take.
    fn is_silent(&self, now: u64) -> bool {
        now.saturating_sub(self.heard) > self.ticks(self.plan.drain)
    }

    fn data(&mut self, duration: Duration) {
        let end = clock::tsc() + self.ticks(duration);
        self.drive(Work::Data, |this, now| now >= end || this.conductor.is_stopped());
    }

    fn measure(&mut self) -> Poller {
        let sent = |this: &Self| this.gates.iter().map(|gate| gate.sent).sum::<u64>();
        let (started, before) = (clock::tsc(), sent(self));
        self.poller = Poller::default();
        self.recorder.start(started);
        self.data(self.plan.measure);
        let ended = clock::tsc();
        self.recorder.stop(ended);
        let seconds = (ended - started) as f64 / self.tsc_hz as f64;
        Poller { rate_pps: (sent(self) - before) as f64 / seconds, ..self.poller }
    }

    fn drive(&mut self, work: Work, is_over: impl Fn(&Self, u64) -> bool) {
        loop {
            let now = self.polled_again();
            self.stage = self.conductor.take_up();
            let mut is_quiet = true;
            for gate in 0..self.gates.len() {
                is_quiet &= self.gates[gate].is_free() && self.receive(gate) == 0;
            }
            if is_over(self, now) {
                return;
            }
            if work != Work::Wait && self.pace.is_due(clock::tsc()) {
                if self.gates[CLIENTS].is_free() {
                    self.send_new(work);
                }
            } else if self.plan.rest && is_quiet {
                self.rest(work);
            }
        }
    }

    /// Note how long ago the ports were polled.
    #[inline]
    fn polled_again(&mut self) -> u64 {
        let now = clock::tsc();
        let gap = now.saturating_sub(self.polled);
        self.polled = now;
        let gap_us = gap as f64 * 1e6 / self.tsc_hz as f64;
        if gap_us > self.poller.longest_gap_us {
            self.poller.longest_gap_us = gap_us;
        }
        if gap > self.longest {
            self.poller.stalls += 1;
            self.poller.stalled_us += gap_us;
            self.stalled = now;
        }
        now
    }

    /// Check and answer what has arrived; how many frames that was. The gate is free.
    fn receive(&mut self, gate: usize) -> usize {
        let mut burst = Burst::<BURST>::new();
        let frames = self.gates[gate].queues.rx.rx_burst(&mut burst);
        if frames == 0 {
            return 0;
        }
        let now = clock::tsc();
        burst.prefetch_data();
        for mbuf in burst.as_slice() {
            self.life.prefetch(mbuf.data());
        }
        let way = if gate == CLIENTS { Way::ToClient } else { Way::ToVm };
        let mut answers = Burst::<BURST>::new();
        for mut mbuf in burst.drain() {
            let arrival = match gate.checked_sub(1) {
                None => self.life.at_client(mbuf.data_mut()),
                Some(vm) => self.life.at_vm(vm, self.stage, mbuf.data_mut()),
            };
            let Arrival::Ours(answer, stamp) = arrival else {
                self.foreign(gate, mbuf);
                continue;
            };
            self.gates[gate].received += 1;
            self.heard = now;
            if let Some(stamp) = stamp {
                self.recorder.record(way, stamp, now, self.stalled);
            }
            if answer == Answer::None {
                continue;
            }
            if answer == Answer::Bare {
                // Every frame of ours is longer.
                let _ = mbuf.trim_back(mbuf.len() - frame::BARE);
            }
            // As much room as was received.
            let _ = answers.push(mbuf);
        }
        self.send(gate, &mut answers);
        frames
    }

    /// Stamp and send. What the port does not take is held, with its stamp: waiting for the box is part of the latency.
    fn send(&mut self, gate: usize, burst: &mut Burst<BURST>) {
        let packets = burst.len();
        if packets == 0 {
            return;
        }
        let now = clock::tsc();
        for mbuf in burst.as_mut_slice() {
            frame::stamp(mbuf.data_mut(), now);
        }
        let gate = &mut self.gates[gate];
        gate.sent += gate.queues.tx.tx_drain(burst) as u64;
        if !burst.is_empty() {
            gate.full += 1;
            gate.held.append(burst);
        }
        self.pace.sent(packets as u64, now);
    }

    /// The clients' turn. Their gate is free.
    fn send_new(&mut self, work: Work) {
        let mut burst = Burst::<BURST>::new();
        let mut chosen = [None; BURST];
        if work == Work::Data {
            chosen[..self.plan.burst].fill_with(|| self.life.choose());
        }
        self.pool.alloc_burst(&mut burst, self.plan.burst);
        let mut written = Burst::<BURST>::new();
        for (mut mbuf, chosen) in burst.drain().zip(chosen) {
            let Some(frame) = mbuf.append(self.plan.frame_bytes) else { break };
            let now = self.polled;
            let is_written = match work {
                Work::Open => self.begin(frame),
                Work::Close => self.life.end(frame),
                Work::Data if self.churn.is_due(now) => {
                    self.churn.sent(1, now);
                    self.change(frame)
                }
                Work::Data => chosen.is_some_and(|number| self.life.go_on(number, frame)),
                Work::Wait => false,
            };
            if !is_written {
                continue;
            }
            // As much room as was allocated.
            let _ = written.push(mbuf);
        }
        self.send(CLIENTS, &mut written);
    }

    fn begin(&mut self, frame: &mut [u8]) -> bool {
        self.life.tally.opened < u64::from(self.plan.sessions) && self.life.begin(self.stage, frame)
    }

    /// End a session, or begin the one in its place.
    fn change(&mut self, frame: &mut [u8]) -> bool {
        let is_written =
            if self.ends_next { self.life.end(frame) } else { self.life.begin(self.stage, frame) };
        self.ends_next ^= is_written;
        is_written
    }

    /// ARP is answered, other strangers are counted.
    #[cold]
    fn foreign(&mut self, gate: usize, mut mbuf: tidegate_dpdk::Mbuf) {
        let Some(asked) = arp::asked(mbuf.data()) else {
            // What ARP says beside questions is of no use here, and no stranger.
            self.foreign += u64::from(!arp::is_arp(mbuf.data()));
            return;
        };
        let Some(mac) = self.mac_of(gate, asked) else { return };
        arp::answer(mbuf.data_mut(), mac);
        let mut burst = Burst::<1>::new();
        let _ = burst.push(mbuf);
        // An answer that is not taken is asked for again.
        drop(self.gates[gate].queues.tx.tx_burst(burst));
    }

    /// Who answers for `address`: the clients' router for all but the managed address, a VM for its own.
    fn mac_of(&self, gate: usize, address: u32) -> Option<Mac> {
        let topology = self.life.topology();
        match gate.checked_sub(1) {
            None => (address != topology.managed.0).then_some(topology.client.mac),
            Some(vm) => topology.mac_of(vm, address),
        }
    }

    /// Sleep until shortly before the next packet is due, if nothing is under way: then nothing is measured late.
    fn rest(&mut self, work: Work) {
        let now = clock::tsc();
        let sum = |of: fn(&Gate) -> u64| self.gates.iter().map(of).sum::<u64>();
        let (sent, received) = (sum(|it| it.sent), sum(|it| it.received));
        let (since, sent_then) = self.checkpoint;
        if now - since > self.ticks_us(WRITTEN_OFF_US) {
            self.written_off = sent_then.saturating_sub(received);
            self.checkpoint = (now, sent);
        }
        if sent > received + self.written_off {
            return;
        }
        let margin = self.ticks_us(REST_MARGIN_US);
        let wait = match work {
            Work::Wait => self.ticks_us(100),
            _ => self.pace.wait(now),
        };
        if wait > 2 * margin {
            let ticks = wait - margin;
            thread::sleep(Duration::from_nanos(ticks * 1000 / (self.tsc_hz / 1_000_000)));
            self.poller.rests += 1;
            self.polled = clock::tsc();
        }
    }

    fn report(&self, poller: Poller) -> Report {
        let (clients, vms) = self.gates.split_at(1);
        let sum = |gates: &[Gate], of: fn(&Gate) -> u64| gates.iter().map(of).sum::<u64>();
        let packets = |senders: &[Gate], receivers: &[Gate]| Packets {
            sent: sum(senders, |it| it.sent),
            received: sum(receivers, |it| it.received),
            unsent: sum(senders, |it| it.held.len() as u64),
            port_full: sum(senders, |it| it.full),
        };
        Report {
            sessions: Sessions::of(&self.life.tally),
            to_vm: packets(clients, vms),
            to_client: packets(vms, clients),
            faults: self.life.faults,
            foreign: self.foreign,
            latency: self.recorder.summary(),
            poller,
        }
    }

    fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_secs_f64() * self.tsc_hz as f64) as u64
    }

    fn ticks_us(&self, us: u64) -> u64 {
        self.tsc_hz / 1_000_000 * us
    }
}
