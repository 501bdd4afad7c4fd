//! What a packet's buffer can do.
//!
//! Packet logic is written against [`PacketBuf`]: in the box it is a DPDK mbuf, in tests a vector. It lies between the
//! two, so that the logic needs no DPDK and DPDK's crate no logic.
#![forbid(unsafe_code)]

/// A packet in one contiguous piece, without FCS, that can be changed in place and grow or shrink at its front.
pub trait PacketBuf: AsRef<[u8]> + AsMut<[u8]> {
    /// Add `count` bytes at the front, of any content. `false`, and nothing changed, when there is no room.
    #[must_use = "nothing is added when it answers false"]
    fn prepend(&mut self, count: usize) -> bool;

    /// Remove `count` bytes at the front. `false`, and nothing changed, when there are fewer.
    #[must_use = "nothing is removed when it answers false"]
    fn trim_front(&mut self, count: usize) -> bool;

    /// Cut the packet to its first `length` bytes. `false`, and nothing changed, when it is shorter.
    #[must_use = "nothing is removed when it answers false"]
    fn truncate(&mut self, length: usize) -> bool;
}

impl PacketBuf for Vec<u8> {
    fn prepend(&mut self, count: usize) -> bool {
        self.splice(0..0, std::iter::repeat_n(0, count));
        true
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.len();
        if fits {
            self.drain(..count);
        }
        fits
    }

    fn truncate(&mut self, length: usize) -> bool {
        let fits = length <= self.len();
        Self::truncate(self, length);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_grows_and_shrinks_at_its_front() {
        let mut packet = vec![1, 2, 3];
        assert!(packet.prepend(2));
        assert_eq!(packet[2..], [1, 2, 3]);
        assert!(packet.trim_front(3));
        assert_eq!(packet, [2, 3]);
        assert!(!packet.trim_front(3) && !PacketBuf::truncate(&mut packet, 3));
        assert!(PacketBuf::truncate(&mut packet, 1));
        assert_eq!(packet, [2]);
    }
}
