//! What can be wrong with a packet that comes back.

use serde::{Deserialize, Serialize};

/// Packets that were wrong, by what was wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Reached, or came from, another VM than the session's owner.
    pub misdirected: u64,
    /// IPv4 header checksum.
    pub ip_checksum: u64,
    /// TCP checksum.
    pub tcp_checksum: u64,
    /// An address, port or MAC is not what it must be at this place.
    pub address: u64,
    /// The tag is missing, or another session's.
    pub tag: u64,
    /// Came after a later one of its session, or twice.
    pub reordered: u64,
    /// Does not fit what its session has come to.
    pub unexpected: u64,
}

impl Faults {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { misdirected, ip_checksum, tcp_checksum, address, tag, reordered, unexpected } =
            *self;
        misdirected + ip_checksum + tcp_checksum + address + tag + reordered + unexpected
    }

    /// One more.
    pub(crate) fn count(&mut self, fault: Fault) {
        *match fault {
            Fault::Misdirected => &mut self.misdirected,
            Fault::IpChecksum => &mut self.ip_checksum,
            Fault::TcpChecksum => &mut self.tcp_checksum,
            Fault::Address => &mut self.address,
            Fault::Tag => &mut self.tag,
            Fault::Reordered => &mut self.reordered,
            Fault::Unexpected => &mut self.unexpected,
        } += 1;
    }
}

/// One wrong packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Misdirected,
    IpChecksum,
    TcpChecksum,
    Address,
    Tag,
    Reordered,
    Unexpected,
}
