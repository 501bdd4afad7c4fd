//! Opening ports, and closing them.

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

use tidegate_dataplane::{packet::Mac, steering::PortId};
use tidegate_dpdk::{Eal, Errno, Error, PktMbufPool, Port, PortConfig, QueuePair, is_pci};

use crate::{PortSpec, WorkerError};

/// Why a port was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It did not open.
    #[error(
        "port `{port}` (device `{device}`) did not open: {reason}; check the device string, that the device is free, and permissions"
    )]
    Open {
        /// Name in the configuration.
        port: String,
        /// DPDK device string.
        device: String,
        /// Why.
        reason: Box<Error>,
    },
    /// A guest's socket cannot be bound.
    #[error(
        "port `{port}` cannot listen on {}: {reason}; stop what uses it, or give the port another path",
        path.display()
    )]
    Socket {
        /// Name in the configuration.
        port: String,
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// There are as many as packet buffers were kept for.
    #[error(
        "there are {most} ports already, and packet buffers for no more; raise `max_ports` in [eal] and restart tidegated"
    )]
    Full {
        /// As many as there are.
        most: u16,
    },
    /// There is no such port.
    #[error("there is no port number {}", port.0)]
    Unknown {
        /// Its number.
        port: PortId,
    },
    /// The workers have let go of it, but its device did not.
    #[error(
        "port `{port}` is gone, but its device `{device}` did not close: {reason}; it cannot be added again before tidegated is restarted"
    )]
    Close {
        /// Name in the configuration.
        port: String,
        /// DPDK device string.
        device: String,
        /// Why.
        reason: Box<Error>,
    },
    /// A worker did not do its part.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// A started port and its queue pairs.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    /// What it is known by on the link.
    pub(crate) mac: Mac,
    pub(crate) queues: Vec<QueuePair>,
}

/// Open a port with as many queue pairs as there are workers, or as it has, and this MAC.
pub(crate) fn open(
    eal: &Eal,
    spec: &PortSpec,
    mac: Option<Mac>,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, PortError> {
    if let Some(path) = vhost_socket(&spec.device) {
        remove_stale_socket(path).map_err(|reason| PortError::Socket {
            port: spec.name.clone(),
            path: path.to_owned(),
            reason,
        })?;
    }
    try_open(eal, spec, mac, workers, pool).map_err(|reason| PortError::Open {
        port: spec.name.clone(),
        device: spec.device.clone(),
        reason: Box::new(reason),
    })
}

/// The socket a vhost device will listen on. vhost has one queue pair unless its device string asks for more, and it
/// should not: a guest enables only the queues its own device has.
fn vhost_socket(device: &str) -> Option<&Path> {
    let (name, arguments) = device.split_once(',')?;
    let argument = |key| arguments.split(',').find_map(|it| it.strip_prefix(key));
    let listens = name.starts_with("net_vhost") && argument("client=").is_none_or(|it| it == "0");
    listens.then(|| argument("iface=").map(Path::new))?
}

/// A process that was killed leaves its socket behind, and DPDK does not bind where one is.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is listening there"))
        }
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn try_open(
    eal: &Eal,
    spec: &PortSpec,
    mac: Option<Mac>,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, Error> {
    match eal.attach(&spec.device) {
        // EAL has found it at the start.
        Err(Error::Call { errno: Errno::EEXIST, .. }) if is_pci(&spec.device) => {}
        answer => answer?,
    }
    let opened = start(eal, spec, mac, workers, pool);
    if opened.is_err() {
        // So that it can be tried again; the first error is the one to tell.
        let _ = eal.detach(&spec.device);
    }
    opened
}

fn start(
    eal: &Eal,
    spec: &PortSpec,
    mac: Option<Mac>,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, Error> {
    let port = eal.port(&spec.device)?;
    // Promiscuous, because a device may have no address to set (vhost): shards look at it themselves.
    let config = PortConfig {
        queue_pairs: port.max_queue_pairs().min(workers).max(1),
        promiscuous: true,
        mtu: spec.mtu,
        ..PortConfig::default()
    };
    let queues = port.start(&config, pool)?;
    let mac = match mac {
        None => Mac(port.mac()?),
        Some(mac) => match port.set_mac(mac.0) {
            Err(Error::Call { errno, .. }) if errno == Errno::ENOTSUP => mac,
            answer => answer.map(|()| mac)?,
        },
    };
    Ok(OpenPort { port, mac, queues })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_listening_vhost_devices_have_a_socket() {
        let socket = |device| vhost_socket(device).and_then(Path::to_str);
        assert_eq!(socket("net_vhost0,iface=/a/b.sock"), Some("/a/b.sock"));
        assert_eq!(socket("net_vhost0,queues=2,iface=/a,client=0"), Some("/a"));
        assert_eq!(socket("net_vhost0,iface=/a,client=1"), None);
        assert_eq!(socket("net_tap0,iface=tg0"), None);
        assert_eq!(socket("net_null0"), None);
    }

    #[test]
    fn a_socket_nobody_listens_on_is_removed_and_another_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        remove_stale_socket(&path).expect("nothing is there");
        let listener = UnixListener::bind(&path).expect("bound");
        let error = remove_stale_socket(&path).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        remove_stale_socket(&path).expect("stale");
        assert!(!path.exists());
        fs::write(&path, "kept").expect("written");
        assert!(remove_stale_socket(&path).is_err());
        assert!(path.exists());
    }
}
