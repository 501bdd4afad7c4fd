//! The bench's floods, small: old sessions lose nothing and stay where they are, whatever else the worker is given.
//! How long they wait is for the bench, on a machine that is quiet.

use std::time::Duration;

use tidegate_lab::process::target_dir;
use tidegate_perf::{
    bench::{
        Context,
        floods::{FLOODS, Size, old_sessions},
    },
    machine::{self, CONTROL_CPU, Machine},
};

/// For programs that are not optimised.
const SIZE: Size = Size {
    sessions: 5_000,
    rate: 20_000,
    clients: 65_536,
    warm_up: Duration::from_secs(4),
    measure: Duration::from_secs(1),
};

#[test]
fn old_sessions_outlive_every_flood() {
    assert!(std::env::var_os("TIDEGATE_LAB").is_some(), "run it in the lab: make test");
    let dir = tempfile::tempdir().expect("dir");
    let machine = Machine::probe().expect("two CPUs");
    machine::pin(CONTROL_CPU).expect("there is such a CPU");
    let context = Context {
        runs: 1,
        window: SIZE.measure,
        captures: target_dir().expect("built").join("bench/captures"),
        dir: dir.path().to_owned(),
        machine,
    };
    for flood in FLOODS {
        let found = old_sessions(&context, &SIZE, Some(flood));
        let found = found.unwrap_or_else(|error| panic!("{} flood: {error:#}", flood.name));
        let least = f64::from(SIZE.rate);
        assert!(found.flood_pps > least, "hardly a flood: {} a second", found.flood_pps);
    }
}
