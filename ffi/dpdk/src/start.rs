//! Starting a port and, by dropping its queues, stopping it.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use crate::error::{Errno, Error};
use crate::mempool::PktMbufPool;
use crate::port::{MacAddress, Port, PortInner, raw_info};
use crate::queue::QueuePair;

/// How a port is started. Offloads are off: packets have correct checksums in both directions, and no
/// tags or lengths live outside the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Queue pairs, 1 to [`Port::max_queue_pairs`]. With several, a device that can spreads packets by hash
    /// of addresses and ports; another delivers to queue 0.
    pub queue_pairs: u16,
    /// Length of each receive queue, packets; the device may adjust it.
    pub rx_descriptors: u16,
    /// Length of each transmit queue, packets; the device may adjust it.
    pub tx_descriptors: u16,
    /// MTU, bytes, without Ethernet header.
    pub mtu: u16,
    /// Receive packets for any MAC address. Not an error on a device that does so anyway.
    pub promiscuous: bool,
    /// MAC address to set; `None` keeps the device's.
    pub mac: Option<MacAddress>,
}

impl Default for PortConfig {
    /// One queue pair of 1024 descriptors, MTU 1500, not promiscuous, the device's own MAC address.
    fn default() -> Self {
        Self {
            queue_pairs: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            promiscuous: false,
            mac: None,
        }
    }
}

/// Held by every queue of a started port; the last one stops it.
pub(crate) struct Started {
    port: Arc<PortInner>,
}

impl Started {
    pub(crate) fn port_id(&self) -> u16 {
        self.port.id
    }
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.port.info.name)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let mut started = self.port.lock();
        // SAFETY: the port is valid (`port`), and no queue of it is in use: each holds this value.
        // A failure leaves it running, and the next `start` reports it.
        unsafe { sys::rte_eth_dev_stop(self.port.id) };
        *started = false;
    }
}

impl Port {
    /// Configures and starts the port; received packets are taken from `pool`. Returns its queues, number 0
    /// first. When the last of them is dropped the port is stopped, and can be started again.
    /// (`rte_eth_dev_configure`, `rte_eth_rx_queue_setup`, `rte_eth_tx_queue_setup`, `rte_eth_dev_start`;
    /// <https://doc.dpdk.org/guides-22.11/prog_guide/poll_mode_drv.html>)
    ///
    /// # Errors
    /// [`Error::PortStarted`], [`Error::QueueCount`], [`Error::Mtu`], [`Error::MbufTooSmall`], or
    /// [`Error::Call`] with the driver's reason. The port is stopped then.
    pub fn start(&self, config: &PortConfig, pool: &PktMbufPool) -> Result<Vec<QueuePair>, Error> {
        let port = &self.inner;
        let mut started = port.lock();
        if *started {
            return Err(Error::PortStarted { port: port.info.name.clone() });
        }
        self.check_config(config, pool)?;
        configure(port, config, pool)?;
        // SAFETY: the port is valid and its queues are set up (`configure` above).
        port.check("rte_eth_dev_start", unsafe { sys::rte_eth_dev_start(port.id) })?;
        *started = true;
        drop(started);
        // From here on an early return stops the port again.
        let running = Arc::new(Started { port: Arc::clone(port) });
        match port.set_promiscuous(config.promiscuous) {
            Err(Error::Call { errno, .. }) if errno == Errno::ENOTSUP => {}
            answer => answer?,
        }
        Ok((0..config.queue_pairs).map(|number| QueuePair::new(&running, number)).collect())
    }

    fn check_config(&self, config: &PortConfig, pool: &PktMbufPool) -> Result<(), Error> {
        /// Ethernet header, checksum, two VLAN tags.
        const FRAME_OVERHEAD: u32 = 14 + 4 + 2 * 4;
        let (port, info) = (self.name().to_owned(), self.info());
        let most = self.max_queue_pairs();
        if config.queue_pairs == 0 || config.queue_pairs > most {
            return Err(Error::QueueCount { port, asked: config.queue_pairs, most });
        }
        let mtu = config.mtu;
        if mtu < info.min_mtu || mtu > info.max_mtu {
            return Err(Error::Mtu { port, mtu, least: info.min_mtu, most: info.max_mtu });
        }
        let (needed, room) = (u32::from(mtu) + FRAME_OVERHEAD, u32::from(pool.data_bytes()));
        if needed > room {
            return Err(Error::MbufTooSmall { port, mtu, needed, room });
        }
        Ok(())
    }
}

/// Everything between "stopped" and `rte_eth_dev_start`; the caller holds the port's lock.
fn configure(port: &PortInner, config: &PortConfig, pool: &PktMbufPool) -> Result<(), Error> {
    let id = port.id;
    let queues = config.queue_pairs;
    let device = raw_info(id)?;
    // SAFETY: all zeros is a valid value of this plain C struct, and DPDK's own "everything off".
    let mut conf: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
    conf.rxmode.mtu = config.mtu.into();
    // SAFETY: a constant of the shim library.
    let hash = unsafe { sys::TG_RSS_IP_TCP_UDP } & device.flow_type_rss_offloads;
    if queues > 1 && hash != 0 {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = hash;
    }
    // SAFETY: the port is valid (`port`) and stopped (caller); `conf` outlives the call, which copies it.
    let answer = unsafe { sys::rte_eth_dev_configure(id, queues, queues, &conf) };
    port.check("rte_eth_dev_configure", answer)?;
    let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: the port is valid; `rx` and `tx` are places to read and write.
    let answer = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx, &mut tx) };
    port.check("rte_eth_dev_adjust_nb_rx_tx_desc", answer)?;
    // SAFETY: the port is valid. "Any node" is -1, which the setup functions take as an unsigned number.
    let socket = unsafe { sys::rte_eth_dev_socket_id(id) } as u32;
    for queue in 0..queues {
        // SAFETY: the port is configured with more than `queue` queues (above) and stopped; NULL means the
        // driver's defaults; the pool lives until `Eal::cleanup`, which closes the port first.
        let (rx_answer, tx_answer) = unsafe {
            (
                sys::rte_eth_rx_queue_setup(id, queue, rx, socket, ptr::null(), pool.raw()),
                sys::rte_eth_tx_queue_setup(id, queue, tx, socket, ptr::null()),
            )
        };
        port.check("rte_eth_rx_queue_setup", rx_answer)?;
        port.check("rte_eth_tx_queue_setup", tx_answer)?;
    }
    if let Some(mac) = config.mac {
        let mut address = sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the port is valid; `address` outlives the call, which copies it.
        let answer = unsafe { sys::rte_eth_dev_default_mac_addr_set(id, &mut address) };
        port.check("rte_eth_dev_default_mac_addr_set", answer)?;
    }
    // Devices that are kernel interfaces take it only this way; others have it from `rxmode`.
    // SAFETY: the port is valid.
    match unsafe { sys::rte_eth_dev_set_mtu(id, config.mtu) } {
        answer if answer == -Errno::ENOTSUP.0 => Ok(()),
        answer => port.check("rte_eth_dev_set_mtu", answer).map(drop),
    }
}
