//! The tunnels that backends are behind. Each is a port to the workers for as long as a backend is behind it.

use std::collections::{BTreeMap, HashMap};

use tidegate_dataplane::{
    counters::MAX_PORTS,
    packet::tunnel::Encap,
    steering::{PortId, Tunnel},
};

use super::Refused;

/// Numbers of tunnels are from here on: below are those of devices and VLANs.
const FIRST: u16 = 2 * MAX_PORTS as u16;
/// And up to here: the one above is the box's own.
const LAST: u16 = PortId::HAIRPIN.0 - 1;

/// A tunnel in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelPort {
    /// Its number.
    pub id: PortId,
    /// What it is.
    pub tunnel: Tunnel,
    /// The port whose MAC and addresses guests behind it see as their gateway's.
    pub gateway: PortId,
}

#[derive(Clone, Debug)]
struct Used {
    tunnel: Tunnel,
    gateway: PortId,
    backends: u32,
}

/// Numbers in turn, so that one comes back as late as possible: a packet may be on its way from one worker to another that
/// came through the tunnel which had it before.
#[derive(Clone, Debug)]
pub(super) struct TunnelPorts {
    used: BTreeMap<u16, Used>,
    by_tunnel: HashMap<Tunnel, u16>,
    next: u16,
}

impl Default for TunnelPorts {
    fn default() -> Self {
        Self { used: BTreeMap::new(), by_tunnel: HashMap::new(), next: FIRST }
    }
}

impl TunnelPorts {
    /// Whether a backend behind `tunnel`, with this gateway, goes with the others.
    pub(super) fn check(&self, tunnel: Tunnel, gateway: PortId) -> Result<(), Refused> {
        let remote = tunnel.remote;
        if let Some(used) = self.by_tunnel.get(&tunnel).and_then(|number| self.used.get(number)) {
            let same = used.gateway == gateway;
            return if same { Ok(()) } else { Err(Refused::TunnelGateway { remote }) };
        }
        let is_mixed = |used: &Used| {
            let ends = (used.tunnel.local, used.tunnel.remote) == (tunnel.local, tunnel.remote);
            let kinds = used.tunnel.encap.carries_frames() != tunnel.encap.carries_frames();
            ends && kinds && udp_port(used.tunnel.encap) == udp_port(tunnel.encap)
        };
        if let Some(udp_port) = udp_port(tunnel.encap)
            && self.used.values().any(is_mixed)
        {
            return Err(Refused::TunnelUdpPort { remote, udp_port });
        }
        if self.used.len() >= Self::MOST {
            return Err(Refused::NoTunnel(Self::MOST));
        }
        Ok(())
    }

    const MOST: usize = (LAST - FIRST) as usize + 1;

    /// One more backend is behind `tunnel`. [`TunnelPorts::check`] has found that it can be.
    pub(super) fn take(&mut self, tunnel: Tunnel, gateway: PortId) -> PortId {
        if let Some(number) = self.by_tunnel.get(&tunnel)
            && let Some(used) = self.used.get_mut(number)
        {
            used.backends += 1;
            return PortId(*number);
        }
        let following = |number: u16| if number == LAST { FIRST } else { number + 1 };
        let mut number = self.next;
        while self.used.contains_key(&number) {
            number = following(number);
        }
        self.used.insert(number, Used { tunnel, gateway, backends: 1 });
        self.by_tunnel.insert(tunnel, number);
        self.next = following(number);
        PortId(number)
    }

    /// A backend that was behind the tunnel with this number is no more.
    pub(super) fn give_back(&mut self, id: PortId) {
        let Some(used) = self.used.get_mut(&id.0) else { return };
        used.backends -= 1;
        if used.backends == 0 {
            self.by_tunnel.remove(&used.tunnel);
            self.used.remove(&id.0);
        }
    }

    /// All in use.
    pub(super) fn ports(&self) -> impl Iterator<Item = TunnelPort> {
        self.used.iter().map(|(number, used)| TunnelPort {
            id: PortId(*number),
            tunnel: used.tunnel,
            gateway: used.gateway,
        })
    }
}

fn udp_port(encap: Encap) -> Option<u16> {
    match encap {
        Encap::Ipip => None,
        Encap::Gue { port } | Encap::Vxlan { port, .. } => Some(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vxlan(vni: u32) -> Tunnel {
        let (local, remote) = ([192, 0, 2, 1].into(), [192, 0, 2, 7].into());
        Tunnel { encap: Encap::Vxlan { port: 4789, vni }, local, remote }
    }

    #[test]
    fn a_number_is_shared_while_it_is_used_and_comes_back_last() {
        let mut tunnels = TunnelPorts::default();
        let gateway = PortId(1);
        let first = tunnels.take(vxlan(1), gateway);
        assert_eq!(first, PortId(FIRST));
        assert_eq!(tunnels.take(vxlan(1), gateway), first);
        let second = tunnels.take(vxlan(2), gateway);
        assert_ne!(second, first);
        tunnels.give_back(first);
        assert_eq!(tunnels.ports().count(), 2);
        tunnels.give_back(first);
        assert_eq!(tunnels.ports().map(|port| port.id).collect::<Vec<_>>(), [second]);
        for vni in 3..TunnelPorts::MOST as u32 + 1 {
            assert_ne!(tunnels.take(vxlan(vni), gateway), first, "{vni}");
        }
        assert_eq!(tunnels.take(vxlan(1), gateway), first);
        let most = TunnelPorts::MOST;
        assert_eq!(tunnels.check(vxlan(0), gateway), Err(Refused::NoTunnel(most)));
        assert_eq!(tunnels.check(vxlan(1), gateway), Ok(()));
    }

    #[test]
    fn what_does_not_go_together() {
        let mut tunnels = TunnelPorts::default();
        tunnels.take(vxlan(1), PortId(1));
        let remote = vxlan(1).remote;
        let other_gateway = tunnels.check(vxlan(1), PortId(2));
        assert_eq!(other_gateway, Err(Refused::TunnelGateway { remote }));
        let gue = |port| Tunnel { encap: Encap::Gue { port }, ..vxlan(1) };
        let mixed = Refused::TunnelUdpPort { remote, udp_port: 4789 };
        assert_eq!(tunnels.check(gue(4789), PortId(1)), Err(mixed));
        assert_eq!(tunnels.check(gue(6080), PortId(1)), Ok(()));
        assert_eq!(tunnels.check(vxlan(2), PortId(2)), Ok(()));
    }
}
