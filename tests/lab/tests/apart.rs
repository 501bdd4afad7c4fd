//! Source and destination on two hosts with a link between them: the manager moves no byte of a guest.

use std::time::Duration;

use serde_json::Value;
use tidegate_api::manager::Phase;
use tidegate_lab::{
    Mode, Rig,
    apart::{self, Apart, HOSTS, LINK_MBIT, Settings},
    client::{Order, Record},
    clients::Clients,
    cloud::{CloudOptions, succeed},
    migration::{Completed, Migrating},
    process::{output, wait_until},
    rig::{DESTINATION, Options, SOURCE},
};

const LIMIT: Duration = Duration::from_secs(90);
/// What a namespace moves for itself: name resolution, neighbour discovery. A guest's memory is a thousand times as much.
const NOISE_BYTES: u64 = 64 * 1024;
const OPEN: u32 = 10;

fn rig(mode: Mode, settings: Settings) -> (Rig, Clients) {
    let cloud = CloudOptions { apart: Some(settings), ..CloudOptions::default() };
    let rig = Rig::start(&Options { cloud, ..Options::new(mode) }).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    clients.order(&Order::Open { first: 0, count: OPEN, interval_ms: 20 }).expect("opened");
    wait_until("all sessions are answered", LIMIT, || {
        let records = clients.report()?.records;
        Ok((records.iter().filter(|it| it.answered > 3).count() == OPEN as usize).then_some(()))
    })
    .expect("answered");
    (rig, clients)
}

/// Migrate, and see over which interfaces memory went; the migration's end.
fn migrate(mode: Mode, settings: Settings, finish: &[&str], closes: bool) -> Completed {
    let (rig, mut clients) = rig(mode, settings);
    let apart: &Apart = rig.cloud.apart.as_ref().expect("two hosts");
    let (outside, link) = (apart::outside().expect("read"), apart.over_link().expect("read"));
    let began = std::time::Instant::now();
    let hosts = ["--from-host", HOSTS[0], "--to-host", HOSTS[1]];
    let migrating = Migrating::start_with(&rig, &[&hosts, finish].concat()).expect("started");
    if closes {
        migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(())).expect("drains");
        clients.order(&Order::Close { sessions: (0..OPEN).collect() }).expect("closed");
    }
    let completed = migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    let figures = completed.migration.figures.clone().expect("figures");
    let took = began.elapsed();
    let (outside_after, link_after) =
        (apart::outside().expect("read"), apart.over_link().expect("read"));
    let sent = link_after.tx_bytes - link.tx_bytes;
    let (rx, tx) =
        (outside_after.rx_bytes - outside.rx_bytes, outside_after.tx_bytes - outside.tx_bytes);
    println!(
        "{} {finish:?}: {sent} bytes over a link of {LINK_MBIT} Mbit/s in {took:.1?}, {rx} in and {tx} out where the \
         manager is; copied {}, changed {}, guest paused {:.1} ms",
        mode.name(),
        figures.copied_bytes,
        figures.diff_bytes,
        (figures.pause_ns.max(figures.image_pause_ns)) as f64 / 1e6
    );
    assert!(figures.copied_bytes > 0, "{figures:?}");
    assert!(sent >= figures.copied_bytes, "{sent} bytes went over the link, {figures:?}");
    assert!(rx + tx < NOISE_BYTES, "{rx} in, {tx} out where the manager is");

    if closes {
        let identity = if finish.contains(&"mirror") { SOURCE } else { DESTINATION };
        rig.answered_by(&mut clients, identity, 500).expect("the destination serves");
    } else {
        let answered =
            |records: &[Record]| records.iter().map(|it| it.answered).collect::<Vec<_>>();
        let before = answered(&clients.report().expect("report").records);
        wait_until("the sessions go on", LIMIT, || {
            let now = answered(&clients.report()?.records);
            let more = now.iter().zip(&before).all(|(now, before)| *now > before + 2);
            Ok(more.then_some(()))
        })
        .expect("they do");
        for record in clients.report().expect("report").records {
            assert!(record.error.is_none() && !record.reset, "{record:?}");
        }
    }
    drop(clients);
    let delete = ["guest", "delete", DESTINATION];
    let endpoint = apart::endpoint(rig.lab.dir(), 1);
    let delete = output(&mut rig.cloud.tidegate_on(&endpoint, delete).expect("built"));
    succeed(&delete.expect("runs")).expect("deleted");
    rig.stop().expect("everything ends well");
    completed
}

#[test]
fn a_booted_destination_is_merged_over_the_hosts_own_link() {
    migrate(Mode::Nat, Settings::default(), &[], true);
}

#[test]
fn a_clone_is_merged_over_the_hosts_own_link() {
    migrate(Mode::L2, Settings::default(), &[], true);
}

/// Neither host has room for RAM as of T0, and they do not trust their link.
#[test]
fn a_mirror_s_ram_goes_straight_over_tls() {
    let settings = Settings { tls: true, twin_memory_bytes: Some(0) };
    let order = ["--finish", "mirror", "--capture", "passes"];
    let completed = migrate(Mode::L2, settings, &order, false);
    let number = |of: &Value, field: &str| of[field].as_u64().expect("a number");
    let told = completed.said("capture", "finished");
    let detail = told.first().and_then(|it| it["detail"].as_str()).expect("it was captured");
    assert!(detail.contains("; RAM straight to the destination's host, "), "{detail}");
    // It was seen going.
    let seen = completed.said("capture", "copy");
    println!("{detail}; seen {} times", seen.len());
    assert!(seen.len() > 2, "{seen:?}");
    for pair in seen.windows(2) {
        for field in ["sent_bytes", "covered_bytes"] {
            assert!(number(pair[0], field) <= number(pair[1], field), "{seen:?}");
        }
    }
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    assert!(number(last, "sent_bytes") > number(first, "sent_bytes"), "{seen:?}");
    assert!(number(last, "covered_bytes") <= number(last, "total_bytes"), "{seen:?}");
    assert!(seen.iter().any(|it| number(it, "rate_bytes_per_s") > 0), "{seen:?}");
}
