//! What is not steered yet is dropped by name, in both directions, and leaves no session.

use tidegate_dataplane::steering::Unknown;

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{Flow, OTHER_ICMP},
    world::{CLIENT, Mode, Vm},
};

/// RFC 5508, REQ-11.
#[test]
fn icmp_of_other_kinds() {
    for mode in [Mode::Nat, Mode::L2] {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(1, old);
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        let flow = Flow::new(CLIENT, 7);
        let packets = [
            flow.to_service(OTHER_ICMP),
            flow.sent_by(old, OTHER_ICMP),
            flow.sent_by(new, OTHER_ICMP),
        ];
        switch_box.feed(&packets.map(|packet| packet.with_payload(b"01234567")));
        assert_moved!(switch_box, IcmpUnsupported 3);
        assert!(switch_box.sessions().is_empty());
    }
}
