//! Clients and guests on the box's links.

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};
use tidegate_dataplane::{pipeline::Verdict, steering::PortId};

use crate::double::Shards;

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const EAST: PortId = PortId(1);
pub(crate) const WEST: PortId = PortId(2);
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
pub(crate) const CLIENT: [u8; 4] = [10, 9, 0, 2];
pub(crate) const SERVICE_PORT: u16 = 80;

/// A TCP conversation with a managed address as the client at one port sees it.
pub(crate) struct Tcp<'a> {
    pub(crate) shards: &'a Shards,
    pub(crate) address: [u8; 4],
    pub(crate) client_port: u16,
}

type Flags = fn(TcpHeader) -> TcpHeader;

fn syn(mut header: TcpHeader) -> TcpHeader {
    header.syn = true;
    header
}

fn syn_ack(mut header: TcpHeader) -> TcpHeader {
    header.syn = true;
    header.ack = true;
    header
}

fn ack(mut header: TcpHeader) -> TcpHeader {
    header.ack = true;
    header
}

fn fin_ack(mut header: TcpHeader) -> TcpHeader {
    header.fin = true;
    header.ack = true;
    header
}

impl Tcp<'_> {
    /// From the client; gives the port it left by.
    fn send(&self, sequence: u32, acknowledgement: u32, flags: Flags) -> Result<PortId, Verdict> {
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC);
        let mut header = TcpHeader::new(self.client_port, SERVICE_PORT, sequence, 1000);
        header.acknowledgment_number = acknowledgement;
        let packet = ethernet.ipv4(CLIENT, self.address, 64).tcp_header(flags(header));
        self.shards.arrive(UPLINK, bytes(packet)).map(|(port, _)| port)
    }

    /// From the guest with this address behind `port`, to the client.
    fn answer(
        &self,
        port: PortId,
        guest: [u8; 4],
        sequence: u32,
        acknowledgement: u32,
        flags: Flags,
    ) -> Result<PortId, Verdict> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 8, 1], GATEWAY_MAC);
        let mut header = TcpHeader::new(SERVICE_PORT, self.client_port, sequence, 1000);
        header.acknowledgment_number = acknowledgement;
        let packet = ethernet.ipv4(guest, CLIENT, 64).tcp_header(flags(header));
        self.shards.arrive(port, bytes(packet)).map(|(port, _)| port)
    }

    /// Open a session, and give the port of the guest that got it.
    pub(crate) fn open(&self) -> PortId {
        self.open_with(self.address)
    }

    /// As [`Tcp::open`]; the guest answers from `guest`, its locator.
    pub(crate) fn open_with(&self, guest: [u8; 4]) -> PortId {
        let port = self.send(99, 0, syn).expect("SYN passes");
        assert_eq!(self.answer(port, guest, 499, 100, syn_ack), Ok(UPLINK), "SYN-ACK passes");
        assert_eq!(self.send(100, 500, ack), Ok(port), "the handshake stays with its owner");
        port
    }

    /// Send data in an open session, and give the port of the guest that got it.
    pub(crate) fn talk(&self) -> Result<PortId, Verdict> {
        self.send(100, 500, ack)
    }

    /// Close the session with the guest behind `port`.
    pub(crate) fn close(&self, port: PortId) {
        self.close_with(port, self.address);
    }

    /// As [`Tcp::close`]; the guest answers from `guest`, its locator.
    pub(crate) fn close_with(&self, port: PortId, guest: [u8; 4]) {
        assert_eq!(self.send(100, 500, fin_ack), Ok(port), "FIN goes to the owner");
        assert_eq!(
            self.answer(port, guest, 500, 101, fin_ack),
            Ok(UPLINK),
            "the owner's FIN passes"
        );
        assert_eq!(self.send(101, 501, ack), Ok(port), "the last ACK goes to the owner");
    }
}

fn bytes(packet: PacketBuilderStep<TcpHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    packet.write(&mut frame, &[]).expect("a Vec takes all");
    frame
}
