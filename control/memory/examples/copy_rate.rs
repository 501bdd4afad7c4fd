//! How fast copies over loopback are, beside iperf3 in the same run.
//!
//! `cargo run --release -p tidegate-memory --example copy_rate -- [MIB] [ROUNDS] [STREAMS] [NAMES]`
//!
//! NAMES, with commas between them, are what to measure; left out, all of `iperf3,plain,fresh,auto,tls,lz4`.
//!
//! Each round measures everything once, one after the other; the medians are told, and the ratios of medians. RAM is on
//! a tmpfs, full of bytes that do not compress, except for `lz4`: half of it does. The destination's pages are there
//! before, except for `fresh`: there the kernel has to find and clear each of them meanwhile.
#![forbid(unsafe_code)]

mod authority;

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate_memory::{
    Mapping, Object, ObjectKind,
    copy::{Controls, Landing, Place, Received, Receiver, Sending, Source},
    transport::{
        Compression, Dial, DialPlain, DialTls, Plain, TcpSender, TlsIdentity, Transport,
        tls::TlsFiles,
    },
};

/// The destination's directory, and whether its memory is there when a copy begins.
struct Shelf(PathBuf, bool);

impl Landing for Shelf {
    fn admit(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn place(&self, _: &str, _: &[Object]) -> Result<Place, String> {
        Ok(Place {
            files: vec![self.0.join("received")],
            ledger: self.0.join("ledger"),
            zeros: self.1,
        })
    }

    fn arrived(&self, _: &Received) -> Result<(), String> {
        Ok(())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map(|word| word.parse().expect("a number"));
    let mib = number(0).unwrap_or(1024);
    let rounds = number(1).unwrap_or(5);
    let streams = number(2).unwrap_or(4);
    let names = arguments.get(3).map_or("iperf3,plain,fresh,auto,tls,lz4", String::as_str);
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on a tmpfs");
    let dir = dir.path();
    let [certificate, key, ca] = authority::make(dir, "authority", &["127.0.0.1"]);
    let identity = TlsIdentity::load(&TlsFiles { certificate, key, ca }).expect("identity");
    let noise = memory(dir, "noise", mib, false);
    let mixed = memory(dir, "mixed", mib, true);

    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        let plain = Way { streams, ready: true, identity: None, compression: Compression::Off };
        for name in names.split(',') {
            let rate = match name {
                "iperf3" => iperf3(streams),
                "plain" => copy(dir, &noise, &plain),
                "fresh" => copy(dir, &noise, &Way { ready: false, ..plain }),
                "auto" => copy(dir, &noise, &Way { compression: Compression::Auto, ..plain }),
                "tls" => copy(dir, &noise, &Way { identity: Some(&identity), ..plain }),
                "lz4" => copy(dir, &mixed, &Way { compression: Compression::On, ..plain }),
                other => panic!("{other} is not measured here"),
            };
            rates.entry(name).or_default().push(rate);
        }
    }
    let medians: BTreeMap<_, _> =
        rates.into_iter().map(|(name, rates)| (name, median(rates))).collect();
    for (name, rate) in &medians {
        println!("{name:8} {rate:6.2} GB/s");
    }
    for (what, of, to) in
        [("tcp_vs_iperf3", "plain", "iperf3"), ("tcp_vs_iperf3_tls", "tls", "plain")]
    {
        if let (Some(of), Some(to)) = (medians.get(of), medians.get(to)) {
            println!("{what:18} {:.2}", of / to);
        }
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// A file full of noise, or with noise in every other page.
fn memory(dir: &Path, name: &str, mib: usize, mixed: bool) -> Source {
    let size_bytes = (mib as u64) << 20;
    let memory = Mapping::create(&dir.join(name), size_bytes).expect("create");
    let mut bytes = vec![0; 1 << 20];
    let mut state = 1_u64;
    for at in (0..size_bytes).step_by(bytes.len()) {
        for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
            if mixed && index / 512 % 2 == 0 {
                word.copy_from_slice(b"repeated");
                continue;
            }
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        memory.write(at, &bytes).expect("write");
    }
    let object = Object { kind: ObjectKind::Ram, size_bytes };
    Source { object, memory: Some(Arc::new(memory)), hashes: None }
}

/// How a copy is made.
struct Way<'a> {
    streams: usize,
    ready: bool,
    identity: Option<&'a TlsIdentity>,
    compression: Compression,
}

/// Copy once; GB/s of guest memory.
fn copy(dir: &Path, source: &Source, way: &Way<'_>) -> f64 {
    let Way { streams, ready, identity, compression } = *way;
    // What was copied before is void.
    let _ = fs::remove_file(dir.join("ledger"));
    let received = dir.join("received");
    let memory = Mapping::create(&received, source.object.size_bytes).expect("create");
    if ready {
        for page in (0..source.object.size_bytes).step_by(4096) {
            memory.write(page, &[0]).expect("write");
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let dial: Arc<dyn Dial> = match identity {
        None => Arc::new(DialPlain(address)),
        Some(identity) => Arc::new(DialTls { address, identity: identity.clone() }),
    };
    let controls = Arc::new(Controls::new(None));
    let tcp: Arc<dyn Transport> = Arc::new(TcpSender {
        dial: dial.clone(),
        streams,
        compression,
        controls: controls.clone(),
    });
    let receiver = Receiver::new(identity.is_some(), Vec::new());
    let shelf = Shelf(dir.to_owned(), ready);
    thread::scope(|scope| {
        let serve = || {
            let (socket, _) = listener.accept().expect("accept");
            let stream = match identity {
                None => Box::new(Plain::new(socket).expect("socket")),
                Some(identity) => identity.accept(socket).expect("handshake"),
            };
            receiver.serve(stream, &shelf).expect("received");
        };
        for _ in 0..=streams {
            scope.spawn(serve);
        }
        let began = Instant::now();
        let sending = Sending::begin(&*dial, "m", vec![source.clone()], &[tcp], controls);
        sending.expect("begin").finish(&mut |_| {}).expect("sent");
        source.object.size_bytes as f64 / began.elapsed().as_secs_f64() / 1e9
    })
}

/// GB/s of iperf3 over loopback.
fn iperf3(streams: usize) -> f64 {
    let port =
        TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    let port = port.to_string();
    let mut server = Command::new("iperf3")
        .args(["-s", "-1", "-B", "127.0.0.1", "-p", &port])
        .stdout(Stdio::null())
        .spawn()
        .expect("iperf3; install it");
    let client = || {
        let arguments = ["-c", "127.0.0.1", "-t", "2", "-f", "k", "-p", &port, "-P"];
        let output = Command::new("iperf3").args(arguments).arg(streams.to_string()).output();
        String::from_utf8(output.expect("iperf3").stdout).expect("text")
    };
    let until = Instant::now() + Duration::from_secs(5);
    let text = loop {
        let text = client();
        if text.contains("receiver") || Instant::now() > until {
            break text;
        }
        thread::yield_now();
    };
    server.wait().expect("iperf3");
    // Of all streams together when there are several; the line ends in "… Kbits/sec receiver".
    let line = text.lines().rfind(|line| line.contains("receiver")).expect("a sum");
    let words: Vec<_> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "Kbits/sec").expect("a rate");
    words[at - 1].parse::<f64>().expect("a number") * 1000.0 / 8.0 / 1e9
}
