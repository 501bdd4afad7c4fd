//! `tidegate-demo`: migrate real guests with sessions open, and check that nobody noticed.
#![forbid(unsafe_code)]

use std::{fs, net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tidegate_lab::{
    Mode, client,
    process::target_dir,
    report::{Report, Run},
    rig::Options,
    scenario,
    view::View,
};

/// Migrate real guests behind a switch box, with sessions open, and check that nothing was lost.
#[derive(Parser)]
#[command(name = "tidegate-demo", version)]
struct Arguments {
    /// Only this mode.
    #[arg(long)]
    mode: Option<ModeName>,
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    L2,
    Nat,
}

#[derive(Subcommand)]
enum Action {
    /// Be the clients: orders on standard input, reports on standard output.
    #[command(hide = true)]
    Client {
        /// Where the service is.
        service: SocketAddr,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Action::Client { service }) => client::serve(service).map(|()| true),
        None => demo(arguments.mode),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Run each mode; whether all was well.
fn demo(only: Option<ModeName>) -> anyhow::Result<bool> {
    let out = target_dir()?.join("demo");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let modes: &[Mode] = match only {
        None => &[Mode::L2, Mode::Nat],
        Some(ModeName::L2) => &[Mode::L2],
        Some(ModeName::Nat) => &[Mode::Nat],
    };
    let mut view = View::new();
    let mut report = Report { result: "completed", runs: Vec::new() };
    let logs = out.join("logs");
    let path = out.join("report.json");
    // What an earlier run left would mislead.
    let _ = fs::remove_dir_all(&logs);
    let _ = fs::remove_file(&path);
    for mode in modes {
        let mut run = Run::default();
        let ended = scenario::run(&Options::new(*mode), &mut view, &logs, &mut run);
        if let Err(error) = &ended {
            view.say(&format!("FAILED {}: {error:#}", mode.name()));
        }
        if ended.is_err() || !run.is_clean() {
            report.result = "failed";
            if logs.exists() {
                view.say(&format!("logs are in {}", logs.display()));
            }
        }
        report.runs.push(run);
    }
    report.write(&path)?;
    view.say(&format!("{}; report in {}", report.result, path.display()));
    Ok(report.result == "completed")
}
