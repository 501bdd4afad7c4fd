//! The gRPC service: codes, watching, inventory.

use tidegate_api::{
    Code, Request,
    manager::{self as proto, MigrationSpec, manager_server::Manager as _, migration_event::What},
};
use tidegate_manager::{migrations::Migrations, phase::Phase, record::Fact, service::Service};
use tokio_stream::StreamExt as _;

use crate::fakes::{Lab, finished, order, recorded};

async fn start(service: &Service, spec: MigrationSpec) -> Result<proto::Migration, tonic::Status> {
    let request = proto::StartMigrationRequest { spec: Some(spec) };
    service.start_migration(Request::new(request)).await.map(tonic::Response::into_inner)
}

async fn draining(lab: &Lab) -> (Migrations, Service, proto::Migration) {
    lab.old_sessions.send_replace(5);
    let manager = lab.manager().await;
    let service = Service::new(manager.clone());
    let migration = start(&service, order()).await.expect("started");
    let id = tidegate_manager::record::MigrationId::named(&migration.id);
    recorded(&manager, &id, |fact| *fact == Fact::Started { phase: Phase::Drain }).await;
    (manager, service, migration)
}

#[tokio::test]
async fn refusals_have_the_codes_of_the_protocol() {
    let lab = Lab::new().await;
    let (_manager, service, migration) = draining(&lab).await;
    let busy = start(&service, order()).await.expect_err("busy");
    assert_eq!(busy.code(), Code::AlreadyExists);
    assert!(busy.message().contains(&migration.id), "{busy}");
    let bad = MigrationSpec { address: String::new(), ..order() };
    assert_eq!(start(&service, bad).await.expect_err("bad").code(), Code::InvalidArgument);
    let other = MigrationSpec { address: "10.0.0.2".to_owned(), ..order() };
    assert_eq!(start(&service, other).await.expect_err("unknown").code(), Code::FailedPrecondition);
    let none = proto::GetMigrationRequest { id: "m-0".to_owned() };
    let unknown = service.get_migration(Request::new(none)).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let running = proto::ResumeMigrationRequest { id: migration.id };
    let refused = service.resume_migration(Request::new(running)).await.expect_err("running");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_dry_run_looks_and_changes_nothing() {
    let lab = Lab::new().await;
    let (manager, service, migration) = draining(&lab).await;
    let ask = |id: &str| Request::new(proto::DryRunDiffRequest { id: id.to_owned() });
    let dry_run = service.dry_run_diff(ask(&migration.id)).await.expect("answered").into_inner();
    assert_eq!(dry_run.diff.expect("there").sent_bytes, 200);
    assert_eq!(dry_run.merge.expect("there").merged_bytes, 96);
    assert_eq!(dry_run.merge_missing, "");
    assert_eq!(lab.world().merges_applied, 0);
    let unknown = service.dry_run_diff(ask("m-0")).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);

    let id = tidegate_manager::record::MigrationId::named(&migration.id);
    manager.abort(&id).await.expect("aborted");
    let over = service.dry_run_diff(ask(&migration.id)).await.expect_err("over");
    assert_eq!(over.code(), Code::FailedPrecondition);

    // Nothing is merged: it is only compared.
    let order = MigrationSpec { finish: proto::FinishMode::None.into(), ..order() };
    lab.old_sessions.send_replace(5);
    let migration = start(&service, order).await.expect("started");
    let id = tidegate_manager::record::MigrationId::named(&migration.id);
    recorded(&manager, &id, |fact| *fact == Fact::Started { phase: Phase::Drain }).await;
    let dry_run = service.dry_run_diff(ask(&migration.id)).await.expect("answered").into_inner();
    let diff = dry_run.diff.expect("there");
    assert_eq!((diff.sent_bytes, diff.image_pause_ns), (0, 0));
    assert!(dry_run.merge.is_none() && dry_run.merge_missing.contains("`none`"));
    lab.old_sessions.send_replace(0);
    finished(&manager, &id).await;
}

#[tokio::test]
async fn a_dry_run_of_a_mirror_tells_how_long_its_guest_would_stand() {
    let lab = Lab::new().await;
    let manager = lab.manager().await;
    let service = Service::new(manager.clone());
    let cut = proto::NewSessions::Cut.into();
    let finish = proto::FinishMode::Mirror.into();
    lab.old_sessions.send_replace(5);
    let order = MigrationSpec { finish, new_sessions: cut, ..order() };
    let migration = start(&service, order).await.expect("started");
    let id = tidegate_manager::record::MigrationId::named(&migration.id);
    recorded(&manager, &id, |fact| *fact == Fact::Started { phase: Phase::Drain }).await;
    let ask = Request::new(proto::DryRunDiffRequest { id: migration.id });
    let dry_run = service.dry_run_diff(ask).await.expect("answered").into_inner();
    assert_eq!(dry_run.diff.expect("there").image_pause_ns, 7);
}

#[tokio::test]
async fn a_choice_that_is_unknown_is_refused_by_its_field() {
    let lab = Lab::new().await;
    let service = Service::new(lab.manager().await);
    type Change = fn(&mut MigrationSpec);
    let cases: [(&str, Change); 5] = [
        ("kind: 99 is unknown; say CLONE or BOOT", |it| it.kind = 99),
        ("finish: 99 is unknown; say MERGE, MIRROR or NONE", |it| it.finish = 99),
        ("session_list: 99 is unknown; say", |it| it.session_list = 99),
        ("unknown_tcp: 99 is unknown; say", |it| it.unknown_tcp = 99),
        ("unknown_quic: 99 is unknown; say", |it| it.unknown_quic = 99),
    ];
    for (says, change) in cases {
        let mut spec = order();
        change(&mut spec);
        let refused = start(&service, spec).await.expect_err(says);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(says), "{refused}");
    }
}

#[tokio::test]
async fn a_watcher_sees_the_journal_then_progress_then_the_end() {
    let lab = Lab::new().await;
    let (_manager, service, migration) = draining(&lab).await;
    let request = proto::WatchMigrationRequest { id: migration.id.clone() };
    let watched = service.watch_migration(Request::new(request.clone())).await.expect("watch");
    let mut events = watched.into_inner();
    let mut drained = Vec::new();
    let mut sequences = Vec::new();
    let mut aborting = String::new();
    let mut end = None;
    while let Some(event) = events.next().await {
        let event = event.expect("event");
        match event.what.expect("what") {
            What::Drain(drain) => {
                drained.push(drain.old_sessions);
                if drained.len() == 1 {
                    let request = proto::AbortMigrationRequest { id: migration.id.clone() };
                    let aborted = service.abort_migration(Request::new(request)).await;
                    let state = aborted.expect("aborted").into_inner().state();
                    assert_eq!(state, proto::MigrationState::Aborted);
                }
            }
            What::Copy(_) => {}
            what => {
                sequences.push(event.sequence);
                match what {
                    What::Aborting(it) => aborting = it.reason,
                    What::Ended(it) => end = Some(it),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(drained.first(), Some(&5));
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{sequences:?}");
    assert_eq!(aborting, "aborted by an operator");
    let end = end.expect("ended");
    assert_eq!(end.migration.expect("migration").id, migration.id);

    // Later the whole journal comes at once, and the stream ends.
    let again = service.watch_migration(Request::new(request)).await.expect("watch");
    let all: Vec<_> = again.into_inner().collect().await;
    assert_eq!(all.len(), sequences.len());
}

#[tokio::test]
async fn the_inventory_says_who_answers() {
    let mut lab = Lab::new().await;
    lab.unserve("h2").await;
    let service = Service::new(lab.manager().await);
    let request = Request::new(proto::ListInventoryRequest {});
    let inventory = service.list_inventory(request).await.expect("inventory").into_inner();
    assert!(inventory.switches[0].reachable);
    assert!(inventory.hosts[0].reachable && inventory.hosts[0].detail.contains("QEMU 7.2.22"));
    assert!(!inventory.hosts[1].reachable);
    assert!(inventory.hosts[1].detail.contains("cannot be reached"), "{inventory:?}");
}
