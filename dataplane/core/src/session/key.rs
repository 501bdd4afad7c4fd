//! What makes a session distinct.

use std::fmt;

use zerocopy::FromZeros;

use crate::packet::Ipv4Packet;

/// Address and port in host byte order. ICMP echo has its identifier for a port.
pub type Endpoint = (u32, u16);

/// Client, service and protocol, packed as headers have them, so that a key is made and compared in a few instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromZeros)]
#[repr(C)]
pub struct SessionKey {
    /// The client's address in the upper half; in the lower half the managed address, or the backend's locator for a
    /// session that a client opened to the locator itself.
    pub(super) addresses: u64,
    /// The client's port in the upper half, the service's in the lower.
    pub(super) ports: u32,
    pub(super) protocol: u8,
}

impl SessionKey {
    /// The key of `client`'s session with an address and port of ours; `protocol` is an IANA protocol number.
    #[must_use]
    pub fn new(client: Endpoint, ours: Endpoint, protocol: u8) -> Self {
        Self {
            addresses: u64::from(client.0) << 32 | u64::from(ours.0),
            ports: u32::from(client.1) << 16 | u32::from(ours.1),
            protocol,
        }
    }

    /// The key of a packet that a client sent.
    #[inline]
    pub(crate) fn from_client(packet: &Ipv4Packet) -> Self {
        Self { addresses: packet.addresses, ports: packet.ports, protocol: packet.protocol }
    }

    /// The key of a packet that a backend sent in the name of `address`.
    #[inline]
    pub(crate) fn from_backend(packet: &Ipv4Packet, address: u32) -> Self {
        Self {
            addresses: packet.addresses << 32 | u64::from(address),
            ports: packet.ports.rotate_left(16),
            protocol: packet.protocol,
        }
    }

    /// The same client's with another address.
    pub(crate) fn with_address(self, address: u32) -> Self {
        Self { addresses: self.addresses & !0xffff_ffff | u64::from(address), ..self }
    }

    /// The client's address.
    #[inline]
    #[must_use]
    pub fn client(&self) -> u32 {
        (self.addresses >> 32) as u32
    }

    /// The managed address, or the locator that the client chose itself.
    #[inline]
    #[must_use]
    pub fn address(&self) -> u32 {
        self.addresses as u32
    }

    /// The client's port; the identifier of an ICMP echo.
    #[inline]
    #[must_use]
    pub fn client_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// The service's port; the identifier of an ICMP echo.
    #[inline]
    #[must_use]
    pub fn address_port(&self) -> u16 {
        self.ports as u16
    }

    /// IANA protocol number.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The key as two words, for hashing.
    #[inline]
    pub(super) fn words(&self) -> (u64, u64) {
        (self.addresses, u64::from(self.ports) << 8 | u64::from(self.protocol))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client, address] = [self.client(), self.address()].map(std::net::Ipv4Addr::from_bits);
        let (from, to) = (self.client_port(), self.address_port());
        write!(f, "{client}:{from} to {address}:{to}, protocol {}", self.protocol)
    }
}
