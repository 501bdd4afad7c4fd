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

use super::KernelError;

/// Bytes of one read: more than the kernel puts into one message.
const READ_BYTES: usize = 1 << 18;
/// Bytes the kernel may keep for us. Privileged processes get them whatever `rmem_max` says.
const QUEUE_BYTES: usize = 1 << 25;

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
        let failed = |source| KernelError::Netlink { what: "a netlink socket", source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // With less than that it only has to read everything again more often.
        let _ = socket.set_rx_buf_sz(QUEUE_BYTES as i32);
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
        loop {
            let failed = |source| KernelError::Netlink { what, source };
            self.read().map_err(failed)?;
            let mut done = false;
            self.messages(what, |payload| match payload {
                NetlinkPayload::Done(_) => {
                    done = true;
                    Ok(())
                }
                NetlinkPayload::Error(error) => Err(failed(error.to_io())),
                NetlinkPayload::InnerMessage(message) => {
                    each(message);
                    Ok(())
                }
                _ => Ok(()),
            })?;
            if done {
                return Ok(());
            }
        }
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
        let failed = |source| KernelError::Netlink { what, source };
        self.read().map_err(failed)?;
        self.messages(what, |payload| match payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(failed(error.to_io())),
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
        mut each: impl FnMut(NetlinkPayload<RouteNetlinkMessage>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let bad = |reason: String| KernelError::Answer { what, reason };
            let length = rest.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length));
            let length = length.map_or(0, |length| length as usize).next_multiple_of(4);
            if length < 16 || length > rest.len() {
                return Err(bad(format!("a message of {length} bytes in {}", rest.len())));
            }
            let (message, behind) = rest.split_at(length);
            rest = behind;
            // What this version of the library cannot read is of a kind that nothing here asks for.
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                each(message.payload)?;
            }
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
        let failed = |source| KernelError::Netlink { what, source };
        self.socket.send(&bytes, 0).map_err(failed)?;
        Ok(())
    }
}
