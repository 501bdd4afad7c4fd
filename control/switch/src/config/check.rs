//! Turns the written file into valid types, or says where it cannot.

use std::{
    collections::HashMap,
    fmt::{self, Display},
    net::IpAddr,
    ops::{Range, RangeInclusive},
    path::Path,
    str::FromStr,
};

use tidegate_api::endpoint::Endpoint;
use tidegate_dataplane::{counters::MAX_PORTS, pipeline::Capacity, steering::Timeouts};
use toml::Spanned;

use super::{Config, ConfigError, Eal, Idle, RoutesIn, Workers, file};
use crate::steering::{NAME_RULE, is_name, is_unicast, is_unicast_on_link};

/// Highest number of a CPU that an affinity mask can name (CPU_SETSIZE).
const MAX_CPU: u32 = 1023;
const SESSIONS: RangeInclusive<u32> = 1_024..=16_777_216;
const MEMORY_MIB: RangeInclusive<u32> = 16..=1_048_576;
const MBUFS: RangeInclusive<u32> = 2048..=16_777_215;
/// Ports that may be added while the box runs, when nothing is said: a destination for each of a few migrations.
const PORTS_TO_COME: u16 = 4;
/// A second to a week.
const TIMEOUT_S: RangeInclusive<u64> = 1..=604_800;

/// The checks of one file.
pub(super) struct Check<'a> {
    path: &'a Path,
    text: &'a str,
    /// Who has an address already.
    pub(super) addresses: HashMap<IpAddr, Owner>,
}

/// Who has an address.
pub(super) enum Owner {
    /// The port with this name.
    Port(String),
    /// It is managed.
    Managed,
    /// A backend of this managed address.
    BackendOf(IpAddr),
}

impl Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => write!(f, "an address of port `{name}`"),
            Self::Managed => f.write_str("a managed address"),
            Self::BackendOf(address) => write!(f, "the locator of a backend of {address}"),
        }
    }
}

pub(super) type Checked<T> = Result<T, ConfigError>;

impl<'a> Check<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, addresses: HashMap::new() }
    }

    pub(super) fn config(mut self, file: file::File) -> Checked<Config> {
        let eal = self.eal(file.eal, file.port.len())?;
        let workers = self.workers(&file.workers)?;
        let listen = self.listen(&file.api)?;
        let timeouts = self.timeouts(&file.timeouts)?;
        let routes_in = match file.routes.table {
            Some(file::Table::Map) => RoutesIn::Map,
            Some(file::Table::Lpm) | None => RoutesIn::Lpm,
        };
        let ports = self.ports(&file.port)?;
        let addresses = self.managed(&file.address, &ports)?;
        let neighbours = self.neighbours(&file.neighbour, &ports)?;
        let routes = self.routes(&file.route, &ports, &neighbours)?;
        Ok(Config {
            eal,
            workers,
            listen,
            routes_in,
            timeouts,
            ports,
            neighbours,
            routes,
            addresses,
        })
    }

    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.path, self.text, span, message)
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(&self, text: &Spanned<String>) -> Checked<T> {
        text.get_ref().parse().map_err(|error: T::Err| self.error(text.span(), error.to_string()))
    }

    /// An address that one machine has, and others beyond its link can name.
    pub(super) fn ip(&self, text: &Spanned<String>) -> Checked<IpAddr> {
        let address = self.ip_on_link(text)?;
        if is_unicast(address) {
            return Ok(address);
        }
        let message = format!("{address} means something on its own link only; use another");
        Err(self.error(text.span(), message))
    }

    /// An address that one machine has on a link.
    pub(super) fn ip_on_link(&self, text: &Spanned<String>) -> Checked<IpAddr> {
        let address: IpAddr = text.get_ref().parse().map_err(|_| {
            let message = format!(
                "`{}` is not an IP address; write it as in 10.0.0.1 or 2001:db8::1",
                text.get_ref()
            );
            self.error(text.span(), message)
        })?;
        if !is_unicast_on_link(address) {
            let message =
                format!("{address} is not an address one machine can have; use a unicast address");
            return Err(self.error(text.span(), message));
        }
        Ok(address)
    }

    pub(super) fn within<T: PartialOrd + Display + Copy>(
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

    pub(super) fn name(&self, what: &str, text: &Spanned<String>) -> Checked<String> {
        if is_name(text.get_ref()) {
            return Ok(text.get_ref().clone());
        }
        Err(self.error(
            text.span(),
            format!("`{}` cannot be a {what}'s name; {NAME_RULE}", text.get_ref()),
        ))
    }

    /// Note that `owner` has `address`, unless somebody else does.
    pub(super) fn claim(
        &mut self,
        address: IpAddr,
        span: Range<usize>,
        owner: Owner,
    ) -> Checked<()> {
        if let Some(other) = self.addresses.get(&address) {
            let message = format!(
                "{address} is already {other}; each address can be used once, choose another"
            );
            return Err(self.error(span, message));
        }
        self.addresses.insert(address, owner);
        Ok(())
    }

    fn eal(&self, eal: file::Eal, ports: usize) -> Checked<Eal> {
        let memory_mib = match &eal.memory_mib {
            Some(memory) => self.within("memory_mib", memory, &MEMORY_MIB)?,
            None => 512,
        };
        let mbufs = match &eal.mbufs {
            Some(mbufs) => Some(self.within("mbufs", mbufs, &MBUFS)?),
            None => None,
        };
        // More than a box can have is refused where the ports are.
        let listed = ports.min(MAX_PORTS) as u16;
        let max_ports = match &eal.max_ports {
            Some(most) => self.within("max_ports", most, &(listed.max(1)..=MAX_PORTS as u16))?,
            None => (listed + PORTS_TO_COME).min(MAX_PORTS as u16),
        };
        let hugepages = eal.hugepages.unwrap_or(true);
        Ok(Eal { hugepages, memory_mib, mbufs, max_ports, args: eal.args })
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
        let room = |key, written: &Option<Spanned<u32>>, usual| match written {
            Some(sessions) => self.within(key, sessions, &SESSIONS),
            None => Ok(usual),
        };
        let sessions = Capacity {
            v4: room("sessions", &workers.sessions, 65_536)?,
            v6: room("sessions_ipv6", &workers.sessions_ipv6, 16_384)?,
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
            ("tcp_syn", &file.tcp_syn, &mut timeouts.tcp_syn_ms),
            ("tcp_opening", &file.tcp_opening, &mut timeouts.tcp_opening_ms),
            ("tcp_established", &file.tcp_established, &mut timeouts.tcp_established_ms),
            ("tcp_closing", &file.tcp_closing, &mut timeouts.tcp_closing_ms),
            ("tcp_reset", &file.tcp_reset, &mut timeouts.tcp_reset_ms),
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
}
