//! The load generator: runs in the clients' namespace, is told what to do line by line on its input, and answers
//! each line with one line (JSON both ways).

mod record;
mod session;

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use record::{Record, unix_us};
use session::{Plan, Session};

/// What the generator is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Open `count` sessions, numbered from `first`, each sending a request every `interval_ms` until closed.
    Open {
        /// Number of the first.
        first: u32,
        /// How many.
        count: u32,
        /// Between requests.
        interval_ms: u64,
    },
    /// Close these, and wait until they are.
    Close {
        /// Their numbers.
        sessions: Vec<u32>,
    },
    /// Close our side of this one, have the service keep its side open for `linger_ms`, and wait until it has
    /// closed that too.
    HalfClose {
        /// Its number.
        session: u32,
        /// How long.
        linger_ms: u16,
    },
    /// Keep opening sessions of a few requests, numbered from `first`, one every `every_ms`.
    StartNew {
        /// Number of the first.
        first: u32,
        /// Between sessions.
        every_ms: u64,
        /// Requests of each.
        requests: u64,
        /// Between requests.
        interval_ms: u64,
    },
    /// Stop opening them, and wait until all are closed.
    StopNew,
    /// Say how it stands.
    Report,
}

/// How it stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Every session so far.
    pub records: Vec<Record>,
    /// TCP segments the clients' system sent again.
    pub retransmitted: u64,
}

type Records = Arc<Mutex<Vec<Arc<Mutex<Record>>>>>;

/// Serve orders from standard input until it ends.
///
/// # Errors
/// When an order cannot be read or answered.
pub fn serve(service: SocketAddr) -> anyhow::Result<()> {
    let mut generator =
        Generator { service, records: Records::default(), held: Vec::new(), new: None };
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("an order")?;
        generator.obey(order)?;
        let report = generator.report()?;
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &report)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

struct Generator {
    service: SocketAddr,
    records: Records,
    held: Vec<(u32, Session)>,
    new: Option<NewSessions>,
}

struct NewSessions {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Generator {
    fn obey(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Open { first, count, interval_ms } => {
                for number in first..first + count {
                    let interval = Duration::from_millis(interval_ms);
                    let plan = Plan { service: self.service, interval, requests: None };
                    let session = Session::start(number, plan, &self.records)?;
                    self.held.push((number, session));
                }
            }
            Order::Close { sessions } => self.close(&sessions, 0),
            Order::HalfClose { session, linger_ms } => self.close(&[session], linger_ms),
            Order::StartNew { first, every_ms, requests, interval_ms } => {
                let interval = Duration::from_millis(interval_ms);
                let plan = Plan { service: self.service, interval, requests: Some(requests) };
                self.new = Some(NewSessions::start(
                    first,
                    Duration::from_millis(every_ms),
                    plan,
                    Arc::clone(&self.records),
                )?);
            }
            Order::StopNew => {
                if let Some(new) = self.new.take() {
                    new.stop.store(true, Ordering::Relaxed);
                    new.thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("opening sessions panicked"))??;
                }
            }
            Order::Report => {}
        }
        Ok(())
    }

    fn close(&mut self, sessions: &[u32], linger_ms: u16) {
        let (closing, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(number, _)| sessions.contains(number));
        self.held = held;
        closing.iter().for_each(|(_, session)| session.ask_to_close(linger_ms));
        closing.into_iter().for_each(|(_, session)| session.join());
    }

    fn report(&self) -> anyhow::Result<Report> {
        let records = locked(&self.records).iter().map(|record| locked(record).clone()).collect();
        Ok(Report { records, retransmitted: retransmitted()? })
    }
}

impl NewSessions {
    fn start(first: u32, every: Duration, plan: Plan, records: Records) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::Builder::new().spawn(move || {
            let mut running: Vec<Session> = Vec::new();
            for number in first.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                running.push(Session::start(number, plan, &records)?);
                let (ended, still): (Vec<_>, Vec<_>) =
                    running.into_iter().partition(Session::ended);
                ended.into_iter().for_each(Session::join);
                running = still;
                thread::sleep(every);
            }
            running.into_iter().for_each(Session::join);
            Ok(())
        })?;
        Ok(Self { stop, thread })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `RetransSegs` of this network namespace.
fn retransmitted() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().unwrap_or(""), rows.next().unwrap_or(""));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").context("no RetransSegs")?;
    Ok(value.parse()?)
}
