//! Live counts, to the session, on any number of shards: the drain hangs on them.

use tidegate_dataplane::{pipeline::ShardSelector, steering::Unknown};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, Flow, GIVEN_UP, Packet, REFUSED, SYN, tcp},
    world::{CLIENT, CLIENT_2, Mode, Vm, is_live},
};

fn vms() -> (Vm, Vm) {
    (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2))
}

fn each(client: u32, ports: std::ops::Range<u16>, body: Body) -> Vec<Packet> {
    ports.map(|port| Flow::new(client, port).to_service(body)).collect()
}

#[test]
fn the_count_at_cutover_is_the_sum_of_what_every_shard_acknowledged() {
    for shards in 1..=4 {
        let (old, new) = vms();
        let mut switch_box = SwitchBox::new(shards, old);
        switch_box.feed(&each(CLIENT, 0..40, tcp(SYN)));
        switch_box.feed(&each(CLIENT, 40..100, tcp(ACK)));
        switch_box.feed(&each(CLIENT, 0..30, GIVEN_UP));
        switch_box.feed(&each(CLIENT, 0..50, Body::Udp));
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Source), 120);
        // What comes later does not change what was counted.
        switch_box.feed(&each(CLIENT, 30..40, GIVEN_UP));
        switch_box.feed(&each(CLIENT_2, 0..30, tcp(SYN)));
        assert_eq!((switch_box.live(old), switch_box.live(new)), (110, 30));
        assert_moved!(switch_box, ToSource 190, ToDestination 30);
    }
}

#[test]
fn the_drain_ends_with_the_last_old_session() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(3, old);
    switch_box.feed(&each(CLIENT, 0..40, tcp(SYN)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 40);
    for left in (0..40u16).rev() {
        switch_box.one(&Flow::new(CLIENT_2, left).to_service(tcp(SYN)));
        switch_box.one(&Flow::new(CLIENT, left).sent_by(old, REFUSED));
        assert_eq!(switch_box.live(old), u32::from(left));
    }
    assert_eq!((switch_box.entries(old), switch_box.live(new)), (40, 40));
}

#[test]
fn only_slots_that_were_asked_for_are_noted() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.feed(&each(CLIENT, 0..3, tcp(SYN)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 3);
    switch_box.feed(&each(CLIENT, 3..5, tcp(ACK)));
    // Another snapshot, for another reason: the noted figure stays.
    switch_box.install(switch_box.address, &[new.backend.slot]);
    assert_eq!((switch_box.live(old), switch_box.at_install(old.backend.slot)), (5, 3));
    switch_box.install(switch_box.address, &[old.backend.slot]);
    assert_eq!(switch_box.at_install(old.backend.slot), 5);
}

#[test]
fn both_ways_of_a_session_end_on_the_same_shard() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(4, old);
    let mut used = std::collections::BTreeSet::new();
    for port in 0..64 {
        let flow = Flow::new(CLIENT, port);
        let there = switch_box.one(&flow.to_service(tcp(SYN))).shard;
        let back = switch_box.one(&flow.sent_by(old, tcp(ACK))).shard;
        assert_eq!(there, back);
        used.insert(there);
        for body in [Body::Udp, Body::UdpWithoutChecksum] {
            assert_eq!(switch_box.one(&flow.to_service(body)).shard, there, "by client alone");
        }
    }
    assert_eq!(used.len(), 4, "every shard has a part");
    assert_moved!(switch_box, ToSource 192, ToClient 64);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 128);
}

#[test]
fn a_direct_session_is_on_the_shard_of_its_client_in_both_directions() {
    let old = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(4, old);
    for port in 0..64 {
        let flow = Flow::new(CLIENT, port);
        let there = switch_box.one(&flow.to(old.locator, tcp(SYN))).shard;
        assert_eq!(switch_box.one(&flow.sent_by(old, tcp(ACK))).shard, there);
    }
    assert_moved!(switch_box, Forwarded 128);
}

#[test]
fn abort_gives_everything_back_to_the_source() {
    for shards in 1..=3 {
        let (old, new) = vms();
        let mut switch_box = SwitchBox::new(shards, old);
        switch_box.feed(&each(CLIENT, 0..10, tcp(SYN)));
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Destination);
        switch_box.feed(&each(CLIENT_2, 0..20, tcp(SYN)));
        switch_box.abort();
        switch_box.moved();
        // Old sessions go on; half of the others come back before the sweep, half after.
        switch_box.feed(&each(CLIENT, 0..10, tcp(ACK)));
        switch_box.feed(&each(CLIENT_2, 0..10, tcp(ACK)));
        assert_eq!((switch_box.live(old), switch_box.live(new)), (20, 10));
        switch_box.sweep();
        assert_eq!((switch_box.live(old), switch_box.entries(new)), (20, 0));
        switch_box.feed(&each(CLIENT_2, 10..20, tcp(ACK)));
        assert_moved!(switch_box, ToSource 30);
        assert_eq!(switch_box.live(old), 30);
    }
}

#[test]
fn release_makes_the_destination_home_and_forgets_the_source() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(2, old);
    switch_box.feed(&each(CLIENT, 0..10, tcp(SYN)));
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Source);
    switch_box.feed(&each(CLIENT_2, 0..20, tcp(SYN)));
    switch_box.release();
    switch_box.sweep();
    assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 20));
    switch_box.moved();
    switch_box.feed(&each(CLIENT_2, 0..20, tcp(ACK)));
    switch_box.feed(&each(CLIENT, 0..10, tcp(ACK)));
    // Whoever is home is counted as the source; the old VM has no say any more.
    switch_box.one(&Flow::new(CLIENT_2, 0).sent_by(old, REFUSED));
    switch_box.one(&Flow::new(CLIENT_2, 0).sent_by(new, tcp(ACK)));
    assert_moved!(switch_box, ToSource 30, Spoofed 1, ToClient 1);
    assert_eq!(switch_box.live(new), 30);
    assert_eq!(switch_box.sessions().iter().filter(|session| is_live(session)).count(), 30);
}

#[test]
fn a_selector_of_no_shards_is_one_of_one() {
    assert_eq!(ShardSelector::new(0).shard(CLIENT, 1), 0);
}
