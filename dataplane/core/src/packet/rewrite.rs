//! Header rewriting in place, with incremental checksums (RFC 1624).

use super::{Address, ETHERNET_LEN, Headers, Transport, checksum::Delta, parse::SUMMED_AT};

/// What one hop adds to the header's checksum: time to live is the upper byte of its word.
const HOP: Delta = Delta::of_u16(0x0100, 0);

/// Which of a packet's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// One address becomes another, and the packet counts one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<A> {
    new: A,
    /// For the transport's checksum, which covers the address.
    address: Delta,
    /// For the IP header's.
    address_and_hop: Delta,
}

impl<A: Address> Translation<A> {
    /// From `old` to `new`.
    #[must_use]
    pub fn new(old: A, new: A) -> Self {
        let address = A::delta(old, new);
        Self { new, address, address_and_hop: address.and(HOP) }
    }

    /// What it does to a checksum that covers the address.
    #[must_use]
    pub fn delta(&self) -> Delta {
        self.address
    }

    /// The new address.
    #[must_use]
    pub fn address(&self) -> A {
        self.new
    }

    /// Translate the packet in `frame`, which `headers` were parsed from. The caller has checked that the time to live is
    /// above 1.
    #[inline(always)]
    pub fn apply(&self, frame: &mut [u8], headers: &Headers, field: Field) {
        let Some(bytes) = frame.get_mut(ETHERNET_LEN..ETHERNET_LEN + A::HEADER_LEN) else { return };
        let at = match field {
            Field::Source => A::SOURCE,
            Field::Destination => A::DESTINATION,
        };
        self.new.write(&mut bytes[at..]);
        bytes[A::HOPS] = headers.ttl - 1;
        if let Some(at) = A::CHECKSUM {
            self.address_and_hop.apply_at(bytes, at);
        }
        self.apply_to_transport(frame, headers);
    }

    /// TCP and UDP cover a pseudo header with the addresses (RFC 9293, section 3.1), and so do ICMPv6, UDP-Lite and DCCP. SCTP,
    /// GRE and ESP do not.
    #[inline]
    fn apply_to_transport(&self, frame: &mut [u8], headers: &Headers) {
        let transport = usize::from(headers.transport_offset);
        match headers.transport {
            Transport::Tcp(_) => self.address.apply_at(frame, transport + 16),
            Transport::Udp { checksummed: true } => {
                self.apply_to_sum(&mut frame[transport + 6..transport + 8]);
            }
            _ => self.apply_to_other(frame, headers),
        }
    }

    #[cold]
    #[inline(never)]
    fn apply_to_other(&self, frame: &mut [u8], headers: &Headers) {
        let transport = usize::from(headers.transport_offset);
        match headers.transport {
            Transport::Echo { .. } | Transport::IcmpError | Transport::IcmpOther
                if A::ICMP_COVERS_ADDRESSES =>
            {
                self.address.apply_at(frame, transport + 2);
            }
            Transport::UdpLite => {
                let checksum = &mut frame[transport + SUMMED_AT..transport + SUMMED_AT + 2];
                // Zero is none, which no receiver takes; it must not become one (RFC 3828, section 3.1).
                if *checksum != [0, 0] {
                    self.apply_to_sum(checksum);
                }
            }
            Transport::Dccp => self.address.apply_at(frame, transport + SUMMED_AT),
            _ => {}
        }
    }

    /// Zero means "no checksum"; a sum of zero is sent as all ones (RFC 768).
    #[inline]
    fn apply_to_sum(&self, checksum: &mut [u8]) {
        self.address.apply_at(checksum, 0);
        if *checksum == [0, 0] {
            checksum.fill(0xff);
        }
    }
}

/// Count one hop. The caller has checked that the time to live is above 1.
#[inline]
pub fn count_hop<A: Address>(frame: &mut [u8], headers: &Headers) {
    frame[ETHERNET_LEN + A::HOPS] = headers.ttl - 1;
    if let Some(at) = A::CHECKSUM {
        HOP.apply_at(frame, ETHERNET_LEN + at);
    }
}
