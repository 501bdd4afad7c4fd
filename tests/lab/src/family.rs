//! The addresses of a lab, in IPv4 and in IPv6.

use crate::switch_box::{BOX_ADDRESS, CLIENT_ADDRESS, GATEWAY, MANAGED};

/// The IP family of the managed address, and of everybody who talks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The managed address.
    #[must_use]
    pub const fn managed(self) -> &'static str {
        match self {
            Self::V4 => MANAGED,
            Self::V6 => "2001:db8:9::100",
        }
    }

    /// The box's own address on the clients' link.
    #[must_use]
    pub const fn box_address(self) -> &'static str {
        match self {
            Self::V4 => BOX_ADDRESS,
            Self::V6 => "2001:db8:9::1",
        }
    }

    /// The clients' address.
    #[must_use]
    pub const fn client_address(self) -> &'static str {
        match self {
            Self::V4 => CLIENT_ADDRESS,
            Self::V6 => "2001:db8:9::2",
        }
    }

    /// Where guests find their gateway, whatever port they are on.
    #[must_use]
    pub const fn gateway(self) -> &'static str {
        match self {
            Self::V4 => GATEWAY,
            // A link-local one, which guests usually have, is in the black-box tests.
            Self::V6 => "fd00:1::1",
        }
    }

    /// A guest's own address behind `nat`.
    #[must_use]
    pub const fn locator(self, index: usize) -> &'static str {
        match self {
            Self::V4 => ["10.8.0.11", "10.8.0.12"][index],
            Self::V6 => ["2001:db8:8::11", "2001:db8:8::12"][index],
        }
    }

    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Bits of the clients' link.
    #[must_use]
    pub const fn link_bits(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// The twin of a port in the box's configuration: over IPv6 the kernel speaks for the box here, over IPv4 the box
    /// itself.
    pub(crate) fn twin(self, port: &str) -> String {
        match self {
            Self::V4 => String::new(),
            Self::V6 => format!("twin = \"tk-{port}\"\n"),
        }
    }

    /// How an address is found on a link.
    #[must_use]
    pub const fn resolution(self) -> &'static str {
        match self {
            Self::V4 => "ARP",
            Self::V6 => "neighbour discovery",
        }
    }
}
