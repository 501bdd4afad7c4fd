//! Packets as clients and VMs send them, built by an independent library.

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader,
};
use tidegate_dataplane::{packet::TcpFlags, steering::PortId};

use super::world::{SERVICE, UPLINK, Vm, host_mac, port_mac};

pub(crate) const SYN: TcpFlags = TcpFlags::SYN;
pub(crate) const ACK: TcpFlags = TcpFlags::ACK;
pub(crate) const RST: TcpFlags = TcpFlags::RST;
pub(crate) const SYN_ACK: TcpFlags = TcpFlags(0x12);
pub(crate) const FIN_ACK: TcpFlags = TcpFlags(0x11);

/// What follows the IPv4 header.
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
    /// ICMP destination unreachable, port unreachable.
    Unreachable,
    /// The first fragment of a datagram.
    FirstFragment,
    /// A later one.
    LaterFragment,
    /// This protocol number.
    Protocol(u8),
}

/// A TCP segment whose numbers do not matter.
pub(crate) fn tcp(flags: TcpFlags) -> Body {
    Body::Tcp { flags, sequence: 1000, acknowledgement: 2000 }
}

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
        let (source, destination) = (self.source.to_be_bytes(), self.destination.to_be_bytes());
        let mut ip = Ipv4Header::new(0, self.ttl, IpNumber::UDP, source, destination)
            .expect("an IPv4 header");
        ip.identification = 7;
        match self.body {
            Body::FirstFragment => ip.more_fragments = true,
            Body::LaterFragment => ip.fragment_offset = IpFragOffset::try_new(10).expect("offset"),
            _ => {}
        }
        if self.ip_options {
            ip.options = Ipv4Options::from([1, 1, 1, 0]);
        }
        let ip = PacketBuilder::ethernet2(host_mac(self.source).0, port_mac(self.port).0)
            .ip(IpHeaders::Ipv4(ip, Default::default()));
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
            Body::EchoRequest => {
                ip.icmpv4_echo_request(self.identifier(), 1).write(out, self.payload)
            }
            Body::EchoReply => ip.icmpv4_echo_reply(self.identifier(), 1).write(out, self.payload),
            Body::Unreachable => ip.icmpv4_raw(3, 3, [0; 4]).write(out, self.payload),
            Body::Protocol(number) => ip.write(out, IpNumber(number), self.payload),
            _ => ip.udp(self.source_port, self.destination_port).write(out, self.payload),
        };
        written.expect("a frame");
        if self.body == Body::UdpWithoutChecksum {
            let udp = 34 + if self.ip_options { 4 } else { 0 };
            frame[udp + 6..udp + 8].fill(0);
        }
        frame
    }
}
