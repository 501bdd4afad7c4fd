//! A cutover with a million sessions, looked at from outside: the generator plays the clients and both VMs, and checks
//! every packet.

use std::{thread, time::Duration};

use tidegate_lab::process::wait_until;
use tidegate_pktgen::Report;

use super::{Context, Outcome, latency::WARM_UP};
use crate::{
    result::Metric,
    samples::Samples,
    subject::{
        pktgen::{Between, Pktgen, Traffic},
        tidegated::Tidegated,
        wires::{Room, Wire, Wires},
    },
};

/// Packets per second, all that the generator sends.
pub(super) const RATE: u32 = 1_000_000;
const TRAFFIC: Traffic = Traffic {
    sessions: 1_000_000,
    churn: 20_000,
    rate: RATE,
    warm_up: WARM_UP,
    measure: Duration::from_secs(2),
};

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let found = migrate(context, &TRAFFIC, |_| Ok(()))?;
    let packets = found.to_vm.received + found.to_client.received;
    let faults = found.faults;
    let wrong =
        faults.ip_checksum + faults.tcp_checksum + faults.address + faults.tag + faults.unexpected;
    let metric = |name, unit, value: u64, note: String| {
        Metric::alone(name, unit, Samples::from_iter([value as f64])).note(note)
    };
    let sessions = found.sessions;
    Ok(Outcome {
        metrics: vec![
            metric(
                "pktgen_lost",
                "packets",
                found.lost(),
                format!("of {packets}, in the lives of {} sessions", sessions.opened),
            ),
            metric(
                "pktgen_misdirected",
                "packets",
                faults.misdirected,
                format!(
                    "{} sessions at the source, {} at the destination, {} begun while it was open which",
                    sessions.at_source, sessions.at_destination, sessions.either
                ),
            ),
            metric("pktgen_reordered", "packets", faults.reordered, "or doubled".to_owned()),
            metric(
                "pktgen_wrong",
                "packets",
                wrong,
                "checksum, address, tag or place in the session".to_owned(),
            ),
            metric(
                "pktgen_unfinished",
                "sessions",
                sessions.unfinished,
                "not closed by both ends".to_owned(),
            ),
        ],
        curves: Vec::new(),
    })
}

/// A whole migration of a new box under traffic: sessions begin, the cutover comes a third into the measurement,
/// all sessions end, and the box says that the source is drained. `disturb` is begun before the measurement.
pub(super) fn migrate<T>(
    context: &Context,
    traffic: &Traffic,
    disturb: impl FnOnce(&Tidegated) -> anyhow::Result<T>,
) -> anyhow::Result<Report> {
    let wires = Wires::new(&context.dir)?;
    let mut switch = Tidegated::on_wires(&wires, &Room::of(2 * traffic.sessions))?;
    let mut generator = Pktgen::start(&wires, traffic, Between::Nat, &context.machine)?;
    generator.says("warm-up")?;
    switch.api.prepare_cutover(Wire::Destination.port())?;
    let disturbing = disturb(&switch)?;
    generator.says("measuring")?;
    thread::sleep(traffic.measure / 3);
    generator.order("cutover begins")?;
    let answer = switch.api.cutover()?;
    generator.order("cutover done")?;
    generator.says("closing")?;
    drop(disturbing);
    let found = generator.end()?;
    eprintln!("{found}");
    let live = u64::from(traffic.sessions);
    // Some end and begin meanwhile.
    anyhow::ensure!(
        answer.old_sessions.abs_diff(live) <= live / 100,
        "the cutover counted {} old sessions, about {live} were live",
        answer.old_sessions
    );
    anyhow::ensure!(found.sessions.at_destination > 0, "no session began after the cutover");
    wait_until("the source drained", Duration::from_secs(10), || {
        Ok(switch.api.is_drained()?.then_some(()))
    })?;
    let totals = switch.api.totals()?;
    // Beside the questions and answers of ARP, which are no packets of sessions.
    anyhow::ensure!(totals.dropped < 100, "the box dropped packets: {totals:?}");
    Ok(found)
}
