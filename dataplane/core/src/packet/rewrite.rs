//! Header rewriting in place, with incremental checksums (RFC 1624).

use super::{ETHERNET_LEN, Headers, Transport, checksum::Delta};

const TTL: usize = ETHERNET_LEN + 8;
const CHECKSUM: usize = ETHERNET_LEN + 10;
/// Bytes up to the end of the addresses.
const IPV4_END: usize = ETHERNET_LEN + 20;
/// What one hop adds to the header's checksum: time to live is the upper byte of its word.
const HOP: Delta = Delta::of_u16(0x0100, 0);

/// Which of a packet's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    /// Where it comes from.
    Source = ETHERNET_LEN + 12,
    /// Where it goes.
    Destination = ETHERNET_LEN + 16,
}

/// One address becomes another, and the packet counts one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    new: [u8; 4],
    /// For the transport's checksum, which covers the address.
    address: Delta,
    /// For the IPv4 header's.
    address_and_hop: Delta,
}

impl Translation {
    /// From `old` to `new`, host byte order.
    #[must_use]
    pub fn new(old: u32, new: u32) -> Self {
        let address = Delta::of_u32(old, new);
        Self { new: new.to_be_bytes(), address, address_and_hop: address.and(HOP) }
    }

    /// Translate the packet in `frame`, which `headers` were parsed from. The caller has checked that the time to live is
    /// above 1.
    #[inline]
    pub fn apply(&self, frame: &mut [u8], headers: &Headers, field: Field) {
        let Some(bytes) = frame.first_chunk_mut::<IPV4_END>() else { return };
        let at = field as usize;
        bytes[at..at + 4].copy_from_slice(&self.new);
        bytes[TTL] = headers.ttl - 1;
        self.address_and_hop.apply_at(bytes, CHECKSUM);
        // TCP and UDP cover a pseudo header with the addresses (RFC 9293, section 3.1); ICMP does not.
        let transport = usize::from(headers.transport_offset);
        match headers.transport {
            Transport::Tcp(_) => self.address.apply_at(frame, transport + 16),
            Transport::Udp { checksummed: true } => {
                let checksum = &mut frame[transport + 6..transport + 8];
                self.address.apply_at(checksum, 0);
                // Zero means "no checksum" in UDP; a sum of zero is sent as all ones (RFC 768).
                if *checksum == [0, 0] {
                    checksum.fill(0xff);
                }
            }
            _ => {}
        }
    }
}

/// Count one hop. The caller has checked that the time to live is above 1.
#[inline]
pub fn count_hop(frame: &mut [u8], headers: &Headers) {
    frame[TTL] = headers.ttl - 1;
    HOP.apply_at(frame, CHECKSUM);
}
