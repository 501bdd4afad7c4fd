//! The command line.

mod migrate;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_api::endpoint::Endpoint;

pub use migrate::{Finish, Kind, Migrate, Sessions};

/// What `--help` says at the end.
const EXIT_CODES: &str = "\
Exit codes: 0 done, the migration completed; 1 error; 2 usage; 3 the migration was aborted, the source owns \
everything; 4 the migration failed and needs an operator; 5 a preflight check failed, nothing was started, or a merge would be refused; \
130 interrupted while watching, the migration goes on.

With --json every line is one JSON object. Events of a migration have `event`: plan, accepted, started, \
finished, copy, drain, aborting, resumed, ended; the last line is `migration`.";

/// Plan, start, watch and abort migrations; look at switch boxes and hosts.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Where the manager serves.
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "TIDEGATE_MANAGER",
        help_heading = "Endpoints",
        default_value = "unix:/run/tidegate/manager.sock"
    )]
    pub manager: Endpoint,
    /// Where the switch box serves.
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "TIDEGATE_SWITCH",
        help_heading = "Endpoints",
        default_value = "unix:/run/tidegate/tidegated.sock"
    )]
    pub switch: Endpoint,
    /// Where the host serves.
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "TIDEGATE_HOST",
        help_heading = "Endpoints",
        default_value = "unix:/run/tidegate/hostd.sock"
    )]
    pub host: Endpoint,
    /// One JSON object per line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move a guest's service to another guest.
    Migrate(Box<Migrate>),
    /// List all migrations.
    Migrations,
    /// Follow a migration to its end.
    Watch {
        /// The migration.
        id: String,
    },
    /// Give everything back to the source.
    Abort {
        /// The migration.
        id: String,
    },
    /// Take a failed migration up again, after its cause was removed.
    Resume {
        /// The migration.
        id: String,
    },
    /// Change how much of the network a running migration's copies take, those while the guest stands included.
    Bandwidth {
        /// The migration.
        id: String,
        /// At most so many Mbit/s; 0: no limit.
        mbps: u64,
    },
    /// What the source has changed since T0, and what a merge would do now; changes nothing.
    Diff {
        /// The migration.
        id: String,
    },
    /// What the manager was configured with, and whether it answers.
    Inventory,
    /// Look at a switch box.
    #[command(subcommand)]
    Switch(SwitchCommand),
    /// Steer a managed address by hand, where no manager does.
    #[command(subcommand)]
    Address(AddressCommand),
    /// Add, remove and list ports of a switch box.
    #[command(subcommand)]
    Port(PortCommand),
    /// Start, list and delete guests of a host.
    #[command(subcommand)]
    Guest(GuestCommand),
}

/// Look at a switch box.
#[derive(Debug, Subcommand)]
pub enum SwitchCommand {
    /// Version, workers, ports.
    Status,
    /// Managed addresses.
    Addresses,
    /// Sessions.
    Sessions {
        /// Of this address only.
        #[arg(long)]
        address: Option<IpAddr>,
        /// At most so many; 0: all.
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// What became of packets.
    Counters {
        /// Outcomes that no packet had, too.
        #[arg(long)]
        all: bool,
    },
}

/// Steer a managed address by hand; the order is add, takeover, destination, cutover, release.
#[derive(Debug, Subcommand)]
pub enum AddressCommand {
    /// Manage an address: its sessions are recorded from now on.
    Add {
        /// Managed address.
        address: IpAddr,
        /// Where it lives.
        #[command(flatten)]
        home: BackendArgs,
        /// It speaks QUIC, and its connection IDs have so many bytes: sessions survive a change of the client's address.
        #[arg(long, value_name = "BYTES")]
        quic_connection_id_length: Option<u32>,
        /// UDP ports where it speaks QUIC, with commas between them; left out: 443.
        #[arg(
            long,
            value_name = "PORT",
            value_delimiter = ',',
            requires = "quic_connection_id_length"
        )]
        quic_ports: Vec<u16>,
    },
    /// Forget an address and its sessions.
    Remove {
        /// Managed address.
        address: IpAddr,
    },
    /// Show one address.
    Show {
        /// Managed address.
        address: IpAddr,
    },
    /// Answer for the address, and announce it.
    Takeover {
        /// Managed address.
        address: IpAddr,
    },
    /// Say where the address is to move.
    Destination {
        /// Managed address.
        address: IpAddr,
        /// Where it is to move.
        #[command(flatten)]
        destination: BackendArgs,
    },
    /// Send new sessions to the destination from now on.
    Cutover {
        /// Managed address.
        address: IpAddr,
        /// What the box cannot know better.
        #[command(flatten)]
        policies: PolicyArgs,
    },
    /// Follow the address's migration to its end.
    Watch {
        /// Managed address.
        address: IpAddr,
        /// Between two counts.
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 200)]
        interval_ms: u32,
    },
    /// Give everything back to the source.
    Abort {
        /// Managed address.
        address: IpAddr,
    },
    /// Leave the address to the destination.
    Release {
        /// Managed address.
        address: IpAddr,
        /// Go on recording sessions.
        #[arg(long)]
        keep_tracking: bool,
        /// Although old sessions are left, which are forgotten.
        #[arg(long)]
        force: bool,
        /// The destination is the source's image by now and goes on with its sessions; its own are cut.
        #[arg(long, conflicts_with = "force")]
        with_sessions: bool,
    },
}

/// Where an address's packets can go.
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    /// The backend's name, as a rule the guest's.
    #[arg(long)]
    pub name: String,
    /// Port of the switch box that it is behind. With --encap: the port whose MAC and addresses it sees as its gateway's;
    /// left out, the one with --local.
    #[arg(long, value_name = "NAME", required_unless_present = "encap", default_value_t)]
    pub port: String,
    /// Its MAC address. With --encap ipip or gue there is none.
    #[arg(long, required_unless_present = "encap", default_value_t)]
    pub mac: String,
    /// The tunnel it is behind.
    #[command(flatten)]
    pub tunnel: TunnelArgs,
    /// Its own address: packets are rewritten to it (nat). Left out: l2.
    #[arg(long, value_name = "IP")]
    pub locator: Option<IpAddr>,
}

/// The tunnel a backend is behind.
#[derive(Clone, Debug, Args)]
pub struct TunnelArgs {
    /// It is behind another switch: wrap packets to it.
    #[arg(long, requires_all = ["remote", "local"])]
    pub encap: Option<EncapKind>,
    /// The machine at the other end of the tunnel.
    #[arg(long, value_name = "IP", requires = "encap")]
    pub remote: Option<IpAddr>,
    /// The box's end: an address of one of its ports.
    #[arg(long, value_name = "IP", requires = "encap")]
    pub local: Option<IpAddr>,
    /// VXLAN network identifier.
    #[arg(long, requires = "encap", default_value_t)]
    pub vni: u32,
    /// UDP port of GUE or VXLAN; 0: 6080 or 4789.
    #[arg(long, value_name = "PORT", requires = "encap", default_value_t)]
    pub udp_port: u16,
}

/// What packets to a backend behind another switch are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EncapKind {
    /// IP in IP.
    Ipip,
    /// Generic UDP Encapsulation.
    Gue,
    /// VXLAN: whole Ethernet frames.
    Vxlan,
}

/// How the box treats, from cutover on, what it cannot know better.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Who gets TCP of a session the box does not know.
    #[arg(long, value_enum, default_value_t = Policy::Source)]
    pub unknown_tcp: Policy,
    /// Who gets QUIC of a connection the box does not know.
    #[arg(long, value_enum, default_value_t = Policy::Source)]
    pub unknown_quic: Policy,
    /// Old sessions that are not TCP end after so long at the latest; 0: whenever they fall silent.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub datagram_max_age: u32,
    /// The drain does not wait for sessions that the source began itself.
    #[arg(long)]
    pub ignore_begun_by_source: bool,
}

/// Who gets TCP of a session that the box does not know, after cutover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// The source: it existed before the box looked.
    Source,
    /// The destination.
    Destination,
    /// Nobody.
    Drop,
}

/// Add, remove and list ports of a switch box.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Open a port while the box runs; it is there until it is removed, or the box stops.
    Add {
        /// Its name.
        name: String,
        /// DPDK device: a virtual one as in net_vhost1,iface=/run/tidegate/vm1.sock, or a PCI address.
        device: String,
        /// Its side: towards clients or towards guests.
        #[arg(long, value_enum)]
        role: PortRole,
        /// The MAC it shall have; left out: the device's own.
        #[arg(long)]
        mac: Option<String>,
        /// The box's own address there with its prefix length; may be repeated.
        #[arg(long = "address", value_name = "IP/LENGTH")]
        addresses: Vec<String>,
        /// Bytes of the largest IP packet; left out: 1500.
        #[arg(long)]
        mtu: Option<u16>,
    },
    /// Close a port that no backend is behind.
    Remove {
        /// Its name.
        name: String,
    },
    /// All ports.
    List,
}

/// The side of the box a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PortRole {
    /// Towards clients.
    Uplink,
    /// Towards guests.
    Access,
}

/// Start, list and delete guests of a host.
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Start a guest.
    Start {
        /// The fields of GuestSpec in host.proto, with [[nics]] and [[regions]].
        #[arg(value_name = "SPEC.toml")]
        spec: PathBuf,
    },
    /// List all guests.
    List,
    /// Show one guest.
    Show {
        /// Its name.
        name: String,
    },
    /// List the sessions a running guest takes part in, as its guest agent knows them.
    Sockets {
        /// Its name.
        name: String,
        /// At this address of the guest only.
        #[arg(long)]
        address: Option<IpAddr>,
    },
    /// End a guest's process.
    Delete {
        /// Its name.
        name: String,
        /// Remove its RAM and region files, too.
        #[arg(long)]
        purge: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_backend_is_on_a_link_or_behind_a_tunnel() {
        let add = "tidegate address add 10.0.0.1 --name a";
        let on_a_link = format!("{add} --port vm0 --mac 02:00:00:00:00:01");
        assert!(parse(&on_a_link).is_ok());
        let tunnel = format!("{add} --encap ipip --remote 192.0.2.7 --local 192.0.2.1");
        assert!(parse(&tunnel).is_ok(), "neither port nor mac are needed");
        for bad in [
            add.to_owned(),
            format!("{add} --encap ipip --remote 192.0.2.7"),
            format!("{on_a_link} --vni 7"),
            format!("{on_a_link} --remote 192.0.2.7"),
            tunnel.replace("ipip", "gre"),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_usage() {
        let wrong = [
            "tidegate",
            "tidegate guest start",
            "tidegate port add vm2 net_tap2",
            "tidegate port add vm2 net_tap2 --role inside",
            "tidegate migrations --manager nowhere",
            "tidegate address cutover 10.0.0.1 --unknown-tcp both",
        ];
        for line in wrong {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
