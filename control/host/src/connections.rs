//! Open data connections, so that a migration's can be cut when it is forgotten, and all at the end.

use std::{
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_memory::{
    MemoryError,
    transport::{Cut, Dial, Stream},
};

use crate::migration::locked;

/// How long an attempt that a newer one has replaced may take to end.
const REPLACED: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// The open data connections of this host.
#[derive(Clone, Default)]
pub(crate) struct Connections {
    open: Arc<Mutex<Vec<Entry>>>,
    next: Arc<AtomicU64>,
}

struct Entry {
    key: u64,
    migration: Option<String>,
    incoming: bool,
    cut: Cut,
}

/// A connection is listed as long as this lives.
pub(crate) struct Listed {
    key: u64,
    connections: Connections,
}

impl Connections {
    /// List an incoming connection; it learns its migration from [`Listed::is_for`].
    pub(crate) fn list_incoming(&self, socket: &TcpStream) -> std::io::Result<Listed> {
        let socket = socket.try_clone()?;
        let cut = move || {
            // Closed already is fine.
            let _ = socket.shutdown(Shutdown::Both);
        };
        Ok(self.list(Box::new(cut), None))
    }

    fn list(&self, cut: Cut, migration: Option<&str>) -> Listed {
        // Relaxed: only uniqueness counts.
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let (migration, incoming) = (migration.map(str::to_owned), migration.is_none());
        locked(&self.open).push(Entry { key, migration, incoming, cut });
        Listed { key, connections: self.clone() }
    }

    /// Whether memory of a migration is arriving.
    pub(crate) fn is_receiving(&self, migration: &str) -> bool {
        let open = locked(&self.open);
        open.iter().any(|entry| entry.incoming && entry.migration.as_deref() == Some(migration))
    }

    /// Cut a migration's connections. Their ends notice by themselves.
    pub(crate) fn cut(&self, migration: &str) {
        for entry in locked(&self.open).iter() {
            if entry.migration.as_deref() == Some(migration) {
                (entry.cut)();
            }
        }
    }

    /// Cut every connection.
    pub(crate) fn cut_all(&self) {
        for entry in locked(&self.open).iter() {
            (entry.cut)();
        }
    }
}

impl Listed {
    /// Say which migration an incoming connection is for. One that was at it is cut: a sender begins again only when it has
    /// lost the former, of which this side may not know yet. False when that one does not end.
    pub(crate) fn is_for(&self, migration: &str) -> bool {
        let until = Instant::now() + REPLACED;
        loop {
            if self.take(migration) {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(POLL);
        }
    }

    fn take(&self, migration: &str) -> bool {
        let mut open = locked(&self.connections.open);
        let other = |entry: &&Entry| {
            let same = entry.migration.as_deref() == Some(migration);
            entry.incoming && entry.key != self.key && same
        };
        if let Some(other) = open.iter().find(other) {
            (other.cut)();
            return false;
        }
        if let Some(entry) = open.iter_mut().find(|entry| entry.key == self.key) {
            entry.migration = Some(migration.to_owned());
        }
        true
    }

    /// Everything is there. Said before the sender is told: what it then asks for must not find us busy.
    pub(crate) fn is_through(&self) {
        let mut open = locked(&self.connections.open);
        if let Some(entry) = open.iter_mut().find(|entry| entry.key == self.key) {
            entry.migration = None;
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        locked(&self.connections.open).retain(|entry| entry.key != self.key);
    }
}

/// Makes streams for a migration that are listed until this is dropped.
pub(crate) struct ListedDial {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) connections: Connections,
    pub(crate) migration: String,
    pub(crate) listed: Mutex<Vec<Listed>>,
}

impl Dial for ListedDial {
    fn dial(&self) -> Result<Box<dyn Stream>, MemoryError> {
        let stream = self.dial.dial()?;
        let cut = stream
            .cut()
            .map_err(|source| MemoryError::Connection { during: "connecting", source })?;
        locked(&self.listed).push(self.connections.list(cut, Some(&self.migration)));
        Ok(stream)
    }

    fn is_encrypted(&self) -> bool {
        self.dial.is_encrypted()
    }
}
