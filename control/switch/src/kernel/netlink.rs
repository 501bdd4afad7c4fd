//! Requests to the kernel's routing tables (rtnetlink(7)).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    thread,
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::{KernelError, answer::Answer};

/// Bytes of one read: more than the kernel puts into one message.
const READ_BYTES: usize = 1 << 18;
/// Bytes the kernel may keep for us: some 20,000 notifications.
const QUEUE_BYTES: usize = 1 << 25;
/// How often something is listed that changes each time meanwhile.
const DUMPS: u32 = 8;
/// Whoever changes it is given this time to finish.
const BETWEEN_DUMPS: Duration = Duration::from_millis(10);

/// A message of the kernel.
#[derive(Debug)]
pub(super) struct Message {
    /// What it is about (`RTM_*`).
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// Of the request it answers; zero when it answers none.
    pub(super) sequence: u32,
    /// `None` when this version of the library cannot read it.
    pub(super) payload: Option<NetlinkPayload<RouteNetlinkMessage>>,
}

/// A netlink socket.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    /// Whether a request was given up: what is left of its answer may come yet, and the kernel may be busy with it.
    is_amiss: bool,
}

impl Netlink {
    /// One that hears what happens to these groups.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(super) fn open(groups: &[u32]) -> Result<Self, KernelError> {
        let failed = |reason| KernelError::Netlink { what: "a netlink socket", reason };
        let socket = connect().map_err(failed)?;
        for group in groups {
            socket.add_membership(*group).map_err(failed)?;
        }
        let buffer = Vec::with_capacity(READ_BYTES);
        Ok(Self { socket, buffer, sequence: 0, is_amiss: false })
    }

    /// Whether reading waits.
    pub(super) fn set_waiting(&self, waits: bool) -> io::Result<()> {
        self.socket.set_non_blocking(!waits)
    }

    /// All entries that `request` asks for, gathered by `each`. If they change while they are listed, they are gathered
    /// anew.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn dump<T: Default>(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(&mut T, RouteNetlinkMessage),
    ) -> Result<T, KernelError> {
        for _ in 0..DUMPS {
            let mut gathered = T::default();
            let (flags, request) = (NLM_F_REQUEST | NLM_F_DUMP, request.clone());
            let answer = self.exchange(what, request, flags, |entry| each(&mut gathered, entry))?;
            if answer.is_interrupted {
                thread::sleep(BETWEEN_DUMPS);
                continue;
            }
            if answer.unread != 0 {
                let unread = answer.unread;
                tracing::warn!(what, unread, "entries of the kernel that cannot be read; left out");
            }
            return Ok(gathered);
        }
        Err(KernelError::Restless { what, times: DUMPS })
    }

    /// Have the kernel do something, and wait until it has.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn order(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), KernelError> {
        self.exchange(what, request, NLM_F_REQUEST | NLM_F_ACK | flags, |_| {}).map(|_| ())
    }

    /// A request, and all of its answer.
    fn exchange(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<Answer, KernelError> {
        let failed = |reason| KernelError::Netlink { what, reason };
        if self.is_amiss {
            self.socket = connect().map_err(failed)?;
        }
        // However this ends before the answer does.
        self.is_amiss = true;
        let mut answer = Answer::to(self.send(what, request, flags)?);
        while !answer.is_done {
            self.read().map_err(failed)?;
            self.messages(what, |message| {
                answer.take(message).into_iter().for_each(&mut each);
                Ok(())
            })?;
        }
        self.is_amiss = false;
        match answer.refusal.take() {
            Some(reason) => Err(failed(reason)),
            None => Ok(answer),
        }
    }

    /// What says when there is something to read.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Read once; bytes are then in the buffer.
    pub(super) fn read(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        Ok(())
    }

    /// Each message of the last read.
    ///
    /// # Errors
    /// [`KernelError::Answer`], or what `each` says.
    pub(super) fn messages(
        &self,
        what: &'static str,
        mut each: impl FnMut(Message) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let bad = |reason: String| KernelError::Answer { what, reason };
            // struct nlmsghdr: u32 length, u16 type, u16 flags, u32 sequence number, u32 sender.
            let Some(head) = rest.first_chunk::<16>() else {
                return Err(bad(format!("a message of {} bytes", rest.len())));
            };
            let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            if length < head.len() || length > rest.len() {
                return Err(bad(format!("a message of {length} bytes in {}", rest.len())));
            }
            let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
            each(Message {
                kind: u16::from_ne_bytes([k0, k1]),
                flags: u16::from_ne_bytes([f0, f1]),
                sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
                payload: read.ok().map(|message| message.payload),
            })?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Send a request, and give its sequence number.
    fn send(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<u32, KernelError> {
        // Zero is that of notifications.
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let failed = |reason| KernelError::Netlink { what, reason };
        self.socket.send(&bytes, 0).map_err(failed)?;
        Ok(self.sequence)
    }
}

/// A socket to the kernel.
fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Whatever `rmem_max` says. Who may not has to read everything again more often.
    let _ = set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn links() -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(LinkMessage::default())
    }

    fn names(netlink: &mut Netlink) -> Result<Vec<LinkAttribute>, KernelError> {
        netlink.dump("reading names", links(), |names: &mut Vec<_>, entry| {
            if let RouteNetlinkMessage::NewLink(link) = entry {
                names.extend(
                    link.attributes.into_iter().filter(|it| matches!(it, LinkAttribute::IfName(_))),
                );
            }
        })
    }

    #[test]
    fn after_a_request_that_was_given_up_the_next_gets_its_own_answer() {
        let mut netlink = Netlink::open(&[]).expect("a socket");
        let known = names(&mut netlink).expect("a list");
        assert!(known.contains(&LinkAttribute::IfName("lo".to_owned())));
        // The kernel lists links, and nobody reads on.
        netlink.send("giving up", links(), NLM_F_REQUEST | NLM_F_DUMP).expect("sent");
        netlink.is_amiss = true;
        assert_eq!(names(&mut netlink).expect("a list"), known);
        assert!(!netlink.is_amiss);
        // A refusal is an answer.
        let mut unknown = LinkMessage::default();
        unknown.header.index = i32::MAX as u32;
        let order = RouteNetlinkMessage::SetLink(unknown);
        assert!(netlink.order("setting nothing", order, 0).is_err() && !netlink.is_amiss);
        assert_eq!(names(&mut netlink).expect("a list"), known);
    }
}
