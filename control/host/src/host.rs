//! A running host.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tidegate_api::{
    FILE_DESCRIPTORS,
    endpoint::{Endpoint, Listener},
    host::host_server::HostServer,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use tonic::service::Routes;
use tracing::{error, info, warn};

use crate::{HostConfig, HostError, budget::Keep, inner::Inner, receive, service::Service};

/// Connections have this long to end once the host stops.
const GRACE: Duration = Duration::from_secs(2);

/// A running host: its data listener, and its gRPC service on the configured endpoints.
///
/// Guests outlive it; the next one started with the same `state_dir` takes them over.
pub struct Host {
    inner: Arc<Inner>,
    endpoints: Vec<Endpoint>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
}

impl Host {
    /// Take over guests and migrations from `state_dir`, undo what a crash interrupted, and listen.
    ///
    /// # Errors
    /// [`HostError`] when a directory, a record or an address cannot be used.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        let refused = |source| HostError::Listen { address: config.data.listen.clone(), source };
        let data = TcpListener::bind(&config.data.listen).await.map_err(refused)?;
        let bound = data.local_addr().map_err(refused)?;
        let data_endpoint = advertised(&config, bound)?;
        let mut listeners = Vec::new();
        for text in &config.api.listen {
            let endpoint: Endpoint = text.parse()?;
            listeners.push((Listener::bind(&endpoint).await?, endpoint));
        }
        let inner = Arc::new(Inner::load(config, data_endpoint)?);
        recover(&inner).await;

        let (stop, stopped) = watch::channel(false);
        let mut host = Self { inner, endpoints: Vec::new(), stop, servers: JoinSet::new() };
        let listening = receive::listen(data, host.inner.clone(), stopped.clone());
        host.servers.spawn(listening);
        for (listener, endpoint) in listeners {
            let endpoint =
                listener.local_addr().map_or(endpoint, |addr| Endpoint::Tcp(addr.to_string()));
            info!(%endpoint, "serving");
            host.endpoints.push(endpoint);
            let (routes, mut stopped) = (host.routes().await, stopped.clone());
            host.servers.spawn(async move {
                let shutdown = async move { drop(stopped.changed().await) };
                if let Err(error) = listener.serve(routes, shutdown).await {
                    error!(%error, "the service ended");
                }
            });
        }
        let security = host.inner.data.security();
        info!(data = host.inner.data_endpoint, security, "host started");
        Ok(host)
    }

    /// Where the gRPC service listens, with the ports that were chosen.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Where other hosts send memory.
    #[must_use]
    pub fn data_endpoint(&self) -> &str {
        &self.inner.data_endpoint
    }

    /// The service with health and reflection, for whoever serves it in the same process.
    pub async fn routes(&self) -> Routes {
        let (health, served) = tonic_health::server::health_reporter();
        health.set_serving::<HostServer<Service>>().await;
        let mut routes =
            Routes::new(HostServer::new(Service(self.inner.clone()))).add_service(served);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
            .build_v1();
        match reflection {
            Ok(reflection) => routes = routes.add_service(reflection),
            Err(error) => error!(%error, "no reflection"),
        }
        routes
    }

    /// Stop listening, cut transfers, finish what was begun on guests; clients that stay connected are not waited
    /// for. Guests go on.
    pub async fn shutdown(mut self) {
        // All receivers may be gone already.
        let _ = self.stop.send(true);
        self.inner.copies.cancel_all("the host is stopping");
        self.inner.connections.cut_all();
        // However long it takes: in the middle of a capture or a merge a guest is paused.
        *self.inner.stopping.write().await = true;
        let ended = async {
            while let Some(ended) = self.servers.join_next().await {
                if let Err(error) = ended {
                    error!(%error, "a task did not end well");
                }
            }
        };
        if timeout(GRACE, ended).await.is_err() {
            warn!("clients kept their connections open; they are not waited for");
            self.servers.shutdown().await;
        }
        info!("host stopped");
    }
}

fn advertised(config: &HostConfig, bound: SocketAddr) -> Result<String, HostError> {
    match &config.data.advertise {
        Some(address) => Ok(address.clone()),
        None if bound.ip().is_unspecified() => Err(HostError::Invalid {
            field: "[data] advertise",
            reason: format!(
                "is needed, as `listen` is {bound}: say which address other hosts connect to"
            ),
        }),
        None => Ok(bound.to_string()),
    }
}

/// A source must not stay paused because this program was killed during its capture.
async fn recover(inner: &Inner) {
    for migration in inner.migrations.all() {
        let id = &migration.id;
        if migration.capture.as_ref().is_some_and(|it| it.kept == Some(Keep::Hashes)) {
            inner.recover_kept(id);
        }
        if let Some(capture) = migration.capture.filter(|capture| capture.taken.is_none())
            && let Err(error) = inner.recover_capture(id, &capture).await
        {
            error!(migration = id, %error, "an interrupted capture could not be undone");
        }
        if let Some(receive) = migration.receive.filter(|receive| receive.merge_paused.is_some())
            && let Err(error) = inner.recover_merge(id, &receive).await
        {
            error!(migration = id, %error, "an interrupted merge could not be looked after");
        }
    }
}
