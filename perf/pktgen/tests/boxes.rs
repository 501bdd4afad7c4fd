//! The generator through a box of a few lines, over shared memory in one process: without hugepages or privileges. The box
//! can be made to do wrong, and the generator must say what.
//!
//! EAL starts once per process, so each test runs itself again to get one.

use std::{
    fs, mem,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tidegate_dpdk::{Burst, Eal, Mbuf, PoolConfig, PortConfig, QueuePair};
use tidegate_packets::client;
use tidegate_pktgen::{
    Clients, Conductor, Devices, Faults, Generator, Phase, Plan, Report, Stage, Start, Topology,
    Vm,
    frame::{self, Mac, flags},
};

const CHILD: &str = "TIDEGATE_TEST_CHILD";
const SESSIONS: u32 = 2_000;
const UPLINK: Mac = [2, 0, 0, 0, 1, 1];
const ACCESS: Mac = [2, 0, 0, 0, 2, 1];
const CLIENT: Mac = [2, 0, 0, 0, 9, 2];
const VMS: [Mac; 2] = [[2, 0, 0, 0, 10, 1], [2, 0, 0, 0, 10, 2]];
const LOCATORS: [u32; 2] = [0x0a08_000b, 0x0a08_000c];
const MANAGED: (u32, u16) = (0x0a09_0064, 80);

/// What a box does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// Loses each thousandth packet.
    Loses,
    /// Sends a packet later than its session's next.
    Reorders,
    /// Spoils the TCP checksum of each thousandth.
    Spoils,
    /// After the cutover, sends old sessions to the destination.
    Forgets,
    /// Leaves the destination address as it was.
    Passes,
}

#[test]
fn a_box_that_is_right() {
    in_own_process("a_box_that_is_right", || {
        let report = migrated(Wrong::Nothing);
        assert!(report.is_clean(), "{report}");
        let sessions = report.sessions;
        assert!(sessions.opened > u64::from(SESSIONS), "churn: {report}");
        assert!(
            sessions.at_source >= u64::from(SESSIONS) && sessions.at_destination > 0,
            "{report}"
        );
        let latency = report.latency;
        assert!(latency.to_vm.packets > 1_000 && latency.to_client.packets > 1_000, "{report}");
        assert!(latency.all.min_us > 0.0 && latency.all.min_us <= latency.all.p99_us, "{report}");
    });
}

#[test]
fn a_box_that_loses() {
    in_own_process("a_box_that_loses", || {
        let report = migrated(Wrong::Loses);
        assert!(report.lost() > 0 && !report.is_clean(), "{report}");
        assert_eq!(report.faults.misdirected + report.faults.reordered, 0, "{report}");
    });
}

#[test]
fn a_box_that_reorders() {
    in_own_process("a_box_that_reorders", || {
        let report = migrated(Wrong::Reorders);
        assert!(report.faults.reordered > 0 && !report.is_clean(), "{report}");
    });
}

#[test]
fn a_box_that_spoils_checksums() {
    in_own_process("a_box_that_spoils_checksums", || {
        let faults = migrated(Wrong::Spoils).faults;
        assert!(faults.tcp_checksum > 0, "{faults:?}");
        assert_eq!(faults, Faults { tcp_checksum: faults.tcp_checksum, ..Faults::default() });
    });
}

#[test]
fn a_box_that_forgets_owners() {
    in_own_process("a_box_that_forgets_owners", || {
        let report = migrated(Wrong::Forgets);
        assert!(report.faults.misdirected > 0 && !report.is_clean(), "{report}");
    });
}

#[test]
fn a_box_that_does_not_rewrite() {
    in_own_process("a_box_that_does_not_rewrite", || {
        let report = migrated(Wrong::Passes);
        assert!(report.faults.address > 0 && report.sessions.established == 0, "{report}");
    });
}

/// Runs the body in a new process that has not touched DPDK.
fn in_own_process(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(CHILD, test);
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{log}", output.status);
    assert!(said.contains("1 passed"), "the test did not run:\n{said}");
}

/// A run with a cutover in its middle, through a box that does this wrong.
fn migrated(wrong: Wrong) -> Report {
    let dir = tempfile::tempdir().expect("dir");
    let start =
        Start { cpu: 0, hugepages: false, memory_mib: 64, mbufs: 8191, eal_args: Vec::new() };
    let [far, near] = ["server", "client"].map(|role| devices(dir.path(), role));
    let eal = Eal::init(arguments()).expect("EAL starts");
    let lcores = eal.worker_lcores();
    let pool = eal.create_pool("box", &PoolConfig { mbufs: 8191, ..PoolConfig::default() });
    let pool = pool.expect("pool");
    let queues = far.iter().map(|device| {
        eal.attach(device).expect("the box's device");
        let port = eal.port(device).expect("its port");
        port.start(&PortConfig::default(), &pool).expect("starts").remove(0)
    });
    let (has_cut_over, is_over) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let mut small = SmallBox {
        queues: queues.collect(),
        owners: vec![0; 2 * SESSIONS as usize],
        has_cut_over: Arc::clone(&has_cut_over),
        wrong,
        packets: 0,
        kept: None,
    };
    let over = Arc::clone(&is_over);
    let forwarding = eal.launch(lcores[0], move || (small.run(&over), small)).expect("idle");

    let conductor = Arc::new(Conductor::default());
    let [uplink, vms @ ..] = near;
    let devices = Devices { client: uplink, vms: vms.to_vec() };
    let told = Arc::clone(&conductor);
    let generator = Generator::new(&eal, &start, &devices, topology(), plan(), told);
    let mut generator = generator.expect("links come up");
    let generating = eal.launch(lcores[1], move || (generator.run(), generator)).expect("idle");
    while conductor.phase() < Phase::Measuring {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(plan().measure / 3);
    cut_over(&conductor, Stage::UnderWay);
    has_cut_over.store(true, Relaxed);
    thread::sleep(Duration::from_millis(20));
    cut_over(&conductor, Stage::Done);
    let (report, generator) = generating.join().expect("no panic");
    is_over.store(true, Relaxed);
    let ((), small) = forwarding.join().expect("no panic");
    // DPDK's interrupt thread would hear one end of a memif hang up while this thread closes the other, and DPDK is not
    // made for that. All ends with the process.
    mem::forget((generator, small, eal));
    report
}

fn cut_over(conductor: &Conductor, stage: Stage) {
    conductor.advance(stage);
    // It looks no more when it has ended.
    while !conductor.is_known(stage) && conductor.phase() < Phase::Ended {
        thread::sleep(Duration::from_millis(1));
    }
}

fn plan() -> Plan {
    Plan {
        sessions: SESSIONS,
        rate: 100_000,
        churn: 2_000,
        frame_bytes: frame::SMALLEST,
        burst: 32,
        warm_up: Duration::from_millis(50),
        measure: Duration::from_millis(300),
        drain: Duration::from_secs(1),
        stall: Duration::from_micros(50),
        rest: true,
    }
}

fn topology() -> Topology {
    let vm = |number: usize| Vm {
        port: number,
        mac: VMS[number],
        address: LOCATORS[number],
        gateway: ACCESS,
    };
    Topology {
        managed: MANAGED,
        client: Clients { mac: CLIENT, gateway: UPLINK },
        source: vm(0),
        destination: vm(1),
    }
}

/// Uplink, source, destination: one end.
fn devices(dir: &Path, role: &str) -> [String; 3] {
    std::array::from_fn(|id| {
        // Device names are unique in the process, both ends included.
        let number = id + if role == "server" { 10 } else { 0 };
        let socket = dir.join(format!("{id}.sock"));
        format!(
            "net_memif{number},role={role},id={id},socket={},socket-abstract=no,rsize=11",
            socket.display()
        )
    })
}

/// Lcores for the box and the generator, on whatever CPUs this process may use.
fn arguments() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let lcores = format!("--lcores=(0-2)@({})", cpus.expect("CPUs").trim());
    let fixed = "test --no-huge --no-shconf -m 128 --no-pci --no-telemetry --log-level=error";
    fixed.split(' ').map(str::to_owned).chain([lcores]).collect()
}

/// Sessions stick to the VM they began at; new ones go to the destination after the cutover.
struct SmallBox {
    /// Uplink, source, destination.
    queues: Vec<QueuePair>,
    /// By number of the client.
    owners: Vec<usize>,
    has_cut_over: Arc<AtomicBool>,
    wrong: Wrong,
    packets: u64,
    /// A packet to be sent after the next of its session.
    kept: Option<(usize, Mbuf)>,
}

impl SmallBox {
    fn run(&mut self, is_over: &AtomicBool) {
        while !is_over.load(Relaxed) {
            let mut received = 0;
            for port in 0..self.queues.len() {
                let mut burst = Burst::<32>::new();
                received += self.queues[port].rx.rx_burst(&mut burst);
                for mut mbuf in burst.drain() {
                    if let Some(out) = self.rewrite(port, &mut mbuf) {
                        self.send(out, mbuf);
                    }
                }
            }
            if received == 0 {
                thread::yield_now();
            }
        }
        self.kept = None;
    }

    /// Rewrite a frame that came in by `port`. Where it goes.
    fn rewrite(&mut self, port: usize, mbuf: &mut Mbuf) -> Option<usize> {
        let segment = frame::read(mbuf.data())?;
        let mut head = segment.head;
        let out = if port == 0 {
            let owner = &mut self.owners[client::number(head.source)? as usize];
            let has_cut_over = self.has_cut_over.load(Relaxed);
            if head.flags & flags::SYN != 0 || (self.wrong == Wrong::Forgets && has_cut_over) {
                *owner = usize::from(has_cut_over);
            }
            (head.source_mac, head.destination_mac) = (ACCESS, VMS[*owner]);
            if self.wrong != Wrong::Passes {
                head.destination.0 = LOCATORS[*owner];
            }
            1 + *owner
        } else {
            (head.source_mac, head.destination_mac) = (UPLINK, CLIENT);
            head.source.0 = MANAGED.0;
            0
        };
        frame::write(mbuf.data_mut(), &head, segment.tag.as_ref());
        frame::stamp(mbuf.data_mut(), segment.tag.map_or(0, |tag| tag.stamp));
        Some(out)
    }

    fn send(&mut self, out: usize, mut mbuf: Mbuf) {
        self.packets += 1;
        let is_victim = self.packets.is_multiple_of(1000);
        let ends = frame::peek(mbuf.data());
        match self.wrong {
            Wrong::Loses if is_victim => return,
            Wrong::Spoils if is_victim => mbuf.data_mut()[50] ^= 0x10,
            // A client's data: another segment of the session will come, its FIN at least.
            Wrong::Reorders
                if self.kept.is_none() && mbuf.data()[47] == flags::PSH | flags::ACK =>
            {
                self.kept = Some((out, mbuf));
                return;
            }
            _ => {}
        }
        self.transmit(out, mbuf);
        let is_next = |(_, kept): &mut (usize, Mbuf)| frame::peek(kept.data()) == ends;
        if let Some((out, kept)) = self.kept.take_if(is_next) {
            self.transmit(out, kept);
        }
    }

    fn transmit(&mut self, out: usize, mbuf: Mbuf) {
        let mut burst = Burst::<1>::new();
        burst.push(mbuf).expect("room for one");
        while self.queues[out].tx.tx_drain(&mut burst) == 0 {
            thread::yield_now();
        }
    }
}
