//! Safe DPDK: EAL, lcores, mempools, mbufs, ports and queue pairs.
//!
//! ```no_run
//! use tidegate_dpdk::{Burst, Eal, PoolConfig, PortConfig};
//!
//! # fn main() -> Result<(), tidegate_dpdk::Error> {
//! let eal = Eal::init(["tidegated", "--lcores=0,1", "--vdev=net_tap0,iface=uplink"])?;
//! let pool = eal.create_pool("packets", &PoolConfig::default())?;
//! let port = eal.port("net_tap0")?;
//! let queues = port.start(&PortConfig::default(), &pool)?;
//! let worker = eal.worker_lcores()[0];
//! let task = eal.launch(worker, move || {
//!     let mut queues = queues;
//!     let mut burst: Burst = Burst::new();
//!     for queue in &mut queues {
//!         queue.rx.rx_burst(&mut burst);
//!         queue.tx.tx_drain(&mut burst);
//!     }
//!     queues // handed back through join()
//! })?;
//! drop(task.join()?); // the last queue handle stops the port
//! drop((port, pool));
//! eal.cleanup()
//! # }
//! ```
//!
//! # Who owns an mbuf
//!
//! At every moment an mbuf has one owner: its mempool, a driver's queue, or one [`Mbuf`] value (alone or
//! in a [`Burst`]). The doors between them:
//!
//! | from → to | door | why neither leak nor double free |
//! |---|---|---|
//! | pool → value | [`PktMbufPool::alloc`], [`PktMbufPool::alloc_burst`] | a value is made for exactly each pointer returned |
//! | driver → value | [`RxQueue::rx_burst`] | the same; the count the driver returns is the count added |
//! | value → driver | [`TxQueue::tx_burst`], [`TxQueue::tx_drain`] | what the driver took leaves the burst, the rest stays a value |
//! | value → pool | `Drop` of [`Mbuf`], [`Burst`], [`burst::Drain`] | neither is `Clone` or `Copy`, so it happens once |
//!
//! Values move between threads (`Send`) and are never duplicated. There is no way to make a value from a
//! pointer, or a pointer from a value, outside this crate.
//!
//! **`mem::forget`.** Rust lets safe code forget any value, and no library can prevent that. A forgotten
//! mbuf stays out of its pool until the process ends. It can never dangle: [`Eal::cleanup`] unmaps packet
//! memory only after it has counted every mbuf of every pool back, and otherwise refuses with
//! [`Error::MbufsInUse`]. That count is how the tests show that nothing leaks.
//!
//! # Who lives how long
//!
//! - [`Eal`] is counted: pools, ports, queues and running lcore tasks each hold one.
//! - A pool lives until [`Eal::cleanup`], also when its last handle is gone: mbufs carry no handle, because
//!   that would cost an atomic operation per packet.
//! - Queues hold their port started. The last queue dropped stops it; [`Port::start`] then works again.
//! - A [`Port`] is claimed by at most one handle, so nobody can reconfigure it behind its owner.
//!
//! # What is trusted
//!
//! Drivers (they hand out an mbuf once, as its only holder), the EAL arguments and device strings (some
//! name raw memory or other processes' memory), and that no other process attaches to this one's memory.
//!
//! DPDK's own description: <https://doc.dpdk.org/guides-22.11/prog_guide/>.

pub mod burst;
pub mod clock;
mod device;
mod eal;
mod error;
mod fib;
mod hash;
mod lcore;
mod mbuf;
mod mempool;
mod port;
mod queue;
mod start;
mod statistics;

pub use burst::Burst;
pub use clock::pause;
pub use device::{NO_PCI_DEVICE, is_pci};
pub use eal::{Eal, dpdk_version};
pub use error::{Errno, Error};
pub use fib::{Fib4, Fib6, FibConfig, MAX_HOP};
pub use hash::{HashTable, KEYS_AT_ONCE};
pub use lcore::{Lcore, LcoreTask};
pub use mbuf::Mbuf;
pub use mempool::{PktMbufPool, PoolConfig};
pub use port::{LinkStatus, MacAddress, Port, PortInfo};
pub use queue::{QueuePair, RxQueue, TxQueue};
pub use start::PortConfig;
pub use statistics::PortStats;

/// What the documentation promises not to compile.
///
/// An mbuf cannot be copied:
/// ```compile_fail,E0599
/// fn twice(mbuf: tidegate_dpdk::Mbuf) -> (tidegate_dpdk::Mbuf, tidegate_dpdk::Mbuf) {
///     (mbuf.clone(), mbuf)
/// }
/// ```
/// A burst is gone once it is transmitted:
/// ```compile_fail,E0382
/// fn send(queue: &mut tidegate_dpdk::TxQueue, burst: tidegate_dpdk::Burst) {
///     drop(queue.tx_burst(burst));
///     drop(burst);
/// }
/// ```
/// A queue has one user at a time:
/// ```compile_fail,E0499
/// fn share(queue: &mut tidegate_dpdk::RxQueue) {
///     let (a, b) = (&mut *queue, &mut *queue);
///     a.rx_burst(&mut tidegate_dpdk::Burst::<32>::new());
///     b.rx_burst(&mut tidegate_dpdk::Burst::<32>::new());
/// }
/// ```
/// A mbuf of a burst cannot be kept after the burst is gone:
/// ```compile_fail,E0505
/// fn keep(mut burst: tidegate_dpdk::Burst) -> u8 {
///     let data = burst.as_mut_slice()[0].data_mut();
///     drop(burst);
///     data[0]
/// }
/// ```
/// And the same, correctly:
/// ```
/// fn send(queue: &mut tidegate_dpdk::TxQueue, burst: tidegate_dpdk::Burst) -> usize {
///     let unsent = queue.tx_burst(burst);
///     unsent.len()
/// }
/// ```
#[cfg(doctest)]
pub struct MustNotCompile;
