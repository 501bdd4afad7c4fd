//! The API's form of an order.

use std::{net::IpAddr, path::PathBuf};

use tidegate_api::manager as proto;

use super::{
    CaptureWay, Carriage, DestinationKind, Encap, FinishMode, InvalidSpec, Mac, Names, Policies,
    Quiesce, Spec,
};
use crate::sessions::SessionList;

/// How long a booted destination is given when the order does not say.
const DEFAULT_BOOT_WAIT_S: u32 = 10;

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
        let policies = Policies::from_proto(&spec)?;
        let carriage = Carriage::from_proto(&spec)?;
        let kind = kind(spec.kind)?;
        let finish = FinishMode::from_proto(&spec)?;
        let quiesce = Quiesce::from_proto(&spec)?;
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
        let mac = mac(kind, &spec.destination_mac)?;
        let ready_text = Some(spec.destination_ready_text).filter(|text| !text.is_empty());
        if ready_text.is_some() && kind == DestinationKind::Clone {
            return Err(InvalidSpec::Value {
                field: "destination_ready_text",
                reason: "a clone does not boot and prints nothing; leave it out".to_owned(),
            });
        }
        let capture = CaptureWay::asked(spec.capture)?;
        if capture == CaptureWay::Passes && kind == DestinationKind::Boot {
            return Err(InvalidSpec::Value {
                field: "capture",
                reason: "passes are for a clone's RAM, and only regions are captured; leave it out"
                    .to_owned(),
            });
        }
        let vhost_socket = vhost_socket(spec.destination_vhost_socket)?;
        let session_list = session_list(spec.session_list, spec.session_list_path)?;
        let address = required("address", spec.address, "give the managed address")?;
        let address = ip("address", &address)?;
        let encap = spec.destination_encap.as_ref().map(Encap::from_proto).transpose()?;
        let port = Some(spec.destination_port).filter(|name| !name.is_empty());
        if port.is_none() && encap.is_none() {
            let remedy = "name the destination's port on the switch, or the tunnel it is behind";
            return Err(InvalidSpec::Empty { field: "destination_port", remedy });
        }
        Ok(Self {
            address,
            switch: names.switch_name("switch_name", &spec.switch_name)?,
            source_host,
            source_guest,
            destination_host,
            destination_guest,
            kind,
            finish,
            regions: spec.regions,
            port,
            encap,
            mac,
            locator: locator(address, &spec.destination_locator)?,
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
            capture,
            carriage,
            policies,
            quiesce,
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
        let (finish, new_sessions) = self.finish.to_proto();
        let (list, path) = match &self.session_list {
            SessionList::Auto => (proto::SessionList::Auto, String::new()),
            SessionList::Agent => (proto::SessionList::Agent, String::new()),
            SessionList::Conntrack => (proto::SessionList::Conntrack, String::new()),
            SessionList::File(path) => (proto::SessionList::File, path.display().to_string()),
            SessionList::None => (proto::SessionList::None, String::new()),
        };
        let mut order = proto::MigrationSpec {
            address: self.address.to_string(),
            switch_name: self.switch.clone(),
            source_host: self.source_host.clone(),
            source_guest: self.source_guest.clone(),
            destination_host: self.destination_host.clone(),
            destination_guest: self.destination_guest.clone(),
            kind: kind.into(),
            finish: finish.into(),
            regions: self.regions.clone(),
            destination_port: self.port.clone().unwrap_or_default(),
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
            destination_encap: self.encap.map(|encap| encap.to_proto()),
            unknown_tcp: self.policies.unknown_tcp.to_proto().into(),
            unknown_quic: self.policies.unknown_quic.to_proto().into(),
            datagram_max_age_s: self.policies.datagram_max_age_s,
            ignore_begun_by_source: self.policies.ignore_begun_by_source,
            capture: self.capture.to_proto().into(),
            new_sessions: new_sessions.into(),
            ..proto::MigrationSpec::default()
        };
        self.quiesce.tell(&mut order);
        self.carriage.tell(&mut order);
        order
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

fn kind(value: i32) -> Result<DestinationKind, InvalidSpec> {
    let field = "kind";
    match proto::DestinationKind::try_from(value) {
        Ok(proto::DestinationKind::Clone) => Ok(DestinationKind::Clone),
        Ok(proto::DestinationKind::Boot) => Ok(DestinationKind::Boot),
        Ok(proto::DestinationKind::Unspecified) => {
            Err(InvalidSpec::Empty { field, remedy: "say CLONE or BOOT" })
        }
        Err(_) => {
            let reason = format!("{value} is unknown; say CLONE or BOOT");
            Err(InvalidSpec::Value { field, reason })
        }
    }
}

fn mac(kind: DestinationKind, text: &str) -> Result<Option<Mac>, InvalidSpec> {
    let field = "destination_mac";
    match (kind, text) {
        (DestinationKind::Clone, "") => Ok(None),
        (DestinationKind::Boot, "") => {
            let remedy = "a booted destination needs a MAC of its own";
            Err(InvalidSpec::Empty { field, remedy })
        }
        _ => text.parse().map(Some).map_err(|reason| InvalidSpec::Value { field, reason }),
    }
}

fn vhost_socket(text: String) -> Result<PathBuf, InvalidSpec> {
    let field = "destination_vhost_socket";
    let path = required(field, text, "give the vhost-user socket of the destination's port")?;
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(InvalidSpec::Value { field, reason: format!("`{path}` is not an absolute path") })
}

pub(super) fn ip(field: &'static str, text: &str) -> Result<IpAddr, InvalidSpec> {
    let outside = |it: &IpAddr| !(it.is_unspecified() || it.is_loopback() || it.is_multicast());
    text.parse().ok().filter(outside).ok_or_else(|| InvalidSpec::Value {
        field,
        reason: format!(
            "`{text}` is not a unicast IP address; write it as in 10.0.0.1 or 2001:db8::1"
        ),
    })
}

/// Rewriting stays within a family.
fn locator(address: IpAddr, text: &str) -> Result<Option<IpAddr>, InvalidSpec> {
    let field = "destination_locator";
    if text.is_empty() {
        return Ok(None);
    }
    let locator = ip(field, text)?;
    if locator.is_ipv4() == address.is_ipv4() {
        return Ok(Some(locator));
    }
    let reason = format!(
        "{locator} is of another IP family than {address}; give the guest's address of the same family"
    );
    Err(InvalidSpec::Value { field, reason })
}
