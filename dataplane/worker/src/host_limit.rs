//! How much a worker hands to the kernel: each frame costs it a system call, and a flood must not cost others their time.
//!
//! Frames are of classes whose limits have nothing to do with each other: pings without end must not keep ARP from the
//! kernel, which would forget its neighbours, nor BGP, whose peers would give the box up. A flood of one class, from
//! whoever can send it, costs that class alone: one of ARP on a link starves ARP, also on other links, but no routing
//! protocol. From beyond a link nobody floods ARP or neighbour discovery; routing protocols anybody can who gets a
//! packet through to TCP port 179, and should meet a filter before.

use tidegate_dataplane::{
    packet::{
        ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Tags, Transport,
        parse_ipv4, parse_ipv6, protocol,
    },
    pipeline::RateLimit,
};

/// Bytes of a VLAN tag.
const TAG_LEN: usize = 4;
/// The most of them that a port can have.
const MOST_TAGS: usize = 2;
/// OSPF of both versions (RFC 2328, RFC 5340).
const OSPF: u8 = 89;
/// RFC 9568.
const VRRP: u8 = 112;
/// BGP's TCP port (RFC 4271).
const BGP_PORT: u16 = 179;
/// BFD's UDP ports: control and echo over one hop (RFC 5881), control over many (RFC 5883).
const BFD_PORTS: [u16; 3] = [3784, 3785, 4784];
/// Router solicitation to redirect (RFC 4861, section 4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// Hop limit of neighbour discovery: what has passed a router is no neighbour's (RFC 4861, section 7.1).
const FROM_THE_LINK: u8 = 255;

/// What a worker hands to the kernel: each class by its own limit, 10 frames per millisecond in all.
pub(crate) struct HostLimit {
    neighbours: RateLimit,
    routing: RateLimit,
    other: RateLimit,
}

/// What a flood of leaves the others alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// ARP and neighbour discovery.
    Neighbours,
    /// BGP, OSPF, VRRP and BFD.
    Routing,
    Other,
}

impl HostLimit {
    pub(crate) fn new() -> Self {
        Self {
            // An answer from each host of a large link at once, and then their refreshing.
            neighbours: RateLimit::new(2, 512),
            // A full table in some ten seconds, and what a few peers have in flight at once.
            routing: RateLimit::new(4, 512),
            other: RateLimit::new(4, 512),
        }
    }

    /// Whether this frame may go to the kernel now.
    #[cold]
    pub(crate) fn admits(&mut self, frame: &[u8], now_ms: u64) -> bool {
        match Class::of(frame) {
            Class::Neighbours => self.neighbours.take(now_ms),
            Class::Routing => self.routing.take(now_ms),
            Class::Other => self.other.take(now_ms),
        }
    }
}

impl Class {
    /// Of a frame as it goes to the twin, with its port's tags.
    fn of(frame: &[u8]) -> Self {
        let mut frame = frame;
        for _ in 0..MOST_TAGS {
            if ethertype(frame).is_some_and(Tags::follow) {
                // What is before the EtherType is not looked at from here on.
                frame = &frame[TAG_LEN..];
            }
        }
        match ethertype(frame) {
            Some(ETHERTYPE_ARP) => Self::Neighbours,
            Some(ETHERTYPE_IPV4) => parse_ipv4(frame)
                .map_or(Self::Other, |it| Self::of_ip(it.protocol, it.ports, &it.headers)),
            Some(ETHERTYPE_IPV6) => parse_ipv6(frame).map_or(Self::Other, |it| {
                if it.protocol == protocol::ICMPV6 && is_discovery(frame, &it.headers) {
                    Self::Neighbours
                } else {
                    Self::of_ip(it.protocol, it.ports, &it.headers)
                }
            }),
            _ => Self::Other,
        }
    }

    /// Of an IP packet, by its protocol and both its ports.
    fn of_ip(protocol: u8, ports: u32, headers: &Headers) -> Self {
        let (source, destination) = ((ports >> 16) as u16, ports as u16);
        let is_routing = match headers.transport {
            Transport::Tcp(_) => source == BGP_PORT || destination == BGP_PORT,
            Transport::Udp { .. } => BFD_PORTS.contains(&destination),
            // OSPF leaves it to IP to divide what is long.
            Transport::Other | Transport::Fragment => matches!(protocol, OSPF | VRRP),
            _ => false,
        };
        if is_routing { Self::Routing } else { Self::Other }
    }
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    let header = frame.first_chunk::<ETHERNET_LEN>()?;
    Some(u16::from_be_bytes([header[12], header[13]]))
}

fn is_discovery(frame: &[u8], headers: &Headers) -> bool {
    let kind = frame.get(usize::from(headers.transport_offset));
    headers.transport == Transport::IcmpOther
        && headers.ttl == FROM_THE_LINK
        && kind.is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
    use tidegate_dataplane::packet::{Mac, arp};

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);

    fn arp() -> Vec<u8> {
        arp::announcement(Mac(MACS.0), 0x0a09_0007).to_vec()
    }

    fn tcp(source: u16, destination: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([10; 4], [11; 4], 64);
        builder.tcp(source, destination, 1, 1000).write(&mut frame, b"table").expect("frame");
        frame
    }

    fn udp(destination: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6([1; 16], [2; 16], 255);
        builder.udp(49_152, destination).write(&mut frame, &[0; 24]).expect("frame");
        frame
    }

    fn icmpv6(kind: u8, hop_limit: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6([1; 16], [2; 16], hop_limit);
        builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &[0; 16]).expect("frame");
        frame
    }

    /// IPv4 and IPv6 with this protocol.
    fn protocol(number: u8) -> [Vec<u8>; 2] {
        let payload = [0; 44];
        let number = IpNumber(number);
        let ipv4 = Ipv4Header::new(44, 1, number, [10; 4], [224, 0, 0, 5]).expect("it is short");
        let ipv6 = Ipv6Header {
            payload_length: 44,
            next_header: number,
            hop_limit: 1,
            ..Ipv6Header::default()
        };
        [(0x0800u16, &ipv4.to_bytes()[..]), (0x86dd, &ipv6.to_bytes()[..])].map(
            |(ethertype, ip)| {
                [&MACS.1[..], &MACS.0, &ethertype.to_be_bytes(), ip, &payload].concat()
            },
        )
    }

    fn tagged(mut frame: Vec<u8>, tpid: u16) -> Vec<u8> {
        let [first, second] = tpid.to_be_bytes();
        frame.splice(12..12, [first, second, 0, 7]);
        frame
    }

    /// The frame, tagged once and tagged twice.
    fn with_tags(frame: Vec<u8>) -> [Vec<u8>; 3] {
        let once = tagged(frame.clone(), 0x8100);
        [frame, once.clone(), tagged(once, 0x88a8)]
    }

    #[test]
    fn what_keeps_the_box_in_touch_is_known() {
        let mut routing = vec![tcp(179, 40_000), tcp(40_000, 179)];
        routing.extend(BFD_PORTS.map(udp));
        routing.extend([OSPF, VRRP].map(protocol).into_iter().flatten());
        let mut fragment = protocol(OSPF)[0].clone();
        fragment[20] |= 0x20;
        routing.push(fragment);
        let mut neighbours = vec![arp()];
        neighbours.extend(NEIGHBOUR_DISCOVERY.map(|kind| icmpv6(kind, 255)));
        let mut other = vec![tcp(40_000, 22), udp(53), icmpv6(135, 254), vec![0xff; 9000]];
        other.extend([128, 132, 138].map(|kind| icmpv6(kind, 255)));
        other.extend(protocol(2));
        other.push(tagged(tagged(tagged(arp(), 0x8100), 0x8100), 0x8100));
        // In a later fragment it is no port.
        let mut later = tcp(179, 179);
        later[21] = 9;
        other.push(later);
        let classes =
            [(Class::Routing, routing), (Class::Neighbours, neighbours), (Class::Other, other)];
        for (class, frames) in classes {
            for frame in frames.into_iter().flat_map(with_tags) {
                assert_eq!(Class::of(&frame), class, "{frame:02x?}");
            }
        }
    }

    #[test]
    fn frames_that_are_cut_short_are_read_to_their_end_and_no_farther() {
        for whole in [arp(), tcp(179, 1), udp(3784), icmpv6(135, 255)] {
            for frame in with_tags(whole) {
                let classes: Vec<_> =
                    (0..frame.len()).map(|len| Class::of(&frame[..len])).collect();
                assert_eq!(classes[..14], [Class::Other; 14]);
            }
        }
    }

    #[test]
    fn a_flood_of_one_class_leaves_the_others_alone() {
        let classes = [arp(), tcp(179, 40_000), icmpv6(128, 64)];
        for flooding in &classes {
            let mut limit = HostLimit::new();
            assert_eq!((0..5000).filter(|_| limit.admits(flooding, 1000)).count(), 512);
            for other in classes.iter().filter(|it| *it != flooding) {
                assert!((0..500).all(|_| limit.admits(other, 1000)), "{other:02x?}");
            }
            let again = (0..5000).filter(|_| limit.admits(flooding, 1010)).count();
            assert!(again == 20 || again == 40, "{again}");
        }
    }
}
