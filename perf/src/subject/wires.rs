//! Shared memory (memif) between the generator and what it measures: a wire to the uplink, one to each VM.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    mbufs_mib,
    tidegated::{self, ROUTE_TABLES_MIB},
};
use crate::machine::WORKER_CPU;

/// Hugepage memory of each subject at the wires, beside tables.
pub const MEMORY_MIB: u32 = 256;
/// Packet buffers of a box: what its wires' rings hold, and what is under way.
const MBUFS: u32 = 65_535;
/// Room of a wire in each direction, packets as a power of two: 4 ms at a million packets per second.
const RING: u32 = 12;
/// How long a closed session stays in the box's table, so that expiry has work to do.
const LINGER_S: u32 = 1;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Clients to the uplink.
    Uplink,
    /// Access port to the source.
    Source,
    /// Access port to the destination.
    Destination,
}

impl Wire {
    /// All, in the order of a subject's ports.
    pub const ALL: [Self; 3] = [Self::Uplink, Self::Source, Self::Destination];

    /// The box's name of the port there.
    #[must_use]
    pub const fn port(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Source => "vm0",
            Self::Destination => "vm1",
        }
    }
}

/// What a box between them has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Sessions.
    pub sessions: u32,
    /// A capture that comes from one more port.
    pub packets: u32,
    /// Managed addresses beside the generator's, [`other_address`].
    pub addresses: u32,
}

impl Room {
    /// So many sessions, as far as a box can be told so.
    #[must_use]
    pub fn of(sessions: u32) -> Self {
        Self { sessions: sessions.clamp(65_536, 16_777_216), packets: 0, addresses: 0 }
    }
}

/// The wires of one run, as sockets in its directory.
#[derive(Clone, Debug)]
pub struct Wires {
    dir: PathBuf,
}

impl Wires {
    /// CPUs of a box's workers between them: the measured one.
    pub const WORKERS: [usize; 1] = [WORKER_CPU];

    /// New wires, with their sockets in a directory in `dir`; those of an earlier run there are gone.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("wires");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Where their sockets are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The subject's end, which is started first.
    #[must_use]
    pub fn subject(&self, wire: Wire) -> String {
        self.end(wire, "server")
    }

    /// The generator's end.
    #[must_use]
    pub fn generator(&self, wire: Wire) -> String {
        self.end(wire, "client")
    }

    fn end(&self, wire: Wire, role: &str) -> String {
        let (number, dir) = (wire as u8, self.dir.display());
        format!(
            "net_memif{number},role={role},id={number},socket={dir}/{}.sock,socket-abstract=no,rsize={RING}",
            wire.port()
        )
    }

    /// The configuration of a box between them, with one worker on the measured CPU.
    #[must_use]
    pub fn config(&self, api: &str, room: &Room) -> String {
        let [uplink, source, destination] = Wire::ALL.map(|wire| self.subject(wire));
        let ports = tidegated::ports(&uplink, &[&source, &destination]);
        let Room { sessions, packets, addresses } = room;
        let others: String = (0..*addresses).map(other).collect();
        let mbufs = MBUFS + packets;
        let memory_mib = MEMORY_MIB + ROUTE_TABLES_MIB + mbufs_mib(*packets);
        let workers = Self::WORKERS;
        format!(
            r#"[eal]
memory_mib = {memory_mib}
mbufs = {mbufs}

[workers]
cpus = {workers:?}
idle = "poll"
sessions = {sessions}

[timeouts]
linger = {LINGER_S}

[api]
listen = ["{api}"]

{ports}
# All clients are behind a router.
[[neighbour]]
address = "10.9.0.2"
mac = "02:00:00:00:09:02"
port = "uplink"

[[route]]
to = "11.0.0.0/8"
via = "10.9.0.2"
{others}"#
        )
    }
}

/// A managed address that is not the generator's, and the MAC of its home and of its destination.
#[must_use]
pub fn other_address(number: u32) -> (Ipv4Addr, [String; 2]) {
    let [_, _, high, low] = number.to_be_bytes();
    let mac = |vm| format!("02:00:01:{vm:02x}:{high:02x}:{low:02x}");
    (Ipv4Addr::new(10, 16, high, low), [mac(0), mac(1)])
}

fn other(number: u32) -> String {
    let (address, [mac, _]) = other_address(number);
    let port = Wire::Source.port();
    format!(
        r#"
[[address]]
address = "{address}"
home = {{ name = "source", port = "{port}", mac = "{mac}", rewrite = "l2" }}
"#
    )
}
