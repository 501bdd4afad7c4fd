//! Callgrind: what a stage executes.

use std::{env, process::Command};

use anyhow::Context as _;

const VALGRIND: &str = "valgrind";
/// The function whose instructions are counted, as callgrind writes it.
const COUNTED: &str = "*stage::counted*";

/// Whether there is a valgrind.
///
/// # Errors
/// When it is not installed; names the package.
pub(crate) fn find() -> anyhow::Result<()> {
    let found = Command::new(VALGRIND).arg("--version").output();
    let found = found.context(
        "valgrind is not installed: install the Debian package valgrind (deploy/host/packages --with instructions)",
    )?;
    anyhow::ensure!(found.status.success(), "valgrind --version failed ({})", found.status);
    Ok(())
}

/// Instructions of a stage.
///
/// # Errors
/// When the stage fails, or nothing was counted.
pub(crate) fn instructions(stage: &str) -> anyhow::Result<f64> {
    let mut command = Command::new(VALGRIND);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(env::current_exe()?).args(["run", stage]);
    let output = command.output().context("start valgrind")?;
    let printed = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "stage {stage} failed:\n{printed}");
    let count = collected(&printed);
    count.with_context(|| format!("callgrind counted nothing in {COUNTED}:\n{printed}"))
}

/// The number in callgrind's last words; none when it is zero.
fn collected(printed: &str) -> Option<f64> {
    let line = printed.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok().filter(|&count| count > 0.0)
}

#[cfg(test)]
mod tests {
    use super::collected;

    #[test]
    fn nothing_counted_is_not_a_count() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 7200\n"), Some(7200.0));
        assert_eq!(collected("==1== Collected : 0\n"), None);
        assert_eq!(collected("==1== Collected : \n"), None);
        assert_eq!(collected(""), None);
    }
}
