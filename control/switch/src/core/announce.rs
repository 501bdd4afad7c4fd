//! Gratuitous ARP: telling the uplinks' switches and neighbours where a hosted address is now.

use std::time::{Duration, Instant};

use tidegate_dataplane::{
    packet::arp,
    steering::{PortId, PortRole},
};

use super::Core;

/// How often an address is announced, in case one is lost (RFC 5227, section 2.3, announces twice).
const TIMES: u8 = 3;
const INTERVAL: Duration = Duration::from_millis(100);

/// Announcements to come.
#[derive(Default)]
pub(super) struct Announcer {
    due: Vec<Due>,
}

struct Due {
    at: Instant,
    address: u32,
    left: u8,
}

impl Announcer {
    /// Announce `address` from `now` on.
    pub(super) fn begin(&mut self, address: u32, now: Instant) {
        self.cancel(address);
        self.due.push(Due { at: now, address, left: TIMES });
    }

    /// Announce `address` no more.
    pub(super) fn cancel(&mut self, address: u32) {
        self.due.retain(|due| due.address != address);
    }

    /// When the next announcement is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    /// The addresses to announce now.
    fn take(&mut self, now: Instant) -> Vec<u32> {
        let mut addresses = Vec::new();
        for due in self.due.iter_mut().filter(|due| due.at <= now) {
            addresses.push(due.address);
            due.left -= 1;
            due.at = now + INTERVAL;
        }
        self.due.retain(|due| due.left > 0);
        addresses
    }
}

impl Core {
    /// Send the announcements that are due.
    pub(super) fn announce(&mut self, now: Instant) {
        for address in self.announcer.take(now) {
            for (id, port) in (0..).map(PortId).zip(self.network.ports()) {
                if port.role != PortRole::Uplink {
                    continue;
                }
                if let Err(error) =
                    self.dataplane.transmit(id, &arp::announcement(port.mac, address))
                {
                    let address = std::net::Ipv4Addr::from_bits(address);
                    tracing::warn!(%address, port = port.name, %error, "announcement not sent");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_at_intervals_unless_cancelled() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.begin(1, start);
        announcer.begin(2, start);
        assert_eq!(announcer.take(start), [1, 2]);
        assert!(announcer.take(start + INTERVAL / 2).is_empty());
        announcer.cancel(2);
        assert_eq!(announcer.next(), Some(start + INTERVAL));
        assert_eq!(announcer.take(start + INTERVAL), [1]);
        assert_eq!(announcer.take(start + INTERVAL * 2), [1]);
        assert_eq!((announcer.next(), announcer.take(start + INTERVAL * 9).len()), (None, 0));
    }
}
