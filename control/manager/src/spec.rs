//! What a migration was asked to do, checked at the edge.

use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use tidegate_api::manager as proto;

use crate::sessions::SessionList;

/// How long a booted destination is given when the order does not say.
const DEFAULT_BOOT_WAIT_S: u32 = 10;

/// Where the destination comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationKind {
    /// Cloned from the source at T0: memory, regions, device state.
    Clone,
    /// Booted fresh with the source's regions as of T0.
    Boot,
}

/// What happens at the end to what the source changed since T0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishMode {
    /// Merged into the destination's regions.
    Merge,
    /// Dropped.
    None,
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is not a MAC address; write six bytes like 02:00:00:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && !part.starts_with('+'))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(format!("`{text}` is no MAC address of a single device"));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A migration's order. Switch and hosts are names in the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The managed address.
    pub address: Ipv4Addr,
    /// The switch box that knows it.
    pub switch: String,
    /// The source's host.
    pub source_host: String,
    /// The source.
    pub source_guest: String,
    /// The destination's host.
    pub destination_host: String,
    /// Name of the guest to be made.
    pub destination_guest: String,
    /// How it is made.
    pub kind: DestinationKind,
    /// What happens at the end.
    pub finish: FinishMode,
    /// Regions to carry over; empty: all the source has.
    pub regions: Vec<String>,
    /// The destination's port on the switch box.
    pub port: String,
    /// The destination's MAC; with a clone, the source's when not given.
    pub mac: Option<Mac>,
    /// The destination's own address: `nat`. None: `l2`.
    pub locator: Option<Ipv4Addr>,
    /// vhost-user socket of that port, on the destination's host.
    pub vhost_socket: PathBuf,
    /// Kernel command line of a booted destination; None: the source's.
    pub cmdline: Option<String>,
    /// Leave the source there, paused.
    pub keep_source: bool,
    /// The switch goes on recording sessions after the release.
    pub keep_tracking: bool,
    /// How long a booted destination is given until it is taken to serve.
    #[serde(default)]
    pub boot_wait_s: u32,
    /// What a booted destination's console shows when it serves; it is waited for instead of `boot_wait_s`.
    #[serde(default)]
    pub ready_text: Option<String>,
    /// Where the list of the source's sessions comes from.
    #[serde(default)]
    pub session_list: SessionList,
    /// When the drain takes longer the migration is aborted.
    pub drain_deadline_s: Option<u32>,
}

/// A field of a migration's order that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The request has no spec.
    #[error("spec: missing")]
    Missing,
    /// A required field is empty.
    #[error("{field}: missing; {remedy}")]
    Empty {
        /// Its name in the API.
        field: &'static str,
        /// What to give.
        remedy: &'static str,
    },
    /// A field's value cannot be read.
    #[error("{field}: {reason}")]
    Value {
        /// Its name in the API.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Source and destination are the same guest.
    #[error(
        "destination_guest: `{guest}` on host `{host}` is the source itself; give the destination a name of its own"
    )]
    SameGuest {
        /// The guest.
        guest: String,
        /// Its host.
        host: String,
    },
    /// A name is not in the inventory.
    #[error("{field}: `{name}` is not configured in this manager; it knows {known}")]
    Unknown {
        /// Its name in the API.
        field: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No name was given and there are several, or none.
    #[error("{field}: which one? This manager knows {known}")]
    Ambiguous {
        /// Its name in the API.
        field: &'static str,
        /// What there is.
        known: String,
    },
}

/// The names a spec may use.
pub trait Names {
    /// Resolve the switch's name; empty when there is only one.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`], [`InvalidSpec::Ambiguous`].
    fn switch_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec>;
    /// Resolve a host's name; empty when there is only one.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`], [`InvalidSpec::Ambiguous`].
    fn host_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec>;
}

impl Spec {
    /// Check the API's form of a spec and fill in what may be left out.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(
        spec: Option<proto::MigrationSpec>,
        names: &impl Names,
    ) -> Result<Self, InvalidSpec> {
        let spec = spec.ok_or(InvalidSpec::Missing)?;
        let kind = match spec.kind() {
            proto::DestinationKind::Clone => DestinationKind::Clone,
            proto::DestinationKind::Boot => DestinationKind::Boot,
            proto::DestinationKind::Unspecified => {
                return Err(InvalidSpec::Empty { field: "kind", remedy: "say CLONE or BOOT" });
            }
        };
        let finish = match spec.finish() {
            proto::FinishMode::None => FinishMode::None,
            proto::FinishMode::Merge | proto::FinishMode::Unspecified => FinishMode::Merge,
        };
        let source_host = names.host_name("source_host", &spec.source_host)?;
        let destination_host = if spec.destination_host.is_empty() {
            source_host.clone()
        } else {
            names.host_name("destination_host", &spec.destination_host)?
        };
        let source_guest =
            required("source_guest", spec.source_guest, "name the guest that has the address")?;
        let destination_guest =
            required("destination_guest", spec.destination_guest, "name the guest to be made")?;
        if source_guest == destination_guest && source_host == destination_host {
            return Err(InvalidSpec::SameGuest { guest: source_guest, host: source_host });
        }
        let mac = optional("destination_mac", &spec.destination_mac)?;
        if mac.is_none() && kind == DestinationKind::Boot {
            let remedy = "a booted destination needs a MAC of its own";
            return Err(InvalidSpec::Empty { field: "destination_mac", remedy });
        }
        let ready_text = Some(spec.destination_ready_text).filter(|text| !text.is_empty());
        if ready_text.is_some() && kind == DestinationKind::Clone {
            return Err(InvalidSpec::Value {
                field: "destination_ready_text",
                reason: "a clone does not boot and prints nothing; leave it out".to_owned(),
            });
        }
        let vhost_socket = PathBuf::from(required(
            "destination_vhost_socket",
            spec.destination_vhost_socket,
            "give the vhost-user socket of the destination's port",
        )?);
        if !vhost_socket.is_absolute() {
            return Err(InvalidSpec::Value {
                field: "destination_vhost_socket",
                reason: format!("`{}` is not an absolute path", vhost_socket.display()),
            });
        }
        let session_list = session_list(spec.session_list, spec.session_list_path)?;
        let address = required("address", spec.address, "give the managed address")?;
        Ok(Self {
            address: ipv4("address", &address)?,
            switch: names.switch_name("switch_name", &spec.switch_name)?,
            source_host,
            source_guest,
            destination_host,
            destination_guest,
            kind,
            finish,
            regions: spec.regions,
            port: required(
                "destination_port",
                spec.destination_port,
                "name the destination's port on the switch",
            )?,
            mac,
            locator: Some(spec.destination_locator)
                .filter(|text| !text.is_empty())
                .map(|text| ipv4("destination_locator", &text))
                .transpose()?,
            vhost_socket,
            cmdline: Some(spec.destination_cmdline).filter(|text| !text.is_empty()),
            keep_source: spec.keep_source,
            keep_tracking: spec.keep_tracking,
            boot_wait_s: match (kind, spec.destination_boot_wait_s) {
                (DestinationKind::Clone, _) => 0,
                (DestinationKind::Boot, _) if ready_text.is_some() => 0,
                (DestinationKind::Boot, 0) => DEFAULT_BOOT_WAIT_S,
                (DestinationKind::Boot, seconds) => seconds,
            },
            ready_text,
            session_list,
            drain_deadline_s: Some(spec.drain_deadline_s).filter(|&seconds| seconds > 0),
        })
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(&self) -> proto::MigrationSpec {
        let kind = match self.kind {
            DestinationKind::Clone => proto::DestinationKind::Clone,
            DestinationKind::Boot => proto::DestinationKind::Boot,
        };
        let finish = match self.finish {
            FinishMode::Merge => proto::FinishMode::Merge,
            FinishMode::None => proto::FinishMode::None,
        };
        let (list, path) = match &self.session_list {
            SessionList::Auto => (proto::SessionList::Auto, String::new()),
            SessionList::Agent => (proto::SessionList::Agent, String::new()),
            SessionList::Conntrack => (proto::SessionList::Conntrack, String::new()),
            SessionList::File(path) => (proto::SessionList::File, path.display().to_string()),
            SessionList::None => (proto::SessionList::None, String::new()),
        };
        proto::MigrationSpec {
            address: self.address.to_string(),
            switch_name: self.switch.clone(),
            source_host: self.source_host.clone(),
            source_guest: self.source_guest.clone(),
            destination_host: self.destination_host.clone(),
            destination_guest: self.destination_guest.clone(),
            kind: kind.into(),
            finish: finish.into(),
            regions: self.regions.clone(),
            destination_port: self.port.clone(),
            destination_mac: self.mac.map(String::from).unwrap_or_default(),
            destination_locator: self.locator.map(|ip| ip.to_string()).unwrap_or_default(),
            destination_vhost_socket: self.vhost_socket.display().to_string(),
            destination_cmdline: self.cmdline.clone().unwrap_or_default(),
            keep_source: self.keep_source,
            keep_tracking: self.keep_tracking,
            drain_deadline_s: self.drain_deadline_s.unwrap_or_default(),
            destination_boot_wait_s: self.boot_wait_s,
            destination_ready_text: self.ready_text.clone().unwrap_or_default(),
            session_list: list.into(),
            session_list_path: path,
        }
    }
}

fn session_list(value: i32, path: String) -> Result<SessionList, InvalidSpec> {
    let field = "session_list_path";
    let invalid = |field, reason| Err(InvalidSpec::Value { field, reason });
    let list = match proto::SessionList::try_from(value) {
        Ok(proto::SessionList::Unspecified | proto::SessionList::Auto) => SessionList::Auto,
        Ok(proto::SessionList::Agent) => SessionList::Agent,
        Ok(proto::SessionList::Conntrack) => SessionList::Conntrack,
        Ok(proto::SessionList::None) => SessionList::None,
        Ok(proto::SessionList::File) => {
            let path = required(field, path, "say where the list is, on the manager's machine")?;
            if !path.starts_with('/') {
                return invalid(field, format!("`{path}` is not an absolute path"));
            }
            return Ok(SessionList::File(path.into()));
        }
        Err(_) => {
            let reason = format!("{value} is unknown; say AUTO, AGENT, CONNTRACK, FILE or NONE");
            return invalid("session_list", reason);
        }
    };
    if path.is_empty() {
        return Ok(list);
    }
    invalid(field, format!("`{path}` goes only with FILE; leave it out"))
}

fn required(
    field: &'static str,
    text: String,
    remedy: &'static str,
) -> Result<String, InvalidSpec> {
    if text.is_empty() { Err(InvalidSpec::Empty { field, remedy }) } else { Ok(text) }
}

fn optional(field: &'static str, text: &str) -> Result<Option<Mac>, InvalidSpec> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|reason| InvalidSpec::Value { field, reason })
}

fn ipv4(field: &'static str, text: &str) -> Result<Ipv4Addr, InvalidSpec> {
    text.parse().map_err(|_| InvalidSpec::Value {
        field,
        reason: format!("`{text}` is not an IPv4 address"),
    })
}
