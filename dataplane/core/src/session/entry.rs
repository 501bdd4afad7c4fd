//! One session: half a cache line for IPv4, a whole one for IPv6.
//!
//! | offset, IPv4 | IPv6 | bytes | field |
//! |---|---|---|---|
//! | 0 | 0 | 8, 32 | client's address; managed address, or the locator a client chose itself |
//! | 8 | 32 | 4 | client's port (upper half), service's port |
//! | 12 | 36 | 1 | protocol |
//! | 13 | 37 | 1 | where it is in its life |
//! | 14 | 38 | 2 | owner |
//! | 16 | 40 | 4 | last seen, milliseconds modulo 2^32 |
//! | 20 | 44 | 4 | birth epoch |
//! | 24 | 48 | 8 | sequence numbers up to which the client and the backend have been acknowledged |
//!
//! None lies across two cache lines. Host byte order: it never leaves the process.

use std::mem;

use zerocopy::FromZeros;

use super::{
    ImportedState, SessionKey, SessionState, Tuple,
    life::{Life, Marks},
};
use crate::{
    packet::{Address, TcpSegment, protocol},
    steering::{BackendSlot, Timeouts},
};

/// A session as its shard keeps it.
#[derive(Clone, Debug, FromZeros)]
#[repr(C)]
pub struct Session<A: Address> {
    addresses: A::Pair,
    ports: u32,
    protocol: u8,
    life: Life,
    owner: u16,
    last_seen_ms: u32,
    birth_epoch: u32,
    marks: Marks,
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
        begun_by_vm: bool,
        now_ms: u64,
    ) -> Self {
        Self {
            addresses: key.addresses,
            ports: key.ports,
            protocol: key.protocol,
            life: Life::new(state, begun_by_vm),
            owner: u16::try_from(owner.0).expect("slots are below MAX_BACKENDS"),
            last_seen_ms: now_ms as u32,
            birth_epoch,
            marks: [0; 2],
        }
    }

    /// A session of `owner` that began before the box saw it, and is silent from now on.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn imported(
        key: &SessionKey<A>,
        owner: BackendSlot,
        birth_epoch: u32,
        state: ImportedState,
        now_ms: u64,
    ) -> Self {
        let established = SessionState::Established;
        let session = Self::new(key, owner, birth_epoch, established, false, now_ms);
        Self { life: Life::imported(state), ..session }
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
        self.life.is_free()
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
        self.life.state()
    }

    /// Whether it counts.
    #[inline]
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.life.is_live()
    }

    /// Whether it is closed, or reset for certain: a SYN on its ports begins another, even while it counts.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.life.is_over(&self.marks)
    }

    /// Whether its first packet came from the VM.
    #[inline]
    #[must_use]
    pub fn is_begun_by_vm(&self) -> bool {
        self.life.is_begun_by_vm()
    }

    /// The epoch it was born in.
    #[inline]
    #[must_use]
    pub fn birth_epoch(&self) -> u32 {
        self.birth_epoch
    }

    /// A packet of it passed.
    #[inline]
    pub fn seen(&mut self, now_ms: u64) {
        self.last_seen_ms = now_ms as u32;
    }

    /// Whether nothing but the end of a TCP connection changes its state, of what this side may send. Nearly every packet
    /// belongs to such a session.
    #[inline]
    #[must_use]
    pub fn is_settled(&self, from_client: bool) -> bool {
        self.life.is_settled(from_client)
    }

    /// One side of a settled TCP session acknowledges the other up to this sequence number.
    #[inline]
    pub fn acknowledged(&mut self, by_client: bool, number: u32) {
        self.marks[usize::from(by_client)] = number;
    }

    /// The same, known from a client alone.
    #[must_use]
    pub(crate) fn unconfirmed(self) -> Self {
        Self { life: self.life.unconfirmed(), ..self }
    }

    /// Whether nobody but the client has been heard, and speaks as if it were established.
    #[must_use]
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.life.is_unconfirmed()
    }

    /// Where it is in its life, to compare with later.
    #[inline]
    #[must_use]
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// It is only begun, and must not make room for others.
    pub(crate) fn pass_over(&mut self) {
        self.life.pass_over();
    }

    /// It is only begun, and may have to make room for others again.
    pub(crate) fn take_back(&mut self) {
        self.life.take_back();
    }

    /// Follow a TCP segment of this session.
    pub fn follow_tcp(&mut self, segment: &TcpSegment, from_client: bool) {
        self.life.follow_tcp(&mut self.marks, segment, from_client);
    }

    /// Follow another packet of this session.
    pub fn follow_datagram(&mut self, from_client: bool) {
        self.life.follow_datagram(&mut self.marks, from_client);
    }

    /// It is over; it lingers from now on.
    pub(crate) fn end(&mut self, now_ms: u64) {
        self.life.end();
        self.seen(now_ms);
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
            (_, protocol::ICMP | protocol::ICMPV6) => timeouts.echo_ms,
            (SessionState::Opening, protocol::TCP) if self.life.is_answered() => {
                timeouts.tcp_opening_ms
            }
            (SessionState::Opening, protocol::TCP) => timeouts.tcp_syn_ms,
            (SessionState::Resetting, protocol::TCP) if self.life.is_doubted(&self.marks) => {
                timeouts.tcp_closing_ms
            }
            (SessionState::Resetting, protocol::TCP) => timeouts.tcp_reset_ms,
            (SessionState::Closing, protocol::TCP) if self.life.is_ending() => {
                timeouts.tcp_closing_ms
            }
            (_, protocol::TCP) if self.life.is_unconfirmed() => timeouts.tcp_opening_ms,
            // One side may be done, and the other go on for hours.
            (_, protocol::TCP) => timeouts.tcp_established_ms,
            _ => timeouts.udp_ms,
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
