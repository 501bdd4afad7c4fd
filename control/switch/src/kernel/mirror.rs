//! What the kernel knows of routes and neighbours, told as it changes: the way to the thread that follows it.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};
use tidegate_dataplane::steering::PortId;

use super::{Change, KernelError, follower::Follower};

/// A port and the kernel's interface for it: a twin, or a VLAN interface on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredPort {
    /// The port.
    pub port: PortId,
    /// The interface's name.
    pub interface: String,
}

/// The running mirror. Dropping it ends it.
pub struct Mirror {
    wanted: mpsc::Sender<(PortId, IpAddr)>,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Follow the kernel from now on: what there is, and then each change, is given to `tell` in batches.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel cannot be asked.
    pub fn start(
        ports: &[MirroredPort],
        tell: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, KernelError> {
        let (wanted, wants) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let failed = |reason| KernelError::Netlink { what: "starting the mirror", reason };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(|error| failed(error.into()))?);
        let told = (wants, Arc::clone(&stop), Arc::clone(&wake));
        let follower = Follower::start(ports, Box::new(tell), told)?;
        let run = move || follower.run();
        let spawned = thread::Builder::new().name("kernel-mirror".to_owned()).spawn(run);
        Ok(Self { wanted, stop, wake, thread: Some(spawned.map_err(failed)?) })
    }

    /// Have the kernel find this neighbour. Not more than once in a while for each: the caller sees to that.
    pub fn find(&self, port: PortId, address: IpAddr) {
        // A mirror that has ended has said why.
        let _ = self.wanted.send((port, address));
        self.wake();
    }

    fn wake(&self) {
        // It cannot be full, and if it were the mirror would wake up all the same.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic, if it had one, is on record.
            let _ = thread.join();
        }
    }
}
