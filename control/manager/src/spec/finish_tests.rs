use super::*;

fn mirror() -> proto::MigrationSpec {
    proto::MigrationSpec {
        kind: proto::DestinationKind::Clone.into(),
        finish: proto::FinishMode::Mirror.into(),
        ..Default::default()
    }
}

#[test]
fn a_mirror_holds_new_sessions_unless_they_are_to_be_cut() {
    let hold = FinishMode::Mirror(NewSessions::Hold);
    assert_eq!(FinishMode::from_proto(&mirror()).expect("good"), hold);
    assert_eq!(hold.to_proto(), (proto::FinishMode::Mirror, proto::NewSessions::Hold));
    let cut = proto::MigrationSpec { new_sessions: proto::NewSessions::Cut.into(), ..mirror() };
    let cut = FinishMode::from_proto(&cut).expect("good");
    assert_eq!(cut, FinishMode::Mirror(NewSessions::Cut));
    assert_eq!(serde_json::to_string(&cut).expect("json"), r#"{"mirror":"cut"}"#);
    // As earlier versions wrote it.
    let merge = serde_json::from_str::<FinishMode>(r#""merge""#).expect("read");
    assert_eq!(merge, FinishMode::Merge);
}

#[test]
fn what_cannot_be_mirrored_is_told_with_the_remedy() {
    let refused = |change: fn(&mut proto::MigrationSpec)| {
        let mut order = mirror();
        change(&mut order);
        FinishMode::from_proto(&order).expect_err("refused").to_string()
    };
    let boot = refused(|order| order.set_kind(proto::DestinationKind::Boot));
    assert!(boot.starts_with("finish: MIRROR needs a clone") && boot.contains("MERGE"), "{boot}");
    let nat = refused(|order| order.destination_locator = "10.1.0.2".to_owned());
    assert!(nat.starts_with("destination_locator: ") && nat.contains("(l2)"), "{nat}");
    let regions = refused(|order| order.regions = vec!["a".to_owned()]);
    assert!(regions.starts_with("regions: MIRROR carries all memory over"), "{regions}");
    let later = refused(|order| order.new_sessions = 9);
    assert_eq!(later, "new_sessions: 9 is unknown; say HOLD or CUT");
    let later = refused(|order| order.finish = 9);
    assert_eq!(later, "finish: 9 is unknown; say MERGE, MIRROR or NONE");
    let merge = refused(|order| {
        order.set_finish(proto::FinishMode::Merge);
        order.set_new_sessions(proto::NewSessions::Cut);
    });
    assert_eq!(merge, "new_sessions: goes only with MIRROR; leave it out");
}

#[test]
fn settling_is_checked_and_told() {
    let of = |order: proto::MigrationSpec| Quiesce::from_proto(&order);
    assert_eq!(of(proto::MigrationSpec::default()).expect("good"), Quiesce::Stop);
    let settle =
        || proto::MigrationSpec { quiesce: proto::Quiesce::Settle.into(), ..Default::default() };
    let plain = of(settle()).expect("good");
    let (settle_ms, deadline_s, unsettled) = (1000, 60, Unsettled::Abort);
    assert_eq!(plain, Quiesce::Settle { settle_ms, deadline_s, unsettled });
    let mut told = proto::MigrationSpec::default();
    plain.tell(&mut told);
    assert_eq!(of(told).expect("good"), plain);
    assert_eq!(
        plain.to_string(),
        "the source is paused when its memory has not changed for 1000 ms; if that is not within 60 s, the migration is aborted"
    );
    let error = of(proto::MigrationSpec { settle_ms: 5, ..Default::default() });
    let error = error.expect_err("without SETTLE").to_string();
    assert_eq!(error, "settle_ms: goes only with SETTLE; leave it out");
    let short = proto::MigrationSpec { settle_ms: 5001, settle_deadline_s: 5, ..settle() };
    let error = of(short).expect_err("never").to_string();
    assert!(error.starts_with("settle_deadline_s: 5 s are over before"), "{error}");
    let later = proto::MigrationSpec { unsettled: 7, ..settle() };
    let error = of(later).expect_err("unknown").to_string();
    assert_eq!(error, "unsettled: 7 is unknown; say ABORT or STOP");
}
