//! Fragments (RFC 791, section 3.2; RFC 8200, section 4.5).

use super::{
    super::{Address, ETHERNET_LEN},
    Headers, Malformed, Packet, TCP_LEN, protocol,
};

/// What a fragment says of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What the sender gave the datagram to know its fragments by.
    pub identification: u32,
    /// Where it begins in what was cut up, bytes.
    pub offset: u16,
    /// Bytes of what was cut up that it carries.
    pub len: u16,
    /// Whether others follow it in the datagram.
    pub more: bool,
}

impl Fragment {
    /// Of the packet with these `headers`; `offset` in bytes.
    pub(super) fn new(identification: u32, offset: u16, more: bool, headers: &Headers) -> Self {
        let end = ETHERNET_LEN + usize::from(headers.total_len);
        let len = end.saturating_sub(usize::from(headers.transport_offset)) as u16;
        Self { identification, offset, len, more }
    }

    /// Whether it carries the transport header.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// Where it ends in what was cut up, bytes.
    #[must_use]
    pub fn end(&self) -> u32 {
        u32::from(self.offset) + u32::from(self.len)
    }

    /// Whether it is a later fragment, of a protocol of this number, that would write over what the box reads of the
    /// first: the attacks of RFC 1858 and RFC 3128. A first fragment with less than a whole TCP header is refused, so
    /// nobody's honest fragment begins inside of one.
    #[must_use]
    pub fn hides_header(&self, protocol: u8) -> bool {
        protocol == protocol::TCP && (1..TCP_LEN as u16).contains(&self.offset)
    }
}

impl<A: Address> Packet<A> {
    /// What the fragment in `frame` says of its datagram; this was parsed from it.
    ///
    /// # Panics
    /// When this was parsed from a shorter frame.
    #[must_use]
    pub fn fragment(&self, frame: &[u8]) -> Fragment {
        A::fragment(frame, &self.headers)
    }

    /// The packet that a first fragment begins, as far as it is in `frame`; this was parsed from it. Lengths and
    /// checksums that reach beyond the fragment are not looked at.
    ///
    /// # Errors
    /// [`Malformed::Transport`] when the transport header is cut short, [`Malformed::Ip`] when an extension header is.
    pub fn of_first_fragment(&self, frame: &[u8]) -> Result<Self, Malformed> {
        let end = ETHERNET_LEN + usize::from(self.headers.total_len);
        let bytes = frame.get(ETHERNET_LEN..end).ok_or(Malformed::Ip)?;
        let mut packet = *self;
        A::parse_first_fragment(&mut packet, bytes)?;
        Ok(packet)
    }

    /// Whether only the first fragment says which session the others belong to. What has no ports is told apart by its
    /// addresses, which all fragments carry.
    #[must_use]
    pub fn needs_first_fragment(&self) -> bool {
        let has_ports = [protocol::TCP, protocol::UDP, A::ICMP].contains(&self.protocol);
        has_ports || A::is_extension(self.protocol)
    }
}
