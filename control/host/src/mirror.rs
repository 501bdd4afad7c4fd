//! Destination: it becomes the source's image.

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use tidegate_memory::{Mapping, ObjectKind, image_digest, twin};
use tracing::{debug, info};

use crate::{
    HostError,
    guest::{Guest, Start},
    image::memory_files,
    inner::{Inner, blocking},
    migration::{Receive, Side},
    qemu::Places,
    records,
    spec::{Disk, GuestSpec},
};

/// What applying an image came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) applied_bytes: u64,
    pub(crate) digest: String,
}

/// What a guest that goes on as its source has from it.
pub(crate) struct AsSource {
    pub(crate) generation_id: String,
    pub(crate) identity: String,
    pub(crate) disks: Vec<Disk>,
}

/// Where T0 is kept beside what a clone runs on.
fn t0_dir(places: &Places) -> PathBuf {
    places.memory.join("t0")
}

impl Inner {
    /// Take the room that a clone's memory will need, so that nobody else can have it.
    pub(crate) async fn reserve(&self, receive: &Receive) -> Result<(), HostError> {
        let places = self.places_of(&receive.spec.name);
        let (spec, keep_t0) = (receive.spec.clone(), receive.keep_t0);
        blocking(move || {
            let reserved = reserve(&places, &spec, keep_t0);
            if reserved.is_err() {
                // The first error is the one to report.
                let _ = records::remove_dir(&places.memory);
            }
            reserved
        })
        .await
    }

    /// Keep T0 as it arrived: the clone is about to change it.
    pub(crate) async fn keep_t0(&self, receive: &Receive) -> Result<(), HostError> {
        let places = self.places_of(&receive.spec.name);
        let spec = receive.spec.clone();
        blocking(move || {
            let dir = t0_dir(&places);
            // Its room was reserved until now.
            records::remove_dir(&dir)?;
            twin::Prepared::new(&dir, &memory_files(&spec, &places), 0)?.fill()?;
            // The image is written into it.
            for (kind, _) in &memory_files(&spec, &places) {
                twin::reserve(&twin::path_of(&dir, kind))?;
            }
            Ok(())
        })
        .await
    }

    /// The memory that becomes a source's, as it was mapped before, or mapped now.
    pub(crate) fn memory_becoming(
        &self,
        id: &str,
        spec: &GuestSpec,
    ) -> Result<Arc<Vec<(ObjectKind, Mapping)>>, HostError> {
        let files = becoming(spec, &self.places_of(&spec.name));
        match self.becoming.of(id, &files) {
            Some(memory) => Ok(memory),
            None => Ok(self.becoming.keep(id, mapped(files)?)),
        }
    }

    /// Map it, and look at it, before there is a hurry.
    pub(crate) fn warm_up(self: &Arc<Self>, id: &str, spec: &GuestSpec) {
        let (inner, id, spec) = (self.clone(), id.to_owned(), spec.clone());
        tokio::task::spawn_blocking(move || {
            let looked_at = || -> Result<(), HostError> {
                let memory = inner.memory_becoming(&id, &spec)?;
                if inner.migrations.receive(&id).is_err() {
                    // Forgotten meanwhile.
                    inner.becoming.forget(&id);
                }
                memory.iter().try_for_each(|(_, mapping)| Ok(mapping.look_at_data()?))
            };
            if let Err(error) = looked_at() {
                // What needs it will say so, or not.
                debug!(migration = id, %error, "memory was not looked at");
            }
        });
    }

    /// Make the destination the image that arrived, and answer what that came to. It stands afterwards.
    pub(crate) async fn apply_image(
        self: &Arc<Self>,
        id: &str,
        digest: &str,
        as_source: AsSource,
    ) -> Result<Applied, HostError> {
        let turn = self.migrations.turn(id, Side::Destination);
        let _turn = turn.lock().await;
        let _making = self.making.lock().await;
        let receive = self.migrations.receive(id)?;
        let name = receive.spec.name.clone();
        let there = self.guest(&name).ok().filter(|guest| guest.is_alive());
        if let (Some(applied), Some(_)) = (&receive.image_applied, &there)
            && applied.digest == digest
        {
            return Ok(applied.clone());
        }
        if !receive.started || !receive.image_arrived {
            return Err(HostError::Precondition(format!(
                "no image has arrived for destination `{name}` of migration `{id}`; start the destination, then send \
                 the image"
            )));
        }
        let dir = self.migrations.dir(id);
        let places = self.places_of(&name);
        let waiting = match there {
            Some(guest) if guest.awaits_state().await? => Some(guest),
            _ => None,
        };
        if waiting.is_none() && self.guest(&name).is_ok() {
            // A clone that served until now, or one that has loaded a state before.
            self.delete_guest(&name, false).await?;
        }
        let spec = receive.spec.clone();
        blocking(move || restore_t0(&places, &spec)).await?;
        let guest = match waiting {
            Some(guest) => guest,
            None => {
                let AsSource { generation_id, identity, disks } = as_source;
                let spec = GuestSpec { generation_id, identity, disks, ..receive.spec.clone() };
                self.boot(spec, self.places_of(&name), Start::Incoming).await?
            }
        };
        let state = Receive::final_device_state(&dir);
        let began = Instant::now();
        let loaded = self.load_devices(&state, &guest, true).await;
        let load_ms = began.elapsed().as_millis() as u64;
        let loaded = match loaded {
            Ok(()) => self.whole(id, &guest, digest).await,
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            // Its memory is no image of anything, and its process may have changed it.
            self.delete_guest(&name, false).await?;
            return Err(error);
        }
        let applied = Applied { applied_bytes: receive.image_bytes, digest: digest.to_owned() };
        self.migrations.update_receive(id, |receive| {
            receive.image_applied = Some(applied.clone());
        })?;
        let digest_ms = began.elapsed().as_millis() as u64 - load_ms;
        info!(
            migration = id,
            guest = name,
            digest,
            load_ms,
            digest_ms,
            "the destination is the source's image"
        );
        Ok(applied)
    }

    /// See that a guest's memory, to which nothing more will be written before it runs, is what it should be.
    async fn whole(
        self: &Arc<Self>,
        id: &str,
        guest: &Arc<Guest>,
        expected: &str,
    ) -> Result<(), HostError> {
        let (inner, id, spec) = (self.clone(), id.to_owned(), guest.record.spec.clone());
        let found = blocking(move || {
            let memory = inner.memory_becoming(&id, &spec)?;
            Ok(image_digest::digest(&borrowed(&memory))?)
        });
        let found = found.await?;
        if found == expected {
            return Ok(());
        }
        Err(HostError::NotAnImage {
            guest: guest.name().to_owned(),
            found,
            expected: expected.to_owned(),
        })
    }
}

fn reserve(places: &Places, spec: &GuestSpec, keep_t0: bool) -> Result<(), HostError> {
    let files = memory_files(spec, places);
    let t0 = t0_dir(places);
    let dirs = [Some(&places.memory), keep_t0.then_some(&t0)];
    for dir in dirs.into_iter().flatten() {
        fs::create_dir_all(dir).map_err(HostError::file("create", dir))?;
        for (kind, path) in &files {
            let size_bytes = match kind {
                ObjectKind::Region(name) => {
                    let region = spec.regions.iter().find(|region| region.name == *name);
                    region.map_or(0, |region| region.size_bytes)
                }
                _ => spec.ram_bytes(),
            };
            let path = if dir == &t0 { twin::path_of(dir, kind) } else { path.clone() };
            twin::allocate(&path, size_bytes)?;
        }
    }
    Ok(())
}

/// The files of the memory that becomes the source's: T0's, where it is kept beside what a clone runs on.
fn becoming(spec: &GuestSpec, places: &Places) -> Vec<(ObjectKind, PathBuf)> {
    let mut files = memory_files(spec, places);
    for (kind, path) in &mut files {
        let t0 = twin::path_of(&t0_dir(places), kind);
        if t0.exists() {
            *path = t0;
        }
    }
    files
}

/// Put what was kept beside what a clone ran on, and has become the source's since, in its place. Doing it again changes nothing.
fn restore_t0(places: &Places, spec: &GuestSpec) -> Result<(), HostError> {
    for (kind, path) in &memory_files(spec, places) {
        let t0 = twin::path_of(&t0_dir(places), kind);
        if t0.exists() {
            fs::rename(&t0, path).map_err(HostError::file("restore", path))?;
        }
    }
    Ok(())
}

/// Files, mapped.
fn mapped(files: Vec<(ObjectKind, PathBuf)>) -> Result<Vec<(ObjectKind, Mapping)>, HostError> {
    files.into_iter().map(|(kind, path)| Ok((kind, Mapping::open(&path)?))).collect()
}

/// Borrowed, as the engine takes it.
fn borrowed(memory: &[(ObjectKind, Mapping)]) -> Vec<(ObjectKind, &Mapping)> {
    memory.iter().map(|(kind, mapping)| (kind.clone(), mapping)).collect()
}
