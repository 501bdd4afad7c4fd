//! Source: the twin and later the diff go to the destination's host.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind, PageHashes,
    copy::{self, Progress, Sending, Sent, Source},
    diff::{Diff, Figures},
    kept::Kept,
    transport::{
        Dial,
        stream::{CONNECTING, CONNECTING_TLS},
    },
    twin,
};
use tracing::info;

use crate::{
    HostError,
    connections::ListedDial,
    data::{Choice, Chosen, cap_of},
    guest::State,
    inner::{Inner, blocking},
    migration::Side,
};

/// How a caller wants something sent; what it does not say is as configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// At most so many Mbit/s; 0: no limit.
    pub(crate) bandwidth_mbps: Option<u64>,
    pub(crate) transport: Option<Choice>,
}

/// The way it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    pub(crate) transport: String,
    pub(crate) reason: String,
    /// Of guest memory, that earlier attempts have brought over.
    pub(crate) resumed_bytes: u64,
}

impl Inner {
    /// Send everything captured; `report` hears of the progress.
    pub(crate) async fn send_twin(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
        mut report: impl FnMut(&Carried, Progress) + Send + 'static,
    ) -> Result<Sent, HostError> {
        let turn = self.migrations.turn(&id, Side::Source);
        let _turn = turn.lock().await;
        let (capture, taken) = self.migrations.capture(&id)?;
        let guest = self.guest(&capture.guest)?;
        let mut kinds = Vec::new();
        if capture.clone {
            kinds.extend([ObjectKind::Ram, ObjectKind::DeviceState]);
        }
        for region in &guest.record.spec.regions {
            if capture.clone || capture.regions.contains(&region.name) {
                kinds.push(ObjectKind::Region(region.name.clone()));
            }
        }
        let dir = self.twin_dir(&id);
        let inner = self.clone();
        blocking(move || {
            let path = |kind| (twin::path_of(&dir, &kind), kind);
            // RAM comes first, and the other objects are kept whole.
            if capture.clone
                && let Kept::Hashes(ram) = Kept::open(&dir, &ObjectKind::Ram)?
            {
                let others = kinds.into_iter().skip(1).map(path).collect();
                return inner.confirm_again(&id, &data_endpoint, ram, others, &mut report);
            }
            let files = kinds.into_iter().map(path).collect();
            let sent = inner.send_files(&id, &data_endpoint, files, &how, &mut report)?;
            if let (true, Some(ram)) = (capture.clone, sent.hashes.first()) {
                inner.keep_twin(&id, taken.ram_bytes, ram)?;
            }
            Ok(sent)
        })
        .await
    }

    /// Have a copy confirmed again of whose RAM only hashes are left.
    fn confirm_again(
        &self,
        id: &str,
        data_endpoint: &str,
        ram: PageHashes,
        others: Vec<(PathBuf, ObjectKind)>,
        report: &mut dyn FnMut(&Carried, Progress),
    ) -> Result<Sent, HostError> {
        let object = Object { kind: ObjectKind::Ram, size_bytes: ram.size_bytes() };
        let mut objects = vec![(object, Arc::new(ram))];
        for (path, kind) in others {
            let memory = Mapping::open(&path)?;
            let object = Object { kind, size_bytes: memory.size_bytes() };
            objects.push((object, Arc::new(PageHashes::of(&memory)?)));
        }
        info!(migration = id, to = data_endpoint, "having a copy confirmed again");
        let running = self.copies.begin(id, None);
        let dial = self.dial(id, data_endpoint)?;
        let sent = copy::confirm_again(&*dial, id, objects, &running.controls);
        let sent = sent.map_err(unreachable_at(data_endpoint))?;
        let way = Carried {
            transport: sent.path.clone(),
            reason: "nothing is sent: the destination's host has all of it".to_owned(),
            resumed_bytes: sent.progress.total_bytes,
        };
        report(&way, sent.progress);
        Ok(sent)
    }

    fn dial(&self, id: &str, data_endpoint: &str) -> Result<Arc<dyn Dial>, HostError> {
        Ok(Arc::new(ListedDial {
            dial: self.data.dial(data_endpoint)?,
            connections: self.connections.clone(),
            migration: id.to_owned(),
            listed: Mutex::default(),
        }))
    }

    /// Compare the paused source's regions with the twin and send what changed.
    pub(crate) async fn send_diff(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        how: How,
    ) -> Result<api::DiffReport, HostError> {
        let turns = [Side::Source, Side::DryRun].map(|side| self.migrations.turn(&id, side));
        let _turns = (turns[0].lock().await, turns[1].lock().await);
        let (capture, _) = self.migrations.capture(&id)?;
        let guest = self.guest(&capture.guest)?;
        if guest.state().await? == State::Running {
            return Err(HostError::Precondition(format!(
                "guest `{}` is running, its regions still change; pause it first",
                capture.guest
            )));
        }
        let inner = self.clone();
        blocking(move || {
            let (mut diff, mut total) = (Diff::default(), Figures::default());
            for name in &capture.regions {
                let kind = ObjectKind::Region(name.clone());
                let base = Mapping::open(&twin::path_of(&inner.twin_dir(&id), &kind))?;
                let now = Mapping::open(&guest.places.region(name))?;
                total += diff.compare(name, &base, &now)?;
            }
            let path = inner.migrations.dir(&id).join("diff.out");
            fs::write(&path, diff.encode()).map_err(HostError::file("write", &path))?;
            let files = vec![(path, ObjectKind::Diff)];
            let sent = inner.send_files(&id, &data_endpoint, files, &how, &mut |_, _| {})?;
            Ok(api::DiffReport {
                compared_bytes: total.compared_bytes,
                changed_bytes: total.changed_bytes,
                sent_bytes: sent.progress.sent_bytes,
                runs: total.runs,
            })
        })
        .await
    }

    /// Send files to another host; `report` hears of the progress.
    pub(crate) fn send_files(
        &self,
        id: &str,
        data_endpoint: &str,
        files: Vec<(PathBuf, ObjectKind)>,
        how: &How,
        report: &mut dyn FnMut(&Carried, Progress),
    ) -> Result<Sent, HostError> {
        let mut sources = Vec::new();
        for (path, kind) in files {
            let memory = Arc::new(Mapping::open(&path)?);
            let object = Object { kind, size_bytes: memory.size_bytes() };
            sources.push(Source { object, memory, hashes: None });
        }
        if sources.is_empty() {
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured nothing that could be sent: the guest has no regions"
            )));
        }
        let config = &self.config.data;
        let cap = cap_of(how.bandwidth_mbps.unwrap_or(config.bandwidth_mbps));
        let running = self.copies.begin(id, cap);
        let dial = self.dial(id, data_endpoint)?;
        let choice = how.transport.unwrap_or(config.transport);
        let bytes = sources.iter().map(|source| source.object.size_bytes).sum();
        let controls = &running.controls;
        let chosen = self.data.choose(choice, data_endpoint, bytes, &dial, controls)?;
        let Chosen { transports, reason } = chosen;
        let controls = running.controls.clone();
        let sending = Sending::begin(&*dial, id, sources, &transports, controls);
        let sending = sending.map_err(unreachable_at(data_endpoint))?;
        let way = Carried {
            transport: sending.path().to_owned(),
            reason,
            resumed_bytes: sending.resumed_bytes(),
        };
        let security = self.data.security();
        let Carried { transport, reason, resumed_bytes } = &way;
        info!(
            migration = id,
            to = data_endpoint,
            transport,
            reason,
            security,
            resumed_bytes,
            "sending"
        );
        Ok(sending.finish(&mut |progress| report(&way, progress))?)
    }
}

/// A host that could not be connected to is that, and not a copy that broke.
fn unreachable_at(data_endpoint: &str) -> impl FnOnce(MemoryError) -> HostError {
    move |error| match error {
        MemoryError::Connection { during: CONNECTING | CONNECTING_TLS, source } => {
            HostError::Unreachable { address: data_endpoint.to_owned(), source }
        }
        error => error.into(),
    }
}
