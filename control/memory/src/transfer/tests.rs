use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use super::*;
use crate::{
    Mapping,
    receive::{Landing, Received, receive},
    send::{Progress, Sent, send},
};

/// Takes one migration's objects into a directory.
struct Shelf {
    dir: PathBuf,
    taken: Mutex<Vec<Received>>,
}

impl Shelf {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), taken: Mutex::default() }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("received-{index}"))
    }
}

impl Landing for Shelf {
    fn admit(&self, migration: &str) -> Result<(), String> {
        if migration == "m1" { Ok(()) } else { Err(format!("`{migration}` was not prepared")) }
    }

    fn place(&self, _: &str, objects: &[Object]) -> Result<Vec<PathBuf>, String> {
        if objects.iter().any(|object| object.size_bytes > 64 << 20) {
            return Err("too large".to_owned());
        }
        Ok((0..objects.len()).map(|index| self.path(index)).collect())
    }

    fn arrived(&self, received: &Received) -> Result<(), String> {
        self.taken.lock().expect("lock").push(received.clone());
        Ok(())
    }
}

/// Run a receiver against whatever `peer` does.
fn against<T>(
    shelf: &Shelf,
    peer: impl FnOnce(TcpStream) -> T,
) -> (Result<Received, MemoryError>, T) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (stream, _) = listener.accept().expect("accept");
            receive(&stream, shelf)
        });
        let done = peer(TcpStream::connect(address).expect("connect"));
        (receiver.join().expect("receiver"), done)
    })
}

fn objects(dir: &Path) -> Vec<(Object, Mapping)> {
    let contents = [
        (ObjectKind::Ram, {
            let mut ram = vec![0; 3 << 20];
            ram[5000] = 1;
            ram[(1 << 20) - 1..(2 << 20) + 77].fill(9);
            ram
        }),
        (ObjectKind::DeviceState, vec![7; 5001]),
        (ObjectKind::Region("r".into()), vec![0; 8192]),
    ];
    let mut objects = Vec::new();
    for (index, (kind, bytes)) in contents.into_iter().enumerate() {
        let path = dir.join(format!("sent-{index}"));
        fs::write(&path, &bytes).expect("write");
        let object = Object { kind, size_bytes: bytes.len() as u64 };
        objects.push((object, Mapping::open(&path).expect("map")));
    }
    objects
}

fn send_all(stream: &TcpStream, migration: &str, dir: &Path) -> Result<Sent, MemoryError> {
    send(stream, migration, &objects(dir), &mut |_| {})
}

#[test]
fn objects_arrive_as_they_were_and_zeros_stay_at_home() {
    let dir = tempfile::tempdir().expect("dir");
    let shelf = Shelf::new(dir.path());
    // What an attempt that broke off left there must not show.
    fs::write(shelf.path(2), [3; 9000]).expect("leftover");
    let mut last = Progress::default();
    let (received, sent) = against(&shelf, |stream| {
        send(&stream, "m1", &objects(dir.path()), &mut |progress| last = progress)
    });
    let (received, sent) = (received.expect("received"), sent.expect("sent"));
    assert_eq!(received.digest, sent.digest);
    for index in 0..3 {
        let was = fs::read(dir.path().join(format!("sent-{index}"))).expect("sent");
        assert!(was == fs::read(shelf.path(index)).expect("received"), "object {index}");
    }
    assert_eq!(last, sent.progress);
    assert_eq!(sent.progress.covered_bytes, (3 << 20) + 5001 + 8192);
    // One page, 1 MiB with the pages at its ends, and two pages of device state.
    assert_eq!(sent.progress.sent_bytes, 4096 + (1 << 20) + 2 * 4096 + 5001);
    assert_eq!(shelf.taken.lock().expect("lock").len(), 1);
}

#[test]
fn refusals_reach_the_sender() {
    let dir = tempfile::tempdir().expect("dir");
    let shelf = Shelf::new(dir.path());
    let (received, sent) = against(&shelf, |stream| send_all(&stream, "m2", dir.path()));
    assert!(received.is_err());
    let error = sent.expect_err("refused").to_string();
    assert_eq!(error, "the other host refused: `m2` was not prepared");

    let path = dir.path().join("large");
    let large = Mapping::create(&path, 65 << 20).expect("file");
    let large = (Object { kind: ObjectKind::Ram, size_bytes: 65 << 20 }, large);
    let (_, sent) = against(&shelf, |stream| send(&stream, "m1", &[large], &mut |_| {}));
    assert_eq!(sent.expect_err("refused").to_string(), "the other host refused: too large");
    assert!(shelf.taken.lock().expect("lock").is_empty());
}

/// The bytes of a good transfer of one region of two pages, message by message.
fn script() -> Vec<Vec<u8>> {
    let message = |kind: Kind, body: &[u8]| {
        let mut out = Vec::new();
        write_message(&mut out, kind, body).expect("vector");
        out
    };
    let kind = ObjectKind::Region("r".into());
    let layout = encode_layout(&[Object { kind, size_bytes: 8192 }]);
    let mut chunk = chunk_head(0, 4096);
    chunk.extend([5; 100]);
    let mut digest = blake3::Hasher::new();
    digest.update(&layout).update(&chunk);
    vec![
        message(Kind::Hello, &encode_hello("m1")),
        message(Kind::Layout, &layout),
        message(Kind::Chunk, &chunk),
        message(Kind::End, digest.finalize().as_bytes()),
    ]
}

/// Say `bytes`, then close one's own side and hear the other out: its last refusal.
fn say(stream: &mut TcpStream, bytes: &[u8]) -> String {
    // The receiver may close before all is said.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let mut rest = &heard[..];
    let mut reason = String::new();
    while let Ok(head) = read_head(&mut rest, "test") {
        let body = read_body(&mut rest, head, "test").expect("body");
        if head.kind == Kind::Refuse {
            reason = String::from_utf8(body).expect("text");
        }
    }
    reason
}

#[test]
fn a_connection_cut_anywhere_is_an_error_and_nothing_arrived() {
    let dir = tempfile::tempdir().expect("dir");
    let shelf = Shelf::new(dir.path());
    let whole = script().concat();
    for cut in 0..whole.len() {
        let (received, _) = against(&shelf, |mut stream| say(&mut stream, &whole[..cut]));
        let error = received.expect_err("cut");
        assert!(matches!(error, MemoryError::Connection { .. }), "at {cut}: {error}");
    }
    assert!(shelf.taken.lock().expect("lock").is_empty());
    let (received, reason) = against(&shelf, |mut stream| say(&mut stream, &whole));
    assert_eq!((received.is_ok(), reason.as_str()), (true, ""));
}

#[test]
fn hostile_messages_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("dir");
    let shelf = Shelf::new(dir.path());
    // Message, offset in it, bytes to put there, part of the reason.
    let cases: &[(usize, usize, &[u8], &str)] = &[
        (0, 0, &[0], "message type 0 is unknown"),
        (0, 0, &[4], "Layout came while waiting for HELLO"),
        (0, 4, &[255; 4], "4294967295 bytes"),
        (0, 8, b"X", "magic"),
        (0, 16, &[2], "version 2"),
        (0, 18, &[3], "HELLO is malformed"),
        (0, 20, b"x1", "not prepared"),
        (1, 4, &[255, 255, 0, 0], "65535 bytes"),
        (1, 8, &[0; 4], "0 objects"),
        (1, 8, &[255; 4], "4294967295 objects"),
        (1, 8, &[2], "malformed"),
        (1, 12, &[9], "kind 9"),
        (1, 15, b"/", "not a region's name"),
        (1, 16, &[0; 8], "of 0 bytes"),
        (1, 16, &[255; 8], "18446744073709551615 bytes"),
        (2, 4, &[16, 0, 0, 0], "16 bytes"),
        (2, 4, &[255; 4], "4294967295 bytes"),
        (2, 8, &[1], "object 1 of 1"),
        (2, 12, &[1], "reserved"),
        (2, 16, &[255; 8], "18446744073709551615"),
        (2, 16, &8100_u64.to_le_bytes(), "100 bytes at 8100"),
        (2, 40, &[6], "damaged"),
        (3, 8, &[0, 0, 0], "damaged"),
        (3, 0, &[7], "Confirm came between chunks"),
    ];
    for (message, offset, bytes, expected) in cases {
        let mut script = script();
        script[*message][*offset..offset + bytes.len()].copy_from_slice(bytes);
        let (received, reason) = against(&shelf, |mut stream| say(&mut stream, &script.concat()));
        assert!(received.is_err(), "{expected}");
        assert!(reason.contains(expected), "`{expected}` in `{reason}`");
    }
    // Chunks must ascend.
    let mut script = script();
    script.insert(2, script[2].clone());
    let (_, reason) = against(&shelf, |mut stream| say(&mut stream, &script.concat()));
    assert!(reason.contains("goes back"), "{reason}");
    assert!(shelf.taken.lock().expect("lock").is_empty());
}

#[test]
fn the_same_object_twice_is_refused() {
    let object = Object { kind: ObjectKind::Ram, size_bytes: 1 };
    let error = parse_layout(&encode_layout(&[object.clone(), object])).expect_err("twice");
    assert!(error.to_string().contains("ram appears twice"), "{error}");
}

#[test]
fn a_receiver_that_goes_away_or_lies_is_an_error() {
    let dir = tempfile::tempdir().expect("dir");
    let accept = || {
        let mut out = Vec::new();
        write_message(&mut out, Kind::Accept, &[]).expect("vector");
        out
    };
    let confirm = {
        let mut out = Vec::new();
        write_message(&mut out, Kind::Confirm, &[1; DIGEST_BYTES]).expect("vector");
        out
    };
    let cases = [
        (vec![], "closed the connection"),
        (vec![0, 0, 0, 0, 0, 0, 0, 0], "message type 0"),
        ([accept(), accept(), confirm].concat(), "another digest"),
        ([accept(), accept()].concat(), "closed the connection"),
    ];
    for (answers, expected) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let error = thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("accept");
                stream.write_all(&answers).expect("answer");
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut sink = Vec::new();
                let _ = stream.read_to_end(&mut sink);
            });
            let stream = TcpStream::connect(address).expect("connect");
            send_all(&stream, "m1", dir.path()).expect_err("refused")
        });
        assert!(error.to_string().contains(expected), "`{expected}` in `{error}`");
    }
}
