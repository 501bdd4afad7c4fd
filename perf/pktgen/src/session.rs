//! What is remembered of a session: 24 bytes, both ends together.

use zerocopy::FromZeros;

/// The VM a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromZeros)]
#[repr(u8)]
pub enum Owner {
    /// Begun while the cutover is under way: the VM it reaches first.
    #[default]
    Either,
    /// The migration's source.
    Source,
    /// Its destination.
    Destination,
}

/// How far an end has come. The client's `Opening` has sent SYN, `Closing` has sent FIN; the VM's `Closing` has
/// answered one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromZeros)]
#[repr(u8)]
pub(crate) enum End {
    #[default]
    Closed,
    Opening,
    Open,
    Closing,
}

/// Both ends of a session. The client's part is written only when the client sends or receives, the VM's only when
/// the VM does: what one end knows of the other has come through the box.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
#[repr(C)]
pub(crate) struct Session {
    /// Client: the next sequence number it sends.
    pub(crate) client_next: u32,
    /// Client: the next it expects.
    pub(crate) client_expects: u32,
    /// VM: the next sequence number it sends.
    pub(crate) vm_next: u32,
    /// VM: the next it expects.
    pub(crate) vm_expects: u32,
    /// How many sessions have had these ports.
    pub(crate) life: u16,
    /// Set by the client for its SYN, settled when that arrives.
    pub(crate) owner: Owner,
    pub(crate) client: End,
    pub(crate) vm: End,
}

const _: () = assert!(size_of::<Session>() == 24);
