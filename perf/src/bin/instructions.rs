//! `tidegate-instructions`: instructions per packet of the stages, counted by callgrind, so that a regression shows
//! whatever the machine's noise.
//!
//! A stage is run twice, for some bursts and for twice as many; the difference is the stage's alone, without set-up.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tidegate_dataplane::{packet::parse_ipv4, pipeline::BURST};
use tidegate_perf::{
    frame::{self, Kind, SMALLEST},
    memory::{
        shard::Bench,
        tables::{Ours, Table as _},
    },
    random::Random,
};

const SESSIONS: u32 = 10_000;
const BURSTS: u32 = 500;
/// Growth that is a failure.
const MOST_GROWTH: f64 = 0.03;

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
    Run { stage: Stage, bursts: u32 },
}

/// A part of the packet path.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stage {
    /// Reading the headers.
    Parse,
    /// Looking sessions up, in stages.
    Find,
    /// All stages, of segments of sessions that exist.
    Burst,
    /// All stages, of SYNs that begin sessions.
    New,
}

/// Instructions per packet by stage.
type Counts = BTreeMap<String, f64>;

fn main() -> ExitCode {
    let done = match Arguments::parse().order {
        Order::Check => check(),
        Order::Record => record(),
        Order::Run { stage, bursts } => run(stage, bursts),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(stage: Stage, bursts: u32) -> anyhow::Result<()> {
    let mut random = Random::new(1);
    let mut clients = || std::array::from_fn::<u32, BURST, _>(|_| random.below(SESSIONS));
    match stage {
        Stage::Parse => {
            let frame = frame::build(1, Kind::ACK, SMALLEST);
            for _ in 0..bursts * BURST as u32 {
                anyhow::ensure!(parse_ipv4(black_box(&frame)).is_ok(), "the frame is well formed");
            }
        }
        Stage::Find => {
            let mut table = Ours::filled(SESSIONS)?;
            for _ in 0..bursts {
                anyhow::ensure!(table.lookup(&clients()) == BURST as u32, "all are there");
            }
        }
        Stage::Burst => {
            let mut bench = Bench::new(SESSIONS)?;
            bench.fill(0..SESSIONS)?;
            for _ in 0..bursts {
                bench.segments(&clients());
            }
            bench.sent()?;
        }
        Stage::New => {
            // Room for the larger run in both, so that set-up is the same.
            let mut bench = Bench::new(SESSIONS + 2 * BURSTS * BURST as u32)?;
            bench.fill(0..SESSIONS)?;
            for burst in 0..bursts {
                let first = SESSIONS + burst * BURST as u32;
                bench.syns(&std::array::from_fn(|at| first + at as u32));
            }
            bench.sent()?;
        }
    }
    Ok(())
}

fn count() -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for stage in Stage::value_variants() {
        let name = stage.to_possible_value().context("a stage has a name")?.get_name().to_owned();
        let once = instructions(&name, BURSTS)?;
        let twice = instructions(&name, 2 * BURSTS)?;
        let packets = f64::from(BURSTS) * BURST as f64;
        counts.insert(name, ((twice - once) / packets * 10.0).round() / 10.0);
    }
    Ok(counts)
}

/// What callgrind counts for a stage.
fn instructions(stage: &str, bursts: u32) -> anyhow::Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(env::current_exe()?).args(["run", stage, &bursts.to_string()]);
    let output = command.output().context(
        "valgrind is not installed: install the Debian package valgrind (deploy/host/packages --with bench)",
    )?;
    let printed = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "stage {stage} failed:\n{printed}");
    let count =
        printed.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.with_context(|| format!("callgrind did not say how many instructions:\n{printed}"))
}

fn recorded_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

fn recorded() -> anyhow::Result<BTreeMap<String, Counts>> {
    let file = recorded_file();
    if !file.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))
}

/// The compiler of this project and what it compiles for.
fn toolchain() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("--version")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("start rustc")?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("{version} {}", env::consts::ARCH))
}

fn record() -> anyhow::Result<()> {
    let mut all = recorded()?;
    let counts = count()?;
    counts.iter().for_each(|(stage, count)| println!("{stage:<8} {count:>8.1}"));
    all.insert(toolchain()?, counts);
    fs::write(recorded_file(), serde_json::to_string_pretty(&all)? + "\n")?;
    Ok(())
}

fn check() -> anyhow::Result<()> {
    let toolchain = toolchain()?;
    let all = recorded()?;
    let before = all.get(&toolchain).with_context(|| {
        format!("nothing is recorded for {toolchain}: run make record-instructions and commit perf/instructions.json")
    })?;
    let mut grown = Vec::new();
    for (stage, now) in count()? {
        let was = *before.get(&stage).with_context(|| {
            format!("stage {stage} is not recorded: run make record-instructions")
        })?;
        let growth = now / was - 1.0;
        println!(
            "{stage:<8} {now:>8.1} instructions per packet, {was:.1} recorded, {:+.1} %",
            growth * 100.0
        );
        if growth > MOST_GROWTH {
            grown.push(stage);
        }
    }
    anyhow::ensure!(
        grown.is_empty(),
        "more than 3 % more instructions in: {}; if that is meant, run make record-instructions and say why in the commit",
        grown.join(", ")
    );
    Ok(())
}
