//! `tidegate-pktgen`: drives a box from both sides and checks every packet that comes back.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, BufRead as _},
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use tidegate_dataplane::packet::Mac;
use tidegate_dpdk::Eal;
use tidegate_packets::client;
use tidegate_pktgen::{
    Clients, Conductor, Devices, Generator, Phase, Plan, Report, Stage, Start, Topology, Vm, frame,
};

/// Drive a box from both sides: clients on its uplink, the VMs on its access ports. Every packet that comes back is
/// checked: its VM, addresses, checksums, order; and timed.
///
/// DEVICE is a DPDK device string (net_memif0,role=client,socket=/run/a.sock,socket-abstract=no) or a PCI address. The box
/// needs the clients' router as a neighbour on its uplink, and a route to 11.0.0.0/8 by it.
///
/// Orders on standard input, a line each, for whoever migrates meanwhile: `cutover begins` before the box is asked,
/// `cutover done` after it has answered, `stop` to close early. Each is repeated on standard output when it is in
/// force; so is each phase.
///
/// The exit code is 0 only if every packet came back and was right and every session ended.
#[derive(Parser)]
#[command(name = "tidegate-pktgen", version)]
struct Arguments {
    /// Towards the box's uplink.
    #[arg(long, value_name = "DEVICE")]
    client: String,
    /// Where the source VM is.
    #[arg(long, value_name = "DEVICE")]
    source: String,
    /// Where the destination VM is; the same DEVICE puts both behind one port.
    #[arg(long, value_name = "DEVICE")]
    destination: String,

    /// The managed address.
    #[arg(long, value_name = "IP", default_value = "10.9.0.100")]
    managed: Ipv4Addr,
    /// The service's TCP port.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    service: u16,
    /// The source's own address (rewrite = "nat"); without it, the managed address (rewrite = "l2").
    #[arg(long, value_name = "IP")]
    source_locator: Option<Ipv4Addr>,
    /// The destination's own address.
    #[arg(long, value_name = "IP")]
    destination_locator: Option<Ipv4Addr>,
    /// MAC of the clients' router.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:09:02")]
    client_mac: Mac,
    /// MAC of the source.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:0a:01")]
    source_mac: Mac,
    /// MAC of the destination.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:0a:02")]
    destination_mac: Mac,
    /// MAC of the box's uplink.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:01:01")]
    uplink_mac: Mac,
    /// MAC of the box's access ports.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:02:01")]
    access_mac: Mac,

    /// Sessions open at a time.
    #[arg(long, value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(client::MOST / 2)))]
    sessions: u32,
    /// Packets per second that the generator sends, clients' and VMs' together.
    #[arg(long, value_name = "PPS", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Sessions ended, and begun in their place, per second.
    #[arg(long, value_name = "PER-SECOND", default_value_t = 0)]
    churn: u64,
    /// Bytes of a frame, without its check sequence.
    #[arg(long, value_name = "BYTES", default_value_t = frame::SMALLEST as u16,
        value_parser = clap::value_parser!(u16).range(frame::SMALLEST as i64..=frame::LARGEST as i64))]
    frame: u16,
    /// Packets the clients send at once.
    #[arg(long, value_name = "N", default_value_t = 32,
        value_parser = clap::value_parser!(u8).range(1..=32))]
    burst: u8,
    /// Data before latencies are recorded, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    warm_up_ms: u64,
    /// Data while they are, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    measure_ms: u64,
    /// Silence after which a packet that is missing is lost, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    drain_ms: u64,
    /// A longer time between two polls of the ports is a stall, microseconds.
    #[arg(long, value_name = "US", default_value_t = 50)]
    stall_us: u64,
    /// Give the CPU away while nothing is under way, instead of polling: for a CPU that others need, too.
    #[arg(long)]
    rest: bool,

    /// The generator's CPU.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    cpu: usize,
    /// Packet memory from ordinary pages.
    #[arg(long)]
    no_hugepages: bool,
    /// Packet memory, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    memory_mib: u32,
    /// Packet buffers: at least what all receive queues hold.
    #[arg(long, value_name = "N", default_value_t = 16_383)]
    mbufs: u32,
    /// A further EAL argument, as it is; repeatable.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    eal: Vec<String>,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Arguments {
    fn topology(&self) -> Topology {
        let one_port = self.source == self.destination;
        let vm = |port, mac: Mac, locator: Option<Ipv4Addr>| Vm {
            port,
            mac: mac.0,
            address: locator.unwrap_or(self.managed).to_bits(),
            gateway: self.access_mac.0,
        };
        Topology {
            managed: (self.managed.to_bits(), self.service),
            client: Clients { mac: self.client_mac.0, gateway: self.uplink_mac.0 },
            source: vm(0, self.source_mac, self.source_locator),
            destination: vm(usize::from(!one_port), self.destination_mac, self.destination_locator),
        }
    }

    fn devices(&self) -> Devices {
        let mut vms = vec![self.source.clone()];
        if self.destination != self.source {
            vms.push(self.destination.clone());
        }
        Devices { client: self.client.clone(), vms }
    }

    fn start(&self) -> Start {
        Start {
            cpu: self.cpu,
            hugepages: !self.no_hugepages,
            memory_mib: self.memory_mib,
            mbufs: self.mbufs,
            eal_args: self.eal.clone(),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            sessions: self.sessions,
            rate: self.rate,
            churn: self.churn,
            frame_bytes: usize::from(self.frame),
            burst: usize::from(self.burst),
            warm_up: Duration::from_millis(self.warm_up_ms),
            measure: Duration::from_millis(self.measure_ms),
            drain: Duration::from_millis(self.drain_ms),
            stall: Duration::from_micros(self.stall_us),
            rest: self.rest,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-pktgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let (start, devices) = (arguments.start(), arguments.devices());
    let conductor = Arc::new(Conductor::default());
    // Before EAL binds this thread, and what it starts, to the generator's CPU.
    thread::spawn({
        let conductor = Arc::clone(&conductor);
        move || obey(&conductor)
    });
    let announcer = thread::spawn({
        let conductor = Arc::clone(&conductor);
        move || announce(&conductor)
    });
    let eal = Eal::init(start.eal_arguments(&devices)).context("start DPDK")?;
    let (topology, plan) = (arguments.topology(), arguments.plan());
    let mut generator =
        Generator::new(&eal, &start, &devices, topology, plan, Arc::clone(&conductor))?;
    let report = generator.run();
    announcer.join().map_err(|_| anyhow::anyhow!("the announcer panicked"))?;
    println!("{report}");
    if let Some(path) = &arguments.report {
        fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report)
}

/// Read orders until there are no more.
fn obey(conductor: &Conductor) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let stage = match line.trim() {
            "cutover begins" => Stage::UnderWay,
            "cutover done" => Stage::Done,
            "stop" => {
                conductor.stop();
                continue;
            }
            other => {
                eprintln!(
                    "tidegate-pktgen: no such order: `{other}`; there are `cutover begins`, `cutover done` and `stop`"
                );
                continue;
            }
        };
        conductor.advance(stage);
        while !conductor.is_known(stage) {
            thread::sleep(Duration::from_millis(1));
        }
        println!("{}", line.trim());
    }
}

/// Say each phase as it begins.
fn announce(conductor: &Conductor) {
    let mut said = Phase::Waiting;
    while said != Phase::Ended {
        let phase = conductor.phase();
        if phase != said {
            println!("{}", phase.name());
            said = phase;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
