//! Ports, managed addresses, neighbours and routes: what refers to each other.

use std::net::IpAddr;

use tidegate_dataplane::{
    counters::MAX_PORTS,
    packet::Mac,
    steering::{IpPrefix, Neighbour, NextHop, PortId, PortRole, Quic, Rewrite, Tunnel},
};
use toml::Spanned;

use super::{
    Carrier, InterfaceAddress, PortConfig,
    carrier::{in_order, number},
    check::{Check, Checked, Owner},
    file,
};
use crate::{
    kernel::interface_name,
    steering::{
        AddressSpec, BackendSpec, NO_MAC, check_address, check_device, check_name, is_link_local,
        quic,
    },
};

/// Bytes of an interface's name: `IFNAMSIZ` of netdevice(7), less the NUL.
const MOST: usize = 15;

impl Check<'_> {
    pub(super) fn ports(&mut self, file: &[file::Port]) -> Checked<Vec<PortConfig>> {
        if let Some(one_too_many) = file.get(MAX_PORTS) {
            let message =
                format!("there are {} ports; a box can have {MAX_PORTS}, remove some", file.len());
            return Err(self.error(one_too_many.name.span(), message));
        }
        let mut ports: Vec<PortConfig> = Vec::new();
        for written in in_order(file) {
            let name = self.name("port", &written.name)?;
            check_name(&name, ports.iter())
                .map_err(|clash| self.error(written.name.span(), clash.to_string()))?;
            let carrier = self.carrier(written, &ports)?;
            let mtu = self.mtu(written.mtu.as_ref(), &carrier, &ports)?;
            let shared = match carrier {
                Carrier::Device(_) => None,
                // Devices come first: their position is their number.
                Carrier::Vlan { on, .. } => ports[usize::from(on.0)].mac,
            };
            let mac = written.mac.as_ref().map(|mac| self.parse(mac)).transpose()?.or(shared);
            let role = match written.role {
                file::Role::Uplink => PortRole::Uplink,
                file::Role::Access => PortRole::Access,
            };
            let id = number(&carrier, &ports);
            let twin = self.twin(written, &carrier, &ports)?;
            let addresses = Vec::new();
            let mut port = PortConfig { id, name, carrier, mac, mtu, addresses, role, twin };
            for text in &written.addresses {
                let address = self.interface_address(text, &port, &ports)?;
                port.addresses.push(address);
            }
            self.interface(written, &port, &ports)?;
            ports.push(port);
        }
        Ok(ports)
    }

    /// The kernel's interface for a VLAN has a name that is made of two.
    fn interface(
        &self,
        written: &file::Port,
        port: &PortConfig,
        ports: &[PortConfig],
    ) -> Checked<()> {
        if let Some(vlan) = &written.vlan
            && let Some(name) = interface_name(port, ports)
            && name.len() > MOST
        {
            let message = format!(
                "`{name}`, the kernel's interface for this VLAN, would be longer than {MOST} bytes; give `{}` a shorter twin",
                written.on.as_ref().map_or("", |on| on.get_ref())
            );
            return Err(self.error(vlan.span(), message));
        }
        Ok(())
    }

    /// The kernel's interface for the port, if it is to have one.
    fn twin(
        &self,
        written: &file::Port,
        carrier: &Carrier,
        ports: &[PortConfig],
    ) -> Checked<Option<String>> {
        let Some(text) = &written.twin else { return Ok(None) };
        let name = text.get_ref();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > MOST || !name.bytes().all(fits) {
            let message = format!(
                "`{name}` cannot be an interface's name; use 1 to {MOST} letters, digits, `-` or `_`"
            );
            return Err(self.error(text.span(), message));
        }
        if let Carrier::Vlan { .. } = carrier {
            let on = written.on.as_ref().map_or("", |on| on.get_ref());
            let message = format!(
                "a VLAN has no twin of its own: what is for the box goes to the twin of `{on}`, with its tags; remove it"
            );
            return Err(self.error(text.span(), message));
        }
        if let Some(port) = ports.iter().find(|port| port.twin.as_ref() == Some(name)) {
            let message = format!("`{name}` is the twin of port `{}` already", port.name);
            return Err(self.error(text.span(), message));
        }
        if ports.len() + 1 > MAX_PORTS / 2 {
            let message = format!("with twins a box can have {} ports", MAX_PORTS / 2);
            return Err(self.error(text.span(), message));
        }
        Ok(Some(name.clone()))
    }

    pub(super) fn device(&self, device: &Spanned<String>, ports: &[PortConfig]) -> Checked<String> {
        check_device(device.get_ref(), ports.iter())
            .map_err(|clash| self.error(device.span(), clash.to_string()))?;
        Ok(device.get_ref().clone())
    }

    /// An address of the box itself.
    fn interface_address(
        &mut self,
        text: &Spanned<String>,
        port: &PortConfig,
        ports: &[PortConfig],
    ) -> Checked<InterfaceAddress> {
        let _: IpPrefix = self.parse(text)?;
        let Some((address, length)) = text.get_ref().split_once('/') else {
            return Err(
                self.error(text.span(), "an address needs its prefix length, as in 10.0.0.1/24")
            );
        };
        let address = self.ip_on_link(&Spanned::new(text.span(), address.to_owned()))?;
        let prefix_len = length
            .parse()
            .map_err(|_| self.error(text.span(), "the prefix length is not a number"))?;
        let here = InterfaceAddress { address, prefix_len };
        if port.addresses.iter().any(|own| own.address == address) {
            let message =
                format!("{address} is already an address of port `{}`; remove one", port.name);
            return Err(self.error(text.span(), message));
        }
        let is_shared = check_address(here, port, ports.iter())
            .map_err(|clash| self.error(text.span(), clash.to_string()))?;
        if is_shared {
            return Ok(here);
        }
        self.claim(address, text.span(), Owner::Port(port.name.clone()))?;
        Ok(here)
    }

    pub(super) fn port(&self, name: &Spanned<String>, ports: &[PortConfig]) -> Checked<PortId> {
        let named = ports.iter().find(|port| port.name == *name.get_ref());
        named.map(|port| port.id).ok_or_else(|| {
            let known: Vec<_> = ports.iter().map(|port| format!("`{}`", port.name)).collect();
            let message =
                format!("there is no port `{}`; ports here: {}", name.get_ref(), known.join(", "));
            self.error(name.span(), message)
        })
    }

    pub(super) fn managed(
        &mut self,
        file: &[file::Address],
        ports: &[PortConfig],
    ) -> Checked<Vec<AddressSpec>> {
        let mut managed = Vec::new();
        for written in file {
            let address = self.ip(&written.address)?;
            self.claim(address, written.address.span(), Owner::Managed)?;
            let home = self.backend(&written.home, ports, address)?;
            let quic = written.quic.as_ref().map(|quic| self.quic(quic)).transpose()?;
            managed.push(AddressSpec { address, home, quic });
        }
        Ok(managed)
    }

    fn quic(&self, written: &Spanned<file::Quic>) -> Checked<Quic> {
        let file::Quic { connection_id_length, ports } = written.get_ref();
        quic(*connection_id_length, ports)
            .map_err(|invalid| self.error(written.span(), invalid.to_string()))
    }

    fn backend(
        &mut self,
        written: &Spanned<file::Backend>,
        ports: &[PortConfig],
        address: IpAddr,
    ) -> Checked<BackendSpec> {
        let backend = written.get_ref();
        let name = self.name("backend", &backend.name)?;
        let tunnel = backend.encap.as_ref().map(|encap| self.tunnel(encap, ports)).transpose()?;
        let port = self.backend_port(written, tunnel, ports)?;
        let mac = self.backend_mac(written, tunnel)?;
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
                let locator = self.ip(text)?;
                if locator.is_ipv4() != address.is_ipv4() {
                    let message = format!(
                        "locator {locator} is of another IP family than {address}; give the guest's address of the same family"
                    );
                    return Err(self.error(text.span(), message));
                }
                let owner = Owner::BackendOf(address);
                self.claim(locator, text.span(), owner)?;
                Rewrite::Nat(locator)
            }
        };
        let tunnel = tunnel.map(|(tunnel, _)| tunnel);
        Ok(BackendSpec { name, port, mac, rewrite, tunnel })
    }

    /// The port a backend is behind, or sees as its gateway through its tunnel.
    fn backend_port(
        &self,
        written: &Spanned<file::Backend>,
        tunnel: Option<(Tunnel, PortId)>,
        ports: &[PortConfig],
    ) -> Checked<PortId> {
        match (&written.get_ref().port, tunnel) {
            (Some(name), _) => self.port(name, ports),
            (None, Some((_, local))) => Ok(local),
            (None, None) => Err(self.error(
                written.span(),
                "the backend has neither port nor encap; name the port it is behind",
            )),
        }
    }

    fn backend_mac(
        &self,
        written: &Spanned<file::Backend>,
        tunnel: Option<(Tunnel, PortId)>,
    ) -> Checked<Mac> {
        let has_frames = tunnel.is_none_or(|(tunnel, _)| tunnel.encap.carries_frames());
        match &written.get_ref().mac {
            Some(mac) if has_frames => self.parse(mac),
            None if !has_frames => Ok(NO_MAC),
            Some(mac) => Err(self.error(
                mac.span(),
                "mac does not go with an encap that carries no Ethernet frames; remove it",
            )),
            None => Err(self.error(
                written.span(),
                "the backend has no mac; write the guest's, as in mac = \"02:00:00:00:00:01\"",
            )),
        }
    }

    pub(super) fn neighbours(
        &mut self,
        file: &[file::Neighbour],
        ports: &[PortConfig],
    ) -> Checked<Vec<(IpAddr, Neighbour)>> {
        let mut neighbours: Vec<(IpAddr, Neighbour)> = Vec::new();
        for written in file {
            let address = self.ip(&written.address)?;
            let mac = self.parse(&written.mac)?;
            let port = self.port(&written.port, ports)?;
            // A locator may be listed: it is a guest on a link like any other.
            let owner = self.addresses.get(&address);
            let owner = owner.filter(|owner| !matches!(owner, Owner::BackendOf(_)));
            if let Some(owner) = owner {
                let message =
                    format!("{address} is already {owner}; it cannot be a neighbour, remove it");
                return Err(self.error(written.address.span(), message));
            }
            if neighbours.iter().any(|(other, _)| *other == address) {
                let message = format!("neighbour {address} is listed twice; remove one");
                return Err(self.error(written.address.span(), message));
            }
            neighbours.push((address, Neighbour { port, mac }));
        }
        Ok(neighbours)
    }

    pub(super) fn routes(
        &self,
        file: &[file::Route],
        ports: &[PortConfig],
        neighbours: &[(IpAddr, Neighbour)],
    ) -> Checked<Vec<(IpPrefix, NextHop)>> {
        let mut routes: Vec<(IpPrefix, NextHop)> = Vec::new();
        for written in file {
            let to: IpPrefix = self.parse(&written.to)?;
            let connected = ports
                .iter()
                .any(|port| port.addresses.iter().any(|address| address.prefix() == Some(to)));
            if connected || routes.iter().any(|(other, _)| *other == to) {
                let message = format!("there is already a route to {to}; remove one");
                return Err(self.error(written.to.span(), message));
            }
            let via = self.ip_on_link(&written.via)?;
            if via.is_ipv4() != to.address().is_ipv4() {
                let message = format!(
                    "{via} is of another IP family than {to}; name a router of the same family"
                );
                return Err(self.error(written.via.span(), message));
            }
            let named = written.port.as_ref().map(|port| self.port(port, ports)).transpose()?;
            let on_link = |port: PortId| {
                let named = ports.iter().find(|it| it.id == port);
                let mut addresses = named.into_iter().flat_map(|port| &port.addresses);
                addresses.any(|own| own.is_beside(via))
                    || neighbours
                        .iter()
                        .any(|(address, neighbour)| *address == via && neighbour.port == port)
            };
            let mut candidates = ports.iter().map(|port| port.id).filter(|id| on_link(*id));
            let port = match named {
                Some(port) => on_link(port).then_some(port),
                None if is_link_local(via) => {
                    let message = format!("{via} may be on any link; say by which port");
                    return Err(self.error(written.via.span(), message));
                }
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
