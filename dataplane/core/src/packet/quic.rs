//! What every version of QUIC has in common (RFC 8999): the connection IDs.

use super::be32;

/// A QUIC packet as far as anybody but its two ends can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicPacket<'a> {
    /// With a long header: the handshake, or what a client sends before it (RFC 8999, section 5.1).
    Long {
        /// The version; zero is a Version Negotiation packet, which repeats what the client said (section 6).
        version: u32,
        /// The receiver's connection ID.
        destination: &'a [u8],
        /// The sender's.
        source: &'a [u8],
    },
    /// With a short header: a connection that exists (RFC 8999, section 5.2).
    Short {
        /// The receiver's connection ID.
        destination: &'a [u8],
    },
}

/// Header form: long.
const LONG: u8 = 0x80;
/// The first byte and the version of a long header.
const BEFORE_IDS: usize = 5;

impl<'a> QuicPacket<'a> {
    /// The packet that begins `datagram`, to a receiver whose connection IDs have so many bytes. `None` when it is cut short.
    #[must_use]
    pub fn read(datagram: &'a [u8], connection_id_len: u8) -> Option<Self> {
        if datagram.first()? & LONG == 0 {
            let destination = datagram.get(1..=usize::from(connection_id_len))?;
            return Some(Self::Short { destination });
        }
        let version = be32(datagram.get(1..BEFORE_IDS)?, 0);
        let (destination, rest) = connection_id(datagram.get(BEFORE_IDS..)?)?;
        let (source, _) = connection_id(rest)?;
        Some(Self::Long { version, destination, source })
    }
}

/// A connection ID with its length before it, and what follows.
fn connection_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001, appendix A.2: the header of a client's Initial packet.
    const INITIAL: &[u8] =
        b"\xc3\x00\x00\x00\x01\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\x00\x00\x44\x9e";
    /// RFC 9001, appendix A.3: the server's.
    const ANSWER: &[u8] =
        b"\xc1\x00\x00\x00\x01\x00\x08\xf0\x67\xa5\x50\x2a\x42\x62\xb5\x00\x40\x75";

    #[test]
    fn reads_both_forms() {
        let first = QuicPacket::Long { version: 1, destination: &INITIAL[6..14], source: &[] };
        assert_eq!(QuicPacket::read(INITIAL, 8), Some(first));
        let answer = QuicPacket::Long { version: 1, destination: &[], source: &ANSWER[7..15] };
        assert_eq!(QuicPacket::read(ANSWER, 4), Some(answer), "a long header tells its lengths");
        let short = QuicPacket::Short { destination: b"\x01\x02\x03\x04" };
        assert_eq!(QuicPacket::read(b"\x40\x01\x02\x03\x04\x05", 4), Some(short));
        // RFC 9287: the bit beside the form may be anything.
        assert_eq!(QuicPacket::read(b"\x00\x01\x02\x03\x04\x05", 4), Some(short));
    }

    #[test]
    fn what_is_cut_short_is_none() {
        for end in 0..15 {
            assert_eq!(QuicPacket::read(&ANSWER[..end], 8), None, "{end} bytes");
        }
        for end in 0..5 {
            assert_eq!(QuicPacket::read(&b"\x40\x01\x02\x03\x04"[..end], 4), None, "{end} bytes");
        }
        let endless = b"\xc0\x00\x00\x00\x01\xff\x01\x02";
        assert_eq!(QuicPacket::read(endless, 8), None);
    }
}
