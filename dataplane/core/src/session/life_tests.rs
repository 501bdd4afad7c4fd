//! Lives, segment by segment.

use super::{SessionState::*, *};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const FIN_ACK: TcpFlags = TcpFlags(0x11);
const RST_ACK: TcpFlags = TcpFlags(0x14);

/// From the client.
fn c(flags: TcpFlags, sequence: u32, acknowledgement: u32, payload_len: u32) -> (bool, TcpSegment) {
    (true, TcpSegment { flags, sequence, acknowledgement, payload_len })
}

/// From the VM.
fn v(flags: TcpFlags, sequence: u32, acknowledgement: u32, payload_len: u32) -> (bool, TcpSegment) {
    (false, TcpSegment { flags, sequence, acknowledgement, payload_len })
}

fn follow(life: &mut Life, marks: &mut Marks, steps: &[(bool, TcpSegment)]) -> Vec<SessionState> {
    let mut state_after = |(from_client, segment): &(bool, TcpSegment)| {
        life.follow_tcp(marks, segment, *from_client);
        life.state()
    };
    steps.iter().map(&mut state_after).collect()
}

/// The states of a session that the client begins.
fn states(steps: &[(bool, TcpSegment)]) -> Vec<SessionState> {
    follow(&mut Life::new(Opening, false), &mut [0; 2], steps)
}

/// The states of a session whose handshake is over.
fn states_from_established(steps: &[(bool, TcpSegment)]) -> Vec<SessionState> {
    follow(&mut Life::new(Established, false), &mut [0; 2], steps)
}

/// RFC 7857, section 2.
#[test]
fn ordinary_life() {
    let life = [
        c(SYN, 99, 0, 0),
        v(SYN_ACK, 499, 100, 0),
        c(ACK, 100, 500, 0),
        c(FIN_ACK, 100, 500, 10),
        v(ACK, 500, 111, 0),
        v(FIN_ACK, 500, 111, 0),
        c(ACK, 111, 501, 0),
    ];
    assert_eq!(
        states(&life),
        [Opening, Opening, Established, Closing, Closing, Closing, Lingering]
    );
}

#[test]
fn the_vm_begins() {
    let life = [v(SYN, 99, 0, 0), c(SYN_ACK, 499, 100, 0), v(ACK, 100, 500, 0)];
    let begun = follow(&mut Life::new(Opening, true), &mut [0; 2], &life);
    assert_eq!(begun, [Opening, Opening, Established]);
}

/// RFC 9293, section 3.5, figure 7.
/// RFC 5382, REQ-2a.
#[test]
fn simultaneous_open() {
    let life =
        [c(SYN, 99, 0, 0), v(SYN, 299, 0, 0), c(SYN_ACK, 99, 300, 0), v(SYN_ACK, 299, 100, 0)];
    assert_eq!(states(&life), [Opening, Opening, Established, Established]);
}

#[test]
fn an_acknowledgement_that_nobody_can_guess_ends_the_handshake() {
    let answered = [c(SYN, 99, 0, 0), v(SYN_ACK, u32::MAX, 100, 0)];
    for (acknowledgement, state) in [
        (0, Established),
        (HANDSHAKE_WINDOW - 1, Established),
        (HANDSHAKE_WINDOW, Opening),
        (u32::MAX, Opening),
    ] {
        let life = [answered[0], answered[1], c(ACK, 100, acknowledgement, 0)];
        assert_eq!(states(&life)[2], state, "{acknowledgement}");
    }
    // Not without an answer, and not by the responder.
    assert_eq!(states(&[c(SYN, 99, 0, 0), c(ACK, 100, 0, 0)])[1], Opening);
    assert_eq!(states(&[c(SYN, 99, 0, 0), v(ACK, 500, 100, 0)])[1], Opening);
}

#[test]
fn syns_and_their_answers_again() {
    let life = [
        c(SYN, 99, 0, 0),
        c(SYN, 99, 0, 0),
        v(SYN_ACK, 499, 100, 0),
        v(SYN_ACK, 499, 100, 0),
        c(ACK, 100, 500, 0),
        v(SYN_ACK, 499, 100, 0),
        c(ACK, 100, 500, 0),
    ];
    assert_eq!(states(&life)[3..], [Opening, Established, Established, Established]);
}

#[test]
fn fast_open_carries_data_in_the_syn() {
    let refused = [c(SYN, 99, 0, 10), v(RST_ACK, 0, 110, 0)];
    assert_eq!(states(&refused), [Opening, Lingering]);
    let life = [c(SYN, 99, 0, 10), v(SYN_ACK, 499, 110, 20), c(ACK, 110, 520, 0)];
    assert_eq!(states(&life), [Opening, Opening, Established]);
}

#[test]
fn exact_resets_of_a_handshake_are_believed() {
    assert_eq!(states(&[c(SYN, 99, 0, 0), v(RST_ACK, 0, 100, 0)])[1], Lingering);
    assert_eq!(states(&[c(SYN, 99, 0, 0), v(RST_ACK, 0, 101, 0)])[1], Opening);
    assert_eq!(states(&[c(SYN, 99, 0, 0), v(RST, 0, 100, 0)])[1], Opening);
    assert_eq!(states(&[c(SYN, 99, 0, 0), c(RST, 100, 0, 0)])[1], Lingering);
    assert_eq!(states(&[c(SYN, 99, 0, 0), c(RST, 7, 0, 0)])[1], Opening);
}

#[test]
fn a_reset_is_believed_when_nobody_goes_on() {
    // In the client's name; the VM answers with a challenge ACK, so it lives.
    let challenged = [c(RST, 7, 0, 0), c(ACK, 100, 500, 3), v(ACK, 500, 100, 0)];
    assert_eq!(states_from_established(&challenged), [Resetting, Resetting, Established]);
    // The other way round.
    let challenged = [v(RST, 7, 0, 0), v(ACK, 500, 100, 3), c(ACK, 100, 500, 0)];
    assert_eq!(states_from_established(&challenged), [Resetting, Resetting, Established]);
    // A segment was on its way, and is answered by a reset again.
    let crossed = [c(RST, 100, 0, 0), v(ACK, 500, 100, 9), c(RST, 100, 0, 0)];
    assert_eq!(states_from_established(&crossed), [Resetting, Established, Resetting]);
}

/// Who gets an RST believes it where it expects the next number, and passes it over outside its window (RFC 5961, section
/// 3.2): nothing comes back then, and nobody may conclude that the session is over.
#[test]
fn a_reset_is_no_more_than_its_number() {
    for (number, state, doubted) in [
        (100, Resetting, false),
        (101, Resetting, true),
        (100 + RESET_WINDOW - 1, Resetting, true),
        (100 + RESET_WINDOW, Established, false),
        (99, Established, false),
        (100 + (1 << 31), Established, false),
    ] {
        let (mut life, mut marks) = (Life::new(Established, false), [0; 2]);
        let talk = [c(ACK, 100, 500, 0), v(ACK, 500, 100, 0), c(RST, number, 0, 0)];
        assert_eq!(follow(&mut life, &mut marks, &talk)[2], state, "{number}");
        assert_eq!(state == Resetting && life.is_doubted(&marks), doubted, "{number}");
        // It was challenged, and answered with the right number.
        let exact = [v(ACK, 500, 100, 0), c(RST, 100, 0, 0)];
        assert_eq!(follow(&mut life, &mut marks, &exact)[1], Resetting);
        assert!(!life.is_doubted(&marks), "{number}");
    }
    // Where nothing is known of the side, any number may be the right one.
    let (mut life, mut marks) = (Life::imported(ImportedState::Established), [0; 2]);
    assert_eq!(follow(&mut life, &mut marks, &[v(RST, 9, 0, 0)]), [Resetting]);
    assert!(life.is_doubted(&marks));
}

#[test]
fn a_reset_behind_a_fin_has_its_number_or_that_before() {
    for (number, state) in [(111, Resetting), (110, Resetting), (109, Closing), (112, Closing)] {
        let life = [c(ACK, 100, 500, 0), v(ACK, 500, 100, 0), c(FIN_ACK, 100, 500, 10)];
        let life = [&life[..], &[c(RST, number, 0, 0)]].concat();
        assert_eq!(states_from_established(&life)[3], state, "{number}");
    }
}

#[test]
fn what_a_client_says_is_confirmed_by_the_vm() {
    for reset in [false, true] {
        let mut life = Life::new(Established, false).unconfirmed();
        let mut marks = [0; 2];
        follow(&mut life, &mut marks, &[c(ACK, 100, 500, 9), c(FIN_ACK, 109, 500, 0)]);
        assert!(life.is_unconfirmed() && life.is_settled(true) == life.is_settled(false));
        let flags = if reset { RST } else { ACK };
        follow(&mut life, &mut marks, &[v(flags, 500, 110, 0)]);
        assert_eq!(life.is_unconfirmed(), reset);
    }
    let settled = Life::new(Established, false).unconfirmed();
    assert!(settled.is_settled(true) && !settled.is_settled(false), "the VM's packet is news");
}

#[test]
fn a_reset_while_closing_forgets_no_fin() {
    let life = [
        c(FIN_ACK, 100, 500, 0),
        v(ACK, 500, 101, 1400),
        c(RST, 101, 0, 0),
        v(FIN_ACK, 1900, 101, 0),
        c(ACK, 101, 1901, 0),
    ];
    assert_eq!(states_from_established(&life), [Closing, Closing, Resetting, Closing, Lingering]);
}

#[test]
fn an_ack_short_of_the_fin_does_not_close() {
    let life = [
        c(FIN_ACK, 100, 500, 10),
        v(FIN_ACK, 500, 110, 0),
        c(ACK, 111, 501, 0),
        v(ACK, 501, 111, 0),
    ];
    assert_eq!(states_from_established(&life), [Closing, Closing, Closing, Lingering]);
}

#[test]
fn simultaneous_close_and_wrapped_sequence_numbers() {
    let life =
        [c(FIN_ACK, u32::MAX, 7, 0), v(FIN_ACK, 7, u32::MAX, 0), c(ACK, 0, 8, 0), v(ACK, 8, 0, 0)];
    assert_eq!(states_from_established(&life), [Closing, Closing, Closing, Lingering]);
}

#[test]
fn nothing_follows_the_end() {
    let life = [
        c(FIN_ACK, 100, 500, 0),
        v(FIN_ACK, 500, 101, 0),
        c(ACK, 101, 501, 0),
        v(FIN_ACK, 500, 101, 0),
        c(RST, 101, 0, 0),
        v(ACK, 501, 101, 5),
    ];
    assert_eq!(states_from_established(&life)[2..], [Lingering; 4]);
}

#[test]
fn datagrams_are_a_session_when_the_initiator_goes_on() {
    for (begun_by_vm, first) in [(false, true), (true, false)] {
        let (mut life, mut marks) = (Life::new(Opening, begun_by_vm), [0; 2]);
        for (from_client, state) in [
            (first, Opening),
            (first, Opening),
            (!first, Opening),
            (!first, Opening),
            (first, Established),
        ] {
            life.follow_datagram(&mut marks, from_client);
            assert_eq!(life.state(), state);
        }
        assert_eq!(life.is_begun_by_vm(), begun_by_vm);
    }
}

#[test]
fn a_stream_of_datagrams_needs_no_answer() {
    let (mut life, mut marks) = (Life::new(Opening, false), [0; 2]);
    for packet in 1..=ONE_WAY_STREAM {
        assert_eq!(life.state(), Opening, "before packet {packet}");
        life.follow_datagram(&mut marks, true);
    }
    assert_eq!(life.state(), Established);
    assert!(life.is_unconfirmed(), "nobody but the client has spoken");
    life.follow_datagram(&mut marks, false);
    assert!(!life.is_unconfirmed());
}

#[test]
fn what_begins_with_a_fin_is_ending_unless_data_follows() {
    let (mut life, mut marks) = (Life::new(Closing, false), [0; 2]);
    let fin = [c(FIN_ACK, 100, 500, 0), v(ACK, 500, 101, 0)];
    assert_eq!(follow(&mut life, &mut marks, &fin), [Closing, Closing]);
    assert!(life.is_ending());
    follow(&mut life, &mut marks, &[v(ACK, 500, 101, 1)]);
    assert!(!life.is_ending(), "the other side goes on");
    let end = [v(FIN_ACK, 501, 101, 0), c(ACK, 101, 502, 0)];
    assert_eq!(follow(&mut life, &mut marks, &end), [Closing, Lingering]);
}
