//! Open data connections, so that a migration's can be cut when it is forgotten, and all at the end.

use std::{
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::migration::locked;

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
    stream: TcpStream,
}

/// A connection is listed as long as this lives.
pub(crate) struct Listed {
    key: u64,
    connections: Connections,
}

impl Connections {
    /// List a connection; an incoming one learns its migration from [`Listed::is_for`].
    pub(crate) fn list(
        &self,
        stream: &TcpStream,
        migration: Option<&str>,
    ) -> std::io::Result<Listed> {
        // Relaxed: only uniqueness counts.
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.open).push(Entry {
            key,
            migration: migration.map(str::to_owned),
            incoming: migration.is_none(),
            stream: stream.try_clone()?,
        });
        Ok(Listed { key, connections: self.clone() })
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
                // Closed already is fine.
                let _ = entry.stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Cut every connection.
    pub(crate) fn cut_all(&self) {
        for entry in locked(&self.open).iter() {
            let _ = entry.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Listed {
    /// Say which migration an incoming connection is for; false when another one is at it.
    pub(crate) fn is_for(&self, migration: &str) -> bool {
        let mut open = locked(&self.connections.open);
        let taken = open.iter().any(|entry| {
            entry.incoming && entry.key != self.key && entry.migration.as_deref() == Some(migration)
        });
        if let Some(entry) = open.iter_mut().find(|entry| entry.key == self.key && !taken) {
            entry.migration = Some(migration.to_owned());
        }
        !taken
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
