//! The tunnel a backend is behind.

use std::ops::RangeInclusive;

use tidegate_dataplane::{
    packet::tunnel::{Encap, GUE_PORT, MAX_VNI, VXLAN_PORT},
    steering::{PortId, Tunnel},
};

use super::{
    PortConfig,
    check::{Check, Checked},
    file,
};

const UDP_PORTS: RangeInclusive<u16> = 1..=u16::MAX;
const VNIS: RangeInclusive<u32> = 0..=MAX_VNI;

impl Check<'_> {
    /// The tunnel, and the port that has the box's end.
    pub(super) fn tunnel(
        &self,
        written: &file::Encap,
        ports: &[PortConfig],
    ) -> Checked<(Tunnel, PortId)> {
        let encap = self.encap(written)?;
        let (local, remote) = (self.ip(&written.local)?, self.ip(&written.remote)?);
        let owner = |address| {
            let has = |port: &&PortConfig| port.addresses.iter().any(|own| own.address == address);
            ports.iter().find(has)
        };
        let Some(port) = owner(local) else {
            let message = format!(
                "{local} is no address of this box; give a port the address, or name another"
            );
            return Err(self.error(written.local.span(), message));
        };
        if let Some(other) = owner(remote) {
            let message = format!(
                "{remote} is the box's own on port `{}`; name the machine at the other end",
                other.name
            );
            return Err(self.error(written.remote.span(), message));
        }
        if local.is_ipv4() != remote.is_ipv4() {
            let message = format!(
                "{remote} is of another IP family than {local}; use two addresses of one family"
            );
            return Err(self.error(written.remote.span(), message));
        }
        Ok((Tunnel { encap, local, remote }, port.id))
    }

    fn encap(&self, written: &file::Encap) -> Checked<Encap> {
        let udp_port = |usual| match &written.udp_port {
            Some(port) => self.within("udp_port", port, &UDP_PORTS),
            None => Ok(usual),
        };
        match (written.kind, &written.vni) {
            (file::EncapKind::Vxlan, vni) => {
                let vni = vni.as_ref().map_or(Ok(0), |vni| self.within("vni", vni, &VNIS))?;
                Ok(Encap::Vxlan { port: udp_port(VXLAN_PORT)?, vni })
            }
            (_, Some(vni)) => {
                Err(self.error(vni.span(), "vni goes with kind = \"vxlan\" only; remove it"))
            }
            (file::EncapKind::Gue, None) => Ok(Encap::Gue { port: udp_port(GUE_PORT)? }),
            (file::EncapKind::Ipip, None) => match &written.udp_port {
                None => Ok(Encap::Ipip),
                Some(port) => Err(self.error(
                    port.span(),
                    "udp_port does not go with kind = \"ipip\", which has no UDP; remove it",
                )),
            },
        }
    }
}
