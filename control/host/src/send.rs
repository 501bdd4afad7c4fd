//! Source: the twin and later the diff go to the destination's host.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind,
    copy::{Progress, Sending, Sent, Source, Window},
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
    data::{Choice, Chosen, Running, cap_of},
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) transport: String,
    pub(crate) reason: String,
    /// Of guest memory, that earlier attempts have brought over.
    pub(crate) resumed_bytes: u64,
}

/// A copy that was begun. It is listed, and can be capped and ended, as long as this lives.
pub(crate) struct Begun {
    sending: Sending,
    way: Carried,
    pub(crate) running: Running,
    _dial: Arc<dyn Dial>,
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
            // RAM comes first, and only of it there may be no more than hashes.
            let mut sources = Vec::new();
            for kind in kinds {
                let kept = Kept::open(&dir, &kind)?;
                sources.push(source(kind, kept));
            }
            let begun = inner.begin_copy(&id, &data_endpoint, sources, &how)?;
            let sent = begun.finish(&mut report)?;
            if let (true, Some(ram)) = (capture.clone, sent.hashes.first()) {
                inner.keep_twin(&id, taken.ram_bytes, ram)?;
            }
            Ok(sent)
        })
        .await
    }

    pub(crate) fn dial(&self, id: &str, data_endpoint: &str) -> Result<Arc<dyn Dial>, HostError> {
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
            sources.push(source(kind, Kept::Bytes(Mapping::open(&path)?)));
        }
        self.begin_copy(id, data_endpoint, sources, how)?.finish(report)
    }

    /// The most that is sent of a copy, unless SetBandwidth says another.
    pub(crate) fn cap_bytes_per_second(&self, how: &How) -> Option<u64> {
        cap_of(how.bandwidth_mbps.unwrap_or(self.config.data.bandwidth_mbps))
    }

    /// Begin a copy to another host. What has no bytes here goes over TCP, and so does the rest then.
    pub(crate) fn begin_copy(
        &self,
        id: &str,
        data_endpoint: &str,
        sources: Vec<Source>,
        how: &How,
    ) -> Result<Begun, HostError> {
        if sources.is_empty() {
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured nothing that could be sent: the guest has no regions"
            )));
        }
        let config = &self.config.data;
        let running = self.copies.begin(id, self.cap_bytes_per_second(how));
        let dial = self.dial(id, data_endpoint)?;
        let only_tcp = sources.iter().any(|source| source.memory.is_none());
        let wanted = how.transport.unwrap_or(config.transport);
        let choice = if only_tcp { Choice::TCP } else { wanted };
        let total_bytes: u64 = sources.iter().map(|source| source.object.size_bytes).sum();
        let controls = &running.controls;
        let chosen = self.data.choose(choice, data_endpoint, total_bytes, &dial, controls)?;
        let Chosen { transports, reason } = chosen;
        let controls = running.controls.clone();
        let sending = Sending::begin(&*dial, id, sources, &transports, controls);
        let sending = sending.map_err(unreachable_at(data_endpoint))?;
        let reason = match only_tcp {
            false => reason,
            true if sending.resumed_bytes() == total_bytes => {
                "nothing is sent: the destination's host has all of it".to_owned()
            }
            true => "RAM of which only hashes are here goes straight".to_owned(),
        };
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
        Ok(Begun { sending, way, running, _dial: dial })
    }
}

impl Begun {
    /// Send what goes through a window, as the first of the copy's objects, and commit it.
    pub(crate) fn forward(self, window: &Window) -> Result<Sent, MemoryError> {
        let Self { mut sending, way, running, _dial } = self;
        let mut report = |progress| running.tell(&way, window.progress(progress));
        window.forward(&mut sending, 0, &mut report)?;
        sending.finish(&mut report)
    }

    /// Send what the copy has.
    pub(crate) fn finish(
        self,
        report: &mut dyn FnMut(&Carried, Progress),
    ) -> Result<Sent, HostError> {
        let Self { sending, way, running, _dial } = self;
        Ok(sending.finish(&mut |progress| {
            running.tell(&way, progress);
            report(&way, progress);
        })?)
    }
}

/// What a copy reads of an object.
fn source(kind: ObjectKind, kept: Kept) -> Source {
    match kept {
        Kept::Bytes(memory) => {
            let object = Object { kind, size_bytes: memory.size_bytes() };
            Source { object, memory: Some(Arc::new(memory)), hashes: None }
        }
        Kept::Hashes(hashes) => {
            let object = Object { kind, size_bytes: hashes.size_bytes() };
            Source { object, memory: None, hashes: Some(Arc::new(hashes)) }
        }
    }
}

/// A host that could not be connected to is that, and not a copy that broke.
pub(crate) fn unreachable_at(data_endpoint: &str) -> impl FnOnce(MemoryError) -> HostError {
    move |error| match error {
        MemoryError::Connection { during: CONNECTING | CONNECTING_TLS, source } => {
            HostError::Unreachable { address: data_endpoint.to_owned(), source }
        }
        error => error.into(),
    }
}
