//! RAM that goes to the destination's host while it is captured.

use std::time::Duration;

use tidegate_api::{
    Request,
    manager::{
        self as proto, CopyProgress, MigrationSpec, MigrationState, manager_server::Manager as _,
        migration_event::What,
    },
};
use tidegate_manager::{pace::COPY_LOOK, service::Service};
use tokio_stream::StreamExt as _;

use crate::fakes::{Lab, PACE, finished, order};

#[tokio::test]
async fn ram_goes_straight_to_a_host_that_takes_it() {
    for takes in [true, false] {
        let lab = Lab::new().await;
        lab.world().takes_straight = takes;
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), MigrationState::Completed, "{}", migration.message);
        let to = takes.then(|| "127.0.0.1:7433".to_owned());
        assert_eq!(lab.world().straight_to, [to]);
        let straight_bytes = if takes { 60 << 20 } else { 0 };
        assert_eq!(migration.figures.expect("figures").copied_bytes, straight_bytes + 3000);
        let records = manager.journal().records(&id, 0).expect("records");
        let told = records.iter().map(|record| record.fact.to_string()).collect::<String>();
        let said = "RAM straight to the destination's host, 62914560 bytes by tcp";
        assert_eq!(told.contains(said), takes, "{told}");
    }
}

#[tokio::test]
async fn a_straight_capture_may_take_its_time_and_not_for_ever() {
    // 65 MiB, twice, at 64 MiB a second.
    let longest = PACE.straight(65 << 20, 0);
    assert!(longest > PACE.capture);
    for (takes, state) in [
        (longest - Duration::from_millis(500), MigrationState::Completed),
        (Duration::from_secs(600), MigrationState::Aborted),
    ] {
        let lab = Lab::new().await;
        {
            let mut world = lab.world();
            (world.takes_straight, world.capture_takes) = (true, takes);
        }
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let migration = finished(&manager, &id).await;
        assert_eq!(migration.state(), state, "{}", migration.message);
        if state == MigrationState::Aborted {
            let said = "capture failed: host `h1` did not answer Capture within";
            assert!(migration.message.starts_with(said), "{}", migration.message);
            lab.assert_source_owns_everything();
        }
    }
}

#[tokio::test]
async fn a_watcher_sees_how_far_it_is() {
    for takes in [true, false] {
        let lab = Lab::new().await;
        {
            let mut world = lab.world();
            (world.takes_straight, world.gone_straight) = (takes, Some(1000));
            world.capture_takes = 3 * COPY_LOOK;
        }
        let manager = lab.manager().await;
        let id = manager.start(Some(order())).await.expect("started");
        let request = proto::WatchMigrationRequest { id: id.to_string() };
        let watched = Service::new(manager.clone()).watch_migration(Request::new(request)).await;
        let events = watched.expect("watched").into_inner().map(|event| event.expect("an event"));
        let of_capture = events.filter(|event| event.phase() == proto::Phase::Capture);
        let copies = of_capture.filter_map(|event| match event.what {
            Some(What::Copy(progress)) => Some(progress),
            _ => None,
        });
        let seen: Vec<_> = copies.collect().await;
        let progress = CopyProgress {
            sent_bytes: 1000,
            covered_bytes: 2000,
            total_bytes: 64 << 20,
            rate_bytes_per_s: 5000,
        };
        assert_eq!(seen.first(), takes.then_some(&progress), "{seen:?}");
        let state = finished(&manager, &id).await.state();
        assert_eq!(state, MigrationState::Completed);
        assert_eq!(lab.called("GetCopy") > 0, takes);
    }
}

#[tokio::test]
async fn a_boot_has_no_ram_to_send() {
    let lab = Lab::new().await;
    lab.world().takes_straight = true;
    let manager = lab.manager().await;
    let spec = MigrationSpec {
        kind: proto::DestinationKind::Boot.into(),
        destination_locator: "10.1.0.9".to_owned(),
        destination_mac: "02:00:00:00:00:09".to_owned(),
        ..order()
    };
    let id = manager.start(Some(spec)).await.expect("started");
    assert_eq!(finished(&manager, &id).await.state(), MigrationState::Completed);
    assert_eq!(lab.world().straight_to, [None]);
}
