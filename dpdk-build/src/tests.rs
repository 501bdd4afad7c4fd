//! The whole search, against pretended `pkg-config` programs.

use super::*;

/// A `pkg-config` that does what a piece of shell says. A checked-in script and not one written here:
/// a file just written is "text busy" while another test's fork still holds it open.
fn pretend(body: &str) -> PkgConfig {
    PkgConfig::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pretend-pkg-config.sh"))
        .env("PRETEND", body)
}

/// A `pkg-config` that knows a libdpdk of this version.
fn pretend_version(version: &str) -> PkgConfig {
    pretend(&format!(
        "case \"$1\" in
             --modversion) echo {version};;
             --cflags) echo '-I/d/include -include rte_config.h -march=corei7';;
             --libs) echo '-L/d/lib -Wl,--as-needed -lrte_ethdev -lrte_eal';;
             esac"
    ))
}

#[test]
fn finds_a_good_one() {
    let dpdk = pretend_version("22.11.11").find().expect("is found");
    assert_eq!(dpdk.version, "22.11.11");
    assert_eq!(dpdk.compile.all, ["-I/d/include", "-include", "rte_config.h", "-march=corei7"]);
    let lines = dpdk.cargo_metadata();
    for expected in [
        "cargo::rerun-if-env-changed=PKG_CONFIG_PATH",
        "cargo::rustc-link-search=native=/d/lib",
        "cargo::rustc-link-lib=dylib=rte_eal",
        "cargo::metadata=version=22.11.11",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} not in {lines:?}");
    }
}

#[test]
fn too_old_names_both_versions_and_the_remedy() {
    let error = pretend_version("21.11.9").find().expect_err("is too old");
    let text = error.to_string();
    assert!(matches!(error, FindError::TooOld { .. }), "{text}");
    for part in ["21.11.9", "22.11 or newer", "apt-get install libdpdk-dev", "build-dpdk.sh"] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
}

#[test]
fn missing_says_what_to_do() {
    let error =
        pretend("echo 'No package libdpdk found' >&2; exit 1").find().expect_err("is missing");
    let text = error.to_string();
    assert!(matches!(error, FindError::Missing { .. }), "{text}");
    for part in
        ["No package libdpdk found", "libdpdk-dev", "build-dpdk.sh", "PKG_CONFIG_PATH", "22.11"]
    {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
}

#[test]
fn no_pkg_config_says_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    let error = PkgConfig::new(folder.path().join("absent")).find().expect_err("cannot be run");
    let text = error.to_string();
    assert!(matches!(error, FindError::NoPkgConfig { .. }), "{text}");
    for part in ["absent", "apt-get install libdpdk-dev pkg-config", "PKG_CONFIG"] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
}

#[test]
fn a_failing_dependency_is_shown() {
    let error = pretend(
        "case \"$1\" in --modversion) echo 23.11.0;; --cflags) echo 'libbsd is missing' >&2; exit 1;; esac",
    )
    .find()
    .expect_err("fails");
    let text = error.to_string();
    assert!(text.contains("--cflags libdpdk") && text.contains("libbsd is missing"), "{text}");
}

#[test]
fn nonsense_version_is_shown() {
    let error = pretend_version("banana").find().expect_err("is no version");
    assert!(error.to_string().contains("banana"), "{error}");
}

/// The environment given reaches the program: an empty library folder hides an installed libdpdk.
#[test]
fn an_empty_search_path_finds_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let error = PkgConfig::new("pkg-config")
        .env("PKG_CONFIG_LIBDIR", folder.path())
        .env("PKG_CONFIG_PATH", "")
        .find()
        .expect_err("nothing is there");
    assert!(matches!(error, FindError::Missing { .. }), "{error}");
}
