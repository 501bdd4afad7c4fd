//! `tidegated` itself: what it prints, how it ends. Ports are DPDK's null and missing devices, without hugepages.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tidegate_api::{
    endpoint::{Endpoint, connect},
    switch::{self as proto, switch_client::SwitchClient},
};

use crate::testbox::PATIENCE;

fn tidegated(config: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegated"));
    command.arg("--config").arg(config).args(more).env_remove("TIDEGATE_LOG");
    command
}

fn write(folder: &Path, device: &str) -> std::path::PathBuf {
    let path = folder.join("tidegated.toml");
    let socket = folder.join("tidegated.sock");
    let text = format!(
        r#"
[eal]
hugepages = false
memory_mib = 64
[routes]
table = "map"
[api]
listen = ["unix:{}", "127.0.0.1:0"]
[workers]
sessions = 1024
[[port]]
name = "uplink"
device = "{device}"
addresses = ["10.9.0.1/24"]
role = "uplink"
[[address]]
address = "10.8.0.100"
home = {{ name = "blue", port = "uplink", mac = "02:00:00:00:08:0b", rewrite = "l2" }}
"#,
        socket.display()
    );
    std::fs::write(&path, text).expect("written");
    path
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_valid_or_what_is_wrong() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(folder.path(), "net_null0");
    let output = tidegated(&path, &["--check"]).output().expect("runs");
    let (out, err) = text(&output);
    assert!(
        output.status.success() && out.contains("valid; 1 ports, 1 managed addresses"),
        "{out}{err}"
    );

    std::fs::write(&path, "[api]\nlisten = []\n  lisen = 3\n").expect("written");
    let output = tidegated(&path, &["--check"]).output().expect("runs");
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("tidegated.toml:3:3: unknown key `lisen`; allowed here: `listen`"),
        "{err}"
    );

    let output = tidegated(&folder.path().join("none.toml"), &["--check"]).output().expect("runs");
    let (_, err) = text(&output);
    assert!(output.status.code() == Some(1) && err.contains("none.toml"), "{err}");
}

#[test]
fn a_port_that_does_not_open_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(folder.path(), "net_nosuchdriver0");
    let output = tidegated(&path, &[]).output().expect("runs");
    let (out, err) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    for words in ["port `uplink`", "`net_nosuchdriver0`", "check the device string"] {
        assert!(err.contains(words), "`{words}` in: {err}");
    }
    assert!(!out.contains("ready"), "{out}");
    assert!(!folder.path().join("tidegated.sock").exists(), "nothing is left behind");
}

#[tokio::test]
async fn serves_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(folder.path(), "net_null0");
    let mut child = Stopped(
        tidegated(&path, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs"),
    );
    let mut line = String::new();
    let read = BufReader::new(child.0.stdout.take().expect("piped")).read_line(&mut line);
    if !line.contains("ready") {
        let mut err = String::new();
        let _ = child.0.stderr.take().expect("piped").read_to_string(&mut err);
        panic!("not ready: {read:?} {line} {err}");
    }
    let socket = folder.path().join("tidegated.sock");
    let mut client =
        SwitchClient::new(connect(&Endpoint::Unix(socket.clone())).await.expect("connected"));
    let status = client.get_status(proto::GetStatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.workers, status.ports[0].name.as_str()), (1, "uplink"));
    assert!(status.dpdk_version.starts_with("DPDK"), "{}", status.dpdk_version);
    let tcp = line.trim_end().rsplit(' ').next().expect("the last endpoint");
    let tcp = connect(&tcp.parse().expect("an endpoint")).await.expect("connected");
    let mut client = SwitchClient::new(tcp);
    let request = proto::TakeoverRequest { address: "10.8.0.100".into() };
    assert!(client.takeover(request).await.expect("taken over").into_inner().hosted);

    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    let started = Instant::now();
    let ended = loop {
        if let Some(ended) = child.0.try_wait().expect("waited") {
            break ended;
        }
        assert!(started.elapsed() < PATIENCE, "it stops when told to");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(ended.code(), Some(0));
    assert!(!socket.exists(), "the socket is removed");
}

/// A child that does not outlive a failed test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
