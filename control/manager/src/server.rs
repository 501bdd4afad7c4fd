//! Running a manager: journal, migrations, listeners.

use std::time::Duration;

use tidegate_api::{
    FILE_DESCRIPTORS,
    endpoint::{EndpointError, Listener},
    manager::manager_server::ManagerServer,
};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::{
    config::Config, error::Error, journal::Journal, migrations::Migrations, pace::Pace,
    service::Service,
};

/// How long connections may take to end once the manager stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A manager that serves.
pub struct Manager {
    migrations: Migrations,
    servers: JoinSet<Result<(), EndpointError>>,
}

impl Manager {
    /// Open the journal, resume what it says is running, serve.
    ///
    /// # Errors
    /// [`Error::Journal`] and its kin, [`Error::Endpoint`] when a listener's address is taken.
    pub async fn start(config: Config, pace: Pace) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for endpoint in &config.listen {
            listeners.push(Listener::bind(endpoint).await?);
        }
        let journal = Journal::open(&config.state_dir)?;
        let migrations = Migrations::resume(journal, config.inventory, pace).await?;
        let mut servers = JoinSet::new();
        for listener in listeners {
            let stopping = migrations.clone();
            let routes = routes(&migrations).await;
            servers.spawn(listener.serve(routes, async move { stopping.stopping().await }));
        }
        Ok(Self { migrations, servers })
    }

    /// The migrations it drives.
    #[must_use]
    pub fn migrations(&self) -> &Migrations {
        &self.migrations
    }

    /// Stop: running migrations stay in the journal and go on at the next start.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when a listener had failed before.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.migrations.stop().await;
        let farewell = async {
            while let Some(served) = self.servers.join_next().await {
                if let Ok(served) = served {
                    served?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
    }

    /// Resolves when a listener fails, which it should not.
    ///
    /// # Errors
    /// [`Error::Endpoint`].
    pub async fn failed(&mut self) -> Result<(), Error> {
        match self.servers.join_next().await {
            Some(Ok(served)) => Ok(served?),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

async fn routes(migrations: &Migrations) -> Routes {
    let service = ManagerServer::new(Service::new(migrations.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<ManagerServer<Service>>().await;
    let routes = Routes::new(service).add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    match reflection {
        Ok(reflection) => routes.add_service(reflection),
        Err(error) => {
            tracing::error!("no reflection: {error}");
            routes
        }
    }
}
