//! `tidegate-manager`: see `--help`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use tidegate_manager::{config::Config, pace::Pace, server::Manager};
use tokio::signal::unix::{SignalKind, signal};

/// Drives migrations end to end. What runs is in the journal: stopped, it goes on where it was when started
/// again.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "manager.toml", default_value = "/etc/tidegate/manager.toml")]
    config: PathBuf,
    /// Run a host in this process, too.
    #[arg(long, value_name = "hostd.toml")]
    embedded_host: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let config = Config::load(&args.config)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;

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
    Ok(())
}
