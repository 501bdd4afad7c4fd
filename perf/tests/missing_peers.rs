//! A bench whose peer is missing fails, and says which package to install.

use std::{env, fs, os::unix::fs::symlink, path::Path, process::Command};

/// Run `bench` where no peer is installed; its exit code, what it said, and what it wrote.
fn run_alone(bench: &str, dir: &Path) -> (Option<i32>, String, String) {
    // Results are written beside the program: not over those of a real run.
    let built = dir.join("target/debug");
    let tools = dir.join("tools");
    fs::create_dir_all(&built).expect("created");
    fs::create_dir_all(&tools).expect("created");
    let program = built.join("tidegate-bench");
    fs::copy(env!("CARGO_BIN_EXE_tidegate-bench"), &program).expect("copied");
    let path = env::var_os("PATH").expect("a path");
    let git = env::split_paths(&path).map(|place| place.join("git")).find(|git| git.exists());
    symlink(git.expect("git is installed"), tools.join("git")).expect("linked");
    let mut command = Command::new(program);
    command.args(["--only", bench, "--runs", "1", "--window-ms", "1", "--no-gate"]);
    let output = command.env("PATH", tools).env("TIDEGATE_LAB", dir).output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let written = fs::read_to_string(dir.join("target/bench/results.json")).unwrap_or_default();
    (output.status.code(), said, written)
}

#[test]
fn a_missing_peer_fails_and_its_package_is_named() {
    // nftables' programs are looked for in system directories as well, so that it is not run from here.
    for (bench, package) in [
        ("packets", "dpdk-dev"),
        ("openvswitch", "openvswitch-switch-dpdk"),
        ("links", "iperf3"),
        ("move", "qemu-system-x86"),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let (code, said, written) = run_alone(bench, dir.path());
        assert_eq!(code, Some(1), "{said}");
        let advice = format!("install the Debian package {package} ");
        assert!(said.contains(&advice) && said.contains(&format!("failed: {bench}")), "{said}");
        assert!(written.contains("not measured") && written.contains(&advice), "{written}");
    }
}
