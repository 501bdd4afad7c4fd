//! Peers that say what they may not.

use super::{
    doubles::{Double, Fault},
    *,
};
use crate::{
    copy::{
        VERSION,
        message::{
            Commitment, Join, Kind, Plan, chunk_head, encode, encode_barrier, encode_hello,
            encode_layout, parse_versions, read_message,
        },
    },
    page_hashes::{PageHashes, hash_page},
    transport::Piece,
};

/// One region of two pages, of which the second begins with 100 fives.
struct Script {
    hello: Vec<u8>,
    layout: Vec<u8>,
    chunk: Vec<u8>,
    section: Vec<u8>,
    commit: Vec<u8>,
}

fn objects() -> Vec<Object> {
    vec![Object { kind: ObjectKind::Region("r".into()), size_bytes: 8192 }]
}

fn script() -> Script {
    let mut bytes = vec![0; 4096];
    bytes[..100].fill(5);
    let mut hashes = PageHashes::zeros(8192);
    hashes.hashes_mut()[1] = hash_page(&bytes);
    let digest = hashes.digest();
    let section = Commitment { section: 0, lane: 0, mark: 1, digest };
    let piece = Piece { object: 0, offset: 4096, len_bytes: 4096 };
    let whole = crate::copy::send::digest_of_copy(&objects(), &[digest]);
    Script {
        hello: encode(Kind::Hello, &encode_hello("m1")),
        layout: encode(Kind::Layout, &encode_layout(&objects(), &["tcp".to_owned()])),
        chunk: [chunk_head(piece), bytes].concat(),
        section: encode(Kind::Section, &section.encode()),
        commit: encode(Kind::Commit, whole.as_bytes()),
    }
}

/// Say a script's messages to a fresh receiver, as far as it goes along; how it ended, and what it said last.
fn say(host: &Host, script: &Script) -> (Outcome, Kind, String) {
    let _ = fs::remove_file(host.shelf.ledger());
    let (mut control, far) = Double::pair(Fault::default());
    host.serve(Box::new(far));
    // A receiver that has refused hears nothing more, and then neither do we.
    let _ = control.send(&script.hello);
    let mut last = (Kind::Welcome, Vec::new());
    let mut hear = |control: &mut Double| match read_message(control, "test") {
        Ok(said) => {
            last = said;
            !matches!(last.0, Kind::Refuse | Kind::Versions)
        }
        Err(_) => false,
    };
    let mut data = None;
    if hear(&mut control) {
        let _ = control.send(&script.layout);
        if let Ok((Kind::Plan, plan)) = read_message(&mut control, "test") {
            let plan = Plan::parse(&plan, 1, 1).expect("plan");
            let (mut near, far) = Double::pair(Fault::default());
            host.serve(Box::new(far));
            let join = Join { lane: 0, token: plan.offer.try_into().expect("token") };
            near.send(&encode(Kind::Join, &join.encode())).expect("joins");
            read_message(&mut near, "test").expect("welcome");
            let _ = near.send(&script.chunk);
            data = Some(near);
            let _ = control.send(&script.section);
            if hear(&mut control) {
                let _ = control.send(&script.commit);
                hear(&mut control);
            }
        } else {
            // The refusal was taken for the plan.
            last = (Kind::Refuse, Vec::new());
        }
    }
    control.end_sending();
    drop(control);
    let outcome = host.outcome();
    drop(data);
    (outcome, last.0, String::from_utf8_lossy(&last.1).into_owned())
}

#[test]
fn hostile_messages_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Host::new(dir.path());
    let (good, last, _) = say(&host, &script());
    assert!(good.is_ok() && last == Kind::Confirm, "{good:?}");
    assert_eq!(fs::read(host.shelf.path(0)).expect("file")[4096..4196], [5; 100]);

    type Part = fn(&mut Script) -> &mut Vec<u8>;
    let (hello, layout, chunk): (Part, Part, Part) =
        (|s| &mut s.hello, |s| &mut s.layout, |s| &mut s.chunk);
    let (section, commit): (Part, Part) = (|s| &mut s.section, |s| &mut s.commit);
    // Message, offset in it, bytes to put there, part of the reason.
    let cases: &[(Part, usize, &[u8], &str)] = &[
        (hello, 0, &[0], "message type 0 is unknown"),
        (hello, 0, &[21], "message type 21 is unknown"),
        (hello, 0, &[255; 4], "message type 4294967295 is unknown"),
        (hello, 0, &[13], "Ping of 14 bytes; 0 to 0 are allowed"),
        (hello, 0, &[5], "Layout came while waiting for HELLO"),
        (hello, 4, &[255; 4], "4294967295 bytes"),
        (hello, 8, b"X", "magic"),
        (hello, 18, &[3], "HELLO is malformed"),
        (hello, 20, b"x1", "not prepared"),
        (layout, 0, &[17], "Chunk came while waiting for LAYOUT"),
        (layout, 4, &[255, 255, 0, 0], "65535 bytes"),
        (layout, 8, &[0; 4], "0 objects"),
        (layout, 8, &[255; 4], "4294967295 objects"),
        (layout, 12, &[9], "kind 9"),
        (layout, 15, b"/", "not a region's name"),
        (layout, 16, &[0; 8], "of 0 bytes"),
        (layout, 16, &[255; 8], "18446744073709551615 bytes"),
        (layout, 24, &[0], "0 data paths"),
        (layout, 24, &[255; 4], "4294967295 data paths"),
        (layout, 28, &[255; 2], "LAYOUT is malformed"),
        (layout, 30, b"xyz", "no common data path: xyz asked for, tcp here"),
        (chunk, 0, &[9], "Section of 4112 bytes; 48 to 48"),
        (chunk, 4, &[16, 0, 0, 0], "16 bytes"),
        (chunk, 4, &[255; 4], "4294967295 bytes"),
        (chunk, 8, &[1], "4096 bytes at 4096 of object 1: there are 1 objects"),
        (chunk, 12, &[1], "reserved"),
        (chunk, 16, &(u64::MAX - 4095).to_le_bytes(), "4096 bytes at 18446744073709547520"),
        (chunk, 16, &[1], "they do not start at a page"),
        (chunk, 16, &8192_u64.to_le_bytes(), "it has 8192 bytes"),
        (chunk, 0, &[18], "PACKED is no LZ4 block"),
        (section, 8, &[1], "section 1 of 1"),
        (section, 0, &[5], "Layout came between sections"),
        (commit, 8, &[0, 0, 0], "what arrived is damaged"),
        (commit, 0, &[12], "Confirm came between sections"),
    ];
    for (part, offset, bytes, expected) in cases {
        let mut script = script();
        part(&mut script)[*offset..offset + bytes.len()].copy_from_slice(bytes);
        if *expected == "PACKED is no LZ4 block" {
            script.chunk[12..16].copy_from_slice(&4096_u32.to_le_bytes());
        }
        let (outcome, _, reason) = say(&host, &script);
        let error = outcome.expect_err(expected).to_string();
        assert!(error.contains(expected), "`{expected}` in `{error}`");
        if !reason.is_empty() {
            assert!(reason.contains(expected), "`{expected}` told, not `{reason}`");
        }
    }
    assert_eq!(host.shelf.taken.lock().expect("lock").len(), 1);
}

#[test]
fn a_section_that_differs_is_not_committed() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Host::new(dir.path());
    let mut script = script();
    script.section[24] ^= 1;
    let (outcome, ..) = say(&host, &script);
    let error = outcome.expect_err("differs").to_string();
    assert!(error.contains("COMMIT came before section 0 was committed"), "{error}");
    assert!(fs::read(host.shelf.path(0)).expect("file") == [0; 8192], "begun anew from zeros");
}

#[test]
fn another_version_is_told_which_there_are() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Host::new(dir.path());
    for version in [1_u16, 2, 0, u16::MAX] {
        let mut script = script();
        script.hello[16..18].copy_from_slice(&version.to_le_bytes());
        let (outcome, last, said) = say(&host, &script);
        assert!(matches!(outcome, Err(MemoryError::Version { found, .. }) if found == version));
        assert_eq!(last, Kind::Versions);
        assert_eq!(parse_versions(said.as_bytes()).expect("list"), [VERSION]);
    }
}

#[test]
fn a_stream_joins_a_copy_that_is_there_once() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Host::new(dir.path());
    let (mut control, far) = Double::pair(Fault::default());
    host.serve(Box::new(far));
    control.send(&script().hello).expect("send");
    read_message(&mut control, "test").expect("welcome");
    control.send(&script().layout).expect("send");
    let (_, plan) = read_message(&mut control, "test").expect("plan");
    let token: [u8; 16] = Plan::parse(&plan, 1, 1).expect("plan").offer.try_into().expect("token");
    let join = |lane, token: [u8; 16]| {
        let (mut near, far) = Double::pair(Fault::default());
        host.serve(Box::new(far));
        near.send(&encode(Kind::Join, &Join { lane, token }.encode())).expect("send");
        let (kind, body) = read_message(&mut near, "test").expect("answer");
        (kind, String::from_utf8_lossy(&body).into_owned(), near)
    };
    let (kind, reason, _stranger) = join(0, [0; 16]);
    assert_eq!((kind, &*reason), (Kind::Refuse, "no copy waits for this data stream"));
    let first = join(0, token);
    assert_eq!(first.0, Kind::Welcome);
    let (kind, reason, _second) = join(0, token);
    assert_eq!((kind, &*reason), (Kind::Refuse, "lane 0 cannot join this copy"));
    assert!(join(64, token).1.contains("JOIN is malformed"));
    // A barrier for a lane that broke off is not passed.
    drop(first);
    control.send(&encode(Kind::Barrier, &encode_barrier(&[1]))).expect("send");
    assert!(read_message(&mut control, "test").is_err(), "no answer, and no refusal");
    host.outcome().expect_err("the lane broke");
    let (kind, ..) = join(1, token);
    assert_eq!(kind, Kind::Refuse, "the copy is over");
}
