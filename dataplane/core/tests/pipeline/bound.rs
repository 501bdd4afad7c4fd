//! Managed addresses whose sessions are not recorded: packets only go home and back.

use tidegate_dataplane::{pipeline::Outcome, steering::ManagedAddress};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, Flow, RST, SYN, tcp},
    world::{CLIENT, Mode, OTHER_PORT, SERVICE, UPLINK, Vm},
};

fn bound(shards: u16, mode: Mode) -> (SwitchBox, Vm) {
    let home = Vm::old(1, mode);
    let mut switch_box = SwitchBox::new(shards, home);
    let address = ManagedAddress { tracked: false, ..switch_box.address };
    switch_box.install(address, &[]);
    (switch_box, home)
}

const BODIES: [Body; 6] = [
    Body::Tcp { flags: SYN, sequence: 1, acknowledgement: 0 },
    Body::Tcp { flags: ACK, sequence: 1, acknowledgement: 1 },
    Body::Tcp { flags: RST, sequence: 1, acknowledgement: 0 },
    Body::Udp,
    Body::UdpWithoutChecksum,
    Body::EchoReply,
];

#[test]
fn go_home_and_back_without_sessions() {
    for mode in [Mode::Nat, Mode::L2] {
        for shards in [1, 3] {
            let (mut switch_box, home) = bound(shards, mode);
            let flow = Flow::new(CLIENT, 7);
            for body in BODIES {
                let seen = switch_box.one(&flow.to_service(body)).seen();
                assert_eq!((seen.port, seen.destination), (home.backend.port, home.speaks_as()));
                let seen = switch_box.one(&flow.sent_by(home, body)).seen();
                assert_eq!((seen.port, seen.source), (UPLINK, SERVICE), "{mode:?} {body:?}");
            }
            assert_moved!(switch_box, ToSource 6, ToClient 6);
            assert!(switch_box.sessions().is_empty());
        }
    }
}

#[test]
fn to_the_locator_is_plain_forwarding() {
    let (mut switch_box, home) = bound(1, Mode::Nat);
    switch_box.one(&Flow::new(CLIENT, 7).to(home.locator, tcp(SYN)));
    assert_moved!(switch_box, Forwarded 1);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn still_nobody_else_may_use_the_address() {
    let (mut switch_box, home) = bound(1, Mode::L2);
    let ended = switch_box.one(&Flow::new(CLIENT, 7).sent_by(home, Body::Udp).on(OTHER_PORT));
    assert_eq!(ended.outcome, Outcome::Spoofed);
}

#[test]
fn forget_their_sessions_when_tracking_ends() {
    let home = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::new(2, home);
    let flows = (0..20).map(|port| Flow::new(CLIENT, port).to_service(Body::Udp));
    switch_box.feed(&flows.collect::<Vec<_>>());
    assert_eq!(switch_box.live(home), 20);
    let address = ManagedAddress { tracked: false, ..switch_box.address };
    switch_box.install(address, &[]);
    switch_box.sweep();
    assert_eq!(switch_box.entries(home), 0);
}
