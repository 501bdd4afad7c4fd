//! The demo's migrations, as tests.

use tidegate_lab::{
    Family, Mode, process::target_dir, report::Run, rig::Options, scenario, view::View,
};

fn migrate(name: &str, options: &Options) {
    let logs = target_dir().expect("target").join("tests").join(name);
    let mut run = Run::default();
    scenario::run(options, &mut View::new(), &logs, &mut run).expect("completes");
    assert!(run.is_clean(), "{run:?}");
}

#[test]
fn a_clone_takes_over() {
    migrate("l2", &Options::new(Mode::L2));
}

#[test]
fn a_booted_guest_takes_over() {
    migrate("nat", &Options::new(Mode::Nat));
}

#[test]
fn a_booted_guest_takes_an_ipv6_address_over() {
    migrate("nat-ipv6", &Options { family: Family::V6, ..Options::new(Mode::Nat) });
}
