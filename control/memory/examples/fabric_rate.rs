//! How fast copies to another process are: TCP streams beside libfabric, in one run.
//!
//! `cargo run --release -p tidegate-memory --example fabric_rate -- [MIB] [ROUNDS]`
//!
//! `whole` is a first copy of RAM full of noise; `pages` a pass in which every fourth page has changed, so that all
//! pieces are small. GB/s of bytes that had to go over, medians of the rounds.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use tidegate_fabric::Provider;
use tidegate_memory::{
    Mapping, Object, ObjectKind,
    copy::{Controls, Landing, Place, Received, Receiver, Sending, Source, Stretch},
    transport::{
        Compression, Dial, DialPlain, Plain, TcpSender, Transport,
        fabric::{FabricSender, receivers},
    },
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STREAMS: usize = 4;

struct Shelf(PathBuf);

impl Landing for Shelf {
    fn admit(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn place(&self, _: &str, _: &[Object]) -> Result<Place, String> {
        let files = vec![self.0.join("received")];
        Ok(Place { files, ledger: self.0.join("ledger"), zeros: true })
    }

    fn arrived(&self, _: &Received) -> Result<(), String> {
        Ok(())
    }
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [part, dir] = &arguments[..]
        && part == "receive"
    {
        return receive(dir.into());
    }
    let mut numbers = arguments.iter().map(|word| word.parse::<u64>().expect("a number"));
    let (mib, rounds) = (numbers.next().unwrap_or(512), numbers.next().unwrap_or(5));
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on a tmpfs");
    let ram = memory(dir.path(), mib << 20);
    let mut ways = vec![None];
    ways.extend(Provider::ALL.map(Some).into_iter().filter(|way| {
        let missing = way.and_then(|provider| provider.probe(Some(LOOPBACK)).err());
        missing.is_none_or(|missing| {
            println!("not measured: {missing}");
            false
        })
    }));
    let mut rates: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for way in &ways {
            let name = way.map_or("tcp", Provider::name);
            let [whole, pages] = copy(dir.path(), &ram, *way);
            rates.entry(("whole", name)).or_default().push(whole);
            rates.entry(("pages", name)).or_default().push(pages);
        }
    }
    for ((what, name), mut rates) in rates {
        rates.sort_by(f64::total_cmp);
        println!("{what} {name:12} {:6.2} GB/s", rates[rates.len() / 2]);
    }
}

fn memory(dir: &Path, size_bytes: u64) -> Source {
    let memory = Mapping::create(&dir.join("sent"), size_bytes).expect("create");
    let mut block = vec![0; 1 << 20];
    let mut state = 1_u64;
    for at in (0..size_bytes).step_by(block.len()) {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        memory.write(at, &block).expect("write");
    }
    let object = Object { kind: ObjectKind::Ram, size_bytes };
    Source { object, memory: Some(Arc::new(memory)), hashes: None }
}

/// Copy once: the rate of the first pass, and of one with lone pages.
fn copy(dir: &Path, ram: &Source, way: Option<Provider>) -> [f64; 2] {
    let size_bytes = ram.object.size_bytes;
    let _ = fs::remove_file(dir.join("ledger"));
    let received = Mapping::create(&dir.join("received"), size_bytes).expect("create");
    for page in (0..size_bytes).step_by(4096) {
        received.write(page, &[0]).expect("write");
    }
    let (mut process, address) = start(dir);
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(address));
    let controls = Arc::new(Controls::new(None));
    let transport: Arc<dyn Transport> = match way {
        Some(provider) => Arc::new(FabricSender { provider, peer: LOOPBACK }),
        None => Arc::new(TcpSender {
            dial: dial.clone(),
            streams: STREAMS,
            compression: Compression::Off,
            controls: controls.clone(),
        }),
    };
    let sources = vec![ram.clone()];
    let mut sending = Sending::begin(&*dial, "m", sources, &[transport], controls).expect("begin");
    let mut pass = |stretches: &[Stretch], bytes: u64| {
        let began = Instant::now();
        sending.pass(stretches, &mut |_| ()).expect("pass");
        bytes as f64 / began.elapsed().as_secs_f64() / 1e9
    };
    let whole = pass(&[Stretch { object: 0, range: 0..size_bytes }], size_bytes);
    let memory = ram.memory.as_ref().expect("memory");
    let mut lone = Vec::new();
    for page in (0..size_bytes).step_by(4 * 4096) {
        let mut word = [0; 8];
        memory.read(page, &mut word).expect("read");
        let changed = u64::from_le_bytes(word).wrapping_add(1).to_le_bytes();
        memory.write(page, &changed).expect("write");
        lone.push(Stretch { object: 0, range: page..page + 4096 });
    }
    let pages = pass(&lone, size_bytes / 4);
    let _ = process.kill();
    let _ = process.wait();
    [whole, pages]
}

fn start(dir: &Path) -> (Child, String) {
    let mut process = Command::new(env::current_exe().expect("own program"))
        .arg("receive")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut address = String::new();
    let output = process.stdout.as_mut().expect("output");
    BufReader::new(output).read_line(&mut address).expect("address");
    (process, address.trim().to_owned())
}

fn receive(dir: PathBuf) {
    let receiver = Receiver::new(false, receivers(LOOPBACK));
    let shelf = Shelf(dir);
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("listen");
    println!("{}", listener.local_addr().expect("address"));
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = Plain::new(stream.expect("accept")).expect("stream");
            let (receiver, shelf) = (&receiver, &shelf);
            // The sender ends it by killing this process.
            scope.spawn(move || receiver.serve(Box::new(stream), shelf).map(drop));
        }
    });
}
