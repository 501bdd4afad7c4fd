//! One session: half a cache line for IPv4, a whole one for IPv6.
//!
//! | offset, IPv4 | IPv6 | bytes | field |
//! |---|---|---|---|
//! | 0 | 0 | 8, 32 | client's address; managed address, or the locator a client chose itself |
//! | 8 | 32 | 4 | client's port (upper half), service's port |
//! | 12 | 36 | 1 | protocol |
//! | 13 | 37 | 1 | state (bits 0–2, zero is a free place), FINs (bits 4–7) |
//! | 14 | 38 | 2 | owner |
//! | 16 | 40 | 4 | last seen, milliseconds modulo 2^32 |
//! | 20 | 44 | 4 | birth epoch |
//! | 24 | 48 | 8 | sequence numbers that acknowledge the client's and the backend's FIN |
//!
//! None lies across two cache lines. Host byte order: it never leaves the process.

use std::mem;

use zerocopy::FromZeros;

use super::{SessionKey, Tuple, tcp::Fins};
use crate::{
    packet::{Address, TcpFlags, TcpSegment, protocol},
    steering::{BackendSlot, Timeouts},
};

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SessionState {
    /// TCP: the handshake is not finished.
    Opening = 1,
    /// In use.
    Established = 2,
    /// TCP: a FIN was seen.
    Closing = 3,
    /// Closed; kept a little so that late segments still find the owner. Not live.
    Lingering = 4,
}

const STATE: u8 = 0b111;

/// A session as its shard keeps it.
#[derive(Clone, Debug, FromZeros)]
#[repr(C)]
pub struct Session<A: Address> {
    addresses: A::Pair,
    ports: u32,
    protocol: u8,
    life: u8,
    owner: u16,
    last_seen_ms: u32,
    birth_epoch: u32,
    fins: Fins,
}

const _: () = assert!(size_of::<Session<u32>>() == 32 && size_of::<Session<u128>>() == 64);

impl<A: Address> Session<A> {
    /// A session that begins now.
    ///
    /// # Panics
    /// When the owner's number does not fit: see [`MAX_BACKENDS`](crate::counters::MAX_BACKENDS).
    #[must_use]
    pub fn new(
        key: &SessionKey<A>,
        owner: BackendSlot,
        birth_epoch: u32,
        state: SessionState,
        now_ms: u64,
    ) -> Self {
        Self {
            addresses: key.addresses,
            ports: key.ports,
            protocol: key.protocol,
            life: state as u8,
            owner: u16::try_from(owner.0).expect("slots are below MAX_BACKENDS"),
            last_seen_ms: now_ms as u32,
            birth_epoch,
            fins: Fins::default(),
        }
    }

    /// Whether this is the session with `key`. A free place is none: it is between two addresses of zero.
    #[inline]
    pub(super) fn has(&self, key: &SessionKey<A>) -> bool {
        // Not `&&`: three comparisons cost less than a branch that goes wrong.
        (self.addresses == key.addresses)
            & (self.ports == key.ports)
            & (self.protocol == key.protocol)
    }

    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.life & STATE == 0
    }

    /// Take it out and leave the place free.
    pub(super) fn take(&mut self) -> Self {
        mem::replace(self, Self::new_zeroed())
    }

    /// Its key.
    #[inline]
    #[must_use]
    pub fn key(&self) -> SessionKey<A> {
        SessionKey { addresses: self.addresses, ports: self.ports, protocol: self.protocol }
    }

    /// Its owner, from birth to death.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> BackendSlot {
        BackendSlot(u32::from(self.owner))
    }

    /// Where it is in its life.
    #[inline]
    #[must_use]
    pub fn state(&self) -> SessionState {
        match self.life & STATE {
            1 => SessionState::Opening,
            2 => SessionState::Established,
            3 => SessionState::Closing,
            _ => SessionState::Lingering,
        }
    }

    /// Whether it counts.
    #[inline]
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.life & STATE != SessionState::Lingering as u8
    }

    /// A packet of it passed.
    #[inline]
    pub fn seen(&mut self, now_ms: u64) {
        self.last_seen_ms = now_ms as u32;
    }

    /// Whether a TCP segment with these control bits leaves its state as it is. Nearly every one does: nothing begins and
    /// nothing ends.
    #[inline]
    #[must_use]
    pub fn is_unmoved_by(&self, flags: TcpFlags) -> bool {
        self.life == SessionState::Established as u8 && !flags.ends()
    }

    /// Follow a TCP segment of this session. Returns true when the segment closed it.
    pub fn follow_tcp(&mut self, segment: &TcpSegment, from_client: bool) -> bool {
        let before = self.state();
        let (after, seen) = self.fins.follow(self.life >> 4, before, segment, from_client);
        self.life = seen << 4 | after as u8;
        before != SessionState::Lingering && after == SessionState::Lingering
    }

    /// Milliseconds since its last packet.
    #[inline]
    #[must_use]
    pub fn idle_ms(&self, now_ms: u64) -> u32 {
        // Modulo 2^32 ms, 49 days: every session that silent has been swept long before.
        (now_ms as u32).wrapping_sub(self.last_seen_ms)
    }

    /// Whether it has been silent for longer than its state allows.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, timeouts: &Timeouts, now_ms: u64) -> bool {
        let limit = match (self.state(), self.protocol) {
            (SessionState::Lingering, _) => timeouts.linger_ms,
            (_, protocol::UDP) => timeouts.udp_ms,
            (_, protocol::ICMP | protocol::ICMPV6) => timeouts.echo_ms,
            (SessionState::Opening, _) => timeouts.tcp_opening_ms,
            (SessionState::Closing, _) => timeouts.tcp_closing_ms,
            (SessionState::Established, _) => timeouts.tcp_established_ms,
        };
        u64::from(self.idle_ms(now_ms)) > limit
    }

    /// What a listing shows of it.
    #[must_use]
    pub fn record(&self, now_ms: u64) -> SessionRecord {
        SessionRecord {
            tuple: self.key().tuple(),
            owner: self.owner(),
            birth_epoch: self.birth_epoch,
            state: self.state(),
            idle_ms: u64::from(self.idle_ms(now_ms)),
        }
    }
}

/// A copy of a session for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its key.
    pub tuple: Tuple,
    /// Its owner.
    pub owner: BackendSlot,
    /// Epoch it was born in.
    pub birth_epoch: u32,
    /// Where it is in its life.
    pub state: SessionState,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
}
