//! The three APIs, asked one thing at a time.

use std::time::Duration;

use anyhow::Context as _;
use tidegate_api::{
    endpoint::{Endpoint, connect},
    host::{self, host_client::HostClient},
    manager::{self, manager_client::ManagerClient},
    switch::{self, switch_client::SwitchClient},
};
use tokio::runtime::Runtime;

use crate::{
    client::unix_us,
    drain_watch::{DrainWatch, Told},
};

/// How often the box is to say how many old sessions are left.
const DRAIN_INTERVAL_MS: u32 = 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Where to ask.
pub struct Api {
    runtime: Runtime,
    switch: Endpoint,
    manager: Endpoint,
    host: Endpoint,
}

impl Api {
    /// Endpoints as on the command line.
    ///
    /// # Errors
    /// When one is not an endpoint.
    pub fn new(switch: &str, manager: &str, host: &str) -> anyhow::Result<Self> {
        // A thread of its own, so that connections are closed when they are dropped, not at the next question.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        Ok(Self {
            runtime,
            switch: switch.parse()?,
            manager: manager.parse()?,
            host: host.parse()?,
        })
    }

    fn ask<T>(
        &self,
        what: &str,
        asking: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(LIMIT, asking).await });
        answer.with_context(|| format!("{what}: no answer in {LIMIT:?}"))?.context(what.to_owned())
    }

    /// State of the switch box.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn switch_status(&self) -> anyhow::Result<switch::Status> {
        self.ask("switch status", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            Ok(client.get_status(switch::GetStatusRequest {}).await?.into_inner())
        })
    }

    /// State of a managed address.
    ///
    /// # Errors
    /// When the box does not answer or does not know it.
    pub fn address(&self, address: &str) -> anyhow::Result<switch::Address> {
        self.ask("address", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            let request = switch::GetAddressRequest { address: address.to_owned() };
            Ok(client.get_address(request).await?.into_inner())
        })
    }

    /// All sessions of the box.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sessions(&self) -> anyhow::Result<Vec<switch::Session>> {
        self.ask("sessions", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            let request = switch::ListSessionsRequest::default();
            let mut stream = client.list_sessions(request).await?.into_inner();
            let mut sessions = Vec::new();
            while let Some(session) = stream.message().await? {
                sessions.push(session);
            }
            Ok(sessions)
        })
    }

    /// Counters of the box.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counters(&self) -> anyhow::Result<switch::Counters> {
        self.ask("counters", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            Ok(client.get_counters(switch::GetCountersRequest {}).await?.into_inner())
        })
    }

    /// A guest, if the host has it.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn guest(&self, name: &str) -> anyhow::Result<Option<host::Guest>> {
        self.ask("guests", async {
            let mut client = HostClient::new(connect(&self.host).await?);
            let list = client.list_guests(host::ListGuestsRequest {}).await?.into_inner();
            let has =
                |guest: &host::Guest| guest.spec.as_ref().is_some_and(|spec| spec.name == name);
            Ok(list.guests.into_iter().find(has))
        })
    }

    /// The sockets of a guest with this local address, by the guest's agent.
    ///
    /// # Errors
    /// When the host does not answer, or has no answer from the guest.
    pub fn sockets(&self, guest: &str, address: &str) -> anyhow::Result<Vec<host::Socket>> {
        self.ask("sockets", async {
            let mut client = HostClient::new(connect(&self.host).await?);
            let request = host::ListSocketsRequest {
                guest: guest.to_owned(),
                addresses: vec![address.to_owned()],
                source: host::SocketSource::Agent.into(),
            };
            let mut stream = client.list_sockets(request).await?.into_inner();
            let mut sockets = Vec::new();
            while let Some(socket) = stream.message().await? {
                sockets.push(socket);
            }
            Ok(sockets)
        })
    }

    /// Capture a guest this way, then forget it. With `audit`, the host compares the twin with the guest's memory before the guest
    /// goes on.
    ///
    /// # Errors
    /// When the host does not, or finds a difference.
    pub fn capture(
        &self,
        id: &str,
        guest: &str,
        way: host::CaptureWay,
        audit: bool,
    ) -> anyhow::Result<host::CaptureReport> {
        self.ask("capture", async {
            let mut client = HostClient::new(connect(&self.host).await?);
            let request = host::CaptureRequest {
                migration_id: id.to_owned(),
                guest: guest.to_owned(),
                clone: true,
                way: way.into(),
                audit,
                ..Default::default()
            };
            let report = client.capture(request).await?.into_inner();
            client.forget(host::ForgetRequest { migration_id: id.to_owned() }).await?;
            Ok(report)
        })
    }

    /// Have the box hold a port.
    ///
    /// # Errors
    /// When it does not.
    pub fn hold_port(&self, name: &str, deadline: Duration) -> anyhow::Result<()> {
        self.ask("hold", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            let deadline_ms = deadline.as_millis() as u32;
            let request = switch::HoldPortRequest { name: name.to_owned(), deadline_ms };
            client.hold_port(request).await?;
            Ok(())
        })
    }

    /// Have the box hold it no more: how many packets had to wait.
    ///
    /// # Errors
    /// When it does not.
    pub fn release_port(&self, name: &str) -> anyhow::Result<u64> {
        self.ask("release", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            let request = switch::ReleasePortRequest { name: name.to_owned() };
            Ok(client.release_port(request).await?.into_inner().held_packets)
        })
    }

    /// All migrations the manager knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn migrations(&self) -> anyhow::Result<Vec<manager::Migration>> {
        self.ask("migrations", async {
            let mut client = ManagerClient::new(connect(&self.manager).await?);
            let list = client.list_migrations(manager::ListMigrationsRequest {}).await?;
            Ok(list.into_inner().migrations)
        })
    }

    /// Follow the drain of a managed address by the box's own stream, until it ends.
    ///
    /// # Errors
    /// When the box does not answer, or the address is not being migrated.
    pub fn watch_drain(&self, address: &str) -> anyhow::Result<DrainWatch> {
        let mut stream = self.ask("drain", async {
            let mut client = SwitchClient::new(connect(&self.switch).await?);
            let address = address.to_owned();
            let request = switch::WatchMigrationRequest { address, interval_ms: DRAIN_INTERVAL_MS };
            Ok(client.watch_migration(request).await?.into_inner())
        })?;
        let watch = DrainWatch::default();
        let telling = watch.clone();
        self.runtime.spawn(async move {
            // A stream that breaks has not said drained, which shows.
            while let Ok(Some(event)) = stream.message().await {
                let state = event.state();
                telling.take(Told { at_us: unix_us(), state, old_sessions: event.old_sessions });
            }
        });
        Ok(watch)
    }
}
