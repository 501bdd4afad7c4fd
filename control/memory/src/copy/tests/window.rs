//! Memory that comes in page by page and leaves at once, beside a plain copy of it.

use std::{os::unix::fs::MetadataExt as _, sync::atomic::AtomicUsize};

use proptest::prelude::*;

use super::{
    doubles::{DialDouble, Fault},
    whole::listen,
    *,
};
use crate::{PageHashes, copy::Window, transport::DialPlain};

const PAGE: usize = 4096;
const PAGES: usize = 24;

/// The object of a window: no bytes, no hashes.
fn ram(size_bytes: u64) -> Source {
    let object = Object { kind: ObjectKind::Ram, size_bytes };
    Source { object, memory: None, hashes: None }
}

fn window(dir: &Path, pages: usize, limit_pages: usize) -> Window {
    let (size_bytes, limit_bytes) = ((pages * PAGE) as u64, (limit_pages * PAGE) as u64);
    Window::with_limit(dir, size_bytes, limit_bytes).expect("window")
}

/// Blocks of both files.
fn blocks(dir: &Path) -> u64 {
    let file = |name| fs::metadata(dir.join(name)).expect("file").blocks();
    file("window-0") + file("window-1")
}

/// Pages, each all of one value.
fn puts() -> impl Strategy<Value = Vec<(usize, u8)>> {
    // Zeros often, and few pages: most come again while they leave.
    prop::collection::vec((0..PAGES, 0..5_u8), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_put_last_arrives_and_nothing_stays(
        puts in puts(),
        lanes in 1..4_usize,
        limit_pages in 2..8_usize,
        lifted_at in 0..500_usize,
        again in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("dir");
        let host = Arc::new(Host::new(dir.path()));
        // Over a socket: the kernel sends pages as they are when they leave, not when they were put.
        let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
        let size_bytes = (PAGES * PAGE) as u64;
        if again {
            // An attempt before was committed, of other memory.
            let other = source(dir.path(), 0, ObjectKind::Ram, &[9; PAGES * PAGE]);
            send_over(&dial, lanes, "m1", vec![other]).expect("sent");
            host.outcome().expect("received");
        }
        let window = window(dir.path(), PAGES, limit_pages);
        let mut sending = begin(&dial, lanes, Compression::Off, "m1", vec![ram(size_bytes)]).expect("begin");
        let mut model = vec![0; PAGES * PAGE];
        let sent = thread::scope(|scope| {
            let forwarding = scope.spawn(|| {
                window.forward(&mut sending, 0, &mut |_| {}).expect("brought over");
                sending.finish(&mut |_| {}).expect("finished")
            });
            for (at, (page, value)) in puts.into_iter().enumerate() {
                if at == lifted_at {
                    window.lift();
                }
                model[page * PAGE..][..PAGE].fill(value);
                window.put((page * PAGE) as u64, &[value; PAGE]).expect("put");
                if at < lifted_at {
                    assert!(window.most_bytes() <= (limit_pages * PAGE) as u64);
                }
            }
            window.close();
            forwarding.join().expect("no panic")
        });
        prop_assert_eq!(host.outcome().expect("received").digest, sent.digest);
        prop_assert!(fs::read(host.shelf.path(0)).expect("received") == model);
        prop_assert_eq!(blocks(dir.path()), 0);
        fs::write(dir.path().join("model"), &model).expect("model");
        let model = Mapping::open(&dir.path().join("model")).expect("model");
        prop_assert_eq!(&*sent.hashes[0], &PageHashes::of(&model).expect("hashes"));
    }
}

#[test]
fn the_rest_follows_and_only_the_rest_is_sent() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial = DialDouble::to(&host, Fault::default());
    let window = window(dir.path(), PAGES, 4);
    let size_bytes = (PAGES * PAGE) as u64;
    let mut sending =
        begin(&dial, 2, Compression::Off, "m1", vec![ram(size_bytes)]).expect("begin");
    window.put(8192, &[7; PAGE]).expect("put");
    window.close();
    window.forward(&mut sending, 0, &mut |_| {}).expect("brought over");
    let sent = sending.finish(&mut |_| {}).expect("finished");
    host.outcome().expect("received");
    let kept = Source { hashes: Some(sent.hashes[0].clone()), ..ram(size_bytes) };
    let devices = source(dir.path(), 1, ObjectKind::DeviceState, &[8; 100]);
    let whole = vec![kept, devices];
    for sent_bytes in [100 + 24, 0] {
        let sent = send_over(&dial, 2, "m1", whole.clone()).expect("sent");
        assert_eq!(sent.progress.sent_bytes, sent_bytes);
        assert_eq!(host.outcome().expect("received").objects.len(), 2);
        assert_eq!(fs::read(host.shelf.path(1)).expect("devices"), [8; 100]);
        assert_eq!(fs::read(host.shelf.path(0)).expect("ram")[8192..][..PAGE], [7; PAGE]);
    }
    fs::remove_file(host.shelf.ledger()).expect("ledger");
    let error = send_over(&dial, 2, "m1", whole).expect_err("lost");
    assert!(matches!(error, MemoryError::Gone { section: 0, .. }), "{error}");
}

#[test]
fn a_page_that_arrives_damaged_cannot_be_sent_again() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let fault = Fault { always_wrong: true, ..Fault::default() };
    let dial = DialDouble::to(&host, fault);
    let window = window(dir.path(), PAGES, 4);
    let ram = vec![ram((PAGES * PAGE) as u64)];
    let mut sending = begin(&dial, 1, Compression::Off, "m1", ram).expect("begin");
    window.put(0, &[7; PAGE]).expect("put");
    window.close();
    window.forward(&mut sending, 0, &mut |_| {}).expect("brought over");
    let error = sending.finish(&mut |_| {}).expect_err("damaged");
    assert!(matches!(error, MemoryError::Gone { section: 0, .. }), "{error}");
}

#[test]
fn who_waits_for_room_hears_of_a_connection_that_breaks() {
    for messages in [6, 9, 14] {
        let dir = tempfile::tempdir().expect("dir");
        let host = Arc::new(Host::new(dir.path()));
        let left = Arc::new(AtomicUsize::new(messages));
        let fault = Fault { messages_left: Some(left), ..Fault::default() };
        let dial = DialDouble::to(&host, fault);
        let window = window(dir.path(), PAGES, 4);
        let ram = vec![ram((PAGES * PAGE) as u64)];
        let mut sending = begin(&dial, 1, Compression::Off, "m1", ram).expect("begin");
        let error = thread::scope(|scope| {
            let forwarding = scope.spawn(|| window.forward(&mut sending, 0, &mut |_| {}));
            let refused = (1..).find_map(|put: usize| {
                let page = [put as u8 | 1; PAGE];
                window.put((put % PAGES * PAGE) as u64, &page).err()
            });
            assert!(matches!(refused, Some(MemoryError::Cancelled(_))), "{refused:?}");
            forwarding.join().expect("no panic").expect_err("broken")
        });
        assert!(matches!(error, MemoryError::Connection { .. }), "{messages}: {error}");
        assert!(host.outcome().is_err());
    }
}
