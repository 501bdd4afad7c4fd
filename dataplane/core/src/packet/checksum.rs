//! The Internet checksum and its incremental update.
//!
//! RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`. Rewriting an address changes the checksum by a difference that
//! depends on the two addresses alone, so it is computed without looking at the rest of the packet, and a packet
//! that arrived with a wrong checksum leaves with a wrong one.

use super::{Address, protocol};

/// Sum of `bytes` as big-endian 16-bit words, folded to 16 bits, not complemented (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

/// The checksum of an ICMPv6 `message` under the IPv6 header `ip`, pseudo header included (RFC 8200, section 8.1); 0 when
/// the message has its right checksum in it.
#[must_use]
pub fn of_icmpv6(ip: &[u8], message: &[u8]) -> u16 {
    with_pseudo_header(&ip[8..40], protocol::ICMPV6, message)
}

/// The same of a UDP `datagram` under the header `ip` of either family (RFC 768).
#[must_use]
pub fn of_udp<A: Address>(ip: &[u8], datagram: &[u8]) -> u16 {
    let addresses = A::SOURCE..A::DESTINATION + size_of::<A>();
    with_pseudo_header(&ip[addresses], protocol::UDP, datagram)
}

fn with_pseudo_header(addresses: &[u8], protocol: u8, payload: &[u8]) -> u16 {
    let pseudo = u64::from(sum(addresses)) + payload.len() as u64 + u64::from(protocol);
    !fold(pseudo + u64::from(sum(payload)))
}

/// The checksum of an ICMP `message` (RFC 792); 0 when the message has its right checksum in it.
#[must_use]
pub fn of_icmp(message: &[u8]) -> u16 {
    !sum(message)
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// What replacing `old` by `new` adds to a checksum field's complement.
///
/// Kept as it lies in memory: the sum does not depend on byte order (RFC 1071, section 2), so nothing is swapped per
/// packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// For a 32-bit field, such as an IPv4 address.
    #[must_use]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self::of_u16((old >> 16) as u16, (new >> 16) as u16)
            .and(Self::of_u16(old as u16, new as u16))
    }

    /// For a 128-bit field, such as an IPv6 address.
    #[must_use]
    pub const fn of_u128(old: u128, new: u128) -> Self {
        let (mut delta, mut word) = (Self(0), 0);
        while word < 4 {
            delta =
                delta.and(Self::of_u32((old >> (32 * word)) as u32, (new >> (32 * word)) as u32));
            word += 1;
        }
        delta
    }

    /// For a 16-bit field.
    #[must_use]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self(add(!old.to_be(), new.to_be()))
    }

    /// Both replacements in one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// What undoes it.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(!self.0)
    }

    /// The checksum field after the replacement, as it lies in memory.
    #[inline]
    #[must_use]
    pub fn apply(self, field: [u8; 2]) -> [u8; 2] {
        (!add(!u16::from_ne_bytes(field), self.0)).to_ne_bytes()
    }

    /// Update the checksum at `offset` of `bytes`.
    ///
    /// # Panics
    /// When `bytes` is shorter.
    #[inline]
    pub fn apply_at(self, bytes: &mut [u8], offset: usize) {
        let field = &mut bytes[offset..offset + 2];
        field.copy_from_slice(&self.apply([field[0], field[1]]));
    }
}

/// One's complement sum.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let total = a as u32 + b as u32;
    // At most 0x1fffe, so that folding once is enough.
    (total as u16).wrapping_add((total >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1624_example() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xFFFF.
        assert_eq!(Delta::of_u16(0x5555, 0x3285).apply([0xdd, 0x2f]), [0, 0]);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut data in prop::collection::vec(any::<u8>(), 4..64), new: u32) {
            // A zero sum has two representations; real headers never sum to zero.
            data.push(1);
            if data.len() % 2 == 1 { data.push(7); }
            let before = !sum(&data);
            let old = super::super::be32(&data, 0);
            data[0..4].copy_from_slice(&new.to_be_bytes());
            let updated = Delta::of_u32(old, new).apply(before.to_be_bytes());
            prop_assert_eq!(u16::from_be_bytes(updated), !sum(&data));
        }
    }
}
