//! Packets as clients and VMs send them, built by an independent library.

use std::net::IpAddr;

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpHeader,
};
use tidegate_dataplane::{packet::TcpFlags, steering::PortId};

use super::{
    summed,
    world::{SERVICE, UPLINK, Vm, host_mac, ip, port_mac},
};
use crate::OVER_IPV6;

pub(crate) const SYN: TcpFlags = TcpFlags::SYN;
pub(crate) const ACK: TcpFlags = TcpFlags::ACK;
pub(crate) const RST: TcpFlags = TcpFlags::RST;
pub(crate) const SYN_ACK: TcpFlags = TcpFlags(0x12);
pub(crate) const FIN_ACK: TcpFlags = TcpFlags(0x11);
pub(crate) const RST_ACK: TcpFlags = TcpFlags(0x14);

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        flags: TcpFlags,
        sequence: u32,
        acknowledgement: u32,
    },
    Udp,
    /// Checksum field zero.
    UdpWithoutChecksum,
    EchoRequest,
    EchoReply,
    /// Any other ICMP or ICMPv6 message: type and code.
    Icmp(u8, u8),
    /// The first fragment of a datagram.
    FirstFragment,
    /// A later one.
    LaterFragment,
    /// This protocol number.
    Protocol(u8),
    /// UDP-Lite or DCCP: see `summed`.
    Summed {
        protocol: u8,
        covered: u8,
    },
}

/// Where the later fragment lies in its datagram.
const LATER: IpFragOffset = {
    match IpFragOffset::try_new(10) {
        Ok(offset) => offset,
        Err(_) => unreachable!(),
    }
};

/// Destination unreachable, port unreachable.
pub(crate) const UNREACHABLE: Body = if OVER_IPV6 { Body::Icmp(1, 4) } else { Body::Icmp(3, 3) };

/// Timestamp request, or router renumbering: neither an echo nor an error.
pub(crate) const OTHER_ICMP: Body = if OVER_IPV6 { Body::Icmp(138, 0) } else { Body::Icmp(13, 0) };

/// A TCP segment whose numbers do not matter.
pub(crate) fn tcp(flags: TcpFlags) -> Body {
    Body::Tcp { flags, sequence: 1000, acknowledgement: 2000 }
}

/// A VM's refusal of the client's `tcp(SYN)`, which ends the session at once.
pub(crate) const REFUSED: Body = Body::Tcp { flags: RST_ACK, sequence: 0, acknowledgement: 1001 };
/// The client's own end of its `tcp(SYN)`.
pub(crate) const GIVEN_UP: Body = Body::Tcp { flags: RST, sequence: 1001, acknowledgement: 0 };

/// A TCP segment.
pub(crate) fn segment(flags: TcpFlags, sequence: u32, acknowledgement: u32) -> Body {
    Body::Tcp { flags, sequence, acknowledgement }
}

/// A client's end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) client: u32,
    /// Or echo identifier.
    pub(crate) client_port: u16,
    pub(crate) service_port: u16,
}

impl Flow {
    pub(crate) fn new(client: u32, client_port: u16) -> Self {
        Self { client, client_port, service_port: 80 }
    }

    /// From the client to the managed address.
    pub(crate) fn to_service(self, body: Body) -> Packet {
        self.to(SERVICE, body)
    }

    /// From the client to `address`.
    pub(crate) fn to(self, address: u32, body: Body) -> Packet {
        Packet {
            port: UPLINK,
            source: self.client,
            destination: address,
            source_port: self.client_port,
            destination_port: self.service_port,
            body,
            payload: b"",
            ttl: 64,
            ip_options: false,
        }
    }

    /// From `vm` to the client, under the address it serves under.
    pub(crate) fn sent_by(self, vm: Vm, body: Body) -> Packet {
        Packet {
            port: vm.backend.port,
            source: vm.speaks_as(),
            destination: self.client,
            source_port: self.service_port,
            destination_port: self.client_port,
            ..self.to_service(body)
        }
    }
}

/// One packet and the port it arrives on.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) port: PortId,
    pub(crate) source: u32,
    pub(crate) destination: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) body: Body,
    pub(crate) payload: &'static [u8],
    pub(crate) ttl: u8,
    pub(crate) ip_options: bool,
}

impl Packet {
    pub(crate) fn with_payload(self, payload: &'static [u8]) -> Self {
        Self { payload, ..self }
    }

    pub(crate) fn with_ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// Arriving somewhere else.
    pub(crate) fn on(self, port: PortId) -> Self {
        Self { port, ..self }
    }

    pub(crate) fn with_options(self) -> Self {
        Self { ip_options: true, ..self }
    }

    /// The identifier, when it is an echo: requests come from that port, replies go to it.
    pub(crate) fn identifier(&self) -> u16 {
        if self.body == Body::EchoReply { self.destination_port } else { self.source_port }
    }

    /// The frame on the wire, addressed to the box's port.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let headers = match (ip(self.source), ip(self.destination)) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.v4(source.octets(), destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6(source.octets(), destination.octets())
            }
            _ => unreachable!("one network, one family"),
        };
        let headers_len = headers.header_len();
        let ip =
            PacketBuilder::ethernet2(host_mac(self.source).0, port_mac(self.port).0).ip(headers);
        let mut frame = Vec::new();
        let out = &mut frame;
        let written = match self.body {
            Body::Tcp { flags, sequence, acknowledgement } => {
                let mut tcp =
                    TcpHeader::new(self.source_port, self.destination_port, sequence, 512);
                tcp.syn = flags.has(TcpFlags::SYN);
                tcp.ack = flags.has(TcpFlags::ACK);
                tcp.fin = flags.has(TcpFlags::FIN);
                tcp.rst = flags.has(TcpFlags::RST);
                tcp.acknowledgment_number = acknowledgement;
                ip.tcp_header(tcp).write(out, self.payload)
            }
            Body::EchoRequest if OVER_IPV6 => {
                ip.icmpv6_echo_request(self.identifier(), 1).write(out, self.payload)
            }
            Body::EchoReply if OVER_IPV6 => {
                ip.icmpv6_echo_reply(self.identifier(), 1).write(out, self.payload)
            }
            Body::EchoRequest => {
                ip.icmpv4_echo_request(self.identifier(), 1).write(out, self.payload)
            }
            Body::EchoReply => ip.icmpv4_echo_reply(self.identifier(), 1).write(out, self.payload),
            Body::Icmp(kind, code) if OVER_IPV6 => {
                ip.icmpv6_raw(kind, code, [0; 4]).write(out, self.payload)
            }
            Body::Icmp(kind, code) => ip.icmpv4_raw(kind, code, [0; 4]).write(out, self.payload),
            Body::Summed { protocol, covered } => {
                ip.write(out, IpNumber(protocol), &self.summed(protocol, covered))
            }
            Body::Protocol(number) => ip.write(out, IpNumber(number), self.payload),
            _ => ip.udp(self.source_port, self.destination_port).write(out, self.payload),
        };
        written.expect("a frame");
        if self.body == Body::UdpWithoutChecksum {
            let udp = 14 + headers_len;
            frame[udp + 6..udp + 8].fill(0);
        }
        frame
    }

    fn summed(&self, protocol: u8, covered: u8) -> Vec<u8> {
        let addresses = (ip(self.source), ip(self.destination));
        let ports = (self.source_port, self.destination_port);
        summed::packet(protocol, addresses, ports, covered, self.payload)
    }

    fn v4(&self, source: [u8; 4], destination: [u8; 4]) -> IpHeaders {
        let mut ip = Ipv4Header::new(0, self.ttl, IpNumber::UDP, source, destination)
            .expect("an IPv4 header");
        ip.identification = 7;
        match self.body {
            Body::FirstFragment => ip.more_fragments = true,
            Body::LaterFragment => ip.fragment_offset = LATER,
            _ => {}
        }
        if self.ip_options {
            ip.options = Ipv4Options::from([1, 1, 1, 0]);
        }
        IpHeaders::Ipv4(ip, Default::default())
    }

    fn v6(&self, source: [u8; 16], destination: [u8; 16]) -> IpHeaders {
        let ip = Ipv6Header { source, destination, hop_limit: self.ttl, ..Default::default() };
        let mut extensions = Ipv6Extensions::default();
        if self.ip_options {
            let padding = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]);
            extensions.destination_options = Some(padding.expect("options"));
        }
        extensions.fragment = match self.body {
            Body::FirstFragment => Some((IpFragOffset::ZERO, true)),
            Body::LaterFragment => Some((LATER, false)),
            _ => None,
        }
        .map(|(offset, more)| Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 7));
        IpHeaders::Ipv6(ip, extensions)
    }
}
