//! Source: the twin and later the diff go to the destination's host.

use std::{
    fs,
    net::{TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tidegate_api::host as api;
use tidegate_memory::{
    Mapping, Object, ObjectKind,
    diff::{Diff, Figures},
    send::{Progress, Sent, send},
    twin,
};

use crate::{
    HostError,
    guest::State,
    inner::{Inner, blocking},
    migration::Side,
};

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Send everything captured; `report` hears of the progress.
    pub(crate) async fn send_twin(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
        report: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Sent, HostError> {
        let turn = self.migrations.turn(&id, Side::Source);
        let _turn = turn.lock().await;
        let (capture, _) = self.migrations.capture(&id)?;
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
        let files = kinds.into_iter().map(|kind| (twin::path_of(&dir, &kind), kind)).collect();
        let inner = self.clone();
        blocking(move || inner.send_files(&id, &data_endpoint, files, report)).await
    }

    /// Compare the paused source's regions with the twin and send what changed.
    pub(crate) async fn send_diff(
        self: &Arc<Self>,
        id: String,
        data_endpoint: String,
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
            let sent = inner.send_files(&id, &data_endpoint, files, |_| {})?;
            Ok(api::DiffReport {
                compared_bytes: total.compared_bytes,
                changed_bytes: total.changed_bytes,
                sent_bytes: sent.progress.sent_bytes,
                runs: total.runs,
            })
        })
        .await
    }

    pub(crate) fn send_files(
        &self,
        id: &str,
        data_endpoint: &str,
        files: Vec<(PathBuf, ObjectKind)>,
        mut report: impl FnMut(Progress),
    ) -> Result<Sent, HostError> {
        let mut objects = Vec::new();
        for (path, kind) in files {
            let mapping = Mapping::open(&path)?;
            objects.push((Object { kind, size_bytes: mapping.size_bytes() }, mapping));
        }
        if objects.is_empty() {
            return Err(HostError::Precondition(format!(
                "migration `{id}` captured nothing that could be sent: the guest has no regions"
            )));
        }
        let stream = connect(data_endpoint)?;
        let _listed = self.connections.list(&stream, Some(id)).map_err(|source| {
            HostError::Unreachable { address: data_endpoint.to_owned(), source }
        })?;
        Ok(send(&stream, id, &objects, &mut report)?)
    }
}

fn connect(address: &str) -> Result<TcpStream, HostError> {
    let unreachable = |source| HostError::Unreachable { address: address.to_owned(), source };
    let mut last = std::io::Error::other("the name has no address");
    for candidate in address.to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&candidate, CONNECT_PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}
