//! Serving the gRPC interface on every endpoint, with health and reflection.

use std::{fs, path::PathBuf, time::Duration};

use tidegate_api::{
    FILE_DESCRIPTORS,
    endpoint::{Endpoint, EndpointError, Listener},
    switch::switch_server::SwitchServer,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::service::Routes;

use crate::service::SwitchService;

/// Requests that are being answered have this long to end once the box stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why the interface could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An endpoint failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The descriptors are damaged.
    #[error("reflection cannot be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The bound endpoints.
pub struct Server {
    listeners: Vec<Listener>,
    endpoints: Vec<Endpoint>,
    sockets: Sockets,
}

/// Files of Unix sockets, removed however serving ends.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            // A server that ended in order has removed it already.
            let _ = fs::remove_file(path);
        }
    }
}

impl Server {
    /// Bind every endpoint.
    ///
    /// # Errors
    /// [`ServerError::Endpoint`] for the first that is taken or not permitted.
    pub async fn bind(endpoints: &[Endpoint]) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let mut sockets = Sockets(Vec::new());
        for endpoint in endpoints {
            listeners.push(Listener::bind(endpoint).await?);
            if let Endpoint::Unix(path) = endpoint {
                sockets.0.push(path.clone());
            }
        }
        Ok(Self { listeners, endpoints: endpoints.to_vec(), sockets })
    }

    /// Where it can be reached: as configured, with the port the system chose where that was 0.
    pub fn endpoints(&self) -> impl Iterator<Item = String> {
        let bound = |(listener, endpoint): (&Listener, &Endpoint)| match listener.local_addr() {
            Some(address) => address.to_string(),
            None => endpoint.to_string(),
        };
        self.listeners.iter().zip(&self.endpoints).map(bound)
    }

    /// Serve until `stopping` becomes true, or an endpoint fails.
    ///
    /// # Errors
    /// [`ServerError`] of the endpoint that failed.
    pub async fn serve(
        self,
        service: SwitchService,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        let routes = routes(service).await?;
        let mut servers = JoinSet::new();
        for listener in self.listeners {
            let mut stopping = stopping.clone();
            let shutdown = async move {
                // A sender that is gone means stop, too.
                let _ = stopping.wait_for(|stopping| *stopping).await;
            };
            servers.spawn(listener.serve(routes.clone(), shutdown));
        }
        let mut stop = stopping;
        // Without the guard that `wait_for` gives: it must not be held across an await.
        let stop = async move { drop(stop.wait_for(|stopping| *stopping).await) };
        let served = tokio::select! {
            served = first_failure(&mut servers) => served,
            () = stop => match timeout(GRACE, first_failure(&mut servers)).await {
                Ok(served) => served,
                Err(_) => {
                    tracing::warn!("clients kept their streams open; closing them");
                    Ok(())
                }
            },
        };
        servers.shutdown().await;
        drop(self.sockets);
        served
    }
}

async fn first_failure(
    servers: &mut JoinSet<Result<(), EndpointError>>,
) -> Result<(), ServerError> {
    while let Some(ended) = servers.join_next().await {
        match ended {
            Ok(served) => served?,
            Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => {}
        }
    }
    Ok(())
}

async fn routes(service: SwitchService) -> Result<Routes, ServerError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SwitchServer<SwitchService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(SwitchServer::new(service))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // Older grpcurl asks for this one.
        .add_service(reflection().build_v1alpha()?))
}
