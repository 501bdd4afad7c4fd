//! The program itself: its configuration, its signals.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::{endpoint::connect, host as api, host::host_client::HostClient};

use super::rig::{Rig, spec};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate-hostd");

#[test]
fn an_unknown_key_ends_it_with_the_place() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("hostd.toml");
    fs::write(&path, "name = 'h'\nstate_dri = '/s'\n").expect("write");
    let output = Command::new(PROGRAM).arg("--config").arg(&path).output().expect("runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("unknown key `state_dri`") && said.contains("`state_dir`"), "{said}");
    assert!(said.contains("hostd.toml:2:1"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_daemon_and_not_its_guests() {
    let mut rig = Rig::new("h").await;
    rig.stop().await;
    let path = rig.dir.path().join("hostd.toml");
    let shown = |path: &std::path::Path| path.display().to_string();
    let text = format!(
        "name = 'h'\nstate_dir = '{}'\nmemory_dir = '{}'\ntwin_dir = '{}'\n[api]\nlisten = ['{}']\n",
        shown(&rig.config.state_dir),
        shown(&rig.config.memory_dir),
        shown(&rig.config.twin_dir),
        rig.config.api.listen[0]
    );
    fs::write(&path, text).expect("write");
    let mut daemon = tokio::process::Command::new(PROGRAM)
        .kill_on_drop(true)
        .arg("--config")
        .arg(&path)
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let endpoint = rig.config.api.listen[0].parse().expect("endpoint");
    let mut channel = connect(&endpoint).await;
    for _ in 0..200 {
        if channel.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        channel = connect(&endpoint).await;
    }
    let mut client = HostClient::new(channel.expect("answers"));
    let request = api::StartGuestRequest { spec: Some(spec("web")) };
    let before = client.start_guest(request).await.expect("guest starts").into_inner();
    drop(client);

    let pid = Pid::from_raw(daemon.id().expect("runs") as i32).expect("pid");
    kill_process(pid, Signal::TERM).expect("signalled");
    assert!(daemon.wait().await.expect("ended").success());
    rig.restart().await;
    let request = api::GetGuestRequest { name: "web".into() };
    let after = rig.client.get_guest(request).await.expect("known").into_inner();
    assert_eq!((after.state(), after.pid), (api::GuestState::Running, before.pid));
}
