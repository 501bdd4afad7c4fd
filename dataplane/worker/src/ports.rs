//! Opening ports and sharing their queues out.

use tidegate_dataplane::packet::Mac;
use tidegate_dpdk::{Eal, Error, PktMbufPool, Port, PortConfig, QueuePair};

use crate::{PortSpec, StartError, config::is_virtual};

/// A started port and its queue pairs.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    /// What it is known by on the link.
    pub(crate) mac: Mac,
    pub(crate) queues: Vec<QueuePair>,
}

/// Open a port with as many queue pairs as there are workers, or as it has.
pub(crate) fn open(
    eal: &Eal,
    spec: &PortSpec,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, StartError> {
    try_open(eal, spec, workers, pool).map_err(|reason| StartError::Port {
        port: spec.name.clone(),
        device: spec.device.clone(),
        reason: Box::new(reason),
    })
}

fn try_open(
    eal: &Eal,
    spec: &PortSpec,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, Error> {
    if is_virtual(&spec.device) {
        eal.attach_vdev(&device_with_queues(&spec.device, workers))?;
    }
    let port = eal.port(&spec.device)?;
    // Promiscuous, because a device may have no address to set (vhost): shards look at it themselves.
    let config = PortConfig {
        queue_pairs: port.max_queue_pairs().min(workers).max(1),
        promiscuous: true,
        ..PortConfig::default()
    };
    let queues = port.start(&config, pool)?;
    let mac = match spec.mac {
        None => Mac(port.mac()?),
        Some(mac) => match port.set_mac(mac.0) {
            Err(Error::Call { errno, .. }) if errno.0 == ENOTSUP => mac,
            answer => answer.map(|()| mac)?,
        },
    };
    Ok(OpenPort { port, mac, queues })
}

/// The device has no such thing.
const ENOTSUP: i32 = 95;

/// vhost has one queue pair unless its device string asks for more.
fn device_with_queues(device: &str, workers: u16) -> String {
    if workers > 1 && device.starts_with("net_vhost") && !device.contains("queues=") {
        format!("{device},queues={workers}")
    } else {
        device.to_owned()
    }
}
