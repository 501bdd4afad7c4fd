//! Everything running: the box, the manager with its host, the source guest.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    api::Api,
    clients::Clients,
    cloud::{Cloud, CloudOptions, GuestFile},
    family::Family,
    lab::Lab,
    process::wait_until,
    switch_box::{self, ONE_WORKER, SwitchBox},
};

/// Name of the source guest.
pub const SOURCE: &str = "vm-a";
/// Name of the destination guest.
pub const DESTINATION: &str = "vm-b";
const BOOT: Duration = Duration::from_secs(60);
/// Longer than a session waits for an answer.
const ANSWER: Duration = Duration::from_secs(40);

/// How the managed address's packets are rewritten, and with it how the destination is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The guests own the managed address; the destination is a clone.
    L2,
    /// The guests have addresses of their own; the destination is booted.
    Nat,
}

impl Mode {
    /// As in configuration and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Nat => "nat",
        }
    }

    /// MAC address of guest `index`; a clone has its source's.
    #[must_use]
    pub const fn mac(self, index: usize) -> &'static str {
        match (self, index) {
            (Self::L2, _) | (Self::Nat, 0) => "52:54:00:00:00:11",
            (Self::Nat, _) => "52:54:00:00:00:12",
        }
    }

    /// What the source's kernel is told.
    #[must_use]
    pub fn cmdline(self, family: Family, index: usize) -> String {
        let (address, merge) = match self {
            Self::L2 => (family.managed(), "max"),
            Self::Nat => (family.locator(index), "sum"),
        };
        let (bits, gateway) = (family.bits(), family.gateway());
        format!(
            "console=ttyS0 quiet panic=-1 tg.addr={address}/{bits} tg.gw={gateway} tg.merge={merge}"
        )
    }

    /// The rewrite part of the address's home in the box's configuration.
    pub(crate) fn home(self, family: Family) -> String {
        match self {
            Self::L2 => r#", rewrite = "l2""#.to_owned(),
            Self::Nat => format!(r#", rewrite = "nat", locator = "{}""#, family.locator(0)),
        }
    }
}

/// What differs between rigs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rewriting.
    pub mode: Mode,
    /// What the managed address is.
    pub family: Family,
    /// Whether the source's RAM is in a file.
    pub memory_shared: bool,
    /// Processors of the box's workers.
    pub cpus: &'static [u32],
    /// More of the source's kernel command line.
    pub cmdline: &'static str,
    /// How long the box keeps an established TCP session that is silent, in seconds, if not as usual.
    pub silence_s: Option<u32>,
    /// What differs at the manager and host.
    pub cloud: CloudOptions,
}

impl Options {
    /// The usual rig.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            family: Family::V4,
            memory_shared: true,
            cpus: ONE_WORKER,
            cmdline: "",
            silence_s: None,
            cloud: CloudOptions::default(),
        }
    }
}

/// A box with one guest behind it. Dropping it ends everything: guests first, then the lab.
pub struct Rig {
    /// How it was made.
    pub mode: Mode,
    /// What the managed address is.
    pub family: Family,
    /// Asks the APIs.
    pub api: Api,
    /// Manager and host.
    pub cloud: Cloud,
    /// The box.
    pub switch: SwitchBox,
    /// Namespaces and files.
    pub lab: Lab,
}

impl Rig {
    /// Start everything, and wait until the source serves.
    ///
    /// # Errors
    /// When a part does not start.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let (mode, family) = (options.mode, options.family);
        let lab = Lab::new()?;
        let switch = SwitchBox::start(&lab, options)?;
        let cloud = Cloud::start(&lab, &switch.endpoint, &options.cloud)?;
        let api = Api::new(&cloud.switch, &cloud.manager, &cloud.host)?;
        let rig = Self { mode, family, api, cloud, switch, lab };
        let vhost_socket = rig.vhost_socket(0);
        let memory_shared = options.memory_shared;
        rig.cloud.start_guest(&GuestFile {
            name: SOURCE,
            mode,
            family,
            memory_shared,
            cmdline: options.cmdline,
            vhost_socket: Some(&vhost_socket),
        })?;
        rig.serves(SOURCE, BOOT)?;
        Ok(rig)
    }

    /// The managed address.
    #[must_use]
    pub fn managed(&self) -> &'static str {
        self.family.managed()
    }

    /// Socket of port `vm<index>`.
    #[must_use]
    pub fn vhost_socket(&self, index: usize) -> PathBuf {
        switch_box::vhost_socket(self.lab.dir(), index)
    }

    /// Wait until the guest's console says that it serves.
    ///
    /// # Errors
    /// When it does not within `limit`; with what it printed.
    pub fn serves(&self, guest: &str, limit: Duration) -> anyhow::Result<()> {
        let found = self.api.guest(guest)?.with_context(|| format!("no guest {guest}"))?;
        let console = || fs::read_to_string(&found.console_path).unwrap_or_default();
        let ready = || Ok(console().contains(tidegate_guest_service::READY).then_some(()));
        wait_until("the guest serves", limit, ready)
            .with_context(|| format!("{guest} printed:\n{}", console()))
    }

    /// Clients of the managed address.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn clients(&self) -> anyhow::Result<Clients> {
        let address: IpAddr = self.managed().parse()?;
        Clients::start(&self.lab, SocketAddr::new(address, tidegate_guest_service::PORT))
    }

    /// Check that one new session is answered by `guest`.
    ///
    /// # Errors
    /// When it is not.
    pub fn answered_by(
        &self,
        clients: &mut Clients,
        guest: &str,
        session: u32,
    ) -> anyhow::Result<()> {
        use crate::client::{Order, Record};
        clients.order(&Order::Open { first: session, count: 1, interval_ms: 20 })?;
        // A guest that has just begun may take its time; one that does not answer has an error in its record.
        wait_until("the session is answered or fails", ANSWER, || {
            let records = clients.report()?.records;
            let record = records.iter().rfind(|record| record.session == session);
            let known = |record: &Record| record.answered > 2 || record.error.is_some();
            Ok(record.is_some_and(known).then_some(()))
        })?;
        let report = clients.order(&Order::Close { sessions: vec![session] })?;
        let record = report.records.iter().rfind(|record| record.session == session);
        let record = record.context("no record")?;
        if record.error.is_some() || record.answered == 0 || !record.identities.keys().eq([guest]) {
            bail!("{} is not answered by {guest} alone: {record:?}", self.managed());
        }
        Ok(())
    }

    /// End guests, manager and box in order, and check that each ends well.
    ///
    /// # Errors
    /// When one does not.
    pub fn stop(mut self) -> anyhow::Result<()> {
        for guest in [SOURCE, DESTINATION] {
            if self.api.guest(guest)?.is_some() {
                let delete = self.cloud.tidegate(["guest", "delete", guest])?;
                crate::cloud::succeed(&crate::process::output(&mut { delete })?)?;
            }
        }
        let status = self.cloud.process.terminate(Duration::from_secs(10))?;
        anyhow::ensure!(status.success(), "manager: {status}\n{}", self.cloud.process.printed());
        self.switch.stop()
    }
}
