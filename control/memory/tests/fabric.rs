//! Copies over libfabric, from this process to another one: whole, in passes, broken, refused.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    slice,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate_fabric::Provider;
use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind, PageHashes,
    copy::{Controls, Landing, Place, Received, Receiver, SECTION_BYTES, Sending, Source, Stretch},
    transport::{
        DialPlain, Plain, Transport,
        fabric::{FabricReceiver, FabricSender},
    },
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Provider and directory of the other process.
const PART: &str = "TIDEGATE_FABRIC_COPY";
const MIGRATION: &str = "m1";

macro_rules! for_each_provider {
    ($($test:ident)*) => {
        mod tcp {
            $(#[test] fn $test() { super::$test(super::Provider::Tcp); })*
        }
        mod shm {
            $(#[test] fn $test() { super::$test(super::Provider::Shm); })*
        }
    };
}

for_each_provider! {
    a_copy_arrives_whole passes_bring_small_changes
    a_sender_that_gives_up_leaves_a_receiver_that_goes_on
}

/// The receiving host, as a process.
struct Host {
    process: Child,
    address: String,
}

impl Host {
    fn start(dir: &Path, provider: Provider) -> Self {
        let mut process = Command::new(env::current_exe().expect("own program"))
            .args(["--exact", "receive", "--ignored", "--nocapture", "--quiet"])
            .env(PART, format!("{} {}", provider.name(), dir.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let output = BufReader::new(process.stdout.as_mut().expect("output"));
        let mut lines = output.lines().map(|line| line.expect("line"));
        let address = lines.find_map(|line| Some(line.split_once("listens on ")?.1.to_owned()));
        Self { process, address: address.expect("an address") }
    }

    fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Shelf(PathBuf);

impl Landing for Shelf {
    fn admit(&self, migration: &str) -> Result<(), String> {
        if migration == MIGRATION { Ok(()) } else { Err("unknown".to_owned()) }
    }

    fn place(&self, _: &str, objects: &[Object]) -> Result<Place, String> {
        let files = (0..objects.len()).map(|index| self.0.join(format!("received-{index}")));
        Ok(Place { files: files.collect(), ledger: self.0.join("ledger"), zeros: false })
    }

    fn arrived(&self, _: &Received) -> Result<(), String> {
        Ok(())
    }
}

#[test]
#[ignore = "the other process of the tests here"]
fn receive() {
    let part = env::var(PART).expect("started by a test");
    let (provider, dir) = part.split_once(' ').expect("provider and directory");
    let provider = Provider::ALL.into_iter().find(|known| known.name() == provider);
    let fabric = FabricReceiver { provider: provider.expect("provider"), local: LOOPBACK };
    let receiver = Receiver::new(false, vec![Arc::new(fabric)]);
    let shelf = Shelf(dir.into());
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("listen");
    println!("listens on {}", listener.local_addr().expect("address"));
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = Plain::new(stream.expect("accept")).expect("stream");
            let (receiver, shelf) = (&receiver, &shelf);
            scope.spawn(move || {
                if let Err(error) = receiver.serve(Box::new(stream), shelf) {
                    eprintln!("receiver: {error}");
                }
            });
        }
    });
}

/// RAM with noise, holes and lone pages; a device state that ends inside a page.
fn sources(dir: &Path, sections: u64) -> Vec<Source> {
    let map = |index: usize, size_bytes: u64| {
        Arc::new(Mapping::create(&dir.join(format!("sent-{index}")), size_bytes).expect("create"))
    };
    let source = |kind, memory: Arc<Mapping>| Source {
        object: Object { kind, size_bytes: memory.size_bytes() },
        memory: Some(memory),
        hashes: None,
    };
    let ram = map(0, sections * SECTION_BYTES + (3 << 20));
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    for at in (0..ram.size_bytes()).step_by(block.len()) {
        if at >> 20 & 3 == 3 {
            ram.write(at + 4096 * 9, &[at.to_le_bytes()[3] | 1; 5000]).expect("write");
            continue;
        }
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        ram.write(at, &block).expect("write");
    }
    let devices = map(1, 5001);
    devices.write(0, &[7; 5001]).expect("write");
    vec![source(ObjectKind::Ram, ram), source(ObjectKind::DeviceState, devices)]
}

fn begin(host: &Host, provider: Provider, sources: Vec<Source>) -> Result<Sending, MemoryError> {
    let path: Arc<dyn Transport> = Arc::new(FabricSender { provider, peer: LOOPBACK });
    let controls = Arc::new(Controls::new(None));
    Sending::begin(&DialPlain(host.address.clone()), MIGRATION, sources, &[path], controls)
}

fn assert_arrived(dir: &Path) {
    for index in 0..2 {
        let read = |name: &str| fs::read(dir.join(format!("{name}-{index}"))).expect("file");
        assert!(read("sent") == read("received"), "object {index} differs");
    }
}

fn tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory on a tmpfs")
}

fn a_copy_arrives_whole(provider: Provider) {
    let dir = tmpfs();
    let host = Host::start(dir.path(), provider);
    let sending = begin(&host, provider, sources(dir.path(), 2)).expect("begin");
    assert_eq!(sending.path(), format!("fabric:{}", provider.name()));
    sending.finish(&mut |_| ()).expect("finish");
    assert_arrived(dir.path());
}

/// A first pass, then lone pages, pages that become zero, and a large stretch.
fn passes_bring_small_changes(provider: Provider) {
    let dir = tmpfs();
    let host = Host::start(dir.path(), provider);
    let sources = sources(dir.path(), 1);
    let ram = sources[0].memory.clone().expect("memory");
    let mut sending = begin(&host, provider, sources).expect("begin");
    let whole = Stretch { object: 0, range: 0..ram.size_bytes() };
    sending.pass(slice::from_ref(&whole), &mut |_| ()).expect("first pass");
    let mut dirty = Vec::new();
    for page in (0..2304_u64).step_by(7) {
        let at = page * 4096;
        let bytes = if page % 5 == 0 { vec![0; 4096] } else { page.to_le_bytes().to_vec() };
        ram.write(at, &bytes).expect("write");
        dirty.push(Stretch { object: 0, range: at..at + 4096 });
    }
    ram.write(9 << 20, &vec![3; 3 << 20]).expect("write");
    dirty.push(Stretch { object: 0, range: 9 << 20..12 << 20 });
    sending.pass(&dirty, &mut |_| ()).expect("second pass");
    ram.write(4096 * 3, b"at last").expect("write");
    sending.finish(&mut |_| ()).expect("finish");
    assert_arrived(dir.path());
}

/// The receiver dies in the middle. The sender says so in time, and begins again behind what was committed. Not over `shm`: a
/// process that is killed while it holds its queue's lock keeps it, and libfabric waits for the lock without end.
#[test]
fn a_receiver_that_is_killed_is_resumed() {
    let provider = Provider::Tcp;
    let dir = tmpfs();
    let mut host = Host::start(dir.path(), provider);
    let sources = sources(dir.path(), 3);
    let sending = begin(&host, provider, sources.clone()).expect("begin");
    let mut killed = None;
    let outcome = sending.finish(&mut |_| {
        if killed.is_none() {
            host.kill();
            killed = Some(Instant::now());
        }
    });
    let killed = killed.expect("progress is reported");
    let error = outcome.expect_err("the receiver is dead");
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    assert!(matches!(error, MemoryError::Connection { .. }), "{error}");
    eprintln!("{provider}: {error}, after {:?}", killed.elapsed());
    let host = Host::start(dir.path(), provider);
    begin(&host, provider, sources).expect("again").finish(&mut |_| ()).expect("finish");
    assert_arrived(dir.path());
}

/// A sender that goes away in the middle takes nothing with it: the next one is served.
fn a_sender_that_gives_up_leaves_a_receiver_that_goes_on(provider: Provider) {
    let dir = tmpfs();
    let host = Host::start(dir.path(), provider);
    let sources = sources(dir.path(), 1);
    let mut sending = begin(&host, provider, sources.clone()).expect("begin");
    let part = Stretch { object: 0, range: 0..8 << 20 };
    sending.pass(slice::from_ref(&part), &mut |_| ()).expect("pass");
    drop(sending);
    begin(&host, provider, sources).expect("begin").finish(&mut |_| ()).expect("finish");
    assert_arrived(dir.path());
}

/// A section whose digest is never right is given up, and is cleared where it is: a hole would leave memory behind that a device
/// has pinned.
#[test]
fn a_damaged_section_is_cleared_in_place() {
    let dir = tmpfs();
    let host = Host::start(dir.path(), Provider::Tcp);
    let mut sources = sources(dir.path(), 1);
    let mut hashes = PageHashes::of(sources[0].memory.as_ref().expect("memory")).expect("hash");
    hashes.hashes_mut()[5] ^= 1;
    sources[0].hashes = Some(Arc::new(hashes));
    let sending = begin(&host, Provider::Tcp, sources).expect("begin");
    let error = sending.finish(&mut |_| ()).expect_err("damaged");
    assert!(matches!(error, MemoryError::Section { section: 0, .. }), "{error}");
    let file = dir.path().join("received-0");
    let meta = fs::metadata(&file).expect("received");
    assert!(meta.blocks() * 512 >= meta.len(), "{} blocks of {} bytes", meta.blocks(), meta.len());
    assert!(fs::read(&file).expect("received")[..SECTION_BYTES as usize].iter().all(|b| *b == 0));
}

/// Where the receiver has another idea of the path, both say which they have.
#[test]
fn no_common_path_is_said() {
    let dir = tmpfs();
    let host = Host::start(dir.path(), Provider::Tcp);
    let refused = begin(&host, Provider::Shm, sources(dir.path(), 1)).map(drop);
    let said = refused.expect_err("refused").to_string();
    assert!(said.contains("fabric:shm") && said.contains("fabric:tcp;ofi_rxm"), "{said}");
}

/// Bytes go nowhere else than where the control stream went.
#[test]
fn an_offer_that_leads_elsewhere_is_refused() {
    let dir = tmpfs();
    let host = Host::start(dir.path(), Provider::Tcp);
    let peer = "127.0.0.2".parse().expect("address");
    let path: Arc<dyn Transport> = Arc::new(FabricSender { provider: Provider::Tcp, peer });
    let dial = DialPlain(host.address.clone());
    let controls = Arc::new(Controls::new(None));
    let sources = sources(dir.path(), 1);
    let refused = Sending::begin(&dial, MIGRATION, sources, &[path], controls).map(drop);
    let said = refused.expect_err("refused").to_string();
    assert!(said.contains("127.0.0.2"), "{said}");
}
