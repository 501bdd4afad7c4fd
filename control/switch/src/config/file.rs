//! The file as it is written; `check` turns it into valid types.

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) eal: Eal,
    #[serde(default)]
    pub(super) workers: Workers,
    pub(super) api: Api,
    #[serde(default)]
    pub(super) routes: Routes,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    #[serde(default)]
    pub(super) port: Vec<Port>,
    #[serde(default)]
    pub(super) neighbour: Vec<Neighbour>,
    #[serde(default)]
    pub(super) route: Vec<Route>,
    #[serde(default)]
    pub(super) address: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eal {
    pub(super) hugepages: Option<bool>,
    pub(super) memory_mib: Option<Spanned<u32>>,
    pub(super) mbufs: Option<Spanned<u32>>,
    pub(super) max_ports: Option<Spanned<u16>>,
    #[serde(default)]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workers {
    pub(super) cpus: Option<Spanned<Vec<Spanned<u32>>>>,
    pub(super) idle: Option<Idle>,
    pub(super) sessions: Option<Spanned<u32>>,
    pub(super) sessions_ipv6: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Idle {
    Sleep,
    Poll,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) listen: Spanned<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Routes {
    pub(super) table: Option<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Table {
    Lpm,
    Map,
}

/// Seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) tcp_syn: Option<Spanned<u64>>,
    pub(super) tcp_opening: Option<Spanned<u64>>,
    pub(super) tcp_established: Option<Spanned<u64>>,
    pub(super) tcp_closing: Option<Spanned<u64>>,
    pub(super) tcp_reset: Option<Spanned<u64>>,
    pub(super) linger: Option<Spanned<u64>>,
    pub(super) udp: Option<Spanned<u64>>,
    pub(super) icmp_echo: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) name: Spanned<String>,
    pub(super) device: Option<Spanned<String>>,
    /// Of a VLAN: the port whose device it shares, and its tags.
    pub(super) on: Option<Spanned<String>>,
    pub(super) vlan: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<u16>>,
    pub(super) mac: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    pub(super) role: Role,
    pub(super) twin: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Uplink,
    Access,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Neighbour {
    pub(super) address: Spanned<String>,
    pub(super) mac: Spanned<String>,
    pub(super) port: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) to: Spanned<String>,
    pub(super) via: Spanned<String>,
    pub(super) port: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    pub(super) address: Spanned<String>,
    pub(super) home: Spanned<Backend>,
    pub(super) quic: Option<Spanned<Quic>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quic {
    pub(super) connection_id_length: u32,
    #[serde(default)]
    pub(super) ports: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) name: Spanned<String>,
    pub(super) port: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
    pub(super) encap: Option<Encap>,
    pub(super) rewrite: Rewrite,
    pub(super) locator: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encap {
    pub(super) kind: EncapKind,
    pub(super) remote: Spanned<String>,
    pub(super) local: Spanned<String>,
    pub(super) vni: Option<Spanned<u32>>,
    pub(super) udp_port: Option<Spanned<u16>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncapKind {
    Ipip,
    Gue,
    Vxlan,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rewrite {
    L2,
    Nat,
}
