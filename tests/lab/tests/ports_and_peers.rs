//! Ports come and go while the box runs, and peers die: no worker waits for one, and what comes back is served again.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::manager::{MigrationState, Phase};
use tidegate_lab::{
    Mode, Rig,
    api::Api,
    client::Order,
    cloud::{GuestFile, complaint, succeed},
    lab::{CLIENTS, Lab},
    migration::Migrating,
    process::{output, run, wait_until},
    pulse::Pulse,
    rig::{DESTINATION, Options, SOURCE},
    switch_box::GATEWAY,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Looks all the while whether every worker polls on.
fn pulse(rig: &Rig) -> anyhow::Result<Pulse> {
    let api = Api::new(&rig.cloud.switch, &rig.cloud.manager, &rig.cloud.host)?;
    Ok(Pulse::watch(api))
}

fn tidegate(rig: &Rig, line: &str) -> anyhow::Result<()> {
    succeed(&output(&mut rig.cloud.tidegate(line.split_whitespace())?)?).context(line.to_owned())
}

fn link_up(rig: &Rig, port: &str) -> anyhow::Result<bool> {
    let ports = rig.api.switch_status()?.ports;
    Ok(ports.into_iter().find(|it| it.name == port).with_context(|| format!("no {port}"))?.link_up)
}

/// Each packet has ended in one outcome, but for those under way.
fn all_counted(rig: &Rig) -> anyhow::Result<()> {
    wait_until("every packet is counted", Duration::from_secs(5), || {
        let counters = rig.api.counters()?;
        let ended: u64 = counters.outcomes.iter().map(|outcome| outcome.packets).sum();
        Ok((ended == counters.received).then_some(()))
    })
}

#[test]
fn a_guest_killed_comes_back_on_its_socket() {
    killed().expect("the port works again");
}

fn killed() -> anyhow::Result<()> {
    let rig = Rig::start(&Options { cpus: &[0, 1], ..Options::new(Mode::L2) })?;
    let mut clients = rig.clients()?;
    // They go on asking while nobody is there.
    clients.order(&Order::Open { first: 0, count: 5, interval_ms: 10 })?;
    for round in 1..=2 {
        ensure!(link_up(&rig, "vm0")?, "the guest is there");
        let pulse = pulse(&rig)?;
        let guest = rig.api.guest(SOURCE)?.context("a guest")?;
        let pid = i32::try_from(guest.pid).ok().and_then(Pid::from_raw).context("a process")?;
        kill_process(pid, Signal::KILL)?;
        wait_until("the box sees it", LIMIT, || Ok((!link_up(&rig, "vm0")?).then_some(())))?;
        thread::sleep(Duration::from_secs(2));
        let full = rig.api.counters()?.ports;
        let full = full.iter().find(|port| port.name == "vm0").context("vm0")?.tx_full_drops;
        ensure!(full > 0, "packets for a guest that is gone are counted");
        tidegate(&rig, &format!("guest delete {SOURCE}"))?;
        let socket = rig.vhost_socket(0);
        let vhost_socket = Some(socket.as_path());
        let Rig { mode, family, .. } = rig;
        let (name, memory_shared) = (SOURCE, true);
        rig.cloud.start_guest(&GuestFile {
            name,
            mode,
            family,
            memory_shared,
            cmdline: "",
            vhost_socket,
        })?;
        rig.serves(SOURCE, LIMIT)?;
        pulse.end()?;
        rig.answered_by(&mut clients, SOURCE, 100 * round)?;
    }
    drop(clients);
    all_counted(&rig)?;
    rig.stop()
}

#[test]
fn a_destination_s_port_is_made_when_it_is_needed() {
    made().expect("the migration completes");
}

fn made() -> anyhow::Result<()> {
    let rig = Rig::start(&Options::new(Mode::L2))?;
    let mut clients = rig.clients()?;
    let refused = output(&mut rig.cloud.tidegate(["port", "remove", "vm0"])?)?;
    let said = complaint(&refused);
    ensure!(!refused.status.success() && said.contains(SOURCE), "{said}");
    // As if the box had begun without it.
    tidegate(&rig, "port remove vm1")?;
    let socket = rig.vhost_socket(1);
    ensure!(!socket.exists(), "{} is left", socket.display());
    clients.order(&Order::Open { first: 0, count: 5, interval_ms: 20 })?;
    let pulse = pulse(&rig)?;
    let device = format!("net_vhost7,iface={}", socket.display());
    tidegate(
        &rig,
        &format!(
            "port add vm1 {device} --role access --mac 02:00:00:00:02:01 --address {GATEWAY}/32"
        ),
    )?;
    let migrating = Migrating::start(&rig)?;
    migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(()))?;
    rig.answered_by(&mut clients, DESTINATION, 100)?;
    let closed = clients.order(&Order::Close { sessions: (0..5).collect() })?;
    for record in closed.records.iter().filter(|record| record.session < 5) {
        let whole = record.error.is_none() && record.sent == record.answered;
        ensure!(whole && record.identities.keys().eq([SOURCE]), "{record:?}");
    }
    wait_until("it completes", LIMIT, || {
        let now = migrating.now(&rig)?;
        ensure!(now.state() != MigrationState::Failed, "{now:?}");
        Ok((now.state() == MigrationState::Completed).then_some(()))
    })?;
    // The source and its port are not needed any more.
    tidegate(&rig, "port remove vm0")?;
    rig.answered_by(&mut clients, DESTINATION, 200)?;
    pulse.end()?;
    drop(clients);
    all_counted(&rig)?;
    rig.stop()
}

/// A tap device whose other end is among the clients.
const SIDE: &str = "tg-side";
const SIDE_ADDRESS: &str = "10.7.0.1";

/// Give the clients their end of the side port.
fn connect_side(lab: &Lab) -> anyhow::Result<()> {
    run(Command::new("ip").args(["link", "set", SIDE, "netns", CLIENTS]))?;
    // The device has the box's MAC address on both its ends.
    let mac = "02:00:00:00:07:02";
    for words in [
        &["link", "set", SIDE, "address", mac] as &[&str],
        &["addr", "add", "10.7.0.2/24", "dev", SIDE],
        &["link", "set", SIDE, "up"],
    ] {
        run(lab.among_clients("ip").args(words))?;
    }
    Ok(())
}

/// Whether the box answers there: it is asked for its MAC.
fn answers(lab: &Lab) -> anyhow::Result<bool> {
    // What is known may be old.
    let mut flush = lab.among_clients("ip");
    output(flush.args(["neigh", "flush", "dev", SIDE]))?;
    let mut ping = lab.among_clients("busybox");
    ping.args(["ping", "-c", "1", "-W", "1", SIDE_ADDRESS])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ping.status().context("ping")?;
    let shown = output(lab.among_clients("ip").args(["neigh", "show", SIDE_ADDRESS, "dev", SIDE]))?;
    Ok(String::from_utf8_lossy(&shown.stdout).contains("lladdr 02:00:00:00:07:01"))
}

#[test]
fn a_cable_is_pulled_and_an_interface_goes() {
    pulled().expect("the port works again");
}

fn pulled() -> anyhow::Result<()> {
    let rig = Rig::start(&Options { cpus: &[0, 1], ..Options::new(Mode::L2) })?;
    let mut clients = rig.clients()?;
    clients.order(&Order::Open { first: 0, count: 5, interval_ms: 20 })?;
    let pulse = pulse(&rig)?;
    let add = format!(
        "port add side net_tap7,iface={SIDE} --role access --mac 02:00:00:00:07:01 --address {SIDE_ADDRESS}/24"
    );
    tidegate(&rig, &add)?;
    connect_side(&rig.lab)?;
    ensure!(answers(&rig.lab)?, "the new port works");
    for (state, works) in [("down", false), ("up", true)] {
        run(rig.lab.among_clients("ip").args(["link", "set", SIDE, state]))?;
        thread::sleep(Duration::from_secs(1));
        ensure!(answers(&rig.lab)? == works, "the link is {state}");
    }
    for _ in 0..2 {
        run(rig.lab.among_clients("ip").args(["link", "del", SIDE]))?;
        thread::sleep(Duration::from_secs(1));
        tidegate(&rig, "port remove side")?;
        tidegate(&rig, &add)?;
        connect_side(&rig.lab)?;
        ensure!(answers(&rig.lab)?, "the port works again");
    }
    tidegate(&rig, "port remove side")?;
    let left = output(rig.lab.among_clients("ip").args(["link", "show", SIDE]))?;
    ensure!(!left.status.success(), "{SIDE} is left behind");
    pulse.end()?;
    let closed = clients.order(&Order::Close { sessions: (0..5).collect() })?;
    for record in closed.records {
        ensure!(record.error.is_none() && record.sent == record.answered, "{record:?}");
    }
    drop(clients);
    all_counted(&rig)?;
    rig.stop()
}
