//! The load generator, seen from outside its namespace.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, bail};

use crate::{
    client::{Order, Report},
    family::Family,
    lab::Lab,
    process::{built, run},
    switch_box::CLIENT_MAC,
};

/// Limit of open files: a session has one.
const FILES: &str = "16384";

/// A running load generator; ends when dropped.
pub struct Clients {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    /// Start one whose sessions go to `service`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(lab: &Lab, service: SocketAddr) -> anyhow::Result<Self> {
        // Tests find the demo's program beside them; the demo is that program.
        let program = built("tidegate-demo").or_else(|_| env::current_exe())?;
        let script = format!("ulimit -n {FILES}; exec \"$0\" \"$@\"");
        let mut child = lab
            .among_clients("sh")
            .args(["-c", &script])
            .arg(program)
            .args(["client", &service.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the clients")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, orders, answers })
    }

    /// Give an order, and wait until it is carried out.
    ///
    /// # Errors
    /// When the generator is gone.
    pub fn order(&mut self, order: &Order) -> anyhow::Result<Report> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let orders = self.orders.as_mut().context("the clients were stopped")?;
        orders.write_all(line.as_bytes()).context("the clients are gone")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            bail!("the clients ended ({})", self.child.wait()?);
        }
        serde_json::from_str(&answer).context("the clients' report")
    }

    /// How it stands.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub fn report(&mut self) -> anyhow::Result<Report> {
        self.order(&Order::Report)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // The end of its orders ends it; a session in the middle of something does not delay that.
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the clients send what is for the managed address to the box whatever it answers for, or find the address on
/// the link.
///
/// # Errors
/// When the route cannot be changed.
pub fn through_box(lab: &Lab, family: Family, through: bool) -> anyhow::Result<()> {
    let change = if through { "add" } else { "del" };
    let way = ["route", change, family.managed(), "via", family.box_address()];
    run(lab.among_clients("ip").args(way)).map(drop)
}

/// Give the clients their address on the uplink, and their way to the managed one.
///
/// # Errors
/// When a setting is refused.
pub fn configure(lab: &Lab, uplink: &str, family: Family) -> anyhow::Result<()> {
    run(std::process::Command::new("ip").args([
        "link",
        "set",
        uplink,
        "netns",
        crate::lab::CLIENTS,
    ]))?;
    let with_prefix = format!("{}/{}", family.client_address(), family.link_bits());
    for words in [
        // The device has the box's MAC address on both its ends.
        ["link", "set", uplink, "address", CLIENT_MAC].as_slice(),
        &["addr", "add", &with_prefix, "dev", uplink, "nodad"],
        &["link", "set", uplink, "up"],
    ] {
        run(lab.among_clients("ip").args(words))?;
    }
    through_box(lab, family, true)
}
