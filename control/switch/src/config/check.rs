//! Turns the written file into valid types, or says where it cannot.

use std::{
    collections::HashMap,
    fmt::Display,
    net::Ipv4Addr,
    ops::{Range, RangeInclusive},
    path::Path,
    str::FromStr,
};

use tidegate_api::endpoint::Endpoint;
use tidegate_dataplane::{
    counters::MAX_PORTS,
    packet::Mac,
    steering::{Ipv4Prefix, Neighbour, NextHop, PortId, PortRole, Rewrite, Timeouts},
};
use toml::Spanned;

use super::{Config, ConfigError, Eal, Idle, InterfaceAddress, PortConfig, Workers, file};
use crate::steering::{BackendSpec, NAME_RULE, is_name};

/// Highest number of a CPU that an affinity mask can name (CPU_SETSIZE).
const MAX_CPU: u32 = 1023;
const SESSIONS: RangeInclusive<u32> = 1_024..=16_777_216;
const MEMORY_MIB: RangeInclusive<u32> = 16..=1_048_576;
/// A second to a week.
const TIMEOUT_S: RangeInclusive<u64> = 1..=604_800;

/// The checks of one file.
pub(super) struct Check<'a> {
    path: &'a Path,
    text: &'a str,
    /// Who has an address already.
    addresses: HashMap<u32, String>,
}

type Checked<T> = Result<T, ConfigError>;

impl<'a> Check<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, addresses: HashMap::new() }
    }

    pub(super) fn config(mut self, file: file::File) -> Checked<Config> {
        let eal = self.eal(file.eal)?;
        let workers = self.workers(&file.workers)?;
        let listen = self.listen(&file.api)?;
        let timeouts = self.timeouts(&file.timeouts)?;
        let ports = self.ports(&file.port)?;
        let addresses = self.managed(&file.address, &ports)?;
        let neighbours = self.neighbours(&file.neighbour, &ports)?;
        let routes = self.routes(&file.route, &ports, &neighbours)?;
        Ok(Config { eal, workers, listen, timeouts, ports, neighbours, routes, addresses })
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.path, self.text, span, message)
    }

    fn parse<T: FromStr<Err: Display>>(&self, text: &Spanned<String>) -> Checked<T> {
        text.get_ref().parse().map_err(|error: T::Err| self.error(text.span(), error.to_string()))
    }

    fn ipv4(&self, text: &Spanned<String>) -> Checked<u32> {
        let address: Ipv4Addr = text.get_ref().parse().map_err(|_| {
            let message =
                format!("`{}` is not an IPv4 address; write it as in 10.0.0.1", text.get_ref());
            self.error(text.span(), message)
        })?;
        if address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_loopback()
        {
            let message = format!(
                "{address} is not an address one machine can have on a link; use a unicast address"
            );
            return Err(self.error(text.span(), message));
        }
        Ok(address.to_bits())
    }

    fn within<T: PartialOrd + Display + Copy>(
        &self,
        key: &str,
        value: &Spanned<T>,
        range: &RangeInclusive<T>,
    ) -> Checked<T> {
        if range.contains(value.get_ref()) {
            return Ok(*value.get_ref());
        }
        let (low, high) = (range.start(), range.end());
        let message = format!("{key} = {} is out of range; use {low} to {high}", value.get_ref());
        Err(self.error(value.span(), message))
    }

    fn name(&self, what: &str, text: &Spanned<String>) -> Checked<String> {
        if is_name(text.get_ref()) {
            return Ok(text.get_ref().clone());
        }
        Err(self.error(
            text.span(),
            format!("`{}` cannot be a {what}'s name; {NAME_RULE}", text.get_ref()),
        ))
    }

    /// Note that `owner` has `address`, unless somebody else does.
    fn claim(&mut self, address: u32, span: Range<usize>, owner: String) -> Checked<()> {
        if let Some(other) = self.addresses.get(&address) {
            let address = Ipv4Addr::from_bits(address);
            let message = format!(
                "{address} is already the {other}; each address can be used once, choose another"
            );
            return Err(self.error(span, message));
        }
        self.addresses.insert(address, owner);
        Ok(())
    }

    fn eal(&self, eal: file::Eal) -> Checked<Eal> {
        let memory_mib = match &eal.memory_mib {
            Some(memory) => self.within("memory_mib", memory, &MEMORY_MIB)?,
            None => 256,
        };
        Ok(Eal { hugepages: eal.hugepages.unwrap_or(true), memory_mib, args: eal.args })
    }

    fn workers(&self, workers: &file::Workers) -> Checked<Workers> {
        let mut cpus = Vec::new();
        match &workers.cpus {
            None => cpus.push(0),
            Some(listed) => {
                for cpu in listed.get_ref() {
                    let number = self.within("a CPU", cpu, &(0..=MAX_CPU))?;
                    if cpus.contains(&number) {
                        let message = format!(
                            "CPU {number} is listed twice; each worker needs a CPU of its own"
                        );
                        return Err(self.error(cpu.span(), message));
                    }
                    cpus.push(number);
                }
                if cpus.is_empty() {
                    return Err(self.error(
                        listed.span(),
                        "cpus is empty; list one CPU per worker, as in cpus = [0]",
                    ));
                }
            }
        }
        let idle = match workers.idle {
            Some(file::Idle::Poll) => Idle::Poll,
            Some(file::Idle::Sleep) | None => Idle::Sleep,
        };
        let sessions = match &workers.sessions {
            Some(sessions) => self.within("sessions", sessions, &SESSIONS)?,
            None => 65_536,
        };
        Ok(Workers { cpus, idle, sessions })
    }

    fn listen(&self, api: &file::Api) -> Checked<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for text in api.listen.get_ref() {
            let endpoint: Endpoint = self.parse(text)?;
            if endpoints.contains(&endpoint) {
                return Err(
                    self.error(text.span(), format!("{endpoint} is listed twice; remove one"))
                );
            }
            endpoints.push(endpoint);
        }
        if endpoints.is_empty() {
            let message = "listen is empty; name at least one endpoint, as in listen = [\"unix:/run/tidegate/tidegated.sock\"]";
            return Err(self.error(api.listen.span(), message));
        }
        Ok(endpoints)
    }

    fn timeouts(&self, file: &file::Timeouts) -> Checked<Timeouts> {
        let mut timeouts = Timeouts::default();
        let keys = [
            ("tcp_opening", &file.tcp_opening, &mut timeouts.tcp_opening_ms),
            ("tcp_established", &file.tcp_established, &mut timeouts.tcp_established_ms),
            ("tcp_closing", &file.tcp_closing, &mut timeouts.tcp_closing_ms),
            ("linger", &file.linger, &mut timeouts.linger_ms),
            ("udp", &file.udp, &mut timeouts.udp_ms),
            ("icmp_echo", &file.icmp_echo, &mut timeouts.echo_ms),
        ];
        for (key, seconds, milliseconds) in keys {
            if let Some(seconds) = seconds {
                *milliseconds = self.within(key, seconds, &TIMEOUT_S)? * 1000;
            }
        }
        Ok(timeouts)
    }

    fn ports(&mut self, file: &[file::Port]) -> Checked<Vec<PortConfig>> {
        if file.is_empty() {
            return Err(self.error(0..0, "there is no [[port]]; the box needs at least one"));
        }
        if let Some(one_too_many) = file.get(MAX_PORTS) {
            let message =
                format!("there are {} ports; a box can have {MAX_PORTS}, remove some", file.len());
            return Err(self.error(one_too_many.name.span(), message));
        }
        let mut ports: Vec<PortConfig> = Vec::new();
        for written in file {
            let name = self.name("port", &written.name)?;
            if ports.iter().any(|port| port.name == name) {
                let message = format!("two ports are named `{name}`; give each its own name");
                return Err(self.error(written.name.span(), message));
            }
            let device = self.device(&written.device, &ports)?;
            let mac = written.mac.as_ref().map(|mac| self.parse(mac)).transpose()?;
            let role = match written.role {
                file::Role::Uplink => PortRole::Uplink,
                file::Role::Access => PortRole::Access,
            };
            let mut port = PortConfig { name, device, mac, addresses: Vec::new(), role };
            for text in &written.addresses {
                let address = self.interface_address(text, &port, &ports)?;
                port.addresses.push(address);
            }
            ports.push(port);
        }
        Ok(ports)
    }

    fn device(&self, device: &Spanned<String>, ports: &[PortConfig]) -> Checked<String> {
        let text = device.get_ref();
        if text.is_empty() || text.chars().any(char::is_whitespace) {
            let message = format!(
                "`{text}` is not a DPDK device; write a virtual device as in net_tap0,iface=tg0 or a PCI address"
            );
            return Err(self.error(device.span(), message));
        }
        // EAL knows a virtual device by what stands before its arguments.
        let id = |device: &str| device.split(',').next().map(str::to_owned);
        if let Some(port) = ports.iter().find(|port| id(&port.device) == id(text)) {
            let message = format!(
                "device `{text}` is already port `{}`; give each port its own device",
                port.name
            );
            return Err(self.error(device.span(), message));
        }
        Ok(text.clone())
    }

    /// An address of the box itself. Access ports may share one when they share its prefix and a MAC (anycast gateway).
    fn interface_address(
        &mut self,
        text: &Spanned<String>,
        port: &PortConfig,
        ports: &[PortConfig],
    ) -> Checked<InterfaceAddress> {
        let _: Ipv4Prefix = self.parse(text)?;
        let Some((address, length)) = text.get_ref().split_once('/') else {
            return Err(
                self.error(text.span(), "an address needs its prefix length, as in 10.0.0.1/24")
            );
        };
        let address = self.ipv4(&Spanned::new(text.span(), address.to_owned()))?;
        let prefix_len = length
            .parse()
            .map_err(|_| self.error(text.span(), "the prefix length is not a number"))?;
        let here = InterfaceAddress { address, prefix_len };
        let sharing = ports.iter().find(|other| other.addresses.contains(&here));
        if let Some(other) = sharing {
            let anycast = port.role == PortRole::Access && other.role == PortRole::Access;
            if anycast
                && port.mac.is_some()
                && port.mac == other.mac
                && !port.addresses.contains(&here)
            {
                return Ok(here);
            }
            let message = format!(
                "{here} is already an address of port `{}`; choose another, or make both ports role = \"access\" with the same mac",
                other.name
            );
            return Err(self.error(text.span(), message));
        }
        if let Some(other) =
            ports.iter().find(|other| other.addresses.iter().any(|a| a.prefix() == here.prefix()))
        {
            let message = format!(
                "the prefix of {here} is already on port `{}`; a prefix can be on one link only",
                other.name
            );
            return Err(self.error(text.span(), message));
        }
        self.claim(address, text.span(), format!("address of port `{}`", port.name))?;
        Ok(here)
    }

    fn port(&self, name: &Spanned<String>, ports: &[PortConfig]) -> Checked<PortId> {
        let at = ports.iter().position(|port| port.name == *name.get_ref());
        at.and_then(|at| u16::try_from(at).ok()).map(PortId).ok_or_else(|| {
            let known: Vec<_> = ports.iter().map(|port| format!("`{}`", port.name)).collect();
            let message =
                format!("there is no port `{}`; ports here: {}", name.get_ref(), known.join(", "));
            self.error(name.span(), message)
        })
    }

    fn managed(
        &mut self,
        file: &[file::Address],
        ports: &[PortConfig],
    ) -> Checked<Vec<(u32, BackendSpec)>> {
        let mut managed = Vec::new();
        for written in file {
            let address = self.ipv4(&written.address)?;
            self.claim(address, written.address.span(), "managed address".to_owned())?;
            let home = self.backend(&written.home, ports, address)?;
            managed.push((address, home));
        }
        Ok(managed)
    }

    fn backend(
        &mut self,
        written: &Spanned<file::Backend>,
        ports: &[PortConfig],
        address: u32,
    ) -> Checked<BackendSpec> {
        let backend = written.get_ref();
        let name = self.name("backend", &backend.name)?;
        let port = self.port(&backend.port, ports)?;
        let mac: Mac = self.parse(&backend.mac)?;
        let rewrite = match (&backend.rewrite, &backend.locator) {
            (file::Rewrite::L2, None) => Rewrite::L2,
            (file::Rewrite::L2, Some(locator)) => {
                let message = "locator does not go with rewrite = \"l2\": the guest owns the managed address itself; remove it, or use \"nat\"";
                return Err(self.error(locator.span(), message));
            }
            (file::Rewrite::Nat, None) => {
                let message = "rewrite = \"nat\" needs a locator, the guest's own address, as in locator = \"10.0.1.11\"";
                return Err(self.error(written.span(), message));
            }
            (file::Rewrite::Nat, Some(text)) => {
                let locator = self.ipv4(text)?;
                let owner = format!("locator of {}", Ipv4Addr::from_bits(address));
                self.claim(locator, text.span(), owner)?;
                Rewrite::Nat(locator)
            }
        };
        Ok(BackendSpec { name, port, mac, rewrite })
    }

    fn neighbours(
        &mut self,
        file: &[file::Neighbour],
        ports: &[PortConfig],
    ) -> Checked<Vec<(u32, Neighbour)>> {
        let mut neighbours: Vec<(u32, Neighbour)> = Vec::new();
        for written in file {
            let address = self.ipv4(&written.address)?;
            let mac = self.parse(&written.mac)?;
            let port = self.port(&written.port, ports)?;
            // A locator may be listed: it is a guest on a link like any other.
            let owner = self.addresses.get(&address).filter(|owner| !owner.starts_with("locator"));
            if let Some(owner) = owner {
                let message = format!(
                    "{} is already the {owner}; it cannot be a neighbour, remove it",
                    Ipv4Addr::from_bits(address)
                );
                return Err(self.error(written.address.span(), message));
            }
            if neighbours.iter().any(|(other, _)| *other == address) {
                let message = format!(
                    "neighbour {} is listed twice; remove one",
                    Ipv4Addr::from_bits(address)
                );
                return Err(self.error(written.address.span(), message));
            }
            neighbours.push((address, Neighbour { port, mac }));
        }
        Ok(neighbours)
    }

    fn routes(
        &self,
        file: &[file::Route],
        ports: &[PortConfig],
        neighbours: &[(u32, Neighbour)],
    ) -> Checked<Vec<(Ipv4Prefix, NextHop)>> {
        let mut routes: Vec<(Ipv4Prefix, NextHop)> = Vec::new();
        for written in file {
            let to: Ipv4Prefix = self.parse(&written.to)?;
            let connected = ports
                .iter()
                .any(|port| port.addresses.iter().any(|address| address.prefix() == Some(to)));
            if connected || routes.iter().any(|(other, _)| *other == to) {
                let message = format!("there is already a route to {to}; remove one");
                return Err(self.error(written.to.span(), message));
            }
            let via = self.ipv4(&written.via)?;
            let named = written.port.as_ref().map(|port| self.port(port, ports)).transpose()?;
            let on_link = |port: PortId| {
                let addresses = &ports[usize::from(port.0)].addresses;
                addresses
                    .iter()
                    .any(|address| address.prefix().is_some_and(|prefix| prefix.contains(via)))
                    || neighbours
                        .iter()
                        .any(|(address, neighbour)| *address == via && neighbour.port == port)
            };
            let mut candidates = (0..).take(ports.len()).map(PortId).filter(|port| on_link(*port));
            let port = match named {
                Some(port) => on_link(port).then_some(port),
                None => candidates.next(),
            };
            let Some(port) = port else {
                let message = format!(
                    "{} is on no link of {}; give a port an address in its prefix, or list it as a [[neighbour]]",
                    written.via.get_ref(),
                    written
                        .port
                        .as_ref()
                        .map_or("any port".to_owned(), |port| format!("port `{}`", port.get_ref())),
                );
                return Err(self.error(written.via.span(), message));
            };
            routes.push((to, NextHop { port, via: Some(via) }));
        }
        Ok(routes)
    }
}
