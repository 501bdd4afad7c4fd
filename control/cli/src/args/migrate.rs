//! Arguments of `migrate`.

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use tidegate_api::{
    host::CaptureWay,
    manager::{self as proto, DestinationKind, FinishMode, MigrationSpec, SessionList},
};

use super::{PolicyArgs, TunnelArgs};

/// Move a guest's service to another guest.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Managed address.
    #[arg(long, value_name = "IP")]
    pub address: IpAddr,
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
    /// The destination's port on the switch box; needed without --encap. With it: the port whose MAC and addresses it sees as its
    /// gateway's; left out, the one with --local.
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "encap",
        default_value_t,
        hide_default_value = true
    )]
    pub port: String,
    /// The tunnel it is behind.
    #[command(flatten)]
    pub tunnel: TunnelArgs,
    /// The destination's MAC address; a clone has the source's.
    #[arg(long, required_if_eq("boot", "true"))]
    pub mac: Option<String>,
    /// The destination's own address, of the managed address's family: packets are rewritten to it (nat). Left out: l2.
    #[arg(long, value_name = "IP", conflicts_with = "clone")]
    pub locator: Option<IpAddr>,
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
    /// What happens at the end to what the source changed since it was captured. mirror: the destination becomes the source; what changed goes
    /// ahead while the source runs, and the rest while it stands.
    #[arg(long, value_enum, default_value_t = Finish::Merge)]
    pub finish: Finish,
    /// With --finish mirror: who gets sessions that begin before the destination is the source's image; left out: hold.
    #[arg(long, value_enum)]
    pub new_sessions: Option<NewSessions>,
    /// When the source is paused for good.
    #[arg(long, value_enum, default_value_t = Quiesce::Stop)]
    pub quiesce: Quiesce,
    /// With --quiesce settle: how long its memory must not have changed; left out: 1000.
    #[arg(long, value_name = "MILLISECONDS")]
    pub settle_ms: Option<u32>,
    /// With --quiesce settle: how long that is waited for; left out: 60.
    #[arg(long, value_name = "SECONDS")]
    pub settle_deadline_s: Option<u32>,
    /// With --quiesce settle: what happens when its memory goes on changing until the deadline; left out: abort.
    #[arg(long, value_enum)]
    pub unsettled: Option<Unsettled>,
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
    /// How the source's memory is captured. stop: all of it while the source is paused. passes: while it runs, and
    /// what changed meanwhile again; it is paused for the last pass, so that the pause does not grow with RAM.
    #[arg(long, value_enum, default_value_t = Capture::Auto)]
    pub capture: Capture,
    /// By what memory goes to the destination's host: auto, tcp, fabric:verbs, fabric:tcp or fabric:shm; left out: as the
    /// source's host is configured. A mirror's image goes over TCP.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub transport: Option<String>,
    /// How much of the network each copy of memory may take, until `tidegate bandwidth` says otherwise; left out or 0: as the
    /// source's host is configured.
    #[arg(long, value_name = "MBIT/S", default_value_t = 0, hide_default_value = true)]
    pub bandwidth_mbps: u64,
    /// With --finish merge or mirror: the same for what is sent while the guest stands; 0: no limit; left out: as
    /// --bandwidth-mbps.
    #[arg(long, value_name = "MBIT/S")]
    pub final_bandwidth_mbps: Option<u64>,
    /// What the switch box cannot know better.
    #[command(flatten)]
    pub policies: PolicyArgs,
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

/// How the source's memory is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// As its host thinks best.
    Auto,
    /// While the source is paused.
    Stop,
    /// While it runs, the last pass while it is paused; for a clone.
    Passes,
}

/// What happens at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Finish {
    /// It is merged into the destination's regions.
    Merge,
    /// The destination becomes byte-identical to the source and goes on as it; a clone in l2 only.
    Mirror,
    /// It is dropped.
    None,
}

/// Who gets sessions that begin before the destination is the source's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NewSessions {
    /// The source, like all others; none is cut.
    Hold,
    /// A clone, while the source's drain; they are cut at the end, and counted.
    Cut,
}

/// When the source is paused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quiesce {
    /// At once.
    Stop,
    /// When its memory has not changed for a while: the regions, with mirror all of it.
    Settle,
}

/// What happens when the source's memory goes on changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unsettled {
    /// The source gets everything back.
    Abort,
    /// It is paused all the same.
    Stop,
}

impl Migrate {
    /// The order for the manager.
    #[must_use]
    pub fn order(&self) -> MigrationSpec {
        let kind = if self.kind.clone { DestinationKind::Clone } else { DestinationKind::Boot };
        let finish = match self.finish {
            Finish::Merge => FinishMode::Merge,
            Finish::Mirror => FinishMode::Mirror,
            Finish::None => FinishMode::None,
        };
        let new_sessions = match self.new_sessions {
            Some(NewSessions::Hold) => proto::NewSessions::Hold,
            Some(NewSessions::Cut) => proto::NewSessions::Cut,
            None => proto::NewSessions::Unspecified,
        };
        let quiesce = match self.quiesce {
            Quiesce::Stop => proto::Quiesce::Stop,
            Quiesce::Settle => proto::Quiesce::Settle,
        };
        let unsettled = match self.unsettled {
            Some(Unsettled::Abort) => proto::Unsettled::Abort,
            Some(Unsettled::Stop) => proto::Unsettled::Stop,
            None => proto::Unsettled::Unspecified,
        };
        let capture = match self.capture {
            Capture::Auto => CaptureWay::Unspecified,
            Capture::Stop => CaptureWay::Stop,
            Capture::Passes => CaptureWay::Passes,
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
            destination_encap: self.tunnel.encap(),
            unknown_tcp: self.policies.unknown_tcp.wire().into(),
            unknown_quic: self.policies.unknown_quic.wire().into(),
            datagram_max_age_s: self.policies.datagram_max_age,
            ignore_begun_by_source: self.policies.ignore_begun_by_source,
            capture: capture.into(),
            new_sessions: new_sessions.into(),
            quiesce: quiesce.into(),
            settle_ms: self.settle_ms.unwrap_or_default(),
            settle_deadline_s: self.settle_deadline_s.unwrap_or_default(),
            unsettled: unsettled.into(),
            transport: self.transport.clone().unwrap_or_default(),
            bandwidth_mbps: self.bandwidth_mbps,
            final_bandwidth_mbps: self.final_bandwidth_mbps,
        }
    }
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
