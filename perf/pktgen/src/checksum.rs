//! The Internet checksum (RFC 1071), whole: the box's own is incremental, and must not be checked by itself.

/// The one's complement sum of `bytes` as big-endian words, not folded. An odd last byte counts as a word's first.
/// For frames: 64 KiB at most.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let whole: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    whole + odd.first().map_or(0, |&byte| u32::from(byte) << 8)
}

/// A sum as 16 bits.
#[inline]
#[must_use]
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of a TCP segment's pseudo-header (RFC 9293, section 3.1).
#[inline]
#[must_use]
pub fn pseudo_header(source: u32, destination: u32, segment_bytes: u16) -> u32 {
    const TCP: u32 = 6;
    let words = |address: u32| (address >> 16) + (address & 0xffff);
    words(source) + words(destination) + TCP + u32::from(segment_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x12])), 0x1200);
        assert_eq!(fold(0x1_ffff), 1);
    }
}
