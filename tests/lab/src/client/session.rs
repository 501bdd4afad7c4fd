//! One session: a thread that sends requests and checks every answer.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, OnceLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tidegate_guest_service::protocol::{Answer, Line};

use super::{Record, Records, locked, unix_us};

/// Longer than any pause of a migration; what takes longer is lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// How soon a silent session notices that it is to be closed.
const CLOSE_CHECK: Duration = Duration::from_millis(100);

/// What a session does.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) service: SocketAddr,
    /// Between requests.
    pub(super) interval: Duration,
    /// How many; none: until asked to close.
    pub(super) requests: Option<u64>,
}

/// A running session.
pub(super) struct Session {
    /// Set when it is to be closed: how many milliseconds the service is to keep its side open.
    close: Arc<OnceLock<u16>>,
    thread: JoinHandle<()>,
}

impl Session {
    pub(super) fn start(number: u32, plan: Plan, records: &Records) -> io::Result<Self> {
        let record = Arc::new(Mutex::new(Record { session: number, ..Record::default() }));
        locked(records).push(Arc::clone(&record));
        let close = Arc::new(OnceLock::new());
        let closing = Arc::clone(&close);
        let builder = thread::Builder::new().stack_size(256 * 1024);
        let thread = builder.spawn(move || {
            if let Err(error) = talk(number, plan, &closing, &record) {
                let mut record = locked(&record);
                record.reset |= is_reset(error.kind());
                record.lost = record.sent - record.answered;
                record.error = Some(error.to_string());
            }
        })?;
        Ok(Self { close, thread })
    }

    pub(super) fn ask_to_close(&self, linger_ms: u16) {
        // Asked before: that holds.
        let _ = self.close.set(linger_ms);
    }

    pub(super) fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn join(self) {
        // A panic has left its record without an end, which shows.
        let _ = self.thread.join();
    }
}

fn is_reset(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof,
    };
    matches!(
        kind,
        ConnectionReset | ConnectionAborted | ConnectionRefused | BrokenPipe | UnexpectedEof
    )
}

fn talk(number: u32, plan: Plan, close: &OnceLock<u16>, record: &Mutex<Record>) -> io::Result<()> {
    locked(record).connecting_us = unix_us();
    let stream = TcpStream::connect_timeout(&plan.service, ANSWER_LIMIT)?;
    locked(record).connected_us = unix_us();
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    (&stream).write_all(format!("{}\n", Line::Hello { session: number }).as_bytes())?;
    let mut answers = BufReader::new(&stream);
    let mut next = Instant::now();
    for sequence in 0..plan.requests.unwrap_or(u64::MAX) {
        if close.get().is_some() {
            break;
        }
        locked(record).sent += 1;
        let sent = Instant::now();
        let request = Line::Request { session: number, sequence };
        (&stream).write_all(format!("{request}\n").as_bytes())?;
        answer(&mut answers, number, sequence, record)?;
        let took_us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut record = locked(record);
        record.slowest_us = record.slowest_us.max(took_us);
        drop(record);
        // After a pause, go on from now instead of catching up in a burst.
        next = (next + plan.interval).max(Instant::now());
        while close.get().is_none() && Instant::now() < next {
            thread::sleep(next.saturating_duration_since(Instant::now()).min(CLOSE_CHECK));
        }
    }
    if let Some(ms) = close.get().copied().filter(|ms| *ms != 0) {
        (&stream).write_all(format!("{}\n", Line::Linger { ms }).as_bytes())?;
    }
    locked(record).closing_us = unix_us();
    stream.shutdown(Shutdown::Write)?;
    let mut more = Vec::new();
    answers.read_to_end(&mut more)?;
    let mut record = locked(record);
    record.closed_us = unix_us();
    record.doubled += more.iter().filter(|byte| **byte == b'\n').count() as u64;
    Ok(())
}

/// Read the answer to `sequence`; answers to earlier requests are noted as doubled.
fn answer(
    answers: &mut impl io::BufRead,
    number: u32,
    sequence: u64,
    record: &Mutex<Record>,
) -> io::Result<()> {
    loop {
        let mut text = String::new();
        if answers.read_line(&mut text)? == 0 {
            let message = "the service ended the session";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let text = text.trim_end_matches('\n');
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("answered `{text}`"));
        let answer: Answer = text.parse().map_err(|_| wrong())?;
        if answer.session != number || answer.sequence > sequence {
            return Err(wrong());
        }
        let mut record = locked(record);
        *record.identities.entry(answer.identity).or_default() += 1;
        if answer.sequence == sequence {
            record.answered += 1;
            return Ok(());
        }
        record.doubled += 1;
    }
}
