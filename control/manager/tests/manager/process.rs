//! The program itself: its configuration's mistakes, and SIGTERM.

use std::{path::Path, process::Output, time::Duration};

use tidegate_api::{
    endpoint::{Endpoint, connect},
    host::GuestState,
    manager::{self as proto, MigrationState, manager_client::ManagerClient},
    switch::AddressState,
};
use tokio::process::{Child, Command};

use crate::fakes::{Lab, order};

fn program(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-manager"));
    command.arg("--config").arg(config).kill_on_drop(true);
    command
}

fn configuration(lab: &Lab) -> String {
    let directory = lab.directory.path().display();
    format!(
        "state_dir = \"{directory}/state\"\n[api]\nlisten = [\"unix:{directory}/m.sock\"]\n\
         [[switch]]\nname = \"edge\"\nendpoint = \"unix:{directory}/edge.sock\"\n\
         [[host]]\nname = \"h1\"\nendpoint = \"unix:{directory}/h1.sock\"\n\
         [[host]]\nname = \"h2\"\nendpoint = \"unix:{directory}/h2.sock\"\n"
    )
}

async fn ends(config: &Path) -> (Output, String) {
    let ended = tokio::time::timeout(Duration::from_secs(10), program(config).output()).await;
    let output = ended.expect("it ends").expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, message)
}

async fn client(lab: &Lab) -> ManagerClient<tonic::transport::Channel> {
    let endpoint = Endpoint::Unix(lab.directory.path().join("m.sock"));
    for _ in 0..500 {
        if let Ok(channel) = connect(&endpoint).await {
            return ManagerClient::new(channel);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the manager does not serve");
}

async fn terminate(mut manager: Child) {
    let pid = manager.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
    assert!(sent.success());
    let ended = tokio::time::timeout(Duration::from_secs(10), manager.wait()).await;
    assert!(ended.expect("it ends").expect("status").success());
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_pointed_at() {
    let lab = Lab::new().await;
    let config = lab.directory.path().join("manager.toml");
    std::fs::write(&config, configuration(&lab).replacen("endpoint", "endpiont", 1))
        .expect("write");
    let (output, message) = ends(&config).await;
    assert_eq!(output.status.code(), Some(1));
    let place = format!("tidegate-manager: {}:6:1: unknown key `endpiont`", config.display());
    assert!(message.starts_with(&place), "{message}");
    assert!(message.contains("`name`, `endpoint`"), "{message}");

    let (output, message) = ends(Path::new("/nowhere/manager.toml")).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("cannot read configuration /nowhere/manager.toml"), "{message}");
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_drain_leaves_the_source_serving_and_a_restart_goes_on() {
    let lab = Lab::new().await;
    lab.old_sessions.send_replace(4);
    let config = lab.directory.path().join("manager.toml");
    std::fs::write(&config, configuration(&lab)).expect("write");

    let manager = program(&config).spawn().expect("start");
    let request = proto::StartMigrationRequest { spec: Some(order()) };
    let started = client(&lab).await.start_migration(request).await.expect("started").into_inner();
    while lab.called("WatchMigration") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A second manager on the same state is turned away.
    let (_, message) = ends(&config).await;
    assert!(message.contains("another process is listening there"), "{message}");

    terminate(manager).await;
    assert!(!lab.directory.path().join("m.sock").exists(), "its socket is gone");
    {
        let world = lab.world();
        assert_eq!(world.address.state(), AddressState::Draining, "the switch keeps steering");
        assert_eq!(world.guests["h1"]["vm-a"].state(), GuestState::Running, "the source serves");
    }

    let manager = program(&config).spawn().expect("start again");
    let mut client = client(&lab).await;
    lab.old_sessions.send_replace(0);
    let request = proto::WatchMigrationRequest { id: started.id };
    let mut events = client.watch_migration(request).await.expect("watch").into_inner();
    let mut last = None;
    while let Some(event) = events.message().await.expect("event") {
        last = event.what;
    }
    let Some(proto::migration_event::What::Ended(ended)) = last else { panic!("{last:?}") };
    assert_eq!(ended.state(), MigrationState::Completed, "{}", ended.message);
    lab.assert_destination_owns_everything();
    terminate(manager).await;
}
