//! Frames that the shard holds, in numbered places, until what they wait for has come.

use tidegate_dataplane::{pipeline::HELD, steering::PortId};
use tidegate_dpdk::Mbuf;

/// Each with the port it belongs to.
pub(crate) struct Held(Box<[Option<(PortId, Mbuf)>]>);

impl Held {
    pub(crate) fn new() -> Self {
        Self((0..HELD).map(|_| None).collect())
    }

    /// Put a frame into `place`. Gives what was there, or the frame when there is no such place.
    pub(crate) fn put(&mut self, place: u16, port: PortId, mbuf: Mbuf) -> Option<Mbuf> {
        match self.0.get_mut(usize::from(place)) {
            Some(held) => held.replace((port, mbuf)).map(|(_, displaced)| displaced),
            None => Some(mbuf),
        }
    }

    /// Forget the frames that belong to `port`. Gives how many there were.
    pub(crate) fn forget_port(&mut self, port: PortId) -> usize {
        let of_port = |held: &&mut Option<(PortId, Mbuf)>| {
            held.as_ref().is_some_and(|(belongs, _)| *belongs == port)
        };
        self.0.iter_mut().filter(of_port).map(|held| *held = None).count()
    }

    /// The frame in `place`.
    pub(crate) fn take(&mut self, place: u16) -> Option<(PortId, Mbuf)> {
        self.0.get_mut(usize::from(place))?.take()
    }
}
