//! Programs that forward a capture's packets, `net_pcap` with `infinite_rx=1` in and `net_null` out, or the generator's.

pub mod api;
pub mod nftables;
pub mod openvswitch;
pub mod peer;
pub mod pktgen;
pub mod testpmd;
pub mod tidegated;
pub mod wires;

use std::{path::PathBuf, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_lab::process;

use crate::{frame::Family, runner::Reading, waiting::waited_ns};

/// A running program under measurement.
pub trait Subject {
    /// Its name in tables.
    fn name(&self) -> &str;
    /// Packets it has forwarded.
    ///
    /// # Errors
    /// When it does not say.
    fn reading(&mut self) -> anyhow::Result<Reading>;
    /// Whether it really did the work that is claimed, since it was started.
    ///
    /// # Errors
    /// When it did not; with what it did instead.
    fn verify(&mut self) -> anyhow::Result<()>;
    /// Processes that stand still while others are measured.
    fn pids(&self) -> Vec<u32>;
    /// Whether threads that are bound to the measured CPU and never sleep do all its work: it is known then how long
    /// others had the CPU.
    fn polls(&self) -> bool {
        true
    }

    /// Nanoseconds it had to wait for the measured CPU since it began.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn waited_ns(&self) -> anyhow::Result<u64> {
        self.pids().into_iter().map(waited_ns).sum()
    }

    /// Stand still.
    ///
    /// # Errors
    /// When it has ended.
    fn pause(&mut self) -> anyhow::Result<()> {
        signal(&self.pids(), Signal::STOP)
    }

    /// Go on.
    ///
    /// # Errors
    /// When it has ended.
    fn resume(&mut self) -> anyhow::Result<()> {
        signal(&self.pids(), Signal::CONT)
    }
}

/// Where a bench's subjects keep their files, and what they are fed.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The capture.
    pub capture: PathBuf,
    /// Packets in it.
    pub packets: u32,
    /// Distinct sessions in it.
    pub sessions: u32,
    /// Their IP version.
    pub family: Family,
    /// Whether they are more than begun for a box that hears clients only: of TCP a segment says so, of UDP only an answer.
    pub are_answered: bool,
    /// Directory for sockets, logs and databases.
    pub dir: PathBuf,
}

impl Feed {
    /// Device string that receives the capture again and again.
    #[must_use]
    pub fn device(&self) -> String {
        format!("net_pcap0,rx_pcap={},tx_iface=lo,infinite_rx=1", self.capture.display())
    }

    /// Packet buffers that hold the whole capture, and what is under way.
    #[must_use]
    pub fn mbufs(&self) -> u32 {
        self.packets + self.packets / 16 + 16_384
    }

    /// Sessions a box must have room for: a third more than there are, as an operator leaves it, and with those that are only
    /// begun in the quarter that such may have.
    #[must_use]
    pub fn room(&self) -> u32 {
        let of_all = if self.are_answered { 1 } else { 4 };
        of_all * (self.sessions + self.sessions / 3)
    }

    /// Hugepage memory for so many packet buffers, and the rings.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        mbufs_mib(self.mbufs()) + 192
    }
}

/// Memory of so many packet buffers of 2 KiB with their headers.
#[must_use]
pub fn mbufs_mib(mbufs: u32) -> u32 {
    (u64::from(mbufs) * 2560 / (1 << 20)) as u32
}

fn signal(pids: &[u32], signal: Signal) -> anyhow::Result<()> {
    for &pid in pids {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or_else(|| anyhow::anyhow!("no process"))?, signal)?;
    }
    Ok(())
}

/// Run a helper to its end.
///
/// # Errors
/// When it fails.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    process::run(Command::new(program).args(arguments))
}
