//! Whole migrations, there and back and there again, with sessions throughout.

use tidegate_dataplane::{packet::TcpFlags, session::SessionState, steering::Unknown};

use crate::switch_box::{
    SwitchBox,
    carrier::{QINQ, TUNNELS, VLAN},
    traffic::{ACK, Body, FIN_ACK, Flow, SYN, SYN_ACK, segment},
    world::{CLIENT, CLIENT_2, FAR_CLIENT, Mode, OLD_PORT, SERVICE, Vm},
};

/// Clients that keep talking, and the VM each must be talking to.
struct Talks {
    open: Vec<(Flow, Body, Vm)>,
    next_port: u16,
}

impl Talks {
    /// Begin `count` sessions of each kind; all must reach `vm`.
    fn begin(&mut self, switch_box: &mut SwitchBox, vm: Vm, count: u16) {
        for n in 0..count {
            let client = [CLIENT, CLIENT_2, FAR_CLIENT][usize::from(n % 3)];
            let flow = Flow::new(client, self.next_port);
            self.next_port += 1;
            let ended = switch_box.feed(&[
                flow.to_service(segment(SYN, 99, 0)),
                flow.sent_by(vm, segment(SYN_ACK, 499, 100)),
                flow.to_service(segment(ACK, 100, 500)),
            ]);
            assert_eq!(ended[0].seen().port, vm.backend.port);
            assert_eq!(ended[1].seen().source, SERVICE);
            self.open.push((flow, segment(ACK, 100, 500), vm));
            for body in [Body::Udp, Body::EchoRequest] {
                assert_eq!(switch_box.one(&flow.to_service(body)).seen().port, vm.backend.port);
                self.open.push((flow, body, vm));
            }
        }
    }

    /// A packet each way in every session, in bursts across all of them.
    fn go_on(&self, switch_box: &mut SwitchBox) {
        let there: Vec<_> =
            self.open.iter().map(|(flow, body, _)| flow.to_service(*body)).collect();
        for (ended, (flow, body, vm)) in switch_box.feed(&there).iter().zip(&self.open) {
            let seen = ended.seen();
            let reached = (seen.port, seen.to_mac, seen.destination);
            let expected = (vm.backend.port, vm.backend.mac, vm.speaks_as());
            assert_eq!(reached, expected, "{flow:?} {body:?}");
        }
        let answer = |body| match body {
            Body::EchoRequest => Body::EchoReply,
            Body::Tcp { .. } => segment(ACK, 500, 100),
            other => other,
        };
        let back = self.open.iter().map(|(flow, body, vm)| flow.sent_by(*vm, answer(*body)));
        for (ended, (flow, ..)) in switch_box.feed(&back.collect::<Vec<_>>()).iter().zip(&self.open)
        {
            let seen = ended.seen();
            assert_eq!((seen.source, seen.destination), (SERVICE, flow.client));
        }
    }

    /// Finish every session of `vm`: TCP by FIN, the rest by silence.
    fn finish(&mut self, switch_box: &mut SwitchBox, vm: Vm) {
        let (gone, open) = self.open.iter().partition(|(.., owner)| *owner == vm);
        let gone: Vec<(Flow, Body, Vm)> = gone;
        self.open = open;
        for (flow, body, _) in gone {
            if let Body::Tcp { .. } = body {
                switch_box.feed(&[
                    flow.to_service(segment(FIN_ACK, 100, 500)),
                    flow.sent_by(vm, segment(FIN_ACK, 500, 101)),
                    flow.to_service(segment(ACK, 101, 501)),
                ]);
            }
        }
        let silence = switch_box.timeouts.udp_ms + 1;
        switch_box.advance(silence / 2);
        self.go_on(switch_box);
        switch_box.advance(silence / 2 + 1);
        switch_box.sweep();
    }

    fn of(&self, vm: Vm) -> u32 {
        self.open.iter().filter(|(.., owner)| *owner == vm).count() as u32
    }
}

/// One migration from `source` to `destination`, with sessions born before, between and after its steps.
fn migrate(switch_box: &mut SwitchBox, talks: &mut Talks, source: Vm, destination: Vm) {
    talks.begin(switch_box, source, 7);
    talks.go_on(switch_box);
    switch_box.set_destination(destination);
    talks.begin(switch_box, source, 5);
    talks.go_on(switch_box);
    let old = talks.of(source);
    assert_eq!(switch_box.cutover(Unknown::Source), old, "exact at cutover");
    talks.go_on(switch_box);
    talks.begin(switch_box, destination, 6);
    talks.go_on(switch_box);
    assert_eq!(switch_box.live(source), old);
    assert_eq!(switch_box.live(destination), talks.of(destination));
    assert!(old > 0);

    // The clone inherits the source's sockets; its resets reach nobody.
    let resets = talks.open.iter().filter(|(.., owner)| *owner == source);
    let rst = segment(TcpFlags::RST, 500, 0);
    let resets: Vec<_> = resets.map(|(flow, ..)| flow.sent_by(destination, rst)).collect();
    for ended in switch_box.feed(&resets) {
        assert!(ended.sent.is_none(), "{ended:?}");
    }
    assert_eq!(switch_box.live(source), old);

    talks.finish(switch_box, source);
    assert_eq!((switch_box.live(source), switch_box.entries(source)), (0, 0), "drained");
    switch_box.release();
    talks.go_on(switch_box);
    assert_eq!(switch_box.live(destination), talks.of(destination));
}

#[test]
fn old_new_old_new() {
    for (old_mode, new_mode) in
        [(Mode::L2, Mode::L2), (Mode::Nat, Mode::Nat), (Mode::Nat, Mode::L2), (Mode::L2, Mode::Nat)]
    {
        for shards in 1..=3 {
            let mut source = Vm::old(1, old_mode);
            let mut switch_box = SwitchBox::new(shards, source);
            let mut talks = Talks { open: Vec::new(), next_port: 1 };
            for round in 1..=3 {
                let slot = 1 + round;
                let destination =
                    if round % 2 == 1 { Vm::new(slot, new_mode) } else { Vm::old(slot, old_mode) };
                migrate(&mut switch_box, &mut talks, source, destination);
                source = destination;
            }
            let epochs = switch_box.sessions().iter().map(|it| it.birth_epoch).collect::<Vec<_>>();
            assert!(epochs.iter().all(|&epoch| epoch == 4), "{epochs:?}");
            switch_box.moved();
        }
    }
}

/// Behind tunnels, VLANs and devices, there and back.
#[test]
fn between_access_switches() {
    let pairs = TUNNELS.map(|tunnel| (OLD_PORT, tunnel)).into_iter().chain([
        (VLAN, QINQ),
        (QINQ, TUNNELS[2]),
        (TUNNELS[0], TUNNELS[1]),
        (TUNNELS[5], TUNNELS[2]),
    ]);
    for (number, (here, there)) in pairs.enumerate() {
        for mode in [Mode::Nat, Mode::L2] {
            let mut source = Vm::behind(here, 1, mode);
            let mut switch_box = SwitchBox::new(1 + number as u16 % 3, source);
            let mut talks = Talks { open: Vec::new(), next_port: 1 };
            for (slot, port) in [(2, there), (3, here)] {
                let destination = Vm::behind(port, slot, mode);
                migrate(&mut switch_box, &mut talks, source, destination);
                source = destination;
            }
            switch_box.moved();
        }
    }
}

#[test]
fn a_migration_aborted_and_begun_again() {
    for shards in 1..=3 {
        let source = Vm::old(1, Mode::L2);
        let mut switch_box = SwitchBox::new(shards, source);
        let mut talks = Talks { open: Vec::new(), next_port: 1 };
        talks.begin(&mut switch_box, source, 6);
        for slot in 2..5 {
            let destination = Vm::new(slot, Mode::L2);
            switch_box.set_destination(destination);
            if slot % 2 == 0 {
                assert_eq!(switch_box.cutover(Unknown::Source), talks.of(source));
                let mut lost = Talks { open: Vec::new(), next_port: 1000 };
                lost.begin(&mut switch_box, destination, 6);
            }
            switch_box.abort();
            switch_box.sweep();
            talks.go_on(&mut switch_box);
            assert_eq!(switch_box.live(source), talks.of(source));
            assert_eq!(switch_box.entries(destination), 0);
        }
        migrate(&mut switch_box, &mut talks, source, Vm::new(9, Mode::L2));
        let lingering = |it: &&_| !crate::switch_box::world::is_live(it);
        assert_eq!(switch_box.sessions().iter().filter(lingering).count(), 0);
        assert!(switch_box.sessions().iter().all(|it| it.state != SessionState::Closing));
    }
}
