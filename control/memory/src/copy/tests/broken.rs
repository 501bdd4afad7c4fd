//! Receivers that go away or lie.

use super::{
    doubles::{DialDouble, Double, Fault},
    *,
};
use crate::copy::message::{Kind, Plan, Verdict, encode, encode_versions, read_message};

/// Answers each message of a control stream with the next of these, and then closes it. Data streams join.
struct Liar(Mutex<Option<Vec<Vec<u8>>>>);

impl Dial for Liar {
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError> {
        let (near, mut far) = Double::pair(Fault::default());
        let answers = self.0.lock().expect("lock").take();
        thread::spawn(move || {
            let Some(answers) = answers else {
                // A data stream.
                read_message(&mut far, "test").expect("JOIN");
                far.send(&encode(Kind::Welcome, &[])).expect("send");
                far.drain(Duration::from_secs(20));
                return;
            };
            for answer in answers {
                if read_message(&mut far, "test").is_err() || far.send(&answer).is_err() {
                    return;
                }
            }
            // Without hearing this out, its end would be a reset.
            far.end_sending();
            far.drain(Duration::from_secs(20));
        });
        Ok(Box::new(near))
    }

    fn is_encrypted(&self) -> bool {
        false
    }
}

#[test]
fn a_receiver_that_goes_away_or_lies_is_an_error() {
    let dir = tempfile::tempdir().expect("dir");
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &[1; 5000])];
    let digest = crate::PageHashes::of(memory(&sources[0])).expect("hash").digest();
    let welcome = || encode(Kind::Welcome, &[]);
    let plan = |path, offer: usize, sections| {
        let committed = vec![false; sections];
        encode(Kind::Plan, &Plan { path, offer: vec![7; offer], committed }.encode())
    };
    let verdict = |section, same, digest| {
        encode(Kind::Committed, &Verdict { section, same, digest }.encode())
    };
    let good = || vec![welcome(), plan(0, 16, 1)];
    let then = |more: Vec<Vec<u8>>| [good(), more].concat();
    let cases = [
        (vec![], "closed the connection"),
        (vec![vec![0; 8]], "message type 0"),
        (vec![encode(Kind::Pong, &[])], "Pong came while waiting to be admitted"),
        (
            vec![encode(Kind::Versions, &encode_versions(&[7, 9]))],
            "version 3 was asked for, 7, 9 is spoken",
        ),
        (vec![encode(Kind::Versions, &[0, 0, 0, 0])], "VERSIONS is malformed"),
        (vec![welcome()], "closed the connection"),
        (vec![welcome(), plan(1, 16, 1)], "PLAN is malformed"),
        (vec![welcome(), plan(0, 16, 2)], "PLAN is of 2 sections, there are 1"),
        (vec![welcome(), plan(0, 15, 1)], "a token of 15 bytes"),
        (good(), "closed the connection"),
        (then(vec![verdict(1, true, digest)]), "contradicts itself"),
        (then(vec![verdict(0, true, [0; 32])]), "contradicts itself"),
        (then(vec![verdict(0, false, digest)]), "contradicts itself"),
        (then(vec![verdict(0, true, digest)]), "closed the connection"),
        (then(vec![verdict(0, true, digest), encode(Kind::Confirm, &[1; 32])]), "another digest"),
        (then(vec![encode(Kind::Refuse, b"the disk is full")]), "refused: the disk is full"),
    ];
    for (answers, expected) in cases {
        let dial: Arc<dyn Dial> = Arc::new(Liar(Mutex::new(Some(answers))));
        let error = send_over(&dial, 1, "m1", sources.clone()).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{expected}` in `{error}`");
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_committed_stays() {
    if !rustix::process::geteuid().is_root() {
        panic!("this test mounts a small tmpfs and needs root; run it in the lab");
    }
    let dir = tempfile::tempdir().expect("dir");
    let small = dir.path().join("small");
    fs::create_dir(&small).expect("directory");
    let mount = |command: &str, arguments: &[&str]| {
        let status = std::process::Command::new(command).args(arguments).arg(&small).status();
        assert!(status.expect(command).success(), "{command}");
    };
    // Room for the first of two sections.
    mount("mount", &["-t", "tmpfs", "-o", "size=66m", "tmpfs"]);
    let host = Arc::new(Host::new(&small));
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &vec![3; 65 << 20])];
    let dial = DialDouble::to(&host, Fault::default());
    fs::write(small.join("ballast"), vec![1; 1 << 20]).expect("ballast");
    let error = send_over(&dial, 1, "m1", sources.clone()).expect_err("full").to_string();
    let place = small.display().to_string();
    assert!(error.contains("not enough room in") && error.contains(&place), "{error}");
    assert!(host.outcome().is_err());
    // Somebody makes room.
    fs::remove_file(small.join("ballast")).expect("ballast");
    let sent = send_over(&dial, 1, "m1", sources).expect("sent");
    assert!(sent.progress.sent_bytes < 2 << 20, "the first section was there: {sent:?}");
    assert_arrived(dir.path(), &host.shelf, 1);
    drop(host);
    mount("umount", &["-l"]);
}
