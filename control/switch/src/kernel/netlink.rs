//! Requests to the kernel's routing tables (rtnetlink(7)).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::KernelError;

/// Bytes of one read: more than the kernel puts into one message.
const READ_BYTES: usize = 1 << 18;
/// Bytes the kernel may keep for us: some 20,000 notifications.
const QUEUE_BYTES: usize = 1 << 25;

/// A message of the kernel.
pub(super) struct Message {
    /// What it is about (`RTM_*`).
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// `None` when this version of the library cannot read it.
    pub(super) payload: Option<NetlinkPayload<RouteNetlinkMessage>>,
}

/// A netlink socket.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// One that hears what happens to these groups.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(super) fn open(groups: &[u32]) -> Result<Self, KernelError> {
        let failed = |reason| KernelError::Netlink { what: "a netlink socket", reason };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Whatever `rmem_max` says. Who may not has to read everything again more often.
        let _ = set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES);
        for group in groups {
            socket.add_membership(*group).map_err(failed)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BYTES), sequence: 0 })
    }

    /// Whether reading waits.
    pub(super) fn set_waiting(&self, waits: bool) -> io::Result<()> {
        self.socket.set_non_blocking(!waits)
    }

    /// All entries that `request` asks for.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn dump(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), KernelError> {
        self.send(what, request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut done, mut unread) = (false, 0);
        while !done {
            let failed = |reason| KernelError::Netlink { what, reason };
            self.read().map_err(failed)?;
            self.messages(what, |message| {
                match message.payload {
                    Some(NetlinkPayload::Done(_)) => done = true,
                    Some(NetlinkPayload::Error(error)) => return Err(failed(error.to_io())),
                    Some(NetlinkPayload::InnerMessage(message)) => each(message),
                    Some(_) => {}
                    None => unread += 1,
                }
                Ok(())
            })?;
        }
        if unread != 0 {
            tracing::warn!(what, unread, "entries of the kernel that cannot be read; left out");
        }
        Ok(())
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
        self.send(what, request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        let failed = |reason| KernelError::Netlink { what, reason };
        self.read().map_err(failed)?;
        self.messages(what, |message| match message.payload {
            Some(NetlinkPayload::Error(error)) if error.code.is_some() => {
                Err(failed(error.to_io()))
            }
            _ => Ok(()),
        })
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
            let [l0, l1, l2, l3, k0, k1, f0, f1, ..] = *head;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            if length < head.len() || length > rest.len() {
                return Err(bad(format!("a message of {length} bytes in {}", rest.len())));
            }
            let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
            each(Message {
                kind: u16::from_ne_bytes([k0, k1]),
                flags: u16::from_ne_bytes([f0, f1]),
                payload: read.ok().map(|message| message.payload),
            })?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    fn send(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), KernelError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let failed = |reason| KernelError::Netlink { what, reason };
        self.socket.send(&bytes, 0).map_err(failed)?;
        Ok(())
    }
}
