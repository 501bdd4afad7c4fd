//! DPDK's own forwarder: what the port can do without any session.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Feed, Subject, peer,
    wires::{self, Wire, Wires},
};
use crate::{
    frame,
    machine::{CONTROL_CPU, WORKER_CPU},
    runner::Reading,
};

const READY: Duration = Duration::from_secs(120);

/// A running testpmd, port 0 receiving and port 1 sending.
pub struct Testpmd {
    name: String,
    child: Child,
    orders: ChildStdin,
    log: PathBuf,
    /// Counters when it was ready: what it received ahead, to fill its buffers, it does not send.
    ready: Ports,
}

/// Counters of both ports.
#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    received: u64,
    sent: u64,
}

impl Testpmd {
    /// Start it in a forwarding mode (`macswap`, `5tswap`, `io`), sending to a device.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(mode: &str, feed: &Feed, out: &str) -> anyhow::Result<Self> {
        let buffers = feed.mbufs();
        let devices = [feed.device(), out.to_owned()];
        let options = [format!("--total-num-mbufs={buffers}")];
        Self::spawn(mode, &feed.dir, feed.memory_mib(), &devices, &options)
    }

    /// Start it between the ends of `wires`: as the clients' and the source's next hop. The destination's port is polled,
    /// and nothing goes there.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn on_wires(wires: &Wires) -> anyhow::Result<Self> {
        let devices: Vec<_> = Wire::ALL.iter().map(|&wire| wires.subject(wire)).collect();
        let peers = [
            format!("--eth-peer=0,{}", frame::CLIENT_MAC),
            format!("--eth-peer=1,{}", frame::SOURCE_MAC),
        ];
        Self::spawn("mac", wires.dir(), wires::MEMORY_MIB, &devices, &peers)
    }

    fn spawn(
        mode: &str,
        dir: &Path,
        memory_mib: u32,
        devices: &[String],
        options: &[String],
    ) -> anyhow::Result<Self> {
        let dir = dir.join(format!("testpmd-{mode}"));
        fs::create_dir_all(&dir)?;
        let log = dir.join("testpmd.log");
        let file = File::create(&log)?;
        let (program, stdbuf) = (peer::TESTPMD.find()?, peer::STDBUF.find()?);
        // Its log is a file, and must not wait in a buffer.
        let mut command = Command::new(stdbuf);
        command.arg("-oL").arg(program).args([
            format!("--lcores=0@{CONTROL_CPU},1@{WORKER_CPU}"),
            "--in-memory".to_owned(),
            "--no-telemetry".to_owned(),
            "--no-pci".to_owned(),
            format!("-m{memory_mib}"),
        ]);
        command.args(devices.iter().map(|device| format!("--vdev={device}")));
        command.args([
            "--".to_owned(),
            "-i".to_owned(),
            "--nb-cores=1".to_owned(),
            format!("--forward-mode={mode}"),
            "--port-topology=paired".to_owned(),
        ]);
        command.args(options);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn().context("start testpmd")?;
        let orders = child.stdin.take().context("no way to give orders")?;
        let mut this =
            Self { name: format!("testpmd {mode}"), child, orders, log, ready: Ports::default() };
        this.order("start\nshow port stats all\n")?;
        this.ready = this.answer(0, READY)?;
        Ok(this)
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn order(&mut self, text: &str) -> anyhow::Result<()> {
        self.orders.write_all(text.as_bytes())?;
        self.orders.flush()?;
        Ok(())
    }

    /// The statistics printed after the first `from` bytes of its log.
    fn answer(&mut self, from: usize, limit: Duration) -> anyhow::Result<Ports> {
        let end = Instant::now() + limit;
        loop {
            let printed = self.printed();
            if let Some(ports) = parse(printed.get(from..).unwrap_or_default()) {
                return Ok(ports);
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended ({status}):\n{printed}", self.name);
            }
            anyhow::ensure!(Instant::now() < end, "{} is silent:\n{printed}", self.name);
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn ports(&mut self) -> anyhow::Result<Ports> {
        let from = self.printed().len();
        self.order("show port stats all\n")?;
        self.answer(from, Duration::from_secs(10))
    }
}

/// Port 0's received and port 1's sent packets, once both are printed in full.
fn parse(text: &str) -> Option<Ports> {
    let (_, after) = text.split_once("NIC statistics for port 0")?;
    let (first, second) = after.split_once("NIC statistics for port 1")?;
    // The line after the last that is wanted must be there, so that no number is cut.
    second.split_once("Tx-bps")?;
    let number = |text: &str, name: &str| -> Option<u64> {
        text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
    };
    Some(Ports { received: number(first, "RX-packets:")?, sent: number(second, "TX-packets:")? })
}

impl Subject for Testpmd {
    fn name(&self) -> &str {
        &self.name
    }

    fn reading(&mut self) -> anyhow::Result<Reading> {
        Reading::take(|| Ok(self.ports()?.sent))
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let ports = self.ports()?;
        let (received, sent) = (ports.received - self.ready.received, ports.sent - self.ready.sent);
        anyhow::ensure!(
            sent > 0 && sent.abs_diff(received) <= received / 100,
            "{} received {received} packets and sent {sent}",
            self.name
        );
        // What it said when it was told to start.
        let mode = self.name.trim_start_matches("testpmd ");
        let said = self.printed();
        anyhow::ensure!(
            said.lines().any(|line| line.contains(&format!("{mode} packet forwarding"))),
            "{} does not say that it forwards so:\n{said}",
            self.name
        );
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.child.id()]
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
  ######################## NIC statistics for port 0  ########################
  RX-packets: 12345      RX-missed: 0          RX-bytes:  740700
  RX-errors: 0
  RX-nombuf:  0
  TX-packets: 0          TX-errors: 0          TX-bytes:  0

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  RX-packets: 0          RX-missed: 0          RX-bytes:  0
  TX-packets: 12340      TX-errors: 0          TX-bytes:  740400

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
";

    #[test]
    fn statistics_are_read_whole_or_not() {
        let ports = parse(PRINTED).expect("complete");
        assert_eq!((ports.received, ports.sent), (12_345, 12_340));
        let cut = PRINTED.find("12340").expect("there") + 2;
        assert!(parse(&PRINTED[..cut]).is_none());
    }
}
