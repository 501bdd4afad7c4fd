//! Packets as clients, VMs and routers send them, and the same packets as they should leave the box: an independent
//! library writes both, with checksums of its own.

use std::net::IpAddr;

use etherparse::{
    IpDscp, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
    TcpHeader,
};
use tidegate_dataplane::{
    packet::{Mac, TcpFlags, protocol},
    steering::PortId,
};

use crate::world::{Family, family, vlans};

/// A TCP segment without its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: TcpFlags,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
}

/// What an ICMP error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unreachable,
    TooBig,
    TimeExceeded,
    ParameterProblem,
    /// Of the box alone: other routers' are unreachable ports.
    NoRoute,
}

/// An ICMP error's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) kind: Kind,
    /// What it is about.
    pub(crate) packet: Packet,
    /// Bytes of it that are quoted.
    pub(crate) bytes: usize,
    /// Whether the error's own checksum is right.
    pub(crate) intact: bool,
    /// The box itself says so, in its own way.
    pub(crate) by_box: bool,
}

/// A QUIC packet, as far as it can be read on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quic {
    /// The receiver's connection ID, of [`ID_LEN`] bytes like this, and the sender's, of so many bytes.
    Long {
        to: u8,
        from: (u8, u8),
    },
    Short {
        to: u8,
    },
}

/// Bytes of the connection IDs that servers choose.
pub(crate) const ID_LEN: u8 = 8;

impl Quic {
    fn header(self) -> Vec<u8> {
        match self {
            Self::Long { to, from: (from, len) } => {
                let (to, from) = (id(to, ID_LEN), id(from, len));
                [&[0xc3, 0, 0, 0, 1, ID_LEN], to.as_slice(), &[len], &from].concat()
            }
            Self::Short { to } => [&[0x43], id(to, ID_LEN).as_slice()].concat(),
        }
    }
}

fn id(byte: u8, len: u8) -> Vec<u8> {
    vec![byte; len.into()]
}

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp(Segment),
    Udp {
        checksum: bool,
    },
    /// Over UDP.
    Quic(Quic),
    /// Both ports are the identifier.
    Echo {
        request: bool,
    },
    /// Neither an echo nor an error.
    OtherIcmp,
    /// This protocol number, without ports.
    Protocol(u8),
    Error(Box<Quote>),
}

/// One packet, and the port it arrives on or leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) port: PortId,
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) ttl: u8,
    pub(crate) body: Body,
    /// Bytes of payload.
    pub(crate) len: u8,
    /// Stands where the box has no say, so that checksums take all values; the payload begins with it.
    pub(crate) salt: u16,
}

const PAYLOAD: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = (at as u8).wrapping_mul(151).wrapping_add(7);
        at += 1;
    }
    bytes
};

impl Packet {
    pub(crate) fn segment(&self) -> Option<Segment> {
        if let Body::Tcp(segment) = self.body { Some(segment) } else { None }
    }

    pub(crate) fn flags(&self) -> Option<TcpFlags> {
        self.segment().map(|segment| segment.flags)
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp(_) => protocol::TCP,
            Body::Udp { .. } | Body::Quic(_) => protocol::UDP,
            Body::Protocol(number) => number,
            _ if self.source.is_ipv4() => protocol::ICMP,
            _ => protocol::ICMPV6,
        }
    }

    /// The frame on its port's device, tags and all.
    pub(crate) fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(160);
        frame.extend(to.0);
        frame.extend(from.0);
        let vlans = vlans(self.port);
        for (at, vlan) in vlans.iter().enumerate() {
            let tpid: u16 = if at + 1 < vlans.len() { 0x88a8 } else { 0x8100 };
            frame.extend(tpid.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
        self.write(&mut frame);
        frame
    }

    /// The checksum of a UDP packet.
    pub(crate) fn udp_checksum(&self) -> u16 {
        let mut bytes = Vec::with_capacity(120);
        self.write(&mut bytes);
        let at = ip_len(self.source) + 6;
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = PAYLOAD.to_vec();
        payload[..2].copy_from_slice(&self.salt.to_be_bytes());
        if let Body::Quic(quic) = self.body {
            let header = quic.header();
            payload[..header.len()].copy_from_slice(&header);
        }
        payload.truncate(self.len.into());
        payload
    }

    /// The packet from its IP header on.
    fn write(&self, out: &mut Vec<u8>) {
        let ip = PacketBuilder::ip(self.ip_header());
        let start = out.len() + ip_len(self.source);
        let payload = &self.payload();
        let written = match &self.body {
            Body::Tcp(segment) => ip.tcp_header(self.tcp_header(*segment)).write(out, payload),
            Body::Udp { .. } | Body::Quic(_) => {
                ip.udp(self.source_port, self.destination_port).write(out, payload)
            }
            Body::Echo { request } => self.write_echo(ip, *request, out, payload),
            Body::OtherIcmp => self.write_icmp(ip, (13, 0), (138, 0), [0; 4], out, payload),
            Body::Protocol(number @ (UDP_LITE | DCCP)) => {
                ip.write(out, IpNumber(*number), &self.summed(*number, payload))
            }
            Body::Protocol(number) => ip.write(out, IpNumber(*number), payload),
            Body::Error(quote) => {
                let mut quoted = Vec::with_capacity(120);
                quote.packet.write(&mut quoted);
                quoted.truncate(quote.bytes);
                let (v4, v6) = quote.kind.numbers();
                // An MTU, where it has a place.
                let rest = if quote.by_box { [0; 4] } else { [0, 0, 5, 0x78] };
                self.write_icmp(ip, v4, v6, rest, out, &quoted)
            }
        };
        written.expect("a packet");
        match &self.body {
            Body::Udp { checksum: false } => out[start + 6..start + 8].fill(0),
            Body::Error(quote) if !quote.intact => out[start + 2] ^= 1,
            _ => {}
        }
    }

    /// What covers its addresses, and no more of its payload than the checksum itself says.
    fn summed(&self, number: u8, payload: &[u8]) -> Vec<u8> {
        let header: &[u8] = match number {
            // Ports, how many bytes are covered.
            UDP_LITE => &[0x9c, 0x40, 0x23, 0x28, 0, 8, 0, 0],
            // Ports, words of the header, nothing else is covered; a reset, short sequence number.
            _ => &[0x9c, 0x40, 0x23, 0x28, 3, 1, 0, 0, 14, 0, 1, 2],
        };
        // In every header something differs from packet to packet, so that sums take all values.
        let mut bytes = [header, payload].concat();
        bytes[..2].copy_from_slice(&self.salt.to_be_bytes());
        let length = (bytes.len() as u32).to_be_bytes();
        let (source, destination) = (octets(self.source), octets(self.destination));
        let pseudo = [&source[..], &destination, &length, &[0, number]].concat();
        let words = pseudo.chunks(2).chain(bytes[..header.len()].chunks(2));
        let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        let sum = if number == UDP_LITE && sum == 0 { 0xffff } else { sum };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn tcp_header(&self, segment: Segment) -> TcpHeader {
        let Segment { flags, sequence, acknowledgement } = segment;
        let mut tcp = TcpHeader::new(self.source_port, self.destination_port, sequence, self.salt);
        tcp.fin = flags.has(TcpFlags::FIN);
        tcp.syn = flags.has(TcpFlags::SYN);
        tcp.rst = flags.has(TcpFlags::RST);
        tcp.ack = flags.has(TcpFlags::ACK);
        (tcp.psh, tcp.urg) = (flags.0 & 0x08 != 0, flags.0 & 0x20 != 0);
        tcp.acknowledgment_number = acknowledgement;
        tcp
    }

    fn write_echo(
        &self,
        ip: PacketBuilderStep<IpHeaders>,
        request: bool,
        out: &mut Vec<u8>,
        payload: &[u8],
    ) -> Result<(), etherparse::err::packet::BuildWriteError> {
        let (id, sequence) = (self.source_port, self.salt);
        match (family(self.source), request) {
            (Family::V4, true) => ip.icmpv4_echo_request(id, sequence).write(out, payload),
            (Family::V4, false) => ip.icmpv4_echo_reply(id, sequence).write(out, payload),
            (Family::V6, true) => ip.icmpv6_echo_request(id, sequence).write(out, payload),
            (Family::V6, false) => ip.icmpv6_echo_reply(id, sequence).write(out, payload),
        }
    }

    fn write_icmp(
        &self,
        ip: PacketBuilderStep<IpHeaders>,
        (kind, code): (u8, u8),
        (kind_v6, code_v6): (u8, u8),
        rest: [u8; 4],
        out: &mut Vec<u8>,
        payload: &[u8],
    ) -> Result<(), etherparse::err::packet::BuildWriteError> {
        match family(self.source) {
            Family::V4 => ip.icmpv4_raw(kind, code, rest).write(out, payload),
            Family::V6 => ip.icmpv6_raw(kind_v6, code_v6, rest).write(out, payload),
        }
    }

    fn ip_header(&self) -> IpHeaders {
        // Internetwork control (RFC 1812, section 4.3.2.5), and never a fragment, so that it needs no number.
        let by_box = matches!(&self.body, Body::Error(quote) if quote.by_box);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut ip = Ipv4Header::new(0, self.ttl, IpNumber::UDP, source, destination)
                    .expect("an IPv4 header");
                ip.identification = if by_box { 0 } else { self.salt };
                ip.dscp = IpDscp::try_new(if by_box { CONTROL >> 2 } else { 0 }).expect("DSCP");
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    hop_limit: self.ttl,
                    traffic_class: if by_box { CONTROL } else { 0 },
                    ..Default::default()
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => unreachable!("a packet is of one family"),
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Protocols without ports to the box, whose checksums cover the addresses.
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const DCCP: u8 = 33;

/// Traffic class of what the box itself sends.
const CONTROL: u8 = 0xc0;

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Unreachable, Self::TooBig, Self::TimeExceeded, Self::ParameterProblem];

    /// Type and code in ICMP and in ICMPv6.
    fn numbers(self) -> ((u8, u8), (u8, u8)) {
        match self {
            Self::Unreachable => ((3, 3), (1, 4)),
            Self::TooBig => ((3, 4), (2, 0)),
            Self::TimeExceeded => ((11, 0), (3, 0)),
            Self::NoRoute => ((3, 0), (1, 0)),
            Self::ParameterProblem => ((12, 0), (4, 1)),
        }
    }
}

/// Bytes of the IP header.
pub(crate) fn ip_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}
