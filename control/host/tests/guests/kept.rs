//! Of a RAM twin whose copy is confirmed hashes are kept where the budget does not allow more, and everything goes on.

use std::{fs, path::PathBuf, time::Instant};

use tidegate_api::host as api;
use tonic::Code;

use super::{
    image::{apply, cloned, goes_on, same, sent},
    rig::{RAM_MIB, REGION_BYTES, Rig, refusal, spec, write},
};

const RAM_BYTES: u64 = (RAM_MIB as u64) << 20;

fn twin(host: &Rig, id: &str, file: &str) -> PathBuf {
    host.config.twin_dir.join(id).join(file)
}

/// Bytes of all files of a twin.
fn twin_bytes(host: &Rig) -> u64 {
    let files = fs::read_dir(host.config.twin_dir.join("m1")).expect("twin");
    files.map(|file| file.expect("file").metadata().expect("size").len()).sum()
}

async fn checked(host: &mut Rig, guest: &str) -> api::CheckCaptureResponse {
    let request =
        api::CheckCaptureRequest { guest: guest.into(), clone: true, ..Default::default() };
    host.client.check_capture(request).await.expect("answered").into_inner()
}

async fn data_endpoint(host: &mut Rig) -> String {
    let status = host.client.get_status(api::GetStatusRequest {}).await.expect("status");
    status.into_inner().data_endpoint
}

/// A migration of its own, up to the copy.
async fn copied(a: &mut Rig, b: &mut Rig, id: &str, guest: &str) -> api::SendProgress {
    copied_to(a, b, id, guest, spec(&format!("{guest}-2"))).await
}

async fn copied_to(
    a: &mut Rig,
    b: &mut Rig,
    id: &str,
    guest: &str,
    destination: api::GuestSpec,
) -> api::SendProgress {
    let request = api::CaptureRequest {
        migration_id: id.into(),
        guest: guest.into(),
        clone: true,
        ..Default::default()
    };
    a.client.capture(request).await.expect("captured");
    let request = api::PrepareReceiveRequest {
        migration_id: id.into(),
        spec: Some(destination),
        clone: true,
        keep_t0: false,
    };
    let data_endpoint =
        b.client.prepare_receive(request).await.expect("prepared").into_inner().data_endpoint;
    let request =
        api::SendTwinRequest { migration_id: id.into(), data_endpoint, ..Default::default() };
    let mut stream = a.client.send_twin(request).await.expect("begins").into_inner();
    let mut last = api::SendProgress::default();
    while let Some(progress) = stream.message().await.expect("goes on") {
        last = progress;
    }
    assert!(last.done, "{last:?}");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_by_hashes_is_the_source_as_one_by_bytes() {
    for limit in [None, Some(0)] {
        let (mut a, mut b) = (Rig::keeping("a", limit).await, Rig::new("b").await);
        a.start_guest(spec("web")).await;
        let (ram, region) = (a.memory("web", "ram"), a.memory("web", "region-counts"));
        write(&ram, 20 << 20, &[7; 1 << 20]);
        write(&region, 5000, b"before T0");
        let generation = cloned(&mut a, &mut b, spec("web-2"), true).await;
        assert_eq!(twin(&a, "m1", "ram").exists(), limit.is_none());
        assert!(twin(&a, "m1", "region-counts").exists(), "regions are kept whole");
        if limit.is_some() {
            let kept_bytes = twin_bytes(&a);
            println!("{kept_bytes} bytes are kept of {RAM_BYTES} of RAM, regions {REGION_BYTES}");
            assert!(kept_bytes < RAM_BYTES / 20 + REGION_BYTES, "{kept_bytes}");
        }
        // Changed bytes, a page that becomes zero, one that was a hole.
        write(&ram, (20 << 20) + 3, b"after T0");
        write(&ram, (20 << 20) + 4096 * 9, &[0; 4096]);
        write(&ram, (31 << 20) + 4090, b"after T0");
        write(&region, 777, b"after T0");
        a.stop().await;
        a.restart().await;
        let request = api::DryRunDiffRequest {
            migration_id: "m1".into(),
            data_endpoint: String::new(),
            image: true,
            ..Default::default()
        };
        let dry = a.client.dry_run_diff(request).await.expect("compared").into_inner();
        // Saving and loading a device state is in it, and time to look through memory.
        assert!((30_000_001..5_000_000_000).contains(&dry.image_pause_ns), "{dry:?}");
        let (of_ram, of_region) = (&dry.compared[0], &dry.compared[1]);
        assert!(of_ram.dirty_pages >= 4, "{of_ram:?}");
        // A firmware rewrites little; all of RAM would be 8192.
        assert!(of_ram.dirty_pages < 4000, "{of_ram:?}");
        let whole_pages = of_ram.changed_bytes == of_ram.dirty_pages * 4096;
        assert_eq!(whole_pages, limit.is_some(), "{of_ram:?}");
        assert_eq!((of_region.dirty_pages, of_region.changed_bytes), (1, 8));

        let sent = sent(&mut a, &mut b).await;
        assert_eq!(sent.compared_bytes, RAM_BYTES + REGION_BYTES);
        println!("limit {limit:?}: {} bytes changed, {} sent", sent.changed_bytes, sent.sent_bytes);
        b.client.apply_image(apply(&sent, &generation)).await.expect("applied");
        same(&ram, &b.memory("web-2", "ram"));
        same(&region, &b.memory("web-2", "region-counts"));
        goes_on(&mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_copy_is_confirmed_again_without_its_bytes() {
    let (mut a, mut b) = (Rig::keeping("a", Some(RAM_BYTES - 1)).await, Rig::new("b").await);
    a.start_guest(spec("web")).await;
    write(&a.memory("web", "ram"), 20 << 20, &[7; 1 << 20]);
    let first = copied(&mut a, &mut b, "m1", "web").await;
    let received = fs::read(b.memory("web-2", "ram")).expect("received");
    for restarted in [false, true] {
        if restarted {
            a.stop().await;
            // As if it had been killed between writing the hashes and removing the bytes.
            fs::write(twin(&a, "m1", "ram"), &received).expect("bytes");
            a.restart().await;
        }
        assert!(!twin(&a, "m1", "ram").exists());
        let again = copied(&mut a, &mut b, "m1", "web").await;
        assert_eq!((&again.digest, again.sent_bytes), (&first.digest, 0));
        assert_eq!(
            (again.covered_bytes, again.resumed_bytes),
            (first.total_bytes, first.total_bytes)
        );
        assert!(again.transport_reason.contains("nothing is sent"), "{again:?}");
    }
    assert!(received == fs::read(b.memory("web-2", "ram")).expect("received"));

    // The destination's host has lost it.
    fs::remove_file(b.config.state_dir.join("migrations/m1/twin.ledger")).expect("ledger");
    let data = data_endpoint(&mut b).await;
    let request = api::SendTwinRequest {
        migration_id: "m1".into(),
        data_endpoint: data.clone(),
        ..Default::default()
    };
    let mut stream = a.client.send_twin(request).await.expect("begins").into_inner();
    let error = stream.message().await.expect_err("void");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("section 0, of the ram, any more"), "{error}");
    assert!(error.message().contains("abort the migration and start it again"), "{error}");

    // Hashes that are damaged are no twin.
    let path = twin(&a, "m1", "ram.hashes");
    let mut bytes = fs::read(&path).expect("hashes");
    bytes[5000] ^= 1;
    fs::write(&path, bytes).expect("write");
    a.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let request = api::SendImageRequest {
        migration_id: "m1".into(),
        data_endpoint: data,
        ..Default::default()
    };
    let (_, message) = refusal(a.client.send_image(request).await);
    assert!(message.contains("ram.hashes does not have the digest"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_twins_share_one_budget() {
    let limit = RAM_BYTES + RAM_BYTES / 2;
    let (mut a, mut b) = (Rig::keeping("a", Some(limit)).await, Rig::new("b").await);
    for guest in ["one", "two"] {
        a.start_guest(spec(guest)).await;
    }
    let before = checked(&mut a, "one").await;
    assert_eq!(before.twin_kept_bytes, RAM_BYTES);
    assert!(before.twin_kept.starts_with("all 33554432 bytes"), "{}", before.twin_kept);
    copied(&mut a, &mut b, "m1", "one").await;
    assert!(twin(&a, "m1", "ram").exists(), "there is room for one");
    // The same answer after a restart.
    a.stop().await;
    a.restart().await;
    let between = checked(&mut a, "two").await;
    assert_eq!(between.twin_kept_bytes, RAM_BYTES / 256 + 64);
    let said = "a hash a page, 131136 bytes, once the copy is confirmed (all bytes until then): \
                33554432 bytes beside 33554432 bytes of other migrations are more than \
                twin_memory_bytes, 50331648";
    assert_eq!(between.twin_kept, said);
    copied(&mut a, &mut b, "m2", "two").await;
    assert!(!twin(&a, "m2", "ram").exists(), "and no more");
    // What was decided stays, and what is forgotten counts no more.
    copied(&mut a, &mut b, "m1", "one").await;
    assert!(twin(&a, "m1", "ram").exists());
    a.client.forget(api::ForgetRequest { migration_id: "m1".into() }).await.expect("forgotten");
    assert_eq!(checked(&mut a, "one").await.twin_kept_bytes, RAM_BYTES);
    let regions = api::CheckCaptureRequest { guest: "one".into(), ..Default::default() };
    let regions = a.client.check_capture(regions).await.expect("answered").into_inner();
    assert_eq!((&*regions.twin_kept, regions.twin_kept_bytes), ("", 0));
}

/// Bytes of this process that are no guest's: two hosts and the test itself, so more than one daemon has.
fn private_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_twin_of_a_large_guest_is_small() {
    const MEMORY_MIB: u32 = 512;
    let (mut a, mut b) = (Rig::keeping("a", Some(0)).await, Rig::new("b").await);
    let large = |name: &str| api::GuestSpec { memory_mib: MEMORY_MIB, ..spec(name) };
    a.start_guest(large("web")).await;
    let ram = a.memory("web", "ram");
    for mib in 16..u64::from(MEMORY_MIB) {
        write(&ram, mib << 20, &vec![mib as u8 | 1; 1 << 20]);
    }
    let began = Instant::now();
    copied_to(&mut a, &mut b, "m1", "web", large("web-2")).await;
    let took = began.elapsed();
    let (files, private) = (twin_bytes(&a), private_bytes());
    let ram_bytes = u64::from(MEMORY_MIB) << 20;
    let of_ram = |bytes: u64| bytes as f64 / ram_bytes as f64;
    println!(
        "after a copy ({took:?}): twin {files} bytes, {:.4} of RAM; this process, both hosts in it, {private}, {:.4}",
        of_ram(files),
        of_ram(private)
    );
    // Nothing is said of the process: what one daemon takes is for the bench to tell.
    assert!(files < ram_bytes / 200 + REGION_BYTES, "{files}");
}
