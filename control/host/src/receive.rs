//! What other hosts send: twins for destinations to be started from, diffs, and images.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_memory::{
    Object, ObjectKind,
    copy::{
        Landing, Place, Received,
        image::{Becoming, MAX_DEVICE_STATE_BYTES},
    },
    image_diff::Applied,
    merge, twin,
};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    HostError,
    connections::Listed,
    inner::Inner,
    migration::{Receive, Side},
    spec::GuestSpec,
};

/// Take connections from other hosts until `stop` changes.
pub(crate) async fn listen(
    listener: TcpListener,
    inner: Arc<Inner>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => match stream.into_std() {
                Ok(stream) => drop(tokio::task::spawn_blocking({
                    let inner = inner.clone();
                    move || serve(stream, peer, &inner)
                })),
                Err(error) => warn!(%peer, %error, "connection lost"),
            },
            Err(error) => {
                warn!(%error, "no connection from other hosts can be accepted now");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

fn serve(socket: TcpStream, peer: SocketAddr, inner: &Inner) {
    // Listed first: whoever is in the middle of a handshake must be cut at the end, too.
    let accepted = inner
        .connections
        .list_incoming(&socket)
        .and_then(|listed| Ok((listed, inner.data.accept(socket)?)));
    let (listed, stream) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return warn!(%peer, %error, "connection from another host was not taken"),
    };
    match inner.data.receiver.serve(stream, &Host { inner, listed }) {
        Ok(Some(Received { migration, digest, path, .. })) => {
            info!(%peer, migration, digest, transport = path, "memory arrived");
        }
        // A data stream, of which its copy tells, or an image.
        Ok(None) => {}
        Err(error) => warn!(%peer, %error, "memory from another host was not taken"),
    }
}

/// Decides what may arrive on one connection.
struct Host<'a> {
    inner: &'a Inner,
    listed: Listed,
}

impl Landing for Host<'_> {
    fn admit(&self, migration: &str) -> Result<(), String> {
        // Not known and not well formed are the same: it was not prepared.
        let prepared = self.inner.migrations.receive(migration).is_ok();
        if !prepared {
            return Err(format!("migration `{}` was not prepared here", migration.escape_debug()));
        }
        if !self.listed.is_for(migration) {
            return Err(format!("memory of migration `{migration}` is arriving already"));
        }
        Ok(())
    }

    fn place(&self, migration: &str, objects: &[Object]) -> Result<Place, String> {
        let text = |error: HostError| error.to_string();
        let migrations = &self.inner.migrations;
        if let [Object { kind: ObjectKind::DryRun, size_bytes }] = objects {
            // Nobody's turn: it changes nothing.
            check_diff(&migrations.receive(migration).map_err(text)?, *size_bytes)?;
            let file = Receive::dry_run(&migrations.dir(migration));
            let (file, ledger) = (aside(&file), file.with_extension("ledger"));
            return Ok(Place { files: vec![file], ledger, zeros: false });
        }
        let turn = migrations.turn(migration, Side::Destination);
        let Ok(_turn) = turn.try_lock() else {
            return Err(format!("the destination of migration `{migration}` is being worked on"));
        };
        let receive = migrations.receive(migration).map_err(text)?;
        let dir = migrations.dir(migration);
        if let [Object { kind: ObjectKind::Diff, size_bytes }] = objects {
            check_diff(&receive, *size_bytes)?;
            if merge::has_begun(&dir).map_err(|error| error.to_string())? {
                return Err("the merge has begun, its diff cannot be replaced".to_owned());
            }
            let (file, ledger) = (aside(&Receive::diff(&dir)), dir.join("diff.ledger"));
            return Ok(Place { files: vec![file], ledger, zeros: false });
        }
        check_twin(&receive, objects)?;
        // Until all of it is confirmed again.
        let begin = |receive: &mut Receive| (receive.arrived, receive.begun) = (None, true);
        migrations.update_receive(migration, begin).map_err(text)?;
        let places = self.inner.places_of(&receive.spec.name);
        fs::create_dir_all(&places.memory)
            .map_err(|error| format!("cannot create {}: {error}", places.memory.display()))?;
        let path = |object: &Object| match &object.kind {
            ObjectKind::Ram => places.ram(),
            ObjectKind::Region(name) => places.region(name),
            ObjectKind::DeviceState | ObjectKind::Diff | ObjectKind::DryRun => {
                Receive::device_state(&dir)
            }
        };
        let files = objects.iter().map(path).collect();
        // As they were made by PrepareReceive, if nothing has arrived yet.
        Ok(Place { files, ledger: Receive::twin_ledger(&dir), zeros: !receive.begun })
    }

    fn arrived(&self, received: &Received) -> Result<(), String> {
        let kept = self.keep(received).map_err(|error| error.to_string());
        self.listed.is_through();
        kept
    }

    fn becoming(&self, migration: &str, _last: bool) -> Result<Becoming, String> {
        let text = |error: HostError| error.to_string();
        let migrations = &self.inner.migrations;
        let turn = migrations.turn(migration, Side::Destination);
        let Ok(_turn) = turn.try_lock() else {
            return Err(format!("the destination of migration `{migration}` is being worked on"));
        };
        let receive = migrations.receive(migration).map_err(text)?;
        check_becoming(&receive)?;
        // What arrived before is void.
        let begin = |receive: &mut Receive| receive.image_arrived = false;
        migrations.update_receive(migration, begin).map_err(text)?;
        let memory = self.inner.memory_becoming(migration, &receive.spec).map_err(text)?;
        let device_state = Receive::final_device_state(&migrations.dir(migration));
        Ok(Becoming { memory, device_state })
    }

    fn became(&self, migration: &str, last: bool, applied: &Applied) -> Result<(), String> {
        if last {
            let arrived = |receive: &mut Receive| {
                (receive.image_arrived, receive.image_bytes) = (true, applied.bytes);
            };
            let migrations = &self.inner.migrations;
            migrations.update_receive(migration, arrived).map_err(|error| error.to_string())?;
        }
        info!(migration, last, bytes = applied.bytes, "an image arrived");
        self.listed.is_through();
        Ok(())
    }
}

impl Host<'_> {
    fn keep(&self, received: &Received) -> Result<(), HostError> {
        let (id, migrations) = (&received.migration, &self.inner.migrations);
        let dir = migrations.dir(id);
        let keep =
            |path: PathBuf| fs::rename(aside(&path), &path).map_err(HostError::file("keep", &path));
        if received.objects.iter().any(|object| object.kind == ObjectKind::DryRun) {
            return keep(Receive::dry_run(&dir));
        }
        if received.objects.iter().any(|object| object.kind == ObjectKind::Diff) {
            keep(Receive::diff(&dir))?;
            return migrations.update_receive(id, |receive| receive.diff_arrived = true);
        }
        let places = self.inner.places_of(&migrations.receive(id)?.spec.name);
        for object in &received.objects {
            // What was left out as zeros must have room before a guest writes it.
            match &object.kind {
                ObjectKind::Region(name) => twin::reserve(&places.region(name))?,
                ObjectKind::Ram => twin::reserve(&places.ram())?,
                ObjectKind::DeviceState | ObjectKind::Diff | ObjectKind::DryRun => {}
            }
        }
        if is_ram_alone(&received.objects) {
            return Ok(());
        }
        let digest = received.digest.clone();
        migrations.update_receive(id, |receive| receive.arrived = Some(digest))
    }
}

/// Whether a destination's memory may become its source's.
fn check_becoming(receive: &Receive) -> Result<(), String> {
    let name = &receive.spec.name;
    if !receive.clone || !receive.started {
        return Err(format!("the destination `{name}` is no clone that was started"));
    }
    if !receive.keep_t0 && !receive.awaits_image {
        return Err(format!(
            "the destination `{name}` neither awaits an image nor is T0 kept beside what it runs on; start it with await_image"
        ));
    }
    if receive.image_applied.is_some() {
        return Err(format!("the destination `{name}` is the source's image already"));
    }
    Ok(())
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// More than any diff of these regions can have. Its densest form, one changed word between unchanged ones that are too many
/// to coalesce, takes less than four times what it describes.
fn most_diff_bytes(region_bytes: u64) -> u64 {
    region_bytes.saturating_mul(4).saturating_add(64 * 1024)
}

fn check_diff(receive: &Receive, size_bytes: u64) -> Result<(), String> {
    let most = most_diff_bytes(receive.spec.region_bytes());
    if size_bytes > most {
        return Err(format!(
            "a diff of {size_bytes} bytes is more than the regions of `{}` can have, {most} bytes",
            receive.spec.name
        ));
    }
    if !receive.started {
        return Err(format!("the destination `{}` was not started yet", receive.spec.name));
    }
    Ok(())
}

/// A twin must be exactly what the destination needs.
fn check_twin(receive: &Receive, objects: &[Object]) -> Result<(), String> {
    let name = &receive.spec.name;
    if receive.started {
        return Err(format!("the destination `{name}` was started already"));
    }
    for object in objects {
        let expected = expected_bytes(&receive.spec, receive.clone, &object.kind);
        let fits = match object.kind {
            ObjectKind::DeviceState => {
                expected.is_some() && object.size_bytes <= MAX_DEVICE_STATE_BYTES
            }
            _ => expected == Some(object.size_bytes),
        };
        if !fits {
            let expected =
                expected.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes"));
            return Err(format!(
                "{} of {} bytes does not fit destination `{name}`, which takes {expected}",
                object.kind, object.size_bytes
            ));
        }
    }
    let has = |kind: &ObjectKind| objects.iter().any(|object| object.kind == *kind);
    if is_ram_alone(objects) {
        // It comes while it is captured; the rest follows.
        return Ok(());
    }
    for kind in [ObjectKind::Ram, ObjectKind::DeviceState] {
        if receive.clone && !has(&kind) {
            return Err(format!("destination `{name}` is a clone and needs the {kind}"));
        }
    }
    for region in &receive.spec.regions {
        let kind = ObjectKind::Region(region.name.clone());
        if receive.clone && !has(&kind) {
            return Err(format!("destination `{name}` is a clone and needs {kind}"));
        }
    }
    Ok(())
}

fn is_ram_alone(objects: &[Object]) -> bool {
    matches!(objects, [Object { kind: ObjectKind::Ram, .. }])
}

fn expected_bytes(spec: &GuestSpec, clone: bool, kind: &ObjectKind) -> Option<u64> {
    match kind {
        ObjectKind::Ram => clone.then(|| spec.ram_bytes()),
        ObjectKind::DeviceState => clone.then_some(MAX_DEVICE_STATE_BYTES),
        ObjectKind::Region(name) => {
            let region = spec.regions.iter().find(|region| region.name == *name);
            region.map(|region| region.size_bytes)
        }
        ObjectKind::Diff | ObjectKind::DryRun => None,
    }
}
