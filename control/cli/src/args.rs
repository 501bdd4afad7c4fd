//! The command line.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use tidegate_api::{
    endpoint::Endpoint,
    manager::{DestinationKind, FinishMode, MigrationSpec, SessionList},
};

/// What `--help` says at the end.
const EXIT_CODES: &str = "\
Exit codes: 0 done, the migration completed; 1 error; 2 usage; 3 the migration was aborted, the source owns \
everything; 4 the migration failed and needs an operator; 5 a preflight check failed, nothing was started; \
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
        default_value = "unix:/run/tidegate/manager.sock"
    )]
    pub manager: Endpoint,
    /// Where the switch box serves.
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "TIDEGATE_SWITCH",
        default_value = "unix:/run/tidegate/tidegated.sock"
    )]
    pub switch: Endpoint,
    /// Where the host serves.
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "TIDEGATE_HOST",
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
        /// Who gets TCP of a session the box does not know.
        #[arg(long, value_enum, default_value_t = Policy::Source)]
        unknown_tcp: Policy,
        /// Who gets QUIC of a connection the box does not know.
        #[arg(long, value_enum, default_value_t = Policy::Source)]
        unknown_quic: Policy,
        /// Old sessions that are not TCP end after so long at the latest; 0: whenever they fall silent.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        datagram_max_age: u32,
        /// The drain does not wait for sessions that the source began itself.
        #[arg(long)]
        ignore_begun_by_source: bool,
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
    /// Its own address: packets are rewritten to it (nat). Left out: l2.
    #[arg(long, value_name = "IP")]
    pub locator: Option<IpAddr>,
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

/// Move a guest's service to another guest.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Managed address.
    #[arg(long, value_name = "IPV4")]
    pub address: Ipv4Addr,
    /// Switch box that manages it; may be left out when the manager knows only one.
    #[arg(long, value_name = "NAME")]
    pub on_switch: Option<String>,
    /// The source.
    #[arg(long, value_name = "NAME")]
    pub guest: String,
    /// The source's host; may be left out when the manager knows only one.
    #[arg(long, value_name = "NAME")]
    pub from_host: Option<String>,
    /// Name of the guest to be made.
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// The destination's host; left out: the source's.
    #[arg(long, value_name = "NAME")]
    pub to_host: Option<String>,
    /// How the destination is made.
    #[command(flatten)]
    pub kind: Kind,
    /// The destination's port on the switch box.
    #[arg(long, value_name = "NAME")]
    pub port: String,
    /// The destination's MAC address; a clone has the source's.
    #[arg(long, required_if_eq("boot", "true"))]
    pub mac: Option<String>,
    /// The destination's own address: packets are rewritten to it (nat). Left out: l2.
    #[arg(long, value_name = "IPV4", conflicts_with = "clone")]
    pub locator: Option<Ipv4Addr>,
    /// vhost-user socket of the destination's port, on its host.
    #[arg(long, value_name = "PATH")]
    pub vhost_socket: PathBuf,
    /// Kernel command line of a booted destination; left out: the source's.
    #[arg(long, value_name = "TEXT", conflicts_with = "clone", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// How long a booted destination is given before new sessions go to it; left out: 10.
    #[arg(long, value_name = "SECONDS", conflicts_with = "clone")]
    pub boot_wait: Option<u32>,
    /// What a booted destination's console shows when it serves; new sessions go to it as soon as it does.
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with_all = ["clone", "boot_wait"],
        value_parser = NonEmptyStringValueParser::new(),
        allow_hyphen_values = true
    )]
    pub ready_text: Option<String>,
    /// What happens at the end to what the source changed since it was captured.
    #[arg(long, value_enum, default_value_t = Finish::Merge)]
    pub finish: Finish,
    /// Regions to carry over, separated by commas; left out: all.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub regions: Vec<String>,
    /// Leave the source there, paused.
    #[arg(long)]
    pub keep_source: bool,
    /// The switch box goes on recording sessions of the address.
    #[arg(long)]
    pub keep_tracking: bool,
    /// Abort when old sessions are left after so long; nothing is cut.
    #[arg(long, value_name = "SECONDS")]
    pub drain_deadline: Option<u32>,
    /// Where the switch box learns of sessions it has not seen.
    ///
    /// auto: from the guest agent in the source, if there is one. agent: the same, and without it there is no
    /// migration. conntrack: from the kernel of the source's host, through which its packets must go.
    /// file:PATH: from a file on the manager's machine with what `ss -tun` prints in the source; it is read again
    /// right before cutover. none: from nobody.
    #[arg(long, value_name = "FROM", default_value = "auto")]
    pub sessions: Sessions,
    /// Make every check and change nothing.
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// Start, print the migration's name, do not watch.
    #[arg(long)]
    pub detach: bool,
}

/// How the destination is made.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Kind {
    /// Cloned from the source: memory, regions, device state.
    #[arg(long)]
    pub clone: bool,
    /// Booted fresh with the source's regions.
    #[arg(long)]
    pub boot: bool,
}

/// Where the list of the source's sessions comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// One of the sources that need no more words.
    From(SessionList),
    /// A file.
    File(PathBuf),
}

impl FromStr for Sessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::From(SessionList::Auto),
            "agent" => Self::From(SessionList::Agent),
            "conntrack" => Self::From(SessionList::Conntrack),
            "none" => Self::From(SessionList::None),
            _ => match text.strip_prefix("file:").filter(|path| !path.is_empty()) {
                // Most often the manager runs here, in another directory.
                Some(path) => {
                    Self::File(std::path::absolute(path).map_err(|error| error.to_string())?)
                }
                None => return Err("use auto, agent, conntrack, file:PATH or none".to_owned()),
            },
        })
    }
}

/// What happens at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Finish {
    /// It is merged into the destination's regions.
    Merge,
    /// It is dropped.
    None,
}

impl Migrate {
    /// The order for the manager.
    #[must_use]
    pub fn order(&self) -> MigrationSpec {
        let kind = if self.kind.clone { DestinationKind::Clone } else { DestinationKind::Boot };
        let finish = match self.finish {
            Finish::Merge => FinishMode::Merge,
            Finish::None => FinishMode::None,
        };
        let (list, path) = match &self.sessions {
            Sessions::From(list) => (*list, String::new()),
            Sessions::File(path) => (SessionList::File, path.display().to_string()),
        };
        MigrationSpec {
            address: self.address.to_string(),
            switch_name: self.on_switch.clone().unwrap_or_default(),
            source_host: self.from_host.clone().unwrap_or_default(),
            source_guest: self.guest.clone(),
            destination_host: self.to_host.clone().unwrap_or_default(),
            destination_guest: self.to.clone(),
            kind: kind.into(),
            finish: finish.into(),
            regions: self.regions.clone(),
            destination_port: self.port.clone(),
            destination_mac: self.mac.clone().unwrap_or_default(),
            destination_locator: self.locator.map(|ip| ip.to_string()).unwrap_or_default(),
            destination_vhost_socket: self.vhost_socket.display().to_string(),
            destination_cmdline: self.cmdline.clone().unwrap_or_default(),
            keep_source: self.keep_source,
            keep_tracking: self.keep_tracking,
            drain_deadline_s: self.drain_deadline.unwrap_or_default(),
            destination_boot_wait_s: self.boot_wait.unwrap_or_default(),
            destination_ready_text: self.ready_text.clone().unwrap_or_default(),
            session_list: list.into(),
            session_list_path: path,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    const CLONE: &str = "tidegate migrate --address 10.0.0.1 --guest vm-a --to vm-b --clone --port vm1 \
                         --vhost-socket /run/vm1.sock";

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn order(line: &str) -> MigrationSpec {
        match parse(line).expect("good").command {
            Command::Migrate(migrate) => migrate.order(),
            other => panic!("{other:?}"),
        }
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
    fn a_clone_is_merged_by_default() {
        let order = order(CLONE);
        assert_eq!((order.kind(), order.finish()), (DestinationKind::Clone, FinishMode::Merge));
        assert_eq!(order.destination_vhost_socket, "/run/vm1.sock");
        assert!(order.destination_locator.is_empty() && order.regions.is_empty());
    }

    #[test]
    fn everything_reaches_the_order() {
        let line = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02 --locator 10.1.0.2");
        let order = order(&format!(
            "{line} --from-host h1 --to-host h2 --on-switch edge --finish none --regions a,b \
             --keep-source --keep-tracking --drain-deadline 30 --cmdline quiet"
        ));
        assert_eq!((order.kind(), order.finish()), (DestinationKind::Boot, FinishMode::None));
        assert_eq!(order.destination_locator, "10.1.0.2");
        assert_eq!((order.source_host.as_str(), order.destination_host.as_str()), ("h1", "h2"));
        assert_eq!(order.regions, ["a", "b"]);
        assert!(order.keep_source && order.keep_tracking);
        assert_eq!((order.drain_deadline_s, order.destination_cmdline.as_str()), (30, "quiet"));
        assert_eq!(order.switch_name, "edge");
    }

    #[test]
    fn a_booted_destination_is_given_time_or_says_that_it_is_ready() {
        let line = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02");
        let order_of = |more: &str| order(&format!("{line} {more}"));
        let timed = order_of("--boot-wait 25");
        assert_eq!(
            (timed.destination_boot_wait_s, timed.destination_ready_text.as_str()),
            (25, "")
        );
        let words = line.split_whitespace().chain(["--ready-text", "-- it serves --"]);
        let Command::Migrate(migrate) = Cli::try_parse_from(words).expect("good").command else {
            panic!("not a migration")
        };
        assert_eq!(migrate.order().destination_ready_text, "-- it serves --");
        assert_eq!(migrate.order().destination_boot_wait_s, 0);
    }

    #[test]
    fn sessions_come_from_where_they_are_said_to() {
        let from = |more: &str| {
            let order = order(&format!("{CLONE} {more}"));
            (order.session_list(), order.session_list_path)
        };
        let plain = |list| (list, String::new());
        assert_eq!(from(""), plain(SessionList::Auto));
        assert_eq!(from("--sessions agent"), plain(SessionList::Agent));
        assert_eq!(from("--sessions conntrack"), plain(SessionList::Conntrack));
        assert_eq!(from("--sessions none"), plain(SessionList::None));
        assert_eq!(from("--sessions file:/run/ss"), (SessionList::File, "/run/ss".to_owned()));
        let here = std::env::current_dir().expect("a directory").join("ss");
        assert_eq!(from("--sessions file:ss"), (SessionList::File, here.display().to_string()));
    }

    #[test]
    fn what_makes_no_sense_is_usage() {
        let boot = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02");
        let wrong = [
            format!("{CLONE} --ready-text ready"),
            format!("{boot} --ready-text ready --boot-wait 5"),
            format!("{boot} --ready-text="),
            CLONE.replace("--clone", ""),
            CLONE.replace("--clone", "--clone --boot"),
            CLONE.replace("--clone", "--boot"),
            CLONE.replace("--clone", "--clone --locator 10.1.0.2"),
            CLONE.replace("10.0.0.1", "ten"),
            format!("{CLONE} --dry-run --detach"),
            format!("{CLONE} --finish later"),
            format!("{CLONE} --sessions some"),
            format!("{CLONE} --sessions file:"),
            format!("{CLONE} --manager nowhere"),
            "tidegate".to_owned(),
            "tidegate guest start".to_owned(),
            "tidegate port add vm2 net_tap2".to_owned(),
            "tidegate port add vm2 net_tap2 --role inside".to_owned(),
        ];
        for line in wrong {
            assert_eq!(parse(&line).expect_err(&line).exit_code(), 2, "{line}");
        }
    }
}
