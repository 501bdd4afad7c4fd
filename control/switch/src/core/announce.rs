//! Gratuitous ARP and unsolicited neighbour advertisements: telling the uplinks' switches and neighbours where a hosted
//! address is now.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    packet::{arp, neighbour},
    steering::PortRole,
};

use super::Core;

/// How often an address is announced, in case one is lost (RFC 5227, section 2.3, announces twice; RFC 4861, section
/// 7.2.6, up to three times).
const TIMES: u8 = 3;
/// Shorter than the second or two they ask for between announcements: until its switches have learned, clients' packets
/// go astray.
const INTERVAL: Duration = Duration::from_millis(100);

/// Announcements to come.
#[derive(Default)]
pub(super) struct Announcer {
    due: Vec<Due>,
}

struct Due {
    at: Instant,
    address: IpAddr,
    left: u8,
}

impl Announcer {
    /// Announce `address` from `now` on.
    pub(super) fn begin(&mut self, address: IpAddr, now: Instant) {
        self.cancel(address);
        self.due.push(Due { at: now, address, left: TIMES });
    }

    /// Announce `address` no more.
    pub(super) fn cancel(&mut self, address: IpAddr) {
        self.due.retain(|due| due.address != address);
    }

    /// When the next announcement is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    /// The addresses to announce now.
    fn take(&mut self, now: Instant) -> Vec<IpAddr> {
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
            let ports = self.network.ports().iter();
            let uplinks = ports.filter(|port| port.config.role == PortRole::Uplink);
            let frames = uplinks.map(|port| match address {
                IpAddr::V4(v4) => {
                    (port.config.id, arp::announcement(port.mac, v4.to_bits()).to_vec())
                }
                IpAddr::V6(v6) => {
                    (port.config.id, neighbour::advertisement(port.mac, v6.to_bits()).to_vec())
                }
            });
            for (id, frame) in frames.collect::<Vec<_>>() {
                if let Err(error) = self.send(id, frame) {
                    let port = self.network.port(id).map(|port| &port.config.name);
                    tracing::warn!(%address, port, %error, "announcement not sent");
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
        let [one, two] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let mut announcer = Announcer::default();
        announcer.begin(one, start);
        announcer.begin(two, start);
        assert_eq!(announcer.take(start), [one, two]);
        assert!(announcer.take(start + INTERVAL / 2).is_empty());
        announcer.cancel(two);
        assert_eq!(announcer.next(), Some(start + INTERVAL));
        assert_eq!(announcer.take(start + INTERVAL), [one]);
        assert_eq!(announcer.take(start + INTERVAL * 2), [one]);
        assert_eq!((announcer.next(), announcer.take(start + INTERVAL * 9).len()), (None, 0));
    }
}
