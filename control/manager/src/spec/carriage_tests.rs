use super::*;

fn order(transport: &str, bandwidth_mbps: u64) -> proto::MigrationSpec {
    proto::MigrationSpec { transport: transport.to_owned(), bandwidth_mbps, ..Default::default() }
}

#[test]
fn it_is_read_and_told() {
    let plain = Carriage::from_proto(&order("", 0)).expect("good");
    assert_eq!(plain, Carriage::default());
    assert_eq!(plain.to_string(), "by what the source's host is configured with");
    for name in ["auto", "tcp", "fabric:verbs", "fabric:tcp", "fabric:shm"] {
        let carriage = Carriage::from_proto(&order(name, 800)).expect("good");
        let text = carriage.to_string();
        assert!(text.starts_with(&format!("by {name}")), "{text}");
        assert!(text.ends_with(", at most 800 Mbit/s"), "{text}");
        let mut told = proto::MigrationSpec::default();
        carriage.tell(&mut told);
        assert_eq!(Carriage::from_proto(&told).expect("good"), carriage);
        let record = serde_json::to_string(&carriage).expect("json");
        assert_eq!(serde_json::from_str::<Carriage>(&record).expect("read"), carriage);
    }
}

#[test]
fn while_the_guest_stands_it_may_go_faster_or_without_a_limit() {
    let of = |last| proto::MigrationSpec { final_bandwidth_mbps: last, ..order("", 800) };
    for (last, mbps, told) in [
        (None, 800, ""),
        (Some(0), 0, "; while the guest stands, without a limit"),
        (Some(8000), 8000, "; while the guest stands, at most 8000 Mbit/s"),
    ] {
        let carriage = Carriage::from_proto(&of(last)).expect("good");
        assert_eq!(carriage.last_mbps(), Some(mbps));
        assert!(carriage.to_string().ends_with(&format!(", at most 800 Mbit/s{told}")));
        let mut again = proto::MigrationSpec::default();
        carriage.tell(&mut again);
        assert_eq!(again.final_bandwidth_mbps, last);
    }
    // As earlier versions wrote it.
    let record = r#"{"transport":null,"bandwidth_mbps":800}"#;
    let carriage = serde_json::from_str::<Carriage>(record).expect("read");
    assert_eq!(carriage, Carriage::from_proto(&of(None)).expect("good"));
}

#[test]
fn what_no_host_can_do_is_refused_by_field() {
    let refused = |order| Carriage::from_proto(&order).expect_err("refused").to_string();
    let error = refused(order("pigeon", 0));
    assert_eq!(
        error,
        "transport: `pigeon` is no transport; use auto, tcp, fabric:verbs, fabric:tcp or fabric:shm"
    );
    let error = refused(order("", 10_000_001));
    assert_eq!(
        error,
        "bandwidth_mbps: 10000001 is too much; give Mbit/s, at most 10000000, or 0 for the host's own"
    );
    let last =
        |last| proto::MigrationSpec { final_bandwidth_mbps: Some(last), ..Default::default() };
    let error = refused(last(u64::MAX));
    assert!(error.starts_with("final_bandwidth_mbps: 18446744073709551615 is too much"), "{error}");
    assert!(error.ends_with(", or 0 for no limit"), "{error}");
    let none = proto::MigrationSpec { finish: proto::FinishMode::None.into(), ..last(0) };
    let error = refused(none);
    assert!(error.starts_with("final_bandwidth_mbps: goes only with MERGE or MIRROR"), "{error}");
}
