//! What `build-dpdk.sh` says before it builds anything. The build itself takes minutes and is not a test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build-dpdk.sh");

/// Runs the script with these tools and no others in its `PATH`.
fn run(tools: &Path, arguments: &[&str]) -> (Output, String) {
    let output = Command::new("/bin/sh")
        .arg(SCRIPT)
        .args(arguments)
        .env("PATH", tools)
        .output()
        .expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// A folder with the ordinary tools the script calls, and stand-ins for the build tools named.
fn tools(build_tools: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for tool in ["cat", "cut", "dirname", "find", "mkdir", "mktemp", "rm", "sha256sum", "tar", "xz"]
    {
        let found = ["/usr/bin", "/bin"].map(|bin| Path::new(bin).join(tool));
        let found = found.iter().find(|path| path.exists()).expect("an ordinary tool is installed");
        symlink(found, folder.path().join(tool)).expect("link");
    }
    for tool in build_tools {
        symlink("/bin/true", folder.path().join(tool)).expect("link");
    }
    folder
}

const ALL: &[&str] = &["meson", "ninja", "cc", "pkg-config", "python3", "curl"];

#[test]
fn wrong_arguments_show_the_usage() {
    let tools = tools(ALL);
    for (arguments, complaint) in [
        (&[][..], "--prefix is missing"),
        (&["--prefix"], "--prefix needs a value"),
        (&["--perfix", "x"], "unknown argument: --perfix"),
        (&["--prefix", "x", "--jobs", "many"], "--jobs takes a positive number, not 'many'"),
        (&["--prefix", "x", "--jobs", "0"], "--jobs takes a positive number"),
        (&["--prefix", "x", "--sha256", "abc"], "64 lower-case hexadecimal digits"),
    ] {
        let (output, said) = run(tools.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(complaint) && said.contains("usage:"), "{complaint:?} not in {said}");
    }
}

#[test]
fn help_is_not_an_error() {
    let (output, _) = run(tools(ALL).path(), &["--help"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--prefix DIR"));
}

#[test]
fn missing_tools_are_named_all_at_once_with_their_packages() {
    let tools = tools(&["cc", "pkg-config"]);
    let prefix = tools.path().join("prefix");
    let (output, said) = run(tools.path(), &["--prefix", &prefix.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("missing: meson ninja pyelftools curl"), "{said}");
    assert!(said.contains("apt-get install meson ninja-build python3-pyelftools curl"), "{said}");
    assert!(!prefix.exists(), "nothing was made");
}

#[test]
fn another_tarball_is_refused_before_it_is_unpacked() {
    let tools = tools(ALL);
    let tarball = tools.path().join("other.tar.xz");
    fs::write(&tarball, "not DPDK").expect("tarball");
    let (tarball, work) = (tarball.to_string_lossy(), tools.path().join("work"));
    let prefix = tools.path().join("prefix");
    let arguments = ["--prefix", &prefix.to_string_lossy(), "--work", &work.to_string_lossy()];
    let (output, said) = run(tools.path(), &[&arguments[..], &["--source", &tarball]].concat());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sha256 expected 27a3bb1f") && said.contains("sha256 found"), "{said}");
    assert!(!work.join("source").exists());

    let (output, said) = run(tools.path(), &[&arguments[..], &["--source", "/no/such"]].concat());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/no/such: no such file"), "{said}");
}

/// Runs the script, with everything it needs, on a tarball that holds one file; what it said.
fn run_on_tarball_with(file: &str, prefix: impl FnOnce(&Path) -> String) -> String {
    let tools = tools(ALL);
    let folder = tools.path();
    fs::create_dir(folder.join("source-1.0")).expect("folder");
    fs::write(folder.join("source-1.0").join(file), "1.0").expect("file");
    let tarball = folder.join("source.tar").to_string_lossy().into_owned();
    let (parent, packed) = (folder.to_string_lossy(), "source-1.0");
    let status = Command::new("tar").args(["-cf", &tarball, "-C", &parent, packed]).status();
    assert!(status.expect("tar runs").success());
    let sum = Command::new("sha256sum").arg(&tarball).output().expect("sha256sum runs").stdout;
    let sum = String::from_utf8_lossy(&sum[..64]).into_owned();
    let prefix = prefix(folder);
    let arguments = ["--prefix", &prefix, "--source", &tarball, "--sha256", &sum];
    let (output, said) = run(folder, &arguments);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_tarball_with_the_right_sum_must_still_be_dpdk() {
    let said = run_on_tarball_with("README", |folder| folder.join("p").to_string_lossy().into());
    assert!(said.contains("holds no DPDK source"), "{said}");
}

#[test]
fn a_prefix_that_eal_would_not_load_drivers_from_is_refused() {
    let said = run_on_tarball_with("VERSION", |folder| {
        let open = folder.join("open");
        fs::create_dir(&open).expect("folder");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("opened");
        open.join("prefix").to_string_lossy().into()
    });
    assert!(said.contains("open is writable by everybody"), "{said}");
}
