//! Memory that changes while it is copied.

use proptest::prelude::*;

use super::{
    doubles::{DialDouble, Fault},
    *,
};
use crate::copy::send::Stretch;

const PAGES: u64 = 40;
const PAGE: u64 = 4096;

#[derive(Clone, Debug)]
enum Step {
    /// Pages from this one on, all of this value.
    Write { page: u64, pages: u64, value: u8 },
    /// Send these pages as they are now.
    Pass { page: u64, pages: u64 },
    /// The connection goes; the copy begins again.
    Lost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stretch = (0..PAGES, 1..12_u64).prop_map(|(page, pages)| (page, pages.min(PAGES - page)));
    let step = prop_oneof![
        // Zeros often: they are elided only as long as nothing else was sent.
        4 => (stretch.clone(), 0..4_u8).prop_map(|((page, pages), value)| Step::Write { page, pages, value }),
        4 => stretch.prop_map(|(page, pages)| Step::Pass { page, pages }),
        1 => Just(Step::Lost),
    ];
    prop::collection::vec(step, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_written_and_sent_the_last_image_arrives(steps in steps(), lanes in 1..4_usize) {
        let dir = tempfile::tempdir().expect("dir");
        let host = Arc::new(Host::new(dir.path()));
        let dial = DialDouble::to(&host, Fault::default());
        // The last page is a short one.
        let bytes = vec![0; (PAGES * PAGE) as usize - 100];
        let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &bytes)];
        let memory = sources[0].memory.clone().expect("memory");
        let range = |page: u64, pages: u64| page * PAGE..((page + pages) * PAGE).min(memory.size_bytes());
        let begin = || begin(&dial, lanes, Compression::Off, "m1", sources.clone()).expect("begin");
        let mut sending = begin();
        for step in steps {
            match step {
                Step::Write { page, pages, value } => {
                    let range = range(page, pages);
                    let bytes = vec![value; (range.end - range.start) as usize];
                    memory.write(range.start, &bytes).expect("write");
                }
                Step::Pass { page, pages } => {
                    let stretch = Stretch { object: 0, range: range(page, pages) };
                    sending.pass(&[stretch], &mut |_| {}).expect("pass");
                }
                Step::Lost => {
                    drop(sending);
                    host.outcome().expect_err("lost");
                    sending = begin();
                }
            }
        }
        let sent = sending.finish(&mut |_| {}).expect("sent");
        prop_assert_eq!(host.outcome().expect("received").digest, sent.digest);
        assert_arrived(dir.path(), &host.shelf, 1);
    }
}

#[test]
fn a_pass_after_a_commit_begins_its_section_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial = DialDouble::to(&host, Fault::default());
    let sources = sources(dir.path());
    send_over(&dial, 2, "m1", sources.clone()).expect("sent");
    memory(&sources[0]).write(5000, &[0; 10]).expect("write");
    let mut sending = begin(&dial, 2, Compression::Off, "m1", sources.clone()).expect("begin");
    let all = SECTION_BYTES + (3 << 20) + 5001 + 8192;
    assert_eq!(sending.resumed_bytes(), all);
    let stretch = Stretch { object: 0, range: 4096..8192 };
    sending.pass(&[stretch], &mut |_| {}).expect("pass");
    assert_eq!(sending.resumed_bytes(), all - SECTION_BYTES);
    sending.finish(&mut |_| {}).expect("sent");
    assert_arrived(dir.path(), &host.shelf, 3);
    // Captured anew without a pass: the digest tells.
    memory(&sources[1]).write(100, b"another").expect("write");
    let sent = send_over(&dial, 2, "m1", sources).expect("sent");
    assert!(sent.progress.sent_bytes < 3 * 4096, "{sent:?}");
    assert_arrived(dir.path(), &host.shelf, 3);
}

#[test]
fn stretches_must_be_whole_pages() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial = DialDouble::to(&host, Fault::default());
    let sources = sources(dir.path());
    let mut sending = begin(&dial, 1, Compression::Off, "m1", sources).expect("begin");
    for (object, range) in [(0, 1..4096), (0, 0..100), (1, 0..5002), (3, 0..4096)] {
        let stretch = Stretch { object, range };
        assert!(sending.pass(std::slice::from_ref(&stretch), &mut |_| {}).is_err(), "{stretch:?}");
    }
}
