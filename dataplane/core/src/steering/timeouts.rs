//! How long silence lasts.

/// How long a silent session is kept, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, a SYN that nobody has answered.
    pub tcp_syn_ms: u64,
    /// TCP before the handshake is finished, and what only clients have said (RFC 5382, REQ-5: at least 4 minutes for partly open).
    pub tcp_opening_ms: u64,
    /// TCP established (RFC 5382, REQ-5: at least 2 h 4 min).
    pub tcp_established_ms: u64,
    /// TCP after both FINs (RFC 5382, REQ-5: at least 4 minutes); after one alone it is as established.
    pub tcp_closing_ms: u64,
    /// TCP after an RST with the number that was acknowledged: so long nobody must go on for it to be believed. After
    /// another that may be meant, as long as after both FINs (RFC 7857, section 2.2).
    pub tcp_reset_ms: u64,
    /// After a session closed, for late segments.
    pub linger_ms: u64,
    /// UDP (RFC 4787, REQ-5: at least 2 minutes) and protocols without ports.
    pub udp_ms: u64,
    /// ICMP echo (RFC 5508, REQ-2: at least 60 seconds).
    pub echo_ms: u64,
}

impl Timeouts {
    /// The longest a silent session is kept, whatever it is.
    #[must_use]
    pub fn longest_ms(&self) -> u64 {
        let Self {
            tcp_syn_ms,
            tcp_opening_ms,
            tcp_established_ms,
            tcp_closing_ms,
            tcp_reset_ms,
            linger_ms,
            udp_ms,
            echo_ms,
        } = *self;
        let tcp = tcp_syn_ms.max(tcp_opening_ms).max(tcp_established_ms).max(tcp_closing_ms);
        tcp.max(tcp_reset_ms).max(linger_ms).max(udp_ms).max(echo_ms)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_ms: 30_000,
            tcp_opening_ms: 240_000,
            tcp_established_ms: 7_440_000,
            tcp_closing_ms: 240_000,
            tcp_reset_ms: 2_000,
            linger_ms: 4_000,
            udp_ms: 120_000,
            echo_ms: 60_000,
        }
    }
}
