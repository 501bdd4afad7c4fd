//! The sending side of the [copy protocol](super).
//!
//! The sender keeps a hash for each page of what the receiver has. To bring a stretch up to date is to hash what is there now
//! and to put what differs; so a first copy, a later pass and a section that arrived damaged are the same work.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Mapping, MemoryError, Object, PageHashes,
    copy::{
        Controls, Layout, PING_EVERY, SILENCE, Section,
        message::{
            Commitment, Kind, Plan, Verdict, encode_barrier, encode_hello, encode_layout,
            encode_objects, expect, expected, parse_digest, read_message, reason_bytes,
            write_message,
        },
    },
    locked,
    mapping::PAGE_BYTES,
    page_hashes::{Digest, ZERO_PAGE},
    transport::{Dial, Lane, Stream, Transport},
};

mod gauge;
mod lanes;
mod work;

pub use gauge::Progress;
use gauge::{Gauge, Reporter};
use lanes::{Crew, Event};
use work::Work;

/// How often one section is sent.
const ATTEMPTS: u32 = 3;
/// How long the reason of a failure is waited for.
const PARTING: Duration = Duration::from_secs(2);

/// One object and the memory it is read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is.
    pub object: Object,
    /// Its bytes. They may change between passes, and not from the beginning of [`Sending::finish`] on. None: they are not here any
    /// more, or come with [`Sending::read_from`]; what the receiver lacks of them cannot be sent.
    pub memory: Option<Arc<Mapping>>,
    /// The hashes of its pages as they will be at [`Sending::finish`], if somebody has computed them already. Without them and without
    /// bytes, they are those of what was passed.
    pub hashes: Option<Arc<PageHashes>>,
}

/// A copy that the receiver confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Final figures.
    pub progress: Progress,
    /// Of the whole copy, in hexadecimal.
    pub digest: String,
    /// The data path it took.
    pub path: String,
    /// Of each object's pages, in the layout's order: each page is hashed for the copy anyhow.
    pub hashes: Vec<Arc<PageHashes>>,
}

/// A stretch of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Index of the object.
    pub object: usize,
    /// From a page to a page, or to the object's end.
    pub range: Range<u64>,
}

/// A copy in progress.
pub struct Sending {
    control: Box<dyn Stream>,
    lanes: Vec<Box<dyn Lane>>,
    path: String,
    /// By section: the receiver had it committed when the copy began.
    before: Vec<bool>,
    /// When the receiver last heard something.
    asked_at: Instant,
    reporter: Reporter,
    shared: Shared,
}

/// What all lanes read.
struct Shared {
    layout: Layout,
    sources: Vec<Source>,
    /// By section: hashes of what the receiver has. Locked by the lane that works on the section.
    known: Vec<Mutex<PageHashes>>,
    /// By object: where it has data, looked up by any lane since the work began.
    data: Vec<Mutex<Range<u64>>>,
    controls: Arc<Controls>,
    gauge: Gauge,
    /// Something has failed: no lane goes on.
    halted: AtomicBool,
}

impl Shared {
    fn check(&self) -> Result<(), MemoryError> {
        // Relaxed: it only says that going on is useless.
        if self.halted.load(Ordering::Relaxed) {
            return Err(MemoryError::Cancelled("another part of it failed".to_owned()));
        }
        self.controls.check()
    }

    /// What the receiver has, object by object.
    fn hashes(&self) -> Result<Vec<Arc<PageHashes>>, MemoryError> {
        let objects = self.layout.objects().iter();
        let room = |object: &Object| object.size_bytes.div_ceil(PAGE_BYTES as u64) as usize;
        let mut found: Vec<_> = objects.clone().map(|it| Vec::with_capacity(room(it))).collect();
        for (known, number) in self.known.iter().zip(0..) {
            if let Some(section) = self.layout.section(number) {
                // Not twice in memory.
                let known = std::mem::replace(&mut *locked(known), PageHashes::zeros(0));
                found[section.object].extend_from_slice(known.hashes());
            }
        }
        let whole = objects.zip(found).map(|(object, hashes)| {
            PageHashes::from_hashes(hashes, object.size_bytes).map(Arc::new)
        });
        whole.collect()
    }

    /// Forget where there is data: holes may have been filled or made since. A file with all of its blocks has none.
    fn look_anew(&self) -> Result<(), MemoryError> {
        for (source, data) in self.sources.iter().zip(&self.data) {
            *locked(data) = match &source.memory {
                Some(memory) if !memory.has_holes()? => 0..memory.size_bytes(),
                _ => 0..0,
            };
        }
        Ok(())
    }

    fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }
}

impl Sending {
    /// Ask the receiver to take `sources` as this migration's, over the first of `transports` that it has too.
    ///
    /// # Errors
    /// [`MemoryError::Refused`] with the receiver's reason, [`MemoryError::Version`],
    /// [`MemoryError::Connection`], [`MemoryError::Protocol`]; [`MemoryError::Gone`] when the receiver lacks a section of which
    /// there are only hashes.
    pub fn begin(
        dial: &dyn Dial,
        migration: &str,
        sources: Vec<Source>,
        transports: &[Arc<dyn Transport>],
        controls: Arc<Controls>,
    ) -> Result<Self, MemoryError> {
        let layout = Layout::new(sources.iter().map(|source| source.object.clone()).collect())?;
        let mut control = dial.dial()?;
        let paths: Vec<_> = transports.iter().map(|transport| transport.name()).collect();
        let plan = propose(&mut *control, migration, &layout, &paths)?;
        // Before anything is sent: to a receiver that lacks one, the others are of no use.
        let lacks = |number: &u32| {
            let section = layout.section(*number);
            let source = section.and_then(|section| sources.get(section.object));
            let only_hashes = |it: &Source| it.memory.is_none() && it.hashes.is_some();
            !plan.committed[*number as usize] && source.is_some_and(only_hashes)
        };
        if let Some(section) = (0..layout.sections()).find(lacks).and_then(|it| layout.section(it))
        {
            return Err(gone(&layout, section));
        }
        let transport = &transports[plan.path];
        let memory: Vec<_> = sources.iter().map(|source| source.memory.clone()).collect();
        let known = |number| {
            let len = layout.section(number).map_or(0, |section| section.len_bytes);
            Mutex::new(PageHashes::zeros(len))
        };
        let known = (0..layout.sections()).map(known).collect();
        let gauge = Gauge::new(layout.size_bytes());
        let lanes = transport.connect(&plan.offer, &memory).map_err(|error| match error {
            // The control stream knows why, if anybody does.
            error @ MemoryError::Connection { .. } => explained(&mut *control, error),
            error => error,
        })?;
        let data = sources.iter().map(|_| Mutex::default()).collect();
        let halted = AtomicBool::new(false);
        let shared = Shared { layout, sources, known, data, controls, gauge, halted };
        let (path, before, asked_at) = (transport.name(), plan.committed, Instant::now());
        let reporter = Reporter::default();
        Ok(Self { control, lanes, path, before, asked_at, reporter, shared })
    }

    /// The data path that was chosen.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of the sections that the receiver has committed in an earlier attempt.
    #[must_use]
    pub fn resumed_bytes(&self) -> u64 {
        let sections = (0_u32..).zip(&self.before).filter(|(_, before)| **before);
        let sections = sections.filter_map(|(number, _)| self.shared.layout.section(number));
        sections.map(|section| section.len_bytes).sum()
    }

    /// From now on an object's bytes are read from here. Only over TCP: other transports have registered what there was at the
    /// beginning. None: there are none any more, and [`Self::finish`] commits what was passed.
    pub fn read_from(&mut self, object: usize, memory: Option<Arc<Mapping>>) {
        if let Some(source) = self.shared.sources.get_mut(object) {
            source.memory = memory;
        }
    }

    /// Give a sign of life while there is nothing to send.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn keep_up(&mut self, report: &mut dyn FnMut(Progress)) -> Result<(), MemoryError> {
        let (control, shared) = (&mut *self.control, &self.shared);
        report(self.reporter.read(&shared.gauge));
        let mut conversation = Conversation { control, shared, asked_at: self.asked_at };
        let said = shared.check().and_then(|()| conversation.keep_up());
        self.asked_at = conversation.asked_at;
        said.map_err(|error| conversation.parted(error))
    }

    /// Bring the receiver's memory up to date with what some stretches hold now. What changes meanwhile is for a
    /// later pass. Sources must not have their hashes given.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn pass(
        &mut self,
        stretches: &[Stretch],
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), MemoryError> {
        let work = Work::of_stretches(&self.shared.layout, stretches)?;
        // What was committed before is not known page by page: it begins anew.
        for number in self.shared.sections_of(&work) {
            if std::mem::take(&mut self.before[number as usize]) {
                self.forget(number)?;
            }
        }
        let mut marks = vec![0; self.lanes.len()];
        self.run(work, report, |_, event, _| {
            marks[event.lane] = event.mark;
            Ok(None)
        })?;
        let control = &mut *self.control;
        write_message(control, Kind::Barrier, &encode_barrier(&marks))?;
        self.asked_at = Instant::now();
        let passed = answer(control, Kind::Passed, "waiting for a barrier to be passed");
        let mut conversation =
            Conversation { control, shared: &self.shared, asked_at: self.asked_at };
        passed.map(drop).map_err(|error| conversation.parted(error))
    }

    /// Commit all sections, after bringing them up to date. The receiver has the copy when this returns.
    ///
    /// # Errors
    /// [`MemoryError::Refused`] with the receiver's reason, [`MemoryError::Cancelled`],
    /// [`MemoryError::Section`], [`MemoryError::Connection`], [`MemoryError::Protocol`].
    pub fn finish(mut self, report: &mut dyn FnMut(Progress)) -> Result<Sent, MemoryError> {
        let sections = self.shared.layout.sections() as usize;
        let mut digests: Vec<Digest> = vec![Digest::default(); sections];
        let mut attempts = vec![0; sections];
        let work = Work::of_sections(&self.shared.layout, &self.before);
        self.run(work, report, |sending, event, work| {
            let Some(digest) = event.digest else { return Ok(None) };
            let section = work.section;
            let number = section.number as usize;
            if sending.commit(section, event, digest)? {
                digests[number] = digest;
                return Ok(None);
            }
            // Memory captured anew since is no fault of the way.
            attempts[number] += u32::from(!work.resumed);
            if attempts[number] == ATTEMPTS {
                return Err(sending.damaged(section));
            }
            let zeros = PageHashes::zeros(section.len_bytes);
            let was = std::mem::replace(&mut *locked(&sending.shared.known[number]), zeros);
            let has_bytes = sending.shared.sources[section.object].memory.is_some();
            if !has_bytes && was.hashes().iter().any(|hash| *hash != ZERO_PAGE) {
                return Err(gone(&sending.shared.layout, section));
            }
            Ok(Some(Work::again(section)))
        })?;
        let objects: Vec<_> = self.shared.layout.objects().to_vec();
        let digest = digest_of_copy(&objects, &digests);
        let control = &mut *self.control;
        write_message(control, Kind::Commit, digest.as_bytes())?;
        let confirmed = expect(control, Kind::Confirm, "waiting for the confirmation")?;
        if parse_digest(&confirmed)? != *digest.as_bytes() {
            return Err(MemoryError::Protocol("it confirmed another digest".to_owned()));
        }
        let progress = self.shared.gauge.now();
        let hashes = self.shared.hashes()?;
        Ok(Sent { progress, digest: digest.to_hex().to_string(), path: self.path, hashes })
    }

    /// Let the lanes do some work. `done` answers each piece of it, perhaps with more.
    fn run(
        &mut self,
        work: Vec<Work>,
        report: &mut dyn FnMut(Progress),
        mut done: impl FnMut(&mut Conversation<'_>, &Event, &Work) -> Result<Option<Work>, MemoryError>,
    ) -> Result<(), MemoryError> {
        let (control, shared) = (&mut *self.control, &self.shared);
        shared.look_anew()?;
        let mut conversation = Conversation { control, shared, asked_at: Instant::now() };
        let reporter = &mut self.reporter;
        let crew = Crew::new(shared, work);
        let outcome = crew.run(&mut self.lanes, |next| {
            report(reporter.read(&shared.gauge));
            match next {
                None => conversation.keep_up().map(|()| None),
                Some((event, work)) => done(&mut conversation, event, work),
            }
        });
        report(reporter.read(&shared.gauge));
        outcome.map_err(|error| conversation.parted(error))
    }

    /// Have the receiver begin a section anew that it had committed.
    fn forget(&mut self, number: u32) -> Result<(), MemoryError> {
        let Some(section) = self.shared.layout.section(number) else { return Ok(()) };
        let event = Event { lane: 0, mark: 0, digest: None };
        // No memory has this digest.
        let (control, shared) = (&mut *self.control, &self.shared);
        let mut conversation = Conversation { control, shared, asked_at: Instant::now() };
        conversation.commit(section, &event, [0xff; 32]).map(drop)
    }
}

/// Questions on the control stream.
struct Conversation<'a> {
    control: &'a mut dyn Stream,
    shared: &'a Shared,
    asked_at: Instant,
}

impl Conversation<'_> {
    /// Give a sign of life when nothing was asked for a while.
    fn keep_up(&mut self) -> Result<(), MemoryError> {
        if self.asked_at.elapsed() < PING_EVERY {
            return Ok(());
        }
        self.asked_at = Instant::now();
        write_message(self.control, Kind::Ping, &[])?;
        expect(self.control, Kind::Pong, "waiting for a sign of life").map(drop)
    }

    /// Whether the receiver has the section as it is here.
    fn commit(
        &mut self,
        section: Section,
        event: &Event,
        digest: Digest,
    ) -> Result<bool, MemoryError> {
        let Event { lane, mark, .. } = *event;
        self.asked_at = Instant::now();
        let asked = Commitment { section: section.number, lane, mark, digest };
        write_message(self.control, Kind::Section, &asked.encode())?;
        let answer = answer(self.control, Kind::Committed, "waiting for a section's digest")?;
        let verdict = Verdict::parse(&answer)?;
        if verdict.section != section.number || verdict.same != (verdict.digest == digest) {
            return Err(MemoryError::Protocol("COMMITTED contradicts itself".to_owned()));
        }
        Ok(verdict.same)
    }

    fn damaged(&self, section: Section) -> MemoryError {
        MemoryError::Section {
            section: section.number,
            object: self.shared.layout.objects()[section.object].kind.clone(),
            offset: section.offset,
            len_bytes: section.len_bytes,
            attempts: ATTEMPTS,
        }
    }

    /// Say good-bye after an error; which one counts.
    fn parted(&mut self, error: MemoryError) -> MemoryError {
        match error {
            MemoryError::Cancelled(reason) => {
                // The receiver finds out anyhow.
                let _ = write_message(self.control, Kind::Cancel, reason_bytes(&reason));
                MemoryError::Cancelled(reason)
            }
            // Who gives a copy up may cut its streams as well, and a lane notices that first.
            error @ MemoryError::Connection { .. } => match self.shared.controls.check() {
                Err(cancelled) => cancelled,
                Ok(()) => explained(self.control, error),
            },
            error => error,
        }
    }
}

/// An answer that has to wait for bytes to arrive. While it does, signs of life come.
fn answer(
    control: &mut dyn Stream,
    kind: Kind,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    loop {
        match read_message(control, during)? {
            (Kind::Pong, _) => {}
            (found, body) => return expected(kind, found, body, during),
        }
    }
}

/// HELLO and LAYOUT, up to PLAN.
fn propose(
    control: &mut dyn Stream,
    migration: &str,
    layout: &Layout,
    paths: &[String],
) -> Result<Plan, MemoryError> {
    let mut said = || {
        write_message(control, Kind::Hello, &encode_hello(migration))?;
        expect(control, Kind::Welcome, "waiting to be admitted")?;
        write_message(control, Kind::Layout, &encode_layout(layout.objects(), paths))?;
        expect(control, Kind::Plan, "waiting for the layout to be accepted")
    };
    match said() {
        Ok(plan) => Plan::parse(&plan, layout.sections(), paths.len()),
        Err(error @ MemoryError::Connection { .. }) => Err(explained(control, error)),
        Err(error) => Err(error),
    }
}

/// Whatever broke the sending, the receiver may have said why before it closed.
pub(super) fn explained(control: &mut dyn Stream, error: MemoryError) -> MemoryError {
    // Failing at any of these only costs the reason.
    let _ = control.set_patience(Some(PARTING));
    let _ = write_message(control, Kind::Ping, &[]);
    // Its answer to a question that was asked before may come first.
    for _ in 0..2 {
        match expect(control, Kind::Refuse, "asking why") {
            Ok(reason) => {
                return MemoryError::Refused(String::from_utf8_lossy(&reason).into_owned());
            }
            Err(MemoryError::Protocol(_)) => {}
            Err(_) => break,
        }
    }
    let _ = control.set_patience(Some(SILENCE));
    error
}

/// Sections whose bytes are nowhere.
fn gone(layout: &Layout, section: Section) -> MemoryError {
    let object = layout.objects()[section.object].kind.clone();
    MemoryError::Gone { section: section.number, object }
}

/// The digest of a whole copy.
pub(super) fn digest_of_copy(objects: &[Object], sections: &[Digest]) -> blake3::Hash {
    let mut digest = blake3::Hasher::new();
    digest.update(&encode_objects(objects));
    for section in sections {
        digest.update(section);
    }
    digest.finalize()
}
