//! The core's thread and the way to it.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError, TryRecvError},
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{Core, CoreError};
use crate::dataplane::Dataplane;

enum Command {
    Do(Box<dyn FnOnce(&mut Core) + Send>),
    Stop,
}

/// A way to the core, for any number of tasks.
#[derive(Clone)]
pub struct CoreHandle {
    commands: mpsc::Sender<Command>,
}

impl CoreHandle {
    /// Have the core do `work` and give its answer. Work that was sent is done even if the caller goes away.
    ///
    /// # Errors
    /// What `work` says, or [`CoreError::Stopped`].
    pub async fn call<T: Send + 'static, E: From<CoreError> + Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        let command = Box::new(move |core: &mut Core| {
            // Nobody waits any more: the work is done all the same.
            let _ = answer.send(work(core));
        });
        self.commands.send(Command::Do(command)).map_err(|_| CoreError::Stopped)?;
        answered.await.map_err(|_| CoreError::Stopped)?
    }
}

impl CoreHandle {
    /// Have the core do `work` when it comes to it. Nobody waits for that.
    pub fn tell(&self, work: impl FnOnce(&mut Core) + Send + 'static) {
        // A core that has stopped needs no telling.
        let _ = self.commands.send(Command::Do(Box::new(work)));
    }
}

/// The running core.
pub struct CoreThread {
    handle: CoreHandle,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<Box<dyn Dataplane>>,
}

impl CoreThread {
    /// Start `core` on a thread of its own.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(core: Core) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel();
        let (alive, ended) = oneshot::channel();
        let work = move || {
            // Dropped when the thread ends, however it ends.
            let _alive = alive;
            run(core, &queue)
        };
        let thread = thread::Builder::new().name("core".to_owned()).spawn(work)?;
        Ok(Self { handle: CoreHandle { commands }, ended, thread })
    }

    /// A way to the core.
    #[must_use]
    pub fn handle(&self) -> CoreHandle {
        self.handle.clone()
    }

    /// Wait until the core has ended, which by itself it only does when it panics or a worker has ended.
    pub async fn ended(&mut self) {
        // The sender is never used, only dropped.
        let _ = (&mut self.ended).await;
    }

    /// Stop the core once it has done what was sent before, and give the workers back; `None` when it panicked.
    #[must_use]
    pub fn stop(self) -> Option<Box<dyn Dataplane>> {
        // A core that is gone already needs no telling.
        let _ = self.handle.commands.send(Command::Stop);
        self.thread.join().ok()
    }
}

fn run(mut core: Core, queue: &mpsc::Receiver<Command>) -> Box<dyn Dataplane> {
    loop {
        if let Some(worker) = core.dataplane.stopped_worker() {
            tracing::error!(worker, "a worker has ended: its sessions' packets would go nowhere");
            return core.dataplane;
        }
        let wake_at = core.tick(Instant::now());
        let command = match queue.try_recv() {
            Err(TryRecvError::Empty) => {
                core.rest();
                queue.recv_timeout(wake_at.saturating_duration_since(Instant::now()))
            }
            queued => queued.map_err(|_| RecvTimeoutError::Disconnected),
        };
        match command {
            Ok(Command::Do(work)) => work(&mut core),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return core.dataplane,
        }
    }
}
