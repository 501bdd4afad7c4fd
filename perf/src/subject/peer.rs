//! What peers need from other projects, and the Debian packages it comes in.

use std::path::PathBuf;

/// A program or a file of somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// Name of a program, or path of a file.
    what: &'static str,
    /// Debian package.
    package: &'static str,
}

const fn needed(what: &'static str, package: &'static str) -> Needed {
    Needed { what, package }
}

/// The hypervisor, with its own live migration.
pub const QEMU: Needed = needed("qemu-system-x86_64", "qemu-system-x86");
/// TCP over loopback.
pub const IPERF3: Needed = needed("iperf3", "iperf3");

const OPENVSWITCH: &str = "openvswitch-switch-dpdk";

/// DPDK's forwarder.
pub const TESTPMD: Needed = needed("dpdk-testpmd", "dpdk-dev");
/// Lets a program's log be written line by line.
pub const STDBUF: Needed = needed("stdbuf", "coreutils");
/// Rules of the kernel's packet filter.
pub const NFT: Needed = needed("nft", "nftables");
/// Links, addresses and namespaces.
pub const IP: Needed = needed("ip", "iproute2");
/// Open vSwitch with DPDK, where Debian's package puts it, out of the way of the one without.
pub const OVS_VSWITCHD: Needed =
    needed("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", OPENVSWITCH);
/// What its database holds.
pub const OVS_SCHEMA: Needed = needed("/usr/share/openvswitch/vswitch.ovsschema", OPENVSWITCH);
/// Makes its database.
pub const OVSDB_TOOL: Needed = needed("ovsdb-tool", OPENVSWITCH);
/// Serves its database.
pub const OVSDB_SERVER: Needed = needed("ovsdb-server", OPENVSWITCH);
/// Changes its configuration.
pub const OVS_VSCTL: Needed = needed("ovs-vsctl", OPENVSWITCH);
/// Changes its flows.
pub const OVS_OFCTL: Needed = needed("ovs-ofctl", OPENVSWITCH);
/// Asks it.
pub const OVS_APPCTL: Needed = needed("ovs-appctl", OPENVSWITCH);

impl Needed {
    /// Where it is.
    ///
    /// # Errors
    /// When it is not installed; names the package.
    pub fn find(self) -> anyhow::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Users' paths lack the places of programs for root.
        self.find_in(std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)))
    }

    fn find_in(self, places: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<PathBuf> {
        let Self { what, package } = self;
        // Joining a path to a place gives the path itself.
        let found = places.into_iter().map(|place| place.join(what)).find(|path| path.is_file());
        found.ok_or_else(|| {
            anyhow::anyhow!("{what} is not installed: install the Debian package {package} (deploy/host/packages --with bench)")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        for (needed, package) in [
            (TESTPMD, "dpdk-dev"),
            (STDBUF, "coreutils"),
            (NFT, "nftables"),
            (IP, "iproute2"),
            (OVSDB_TOOL, OPENVSWITCH),
            (QEMU, "qemu-system-x86"),
            (IPERF3, "iperf3"),
        ] {
            let error = needed.find_in([]).expect_err("nowhere").to_string();
            assert!(error.starts_with(needed.what), "{error}");
            assert!(error.contains(&format!("the Debian package {package} ")), "{error}");
        }
        let file = needed("/nowhere/ovs-vswitchd-dpdk", OPENVSWITCH);
        let error = file.find().expect_err("not there").to_string();
        assert!(error.contains("the Debian package openvswitch-switch-dpdk "), "{error}");
    }

    #[test]
    fn what_is_there_is_found() {
        let dir = tempfile::tempdir().expect("dir");
        let (empty, place) = (dir.path().join("empty"), dir.path().join("place"));
        fs::create_dir_all(place.join("ip")).expect("a directory of that name is no program");
        fs::write(place.join("nft"), "").expect("written");
        let places = [empty, place.clone()];
        assert_eq!(NFT.find_in(places.clone()).expect("there"), place.join("nft"));
        assert!(IP.find_in(places).is_err());
    }
}
