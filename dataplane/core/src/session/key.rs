//! What makes a session distinct.

use std::{fmt, net::IpAddr};

use zerocopy::FromZeros;

use crate::packet::{Address, Packet};

/// Address and port in host byte order. ICMP echo has its identifier for a port.
pub type Endpoint<A> = (A, u16);

/// Client, service and protocol, packed as headers have them, so that a key is made and compared in a few instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromZeros)]
#[repr(C)]
pub struct SessionKey<A: Address> {
    /// The client's address, and the managed address, or the backend's locator for a session that a client opened to the
    /// locator itself.
    pub(super) addresses: A::Pair,
    /// The client's port in the upper half, the service's in the lower.
    pub(super) ports: u32,
    pub(super) protocol: u8,
}

impl<A: Address> SessionKey<A> {
    /// The key of `client`'s session with an address and port of ours; `protocol` is an IANA protocol number.
    #[must_use]
    pub fn new(client: Endpoint<A>, ours: Endpoint<A>, protocol: u8) -> Self {
        Self {
            addresses: A::pair(client.0, ours.0),
            ports: u32::from(client.1) << 16 | u32::from(ours.1),
            protocol,
        }
    }

    /// The key of a packet that a client sent.
    #[inline]
    pub(crate) fn from_client(packet: &Packet<A>) -> Self {
        Self { addresses: packet.addresses, ports: packet.ports, protocol: packet.protocol }
    }

    /// The key of a packet that a backend sent in the name of `address`.
    #[inline]
    pub(crate) fn from_backend(packet: &Packet<A>, address: A) -> Self {
        Self {
            addresses: A::pair(packet.destination(), address),
            ports: packet.ports.rotate_left(16),
            protocol: packet.protocol,
        }
    }

    /// The same client's with another address.
    pub(crate) fn with_address(self, address: A) -> Self {
        Self { addresses: A::pair(self.client(), address), ..self }
    }

    /// The client's address.
    #[inline]
    #[must_use]
    pub fn client(&self) -> A {
        A::first(self.addresses)
    }

    /// The managed address, or the locator that the client chose itself.
    #[inline]
    #[must_use]
    pub fn address(&self) -> A {
        A::second(self.addresses)
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
    pub(super) fn words(&self) -> (A::Pair, u64) {
        (self.addresses, u64::from(self.ports) << 8 | u64::from(self.protocol))
    }

    /// The key as others know it.
    #[must_use]
    pub fn tuple(&self) -> Tuple {
        Tuple {
            client: self.client().ip(),
            client_port: self.client_port(),
            address: self.address().ip(),
            address_port: self.address_port(),
            protocol: self.protocol,
        }
    }
}

impl<A: Address> fmt::Debug for SessionKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.tuple(), f)
    }
}

/// A session's key, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port; the identifier of an ICMP echo.
    pub client_port: u16,
    /// The managed address, or the locator that the client chose itself.
    pub address: IpAddr,
    /// The service's port; the identifier of an ICMP echo.
    pub address_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, client_port, address, address_port, protocol } = self;
        write!(
            f,
            "{client} port {client_port} to {address} port {address_port}, protocol {protocol}"
        )
    }
}
