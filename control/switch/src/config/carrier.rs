//! What carries a port's frames: a device, or the VLAN of another port's.

use std::ops::RangeInclusive;

use tidegate_dataplane::{
    counters::MAX_PORTS,
    packet::Tags,
    steering::{ETHERNET_MTU, PortId},
};
use toml::Spanned;

use super::{
    Carrier, PortConfig,
    check::{Check, Checked},
    file,
};

/// What every host takes (RFC 791), and what devices can do at most.
pub(crate) const MTU: RangeInclusive<u16> = 576..=9600;

/// Those with a device of their own first, so that their numbers are those of the devices.
pub(super) fn in_order(file: &[file::Port]) -> impl Iterator<Item = &file::Port> {
    let (devices, vlans): (Vec<_>, Vec<_>) = file.iter().partition(|port| port.on.is_none());
    devices.into_iter().chain(vlans)
}

/// Numbers of VLANs are from here on: below are those of devices.
pub(super) const FIRST_VLAN: u16 = MAX_PORTS as u16;

/// The number of the port after `ports`.
pub(super) fn number(carrier: &Carrier, ports: &[PortConfig]) -> PortId {
    let is_vlan = |port: &PortConfig| port.device().is_none();
    match carrier {
        Carrier::Device(_) => PortId(ports.len() as u16),
        Carrier::Vlan { .. } => {
            PortId(FIRST_VLAN + ports.iter().filter(|port| is_vlan(port)).count() as u16)
        }
    }
}

impl Check<'_> {
    pub(super) fn carrier(&self, written: &file::Port, ports: &[PortConfig]) -> Checked<Carrier> {
        match (&written.device, &written.on, &written.vlan) {
            (Some(device), None, None) => self.device(device, ports).map(Carrier::Device),
            (None, Some(on), Some(vlan)) => self.vlan(on, vlan, ports),
            (Some(device), Some(_), _) => Err(self.error(
                device.span(),
                "a port has a device of its own, or is a VLAN on another port; remove device, or on and vlan",
            )),
            (_, None, Some(vlan)) => Err(self.error(
                vlan.span(),
                "vlan needs the port whose device it shares; write on = \"its name\" instead of device",
            )),
            (None, Some(on), None) => Err(self.error(
                on.span(),
                "on needs the VLAN; write vlan = \"100\", or vlan = \"100.7\" for two tags (outer, inner)",
            )),
            (None, None, None) => Err(self.error(
                written.name.span(),
                format!(
                    "port `{}` has no device; write device = \"net_tap0,iface=tg0\" or a PCI address, or on and vlan to share another port's",
                    written.name.get_ref()
                ),
            )),
        }
    }

    fn vlan(
        &self,
        on: &Spanned<String>,
        vlan: &Spanned<String>,
        ports: &[PortConfig],
    ) -> Checked<Carrier> {
        let tags: Tags = self.parse(vlan)?;
        let id = self.port(on, ports)?;
        if id.0 >= FIRST_VLAN {
            let message =
                format!("port `{}` is a VLAN itself; name the port with the device", on.get_ref());
            return Err(self.error(on.span(), message));
        }
        let carrier = Carrier::Vlan { on: id, tags };
        if let Some(other) = ports.iter().find(|other| other.carrier == carrier) {
            let message = format!(
                "VLAN {tags} on `{}` is already port `{}`; each VLAN of a device is one port",
                on.get_ref(),
                other.name
            );
            return Err(self.error(vlan.span(), message));
        }
        Ok(carrier)
    }

    /// The MTU of a port: a VLAN's is its device's, or less.
    pub(super) fn mtu(
        &self,
        written: Option<&Spanned<u16>>,
        carrier: &Carrier,
        ports: &[PortConfig],
    ) -> Checked<u16> {
        let on = match *carrier {
            Carrier::Device(_) => None,
            Carrier::Vlan { on: PortId(on), .. } => ports.get(usize::from(on)),
        };
        let Some(written) = written else { return Ok(on.map_or(ETHERNET_MTU, |port| port.mtu)) };
        let mtu = self.within("mtu", written, &MTU)?;
        if let Some(port) = on.filter(|port| port.mtu < mtu) {
            let message = format!(
                "mtu = {mtu} is more than the {} of port `{}`, whose device it shares; use at most that",
                port.mtu, port.name
            );
            return Err(self.error(written.span(), message));
        }
        Ok(mtu)
    }
}
