//! Opening ports and sharing their queues out.

use tidegate_dpdk::{Eal, PktMbufPool, Port, PortConfig, QueuePair};

use crate::{PortSpec, StartError, config::is_virtual};

/// A started port and its queue pairs.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    pub(crate) queues: Vec<QueuePair>,
}

/// Open a port with as many queue pairs as there are workers, or as it has.
pub(crate) fn open(
    eal: &Eal,
    spec: &PortSpec,
    workers: u16,
    pool: &PktMbufPool,
) -> Result<OpenPort, StartError> {
    let failed = |source| StartError::Port {
        port: spec.name.clone(),
        device: spec.device.clone(),
        source: Box::new(source),
    };
    if is_virtual(&spec.device) {
        eal.attach_vdev(&device_with_queues(&spec.device, workers)).map_err(failed)?;
    }
    let port = eal.port(&spec.device).map_err(failed)?;
    let config = PortConfig {
        queue_pairs: port.max_queue_pairs().min(workers).max(1),
        promiscuous: true,
        mac: spec.mac.map(|mac| mac.0),
        ..PortConfig::default()
    };
    let queues = port.start(&config, pool).map_err(failed)?;
    Ok(OpenPort { port, queues })
}

/// vhost has one queue pair unless its device string asks for more.
fn device_with_queues(device: &str, workers: u16) -> String {
    if workers > 1 && device.starts_with("net_vhost") && !device.contains("queues=") {
        format!("{device},queues={workers}")
    } else {
        device.to_owned()
    }
}
