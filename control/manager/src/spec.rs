//! What a migration was asked to do, checked at the edge.

mod capture;
mod carriage;
mod encap;
mod finish;
mod invalid;
mod mac;
mod message;
mod policies;

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use capture::CaptureWay;
pub use carriage::{Carriage, Transport};
pub use encap::{Encap, EncapKind};
pub use finish::{FinishMode, NewSessions, Quiesce, Unsettled};
pub use invalid::InvalidSpec;
pub use mac::Mac;
pub use policies::{Policies, Unknown};

use crate::sessions::SessionList;

/// Where the destination comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationKind {
    /// Cloned from the source at T0: memory, regions, device state.
    Clone,
    /// Booted fresh with the source's regions as of T0.
    Boot,
}

/// A migration's order. Switch and hosts are names in the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The managed address.
    pub address: IpAddr,
    /// The switch box that knows it.
    pub switch: String,
    /// The source's host.
    pub source_host: String,
    /// The source.
    pub source_guest: String,
    /// The destination's host.
    pub destination_host: String,
    /// Name of the guest to be made.
    pub destination_guest: String,
    /// How it is made.
    pub kind: DestinationKind,
    /// What happens at the end.
    pub finish: FinishMode,
    /// Regions to carry over; empty: all the source has.
    pub regions: Vec<String>,
    /// The destination's port on the switch box. None, with `encap` only: the one that has the tunnel's end.
    pub port: Option<String>,
    /// The tunnel it is behind; None: it is on a link of the box.
    #[serde(default)]
    pub encap: Option<Encap>,
    /// The destination's MAC; with a clone, the source's when not given.
    pub mac: Option<Mac>,
    /// The destination's own address, of the managed address's family: `nat`. None: `l2`.
    pub locator: Option<IpAddr>,
    /// vhost-user socket of that port, on the destination's host.
    pub vhost_socket: PathBuf,
    /// Kernel command line of a booted destination; None: the source's.
    pub cmdline: Option<String>,
    /// Leave the source there, paused.
    pub keep_source: bool,
    /// The switch goes on recording sessions after the release.
    pub keep_tracking: bool,
    /// How long a booted destination is given until it is taken to serve.
    #[serde(default)]
    pub boot_wait_s: u32,
    /// What a booted destination's console shows when it serves; it is waited for instead of `boot_wait_s`.
    #[serde(default)]
    pub ready_text: Option<String>,
    /// Where the list of the source's sessions comes from.
    #[serde(default)]
    pub session_list: SessionList,
    /// How the source's memory is captured.
    #[serde(default)]
    pub capture: CaptureWay,
    /// How memory goes to the destination's host.
    #[serde(default)]
    pub carriage: Carriage,
    /// What the switch is told at cutover.
    #[serde(default)]
    pub policies: Policies,
    /// When the source is paused for good.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// When the drain takes longer the migration is aborted.
    pub drain_deadline_s: Option<u32>,
}

/// The names a spec may use.
pub trait Names {
    /// Resolve the switch's name; empty when there is only one.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`], [`InvalidSpec::Ambiguous`].
    fn switch_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec>;
    /// Resolve a host's name; empty when there is only one.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`], [`InvalidSpec::Ambiguous`].
    fn host_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec>;
}
