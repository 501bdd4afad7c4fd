//! What happens to a migration that is waiting for its last old session.

use std::{thread, time::Duration};

use tidegate_api::{manager::Phase, switch::EncapKind};
use tidegate_lab::{
    Mode, Rig,
    client::Order,
    clients::Clients,
    cloud::complaint,
    migration::{Migrating, arguments},
    process::{output, run, wait_until},
    rig::{DESTINATION, Options, SOURCE},
    switch_box::{BOX_ADDRESS, CLIENT_ADDRESS, MANAGED, UPLINK},
};

const LIMIT: Duration = Duration::from_secs(40);

/// A rig whose migration, ordered with `more` arguments, drains, with session 0 old and open.
fn draining(more: &[&str]) -> (Rig, Clients, Migrating) {
    let rig = Rig::start(&Options::new(Mode::L2)).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    clients.order(&Order::Open { first: 0, count: 1, interval_ms: 50 }).expect("opened");
    wait_until("the old session is answered", LIMIT, || {
        Ok((clients.report()?.records[0].answered > 2).then_some(()))
    })
    .expect("answered");
    let migrating = Migrating::start_with(&rig, more).expect("started");
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
    let (rig, mut clients, migrating) = draining(&[]);
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
    let (mut rig, mut clients, migrating) = draining(&[]);
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

/// The clients' machine is the tunnel's other end: what is seen of the destination there is what it is sent.
#[test]
fn new_sessions_go_into_the_tunnel_that_the_destination_is_behind() {
    const TUNNEL: &str = "tg-tunnel";
    let tunnel = ["--encap", "vxlan", "--remote", CLIENT_ADDRESS, "--local", BOX_ADDRESS];
    let policies = ["--vni", "7", "--unknown-tcp", "drop", "--datagram-max-age", "60"];
    let (rig, mut clients, migrating) = draining(&[tunnel, policies].concat());
    let steered = rig.api.address(MANAGED).expect("the box answers");
    let there = steered.destination.and_then(|it| it.encap).expect("it is behind a tunnel");
    let ends = (there.local.as_str(), there.remote.as_str());
    assert_eq!((there.kind(), there.vni, there.udp_port), (EncapKind::Vxlan, 7, 4789));
    assert_eq!(ends, (BOX_ADDRESS, CLIENT_ADDRESS));

    let device = ["link", "add", TUNNEL, "type", "vxlan", "id", "7", "dstport", "4789"];
    let ends = ["local", CLIENT_ADDRESS, "remote", BOX_ADDRESS, "dev", UPLINK];
    run(rig.lab.among_clients("ip").args(device).args(ends)).expect("a tunnel");
    run(rig.lab.among_clients("ip").args(["link", "set", TUNNEL, "up"])).expect("it is up");
    clients.order(&Order::Open { first: 1, count: 1, interval_ms: 50 }).expect("opened");
    wait_until("the new session's packets come out of the tunnel", LIMIT, || {
        let counter = format!("/sys/class/net/{TUNNEL}/statistics/rx_packets");
        let received = run(rig.lab.among_clients("cat").arg(counter))?;
        Ok((received.trim() != "0").then_some(()))
    })
    .expect("they do");
    old_session_goes_on(&mut clients);

    let id = migrating.id().to_owned();
    let abort = output(&mut rig.cloud.tidegate(["abort", &id]).expect("built")).expect("runs");
    assert!(abort.status.success(), "{}", complaint(&abort));
    migrating.aborted(&rig, LIMIT).expect("aborted");
    old_session_goes_on(&mut clients);
    rig.answered_by(&mut clients, SOURCE, 2).expect("the source serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}
