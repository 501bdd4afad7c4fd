//! Out of a tunnel: what is inside a packet.

use super::{
    super::{
        Address, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, Packet, PacketBuf, Transport,
        be16, be32, checksum, protocol,
    },
    Encap, GUE_LEN, UDP_LEN, VXLAN_HAS_VNI, VXLAN_LEN,
};

/// By what a packet shows which tunnels it may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// IP in IP.
    Ip,
    /// UDP to this port.
    Udp(u16),
}

impl Channel {
    /// The channel of `packet`, if tunnels have such packets. All fragments of UDP are of port 0.
    #[must_use]
    pub fn of<A: Address>(packet: &Packet<A>) -> Option<Self> {
        match (packet.protocol, packet.headers.transport) {
            (protocol::IPIP | protocol::IPV6, Transport::Other | Transport::Fragment) => {
                Some(Self::Ip)
            }
            (protocol::UDP, Transport::Udp { .. } | Transport::Fragment) => {
                Some(Self::Udp(packet.ports as u16))
            }
            _ => None,
        }
    }
}

/// A packet of a tunnel that nothing can be taken out of: it is cut short, damaged, or asks for what this box does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// What is inside a packet, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Offset in the frame.
    at: usize,
    /// Where it ends.
    end: usize,
    /// EtherType of an IP packet; a frame has its own.
    ethertype: Option<u16>,
}

impl Inside {
    /// The VNI of the VXLAN packet in `frame`, whose headers are `packet`'s; `None` when it says none.
    #[must_use]
    pub fn vni<A: Address>(frame: &[u8], packet: &Packet<A>) -> Option<u32> {
        let header = payload(frame, packet)?.get(UDP_LEN..)?.first_chunk::<VXLAN_LEN>()?;
        (header[0] & VXLAN_HAS_VNI != 0).then(|| be32(header, 4) >> 8)
    }

    /// What is inside the packet of this kind in `frame`, whose headers are `packet`'s.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn find<A: Address>(
        frame: &[u8],
        packet: &Packet<A>,
        encap: Encap,
    ) -> Result<Self, Unreadable> {
        let start = usize::from(packet.headers.transport_offset);
        let payload = payload(frame, packet).ok_or(Unreadable)?;
        let end = start + payload.len();
        if encap == Encap::Ipip {
            return Ok(Self { at: start, end, ethertype: Some(ethertype_of(packet.protocol)?) });
        }
        // A checksum that is there is verified (RFC 1122, section 4.1.3.4).
        if packet.headers.transport == (Transport::Udp { checksummed: true })
            && checksum::of_udp::<A>(&frame[ETHERNET_LEN..], payload) != 0
        {
            return Err(Unreadable);
        }
        let at = start + encap.header_len();
        if let Encap::Gue { .. } = encap {
            let gue = payload.get(UDP_LEN..).and_then(|rest| rest.first_chunk::<GUE_LEN>());
            let gue = gue.ok_or(Unreadable)?;
            // Another version, a control message, extensions or flags ask for what is not done here.
            if gue[0] != 0 || be16(gue, 2) != 0 {
                return Err(Unreadable);
            }
            return Ok(Self { at, end, ethertype: Some(ethertype_of(gue[1])?) });
        }
        if at + ETHERNET_LEN > end {
            return Err(Unreadable);
        }
        Ok(Self { at, end, ethertype: None })
    }

    /// Throw away what is around it. An IP packet gets an Ethernet header to `mac`. `false`, and nothing useful left, when
    /// the packet is shorter than it was.
    #[must_use = "nothing is there when it answers false"]
    pub fn take_out<B: PacketBuf>(&self, packet: &mut B, mac: Mac) -> bool {
        let kept = if self.ethertype.is_some() { self.at - ETHERNET_LEN } else { self.at };
        if !packet.truncate(self.end) || !packet.trim_front(kept) {
            return false;
        }
        if let Some(ethertype) = self.ethertype {
            let ethernet = &mut packet.as_mut()[..ETHERNET_LEN];
            ethernet[..6].copy_from_slice(&mac.0);
            ethernet[6..12].fill(0);
            ethernet[12..].copy_from_slice(&ethertype.to_be_bytes());
        }
        true
    }
}

/// From the transport header to the end of the packet; of UDP, to the end that UDP says.
fn payload<'f, A: Address>(frame: &'f [u8], packet: &Packet<A>) -> Option<&'f [u8]> {
    let headers = &packet.headers;
    let whole = frame.get(..ETHERNET_LEN + usize::from(headers.total_len))?;
    let payload = whole.get(usize::from(headers.transport_offset)..)?;
    match headers.transport {
        Transport::Udp { .. } => payload.get(..usize::from(be16(payload, 4))),
        _ => Some(payload),
    }
}

fn ethertype_of(next: u8) -> Result<u16, Unreadable> {
    match next {
        protocol::IPIP => Ok(ETHERTYPE_IPV4),
        protocol::IPV6 => Ok(ETHERTYPE_IPV6),
        _ => Err(Unreadable),
    }
}
