//! `tidegate-instructions`: instructions per packet of the packet path's stages, counted by callgrind, so that a
//! regression shows whatever the machine's noise.
#![forbid(unsafe_code)]

mod callgrind;
mod counts;
mod stage;

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::{
    counts::{Counts, Recorded},
    stage::Stage,
};

/// Count instructions of the packet path's stages.
#[derive(Parser)]
#[command(name = "tidegate-instructions", version)]
struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Fail when a stage has grown by more than 3 % since it was recorded for this toolchain.
    Check,
    /// Record the counts for this toolchain.
    Record,
    /// Run a stage; what callgrind watches.
    #[command(hide = true)]
    Run { stage: Stage },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().order {
        Order::Check => check(),
        Order::Record => record(),
        Order::Run { stage } => stage.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn record() -> anyhow::Result<()> {
    callgrind::find()?;
    let mut recorded = Recorded::read()?;
    let counts = count()?;
    counts.iter().for_each(|(stage, count)| println!("{stage:<8} {count:>8.1}"));
    recorded.replace(toolchain()?, counts);
    recorded.write()
}

fn check() -> anyhow::Result<()> {
    callgrind::find()?;
    let recorded = Recorded::read()?;
    // Before counting: without it there is nothing to compare with.
    let before = recorded.of(&toolchain()?)?;
    counts::compare(before, &count()?)
}

fn count() -> anyhow::Result<Counts> {
    let packets = f64::from(stage::PACKETS);
    let count = |stage: &Stage| {
        let counted = callgrind::instructions(stage.name())? / packets;
        Ok((stage.name().to_owned(), (counted * 10.0).round() / 10.0))
    };
    Stage::ALL.iter().map(count).collect()
}

/// The compiler of this project and what it compiles for.
fn toolchain() -> anyhow::Result<String> {
    let mut rustc = Command::new("rustc");
    let output = rustc.arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let version = String::from_utf8_lossy(&output.context("start rustc")?.stdout).trim().to_owned();
    Ok(format!("{version} {}", std::env::consts::ARCH))
}
