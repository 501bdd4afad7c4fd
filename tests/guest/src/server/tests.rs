use std::{
    fs::{self, File},
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::Instant,
};

use tempfile::TempDir;
use tidegate_region::MergeType;

use super::*;

struct Rig {
    address: SocketAddr,
    region: File,
    name: PathBuf,
    _dir: TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("temporary directory");
    let name = dir.path().join("name");
    fs::write(&name, "vm-a").expect("name");
    let region = tempfile::tempfile_in(dir.path()).expect("region");
    region.set_len(1 << 20).expect("grow");
    let handle = region.try_clone().expect("second handle");
    let (counters, _) = Counters::attach(handle, 1 << 20, MergeType::Sum).expect("attach");
    let identity = Identity::open(&name).expect("identity");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || serve(&listener, Service { identity, counters }));
    Rig { address, region, name, _dir: dir }
}

impl Rig {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        stream
    }

    fn counted(&self, session: u64) -> u64 {
        let mut bytes = [0; 8];
        self.region.read_exact_at(&mut bytes, 4096 + session * 8).expect("read");
        u64::from_le_bytes(bytes)
    }
}

fn answer(stream: &TcpStream) -> String {
    let mut text = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut text).expect("answer");
    text
}

#[test]
fn answers_and_counts() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(b"HELLO 5\nREQ 5 0\nREQ 5 1\nRE").expect("send");
    assert_eq!(answer(&stream), "vm-a 5 0\n");
    assert_eq!(answer(&stream), "vm-a 5 1\n");
    // Longer than the identity check: half a line survives the silence.
    thread::sleep(IDENTITY_CHECK * 2);
    stream.write_all(b"Q 5 2\n").expect("send");
    assert_eq!(answer(&stream), "vm-a 5 2\n");
    assert_eq!((rig.counted(5), rig.counted(4)), (3, 0));
}

#[test]
fn closes_after_the_client() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(b"HELLO 1\nREQ 1 0\n").expect("send");
    stream.shutdown(std::net::Shutdown::Write).expect("close");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an orderly end");
    assert_eq!(text, "vm-a 1 0\n");
}

#[test]
fn lingers_when_asked_to() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(b"HELLO 1\nREQ 1 0\nLINGER 700\n").expect("send");
    assert_eq!(answer(&stream), "vm-a 1 0\n");
    let closed = Instant::now();
    stream.shutdown(std::net::Shutdown::Write).expect("close");
    assert_eq!(stream.read(&mut [0; 16]).expect("an orderly end"), 0);
    let took = closed.elapsed();
    assert!(took >= Duration::from_millis(700), "{took:?}");
}

#[test]
fn closes_on_what_is_not_the_protocol() {
    let rig = rig();
    let long = vec![b'x'; MAX_LINE_BYTES];
    for bad in [
        b"REQ 1 0\n".as_slice(),
        b"HELLO 1\nREQ 2 0\n",
        b"HELLO 1\nHELLO 1\n",
        b"?\n",
        b"LINGER 1\n",
        &long,
    ] {
        let mut stream = rig.connect();
        stream.write_all(bad).expect("send");
        let mut text = String::new();
        // An end or a reset, but no answer.
        let _ = stream.read_to_string(&mut text);
        assert_eq!(text, "");
    }
    assert_eq!((rig.counted(1), rig.counted(2)), (0, 0));
}

#[test]
fn a_clone_drops_what_it_inherited() {
    let rig = rig();
    let connect = |session: u32| {
        let mut stream = rig.connect();
        stream.write_all(format!("HELLO {session}\nREQ {session} 0\n").as_bytes()).expect("send");
        assert_eq!(answer(&stream), format!("vm-a {session} 0\n"));
        stream
    };
    let (silent, mut busy) = (connect(1), connect(2));
    fs::write(&rig.name, "vm-b").expect("rename");
    busy.write_all(b"REQ 2 1\n").expect("send");
    for mut stream in [silent, busy] {
        let end = stream.read(&mut [0; 16]).expect_err("reset");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(
        (rig.counted(1), rig.counted(2)),
        (1, 1),
        "nothing is counted for inherited sessions"
    );
    let mut fresh = rig.connect();
    fresh.write_all(b"HELLO 3\nREQ 3 0\n").expect("send");
    assert_eq!(answer(&fresh), "vm-b 3 0\n");
}
