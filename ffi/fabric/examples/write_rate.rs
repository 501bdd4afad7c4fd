//! How fast memory goes from one process into another's: each provider, beside plain TCP, in one run.
//!
//! ```text
//! cargo run --release -p tidegate-fabric --example write_rate [-- ROUNDS]
//! ```
//!
//! Every way moves the same 256 MiB in writes of 1 MiB, 16 in flight, and of 4 KiB, each round one after the other;
//! printed is the median of the rounds. The clock stops when the receiver says that all of it is in its memory.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tidegate_fabric::{Endpoint, Event, Provider, Window, Write};
use vm_memory::{MmapRegion, ReadVolatile as _, VolatileMemory as _, WriteVolatile as _};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BYTES: u64 = 256 << 20;
const SIZES: [u64; 2] = [1 << 20, 4096];
const IN_FLIGHT: usize = 16;
/// Writes begun between two looks at what has left.
const POLL_EVERY: u64 = 4;
/// Between polls in vain. Who spins instead takes the CPU from the other side where CPUs are few.
const PAUSE: Duration = Duration::from_micros(20);
/// Small writes move less, or they would take minutes.
const SMALL_BYTES: u64 = 16 << 20;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [part, way] = &arguments[..]
        && part == "receive"
    {
        return receive(way);
    }
    let rounds = arguments.first().map_or(Ok(5), |rounds| rounds.parse()).context("ROUNDS")?;
    let source = memory()?;
    let ways: Vec<_> = WAYS.into_iter().filter(|way| is_there(way)).collect();
    for size in SIZES {
        println!("writes of {} KiB:", size >> 10);
        let mut rates = vec![Vec::new(); ways.len()];
        for _ in 0..rounds {
            for (way, rates) in ways.iter().zip(&mut rates) {
                rates.push(measure(way, &source, size)?);
            }
        }
        for (way, rates) in ways.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            println!("  {way:<12} {:6.2} GB/s", rates[rates.len() / 2]);
        }
    }
    Ok(())
}

const WAYS: [&str; 4] = ["tcp socket", "tcp;ofi_rxm", "shm", "verbs;ofi_rxm"];

fn is_there(way: &str) -> bool {
    let missing = provider(way).and_then(|provider| provider.probe(Some(LOOPBACK)).err());
    missing.is_none_or(|missing| {
        println!("{way}: {missing}");
        false
    })
}

fn provider(way: &str) -> Option<Provider> {
    Provider::ALL.into_iter().find(|provider| provider.name() == way)
}

/// Memory with pages that are there.
fn memory() -> anyhow::Result<Arc<MmapRegion>> {
    let region = MmapRegion::new(BYTES as usize)?;
    let block = vec![0x55_u8; 1 << 20];
    for start in (0..region.size()).step_by(block.len()) {
        region.as_volatile_slice().subslice(start, block.len())?.copy_from(&block);
    }
    Ok(Arc::new(region))
}

fn total(size: u64) -> u64 {
    if size < 1 << 20 { SMALL_BYTES } else { BYTES }
}

struct Receiver {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Receiver {
    fn start(way: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["receive", way])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("output")?);
        Ok(Self { child, output })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the receiver ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn measure(way: &str, source: &Arc<MmapRegion>, size: u64) -> anyhow::Result<f64> {
    let mut receiver = Receiver::start(way)?;
    let address = receiver.line()?;
    let seconds = match provider(way) {
        Some(provider) => over_fabric(provider, &mut receiver, &address, source, size)?,
        None => over_tcp(&mut receiver, &address, source, size)?,
    };
    Ok(total(size) as f64 / seconds / 1e9)
}

fn over_fabric(
    provider: Provider,
    receiver: &mut Receiver,
    address: &str,
    source: &Arc<MmapRegion>,
    size: u64,
) -> anyhow::Result<f64> {
    let numbers = receiver.line()?;
    let numbers: Vec<u64> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let window = Window { key: numbers[0], base: numbers[1], len: numbers[2] };
    let address: Vec<u8> = address.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let mut writer = Endpoint::open(provider, LOOPBACK)?;
    writer.limit_in_flight(IN_FLIGHT);
    let peer = writer.connect(&address)?;
    let source = writer.attach(source.clone())?;
    let count = total(size) / size;
    writeln!(receiver.child.stdin.as_ref().context("input")?, "{}", 1 + count)?;
    // The first write makes the connection.
    write_all(
        &mut writer,
        1,
        &Write { source, from: 0, len: 1, peer, to: &window, at: 0, data: 0, id: 0 },
    )?;
    let began = Instant::now();
    write_all(
        &mut writer,
        count,
        &Write { source, from: 0, len: size, peer, to: &window, at: 0, data: 0, id: 0 },
    )?;
    ensure!(receiver.line()? == "there", "not all arrived");
    Ok(began.elapsed().as_secs_f64())
}

fn write_all(writer: &mut Endpoint, count: u64, write: &Write<'_>) -> anyhow::Result<()> {
    let (mut begun, mut left) = (0, 0);
    while left < count {
        let at = begun * write.len;
        if begun < count && writer.write(&Write { from: at, at, ..*write })? {
            begun += 1;
            if begun % POLL_EVERY != 0 {
                continue;
            }
        }
        if writer.poll(&mut |event| left += u64::from(matches!(event, Event::Sent { .. })))? == 0 {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn over_tcp(
    receiver: &mut Receiver,
    address: &str,
    source: &Arc<MmapRegion>,
    size: u64,
) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    writeln!(receiver.child.stdin.as_ref().context("input")?, "{}", total(size))?;
    let began = Instant::now();
    for start in (0..total(size)).step_by(size as usize) {
        let slice = source.as_volatile_slice();
        stream.write_all_volatile(&slice.subslice(start as usize, size as usize)?)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    ensure!(receiver.line()? == "there", "not all arrived");
    Ok(began.elapsed().as_secs_f64())
}

/// The other process.
fn receive(way: &str) -> anyhow::Result<()> {
    let into = memory()?;
    let Some(provider) = provider(way) else { return receive_tcp(&into) };
    let mut endpoint = Endpoint::open(provider, LOOPBACK)?;
    let window = endpoint.expose(into)?;
    let address: Vec<_> = endpoint.address().iter().map(u8::to_string).collect();
    println!("{}\n{} {} {}", address.join(" "), window.key, window.base, window.len);
    let expected = thread::spawn(expected);
    let (mut arrived, mut wanted) = (0, u64::MAX);
    let mut expected = Some(expected);
    while arrived < wanted {
        if endpoint.poll(&mut |_| arrived += 1)? == 0 {
            thread::sleep(PAUSE);
        }
        if let Some(known) = expected.take_if(|known| known.is_finished()) {
            wanted = known.join().map_err(|_| anyhow::anyhow!("no count"))??;
        }
    }
    println!("there");
    // Until the writer is done with this process.
    io::stdin().read_to_string(&mut String::new())?;
    Ok(())
}

fn expected() -> anyhow::Result<u64> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().parse()?)
}

fn receive_tcp(into: &MmapRegion) -> anyhow::Result<()> {
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let bytes = expected()?;
    for start in (0..bytes).step_by(1 << 20) {
        let mut slice = into.as_volatile_slice().subslice(start as usize, 1 << 20)?;
        stream.read_exact_volatile(&mut slice)?;
    }
    println!("there");
    io::stdin().read_to_string(&mut String::new())?;
    Ok(())
}
