//! What the workers are started with.

use tidegate_dataplane::{counters::MAX_PORTS, packet::Mac, pipeline::Capacity};
use tidegate_dpdk::{NO_PCI_DEVICE, is_pci};

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll on: least latency, one CPU in full use.
    Poll,
    /// Sleep, longer the longer nothing comes, up to a fraction of a millisecond.
    Sleep,
}

/// What routes are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// DPDK's longest-prefix tables: one or two reads for a lookup, and about 250 MiB of EAL's memory.
    Lpm,
    /// Maps by prefix length: for few routes and little memory.
    Map,
}

/// A port to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device string: a virtual device such as `net_tap0,iface=x`, or a PCI address.
    pub device: String,
    /// MAC to set; `None` keeps the device's.
    pub mac: Option<Mac>,
    /// The port, by its position and before this one, whose MAC it shall have instead: of a twin.
    pub mac_of: Option<usize>,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// How the workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// Packet memory from hugepages; otherwise from ordinary pages.
    pub hugepages: bool,
    /// Packet memory, MiB.
    pub memory_mib: u32,
    /// Packet buffers; `None` for as many as the ports' queues need.
    pub mbufs: Option<u32>,
    /// What routes are kept in.
    pub routes: Routes,
    /// Further EAL arguments, as they are.
    pub eal_args: Vec<String>,
    /// One worker per CPU listed.
    pub cpus: Vec<u32>,
    /// What to do when there is nothing to do.
    pub idle: Idle,
    /// Sessions each worker has room for.
    pub sessions: Capacity,
    /// Ports there are from the start, numbered by position.
    pub ports: Vec<PortSpec>,
    /// The most ports there may be at one time, never fewer than `ports` has: packet buffers are kept for so many.
    pub max_ports: u16,
}

impl WorkersConfig {
    /// The arguments EAL is started with.
    pub(crate) fn eal_arguments(&self) -> Vec<String> {
        let mut args = vec!["tidegated".to_owned(), self.lcores()];
        // Nothing of this process is shared with another one, and no file of it outlives it.
        let alone: &[&str] =
            if self.hugepages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
        args.extend(alone.iter().map(|&arg| arg.to_owned()));
        args.push("--no-telemetry".to_owned());
        args.extend(["-m".to_owned(), self.memory_mib.to_string()]);
        // Of the PCI bus only what is listed, now; ports that are added later may name others.
        let pci = self.ports.iter().map(|port| port.device.as_str()).filter(|name| is_pci(name));
        let allowed = pci.chain([NO_PCI_DEVICE]);
        args.extend(allowed.flat_map(|device| ["-a".to_owned(), device.to_owned()]));
        args.extend(self.eal_args.iter().cloned());
        args
    }

    /// The numbers there are for ports.
    pub(crate) fn port_slots(&self) -> u16 {
        self.max_ports.max(self.ports.len() as u16).min(MAX_PORTS as u16)
    }

    /// Lcore 0 is the control core's thread, which belongs to no CPU in particular; worker n is lcore n + 1.
    fn lcores(&self) -> String {
        let allowed = core_affinity::get_core_ids().unwrap_or_default();
        let mut control: Vec<_> = allowed.iter().map(|cpu| cpu.id.to_string()).collect();
        if control.is_empty() {
            control.push("0".to_owned());
        }
        let workers = self.cpus.iter().zip(1..).map(|(cpu, lcore)| format!(",{lcore}@{cpu}"));
        format!("--lcores=0@({}){}", control.join(","), workers.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_follow_the_configuration() {
        let port = |device: &str| PortSpec {
            name: "p".into(),
            device: device.into(),
            mac: None,
            mac_of: None,
            mtu: 1500,
        };
        let mut config = WorkersConfig {
            hugepages: false,
            memory_mib: 64,
            mbufs: None,
            routes: Routes::Map,
            eal_args: vec!["--log-level=4".into()],
            cpus: vec![0, 0],
            idle: Idle::Sleep,
            sessions: Capacity { v4: 16, v6: 16 },
            ports: vec![port("net_null0")],
            max_ports: 2,
        };
        let args = config.eal_arguments();
        assert!(args[1].ends_with(",1@0,2@0"), "{args:?}");
        for wanted in ["--no-huge", "--no-shconf", "--log-level=4"] {
            assert!(args.iter().any(|arg| arg == wanted), "{wanted} in {args:?}");
        }
        let allowed = |args: &[String]| -> Vec<String> {
            let pairs = args.windows(2).filter(|pair| pair[0] == "-a");
            pairs.map(|pair| pair[1].clone()).collect()
        };
        assert_eq!(allowed(&args), [NO_PCI_DEVICE], "without any, DPDK takes every card it can");
        config.hugepages = true;
        config.ports.push(port("0000:03:00.0"));
        let args = config.eal_arguments();
        assert!(!args.iter().any(|arg| arg == "--no-huge" || arg == "--no-pci"));
        assert_eq!(allowed(&args), ["0000:03:00.0", NO_PCI_DEVICE]);
    }
}
