use super::*;
use crate::{
    frame::Mac,
    topology::{Clients, Vm},
};

const LOCATORS: [u32; 2] = [0x0a08_000b, 0x0a08_000c];
const MANAGED: (u32, u16) = (0x0a09_0064, 80);
const UPLINK: Mac = [2, 0, 0, 0, 1, 1];
const ACCESS: Mac = [2, 0, 0, 0, 2, 1];
const CLIENT: Mac = [2, 0, 0, 0, 9, 2];
const VMS: [Mac; 2] = [[2, 0, 0, 0, 10, 1], [2, 0, 0, 0, 10, 2]];

type Frame = [u8; frame::SMALLEST];

fn life() -> Life {
    let vm =
        |number| Vm { port: number, mac: VMS[number], address: LOCATORS[number], gateway: ACCESS };
    let topology = Topology {
        managed: MANAGED,
        client: Clients { mac: CLIENT, gateway: UPLINK },
        source: vm(0),
        destination: vm(1),
    };
    Life::new(16, topology).expect("memory")
}

/// What a box does to a client's frame on its way to VM `vm`.
fn to_vm(frame: &mut [u8], vm: usize) {
    rewritten(frame, |head| {
        (head.source_mac, head.destination_mac) = (ACCESS, VMS[vm]);
        head.destination.0 = LOCATORS[vm];
    });
}

/// What a box does to a VM's frame on its way to the client.
fn to_client(frame: &mut [u8]) {
    rewritten(frame, |head| {
        (head.source_mac, head.destination_mac) = (UPLINK, CLIENT);
        head.source.0 = MANAGED.0;
    });
}

fn rewritten(frame: &mut [u8], change: impl FnOnce(&mut Head)) {
    let Segment { mut head, tag, .. } = frame::read(frame).expect("ours");
    change(&mut head);
    frame::write(frame, &head, tag.as_ref());
    frame::stamp(frame, tag.map_or(0, |tag| tag.stamp));
}

/// Take a client's frame to VM `vm` and, if that answers, its answer to the client; and so on. Whether all went well.
fn converse(life: &mut Life, stage: Stage, vm: usize, frame: &mut Frame) -> bool {
    let before = life.faults;
    let mut bytes = frame::SMALLEST;
    loop {
        to_vm(&mut frame[..bytes], vm);
        let Arrival::Ours(Answer::Whole, _) = life.at_vm(vm, stage, &mut frame[..bytes]) else {
            break;
        };
        to_client(frame);
        match life.at_client(frame) {
            Arrival::Ours(Answer::Whole, _) => {}
            Arrival::Ours(Answer::Bare, _) => bytes = frame::BARE,
            _ => break,
        }
    }
    life.faults == before
}

fn opened(life: &mut Life, stage: Stage, vm: usize) {
    let mut frame = [0; frame::SMALLEST];
    assert!(life.begin(stage, &mut frame));
    assert!(converse(life, stage, vm, &mut frame), "{:?}", life.faults);
}

fn segment(life: &mut Life) -> Frame {
    let mut frame = [0; frame::SMALLEST];
    let number = life.choose().expect("one is open");
    life.go_on(number, &mut frame);
    frame
}

#[test]
fn whole_lives_are_without_fault_and_ports_are_used_anew() {
    let mut life = life();
    for round in 1..=100 {
        for _ in 0..3 {
            opened(&mut life, Stage::Before, 0);
        }
        for _ in 0..5 {
            let mut frame = segment(&mut life);
            assert!(converse(&mut life, Stage::Before, 0, &mut frame));
        }
        let mut frame = [0; frame::SMALLEST];
        while life.end(&mut frame) {
            assert!(converse(&mut life, Stage::Before, 0, &mut frame));
        }
        let Tally { opened, established, closed, at_source, .. } = life.tally;
        assert_eq!([opened, established, closed, at_source], [3 * round; 4]);
    }
    assert_eq!(life.faults.total(), 0, "{:?}", life.faults);
}

#[test]
fn behind_l2_vms_are_told_apart_by_their_port() {
    let vm = |port| Vm { port, mac: VMS[0], address: MANAGED.0, gateway: ACCESS };
    let client = Clients { mac: CLIENT, gateway: UPLINK };
    let topology = Topology { managed: MANAGED, client, source: vm(0), destination: vm(1) };
    let mut life = Life::new(4, topology).expect("memory");
    let mut frame = [0; frame::SMALLEST];
    life.begin(Stage::Before, &mut frame);
    rewritten(&mut frame, |head| (head.source_mac, head.destination_mac) = (ACCESS, VMS[0]));
    let mut astray = frame;
    assert_eq!(life.at_vm(1, Stage::Before, &mut astray), Arrival::Ours(Answer::None, None));
    assert_eq!(life.faults, Faults { misdirected: 1, ..Faults::default() });
    assert!(matches!(life.at_vm(0, Stage::Before, &mut frame), Arrival::Ours(Answer::Whole, _)));
}

#[test]
fn no_more_sessions_than_ports() {
    let mut life = life();
    (0..16).for_each(|_| opened(&mut life, Stage::Before, 0));
    assert!(!life.begin(Stage::Before, &mut [0; frame::SMALLEST]));
}

#[test]
fn the_owner_follows_the_stage_and_stays() {
    let mut life = life();
    opened(&mut life, Stage::Before, 0);
    opened(&mut life, Stage::UnderWay, 0);
    opened(&mut life, Stage::UnderWay, 1);
    opened(&mut life, Stage::Done, 1);
    let Tally { at_source, at_destination, either, .. } = life.tally;
    assert_eq!((at_source, at_destination, either), (2, 2, 2));
    for number in 0..4 {
        let owner = life.sessions[number].owner as usize - 1;
        for (vm, is_right) in [(owner, true), (1 - owner, false)] {
            let mut frame = [0; frame::SMALLEST];
            life.go_on(number as u32, &mut frame);
            assert_eq!(
                converse(&mut life, Stage::Done, vm, &mut frame),
                is_right,
                "{number} at {vm}"
            );
        }
    }
    assert_eq!(life.faults, Faults { misdirected: 4, ..Faults::default() });
}

#[test]
fn a_new_session_at_the_wrong_vm_is_misdirected() {
    for (sent, arrived, vm, is_right) in [
        (Stage::Before, Stage::Before, 1, false),
        (Stage::Before, Stage::UnderWay, 1, true),
        (Stage::Before, Stage::Done, 1, true),
        (Stage::UnderWay, Stage::Done, 0, true),
        (Stage::Done, Stage::Done, 0, false),
    ] {
        let mut life = life();
        let mut frame = [0; frame::SMALLEST];
        life.begin(sent, &mut frame);
        assert_eq!(
            converse(&mut life, arrived, vm, &mut frame),
            is_right,
            "{sent:?} {arrived:?} {vm}"
        );
        assert_eq!(life.faults.misdirected, u64::from(!is_right));
    }
}

/// Spoil a segment on its way to the source, and say what the checker found.
fn found_at_vm(spoil: impl FnOnce(&mut Frame)) -> Faults {
    let mut life = life();
    opened(&mut life, Stage::Before, 0);
    let mut frame = segment(&mut life);
    to_vm(&mut frame, 0);
    spoil(&mut frame);
    assert!(matches!(life.at_vm(0, Stage::Before, &mut frame), Arrival::Ours(Answer::None, None)));
    life.faults
}

/// The same on the way to the client.
fn found_at_client(spoil: impl FnOnce(&mut Frame)) -> Faults {
    let mut life = life();
    opened(&mut life, Stage::Before, 0);
    let mut frame = segment(&mut life);
    to_vm(&mut frame, 0);
    assert!(matches!(life.at_vm(0, Stage::Before, &mut frame), Arrival::Ours(Answer::Whole, _)));
    to_client(&mut frame);
    spoil(&mut frame);
    assert_eq!(life.at_client(&mut frame), Arrival::Ours(Answer::None, None));
    life.faults
}

#[test]
fn whatever_is_spoilt_is_found_under_its_name() {
    let none = Faults::default();
    let ip = Faults { ip_checksum: 1, ..none };
    let tcp = Faults { tcp_checksum: 1, ..none };
    let address = Faults { address: 1, ..none };
    let tag = Faults { tag: 1, ..none };
    assert_eq!(found_at_vm(|frame| frame[24] ^= 1), ip);
    assert_eq!(found_at_client(|frame| frame[24] ^= 1), ip);
    assert_eq!(found_at_vm(|frame| frame[50] ^= 1), tcp);
    assert_eq!(found_at_vm(|frame| frame[69] ^= 1), tcp, "the payload");
    assert_eq!(found_at_client(|frame| frame[50] ^= 1), tcp);
    // With right checksums:
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.destination = MANAGED)), address);
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.destination_mac = CLIENT)), address);
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.source.0 = 0x0a09_0001)), address);
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.source.1 += 1)), tag, "another client's");
    assert_eq!(found_at_client(|it| rewritten(it, |head| head.source.0 = LOCATORS[0])), address);
    assert_eq!(found_at_client(|it| rewritten(it, |head| head.destination.1 += 1)), tag);
    let unexpected = Faults { unexpected: 1, ..none };
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.flags = flags::SYN)), unexpected);
    assert_eq!(found_at_vm(|it| rewritten(it, |head| head.acknowledgement += 1000)), unexpected);
    assert_eq!(found_at_client(|it| rewritten(it, |head| head.flags |= flags::SYN)), unexpected);
}

#[test]
fn an_answer_of_the_other_vm_is_misdirected() {
    let faults = found_at_client(|frame| {
        let Segment { head, tag, .. } = frame::read(frame).expect("ours");
        let tag = Tag { vm: Owner::Destination as u8, ..tag.expect("tagged") };
        frame::write(frame, &head, Some(&tag));
    });
    assert_eq!(faults, Faults { misdirected: 1, ..Faults::default() });
}

#[test]
fn order_is_noticed_and_loss_is_not_mistaken_for_it() {
    let mut life = life();
    opened(&mut life, Stage::Before, 0);
    let [first, second, third, mut fourth] = [(); 4].map(|()| segment(&mut life));
    let arrive = |life: &mut Life, frame: &Frame| {
        let mut frame = *frame;
        to_vm(&mut frame, 0);
        life.at_vm(0, Stage::Before, &mut frame);
        life.faults.reordered
    };
    assert_eq!(arrive(&mut life, &second), 0, "perhaps the first is lost");
    assert_eq!(arrive(&mut life, &first), 1);
    assert_eq!(arrive(&mut life, &third), 1);
    assert_eq!(arrive(&mut life, &third), 2, "twice");
    assert_eq!(life.faults.total(), 2);
    assert!(!converse(&mut life, Stage::Before, 1, &mut fourth));
    assert_eq!(life.faults.misdirected, 1);
}

#[test]
fn a_segment_of_an_earlier_life_is_found() {
    let mut life = life();
    opened(&mut life, Stage::Before, 0);
    let mut late = segment(&mut life);
    let mut frame = [0; frame::SMALLEST];
    assert!(life.end(&mut frame));
    assert!(converse(&mut life, Stage::Before, 0, &mut frame));
    assert!(!converse(&mut life, Stage::Before, 0, &mut late.clone()));
    assert_eq!(life.faults.unexpected, 1, "nobody is there");
    // All ports once, until this one's turn comes again.
    (0..16).for_each(|_| opened(&mut life, Stage::Before, 0));
    assert!(!converse(&mut life, Stage::Before, 0, &mut late));
    assert_eq!(life.faults, Faults { unexpected: 1, tag: 1, ..Faults::default() });
}

#[test]
fn what_is_not_a_sessions_is_foreign() {
    let mut life = life();
    assert_eq!(life.at_vm(0, Stage::Before, &mut [0; 60]), Arrival::Foreign);
    let mut frame = [0; frame::SMALLEST];
    life.begin(Stage::Before, &mut frame);
    rewritten(&mut frame, |head| head.destination.1 = 443);
    assert_eq!(life.at_vm(0, Stage::Before, &mut frame), Arrival::Foreign);
}
