//! What happens to a migration that is waiting for its last old session.

use std::{thread, time::Duration};

use tidegate_api::manager::Phase;
use tidegate_lab::{
    Mode, Rig,
    client::Order,
    clients::Clients,
    cloud::complaint,
    migration::{Migrating, arguments},
    process::{output, wait_until},
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

const LIMIT: Duration = Duration::from_secs(40);

/// A rig whose migration drains, with session 0 old and open.
fn draining() -> (Rig, Clients, Migrating) {
    let rig = Rig::start(&Options::new(Mode::L2)).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    clients.order(&Order::Open { first: 0, count: 1, interval_ms: 50 }).expect("opened");
    wait_until("the old session is answered", LIMIT, || {
        Ok((clients.report()?.records[0].answered > 2).then_some(()))
    })
    .expect("answered");
    let migrating = Migrating::start(&rig).expect("started");
    migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(())).expect("drains");
    (rig, clients, migrating)
}

/// The old session goes on with the source, and nothing was lost so far.
fn old_session_goes_on(clients: &mut Clients) {
    let before = clients.report().expect("report").records[0].clone();
    thread::sleep(Duration::from_millis(500));
    let after = clients.report().expect("report").records[0].clone();
    assert!(after.answered > before.answered + 2, "{after:?}");
    assert!(after.identities.keys().eq([SOURCE]) && after.error.is_none(), "{after:?}");
}

#[test]
fn a_second_migration_of_the_address_is_refused() {
    let (rig, mut clients, migrating) = draining();
    let id = migrating.now(&rig).expect("running").id;
    let mut words = arguments(&rig);
    let to = words.iter().position(|word| word == "--to").expect("the option is there");
    words[to + 1] = "vm-c".to_owned();
    let second = output(&mut rig.cloud.tidegate(&words).expect("built")).expect("runs");
    let message = complaint(&second);
    println!("second migration:\n{message}");
    assert!(!second.status.success(), "accepted:\n{message}");
    let reason = message.lines().find(|line| line.starts_with("FAIL")).expect("a reason");
    assert!(reason.contains(&format!("{id} of {MANAGED} runs; watch or abort it")), "{message}");
    old_session_goes_on(&mut clients);
    clients.order(&Order::Close { sessions: vec![0] }).expect("closed");
    migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    rig.answered_by(&mut clients, DESTINATION, 1).expect("the destination serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}

#[test]
fn sigterm_interrupts_the_manager_not_the_sessions() {
    let (mut rig, mut clients, migrating) = draining();
    let status = rig.cloud.process.terminate(Duration::from_secs(15)).expect("ends");
    assert!(status.success(), "{status}: {}", rig.cloud.process.printed());
    assert!(rig.cloud.process.printed().contains("SIGTERM"), "{}", rig.cloud.process.printed());
    old_session_goes_on(&mut clients);
    rig.answered_by(&mut clients, DESTINATION, 1).expect("new sessions go to the destination");

    rig.cloud.restart().expect("starts again");
    old_session_goes_on(&mut clients);
    let now = migrating.now(&rig).expect("the journal has it");
    assert_eq!(now.phase(), Phase::Drain, "{now:?}");
    clients.order(&Order::Close { sessions: vec![0] }).expect("closed");
    if let Err(error) = migrating.ended(&rig, LIMIT, |_| Ok(())) {
        panic!("{error:#}\n{}", rig.cloud.process.printed());
    }
    rig.answered_by(&mut clients, DESTINATION, 2).expect("the destination serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}
