use clap::Parser as _;
use tidegate_api::switch::{Encap, EncapKind, Unknown};

use super::*;
use crate::args::{Cli, Command};

const CLONE: &str = "tidegate migrate --address 10.0.0.1 --guest vm-a --to vm-b --clone --port vm1 \
                     --vhost-socket /run/vm1.sock";

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn order(line: &str) -> MigrationSpec {
    match parse(line).expect("good").command {
        Command::Migrate(migrate) => migrate.order(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_clone_is_merged_by_default() {
    let order = order(CLONE);
    assert_eq!((order.kind(), order.finish()), (DestinationKind::Clone, FinishMode::Merge));
    assert_eq!(order.destination_vhost_socket, "/run/vm1.sock");
    assert!(order.destination_locator.is_empty() && order.regions.is_empty());
}

#[test]
fn the_way_of_the_capture_can_be_said() {
    let way = |more: &str| order(&format!("{CLONE} {more}")).capture();
    assert_eq!(way(""), CaptureWay::Unspecified);
    assert_eq!(way("--capture auto"), CaptureWay::Unspecified);
    assert_eq!(way("--capture stop"), CaptureWay::Stop);
    assert_eq!(way("--capture passes"), CaptureWay::Passes);
    assert!(parse(&format!("{CLONE} --capture fast")).is_err());
}

#[test]
fn the_way_of_memory_can_be_said() {
    let plain = order(CLONE);
    assert_eq!((plain.bandwidth_mbps, plain.transport.as_str()), (0, ""));
    assert_eq!(plain.final_bandwidth_mbps, None);
    let said = order(&format!("{CLONE} --bandwidth-mbps 800 --transport fabric:verbs"));
    assert_eq!((said.bandwidth_mbps, said.transport.as_str()), (800, "fabric:verbs"));
    let last = order(&format!("{CLONE} --bandwidth-mbps 800 --final-bandwidth-mbps 0"));
    assert_eq!((last.bandwidth_mbps, last.final_bandwidth_mbps), (800, Some(0)));
}

#[test]
fn everything_reaches_the_order() {
    let line = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02 --locator 10.1.0.2");
    let order = order(&format!(
        "{line} --from-host h1 --to-host h2 --on-switch edge --finish none --regions a,b \
         --keep-source --keep-tracking --drain-deadline 30 --cmdline quiet"
    ));
    assert_eq!((order.kind(), order.finish()), (DestinationKind::Boot, FinishMode::None));
    assert_eq!(order.destination_locator, "10.1.0.2");
    assert_eq!((order.source_host.as_str(), order.destination_host.as_str()), ("h1", "h2"));
    assert_eq!(order.regions, ["a", "b"]);
    assert!(order.keep_source && order.keep_tracking);
    assert_eq!((order.drain_deadline_s, order.destination_cmdline.as_str()), (30, "quiet"));
    assert_eq!(order.switch_name, "edge");
}

#[test]
fn a_mirror_and_its_quiescence_reach_the_order() {
    let plain = order(&format!("{CLONE} --finish mirror"));
    assert_eq!(plain.finish(), FinishMode::Mirror);
    assert_eq!(plain.new_sessions(), proto::NewSessions::Unspecified);
    assert_eq!(plain.quiesce(), proto::Quiesce::Stop);
    let all = order(&format!(
        "{CLONE} --finish mirror --new-sessions cut --quiesce settle --settle-ms 250 \
         --settle-deadline-s 9 --unsettled stop"
    ));
    assert_eq!(all.new_sessions(), proto::NewSessions::Cut);
    assert_eq!((all.quiesce(), all.unsettled()), (proto::Quiesce::Settle, proto::Unsettled::Stop));
    assert_eq!((all.settle_ms, all.settle_deadline_s), (250, 9));
}

#[test]
fn a_booted_destination_is_given_time_or_says_that_it_is_ready() {
    let line = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02");
    let order_of = |more: &str| order(&format!("{line} {more}"));
    let timed = order_of("--boot-wait 25");
    assert_eq!((timed.destination_boot_wait_s, timed.destination_ready_text.as_str()), (25, ""));
    let words = line.split_whitespace().chain(["--ready-text", "-- it serves --"]);
    let Command::Migrate(migrate) = Cli::try_parse_from(words).expect("good").command else {
        panic!("not a migration")
    };
    assert_eq!(migrate.order().destination_ready_text, "-- it serves --");
    assert_eq!(migrate.order().destination_boot_wait_s, 0);
}

#[test]
fn sessions_come_from_where_they_are_said_to() {
    let from = |more: &str| {
        let order = order(&format!("{CLONE} {more}"));
        (order.session_list(), order.session_list_path)
    };
    let plain = |list| (list, String::new());
    assert_eq!(from(""), plain(SessionList::Auto));
    assert_eq!(from("--sessions agent"), plain(SessionList::Agent));
    assert_eq!(from("--sessions conntrack"), plain(SessionList::Conntrack));
    assert_eq!(from("--sessions none"), plain(SessionList::None));
    assert_eq!(from("--sessions file:/run/ss"), (SessionList::File, "/run/ss".to_owned()));
    let here = std::env::current_dir().expect("a directory").join("ss");
    assert_eq!(from("--sessions file:ss"), (SessionList::File, here.display().to_string()));
}

#[test]
fn what_makes_no_sense_is_usage() {
    let boot = CLONE.replace("--clone", "--boot --mac 02:00:00:00:00:02");
    let wrong = [
        format!("{CLONE} --ready-text ready"),
        format!("{boot} --ready-text ready --boot-wait 5"),
        format!("{boot} --ready-text="),
        CLONE.replace("--clone", ""),
        CLONE.replace("--clone", "--clone --boot"),
        CLONE.replace("--clone", "--boot"),
        CLONE.replace("--clone", "--clone --locator 10.1.0.2"),
        CLONE.replace("10.0.0.1", "ten"),
        format!("{CLONE} --dry-run --detach"),
        format!("{CLONE} --finish later"),
        format!("{CLONE} --sessions some"),
        format!("{CLONE} --sessions file:"),
        format!("{CLONE} --encap vxlan"),
        format!("{CLONE} --encap vxlan --remote 192.0.2.7"),
        format!("{CLONE} --vni 7"),
        CLONE.replace("--port vm1", ""),
        format!("{CLONE} --unknown-tcp nobody"),
        format!("{CLONE} --datagram-max-age long"),
        format!("{CLONE} --bandwidth-mbps fast"),
        format!("{CLONE} --bandwidth-mbps=-1"),
        format!("{CLONE} --final-bandwidth-mbps none"),
        format!("{CLONE} --transport="),
    ];
    for line in wrong {
        assert_eq!(parse(&line).expect_err(&line).exit_code(), 2, "{line}");
    }
}

#[test]
fn addresses_are_of_either_family() {
    let line = CLONE
        .replace("10.0.0.1", "2001:DB8::1")
        .replace("--clone", "--boot --mac 02:00:00:00:00:02 --locator 2001:db8:8::2");
    let order = order(&line);
    assert_eq!(
        (order.address.as_str(), order.destination_locator.as_str()),
        ("2001:db8::1", "2001:db8:8::2")
    );
}

#[test]
fn a_destination_behind_a_tunnel_needs_no_port() {
    let line =
        CLONE.replace("--port vm1", "--encap vxlan --remote 192.0.2.7 --local 192.0.2.1 --vni 7");
    let order = order(&line);
    assert_eq!(order.destination_port, "");
    let expected = Encap {
        kind: EncapKind::Vxlan.into(),
        remote: "192.0.2.7".to_owned(),
        local: "192.0.2.1".to_owned(),
        vni: 7,
        udp_port: 0,
    };
    assert_eq!(order.destination_encap, Some(expected));
}

#[test]
fn policies_reach_the_order() {
    let plain = order(CLONE);
    assert_eq!((plain.unknown_tcp(), plain.unknown_quic()), (Unknown::Source, Unknown::Source));
    assert_eq!((plain.datagram_max_age_s, plain.ignore_begun_by_source), (0, false));
    let line = "--unknown-tcp drop --unknown-quic destination --datagram-max-age 300 --ignore-begun-by-source";
    let order = order(&format!("{CLONE} {line}"));
    assert_eq!((order.unknown_tcp(), order.unknown_quic()), (Unknown::Drop, Unknown::Destination));
    assert_eq!((order.datagram_max_age_s, order.ignore_begun_by_source), (300, true));
}
