//! A target in a process of its own, and a writer here that knows it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_fabric::{Endpoint, Error, Event, Message, Peer, Provider, Source, Window, Write};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use crate::processes::Child;

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Nothing here may take longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const MIB: u64 = 1 << 20;
/// The target's window.
pub(crate) const WINDOW: u64 = 16 * MIB;
/// Its places for messages.
pub(crate) const PLACE: u64 = 256 * 1024;
pub(crate) const PLACES: u64 = 2;

pub(crate) fn region(bytes: u64) -> Arc<MmapRegion> {
    Arc::new(MmapRegion::new(bytes as usize).expect("memory"))
}

/// A region whose every word says where it is.
pub(crate) fn image(bytes: u64) -> Arc<MmapRegion> {
    let image = region(bytes);
    for start in (0..bytes).step_by(8) {
        let word = (start + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        image.as_volatile_slice().write_obj(word, start as usize).expect("in bounds");
    }
    image
}

pub(crate) fn bytes_of(region: &MmapRegion, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    region.as_volatile_slice().read_slice(&mut bytes, offset as usize).expect("in bounds");
    bytes
}

pub(crate) struct Rig {
    pub(crate) child: Child,
    pub(crate) writer: Endpoint,
    pub(crate) window: Window,
    pub(crate) source: Source,
    pub(crate) peer: Peer,
}

impl Rig {
    pub(crate) fn new(provider: Provider) -> Self {
        Self::with(provider, &[])
    }

    pub(crate) fn with(provider: Provider, environment: &[(&str, &str)]) -> Self {
        let mut child = Child::start(&format!("target {}", provider.name()), environment);
        let address = unhex(&child.line("address "));
        let numbers = child.line("window ");
        let mut numbers = numbers.split(' ').map(|number| number.parse().expect("number"));
        let mut number = || numbers.next().expect("three numbers");
        let window = Window { key: number(), base: number(), len: number() };
        let mut writer = Endpoint::open(provider, LOOPBACK).expect("writer");
        let peer = writer.connect(&address).expect("peer");
        let source = writer.attach(image(WINDOW)).expect("source");
        Self { child, writer, window, source, peer }
    }

    /// A write of a piece to the same place, numbered.
    pub(crate) fn write(&self, at: u64, len: u64, number: u64) -> Write<'_> {
        let (source, peer, to) = (self.source, self.peer, &self.window);
        Write { source, from: at, len, peer, to, at, data: number as u32, id: number }
    }

    /// Write pieces (offset, length), `data` their index, until all have left.
    pub(crate) fn write_all(&mut self, pieces: &[(u64, u64)]) -> Result<(), Error> {
        let window = self.window;
        self.all(pieces.len(), |rig, number| {
            let (at, len) = pieces[number as usize];
            let write = Write { to: &window, ..rig.write(at, len, number) };
            rig.writer.write(&write)
        })
    }

    pub(crate) fn send_all(&mut self, messages: &[(u64, u64)]) -> Result<(), Error> {
        let (source, peer) = (self.source, self.peer);
        self.all(messages.len(), |rig, id| {
            let (from, len) = messages[id as usize];
            rig.writer.send(&Message { source, from, len, peer, id })
        })
    }

    /// Begin `count` transfers, and wait until each has left once.
    fn all(
        &mut self,
        count: usize,
        mut begin: impl FnMut(&mut Self, u64) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let clock = Instant::now();
        let mut sent = vec![false; count];
        let (mut begun, mut left) = (0, 0);
        while left < count {
            while begun < count && begin(self, begun as u64)? {
                begun += 1;
                assert!(self.writer.in_flight() <= self.writer.most_in_flight());
            }
            self.writer.poll(&mut |event| {
                let Event::Sent { id } = event else { panic!("{event:?}") };
                assert!(!std::mem::replace(&mut sent[id as usize], true), "{id} left twice");
                left += 1;
            })?;
            assert!(clock.elapsed() < DEADLINE, "hangs after {left} of {begun}");
        }
        Ok(())
    }

    /// Tell the target something, and hear its answer.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        self.child.say(question);
        self.child.line("answer ")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The other process: opens an endpoint, and answers questions about it while it polls.
pub(crate) fn play(part: &str) {
    let (_, provider) = part.split_once(' ').expect("part and provider");
    let provider = Provider::ALL.into_iter().find(|known| known.name() == provider);
    let mut endpoint = Endpoint::open(provider.expect("provider"), LOOPBACK).expect("endpoint");
    let into = region(WINDOW);
    let window = endpoint.expose(into.clone()).expect("window");
    let places = region(PLACES * PLACE);
    endpoint.receive_into(places.clone(), PLACE).expect("places");
    println!("address {}", hex(endpoint.address()));
    println!("window {} {} {}", window.key, window.base, window.len);

    let (say, questions) = mpsc::channel();
    thread::spawn(move || io::stdin().lines().try_for_each(|line| say.send(line.expect("line"))));
    let mut target = Target { endpoint, into, places, events: VecDeque::new() };
    loop {
        match questions.try_recv() {
            Ok(question) => println!("answer {}", target.answer(&question)),
            Err(mpsc::TryRecvError::Empty) => target.poll(),
            Err(mpsc::TryRecvError::Disconnected) => return,
        }
    }
}

struct Target {
    endpoint: Endpoint,
    into: Arc<MmapRegion>,
    places: Arc<MmapRegion>,
    /// What came and was not asked for: the number with a write, or a message's length and first word.
    events: VecDeque<String>,
}

impl Target {
    fn poll(&mut self) {
        let mut given_back = Vec::new();
        let polled = self.endpoint.poll(&mut |event| match event {
            Event::Arrived { data } => self.events.push_back(data.to_string()),
            Event::Received { place, len } => {
                let bytes = bytes_of(&self.places, place * PLACE, len);
                let sum =
                    bytes.iter().fold(0_u64, |sum, &byte| sum * 31 % 1_000_003 + u64::from(byte));
                self.events.push_back(format!("{len}:{sum}"));
                given_back.push(place);
            }
            Event::Sent { .. } => panic!("nothing was sent"),
        });
        if let Err(error) = polled {
            self.events.push_back(format!("error({error})"));
        }
        for place in given_back {
            self.endpoint.give_back(place).expect("place");
        }
    }

    fn answer(&mut self, question: &str) -> String {
        let (what, argument) = question.split_once(' ').unwrap_or((question, ""));
        match what {
            // The next so many events, in the order in which they came.
            "events" => {
                let count = argument.parse().expect("count");
                let clock = Instant::now();
                while self.events.len() < count && clock.elapsed() < DEADLINE / 2 {
                    self.poll();
                }
                self.events.drain(..).collect::<Vec<_>>().join(" ")
            }
            "whole" => {
                let expected = image(WINDOW);
                let whole = bytes_of(&self.into, 0, WINDOW) == bytes_of(&expected, 0, WINDOW);
                whole.to_string()
            }
            "zero" => bytes_of(&self.into, 0, WINDOW).iter().all(|byte| *byte == 0).to_string(),
            // How many of the first bytes are not zero.
            "head" => {
                let head = bytes_of(&self.into, 0, argument.parse().expect("length"));
                head.iter().filter(|byte| **byte != 0).count().to_string()
            }
            "close" => {
                self.endpoint =
                    Endpoint::open(self.endpoint.provider(), LOOPBACK).expect("another");
                String::new()
            }
            _ => panic!("{question}?"),
        }
    }
}

/// The same as the target has of a message.
pub(crate) fn message_event(source: &MmapRegion, (from, len): (u64, u64)) -> String {
    let bytes = bytes_of(source, from, len);
    let sum = bytes.iter().fold(0_u64, |sum, &byte| sum * 31 % 1_000_003 + u64::from(byte));
    format!("{len}:{sum}")
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
