//! A guest is cloned to another host, both run on, and the source's changes are merged.

use std::fs;

use tidegate_api::host as api;
use tidegate_region::MergeType;

use super::rig::{self, COUNTER, RAM_MIB, Rig, format_region, number, spec, write};

fn id<T: From<String>>() -> T {
    T::from("m1".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_the_source_at_t0_and_gets_its_changes() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    let source = a.memory("web", "region-counts");
    format_region(&source, MergeType::Sum);
    write(&source, COUNTER, &100_u64.to_le_bytes());
    let ram = a.memory("web", "ram");
    for at in [20 << 20, (24 << 20) + 4093] {
        write(&ram, at, b"what the application had in memory");
    }

    let report = a.capture("web", true).await.expect("captured");
    assert_eq!(a.state("web").await, api::GuestState::Running, "the source goes on");
    assert_eq!(report.ram_bytes, 32 << 20);
    assert_eq!(report.region_bytes, rig::REGION_BYTES);
    assert!(report.device_state_bytes > 1000, "{report:?}");
    assert!(report.pause_ns > 0 && report.pause_ns < 5_000_000_000, "{report:?}");
    println!("pause {} us, device state {}", report.pause_ns / 1000, report.device_state_bytes);
    assert_eq!(a.capture("web", true).await, Ok(report), "the same answer again");

    // After T0 the source counts on.
    write(&source, COUNTER, &103_u64.to_le_bytes());
    write(&source, 20000, b"theirs");

    let data = b.prepare(spec("web-2"), true).await;
    assert_eq!(b.prepare(spec("web-2"), true).await, data);
    let sent = a.send(&data).await.expect("sent");
    assert!(sent.done && sent.digest.len() == 64, "{sent:?}");
    assert_eq!(sent.covered_bytes, sent.total_bytes);
    assert!(sent.sent_bytes < sent.total_bytes / 2, "zero pages are left out: {sent:?}");
    let twin = fs::read(a.config.twin_dir.join("m1/ram")).expect("twin");
    let clone_ram = b.memory("web-2", "ram");
    assert!(fs::read(&clone_ram).expect("ram") == twin, "byte for byte");

    let request =
        api::StartDestinationRequest { migration_id: id(), paused: true, ..Default::default() };
    let guest = b.client.start_destination(request.clone()).await.expect("started").into_inner();
    assert_eq!(guest.state(), api::GuestState::Paused);
    let now = fs::read(&clone_ram).expect("ram");
    let differ = twin.iter().zip(&now).filter(|(was, is)| was != is).count();
    assert!(differ <= 16, "only the new vmgenid differs, not {differ} bytes");
    let destination = b.memory("web-2", "region-counts");
    assert_eq!(number(&destination, COUNTER), 100, "the region as of T0");
    let again = b.client.start_destination(request).await.expect("known").into_inner();
    assert_eq!(again.pid, guest.pid);
    let request = api::ContinueGuestRequest { name: "web-2".into() };
    let guest = b.client.continue_guest(request).await.expect("continues").into_inner();
    assert_eq!(guest.state(), api::GuestState::Running);
    write(&destination, COUNTER, &110_u64.to_le_bytes());
    write(&destination, 30000, b"ours");

    // Looked at while both run.
    let request = api::DryRunDiffRequest {
        migration_id: id(),
        data_endpoint: data.clone(),
        ..Default::default()
    };
    let report = a.client.dry_run_diff(request.clone()).await.expect("looked").into_inner();
    assert!(report.approximate && report.pause_ns > 0 && report.sent_bytes > 0, "{report:?}");
    let [all_ram, region] = &report.compared[..] else { panic!("{report:?}") };
    assert_eq!((all_ram.region.as_str(), all_ram.size_bytes), ("", u64::from(RAM_MIB) << 20));
    assert_eq!((region.region.as_str(), region.changed_bytes), ("counts", 7));
    assert_eq!((region.dirty_pages, region.runs), (2, 2));
    let before = fs::read(&destination).expect("region");
    let request = api::DryRunMergeRequest { migration_id: id() };
    let preview = b.client.dry_run_merge(request.clone()).await.expect("tried").into_inner();
    assert!(preview.approximate && preview.pause_ns > 0, "{preview:?}");
    assert_eq!((preview.conflict_count, preview.refused_count), (0, 0));
    assert!(fs::read(&destination).expect("region") == before, "nothing was merged");

    let diff =
        api::SendDiffRequest { migration_id: id(), data_endpoint: data, ..Default::default() };
    let (_, message) = rig::refusal(a.client.send_diff(diff.clone()).await);
    assert!(message.contains("pause it first"), "{message}");
    let (_, message) = rig::refusal(b.client.merge(api::MergeRequest { migration_id: id() }).await);
    assert!(message.contains("no diff has arrived"), "{message}");
    a.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let report = a.client.send_diff(diff).await.expect("diff").into_inner();
    assert_eq!((report.compared_bytes, report.changed_bytes, report.runs), (65536, 7, 2));

    let merge = || api::MergeRequest { migration_id: id() };
    let merged = b.client.merge(merge()).await.expect("merged").into_inner();
    assert_eq!(number(&destination, COUNTER), 113, "100 + 3 at the source + 10 here");
    let bytes = fs::read(&destination).expect("region");
    assert_eq!((&bytes[20000..20006], &bytes[30000..30004]), (&b"theirs"[..], &b"ours"[..]));
    assert!(merged.pause_ns > 0 && merged.conflicts.is_empty(), "{merged:?}");
    assert_eq!(b.state("web-2").await, api::GuestState::Running);
    write(&destination, COUNTER, &200_u64.to_le_bytes());
    assert_eq!(b.client.merge(merge()).await.expect("again").into_inner(), merged);
    assert_eq!(number(&destination, COUNTER), 200, "merged once only");
    let (_, message) = rig::refusal(b.client.dry_run_merge(request).await);
    assert!(message.contains("has begun"), "{message}");
    assert_eq!(merged.merged_bytes, preview.merged_bytes);

    let request = api::DeleteGuestRequest { name: "web".into(), purge: true };
    a.client.delete_guest(request).await.expect("deleted");
    for rig in [&mut a, &mut b] {
        rig.client.forget(api::ForgetRequest { migration_id: id() }).await.expect("forgotten");
        rig.client.forget(api::ForgetRequest { migration_id: id() }).await.expect("twice");
        assert!(!rig.config.twin_dir.join("m1").exists());
        assert!(!rig.config.state_dir.join("migrations/m1").exists());
    }
    assert!(!ram.exists() && clone_ram.exists());
    assert_eq!(b.state("web-2").await, api::GuestState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_booted_destination_on_the_same_host_gets_the_regions() {
    let mut host = Rig::new("h").await;
    host.start_guest(spec("web")).await;
    let source = host.memory("web", "region-counts");
    format_region(&source, MergeType::Abort);
    write(&source, COUNTER, b"one");
    let report = host.capture("web", false).await.expect("captured");
    assert_eq!((report.ram_bytes, report.device_state_bytes), (0, 0));
    let data = host.prepare(spec("web-2"), false).await;
    host.send(&data).await.expect("sent");
    let request = api::StartDestinationRequest { migration_id: id(), ..Default::default() };
    let guest = host.client.start_destination(request).await.expect("started").into_inner();
    assert_eq!(guest.state(), api::GuestState::Running);
    let destination = host.memory("web-2", "region-counts");
    assert_eq!(fs::read(&destination).expect("region"), fs::read(&source).expect("region"));

    // Both sides change what only one may.
    write(&source, COUNTER, b"two");
    write(&destination, COUNTER, b"six");
    let request = api::DryRunMergeRequest { migration_id: id() };
    let (_, message) = rig::refusal(host.client.dry_run_merge(request.clone()).await);
    assert!(message.contains("no diff of a dry run has arrived"), "{message}");
    let only_look = api::DryRunDiffRequest { migration_id: id(), ..Default::default() };
    let report = host.client.dry_run_diff(only_look.clone()).await.expect("looked").into_inner();
    assert_eq!((report.sent_bytes, report.compared.len()), (0, 1));
    let send = api::DryRunDiffRequest { data_endpoint: data.clone(), ..only_look };
    host.client.dry_run_diff(send).await.expect("looked");
    let preview = host.client.dry_run_merge(request).await.expect("tried").into_inner();
    assert_eq!((preview.conflict_count, preview.refused_count), (0, 3));
    let [range] = &preview.ranges[..] else { panic!("{preview:?}") };
    assert_eq!((range.region.as_str(), range.merge_type.as_str()), ("counts", "abort"));
    let first = &preview.conflicts[0];
    assert_eq!((first.offset, first.cause.as_str()), (8192, "both changed"));
    assert_eq!([&first.base[..], &first.ours, &first.theirs], [b"o", b"s", b"t"]);
    host.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let diff =
        api::SendDiffRequest { migration_id: id(), data_endpoint: data, ..Default::default() };
    host.client.send_diff(diff.clone()).await.expect("diff");
    let merge = || api::MergeRequest { migration_id: id() };
    let (code, message) = rig::refusal(host.client.merge(merge()).await);
    assert_eq!(code, tonic::Code::Aborted);
    assert!(message.contains("3 values were changed on both sides"), "{message}");
    assert!(message.contains("offset 8192: T0 0x6f, destination 0x73, source 0x74"), "{message}");
    assert_eq!(&fs::read(&destination).expect("region")[8192..8195], b"six");
    assert_eq!(host.state("web-2").await, api::GuestState::Running);

    // The source takes its change back: another diff replaces the first.
    write(&source, COUNTER, b"one");
    host.client.send_diff(diff.clone()).await.expect("diff");
    assert_eq!(host.client.merge(merge()).await.expect("merged").into_inner().merged_bytes, 0);
    let (_, message) = rig::refusal(host.client.send_diff(diff).await);
    assert!(message.contains("cannot be replaced"), "{message}");
}
