//! The demo's migrations, as tests.

use tidegate_lab::{Mode, process::target_dir, report::Run, scenario, view::View};

fn migrate(mode: Mode) {
    let logs = target_dir().expect("target").join("tests").join(mode.name());
    let mut run = Run::default();
    scenario::run(mode, &mut View::new(), &logs, &mut run).expect("completes");
    assert!(run.is_clean(), "{run:?}");
}

#[test]
fn a_clone_takes_over() {
    migrate(Mode::L2);
}

#[test]
fn a_booted_guest_takes_over() {
    migrate(Mode::Nat);
}
