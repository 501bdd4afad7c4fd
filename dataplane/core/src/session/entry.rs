//! One session.

use super::tcp::TcpTrack;
use crate::{
    packet::{TcpSegment, protocol},
    steering::{BackendSlot, Timeouts},
};

/// What makes a session distinct. Addresses and ports in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The client's address.
    pub client: u32,
    /// The managed address; the backend's locator for a session that a client opened to the locator itself.
    pub address: u32,
    /// The client's port; the identifier of an ICMP echo.
    pub client_port: u16,
    /// The service's port; the identifier of an ICMP echo.
    pub address_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// TCP: the handshake is not finished.
    Opening,
    /// In use.
    Established,
    /// TCP: a FIN was seen.
    Closing,
    /// Closed; kept a little so that late segments still find the owner. Not live.
    Lingering,
}

/// A session as its shard keeps it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its key.
    pub key: SessionKey,
    /// Its owner, from birth to death.
    pub owner: BackendSlot,
    /// Epoch it was born in.
    pub birth_epoch: u32,
    /// Where it is in its life.
    pub state: SessionState,
    /// When its last packet passed, milliseconds of the shard's clock.
    pub last_seen_ms: u64,
    tcp: TcpTrack,
}

impl Session {
    /// A session that begins now.
    #[must_use]
    pub fn new(
        key: SessionKey,
        owner: BackendSlot,
        birth_epoch: u32,
        state: SessionState,
        now_ms: u64,
    ) -> Self {
        Self { key, owner, birth_epoch, state, last_seen_ms: now_ms, tcp: TcpTrack::default() }
    }

    /// Whether it counts.
    #[inline]
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state != SessionState::Lingering
    }

    /// Follow a TCP segment of this session. Returns true when the segment closed it.
    #[inline]
    pub fn follow_tcp(&mut self, segment: &TcpSegment, from_client: bool) -> bool {
        let before = self.state;
        self.state = self.tcp.follow(before, segment, from_client);
        before != SessionState::Lingering && self.state == SessionState::Lingering
    }

    /// Whether it has been silent for longer than its state allows.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, timeouts: &Timeouts, now_ms: u64) -> bool {
        let limit = match (self.state, self.key.protocol) {
            (SessionState::Lingering, _) => timeouts.linger_ms,
            (_, protocol::UDP) => timeouts.udp_ms,
            (_, protocol::ICMP) => timeouts.echo_ms,
            (SessionState::Opening, _) => timeouts.tcp_opening_ms,
            (SessionState::Closing, _) => timeouts.tcp_closing_ms,
            (SessionState::Established, _) => timeouts.tcp_established_ms,
        };
        now_ms.saturating_sub(self.last_seen_ms) > limit
    }

    /// What a listing shows of it.
    #[must_use]
    pub fn record(&self, now_ms: u64) -> SessionRecord {
        SessionRecord {
            key: self.key,
            owner: self.owner,
            birth_epoch: self.birth_epoch,
            state: self.state,
            idle_ms: now_ms.saturating_sub(self.last_seen_ms),
        }
    }
}

/// A copy of a session for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its key.
    pub key: SessionKey,
    /// Its owner.
    pub owner: BackendSlot,
    /// Epoch it was born in.
    pub birth_epoch: u32,
    /// Where it is in its life.
    pub state: SessionState,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
}
