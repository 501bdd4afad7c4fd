//! The source is paused when its memory has come to rest, and not before.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tidegate_api::{host::GuestState, manager::Phase};
use tidegate_guest_service::SESSIONS;
use tidegate_lab::{
    Mode, Rig,
    client::{Order, Report},
    clients::Clients,
    migration::Migrating,
    monitor::Monitor,
    process::wait_until,
    region, report,
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};
use tidegate_region::HEADER_BYTES;

const LIMIT: Duration = Duration::from_secs(60);
const OPEN: u32 = 5;
const SETTLE_MS: u64 = 400;
/// A session that there is not: its counter is the test's.
const NONE: usize = SESSIONS as usize - 1;

/// Something of the source that works on although no session is left: it counts in the region.
struct Worker {
    stop: Arc<AtomicBool>,
    counting: JoinHandle<u64>,
}

impl Worker {
    fn start(region: &Path) -> Self {
        let file = OpenOptions::new().write(true).open(region).expect("the region");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let counting = thread::spawn(move || {
            let at = (HEADER_BYTES + NONE * 8) as u64;
            let mut count = 0_u64;
            while !stopping.load(Ordering::Relaxed) {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), at).expect("written");
                thread::sleep(Duration::from_millis(SETTLE_MS / 8));
            }
            count
        });
        Self { stop, counting }
    }

    /// Have it rest; what it has counted.
    fn rest(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.counting.join().expect("no panic")
    }
}

/// A migration that drains, of a source of which a worker works on.
struct Working {
    rig: Rig,
    clients: Clients,
    migrating: Migrating,
    worker: Worker,
    monitor: Monitor,
    /// How often the source was paused for T0.
    stops: usize,
}

fn working(more: &[&str]) -> Working {
    let rig = Rig::start(&Options::new(Mode::L2)).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    clients.order(&Order::Open { first: 0, count: OPEN, interval_ms: 20 }).expect("opened");
    wait_until("all sessions are answered", LIMIT, || {
        let records = clients.report()?.records;
        Ok((records.iter().filter(|it| it.answered > 3).count() == OPEN as usize).then_some(()))
    })
    .expect("answered");
    let monitor = Monitor::connect(&rig.cloud.monitor_socket(SOURCE)).expect("a monitor");
    let settle_ms = SETTLE_MS.to_string();
    let order = [&["--quiesce", "settle", "--settle-ms", &settle_ms], more].concat();
    let migrating = Migrating::start_with(&rig, &order).expect("started");
    migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(())).expect("drains");
    let source = rig.api.guest(SOURCE).expect("answer").expect("the source");
    let worker = Worker::start(source.regions[0].path.as_ref());
    let stops = monitor.stops();
    Working { rig, clients, migrating, worker, monitor, stops }
}

fn close(clients: &mut Clients) -> Report {
    clients.order(&Order::Close { sessions: (0..OPEN).collect() }).expect("closed")
}

#[test]
fn a_source_is_paused_when_its_region_has_come_to_rest() {
    let Working { rig, mut clients, migrating, worker, monitor, stops } =
        working(&["--settle-deadline-s", "40"]);
    let closed = close(&mut clients);
    migrating.reach(&rig, Phase::Settle, LIMIT, |_| Ok(())).expect("is watched");
    thread::sleep(Duration::from_millis(5 * SETTLE_MS));
    assert_eq!(migrating.now(&rig).expect("running").phase(), Phase::Settle, "it works on");
    let source = rig.api.guest(SOURCE).expect("answer").expect("the source");
    assert_eq!((source.state(), monitor.stops()), (GuestState::Running, stops));
    let worked = worker.rest();
    let completed = migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    let settled = completed.phases.iter().find(|phase| phase.name == "settle").expect("it was one");
    assert!(settled.ms >= 5.0 * SETTLE_MS as f64, "{settled:?}");

    // What it did until it was paused is at the destination, and so are all requests.
    let guest = rig.api.guest(DESTINATION).expect("answer").expect("the destination");
    let mut counted = region::counted(guest.regions[0].path.as_ref()).expect("counted");
    assert_eq!(std::mem::take(&mut counted[NONE]), worked);
    let differences = report::differences(&closed, &counted);
    assert!(differences.is_empty(), "session, sent, counted: {differences:?}");
    drop(clients);
    rig.stop().expect("everything ends well");
}

#[test]
fn a_source_that_works_on_until_the_deadline_keeps_everything() {
    let Working { rig, mut clients, migrating, worker, monitor, stops } =
        working(&["--settle-deadline-s", "2"]);
    close(&mut clients);
    let reason = migrating.aborted(&rig, LIMIT).expect("aborted");
    assert!(reason.contains("settle failed"), "{reason}");
    assert_eq!(monitor.stops(), stops, "it was not paused again");
    worker.rest();
    assert!(rig.api.guest(DESTINATION).expect("answer").is_none(), "it is deleted");
    let address = rig.api.address(MANAGED).expect("answer");
    assert_eq!(address.home.expect("home").name, SOURCE);
    rig.answered_by(&mut clients, SOURCE, 500).expect("the source serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}
