//! The packet an ICMP error is about, as the error quotes it (RFC 792, RFC 4443 section 2.4).
//!
//! | offset in the message | bytes | field |
//! |---|---|---|
//! | 0 | 8 | ICMP header: type, code, checksum, what the type needs |
//! | 8 | 20 or 40, or more | the packet's IP header |
//! | behind it | 8 or more | the beginning of what followed it |
//!
//! Routers quote as much as they like, but the first eight bytes behind the IP header: the ports are there, TCP's checksum
//! need not be.

use super::{
    Address, ETHERNET_LEN, Field, Headers, Translation, Transport, be16, be32, checksum, parse,
    protocol,
};

/// Bytes of an ICMP header.
const ICMP_LEN: usize = 8;

/// A quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<A: Address> {
    /// Who sent it.
    pub source: A,
    /// To whom.
    pub destination: A,
    /// Source port in the upper half, destination port in the lower; the identifier of an echo in both.
    pub ports: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// Offset of its IP header in the frame.
    header_at: usize,
    /// Offset of its transport's checksum in the frame, where that is quoted and covers addresses.
    checksum_at: Option<usize>,
}

impl<A: Address> Quoted<A> {
    /// The packet quoted by the error in `frame`, whose headers are `headers`. `None` when it is cut short, is not of the
    /// same family, or is a fragment without ports.
    #[must_use]
    pub fn read(frame: &[u8], headers: &Headers) -> Option<Self> {
        let header_at = usize::from(headers.transport_offset) + ICMP_LEN;
        let quote = frame.get(header_at..ETHERNET_LEN + usize::from(headers.total_len))?;
        let (protocol, header_len) = parse::quoted_header::<A>(quote)?;
        let mut quoted = Self {
            source: A::read(&quote[A::SOURCE..]),
            destination: A::read(&quote[A::DESTINATION..]),
            ports: 0,
            protocol,
            header_at,
            checksum_at: None,
        };
        let transport = quote.get(header_len..)?;
        let checksum_at = match protocol {
            protocol::TCP | protocol::UDP => {
                quoted.ports = be32(transport.first_chunk::<8>()?, 0);
                Some(if protocol == protocol::TCP { 16 } else { 6 })
            }
            icmp if icmp == A::ICMP => {
                let echo = transport.first_chunk::<8>()?;
                if !parse::is_echo::<A>(echo[0]) {
                    // An error about an error is nobody's business (RFC 1122, section 3.2.2).
                    return None;
                }
                let identifier = u32::from(be16(echo, 4));
                quoted.ports = identifier << 16 | identifier;
                A::ICMP_COVERS_ADDRESSES.then_some(2)
            }
            protocol::UDP_LITE | protocol::DCCP => {
                transport.first_chunk::<8>()?;
                Some(parse::SUMMED_AT)
            }
            _ => None,
        };
        let is_quoted = |at: &usize| transport.len() >= at + 2;
        quoted.checksum_at = checksum_at.filter(is_quoted).map(|at| header_at + header_len + at);
        Some(quoted)
    }

    /// Translate one address of the quoted packet in `frame`, where the error's own headers are `headers`: the quoted header,
    /// its checksums as far as they are quoted, and the error's checksum. The error's own addresses are left as they are.
    pub fn translate(
        &self,
        frame: &mut [u8],
        headers: &Headers,
        translation: &Translation<A>,
        field: Field,
    ) {
        let at = match field {
            Field::Source => A::SOURCE,
            Field::Destination => A::DESTINATION,
        };
        translation.address().write(&mut frame[self.header_at + at..]);
        let delta = translation.delta();
        // What the error's checksum sees: the address, and each checksum that changes by the opposite.
        let mut seen = delta;
        if let Some(at) = A::CHECKSUM {
            delta.apply_at(frame, self.header_at + at);
            seen = seen.and(delta.negated());
        }
        let has_none = matches!(self.protocol, protocol::UDP | protocol::UDP_LITE);
        if let Some(at) = self.checksum_at
            && !(has_none && frame[at..at + 2] == [0, 0])
        {
            delta.apply_at(frame, at);
            seen = seen.and(delta.negated());
            // As the sender wrote it; to the error's checksum both are zero.
            if has_none && frame[at..at + 2] == [0, 0] {
                frame[at..at + 2].fill(0xff);
            }
        }
        seen.apply_at(frame, usize::from(headers.transport_offset) + 2);
    }
}

/// Whether the checksum of the ICMP message in `frame`, whose headers are `headers`, is right.
#[must_use]
pub fn is_intact<A: Address>(frame: &[u8], headers: &Headers) -> bool {
    let end = ETHERNET_LEN + usize::from(headers.total_len);
    let Some(message) = frame.get(usize::from(headers.transport_offset)..end) else { return false };
    if headers.transport != Transport::IcmpError {
        return false;
    }
    if A::ICMP_COVERS_ADDRESSES {
        checksum::of_icmpv6(&frame[ETHERNET_LEN..], message) == 0
    } else {
        checksum::of_icmp(message) == 0
    }
}
