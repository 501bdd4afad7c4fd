use proptest::prelude::*;

use super::*;
use crate::{
    record::{MigrationId, Resumer},
    sessions::{Import, SessionList},
    spec::{
        CaptureWay, Carriage, DestinationKind, FinishMode, Mac, NewSessions, Policies, Quiesce,
        Unsettled,
    },
};

pub(crate) fn order() -> Spec {
    Spec {
        address: [10, 0, 0, 1].into(),
        switch: "edge".to_owned(),
        source_host: "h1".to_owned(),
        source_guest: "vm-a".to_owned(),
        destination_host: "h1".to_owned(),
        destination_guest: "vm-b".to_owned(),
        kind: DestinationKind::Clone,
        finish: FinishMode::Merge,
        regions: Vec::new(),
        port: Some("vm1".to_owned()),
        encap: None,
        mac: Some("02:00:00:00:00:01".parse::<Mac>().expect("mac")),
        locator: None,
        vhost_socket: "/run/vm1.sock".into(),
        cmdline: None,
        keep_source: false,
        keep_tracking: false,
        boot_wait_s: 0,
        ready_text: None,
        session_list: SessionList::Agent,
        capture: CaptureWay::default(),
        carriage: Carriage::default(),
        policies: Policies::default(),
        quiesce: Quiesce::Stop,
        drain_deadline_s: None,
    }
}

fn number(facts: impl IntoIterator<Item = Fact>) -> Vec<Record> {
    let numbered = |(sequence, fact)| Record { sequence, unix_ms: 1000 + sequence, fact };
    (0..).zip(facts).map(numbered).collect()
}

/// All records of a migration that goes well.
fn complete(finish: FinishMode) -> Vec<Record> {
    let order = Spec { finish, ..order() };
    let mut facts = vec![Fact::Accepted { spec: Box::new(order.clone()) }];
    for phase in Phase::sequence(&order) {
        facts.push(Fact::Started { phase });
        let outcome = Outcome::Quiesce { asked_unix_us: 0 };
        facts.push(Fact::Finished { phase, elapsed_us: 1, outcome });
    }
    facts.push(Fact::Ended { end: End::Completed, message: String::new() });
    number(facts)
}

fn any_phase() -> impl Strategy<Value = Phase> {
    proptest::sample::select(crate::phase::ALL.to_vec())
}

fn any_finish() -> impl Strategy<Value = FinishMode> {
    proptest::sample::select(vec![
        FinishMode::Merge,
        FinishMode::Mirror(NewSessions::Hold),
        FinishMode::Mirror(NewSessions::Cut),
        FinishMode::None,
    ])
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let cause = proptest::sample::select(vec![
        AbortCause::Operator,
        AbortCause::MergeRefused,
        AbortCause::NotContinued,
    ]);
    let end = proptest::sample::select(vec![End::Completed, End::Aborted, End::Failed]);
    prop_oneof![
        Just(Fact::Accepted { spec: Box::new(order()) }),
        any_phase().prop_map(|phase| Fact::Started { phase }),
        any_phase().prop_map(|phase| {
            Fact::Finished { phase, elapsed_us: 5, outcome: Outcome::Quiesce { asked_unix_us: 0 } }
        }),
        cause.prop_map(|cause| Fact::AbortBegun { cause, reason: String::new() }),
        Just(Fact::Resumed { by: Resumer::Operator }),
        end.prop_map(|end| Fact::Ended { end, message: String::new() }),
    ]
}

proptest! {
    #[test]
    fn arbitrary_records_never_panic_and_a_refused_one_changes_nothing(
        facts in proptest::collection::vec(any_fact(), 0..40),
    ) {
        let _ = Progress::fold(&number(facts.clone()));
        let mut progress = Progress::fold(&complete(FinishMode::Merge)[..1]).expect("order");
        for fact in facts {
            let before = progress.clone();
            let record = Record { sequence: before.last_sequence + 1, unix_ms: 7, fact };
            if progress.apply(&record).is_err() {
                prop_assert_eq!(&progress, &before);
            }
        }
    }

    #[test]
    fn every_prefix_folds_and_resumes_where_it_stopped(finish in any_finish(), cut in 0_usize..40) {
        let records = complete(finish);
        let cut = cut % (records.len() + 1);
        let Ok(progress) = Progress::fold(&records[..cut]) else {
            prop_assert_eq!(cut, 0);
            return Ok(());
        };
        // The next record is what the decision is about.
        let expected = match records.get(cut).map(|record| &record.fact) {
            Some(Fact::Started { phase } | Fact::Finished { phase, .. }) => Next::Run(*phase),
            Some(_) => Next::Complete,
            None => Next::Nothing,
        };
        prop_assert_eq!(progress.next(), expected);
    }

    #[test]
    fn abort_is_possible_exactly_before_the_point_of_no_return(finish in any_finish(), cut in 1_usize..40) {
        let records = complete(finish);
        let cut = 1 + cut % (records.len() - 1);
        let mut progress = Progress::fold(&records[..cut]).expect("prefix");
        let begun = progress.has_begun(Phase::point_of_no_return(finish));
        let abort = Fact::AbortBegun { cause: AbortCause::Operator, reason: "r".to_owned() };
        let sequence = progress.last_sequence + 1;
        let result = progress.apply(&Record { sequence, unix_ms: 9, fact: abort });
        prop_assert_eq!(result.is_ok(), !begun && progress.end.is_none());
        if result.is_ok() {
            prop_assert_eq!(progress.next(), Next::Undo);
        }
    }
}

#[test]
fn finish_none_skips_diff_and_merge() {
    let phases: Vec<_> = Phase::sequence(&Spec { finish: FinishMode::None, ..order() }).collect();
    assert!(!phases.contains(&Phase::Diff) && !phases.contains(&Phase::Merge));
    assert_eq!(phases.len(), 10);
}

#[test]
fn a_mirror_that_holds_sessions_neither_cuts_over_nor_drains() {
    let finish = FinishMode::Mirror(NewSessions::Hold);
    let settle = Quiesce::Settle { settle_ms: 1, deadline_s: 1, unsettled: Unsettled::Stop };
    let phases = |finish, quiesce| {
        let order = Spec { finish, quiesce, ..order() };
        Phase::sequence(&order).map(Phase::name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        phases(finish, settle),
        "preflight takeover capture copy destination ahead settle quiesce diff mirror continue release cleanup"
    );
    assert_eq!(
        phases(FinishMode::Mirror(NewSessions::Cut), Quiesce::Stop),
        "preflight takeover capture copy destination cutover drain ahead quiesce diff mirror continue release cleanup"
    );
}

#[test]
fn a_failed_migration_goes_on_where_it_failed() {
    let mut records = complete(FinishMode::Merge);
    records.truncate(
        records
            .iter()
            .position(|record| record.fact == Fact::Started { phase: Phase::Release })
            .expect("release")
            + 1,
    );
    let mut facts: Vec<_> = records.into_iter().map(|record| record.fact).collect();
    facts.push(Fact::Ended { end: End::Failed, message: "gone".to_owned() });
    assert_eq!(Progress::fold(&number(facts.clone())).expect("failed").next(), Next::Nothing);
    facts.push(Fact::Resumed { by: Resumer::Operator });
    let resumed = Progress::fold(&number(facts)).expect("resumed");
    assert_eq!(resumed.next(), Next::Run(Phase::Release));
}

#[test]
fn records_keep_their_json() {
    let record = Record {
        sequence: 3,
        unix_ms: 5,
        fact: Fact::Finished {
            phase: Phase::Cutover,
            elapsed_us: 17,
            outcome: Outcome::Cutover { epoch: 2, old_sessions: 50, elapsed_ns: 9, import: None },
        },
    };
    let json = serde_json::to_string(&record).expect("json");
    assert_eq!(
        json,
        r#"{"sequence":3,"unix_ms":5,"fact":"finished","phase":"cutover","elapsed_us":17,"outcome":{"outcome":"cutover","epoch":2,"old_sessions":50,"elapsed_ns":9}}"#
    );
    assert_eq!(serde_json::from_str::<Record>(&json).expect("back"), record);
    assert!(MigrationId::at(1) < MigrationId::at(0x10_0000_0000));
}

#[test]
fn records_of_earlier_versions_are_read() {
    // The order had no ready text, and did not say where a list of sessions comes from.
    let spec = Box::new(Spec { session_list: SessionList::Auto, ..order() });
    let accepted = Record { sequence: 0, unix_ms: 1, fact: Fact::Accepted { spec } };
    let json = serde_json::to_string(&accepted).expect("json");
    let earlier = json.replace(r#""ready_text":null,"session_list":"auto","#, "");
    assert_ne!(earlier, json);
    assert_eq!(serde_json::from_str::<Record>(&earlier).expect("read"), accepted);
    // It always paused the source at once.
    let earlier = json.replace(r#""quiesce":"stop","#, "");
    assert_ne!(earlier, json);
    assert_eq!(serde_json::from_str::<Record>(&earlier).expect("read"), accepted);
    let earlier: Outcome = serde_json::from_str(r#"{"outcome":"quiesce"}"#).expect("read");
    assert_eq!(earlier, Outcome::Quiesce { asked_unix_us: 0 });
    let earlier = r#"{"outcome":"release","forgotten_sessions":2}"#;
    let release = Outcome::Release { forgotten_sessions: 2, kept_sessions: 0, cut_sessions: 0 };
    assert_eq!(serde_json::from_str::<Outcome>(earlier).expect("read"), release);
    // The copy kept where it went.
    let earlier = r#"{"sequence":9,"unix_ms":5,"fact":"finished","phase":"copy","elapsed_us":1,"outcome":{"outcome":"copy","data_endpoint":"10.0.0.9:1","sent_bytes":2,"covered_bytes":3,"digest":"d"}}"#;
    let Fact::Finished { outcome, .. } =
        serde_json::from_str::<Record>(earlier).expect("read").fact
    else {
        panic!("{earlier}")
    };
    // The takeover had no figures.
    let earlier: Outcome = serde_json::from_str(r#"{"outcome":"takeover"}"#).expect("read");
    assert_eq!(earlier, Outcome::Takeover { import: None });
    let import = Import { listed: 3, imported: 2, known: 1, ..Import::default() };
    let now = Outcome::Takeover { import: Some(import) };
    let json = serde_json::to_string(&now).expect("json");
    assert_eq!(serde_json::from_str::<Outcome>(&json).expect("back"), now);
    let copy = Outcome::Copy {
        sent_bytes: 2,
        covered_bytes: 3,
        digest: "d".to_owned(),
        transport: String::new(),
    };
    assert_eq!(outcome, copy);
}

#[test]
fn a_journal_of_a_version_in_which_nothing_went_ahead_is_read() {
    let finish = FinishMode::Mirror(NewSessions::Hold);
    let facts = complete(finish).into_iter().map(|record| record.fact);
    let is_of = |fact: &Fact| match fact {
        Fact::Started { phase } | Fact::Finished { phase, .. } => *phase == Phase::Ahead,
        _ => false,
    };
    let records = number(facts.filter(|fact| !is_of(fact)));
    assert_eq!(Progress::fold(&records).expect("read").next(), Next::Nothing);
    let paused =
        |record: &Record| matches!(record.fact, Fact::Finished { phase: Phase::Quiesce, .. });
    let until = records.iter().position(paused).expect("it was paused");
    let progress = Progress::fold(&records[..=until]).expect("read");
    assert_eq!(progress.next(), Next::Run(Phase::Diff));
}
