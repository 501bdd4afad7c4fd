//! Datagrams cut up and put together again, by headers that an independent library reads and writes.

use etherparse::{Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv6FragmentHeader};

const ETHERNET_LEN: usize = Ethernet2Header::LEN;

/// What a fragment, or a whole packet, says of its place in the datagram.
pub(crate) struct Part {
    ip: IpHeaders,
    pub(crate) offset: usize,
    pub(crate) more: bool,
    protocol: IpNumber,
    pub(crate) bytes: Vec<u8>,
}

impl Part {
    pub(crate) fn read(frame: &[u8]) -> Self {
        let (ip, payload) = IpHeaders::from_slice(&frame[ETHERNET_LEN..]).expect("IP");
        let (offset, more) = match &ip {
            IpHeaders::Ipv4(ip, _) => (ip.fragment_offset, ip.more_fragments),
            IpHeaders::Ipv6(_, extensions) => match &extensions.fragment {
                Some(fragment) => (fragment.fragment_offset, fragment.more_fragments),
                None => (IpFragOffset::ZERO, false),
            },
        };
        let (protocol, bytes) = (payload.ip_number, payload.payload.to_vec());
        Self { ip, offset: offset.byte_offset() as usize, more, protocol, bytes }
    }

    /// Bytes of the frame before what the datagram carries.
    pub(crate) fn headers_len(&self) -> usize {
        ETHERNET_LEN + self.ip.header_len()
    }

    fn is_fragment(&self) -> bool {
        self.offset > 0 || self.more
    }

    /// A frame with the link header of `frame`.
    fn write(&self, frame: &[u8], identification: u32) -> Vec<u8> {
        let mut headers = self.ip.clone();
        let offset = IpFragOffset::try_new((self.offset / 8) as u16).expect("an offset");
        match &mut headers {
            IpHeaders::Ipv4(ip, _) => {
                (ip.fragment_offset, ip.more_fragments) = (offset, self.more);
                (ip.identification, ip.dont_fragment) = (identification as u16, false);
            }
            IpHeaders::Ipv6(_, extensions) => {
                let header =
                    Ipv6FragmentHeader::new(self.protocol, offset, self.more, identification);
                extensions.fragment = self.is_fragment().then_some(header);
            }
        }
        headers.set_next_headers(self.protocol);
        headers.set_payload_len(self.bytes.len()).expect("a length");
        if let IpHeaders::Ipv4(ip, _) = &mut headers {
            ip.header_checksum = ip.calc_header_checksum();
        }
        let mut written = frame[..ETHERNET_LEN].to_vec();
        headers.write(&mut written).expect("headers");
        written.extend(&self.bytes);
        written
    }
}

/// Whether a frame is a fragment of an IP datagram. The library takes what is behind the fragment header for whole
/// extension headers, so what it cannot read may be one.
pub(crate) fn is_fragment(frame: &[u8]) -> bool {
    let is_ip = matches!(frame.get(12..14), Some([8, 0] | [0x86, 0xdd]));
    is_ip
        && IpHeaders::from_slice(&frame[ETHERNET_LEN..])
            .map_or(true, |_| Part::read(frame).is_fragment())
}

/// The fragment of the datagram in `frame` from byte `from` up to byte `to`, or the end.
pub(crate) fn fragment(frame: &[u8], identification: u32, from: usize, to: usize) -> Vec<u8> {
    let whole = Part::read(frame);
    let end = to.min(whole.bytes.len());
    let more = end < whole.bytes.len();
    let bytes = whole.bytes[from..end].to_vec();
    Part { offset: from, more, bytes, ..whole }.write(frame, identification)
}

/// The datagram in `frame` in fragments of `size` bytes.
pub(crate) fn cut(frame: &[u8], identification: u32, size: usize) -> Vec<Vec<u8>> {
    let len = Part::read(frame).bytes.len();
    (0..len).step_by(size).map(|from| fragment(frame, identification, from, from + size)).collect()
}

/// The datagram whose fragments these are, in any order and perhaps twice. `None` when a part of it is missing.
pub(crate) fn joined<'a>(frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Option<Vec<u8>> {
    let mut frames: Vec<_> = frames.into_iter().map(|frame| (Part::read(frame), frame)).collect();
    frames.sort_by_key(|(part, _)| part.offset);
    let mut bytes: Vec<u8> = Vec::new();
    let mut is_complete = false;
    for (part, _) in &frames {
        if part.offset > bytes.len() {
            return None;
        }
        let known = (bytes.len() - part.offset).min(part.bytes.len());
        bytes.extend(&part.bytes[known..]);
        is_complete |= !part.more;
    }
    let (first, frame) = frames.into_iter().next()?;
    is_complete.then(|| Part { more: false, bytes, ..first }.write(frame, 0))
}
