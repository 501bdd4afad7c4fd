//! What carries the frames of ports that are not simply a device: VLAN tags and tunnels, put on and taken off by an
//! independent library.
//!
//! ```text
//! port 3 ┬ port 4: VLAN 100
//!        ├ port 5: VLAN 7 in VLAN 200
//!        └ ports 10 to 15: tunnels to 192.0.2.7, and to the same over IPv6
//! port 0 ─ port 6: VLAN 300
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpEcn, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
    SingleVlanHeader, UdpHeader, VlanId,
};
use tidegate_dataplane::{
    packet::{Mac, Tags, tunnel::Encap},
    steering::{Link, Neighbour, PortId, Tunnel},
};

use super::world::{OTHER_PORT, UPLINK, host_mac, port_mac};

pub(crate) const VLAN: PortId = PortId(4);
pub(crate) const QINQ: PortId = PortId(5);
pub(crate) const UPLINK_VLAN: PortId = PortId(6);
const FIRST_TUNNEL: u16 = 10;
/// Ports that are the ends of tunnels.
pub(crate) const TUNNELS: [PortId; 6] =
    [PortId(10), PortId(11), PortId(12), PortId(13), PortId(14), PortId(15)];

/// The end of a tunnel whose other end's MAC is not known.
pub(crate) const SILENT_TUNNEL: PortId = PortId(16);

const LOCAL: u32 = 0xc000_0201;
const REMOTE: u32 = 0xc000_0207;
/// On the same link, MAC not known.
pub(crate) const SILENT_REMOTE: u32 = 0xc000_0209;
/// The MTU of all devices here.
pub(crate) const MTU: u16 = 1500;

/// The encapsulation of a tunnel port, and whether it goes over IPv6.
pub(crate) fn encap(port: PortId) -> (Encap, bool) {
    if port == SILENT_TUNNEL {
        return (Encap::Ipip, false);
    }
    let number = port.0 - FIRST_TUNNEL;
    let encap = match number % 3 {
        0 => Encap::Ipip,
        1 => Encap::Gue { port: 6080 },
        _ => Encap::Vxlan { port: 4789, vni: 0x00ab_cdef },
    };
    (encap, number >= 3)
}

/// Bytes of headers around an IP packet in the tunnel of this port.
pub(crate) fn overhead(port: PortId) -> u16 {
    let (encap, over_ipv6) = encap(port);
    let outer = if over_ipv6 { 40 } else { 20 };
    outer
        + match encap {
            Encap::Ipip => 0,
            Encap::Gue { .. } => 8 + 4,
            Encap::Vxlan { .. } => 8 + 8 + 14,
        }
}

pub(crate) fn outer_ip(number: u32, over_ipv6: bool) -> IpAddr {
    if over_ipv6 {
        Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number)).into()
    } else {
        Ipv4Addr::from_bits(number).into()
    }
}

/// What carries a port's packets.
pub(crate) fn link(port: PortId) -> Link {
    let tagged = |device, tags: &str| {
        let tags = tags.parse().expect("VLANs");
        Link::Device { device, tags, mtu: MTU }
    };
    match port {
        VLAN => tagged(OTHER_PORT, "100"),
        QINQ => tagged(OTHER_PORT, "200.7"),
        UPLINK_VLAN => tagged(UPLINK, "300"),
        PortId(..FIRST_TUNNEL) => Link::Device { device: port, tags: Tags::NONE, mtu: MTU },
        _ => {
            let (encap, over_ipv6) = encap(port);
            let remote = if port == SILENT_TUNNEL { SILENT_REMOTE } else { REMOTE };
            Link::Tunnel(Tunnel {
                encap,
                local: outer_ip(LOCAL, over_ipv6),
                remote: outer_ip(remote, over_ipv6),
            })
        }
    }
}

/// The box's ends of all tunnels.
pub(crate) fn local_ends() -> [IpAddr; 2] {
    [outer_ip(LOCAL, false), outer_ip(LOCAL, true)]
}

/// The other ends, on the link of port 3.
pub(crate) fn remote_ends() -> [(IpAddr, Neighbour); 2] {
    let neighbour = Neighbour { port: OTHER_PORT, mac: host_mac(REMOTE) };
    [(outer_ip(REMOTE, false), neighbour), (outer_ip(REMOTE, true), neighbour)]
}

/// A MAC that nobody sees: of a VM behind a tunnel that carries no frames.
pub(crate) const NO_MAC: Mac = Mac([6; 6]);

/// The frame that a port is sent, as its device sees it.
pub(crate) fn onto_wire(port: PortId, frame: Vec<u8>) -> (PortId, Vec<u8>) {
    match link(port) {
        Link::Device { device, tags, .. } => (device, with_tags(frame, tags)),
        Link::Tunnel(_) => {
            let (encap, over_ipv6) = encap(port);
            (OTHER_PORT, Wrapped::new(encap, over_ipv6).frame(&frame))
        }
    }
}

fn with_tags(mut frame: Vec<u8>, tags: Tags) -> Vec<u8> {
    let mut ids: Vec<u16> = tags.to_string().split('.').map(|id| id.parse().expect("id")).collect();
    if tags == Tags::NONE {
        ids.clear();
    }
    for (depth, id) in ids.iter().enumerate().rev() {
        let ether_type = EtherType(u16::from_be_bytes([frame[12], frame[13]]));
        let vlan_id = VlanId::try_new(*id).expect("id");
        let tag = SingleVlanHeader { vlan_id, ether_type, ..Default::default() };
        let tpid: [u8; 2] = if depth + 1 < ids.len() { [0x88, 0xa8] } else { [0x81, 0] };
        frame.splice(12..14, tpid.into_iter().chain(tag.to_bytes()));
    }
    frame
}

/// How the other end of a tunnel wraps what it sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrapped {
    pub(crate) encap: Encap,
    pub(crate) over_ipv6: bool,
    pub(crate) from: u32,
    pub(crate) ecn: u8,
    pub(crate) udp_checksum: bool,
    pub(crate) fragment: bool,
}

impl Wrapped {
    pub(crate) fn new(encap: Encap, over_ipv6: bool) -> Self {
        let (from, udp_checksum) = (REMOTE, over_ipv6);
        Self { encap, over_ipv6, from, ecn: 0, udp_checksum, fragment: false }
    }

    /// Around this frame, whose Ethernet header goes along in VXLAN only.
    pub(crate) fn frame(self, inner: &[u8]) -> Vec<u8> {
        let is_ipv6 = inner[12..14] == [0x86, 0xdd];
        let next = if is_ipv6 { 41 } else { 4 };
        match self.encap {
            Encap::Ipip => self.around(next, &inner[14..], None),
            Encap::Gue { port } => {
                let gue = [0, next, 0, 0];
                self.around(17, &[&gue, &inner[14..]].concat(), Some(port))
            }
            Encap::Vxlan { port, vni } => {
                let [_, a, b, c] = vni.to_be_bytes();
                let vxlan = [8, 0, 0, 0, a, b, c, 0];
                self.around(17, &[&vxlan, inner].concat(), Some(port))
            }
        }
    }

    /// Around these bytes, in UDP to this port or under this protocol number.
    pub(crate) fn around(self, protocol: u8, payload: &[u8], udp: Option<u16>) -> Vec<u8> {
        let ends = (outer_ip(self.from, self.over_ipv6), outer_ip(LOCAL, self.over_ipv6));
        let ecn = IpEcn::try_new(self.ecn).expect("two bits");
        let ip = match ends {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut ip = Ipv4Header::new(0, 64, IpNumber(protocol), from, to).expect("IPv4");
                (ip.ecn, ip.more_fragments) = (ecn, self.fragment);
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (source, destination) = (from.octets(), to.octets());
                let mut ip =
                    Ipv6Header { source, destination, hop_limit: 64, ..Default::default() };
                ip.set_ecn(ecn);
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => unreachable!("both ends are of one family"),
        };
        let headers_len = ip.header_len();
        let ethernet = PacketBuilder::ethernet2(host_mac(REMOTE).0, port_mac(OTHER_PORT).0).ip(ip);
        let mut frame = Vec::new();
        match udp {
            None => ethernet.write(&mut frame, IpNumber(protocol), payload),
            Some(port) => ethernet.udp(0xd123, port).write(&mut frame, payload),
        }
        .expect("a frame");
        if udp.is_some() && !self.udp_checksum {
            frame[14 + headers_len + 6..14 + headers_len + 8].fill(0);
        }
        frame
    }
}

/// The port that a frame was sent by, and the frame without what its carrier put on.
#[track_caller]
pub(crate) fn off_wire(device: PortId, frame: &[u8]) -> (PortId, Vec<u8>) {
    let (tags, untagged) = without_tags(frame);
    if tags != Tags::NONE {
        let is_it = |port: &PortId| match link(*port) {
            Link::Device { device: on, tags: with, .. } => (on, with) == (device, tags),
            Link::Tunnel(_) => false,
        };
        let port = [VLAN, QINQ, UPLINK_VLAN].into_iter().find(is_it).expect("a known VLAN");
        return (port, untagged);
    }
    through_tunnel(device, &untagged).unwrap_or((device, untagged))
}

fn without_tags(frame: &[u8]) -> (Tags, Vec<u8>) {
    let (mut ids, mut frame) = (Vec::new(), frame.to_vec());
    while let [0x81, 0] | [0x88, 0xa8] = frame[12..14] {
        let (tag, _) = SingleVlanHeader::from_slice(&frame[14..]).expect("a tag");
        ids.push(tag.vlan_id.value());
        frame.drain(12..16);
    }
    let tags = ids.first().map(|outer| Tags::new(*outer, ids.get(1).copied()).expect("VLANs"));
    (tags.unwrap_or(Tags::NONE), frame)
}

/// What is inside a packet from the box's end of a tunnel, whose headers must be as they should.
#[track_caller]
fn through_tunnel(device: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).expect("Ethernet");
    let (ip, payload) = IpHeaders::from_slice(rest).ok()?;
    let (from, to, class, hops): (IpAddr, IpAddr, _, _) = match &ip {
        IpHeaders::Ipv4(ip, _) => {
            let class = ip.dscp.value() << 2 | ip.ecn.value();
            (Ipv4Addr::from(ip.source).into(), Ipv4Addr::from(ip.destination).into(), class, {
                ip.time_to_live
            })
        }
        IpHeaders::Ipv6(ip, _) => {
            let ends: [IpAddr; 2] =
                [Ipv6Addr::from(ip.source).into(), Ipv6Addr::from(ip.destination).into()];
            (ends[0], ends[1], ip.traffic_class, ip.hop_limit)
        }
    };
    let over_ipv6 = ip.ipv6().is_some();
    if (from, to) != (outer_ip(LOCAL, over_ipv6), outer_ip(REMOTE, over_ipv6)) {
        return None;
    }
    assert_eq!((device, hops), (OTHER_PORT, 64));
    assert_eq!((ethernet.source, ethernet.destination), (port_mac(device).0, host_mac(REMOTE).0));
    assert_eq!(rest.len(), ip.header_len() + payload.payload.len(), "nothing behind the packet");
    if let IpHeaders::Ipv4(ip, _) = &ip {
        assert!(ip.dont_fragment && !ip.is_fragmenting_payload());
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
    }
    let (encap, inner) = match payload.ip_number.0 {
        next @ (4 | 41) => (Encap::Ipip, l3(next, payload.payload)),
        17 => {
            let (udp, rest) = UdpHeader::from_slice(payload.payload).expect("UDP");
            assert!(udp.source_port >= 0xc000, "of the dynamic range");
            assert_eq!(usize::from(udp.length), payload.payload.len());
            match ip.ipv6() {
                None => assert_eq!(udp.checksum, 0),
                Some((ip, _)) => {
                    let expected = udp.calc_checksum_ipv6(ip, rest).expect("a checksum");
                    assert_eq!(udp.checksum, expected, "UDP checksum");
                }
            }
            match udp.destination_port {
                6080 => {
                    assert_eq!((rest[0], &rest[2..4]), (0, &[0, 0][..]));
                    (Encap::Gue { port: 6080 }, l3(rest[1], &rest[4..]))
                }
                port => {
                    assert_eq!((&rest[..4], rest[7]), (&[8, 0, 0, 0][..], 0));
                    let vni = u32::from_be_bytes([0, rest[4], rest[5], rest[6]]);
                    (Encap::Vxlan { port, vni }, rest[8..].to_vec())
                }
            }
        }
        // About what it sent, to the machine itself.
        1 | 58 => return None,
        other => panic!("protocol {other} to the other end of a tunnel"),
    };
    let inner_class = match inner[12..14] {
        [8, 0] => inner[15],
        [0x86, 0xdd] => inner[14] << 4 | inner[15] >> 4,
        _ => 0,
    };
    assert_eq!(class, inner_class, "DSCP and ECN are copied");
    let port = TUNNELS.into_iter().find(|port| self::encap(*port) == (encap, over_ipv6));
    Some((port.expect("a known tunnel"), inner))
}

/// An IP packet with the Ethernet header that it would have on its last link.
fn l3(next: u8, packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if next == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&NO_MAC.0, &[6; 6][..], &ethertype, packet].concat()
}
