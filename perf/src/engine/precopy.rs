//! QEMU's own pre-copy: two QEMUs, a Unix socket between them, the guest runs while it is moved.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tidegate_guest_service::REWRITING;
use tidegate_lab::process::{Process, wait_until};

use super::{
    Place,
    guest::{Image, Workload},
    qmp::Qmp,
    silence::Listening,
};
use crate::subject::peer::QEMU;

/// Filling memory under TCG takes long on a busy machine.
const BOOT: Duration = Duration::from_secs(180);
/// A move that takes longer does not end.
const LONGEST: Duration = Duration::from_secs(240);
/// Bytes per second: more than loopback carries. Without a word, QEMU's cap is 128 MiB/s.
const NO_CAP: u64 = 100 << 30;
const POLL: Duration = Duration::from_millis(20);

/// What it took, as `query-migrate` says.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Bytes of memory sent, with what the stream needs for them (`ram.transferred`).
    pub bytes: f64,
    /// From the order until the destination could run (`total-time`).
    pub total_ms: f64,
    /// How long no side ran, at the end (`downtime`).
    pub downtime_ms: f64,
    /// The strongest brake auto-converge put on the guest.
    pub throttle_percent: u64,
    /// The longest time in which nothing was heard of the guest.
    pub silence_ms: f64,
    /// All time in which the guest was kept from running.
    pub lost_ms: f64,
}

struct Qemu {
    process: Process,
    monitor: Qmp,
    console: PathBuf,
}

impl Qemu {
    /// With what our hosts' guests have, but for the file their RAM is in: QEMU's own memory is its best case.
    fn start(
        name: &str,
        workload: &Workload,
        dir: &Path,
        incoming: Option<&str>,
    ) -> anyhow::Result<Self> {
        let (program, image) = (QEMU.find()?, Image::find()?);
        let (console, socket) =
            (dir.join(format!("{name}-console.log")), dir.join(format!("{name}.qmp")));
        let mut command = Command::new(program);
        command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"]);
        command.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-device",
            "vmgenid,guid=auto",
        ]);
        command.args(["-m", &format!("{}M", workload.memory_mib)]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.arg("-kernel").arg(image.kernel).arg("-initrd").arg(image.initrd);
        command.args(["-append", &workload.cmdline()]);
        if let Some(from) = incoming {
            command.args(["-incoming", from]);
        }
        let mut process = Process::start(name, &mut command, dir)?;
        let monitor = Qmp::connect(&socket, &mut process)?;
        Ok(Self { process, monitor, console })
    }

    /// How it is, for an error.
    fn said(&mut self) -> String {
        let name = self.console.display();
        let ended = self.process.ended().ok().flatten();
        let ended = ended.map_or_else(|| "runs".to_owned(), |status| format!("ended ({status})"));
        format!("QEMU of {name} {ended}\n{}\n", self.process.printed())
    }

    fn state(&mut self) -> anyhow::Result<String> {
        let answer = self.monitor.execute("query-status", &json!({}))?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }
}

/// Start a guest, let it begin to rewrite, and move it. `cap` is the bandwidth in bytes per second; QEMU does not
/// keep to it while the guest stands, at the end.
///
/// # Errors
/// When it is not moved.
pub fn migrate(workload: &Workload, cap: Option<u64>) -> anyhow::Result<Moved> {
    let place = Place::new("precopy")?;
    let uri = format!("unix:{}", place.dir().join("migration").display());
    let mut source = Qemu::start("source", workload, place.dir(), None)?;
    wait_until("the guest rewrites its memory", BOOT, || {
        let printed = std::fs::read_to_string(&source.console).unwrap_or_default();
        if let Some(status) = source.process.ended()? {
            anyhow::bail!("QEMU ended ({status}):\n{}{printed}", source.process.printed());
        }
        Ok(printed.contains(REWRITING).then_some(()))
    })?;
    let mut destination = Qemu::start("destination", workload, place.dir(), Some(&uri))?;
    let moved = order(&mut source, &mut destination, &uri, cap);
    moved.with_context(|| format!("{}{}", source.said(), destination.said()))
}

fn order(
    source: &mut Qemu,
    destination: &mut Qemu,
    uri: &str,
    cap: Option<u64>,
) -> anyhow::Result<Moved> {
    let converge = json!({ "capability": "auto-converge", "state": true });
    let converge = json!({ "capabilities": [converge] });
    source.monitor.execute("migrate-set-capabilities", &converge)?;
    source
        .monitor
        .execute("migrate-set-parameters", &json!({ "max-bandwidth": cap.unwrap_or(NO_CAP) }))?;
    let listening = Listening::to(source.console.clone());
    listening.and_to(destination.console.clone());
    source.monitor.execute("migrate", &json!({ "uri": uri }))?;
    let moved = completed(&mut source.monitor)?;
    let (left, reached) = (source.state()?, destination.state()?);
    // Not longer: under TCG, pre-copy loses writes of a busy guest (ARCHITECTURE.md), which may end a moment later.
    let heard = listening.end(Duration::from_millis(20));
    anyhow::ensure!(
        left == "postmigrate" && reached == "running",
        "QEMU says it moved the guest, but the source is `{left}`, the destination `{reached}`"
    );
    Ok(Moved { silence_ms: heard.longest_ms(None), lost_ms: heard.lost_ms(), ..moved })
}

fn completed(monitor: &mut Qmp) -> anyhow::Result<Moved> {
    let until = Instant::now() + LONGEST;
    let mut throttle_percent = 0;
    loop {
        let answer = monitor.execute("query-migrate", &json!({}))?;
        throttle_percent =
            throttle_percent.max(answer["cpu-throttle-percentage"].as_u64().unwrap_or(0));
        match answer["status"].as_str() {
            Some("completed") => return moved(&answer, throttle_percent),
            Some("failed" | "cancelled") => anyhow::bail!("QEMU's pre-copy failed: {answer}"),
            _ if Instant::now() > until => {
                anyhow::bail!("QEMU's pre-copy did not end in {LONGEST:?}: {answer}")
            }
            _ => thread::sleep(POLL),
        }
    }
}

fn moved(answer: &Value, throttle_percent: u64) -> anyhow::Result<Moved> {
    let number = |value: &Value, name: &str| {
        value[name].as_f64().with_context(|| format!("QEMU does not say `{name}`: {answer}"))
    };
    Ok(Moved {
        bytes: number(&answer["ram"], "transferred")?,
        total_ms: number(answer, "total-time")?,
        downtime_ms: number(answer, "downtime")?,
        throttle_percent,
        silence_ms: 0.0,
        lost_ms: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_qemus_own() {
        let answer = json!({
            "status": "completed", "total-time": 35_012, "downtime": 297,
            "ram": { "transferred": 4_400_000_000_u64, "total": 1 }
        });
        let moved = moved(&answer, 90).expect("all is there");
        assert_eq!((moved.bytes, moved.total_ms, moved.downtime_ms), (4.4e9, 35_012.0, 297.0));
        let error = super::moved(&json!({ "ram": {} }), 0).expect_err("nothing is there");
        assert!(error.to_string().contains("`transferred`"), "{error}");
    }
}
