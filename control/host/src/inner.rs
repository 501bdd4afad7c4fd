//! The host's state, shared by the service and the data listener.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tidegate_memory::{Mapping, ObjectKind, twin};
use tracing::{info, warn};

use crate::{
    HostConfig, HostError,
    beside::Beside,
    connections::Connections,
    data::{Copies, Data},
    disks,
    guest::{Guest, Record, Start},
    migration::{Migrations, locked},
    qemu::Places,
    records,
    spec::GuestSpec,
    warm::Warm,
};

/// Everything a host knows.
pub(crate) struct Inner {
    pub(crate) config: HostConfig,
    pub(crate) migrations: Migrations,
    pub(crate) connections: Connections,
    pub(crate) data: Data,
    pub(crate) copies: Copies,
    /// Sources' memory that will be compared.
    pub(crate) beside: Warm<Beside>,
    /// Destinations' memory that becomes a source's.
    pub(crate) becoming: Warm<(ObjectKind, Mapping)>,
    /// Where other hosts send memory.
    pub(crate) data_endpoint: String,
    guests: Mutex<BTreeMap<String, Arc<Guest>>>,
    /// Held while a guest is made, so that a name is given once.
    pub(crate) making: tokio::sync::Mutex<()>,
    /// Held while it is decided what is kept of a twin.
    pub(crate) keeping: Mutex<()>,
    /// No work on guests begins any more. Held for reading by such work, set once by the shutdown.
    pub(crate) stopping: tokio::sync::RwLock<bool>,
}

impl Inner {
    /// Take over what a previous run left.
    pub(crate) fn load(config: HostConfig, data_endpoint: String) -> Result<Self, HostError> {
        for dir in [&config.state_dir, &config.memory_dir, &config.twin_dir] {
            fs::create_dir_all(dir).map_err(HostError::file("create", dir))?;
        }
        let inner = Self {
            migrations: Migrations::load(config.state_dir.join("migrations"))?,
            connections: Connections::default(),
            data: Data::load(&config.data, &data_endpoint)?,
            copies: Copies::default(),
            beside: Warm::default(),
            becoming: Warm::default(),
            data_endpoint,
            guests: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            keeping: Mutex::default(),
            stopping: tokio::sync::RwLock::default(),
            config,
        };
        for record in records::load_all::<Record>(&inner.guests_dir(), records::GUEST)? {
            let places = inner.places_of(&record.spec.name);
            let guest = Guest::adopt(record, places);
            let alive = guest.is_alive();
            info!(guest = guest.name(), pid = guest.record.pid, alive, "guest taken over");
            inner.add(guest);
        }
        Ok(inner)
    }

    fn guests_dir(&self) -> PathBuf {
        self.config.state_dir.join("guests")
    }

    /// Where a guest's files are, whether or not there is such a guest.
    pub(crate) fn places_of(&self, name: &str) -> Places {
        Places { state: self.guests_dir().join(name), memory: self.config.memory_dir.join(name) }
    }

    /// Where a migration's twin is.
    pub(crate) fn twin_dir(&self, migration: &str) -> PathBuf {
        self.config.twin_dir.join(migration)
    }

    pub(crate) fn guest(&self, name: &str) -> Result<Arc<Guest>, HostError> {
        locked(&self.guests).get(name).cloned().ok_or_else(|| HostError::guest_not_found(name))
    }

    pub(crate) fn guests(&self) -> Vec<Arc<Guest>> {
        locked(&self.guests).values().cloned().collect()
    }

    pub(crate) fn add(&self, guest: Guest) -> Arc<Guest> {
        let guest = Arc::new(guest);
        locked(&self.guests).insert(guest.name().to_owned(), guest.clone());
        guest
    }

    /// Make and boot a guest with fresh memory.
    pub(crate) async fn start_guest(&self, spec: GuestSpec) -> Result<Arc<Guest>, HostError> {
        let _turn = self.making.lock().await;
        self.check_name_free(&spec.name, None)?;
        let places = self.places_of(&spec.name);
        records::remove_dir(&places.memory)?;
        self.check_memory_space(&spec, false)?;
        let result = self.boot(spec, places.clone(), Start::Boot).await;
        if result.is_err() {
            records::remove_dir(&places.memory)?;
        }
        result
    }

    /// Start a guest whose memory is in place but for the regions that are missing.
    pub(crate) async fn boot(
        &self,
        spec: GuestSpec,
        places: Places,
        start: Start,
    ) -> Result<Arc<Guest>, HostError> {
        fs::create_dir_all(&places.memory).map_err(HostError::file("create", &places.memory))?;
        for region in &spec.regions {
            let path = places.region(&region.name);
            if !path.exists() {
                // With room for all of it: a guest must not die of a full file system later.
                twin::allocate(&path, region.size_bytes)?;
            }
        }
        disks::make(&spec, &places, false).await?;
        let guest = Guest::start(&self.config.qemu.binary, spec, places, start).await?;
        Ok(self.add(guest))
    }

    /// End a guest and forget it.
    pub(crate) async fn delete_guest(&self, name: &str, purge: bool) -> Result<(), HostError> {
        let guest = self.guest(name)?;
        guest.end().await?;
        records::remove_dir(&guest.places.state)?;
        if purge {
            records::remove_dir(&guest.places.memory)?;
        }
        locked(&self.guests).remove(name);
        Ok(())
    }

    /// Whether a guest of this name can be made, by `migration` if one asks.
    pub(crate) fn check_name_free(
        &self,
        name: &str,
        migration: Option<&str>,
    ) -> Result<(), HostError> {
        if locked(&self.guests).contains_key(name) {
            return Err(HostError::Exists(name.to_owned()));
        }
        for other in self.migrations.all() {
            let prepared =
                other.receive.is_some_and(|receive| !receive.started && receive.spec.name == name);
            if prepared && migration != Some(other.id.as_str()) {
                return Err(HostError::Precondition(format!(
                    "guest name `{name}` is taken by the destination of migration `{}`; forget \
                     that migration or take another name",
                    other.id
                )));
            }
        }
        Ok(())
    }

    /// Whether there is room for a guest's memory, `twice` if it is kept as of T0 besides.
    pub(crate) fn check_memory_space(
        &self,
        spec: &GuestSpec,
        twice: bool,
    ) -> Result<(), HostError> {
        let shared = if spec.memory_shared { spec.ram_bytes() } else { 0 };
        let once = shared + spec.region_bytes();
        let needed = if twice { 2 * once } else { once };
        Ok(twin::check_space(&self.config.memory_dir, needed)?)
    }

    /// What QEMU says of its version; empty when it cannot be run.
    pub(crate) async fn qemu_version(&self) -> String {
        let binary = &self.config.qemu.binary;
        match tokio::process::Command::new(binary).arg("--version").output().await {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                let line = text.lines().next().unwrap_or_default();
                line.trim_start_matches("QEMU emulator version ").to_owned()
            }
            Err(error) => {
                warn!(binary, %error, "QEMU cannot be run");
                String::new()
            }
        }
    }
}

/// Run blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| HostError::Internal(error.to_string()))?
}
