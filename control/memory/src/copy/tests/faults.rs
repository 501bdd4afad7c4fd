//! Connections that are cut or damaged, at each message in turn.

use std::sync::atomic::AtomicUsize;

use super::{
    doubles::{DialDouble, Fault},
    *,
};

/// Two sections that have bytes, and little else: so that a copy has few messages.
fn small(dir: &Path) -> Vec<Source> {
    let mut ram = vec![0; SECTION_BYTES as usize + 8192];
    ram[4096..3 * 4096].fill(1);
    ram[SECTION_BYTES as usize - 1] = 2;
    ram[SECTION_BYTES as usize + 5000] = 3;
    vec![source(dir, 0, ObjectKind::Ram, &ram), source(dir, 1, ObjectKind::DeviceState, &[8; 100])]
}

#[test]
fn a_connection_cut_at_any_message_is_an_error_and_the_copy_goes_on_later() {
    let dir = tempfile::tempdir().expect("dir");
    let sources = small(dir.path());
    let mut resumed_with_less = 0;
    for lanes in [1, 2] {
        for messages in 0.. {
            let host = Arc::new(Host::new(dir.path()));
            let _ = fs::remove_file(host.shelf.ledger());
            let left = Arc::new(AtomicUsize::new(messages));
            let fault = Fault { messages_left: Some(left), ..Fault::default() };
            let first = send_over(&DialDouble::to(&host, fault), lanes, "m1", sources.clone());
            let through = first.is_ok();
            if let Err(error) = first {
                assert!(matches!(error, MemoryError::Connection { .. }), "{messages}: {error}");
                // Whatever was written down is there, and only that counts.
                if messages > 0 && host.outcome().is_ok() {
                    assert_arrived(dir.path(), &host.shelf, 2);
                }
            }
            let taken = host.shelf.taken.lock().expect("lock").len();
            assert_eq!(taken, usize::from(through), "cut at {messages}");
            let again = DialDouble::to(&host, Fault::default());
            let sent = send_over(&again, lanes, "m1", sources.clone()).expect("goes on");
            assert_arrived(dir.path(), &host.shelf, 2);
            assert_eq!(host.shelf.taken.lock().expect("lock").len(), taken + 1);
            resumed_with_less += usize::from(sent.progress.sent_bytes < 4 * 4096 + 100);
            if through {
                assert_eq!(sent.progress.sent_bytes, 0);
                break;
            }
        }
    }
    assert!(resumed_with_less > 4, "what was committed is not sent again: {resumed_with_less}");
}

#[test]
fn a_damaged_byte_is_found_and_only_its_section_is_sent_again() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let sources = sources(dir.path());
    let whole = send_over(&DialDouble::to(&host, Fault::default()), 2, "m1", sources.clone());
    let whole = whole.expect("sent").progress.sent_bytes;
    fs::remove_file(host.shelf.ledger()).expect("ledger");
    let right = Arc::new(Mutex::new(Some(500_000)));
    let fault = Fault { right_bytes: Some(right.clone()), ..Fault::default() };
    let sent = send_over(&DialDouble::to(&host, fault), 1, "m1", sources).expect("sent");
    assert_eq!(*right.lock().expect("lock"), None, "a byte was damaged");
    assert_arrived(dir.path(), &host.shelf, 3);
    let again = sent.progress.sent_bytes - whole;
    // The first section has a page, and 1 MiB with the pages at its ends.
    let section = 4096 + (1 << 20) + 2 * 4096;
    assert!(again >= section - 4096 && again < section + 4096, "{again} bytes were sent again");
}

#[test]
fn a_way_that_always_damages_is_given_up_and_named() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let fault = Fault { always_wrong: true, ..Fault::default() };
    let error = send_over(&DialDouble::to(&host, fault), 1, "m1", small(dir.path()));
    let error = error.expect_err("damaged");
    assert!(matches!(error, MemoryError::Section { section: 0, attempts: 3, .. }), "{error}");
    assert!(error.to_string().contains("67108864 bytes at 0 of the ram"), "{error}");
    assert!(host.shelf.taken.lock().expect("lock").is_empty());
}

#[test]
fn refusals_reach_the_sender() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial = DialDouble::to(&host, Fault::default());
    let error = send_over(&dial, 1, "m2", small(dir.path())).expect_err("refused").to_string();
    assert_eq!(error, "the other host refused: `m2` was not prepared");
    let large = dir.path().join("large");
    let size_bytes = (1 << 30) + 4096;
    let memory = Arc::new(Mapping::create(&large, size_bytes).expect("file"));
    let object = Object { kind: ObjectKind::Ram, size_bytes };
    let large = vec![Source { object, memory: Some(memory), hashes: None }];
    let error = send_over(&dial, 1, "m1", large).expect_err("refused").to_string();
    assert_eq!(error, "the other host refused: too large");
}
