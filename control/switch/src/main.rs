//! `tidegated`: the switch box daemon.
//!
//! Logs go to stderr, each level to one audience: `error` for whoever is on call, `warn` for whoever looks after the
//! box, `info` is its diary (what was asked of it and what came of it), `debug` and `trace` are for its developers.
#![forbid(unsafe_code)]

mod workers;

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use tidegate_api::endpoint::Endpoint;
use tidegate_switch::{
    config::{self, Config},
    core::{AddressReport, Core, CoreError, CoreThread},
    kernel::{self, Mirror, MirroredPort},
    server::Server,
    service::{BoxInfo, SwitchService},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

/// The switch box: hosts the addresses of machines that move, and keeps every session with its owner.
#[derive(Parser)]
#[command(name = "tidegated", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// What is logged: error, warn, info, debug, trace, or by module as in info,tidegate_switch=debug.
    #[arg(long, value_name = "FILTER", env = "TIDEGATE_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegated: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)
        .with_context(|| format!("--log {} is not a filter", arguments.log))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .init();
    let config = config::load(&arguments.config)?;
    if arguments.check {
        let (ports, addresses) = (config.ports.len(), config.addresses.len());
        println!(
            "{}: valid; {ports} ports, {addresses} managed addresses",
            arguments.config.display()
        );
        return Ok(());
    }
    for endpoint in config.listen.iter().filter(|endpoint| !is_local(endpoint)) {
        tracing::warn!(%endpoint, "whoever reaches this endpoint controls the box: it has no authentication");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // From here on a signal is not lost, however long the ports take to open.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let server = runtime.block_on(Server::bind(&config.listen))?;

    let (dataplane, network) = workers::start(&config)?;
    let (twins, mirrored) = kernel::interfaces(&config);
    kernel::set_up(&twins)?;
    let info = BoxInfo {
        dpdk_version: tidegate_dpdk::dpdk_version(),
        sessions_capacity: config.workers.sessions,
    };
    let core = Core::new(dataplane, network, config.addresses.iter().cloned())?;
    let mut core = CoreThread::start(core).context("no thread for the control core")?;
    follow_kernel(&core, &mirrored)?;
    let (stop, stopping) = watch::channel(false);
    let service = SwitchService::new(core.handle(), info, stopping.clone());
    announce_ready(&server, &config);
    let served = runtime.block_on(async {
        let serving = server.serve(service, stopping);
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            name = signals.next() => tracing::info!(signal = name, "stopping"),
            () = core.ended() => tracing::error!("the control core has ended; stopping"),
        }
        // The servers have the other end until they have stopped.
        let _ = stop.send(true);
        serving.await
    });
    // A core that has ended has said why.
    if let Ok(addresses) =
        runtime.block_on(core.handle().call(|core| Ok::<_, CoreError>(core.addresses())))
    {
        addresses.iter().for_each(warn_of_migration);
    }
    runtime.shutdown_background();
    // Workers stop when they are dropped, after the last request.
    drop(core.stop().context("the control core panicked; its message is above")?);
    tracing::info!("stopped");
    served.map_err(Into::into)
}

/// Have the core act on what the kernel knows of routes and neighbours.
fn follow_kernel(core: &CoreThread, ports: &[MirroredPort]) -> anyhow::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let handle = core.handle();
    let tell = move |changes| handle.tell(move |core| core.follow_kernel(changes));
    let mirror = Mirror::start(ports, tell)?;
    core.handle().tell(|core| core.attach_kernel(mirror));
    Ok(())
}

/// Tell whoever started the box, a person or a script, that it answers now.
fn announce_ready(server: &Server, config: &Config) {
    let endpoints = server.endpoints().collect::<Vec<_>>().join(", ");
    let (workers, ports) = (config.workers.cpus.len(), config.ports.len());
    tracing::info!(endpoints, workers, ports, "ready");
    // Nobody reading is no reason to fail.
    let _ = writeln!(std::io::stdout(), "tidegated is ready on {endpoints}");
}

/// Tell what the end of this process means to an address that is being migrated.
fn warn_of_migration(report: &AddressReport) {
    let Some(target) = &report.address.destination else { return };
    tracing::warn!(
        address = %report.address.address,
        state = %report.address.state(),
        source = report.address.home.spec.name,
        source_sessions = report.home_sessions,
        destination = target.placed.spec.name,
        destination_sessions = report.destination_sessions,
        "stopped in the middle of a migration; start tidegated again: sessions of the source go on, those of \
         the destination are cut, and the manager aborts",
    );
}

/// Whether only this machine can reach the endpoint.
fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp(authority) => {
            let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// The signals that end the box.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
