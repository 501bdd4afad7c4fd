//! `tidegate-bench`: measures the packet path and the memory engine beside their peers and says which targets are met.
#![forbid(unsafe_code)]

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tidegate_lab::process::target_dir;
use tidegate_perf::{
    bench::{BENCHES, Bench, Context},
    capture,
    engine::copies,
    machine::{self, CONTROL_CPU, Machine},
    plot::{Curve, svg},
    result::{self, Metric},
    samples::Samples,
    target,
};

/// Measure the packet path and the memory engine beside their peers. Run it as `make bench`: it needs the lab's namespaces and hugepages.
#[derive(Parser)]
#[command(name = "tidegate-bench", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    order: Option<Order>,
    /// Only these benches, or those of a group (packet-path, memory), or those that give a metric.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Windows of each subject; medians are of these.
    #[arg(long, value_name = "N", default_value_t = 7)]
    runs: usize,
    /// Length of a window, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    window_ms: u64,
    /// Succeed also when a target is missed.
    #[arg(long)]
    no_gate: bool,
    /// List benches, their metrics and targets, and exit.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Order {
    /// Write a capture, for other tools; the same options give the same file.
    Capture(capture::Options),
    /// Take copies of memory from `links`.
    #[command(hide = true)]
    Receive(copies::Receiving),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.order {
        Some(Order::Capture(options)) => write_capture(options).map(|()| true),
        Some(Order::Receive(options)) => copies::receive(options).map(|()| true),
        None if arguments.list => {
            list();
            Ok(true)
        }
        None => run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_capture(options: &capture::Options) -> anyhow::Result<()> {
    let capture = options.capture();
    capture.write_file(options.output())?;
    println!(
        "{}: {} packets of {} sessions",
        options.output().display(),
        capture.packets,
        capture.sessions_met()
    );
    Ok(())
}

fn list() {
    for bench in BENCHES {
        println!("{} ({}): {}", bench.name, bench.group, bench.about);
        for &metric in bench.metrics {
            let target = target::of(metric).map_or_else(String::new, |it| it.bound.to_string());
            println!("  {metric:<28} {target}");
        }
    }
}

/// Run what is asked for. True when nothing failed and every target is met, or is not to be.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    anyhow::ensure!(arguments.runs > 0, "--runs 0 measures nothing");
    let chosen = chosen(&arguments.only)?;
    anyhow::ensure!(
        std::env::var_os("TIDEGATE_LAB").is_some(),
        "run it in the lab, which has namespaces and hugepages of its own and ends all it starts: make bench"
    );
    let out = target_dir()?.join("bench");
    let (dir, captures) = (out.join("run"), out.join("captures"));
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let window = Duration::from_millis(arguments.window_ms);
    let machine = Machine::probe()?;
    // What is started inherits it, unless it asks for another CPU: workers do.
    machine::pin(CONTROL_CPU)?;
    let context = Context { runs: arguments.runs, window, captures, dir, machine };

    let (mut metrics, mut curves, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for bench in chosen {
        eprintln!("{}: {}", bench.name, bench.about);
        match (bench.run)(&context) {
            Ok(outcome) => {
                metrics.extend(outcome.metrics);
                curves.extend(outcome.curves);
            }
            Err(error) => {
                eprintln!("{}: {error:#}", bench.name);
                let note = format!("not measured: {error:#}");
                metrics.extend(bench.metrics.iter().map(|&name| {
                    Metric::alone(name, "", Samples::default()).note(first_line(&note))
                }));
                failed.push(bench.name);
            }
        }
        // After each bench, so that an interrupted run leaves what it has.
        let revision = machine::revision(Path::new(env!("CARGO_MANIFEST_DIR")))?;
        result::write(&out, &context.machine, &revision, arguments.runs, &metrics, &curves)?;
        plots(&out, &curves)?;
    }
    print!("{}", result::table(&metrics));
    println!("written: {}", out.join("results.json").display());
    if !failed.is_empty() {
        eprintln!("tidegate-bench: failed: {}", failed.join(", "));
    }
    let missed = metrics.iter().filter(|metric| metric.met() == Some(false)).count();
    if missed > 0 {
        eprintln!("tidegate-bench: {missed} targets missed");
    }
    Ok(failed.is_empty() && (missed == 0 || arguments.no_gate))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Benches named, of a group named, or giving a metric that is named; all when nothing is.
fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Bench>> {
    let is_meant = |bench: &Bench, name: &String| {
        [bench.name, bench.group].contains(&name.as_str()) || bench.metrics.contains(&name.as_str())
    };
    for name in only {
        anyhow::ensure!(
            BENCHES.iter().any(|bench| is_meant(bench, name)),
            "there is no bench, group or metric `{name}`; tidegate-bench --list shows them"
        );
    }
    let wanted = |bench: &&Bench| only.is_empty() || only.iter().any(|name| is_meant(bench, name));
    Ok(BENCHES.iter().filter(wanted).collect())
}

/// One file for each plot.
fn plots(out: &Path, curves: &[Curve]) -> anyhow::Result<()> {
    let mut names: Vec<_> = curves.iter().map(|curve| curve.plot).collect();
    names.dedup();
    for name in names {
        let of: Vec<_> = curves.iter().filter(|curve| curve.plot == name).collect();
        let title = format!("{}: {}", name.replace('-', " "), of[0].unit);
        let path = out.join(format!("{name}.svg"));
        fs::write(&path, svg(&title, &of)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
