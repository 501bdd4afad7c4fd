//! How a packet's way through the box can end. Every packet ends in exactly one of these.

/// Declare outcomes with their name and help as operators see them.
macro_rules! outcomes {
    ($($variant:ident $name:literal $drop:literal $help:literal,)*) => {
        /// How a packet ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Outcome { $(#[doc = $help] $variant,)* }

        impl Outcome {
            /// How many there are.
            pub const COUNT: usize = [$(Self::$variant),*].len();
            /// All of them; the position is `outcome as usize`.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// Name for operators, stable.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// One sentence for operators.
            #[must_use]
            pub const fn help(self) -> &'static str { match self { $(Self::$variant => $help,)* } }
            /// Whether the packet was dropped.
            #[must_use]
            pub const fn is_drop(self) -> bool { match self { $(Self::$variant => $drop,)* } }
        }
    };
}

outcomes! {
    ToSource "to_source" false "Sent to the home backend: the source of a migration, or the only VM there is.",
    ToDestination "to_destination" false "Sent to the destination of a migration.",
    ToClient "to_client" false "Sent from a backend to a client.",
    Forwarded "forwarded" false "Routed as it was: no managed address, or a VM under its own.",
    Originated "originated" false "A frame of the control core was sent: an announcement, or a question for a neighbour.",
    ToHost "to_host" false "Handed to the box's own kernel by the port's twin.",
    FromHost "from_host" false "Sent for the box's own kernel, as its twin gave it.",
    NeighbourAnswered "neighbour_answered" false "An ARP request or neighbour solicitation for an own or hosted address was answered.",
    ArpSeen "arp_seen" true "An ARP packet that needs no answer; its sender was learned if it is on the link.",
    NeighbourSeen "neighbour_seen" true "A neighbour solicitation or advertisement that needs no answer; an advertised neighbour was learned if it is on the link.",
    Truncated "truncated" true "Shorter than an Ethernet header.",
    Segmented "segmented" true "Longer than a packet buffer: its device does not keep to the port's MTU.",
    OtherEthertype "other_ethertype" true "Neither IPv4, IPv6 nor ARP.",
    UnknownVlan "unknown_vlan" true "Tagged for VLANs that no port of the device has, or with more than two tags.",
    NotForUs "not_for_us" true "The destination MAC is not the port's.",
    BadArp "bad_arp" true "An ARP packet that is cut short or not IPv4 over Ethernet.",
    BadNeighbour "bad_neighbour" true "A neighbour solicitation or advertisement that is cut short, damaged, or not from its link.",
    BadIpv4 "bad_ipv4" true "IPv4 version or lengths do not fit the frame.",
    BadIpv6 "bad_ipv6" true "IPv6 version, lengths or extension headers do not fit the frame.",
    BadTransport "bad_transport" true "The TCP, UDP or ICMP header is cut short.",
    Group "group" true "Multicast, broadcast or for the link alone, which the box does not forward.",
    ForHost "for_host" true "Addressed to the box itself, which offers nothing there.",
    TtlExpired "ttl_expired" true "Time to live ran out, and the sender is not told: there is no way back, it must not be, or too many were.",
    TtlExpiredAnswered "ttl_expired_answered" false "Time to live ran out; the sender is told by an ICMP time exceeded in the packet's place.",
    HostLimited "host_limited" true "For the box's own kernel, and more of its kind than a worker hands there in a second: 2,000 of ARP and neighbour discovery, 4,000 of routing protocols, 4,000 of all else.",
    TooBig "too_big" true "Does not fit its next link or tunnel, and the sender is not told: there is no way back, it must not be, or too many were.",
    TooBigAnswered "too_big_answered" false "Does not fit its next link or tunnel; the sender is told by an ICMP error with the MTU in the packet's place.",
    TunnelFragment "tunnel_fragment" true "A fragment of a tunnel's packet; the network between has a smaller MTU than configured.",
    TunnelUnreadable "tunnel_unreadable" true "A tunnel's packet that is cut short, damaged, or asks for what the box does not do.",
    TunnelCongested "tunnel_congested" true "Met congestion in a tunnel, and its transport does not understand being told (RFC 6040).",
    NoRoute "no_route" true "No route to the destination, and the sender is not told: the route says so, there is no way back, it must not be, or too many were.",
    NoRouteAnswered "no_route_answered" false "No route to the destination; the sender is told by an ICMP destination unreachable in the packet's place.",
    NeighbourUnknown "neighbour_unknown" true "The next hop's MAC is not known yet; it is being asked for.",
    LinkLocalSource "link_local_source" true "To another link, from an address that means something on its own only.",
    Spoofed "spoofed" true "A managed address or locator as source, from a port none of its backends is behind.",
    FragmentTiny "fragment_tiny" true "A first fragment without the whole transport header, or a later one inside of it.",
    FragmentConflict "fragment_conflict" true "A second first fragment of a datagram, with other ports.",
    FragmentOrphan "fragment_orphan" true "A later fragment whose first was dropped, or whose owner is gone.",
    FragmentExpired "fragment_expired" true "A later fragment whose first did not come in time.",
    FragmentNoRoom "fragment_no_room" true "A fragment for whose datagram there was no room, or that gave its place to one that came later.",
    IcmpUnsupported "icmp_unsupported" true "ICMP other than echo and errors, to or from a managed address.",
    IcmpUnmatched "icmp_unmatched" true "An ICMP error about a packet of no session, to or from a managed address.",
    IcmpQuoteUnreadable "icmp_quote_unreadable" true "An ICMP error whose quoted packet is cut short, is an error itself, or a later fragment.",
    BadIcmpChecksum "bad_icmp_checksum" true "An ICMP error with a wrong checksum, which cannot be translated.",
    SourceRouted "source_routed" true "IPv6 with a routing header that leads elsewhere first, to or from a managed address.",
    OtherOwner "other_owner" true "From a VM for a session the other VM owns.",
    BeforeCutover "before_cutover" true "From the destination before cutover, in the managed address's name.",
    StaleClone "stale_clone" true "From the destination, for a TCP session nobody knows: inherited from the source's memory.",
    UnknownTcp "unknown_tcp" true "TCP without session after cutover, dropped by policy.",
    UnknownQuic "unknown_quic" true "QUIC without session after cutover, of a connection nobody knows, dropped by policy.",
    AdoptionLimited "adoption_limited" true "TCP or QUIC without session; adopting it would exceed the rate limit.",
    HalfOpenLimited "half_open_limited" true "A new session, while more sessions are only begun than may be, and none was found that may go: those looked at were from before a cutover, or are over and were not forgotten yet.",
    TableFull "table_full" true "A new session, and no room for it.",
    NoHeadroom "no_headroom" true "The packet's buffer has no room before the packet for the headers it needs.",
    PortGone "port_gone" true "The port it came from or was to leave by has been removed.",
    TransmitFull "transmit_full" true "The port's transmit queue was full, or its driver refused the packet.",
    HoldFull "hold_full" true "The port is held, and as many packets wait for it as may.",
    RingFull "ring_full" true "The ring to the worker that owns the session was full.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_names_are_distinct() {
        let names: std::collections::HashSet<_> =
            Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), Outcome::COUNT);
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position);
        }
    }
}
