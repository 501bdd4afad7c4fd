//! The answer to one request, told apart from what is left of others. No I/O.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::netlink::Message;

/// What has come so far of the answer to a request.
#[derive(Debug, Default)]
pub(super) struct Answer {
    sequence: u32,
    /// Whether nothing more belongs to it.
    pub(super) is_done: bool,
    /// Whether what was listed changed meanwhile: entries may be missing.
    pub(super) is_interrupted: bool,
    /// How many entries could not be read.
    pub(super) unread: usize,
    /// Why the kernel did not do as asked.
    pub(super) refusal: Option<io::Error>,
}

impl Answer {
    /// To the request with this sequence number.
    pub(super) fn to(sequence: u32) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Take in a message, and give its entry. One that answers an older request is nothing to this one: its end is not
    /// this one's end.
    pub(super) fn take(&mut self, message: Message) -> Option<RouteNetlinkMessage> {
        if message.sequence != self.sequence {
            return None;
        }
        self.is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            Some(NetlinkPayload::Done(done)) => {
                self.is_done = true;
                // Zero is no error, else it is errno(3), negative.
                self.refusal =
                    (done.code != 0).then(|| io::Error::from_raw_os_error(done.code.abs()));
            }
            Some(NetlinkPayload::Error(error)) => {
                self.is_done = true;
                self.refusal = error.code.is_some().then(|| error.to_io());
            }
            Some(NetlinkPayload::InnerMessage(entry)) => return Some(entry),
            Some(_) => {}
            None => self.unread += 1,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    type Payload = NetlinkPayload<RouteNetlinkMessage>;

    fn message(sequence: u32, flags: u16, payload: Payload) -> Message {
        Message { kind: 0, flags, sequence, payload: Some(payload) }
    }

    fn entry(sequence: u32) -> Message {
        let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
        message(sequence, 0, NetlinkPayload::InnerMessage(link))
    }

    fn done(code: i32) -> Payload {
        let mut done = DoneMessage::default();
        done.code = code;
        NetlinkPayload::Done(done)
    }

    #[test]
    fn what_is_left_of_an_older_request_neither_adds_nor_ends() {
        let mut answer = Answer::to(7);
        let stale = [entry(6), message(6, NLM_F_DUMP_INTR, done(0)), message(6, 0, done(-105))];
        assert!(stale.into_iter().all(|it| answer.take(it).is_none()));
        let none = Message { kind: 0, flags: 0, sequence: 6, payload: None };
        assert!(answer.take(none).is_none());
        assert!(!answer.is_done && !answer.is_interrupted && answer.unread == 0);
        assert!(answer.take(entry(7)).is_some());
        assert!(answer.take(message(7, 0, done(0))).is_none());
        assert!(answer.is_done && answer.refusal.is_none());
    }

    #[test]
    fn a_change_meanwhile_is_noticed_wherever_it_is_said() {
        let mut answer = Answer::to(1);
        let said = Message { flags: NLM_F_DUMP_INTR, ..entry(1) };
        assert!(answer.take(said).is_some() && answer.is_interrupted);
        let mut answer = Answer::to(1);
        assert!(answer.take(message(1, NLM_F_DUMP_INTR, done(0))).is_none());
        assert!(answer.is_done && answer.is_interrupted);
    }

    #[test]
    fn a_refusal_ends_it() {
        let mut error = ErrorMessage::default();
        error.code = NonZeroI32::new(-16);
        for payload in [NetlinkPayload::Error(error), done(-16)] {
            let mut answer = Answer::to(1);
            assert!(answer.take(message(1, 0, payload)).is_none() && answer.is_done);
            assert_eq!(answer.refusal.expect("EBUSY").raw_os_error(), Some(16));
        }
        // An acknowledgement is an error without one.
        let mut answer = Answer::to(1);
        let fine = NetlinkPayload::Error(ErrorMessage::default());
        assert!(answer.take(message(1, 0, fine)).is_none() && answer.is_done);
        assert!(answer.refusal.is_none());
    }
}
