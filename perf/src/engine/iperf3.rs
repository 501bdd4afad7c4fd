//! iperf3 over loopback: what TCP carries when nobody looks at the bytes.

use std::{net::TcpListener, process::Command, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use tidegate_lab::process::{self, Process};

use super::Place;
use crate::subject::peer::IPERF3;

const LISTENING: Duration = Duration::from_secs(10);

/// Bytes per second that `streams` streams carry in `window`, as the receiver counted them.
///
/// # Errors
/// When iperf3 is missing or fails.
pub fn rate(streams: usize, window: Duration) -> anyhow::Result<f64> {
    let program = IPERF3.find()?;
    let place = Place::new("iperf3")?;
    let port = free_port()?.to_string();
    let mut serving = Command::new(&program);
    serving.args(["--server", "--one-off", "--forceflush", "--bind", "127.0.0.1", "--port", &port]);
    let mut server = Process::start("iperf3-server", &mut serving, place.dir())?;
    server.wait_for("Server listening", LISTENING)?;
    let mut command = Command::new(&program);
    command.args(["--client", "127.0.0.1", "--port", &port, "--json"]);
    command.args(["--parallel", &streams.to_string()]);
    // Whole seconds only.
    command.args(["--time", &window.as_secs().max(1).to_string()]);
    received(&process::run(&mut command)?)
}

fn received(json: &str) -> anyhow::Result<f64> {
    let answer: Value = serde_json::from_str(json).context("read iperf3's answer")?;
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 does not say its rate: {}", answer["error"]))? / 8.0)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_counts() {
        let json = r#"{"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 8e9}}}"#;
        assert_eq!(received(json).expect("there"), 1e9);
        let error = received(r#"{"error": "unable to connect"}"#).expect_err("failed").to_string();
        assert!(error.contains("unable to connect"), "{error}");
    }
}
