//! A destination that becomes its source's image and goes on as it, with real guests.

use std::{fs, thread, time::Duration};

use tidegate_api::{
    endpoint::{Endpoint, connect},
    host::{self, GuestState, host_client::HostClient},
    manager::{Migration, Phase},
};
use tidegate_guest_service::checksum::{BROKEN, GOOD};
use tidegate_lab::{
    Mode, Rig,
    client::{Order, Record},
    clients::Clients,
    cloud::succeed,
    migration::Migrating,
    monitor::Monitor,
    process::{output, wait_until},
    region, report,
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Sessions that are open all the time.
const OPEN: u32 = 20;
/// Number of the first session that comes and goes.
const FIRST_NEW: u32 = 100;
/// Longest time in which the guest may stand still here: these machines are shared, and a session must not time out.
const PAUSE_MOST_MS: u64 = 10_000;

/// A guest that keeps checksums of a part of its memory, with sessions open.
fn serving() -> (Rig, Clients) {
    let more = " tg.checksum=16";
    let rig = Rig::start(&Options { cmdline: more, ..Options::new(Mode::L2) }).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    let order = Order::Open { first: 0, count: OPEN, interval_ms: 20 };
    clients.order(&order).expect("opened");
    wait_until("all sessions are answered", LIMIT, || {
        let records = clients.report()?.records;
        Ok((records.iter().filter(|it| it.answered > 3).count() == OPEN as usize).then_some(()))
    })
    .expect("answered");
    wait_until("checksums are kept", LIMIT, || Ok((rounds(&rig, SOURCE)? > 2).then_some(())))
        .expect("they are");
    (rig, clients)
}

/// Rounds of the checksum loop by the guest's console; not one of them may be bad.
fn rounds(rig: &Rig, guest: &str) -> anyhow::Result<u64> {
    let Some(found) = rig.api.guest(guest)? else { return Ok(0) };
    let console = fs::read_to_string(found.console_path).unwrap_or_default();
    anyhow::ensure!(!console.contains(BROKEN), "{guest}: {console}");
    let last = console.lines().rev().find_map(|line| line.trim().strip_prefix(GOOD));
    Ok(last.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

/// The guest's memory goes on to be what it wrote there, from where the source was.
fn checksums_go_on(rig: &Rig, before: u64) {
    wait_until("the checksum loop goes on", LIMIT, || {
        Ok((rounds(rig, DESTINATION)? > before + 2).then_some(()))
    })
    .expect("it does");
}

fn open_records(clients: &mut Clients) -> Vec<Record> {
    let records = clients.report().expect("report").records;
    records.into_iter().filter(|record| record.session < OPEN).collect()
}

/// Every open session has been answered since, by the guest that the source was, and none was lost or reset.
fn sessions_go_on(clients: &mut Clients) {
    let before = open_records(clients);
    wait_until("all open sessions are answered again", LIMIT, || {
        let now = open_records(clients);
        let answered = |(now, before): (&Record, &Record)| now.answered > before.answered + 2;
        Ok(now.iter().zip(&before).all(answered).then_some(()))
    })
    .expect("they are");
    for record in open_records(clients) {
        let whole = record.error.is_none() && !record.reset && record.doubled == 0;
        assert!(whole && record.identities.keys().eq([SOURCE]), "{record:?}");
    }
}

/// What the destination's memory holds is what the clients have sent, neither more nor less.
fn every_request_is_counted_once(rig: &Rig, clients: &mut Clients) {
    let sessions = (0..OPEN).collect();
    let report = clients.order(&Order::Close { sessions }).expect("closed");
    let guest = rig.api.guest(DESTINATION).expect("answer").expect("the destination");
    let counted = region::counted(guest.regions[0].path.as_ref()).expect("counted");
    let differences = report::differences(&report, &counted);
    assert!(differences.is_empty(), "session, sent, counted: {differences:?}");
    let failed: Vec<_> = report.records.iter().filter(|record| record.error.is_some()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

fn figures(migration: &Migration) -> tidegate_api::manager::Figures {
    migration.figures.clone().expect("figures")
}

#[test]
fn the_guest_goes_on_elsewhere_and_its_sessions_do_not_notice() {
    let (rig, mut clients) = serving();
    let new = Order::StartNew { first: FIRST_NEW, every_ms: 50, requests: 4, interval_ms: 10 };
    clients.order(&new).expect("they come and go");
    let source = Monitor::connect(&rig.cloud.monitor_socket(SOURCE)).expect("a monitor");
    let migrating = Migrating::start_with(&rig, &["--finish", "mirror"]).expect("started");
    migrating
        .reach(&rig, Phase::Destination, LIMIT, |_| Ok(()))
        .expect("the destination is prepared");
    let before = rounds(&rig, SOURCE).expect("good");
    let completed = migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    checksums_go_on(&rig, before);
    sessions_go_on(&mut clients);
    clients.order(&Order::StopNew).expect("no more new ones");

    let figures = figures(&completed.migration);
    println!(
        "guest paused for {:.1} ms (T0: {:.1} ms), {} of {} bytes changed, {} session(s) went on; digest {}",
        figures.image_pause_ns as f64 / 1e6,
        figures.pause_ns as f64 / 1e6,
        figures.diff_bytes,
        figures.ram_bytes,
        figures.kept_sessions,
        figures.image_digest
    );
    let slowest = open_records(&mut clients).iter().map(|it| it.slowest_us).max().unwrap_or(0);
    println!("slowest answer {:.1} ms; phases {:?}", slowest as f64 / 1e3, completed.phases);
    assert!(figures.kept_sessions >= u64::from(OPEN) && figures.cut_sessions == 0, "{figures:?}");
    assert!((1..PAUSE_MOST_MS * 1_000_000).contains(&figures.image_pause_ns), "{figures:?}");
    assert_eq!(figures.image_digest.len(), 64);
    // It stood once at T0, and at the end for good.
    assert_eq!(source.stops(), source.pauses().len() + 1, "the source never ran again");
    assert!(rig.api.guest(SOURCE).expect("answer").is_none(), "the source is deleted");
    let address = rig.api.address(MANAGED).expect("answer");
    assert_eq!(address.home.expect("home").name, DESTINATION);

    rig.answered_by(&mut clients, SOURCE, 8000).expect("it is the same guest to new sessions");
    every_request_is_counted_once(&rig, &mut clients);
    drop(clients);
    rig.stop().expect("everything ends well");
}

#[test]
fn sessions_of_a_clone_that_served_meanwhile_are_cut_and_counted() {
    const NEW: u32 = 7;
    let (rig, mut clients) = serving();
    let order = ["--finish", "mirror", "--new-sessions", "cut"];
    let migrating = Migrating::start_with(&rig, &order).expect("started");
    migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(())).expect("drains");
    let order = Order::Open { first: FIRST_NEW, count: NEW, interval_ms: 20 };
    clients.order(&order).expect("opened");
    wait_until("the clone serves them", LIMIT, || {
        let records = clients.report()?.records;
        let by_clone = |it: &&Record| it.session >= FIRST_NEW && it.answered > 3;
        Ok((records.iter().filter(by_clone).count() == NEW as usize).then_some(()))
    })
    .expect("it does");
    for record in clients.report().expect("report").records.iter().skip(OPEN as usize) {
        assert!(record.identities.keys().eq([DESTINATION]), "{record:?}");
    }
    sessions_go_on(&mut clients);
    let before = rounds(&rig, SOURCE).expect("good");
    let cloned = rounds(&rig, DESTINATION).expect("good");
    clients.order(&Order::Close { sessions: (0..OPEN).collect() }).expect("the old ones close");
    let completed = migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    let figures = figures(&completed.migration);
    println!("clone at round {cloned}, source at {before}: {figures:?}");
    assert_eq!((figures.cut_sessions, figures.kept_sessions), (u64::from(NEW), 0));
    assert_eq!(figures.old_sessions_at_cutover, u64::from(OPEN));
    checksums_go_on(&rig, before);
    wait_until("the cut sessions end", LIMIT, || {
        let records = clients.report()?.records;
        let over = |it: &&Record| it.session >= FIRST_NEW && it.error.is_some();
        Ok((records.iter().filter(over).count() == NEW as usize).then_some(()))
    })
    .expect("they do");
    rig.answered_by(&mut clients, SOURCE, 8000).expect("the guest goes on as the source");
    let guest = rig.api.guest(DESTINATION).expect("answer").expect("the destination");
    let counted = region::counted(guest.regions[0].path.as_ref()).expect("counted");
    let clone = counted[FIRST_NEW as usize..(FIRST_NEW + NEW) as usize].iter().sum::<u64>();
    assert_eq!(clone, 0, "nothing of the clone is left in the region");
    drop(clients);
    rig.stop().expect("everything ends well");
}

#[test]
fn all_memory_is_the_sources_before_the_destination_goes_on() {
    let (rig, mut clients) = serving();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let id = || "by-hand".to_owned();
    let endpoint: Endpoint = rig.cloud.host.parse().expect("an endpoint");
    let mut host = runtime
        .block_on(async { HostClient::new(connect(&endpoint).await.expect("the host answers")) });
    let address = |words: &[&str]| {
        let words = ["address"].iter().chain(words).copied();
        succeed(&output(&mut rig.cloud.tidegate(words).expect("built")).expect("runs"))
            .unwrap_or_else(|error| panic!("{error:#}"));
    };
    address(&["takeover", MANAGED]);
    let (port, mac) = ("vm1", Mode::L2.mac(0));
    address(&["destination", MANAGED, "--name", DESTINATION, "--port", port, "--mac", mac]);
    let check = host::CheckCaptureRequest {
        guest: SOURCE.to_owned(),
        clone: true,
        clone_use: host::CloneUse::Instead.into(),
        ..Default::default()
    };
    let checked =
        runtime.block_on(host.check_capture(check)).expect("can be captured").into_inner();
    let unsafe_ones: Vec<_> = checked.safety.iter().filter(|it| !it.ok).collect();
    assert!(unsafe_ones.is_empty() && !checked.generation_id.is_empty(), "{checked:?}");
    let mut spec = checked.spec.expect("spec");
    spec.name = DESTINATION.to_owned();
    spec.identity = SOURCE.to_owned();
    spec.generation_id = checked.generation_id.clone();
    spec.nics[0].vhost_socket = rig.vhost_socket(1).display().to_string();

    let data_endpoint = runtime.block_on(async {
        let request = host::CaptureRequest {
            migration_id: id(),
            guest: SOURCE.to_owned(),
            clone: true,
            ..Default::default()
        };
        host.capture(request).await.expect("captured");
        let request = host::PrepareReceiveRequest {
            migration_id: id(),
            spec: Some(spec),
            clone: true,
            ..Default::default()
        };
        let prepared = host.prepare_receive(request).await.expect("prepared").into_inner();
        let data_endpoint = prepared.data_endpoint;
        let request = host::SendTwinRequest {
            migration_id: id(),
            data_endpoint: data_endpoint.clone(),
            ..Default::default()
        };
        let mut stream = host.send_twin(request).await.expect("sent").into_inner();
        while stream.message().await.expect("sent").is_some() {}
        let request = host::StartDestinationRequest {
            migration_id: id(),
            await_image: true,
            ..Default::default()
        };
        let waiting = host.start_destination(request).await.expect("started").into_inner();
        assert_eq!(waiting.state(), GuestState::Paused);
        data_endpoint
    });
    // The source has gone on since T0.
    sessions_go_on(&mut clients);
    let before = rounds(&rig, SOURCE).expect("good");

    let files = runtime.block_on(async {
        let pause = host::PauseGuestRequest { name: SOURCE.to_owned() };
        let source = host.pause_guest(pause).await.expect("paused").into_inner();
        let request =
            host::SendImageRequest { migration_id: id(), data_endpoint, ..Default::default() };
        let sent = host.send_image(request).await.expect("sent").into_inner();
        assert!(sent.changed_bytes > 0 && sent.device_state_bytes > 0, "{sent:?}");
        let apply = || host::ApplyImageRequest {
            migration_id: id(),
            digest: sent.digest.clone(),
            generation_id: checked.generation_id.clone(),
            identity: SOURCE.to_owned(),
            disks: Vec::new(),
        };
        let applied = host.apply_image(apply()).await.expect("applied").into_inner();
        assert_eq!(applied.digest, sent.digest);
        let again = host.apply_image(apply()).await.expect("again").into_inner();
        assert_eq!(again, applied);
        println!("{sent:?}, {applied:?}");
        let get = host::GetGuestRequest { name: DESTINATION.to_owned() };
        let destination = host.get_guest(get).await.expect("there").into_inner();
        assert_eq!(destination.state(), GuestState::Paused);
        let region = |guest: &host::Guest| guest.regions[0].path.clone();
        [
            (source.ram_path.clone(), destination.ram_path.clone()),
            (region(&source), region(&destination)),
        ]
    });
    for (source, destination) in files {
        let (source_bytes, bytes) =
            (fs::read(&source).expect("read"), fs::read(&destination).expect("read"));
        assert_eq!(source_bytes.len(), bytes.len());
        let differ = source_bytes.iter().zip(&bytes).filter(|(was, is)| was != is).count();
        assert_eq!(differ, 0, "bytes of {destination} that are not those of {source}");
        println!("{destination}: {} bytes, all as in {source}", bytes.len());
    }
    let go_on = host::ContinueGuestRequest { name: DESTINATION.to_owned() };
    let running = runtime.block_on(host.continue_guest(go_on)).expect("goes on").into_inner();
    assert_eq!(running.state(), GuestState::Running);
    address(&["release", MANAGED, "--with-sessions"]);
    checksums_go_on(&rig, before);
    sessions_go_on(&mut clients);
    runtime.block_on(host.forget(host::ForgetRequest { migration_id: id() })).expect("forgotten");
    let delete = host::DeleteGuestRequest { name: SOURCE.to_owned(), purge: true };
    runtime.block_on(host.delete_guest(delete)).expect("deleted");
    every_request_is_counted_once(&rig, &mut clients);
    drop((clients, host));
    drop(runtime);
    rig.stop().expect("everything ends well");
}

#[test]
fn a_manager_and_host_killed_while_the_source_stands_lose_nothing() {
    let (mut rig, mut clients) = serving();
    let migrating = Migrating::start_with(&rig, &["--finish", "mirror"]).expect("started");
    migrating.reach(&rig, Phase::Quiesce, LIMIT, |_| Ok(())).expect("the source stands");
    rig.cloud.process.kill().expect("killed");
    rig.cloud.restart().expect("starts again");
    let id = migrating.id().to_owned();
    let ended = wait_until("the migration ends", LIMIT, || {
        let now = migrating.now(&rig)?;
        let running = tidegate_api::manager::MigrationState::Running;
        Ok((now.state() != running).then_some(now))
    })
    .expect("it ends");
    println!("{id} ended as {}: {}", ended.state().as_str_name(), ended.message);
    // Whichever of the two goes on, it is the same guest to its clients.
    sessions_go_on(&mut clients);
    let there = |guest: &str| rig.api.guest(guest).expect("answer").is_some();
    assert!(there(SOURCE) != there(DESTINATION), "one of them is there");
    thread::sleep(Duration::from_millis(200));
    let guest = if there(SOURCE) { SOURCE } else { DESTINATION };
    assert!(rounds(&rig, guest).expect("good") > 0);
    drop((clients, migrating));
    rig.stop().expect("everything ends well");
}

#[test]
fn a_destination_that_dies_before_it_goes_on_leaves_the_source_as_it_was() {
    let (rig, mut clients) = serving();
    // It is killed as soon as it waits, which is while or before the source stands.
    let migrating = Migrating::start_with(
        &rig,
        &["--finish", "mirror", "--quiesce", "settle", "--settle-deadline-s", "30"],
    )
    .expect("started");
    migrating.reach(&rig, Phase::Settle, LIMIT, |_| Ok(())).expect("the destination waits");
    let guest = rig.api.guest(DESTINATION).expect("answer").expect("the destination");
    assert_eq!(guest.state(), GuestState::Paused);
    succeed(
        &output(std::process::Command::new("kill").args(["-KILL", &guest.pid.to_string()]))
            .expect("runs"),
    )
    .expect("killed");
    // A Linux guest's memory never settles; whoever has waited enough gives up.
    let id = migrating.id().to_owned();
    let abort = output(&mut rig.cloud.tidegate(["abort", &id]).expect("built")).expect("runs");
    succeed(&abort).expect("aborted");
    migrating.aborted(&rig, LIMIT).expect("aborted");
    sessions_go_on(&mut clients);
    assert!(rig.api.guest(DESTINATION).expect("answer").is_none(), "it is deleted");
    let address = rig.api.address(MANAGED).expect("answer");
    assert_eq!(address.home.expect("home").name, SOURCE);
    rig.answered_by(&mut clients, SOURCE, 8000).expect("the source serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}
