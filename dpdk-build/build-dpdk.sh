#!/bin/sh
# Builds a small DPDK from its source tarball into a prefix, for machines without a libdpdk package.
# Prints on standard output the environment to set; everything else goes to standard error.
set -eu

VERSION=22.11.11
# Of dpdk-22.11.11.tar.xz, as listed in Debian's signed source package (apt-get source dpdk).
SHA256=27a3bb1f57e02eb68c7c0a6f8bbf9fb74ec198c5aab74ed602da5b71c492a476
URL=https://fast.dpdk.org/rel/dpdk-$VERSION.tar.xz

# What Tidegate can be run on. A driver whose own libraries are missing (libibverbs for mlx5, libpcap for
# pcap) is left out, and meson's summary says so.
DRIVERS=bus/auxiliary,bus/pci,bus/vdev,mempool/ring
DRIVERS=$DRIVERS,net/af_packet,net/memif,net/null,net/pcap,net/ring,net/tap,net/vhost,net/virtio
DRIVERS=$DRIVERS,common/iavf,common/mlx5,net/i40e,net/iavf,net/ice,net/ixgbe,net/mlx5

usage() {
	cat <<-EOF
	usage: build-dpdk.sh --prefix DIR [--source TARBALL] [--sha256 HEX] [--work DIR] [--jobs N] [--native]

	  --prefix DIR      where to install; created if missing
	  --source TARBALL  DPDK's source (.tar.xz or .tar.gz); default: downloaded from
	                    $URL
	  --sha256 HEX      sum of another tarball than DPDK $VERSION's; default:
	                    $SHA256
	  --work DIR        where to unpack and build; kept; default: a temporary folder, removed
	  --jobs N          compiler processes at once; default: as many as there are CPUs
	  --native          compile for this very CPU; default: any x86-64 with SSE4.2 / any ARMv8
	EOF
}

say() { echo "build-dpdk: $*" >&2; }
fail() { say "$*"; exit 1; }
misuse() { say "$*"; usage >&2; exit 2; }

prefix= source= work= jobs= platform=generic
while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --source | --sha256 | --work | --jobs)
		[ $# -ge 2 ] || misuse "$1 needs a value"
		case $1 in
		--prefix) prefix=$2 ;;
		--source) source=$2 ;;
		--sha256) SHA256=$2 ;;
		--work) work=$2 ;;
		--jobs) jobs=$2 ;;
		esac
		shift 2
		;;
	--native) platform=native; shift ;;
	-h | --help) usage; exit 0 ;;
	*) misuse "unknown argument: $1" ;;
	esac
done
[ -n "$prefix" ] || misuse "--prefix is missing"
case $jobs in *[!0-9]* | 0) misuse "--jobs takes a positive number, not '$jobs'" ;; esac
case $SHA256 in *[!0-9a-f]*) misuse "--sha256 takes 64 lower-case hexadecimal digits" ;; esac
[ ${#SHA256} -eq 64 ] || misuse "--sha256 takes 64 lower-case hexadecimal digits"
[ -z "$source" ] || [ -f "$source" ] || fail "$source: no such file"

# All that is missing at once, and what brings it.
missing= packages=
need() { # what it is, the Debian package that has it
	missing="$missing $1"
	packages="$packages $2"
}
command -v meson >/dev/null || need meson meson
command -v ninja >/dev/null || need ninja ninja-build
command -v cc >/dev/null || need cc gcc
command -v pkg-config >/dev/null || need pkg-config pkg-config
command -v xz >/dev/null || need xz xz-utils
# DPDK's build scripts read object files with it, from the python3 in PATH.
python3 -c 'import elftools' 2>/dev/null || need pyelftools python3-pyelftools
# vhost places its memory on NUMA nodes with it.
pkg-config --exists numa 2>/dev/null || need libnuma libnuma-dev
[ -n "$source" ] || command -v curl >/dev/null || need curl curl
[ -z "$missing" ] || fail "missing:$missing
  apt-get install$packages
  (meson, ninja and pyelftools are Python packages, too: pip install meson ninja pyelftools)"

if [ -z "$work" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
fi
mkdir -p "$work" "$prefix"
work=$(cd "$work" && pwd)
prefix=$(cd "$prefix" && pwd)

if [ -z "$source" ]; then
	source=$work/dpdk-$VERSION.tar.xz
	if [ ! -f "$source" ]; then
		say "downloading $URL"
		curl --fail --location --silent --show-error --output "$source.part" "$URL" >&2 ||
			fail "$URL cannot be downloaded; get the tarball of DPDK $VERSION elsewhere and pass --source"
		mv "$source.part" "$source"
	fi
fi
found=$(sha256sum <"$source" | cut -d' ' -f1)
[ "$found" = "$SHA256" ] || fail "$source is not the expected tarball:
  sha256 expected $SHA256
  sha256 found    $found
  (--sha256 says that another tarball is meant)"

say "unpacking $source"
rm -rf "$work/source" "$work/build"
mkdir "$work/source"
tar -xf "$source" -C "$work/source" --strip-components=1
[ -f "$work/source/VERSION" ] || fail "$source holds no DPDK source: there is no VERSION file in it"
# EAL refuses to load drivers from below a folder that everybody may write to, and the path is compiled in.
folder=$prefix
while :; do
	[ -z "$(find "$folder" -maxdepth 0 -perm -0002)" ] ||
		fail "$prefix cannot be used: $folder is writable by everybody, and DPDK loads no drivers from below
  such a folder. Choose another --prefix, for example /opt/dpdk-$VERSION"
	[ "$folder" != / ] || break
	folder=$(dirname "$folder")
done

say "building DPDK $(cat "$work/source/VERSION") for $platform into $prefix"

{
	meson setup "$work/build" "$work/source" --prefix="$prefix" --libdir=lib --buildtype=release \
		-Ddefault_library=shared -Dplatform=$platform -Denable_drivers="$DRIVERS" \
		-Denable_apps=test-pmd -Dtests=false -Denable_docs=false -Dexamples= -Denable_kmods=false
	ninja -C "$work/build" ${jobs:+-j "$jobs"} install
} >&2 || fail "the build failed; its last lines are above (--work DIR keeps the folder)"

for wanted in rte_net_tap rte_net_vhost rte_net_null rte_net_ring rte_mempool_ring; do
	[ -e "$prefix/lib/lib$wanted.so" ] || fail "lib$wanted.so was not built; see meson's summary above"
done
say "done. Set:"
cat <<EOF
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export LD_LIBRARY_PATH=$prefix/lib
EOF
