//! `tidegate-manager`: see `--help`.
#![forbid(unsafe_code)]

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use tidegate_host::{Host, HostConfig};
use tidegate_manager::{config::Config, pace::Pace, peers::Inventory, server::Manager};
use tokio::signal::unix::{SignalKind, signal};

/// Drives migrations end to end. What runs is in the journal: stopped, it goes on where it was when started
/// again.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "manager.toml", default_value = "/etc/tidegate/manager.toml")]
    config: PathBuf,
    /// Run a host in this process, too; it needs no entry of its own in the configuration.
    #[arg(long, value_name = "hostd.toml")]
    embedded_host: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-manager: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();

    let mut config = Config::load(&args.config)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;

    // The host first: what the journal says is running may need it.
    let host = match &args.embedded_host {
        Some(path) => Some(embed(path, &mut config.inventory).await?),
        None => None,
    };
    let listen = config.listen.clone();
    let mut manager = Manager::start(config, Pace::default()).await?;
    for endpoint in listen {
        tracing::info!("serving on {endpoint}");
    }
    tokio::select! {
        failed = manager.failed() => failed?,
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
    }
    manager.stop().await?;
    if let Some(host) = host {
        host.shutdown().await;
    }
    Ok(())
}

async fn embed(path: &Path, inventory: &mut Inventory) -> anyhow::Result<Host> {
    let config = HostConfig::load(path)?;
    let name = config.name.clone();
    let host = Host::start(config).await?;
    let endpoint = host.endpoints().first().with_context(|| {
        format!("{}: [api] listen is empty; the manager reaches its host there", path.display())
    })?;
    inventory.embed(&name, endpoint.clone());
    Ok(host)
}
