//! IP prefixes.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::packet::Address;

/// An IPv4 or IPv6 prefix with its host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    len: u8,
}

/// The text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a prefix; write address/length with a length of at most 32 (IPv4) or 128 (IPv6), as in 10.0.0.0/24 or 2001:db8::/64"
)]
pub struct PrefixError(pub String);

impl IpPrefix {
    /// The prefix of `len` bits that contains `address`; `None` when an address has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= u32::BITS as u8 => v4.to_bits().masked(len).ip(),
            IpAddr::V6(v6) if len <= u128::BITS as u8 => v6.to_bits().masked(len).ip(),
            _ => return None,
        };
        Some(Self { address, len })
    }

    /// The prefix that contains `address` alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let len = if address.is_ipv4() { u32::BITS } else { u128::BITS };
        Self { address, len: len as u8 }
    }

    /// The first address in it.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Its bits.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it contains at least one address
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.len) == Some(self)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parse = || {
            let (address, len) = text.split_once('/')?;
            Self::new(address.parse().ok()?, len.parse().ok()?)
        };
        parse().ok_or_else(|| PrefixError(text.to_owned()))
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_parse() {
        for (text, normal) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8:1::7/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1/128", "::1/128"),
        ] {
            let prefix: IpPrefix = text.parse().expect("prefix");
            assert_eq!(prefix.to_string(), normal);
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "10.0.0.0/-1", "::/129"] {
            assert!(bad.parse::<IpPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let all: IpPrefix = "0.0.0.0/0".parse().expect("prefix");
        assert!(all.contains("1.2.3.4".parse().expect("address")));
        assert!(!all.contains("::1".parse().expect("address")));
        let host = IpPrefix::host("::1".parse().expect("address"));
        assert_eq!(host.len(), 128);
        assert!(host.contains("::1".parse().expect("address")));
        assert!(!host.contains("::2".parse().expect("address")));
    }
}
