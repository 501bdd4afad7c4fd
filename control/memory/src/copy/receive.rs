//! The receiving side of the [copy protocol](super).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Mapping, MemoryError, Object,
    copy::{
        Layout, PING_EVERY, SILENCE, Section, VERSION,
        ground::Ground,
        image::{self, Becoming},
        ledger::Ledger,
        message::{
            Commitment, Head, Join, Kind, Plan, Verdict, connection, encode_versions,
            parse_barrier, parse_digest, parse_hello, parse_layout, read_body, read_head,
            read_message, reason_bytes, write_message,
        },
        send::digest_of_copy,
    },
    image_diff::Applied,
    page_hashes::Digest,
    transport::{Arrivals, Joins, Stream, TcpReceiver, Transport},
};

/// How long a refused sender may still talk before the connection is cut.
const PARTING: Duration = Duration::from_secs(2);

/// Who decides what may arrive and where it goes. A refusal's reason is told to the sender.
pub trait Landing {
    /// May anything of this migration arrive?
    ///
    /// # Errors
    /// The reason why not.
    fn admit(&self, migration: &str) -> Result<(), String>;

    /// Where the objects go to.
    ///
    /// # Errors
    /// The reason why they are refused.
    fn place(&self, migration: &str, objects: &[Object]) -> Result<Place, String>;

    /// Everything arrived and its digest is right. It counts when this returns. Asked again when the sender did
    /// not hear of it.
    ///
    /// # Errors
    /// The reason why it is not taken after all.
    fn arrived(&self, received: &Received) -> Result<(), String>;

    /// Which memory becomes an image, the last or what goes ahead of it.
    ///
    /// # Errors
    /// The reason why it is refused.
    fn becoming(&self, migration: &str, _last: bool) -> Result<Becoming, String> {
        Err(format!("nothing of `{migration}` becomes an image here"))
    }

    /// All of an image was applied. It counts when this returns.
    ///
    /// # Errors
    /// The reason why it is not taken after all.
    fn became(&self, _migration: &str, _last: bool, _applied: &Applied) -> Result<(), String> {
        Ok(())
    }
}

/// Where the objects of a copy go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Their files, in the objects' order. They are made anew, unless the ledger says what is in them.
    pub files: Vec<PathBuf>,
    /// The ledger of this copy and no other.
    pub ledger: PathBuf,
    /// Files of the right size are all zeros, so that they can be taken as they are, with the room and the pages they have.
    pub zeros: bool,
}

/// A copy that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The migration.
    pub migration: String,
    /// What arrived.
    pub objects: Vec<Object>,
    /// Of the whole copy, in hexadecimal.
    pub digest: String,
    /// The data path it took.
    pub path: String,
}

/// Takes copies from other hosts. One for all streams of a listener.
pub struct Receiver {
    joins: Arc<Joins>,
    paths: Vec<Arc<dyn Transport>>,
}

impl Receiver {
    /// With TCP as data path, over streams that are `encrypted` or not, and with `others`.
    #[must_use]
    pub fn new(encrypted: bool, others: Vec<Arc<dyn Transport>>) -> Self {
        let joins = Arc::new(Joins::default());
        let mut paths = others;
        paths.push(Arc::new(TcpReceiver::new(joins.clone(), encrypted)));
        Self { joins, paths }
    }

    /// Take what a stream carries: a whole copy, which is the answer, some of another stream's, or an image.
    ///
    /// # Errors
    /// What the peer did wrong, or the connection; the peer was told.
    pub fn serve(
        &self,
        mut stream: Box<dyn Stream>,
        landing: &dyn Landing,
    ) -> Result<Option<Received>, MemoryError> {
        let stream = &mut *stream;
        self.greet(stream, landing).inspect_err(|error| refuse(stream, error))
    }

    fn greet(
        &self,
        stream: &mut dyn Stream,
        landing: &dyn Landing,
    ) -> Result<Option<Received>, MemoryError> {
        const DURING: &str = "waiting for HELLO or JOIN";
        let head @ Head { kind, .. } = read_head(stream, DURING)?;
        if !matches!(kind, Kind::Hello | Kind::Join) {
            return Err(MemoryError::Protocol(format!("{kind:?} came while {DURING}")));
        }
        let body = read_body(stream, head, DURING)?;
        if kind == Kind::Join {
            return self.joins.serve(stream, Join::parse(&body)?).map(|()| None);
        }
        let migration = parse_hello(&body)?;
        landing.admit(&migration).map_err(MemoryError::Refused)?;
        write_message(stream, Kind::Welcome, &[])?;
        match read_message(stream, "waiting for LAYOUT or IMAGE")? {
            (Kind::Layout, body) => {
                Conversation::open(self, stream, landing, migration, &body)?.converse().map(Some)
            }
            (Kind::Image, body) => image::take(stream, landing, &migration, &body).map(|()| None),
            (other, _) => {
                let waiting = "waiting for LAYOUT or IMAGE";
                Err(MemoryError::Protocol(format!("{other:?} came while {waiting}")))
            }
        }
    }
}

/// A copy whose layout was accepted.
struct Conversation<'a> {
    control: &'a mut dyn Stream,
    landing: &'a dyn Landing,
    migration: String,
    path: String,
    ground: Arc<Ground>,
    ledger: Ledger,
    arrivals: Box<dyn Arrivals>,
}

impl<'a> Conversation<'a> {
    fn open(
        receiver: &Receiver,
        control: &'a mut dyn Stream,
        landing: &'a dyn Landing,
        migration: String,
        layout: &[u8],
    ) -> Result<Self, MemoryError> {
        let proposal = parse_layout(layout)?;
        let layout = proposal.layout;
        let here = |name: &String| receiver.paths.iter().find(|path| path.name() == *name);
        let numbered = proposal.paths.iter().enumerate();
        let common: Vec<_> =
            numbered.filter_map(|(index, name)| Some((index, &**here(name)?))).collect();
        if common.is_empty() {
            let have: Vec<_> = receiver.paths.iter().map(|path| path.name()).collect();
            return Err(MemoryError::Refused(format!(
                "no common data path: {} asked for, {} here",
                proposal.paths.join(", "),
                have.join(", ")
            )));
        }
        let place = landing.place(&migration, layout.objects()).map_err(MemoryError::Refused)?;
        let (ground, ledger) = break_ground(&layout, &place)?;
        let ground = Arc::new(ground);
        let (path, name, arrivals) = accept(&common, &ground)?;
        let committed = (0..layout.sections()).map(|number| ledger.digest(number).is_some());
        let plan = Plan { path, offer: arrivals.offer(), committed: committed.collect() };
        write_message(control, Kind::Plan, &plan.encode())?;
        Ok(Self { control, landing, migration, path: name, ground, ledger, arrivals })
    }

    fn converse(mut self) -> Result<Received, MemoryError> {
        loop {
            let (kind, body) = read_message(self.control, "waiting for sections")?;
            match kind {
                Kind::Ping => {
                    self.arrivals.check()?;
                    write_message(self.control, Kind::Pong, &[])?;
                }
                Kind::Barrier => {
                    for (lane, mark) in parse_barrier(&body)?.into_iter().enumerate() {
                        self.wait(lane, mark)?;
                    }
                    write_message(self.control, Kind::Passed, &[])?;
                }
                Kind::Section => {
                    let verdict = self.commit(&Commitment::parse(&body)?)?;
                    write_message(self.control, Kind::Committed, &verdict.encode())?;
                }
                Kind::Commit => return self.confirm(&parse_digest(&body)?),
                Kind::Cancel => {
                    let reason = String::from_utf8_lossy(&body).into_owned();
                    return Err(MemoryError::Cancelled(reason));
                }
                other => {
                    return Err(MemoryError::Protocol(format!("{other:?} came between sections")));
                }
            }
        }
    }

    /// Wait for a mark, with signs of life to the sender.
    fn wait(&mut self, lane: usize, mark: u64) -> Result<(), MemoryError> {
        let (mut count, mut moved_at) = (0, Instant::now());
        loop {
            let now = self.arrivals.wait(lane, mark, PING_EVERY)?;
            if now >= mark {
                return Ok(());
            }
            if now > count {
                (count, moved_at) = (now, Instant::now());
            } else if moved_at.elapsed() >= SILENCE {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(connection("waiting for a data stream")(source));
            }
            write_message(self.control, Kind::Pong, &[])?;
        }
    }

    fn commit(&mut self, asked: &Commitment) -> Result<Verdict, MemoryError> {
        let layout = self.ground.layout();
        let section = layout.section(asked.section).ok_or_else(|| {
            let (asked, sections) = (asked.section, layout.sections());
            MemoryError::Protocol(format!("section {asked} of {sections}"))
        })?;
        self.wait(asked.lane, asked.mark)?;
        let (before, digest) = match self.ledger.digest(section.number) {
            Some(digest) => (true, digest),
            None => (false, self.ground.digest(section, self.arrivals.lands_unseen())?),
        };
        let same = digest == asked.digest;
        match (same, before) {
            (true, true) => {}
            (true, false) => {
                self.ground.commit(section);
                self.ledger.enter(section.number, Some(digest))?;
            }
            (false, _) => self.begin_anew(section, before)?,
        }
        Ok(Verdict { section: section.number, same, digest })
    }

    fn begin_anew(&mut self, section: Section, before: bool) -> Result<(), MemoryError> {
        if before {
            // Before its bytes go: a ledger must not promise what is not there.
            self.ledger.enter(section.number, None)?;
        }
        self.ground.reset(section, self.arrivals.lands_unseen())
    }

    fn confirm(self, expected: &Digest) -> Result<Received, MemoryError> {
        let objects = self.ground.layout().objects().to_vec();
        let sections = self.ledger.all().map_err(|number| {
            MemoryError::Protocol(format!("COMMIT came before section {number} was committed"))
        })?;
        let digest = digest_of_copy(&objects, &sections);
        if digest.as_bytes() != expected {
            return Err(MemoryError::Digest {
                found: digest.to_hex().to_string(),
                expected: blake3::Hash::from(*expected).to_hex().to_string(),
            });
        }
        // Nothing lands from here on.
        drop(self.arrivals);
        let received = Received {
            migration: self.migration,
            objects,
            digest: digest.to_hex().to_string(),
            path: self.path,
        };
        self.landing.arrived(&received).map_err(MemoryError::Refused)?;
        write_message(self.control, Kind::Confirm, digest.as_bytes())?;
        Ok(received)
    }
}

/// Be ready by the first data path that this host can take: its index among those asked for, its name, and its end. Memory that
/// a fabric cannot register still goes over TCP.
fn accept(
    common: &[(usize, &dyn Transport)],
    ground: &Arc<Ground>,
) -> Result<(usize, String, Box<dyn Arrivals>), MemoryError> {
    let mut reasons = Vec::new();
    for (index, transport) in common {
        let name = transport.name();
        match transport.accept(ground) {
            Ok(arrivals) => return Ok((*index, name, arrivals)),
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    let reasons = reasons.join("; ");
    Err(MemoryError::Refused(format!("none of the data paths can be taken: {reasons}")))
}

/// Go on where an earlier attempt broke off, if its ledger and its files are there; else begin anew. Files of objects that are new
/// in the layout are made.
fn break_ground(layout: &Layout, place: &Place) -> Result<(Ground, Ledger), MemoryError> {
    let sizes = layout.objects().iter().map(|object| object.size_bytes);
    let there = |(path, size): &(&PathBuf, u64)| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == *size)
    };
    let whole = place.files.iter().zip(sizes.clone()).take_while(there).count();
    if let Some((ledger, begun)) = Ledger::resume(&place.ledger, layout)?
        && begun <= whole
    {
        let files = place.files.iter().zip(sizes).enumerate().map(|(index, (path, size))| {
            let file =
                if index < begun { Mapping::open(path) } else { Mapping::create(path, size) };
            file.map(Arc::new)
        });
        let ground = Ground::new(layout.clone(), files.collect::<Result<_, _>>()?);
        for section in (0..layout.sections()).filter_map(|number| layout.section(number)) {
            if ledger.digest(section.number).is_some() {
                ground.commit(section);
            } else {
                ground.reset(section, false)?;
            }
        }
        return Ok((ground, ledger));
    }
    forget(&place.ledger)?;
    let files = place.files.iter().zip(sizes).map(|(path, size)| {
        let ready = place.zeros && there(&(path, size));
        let file = if ready { Mapping::open(path) } else { Mapping::create(path, size) };
        file.map(Arc::new)
    });
    let files = files.collect::<Result<_, _>>()?;
    Ok((Ground::new(layout.clone(), files), Ledger::create(&place.ledger, layout)?))
}

/// A ledger must be gone before its files are.
fn forget(ledger: &Path) -> Result<(), MemoryError> {
    match fs::remove_file(ledger) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(MemoryError::file("remove", ledger)(error))
        }
        _ => Ok(()),
    }
}

/// Tell the sender why, and let what it still has on the way drain, lest the reason be lost with a reset.
fn refuse(stream: &mut dyn Stream, error: &MemoryError) {
    let told = match error {
        // Nobody is there, or asked for it.
        MemoryError::Connection { .. } | MemoryError::Cancelled(_) => return,
        MemoryError::Version { .. } => {
            write_message(stream, Kind::Versions, &encode_versions(&[VERSION]))
        }
        MemoryError::Refused(reason) => write_message(stream, Kind::Refuse, reason_bytes(reason)),
        other => write_message(stream, Kind::Refuse, reason_bytes(&other.to_string())),
    };
    if told.is_ok() {
        stream.end_sending();
        stream.drain(PARTING);
    }
}
