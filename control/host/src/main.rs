//! `tidegate-hostd`: one hypervisor host's guests and their memory.
#![forbid(unsafe_code)]

use std::{io::IsTerminal as _, path::PathBuf};

use clap::Parser;
use tidegate_host::{Host, HostConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Starts, captures, copies and merges QEMU guests on this host.
#[derive(Parser)]
#[command(name = "tidegate-hostd", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "HOSTD.TOML")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> miette::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = HostConfig::load(&arguments.config)?;
    let host = Host::start(config).await.map_err(|error| miette::miette!("{error}"))?;
    stop_asked().await.map_err(|error| miette::miette!("cannot wait for signals: {error}"))?;
    host.shutdown().await;
    Ok(())
}

async fn stop_asked() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
