//! DPDK's start and the ports of the generator.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tidegate_dpdk::{Eal, PktMbufPool, PoolConfig, Port, PortConfig, QueuePair, is_pci};

/// How often links are looked at.
const LINK_POLL: Duration = Duration::from_millis(5);

/// How DPDK is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its CPU.
    pub cpu: usize,
    /// Packet memory from hugepages; otherwise from ordinary pages.
    pub hugepages: bool,
    /// Packet memory, MiB.
    pub memory_mib: u32,
    /// Packet buffers.
    pub mbufs: u32,
    /// Further EAL arguments, as they are.
    pub eal_args: Vec<String>,
}

/// The ports, as DPDK device strings.
#[derive(Clone, Debug)]
pub struct Devices {
    /// To the box's uplink.
    pub client: String,
    /// To its access ports.
    pub vms: Vec<String>,
}

/// The generator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// DPDK's reason.
    #[error("{0}")]
    Dpdk(#[from] tidegate_dpdk::Error),
    /// Sessions.
    #[error("no memory for {0} sessions: {1}; ask for fewer")]
    Sessions(u32, io::Error),
    /// Nobody is at the other end of a port.
    #[error(
        "port {0} has no link after {1:?}: is the box running, with the other end of this device?"
    )]
    NoLink(String, Duration),
}

/// An open port with one queue pair.
pub(crate) struct Opened {
    pub(crate) port: Port,
    pub(crate) queues: QueuePair,
}

impl Start {
    /// The arguments EAL is started with, for these devices.
    #[must_use]
    pub fn eal_arguments(&self, devices: &Devices) -> Vec<String> {
        let mut args = vec!["tidegate-pktgen".to_owned(), format!("--lcores=0@{}", self.cpu)];
        let alone: &[&str] =
            if self.hugepages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
        args.extend(alone.iter().map(|&arg| arg.to_owned()));
        args.extend(["--no-telemetry".to_owned(), "-m".to_owned(), self.memory_mib.to_string()]);
        let pci: Vec<_> = devices.all().filter(|device| is_pci(device)).collect();
        if pci.is_empty() {
            args.push("--no-pci".to_owned());
        }
        args.extend(pci.into_iter().flat_map(|device| ["-a".to_owned(), device.clone()]));
        args.extend(self.eal_args.iter().cloned());
        args
    }

    pub(crate) fn pool(&self, eal: &Eal) -> Result<PktMbufPool, StartError> {
        let config = PoolConfig { mbufs: self.mbufs, ..PoolConfig::default() };
        Ok(eal.create_pool("generator", &config)?)
    }
}

impl Devices {
    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.client).chain(&self.vms)
    }

    /// Open them all, the clients' first, and wait until every link is up.
    pub(crate) fn open(
        &self,
        eal: &Eal,
        pool: &PktMbufPool,
        patience: Duration,
    ) -> Result<Vec<Opened>, StartError> {
        let opened: Vec<_> =
            self.all().map(|device| open(eal, device, pool)).collect::<Result<_, _>>()?;
        let end = Instant::now() + patience;
        for Opened { port, .. } in &opened {
            while !port.link()?.up {
                if Instant::now() > end {
                    return Err(StartError::NoLink(port.name().to_owned(), patience));
                }
                thread::sleep(LINK_POLL);
            }
        }
        Ok(opened)
    }
}

/// Promiscuous: several MACs may be played behind one port.
fn open(eal: &Eal, device: &str, pool: &PktMbufPool) -> Result<Opened, tidegate_dpdk::Error> {
    if !is_pci(device) {
        eal.attach(device)?;
    }
    let port = eal.port(device)?;
    let config = PortConfig { promiscuous: true, ..PortConfig::default() };
    let mut queues = port.start(&config, pool)?;
    // One queue pair was asked for.
    Ok(Opened { queues: queues.swap_remove(0), port })
}
