//! What the program says when valgrind is missing.

use std::process::Command;

#[test]
fn a_missing_valgrind_fails_and_its_package_is_named() {
    for order in ["check", "record"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-instructions"));
        let output = command.arg(order).env("PATH", "").output().expect("started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Debian package valgrind"), "{said}");
    }
}
