//! A booted destination that says on its console when it is ready.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_api::host as api;
use tonic::Code;

use super::rig::{Rig, refusal, spec};

/// Prints what follows it, up to a zero, on the first serial line, and halts.
const PRINT: [u8; 20] = [
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xbe, 0x14, 0x7c, // mov si, 0x7c14
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xac, // lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x03, // jz halt
    0xee, // out dx, al
    0xeb, 0xf8, // jmp lodsb
    0xfa, 0xf4, // halt: cli, hlt
];

/// A destination on `rig` that boots and prints `text`, ready to be started.
async fn prepared(rig: &mut Rig, text: &str) {
    // The firmware boots from none that is smaller.
    let mut bytes = vec![0; 1 << 20];
    bytes[..PRINT.len()].copy_from_slice(&PRINT);
    bytes[PRINT.len()..][..text.len()].copy_from_slice(text.as_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk = rig.dir.path().join("disk");
    fs::write(&disk, bytes).expect("disk");
    let drive = format!("file={},format=raw", disk.display());
    let extra_args = vec!["-drive".to_owned(), drive];
    rig.prepare(api::GuestSpec { extra_args, regions: vec![], ..spec("web-2") }, false).await;
}

fn start(text: &str, timeout_s: u32) -> api::StartDestinationRequest {
    api::StartDestinationRequest {
        migration_id: "m1".into(),
        ready_text: text.into(),
        ready_timeout_s: timeout_s,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_waited_for_and_found_again_by_who_asks_later() {
    let mut host = Rig::new("h").await;
    prepared(&mut host, "service: ready\r\n").await;
    let answer = host.client.start_destination(start("service: ready", 60)).await;
    let guest = answer.expect("ready").into_inner();
    assert_eq!(guest.state(), api::GuestState::Running);
    let console = fs::read_to_string(&guest.console_path).expect("console");
    assert!(console.contains("service: ready"), "{console}");

    host.stop().await;
    host.restart().await;
    let again = host.client.start_destination(start("service: ready", 1)).await;
    assert_eq!(again.expect("ready").into_inner().pid, guest.pid);
    let again = host.client.start_destination(start("", 0)).await.expect("not waited for");
    assert_eq!(again.into_inner().pid, guest.pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_ready_in_time_is_told_with_the_end_of_its_console() {
    let mut host = Rig::new("h").await;
    prepared(&mut host, "service: no disk\r\n").await;
    let (code, message) = refusal(host.client.start_destination(start("service: ready", 5)).await);
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(message.contains("did not print `service: ready` within 5 s"), "{message}");
    assert!(message.ends_with("console.log):\nservice: no disk"), "{message}");

    // It runs, and may still become ready.
    let request = api::GetGuestRequest { name: "web-2".into() };
    let guest = host.client.get_guest(request).await.expect("started").into_inner();
    assert_eq!(guest.state(), api::GuestState::Running);
    let mut client = host.client.clone();
    let waiting =
        tokio::spawn(async move { client.start_destination(start("service: ready", 60)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    // In the guest's place, after what it printed.
    let console = fs::OpenOptions::new().write(true).open(&guest.console_path).expect("console");
    console.write_all_at(b"service: ready\n", 18).expect("print");
    let answer = waiting.await.expect("no panic").expect("ready");
    assert_eq!(answer.into_inner().pid, guest.pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_destination_that_ended_or_was_deleted() {
    for delete in [false, true] {
        let mut host = Rig::new("h").await;
        prepared(&mut host, "service: boots\r\n").await;
        let guest = host.client.start_destination(start("service: boots", 60)).await;
        let guest = guest.expect("boots").into_inner();
        let mut client = host.client.clone();
        let waiting =
            tokio::spawn(
                async move { client.start_destination(start("service: ready", 60)).await },
            );
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        if delete {
            // Whoever waits holds nothing that this needs.
            let request = api::DeleteGuestRequest { name: "web-2".into(), purge: true };
            host.client.delete_guest(request).await.expect("deleted");
            let request = api::ForgetRequest { migration_id: "m1".into() };
            host.client.forget(request).await.expect("forgotten");
        } else {
            kill_process(Pid::from_raw(guest.pid as i32).expect("pid"), Signal::KILL)
                .expect("killed");
        }
        let (code, message) = refusal(waiting.await.expect("no panic"));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(code, Code::FailedPrecondition);
        let said = "QEMU of guest `web-2` ended before `service: ready` was on its console";
        assert!(message.starts_with(said), "{message}");
        assert!(delete || message.ends_with("service: boots"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_boot_cannot_be_waited_for() {
    let mut host = Rig::new("h").await;
    let paused = api::StartDestinationRequest { paused: true, ..start("ready", 5) };
    for (clone, request) in [(true, start("ready", 5)), (false, paused)] {
        host.prepare(api::GuestSpec { regions: vec![], ..spec("web-2") }, clone).await;
        let (code, message) = refusal(host.client.start_destination(request).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.starts_with("ready_text: a ") && message.ends_with("leave it out"));
        let request = api::GetGuestRequest { name: "web-2".into() };
        assert_eq!(refusal(host.client.get_guest(request).await).0, Code::NotFound);
        let request = api::ForgetRequest { migration_id: "m1".into() };
        host.client.forget(request).await.expect("forgotten");
    }
}
