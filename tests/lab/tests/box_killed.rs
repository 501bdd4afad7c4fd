//! A box that is killed and started again: what it left behind is no obstacle, and sessions go on.

use std::time::Duration;

use anyhow::ensure;
use tidegate_lab::{
    Mode, Rig,
    client::{Order, Record},
    clients::Clients,
    process::wait_until,
    rig::{Options, SOURCE},
    switch_box::MANAGED,
};

const OLD: u32 = 5;
const LIMIT: Duration = Duration::from_secs(40);

/// The sessions that were open, each whole so far and answered by the guest.
fn sessions(clients: &mut Clients) -> anyhow::Result<Vec<Record>> {
    let mut records = clients.report()?.records;
    records.retain(|record| record.session < OLD);
    for record in &records {
        let whole = record.error.is_none() && !record.reset && record.doubled == 0;
        ensure!(whole && record.identities.keys().all(|by| by == SOURCE), "{record:?}");
    }
    Ok(records)
}

/// Wait until each has had more answers.
fn go_on(clients: &mut Clients) -> anyhow::Result<()> {
    let before = sessions(clients)?;
    ensure!(before.len() == OLD as usize, "{before:?}");
    wait_until("every session goes on", LIMIT, || {
        let now = sessions(clients)?;
        let more = |(now, before): (&Record, &Record)| now.answered > before.answered + 2;
        Ok(now.iter().zip(&before).all(more).then_some(()))
    })
}

fn killed(mode: Mode) -> anyhow::Result<()> {
    let mut rig = Rig::start(&Options::new(mode))?;
    let mut clients = rig.clients()?;
    clients.order(&Order::Open { first: 0, count: OLD, interval_ms: 50 })?;
    go_on(&mut clients)?;
    rig.switch.process.kill()?;
    let socket = rig.vhost_socket(0);
    ensure!(socket.exists(), "{} went with the box: this tests nothing", socket.display());
    sessions(&mut clients)?;

    rig.switch.restart(&rig.lab)?;
    go_on(&mut clients)?;
    // Adopted: the box that was killed took what it knew of them with it.
    let address = rig.api.address(MANAGED)?;
    ensure!(address.home_sessions == u64::from(OLD), "{address:?}");
    rig.answered_by(&mut clients, SOURCE, OLD)?;
    let closed = clients.order(&Order::Close { sessions: (0..OLD).collect() })?;
    for record in closed.records {
        let whole = record.error.is_none() && record.sent == record.answered;
        ensure!(whole && record.closed_us != 0, "{record:?}");
    }
    drop(clients);
    rig.stop()
}

#[test]
fn sessions_go_on_after_the_box_was_killed() {
    killed(Mode::L2).expect("starts again");
}

#[test]
fn sessions_behind_nat_go_on_after_the_box_was_killed() {
    killed(Mode::Nat).expect("starts again");
}
