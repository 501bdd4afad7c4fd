//! Images over a control stream: whole, cut at each message, damaged, capped, given up, refused.

use std::sync::atomic::AtomicUsize;

use super::{
    doubles::{DialDouble, Fault},
    *,
};
use crate::{
    ahead::{Ahead, Going},
    copy::image::Outgoing,
    kept::Kept,
    scan::Compared,
    twin,
};

const SIZE: u64 = (5 << 20) + 8192;

/// A source, its twin, and a host whose memory is as the twin.
struct Rig {
    dir: tempfile::TempDir,
    now: Mapping,
    host: Arc<Host>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let host = Arc::new(Host::new(dir.path()));
        let make = |path: &Path| Mapping::create(path, SIZE).expect("created");
        let now = make(&dir.path().join("now"));
        make(&twin::path_of(dir.path(), &ObjectKind::Ram));
        make(&host.shelf.path(0));
        for at in [0, (1 << 20) + 5, SIZE - 100] {
            now.write(at, b"the source's").expect("written");
        }
        now.write(2 << 20, &[7; 2 << 20]).expect("written");
        Self { dir, now, host }
    }

    /// As a host does it.
    fn send(&self, fault: Fault, last: bool, controls: &Arc<Controls>) -> Result<u64, MemoryError> {
        let dial = DialDouble::to(&self.host, fault);
        let (dir, kind) = (self.dir.path(), ObjectKind::Ram);
        let going = if last { Going::Last } else { Going::Ahead };
        let kept = Kept::open(dir, &kind)?;
        let ahead = [Ahead::open(dir, &kind, SIZE, going)?];
        let mut outgoing = Outgoing::begin(&*dial, "m1", last, controls.clone())?;
        let object = Object { kind: kind.clone(), size_bytes: SIZE };
        let compared = Compared { object, twin: kept.twin(), now: &self.now };
        outgoing.memory(&[compared], &ahead)?;
        let sent_bytes = outgoing.finish(if last { b"devices" } else { b"" })?;
        if !last {
            let [ahead] = ahead;
            ahead.confirmed(dir, &kind, kept)?;
        }
        Ok(sent_bytes)
    }

    fn is_there(&self) -> bool {
        let there = Mapping::open(&self.host.shelf.path(0)).expect("mapped");
        !self.now.differs(0, SIZE, &there).expect("compared")
    }

    fn became(&self) -> Vec<bool> {
        self.host.shelf.became.lock().expect("lock").clone()
    }
}

fn free() -> Arc<Controls> {
    Arc::new(Controls::new(None))
}

#[test]
fn what_changed_is_in_the_receivers_memory() {
    let rig = Rig::new();
    let ahead = rig.send(Fault::default(), false, &free()).expect("sent");
    assert!(rig.is_there());
    assert!((2 << 20..(2 << 20) + 1000).contains(&ahead), "{ahead}");
    assert!(!rig.host.shelf.path(9).exists());
    rig.now.write(12_288, b"later").expect("written");
    let last = rig.send(Fault::default(), true, &free()).expect("sent");
    assert!(rig.is_there() && last < 1000, "{last}");
    assert_eq!(fs::read(rig.host.shelf.path(9)).expect("there"), b"devices");
    assert_eq!(rig.became(), [false, true]);
}

#[test]
fn one_that_is_cut_anywhere_has_not_arrived_and_is_sent_anew() {
    for messages in 0.. {
        let rig = Rig::new();
        let left = Arc::new(AtomicUsize::new(messages));
        let fault = Fault { messages_left: Some(left), ..Fault::default() };
        // A cap cuts what is sent into small pieces.
        match rig.send(fault, true, &Arc::new(Controls::new(Some(1 << 40)))) {
            Ok(_) => {
                assert!(messages > 30, "cut at {messages}");
                break;
            }
            Err(error) => {
                assert!(matches!(error, MemoryError::Connection { .. }), "{messages}: {error}");
                assert!(rig.became().is_empty(), "cut at {messages}");
            }
        }
        rig.send(Fault::default(), true, &free()).expect("sent anew");
        assert!(rig.is_there(), "cut at {messages}");
        assert_eq!(rig.became(), [true]);
    }
}

#[test]
fn what_goes_ahead_may_be_cut_anywhere_and_what_it_changed_is_undone() {
    for messages in 0.. {
        let rig = Rig::new();
        let left = Arc::new(AtomicUsize::new(messages));
        let fault = Fault { messages_left: Some(left), ..Fault::default() };
        let went = rig.send(fault, false, &Arc::new(Controls::new(Some(1 << 40))));
        // The source is as it was at T0 again, and the twin may say that it was otherwise.
        rig.now.write(2 << 20, &[0; 2 << 20]).expect("written");
        rig.now.write(0, &[0; 12]).expect("written");
        rig.send(Fault::default(), true, &free()).expect("sent");
        assert!(rig.is_there(), "cut at {messages}");
        if went.is_ok() {
            assert!(messages > 30, "cut at {messages}");
            break;
        }
    }
}

#[test]
fn its_bandwidth_is_capped_and_it_can_be_given_up() {
    let rig = Rig::new();
    let slow = Arc::new(Controls::new(Some(4 << 20)));
    let began = std::time::Instant::now();
    rig.send(Fault::default(), true, &slow).expect("sent");
    assert!(began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
    slow.set_cap(Some(1));
    let giving_up = slow.clone();
    let waiting = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        giving_up.cancel("enough");
    });
    let error = rig.send(Fault::default(), true, &slow).expect_err("given up");
    assert!(matches!(error, MemoryError::Cancelled(_)), "{error}");
    waiting.join().expect("no panic");
}

#[test]
fn the_receivers_reason_is_heard() {
    let rig = Rig::new();
    fs::remove_file(rig.host.shelf.path(0)).expect("removed");
    let error = rig.send(Fault::default(), true, &free()).expect_err("refused").to_string();
    assert_eq!(error, "the other host refused: nothing of `m1` becomes an image here");
    // Memory of another size.
    Mapping::create(&rig.host.shelf.path(0), 4096).expect("created");
    let error = rig.send(Fault::default(), true, &free()).expect_err("refused").to_string();
    assert!(error.contains("5251072 bytes at the source, 4096 here"), "{error}");
    // What goes ahead has no devices.
    let rig = Rig::new();
    let dial = DialDouble::to(&rig.host, Fault::default());
    let mut outgoing = Outgoing::begin(&*dial, "m1", false, free()).expect("begun");
    let object = Object { kind: ObjectKind::Ram, size_bytes: SIZE };
    let kept = Kept::open(rig.dir.path(), &ObjectKind::Ram).expect("kept");
    let compared = Compared { object, twin: kept.twin(), now: &rig.now };
    outgoing.memory(&[compared], &[]).expect("sent");
    let error = outgoing.finish(b"devices").expect_err("refused").to_string();
    assert!(error.contains("a device state of 7 bytes"), "{error}");
    assert!(rig.became().is_empty());
}
