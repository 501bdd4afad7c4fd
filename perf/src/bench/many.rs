//! Ten thousand managed addresses, two hundred of them migrating at once, and the sessions of one that is not.

use std::time::{Duration, Instant};

use tidegate_api::switch::{Backend, Rewrite};

use super::{
    Context, Outcome,
    latency::{LEAST_RATE, WARM_UP},
};
use crate::{
    result::Metric,
    samples::Samples,
    subject::{
        pktgen::{Between, Pktgen, Traffic},
        tidegated::Tidegated,
        wires::{Room, Wire, Wires, other_address},
    },
};

const ADDRESSES: u32 = 10_000;
const MIGRATIONS: u32 = 200;
const SESSIONS: u32 = 200_000;
/// What the generator keeps while it shares its CPU with the control core, which makes 200 snapshots of 10,000 addresses: a
/// generator that stands still loses packets by itself.
const RATE: u32 = 500_000;
/// The generator is stopped long before.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let traffic = Traffic {
        sessions: SESSIONS,
        churn: 20_000,
        rate: RATE,
        warm_up: WARM_UP,
        measure: PATIENCE,
    };
    let wires = Wires::new(&context.dir)?;
    let room = Room { addresses: ADDRESSES - 1, ..Room::of(2 * SESSIONS) };
    let mut switch = Tidegated::on_wires(&wires, &room)?;
    let mut generator = Pktgen::start(&wires, &traffic, Between::Nat, &context.machine)?;
    generator.says("measuring")?;
    let migrating: Vec<_> =
        (0..MIGRATIONS).map(|it| other_address(it * (ADDRESSES / MIGRATIONS))).collect();
    for (address, [_, mac]) in &migrating {
        let destination = Backend {
            name: "destination".to_owned(),
            port: Wire::Destination.port().to_owned(),
            mac: mac.clone(),
            rewrite: Rewrite::L2.into(),
            ..Default::default()
        };
        switch.api.prepare_cutover_of(&address.to_string(), destination)?;
    }
    let (mut in_force, mut answered) = (Samples::default(), Samples::default());
    for (address, _) in &migrating {
        let asked = Instant::now();
        let answer = switch.api.cutover_of(&address.to_string())?;
        answered.push(asked.elapsed().as_secs_f64() * 1e3);
        in_force.push(answer.elapsed_ns as f64 / 1e6);
    }
    anyhow::ensure!(
        !generator.has_said("closing"),
        "the last cutovers had no traffic beside them: measure longer"
    );
    generator.stop()?;
    let found = generator.end()?;
    eprintln!("{found}");
    let rate = found.poller.rate_pps / f64::from(RATE);
    anyhow::ensure!(rate > LEAST_RATE, "the generator kept {:.0} % of its rate", 100.0 * rate);
    let wrong = found.lost() + found.faults.total() + found.sessions.unfinished;
    anyhow::ensure!(
        found.sessions.at_destination == 0,
        "sessions went to a VM that is nobody's:\n{found}"
    );
    let packets = found.to_vm.received + found.to_client.received;
    let one = |name, value: f64| Metric::alone(name, "packets", Samples::from_iter([value]));
    Ok(Outcome {
        metrics: vec![
            Metric::alone("many_cutover_ms", "ms to the last acknowledgement", in_force)
                .note(format!("{MIGRATIONS} migrations at once, of {ADDRESSES} addresses")),
            Metric::alone("many_cutover_answer_ms", "ms to the answer", answered),
            one("many_lost", wrong as f64)
                .note(format!("or wrong, of {packets}, of an address that does not migrate")),
        ],
        curves: Vec::new(),
    })
}
