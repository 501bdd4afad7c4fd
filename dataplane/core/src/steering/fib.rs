//! Plain forwarding: longest prefix match over static routes.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ahash::RandomState;
use hashbrown::HashMap;

use super::PortId;

/// An IPv4 prefix with its host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Prefix {
    bits: u32,
    len: u8,
}

/// The text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an IPv4 prefix; write address/length with a length of at most 32, as in 10.0.0.0/24"
)]
pub struct PrefixError(pub String);

impl Ipv4Prefix {
    /// The prefix of `len` bits that contains `address`; `None` when `len` is over 32.
    #[must_use]
    pub fn new(address: u32, len: u8) -> Option<Self> {
        (len <= 32).then(|| Self { bits: address & mask(len), len })
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(self, address: u32) -> bool {
        address & mask(self.len) == self.bits
    }
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let bad = || PrefixError(text.to_owned());
        let (address, len) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        Self::new(address.to_bits(), len.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.bits), self.len)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Port to leave by.
    pub port: PortId,
    /// Router to send to, host byte order; `None` when the destination itself is on the link.
    pub via: Option<u32>,
}

/// Routes by prefix length, longest first.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    lengths: Vec<(u32, HashMap<u32, NextHop, RandomState>)>,
}

impl Fib {
    /// A table of `routes`; of two routes for one prefix the later one stays.
    pub fn new(routes: impl IntoIterator<Item = (Ipv4Prefix, NextHop)>) -> Self {
        let mut by_length: [Option<HashMap<u32, NextHop, RandomState>>; 33] = [const { None }; 33];
        for (prefix, next_hop) in routes {
            by_length[usize::from(prefix.len)]
                .get_or_insert_with(|| HashMap::with_hasher(RandomState::new()))
                .insert(prefix.bits, next_hop);
        }
        let lengths = (0..=32u8)
            .rev()
            .filter_map(|len| Some((mask(len), by_length[usize::from(len)].take()?)));
        Self { lengths: lengths.collect() }
    }

    /// The longest match for `destination`.
    #[inline]
    #[must_use]
    pub fn find(&self, destination: u32) -> Option<NextHop> {
        self.lengths.iter().find_map(|(mask, routes)| routes.get(&(destination & mask)).copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hop(port: u16) -> NextHop {
        NextHop { port: PortId(port), via: None }
    }

    #[test]
    fn prefixes_parse() {
        let prefix: Ipv4Prefix = "10.1.2.3/8".parse().expect("prefix");
        assert_eq!(prefix.to_string(), "10.0.0.0/8");
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Ipv4Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn longest_wins_and_default_catches() {
        let routes = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"];
        let fib = Fib::new(
            routes.iter().zip(0..).map(|(text, port)| (text.parse().expect("prefix"), hop(port))),
        );
        for (address, port) in
            [(0x0808_0808, 0), (0x0a09_0001, 1), (0x0a01_0001, 2), (0x0a01_0203, 3)]
        {
            assert_eq!(fib.find(address), Some(hop(port)));
        }
        assert_eq!(Fib::default().find(1), None);
    }

    proptest! {
        #[test]
        fn equals_a_linear_scan(routes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20), address: u32) {
            let mut routes: Vec<_> = routes.iter().map(|&(bits, len)| Ipv4Prefix::new(bits, len).expect("len")).collect();
            routes.sort();
            routes.dedup();
            let fib = Fib::new(routes.iter().zip(0..).map(|(&prefix, port)| (prefix, hop(port))));
            let oracle = (0..).zip(&routes).filter(|(_, p)| p.contains(address)).max_by_key(|(_, p)| p.len);
            prop_assert_eq!(fib.find(address), oracle.map(|(port, _)| hop(port)));
        }
    }
}
