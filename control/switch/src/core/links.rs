//! Neighbours: learning those that announce themselves, asking for those that packets need.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    packet::{Address, LinkHeader, Mac, arp, neighbour},
    pipeline::Punt,
    steering::{Link, PortId},
};

use super::Core;
use crate::{
    dataplane::DataplaneError,
    kernel::{Change, Mirror},
    steering::Learned,
};

/// An address is asked for this often at most (RFC 1122, section 2.3.2.1, and RFC 4861, section 10: once a second).
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Addresses that can be waited for at once; packets to more of them ask again later.
const MAX_ASKED: usize = 4_096;
/// Changes that come within this time of the last snapshot share the next one.
const COALESCE: Duration = Duration::from_millis(20);
/// For this long after a punt, the next is expected soon: an answer to a question, the next guest of a rack.
const ATTENTIVE: Duration = Duration::from_millis(200);

/// What is known about the links beside the network itself.
#[derive(Default)]
pub(super) struct Links {
    /// By the port a packet was to leave by: what is link-local is another's on each.
    asked: HashMap<(PortId, IpAddr), Instant>,
    changed: bool,
    /// Whether some of what changed is the kernel's, which waits for nothing but the queue.
    kernel_changed: bool,
    published_at: Option<Instant>,
    heard_at: Option<Instant>,
}

impl Links {
    /// A snapshot with all neighbours is in force.
    pub(super) fn published(&mut self) {
        self.changed = false;
        self.kernel_changed = false;
        // Its end counts, not its beginning: slow workers would make the core do nothing else.
        self.published_at = Some(Instant::now());
    }

    /// Whether learned neighbours wait for their snapshot.
    pub(super) fn is_waiting(&self) -> bool {
        self.changed
    }

    /// Whether `address`, behind this port, may be asked for now; if so, it is noted as asked for.
    fn ask(&mut self, address: (PortId, IpAddr), now: Instant) -> bool {
        if self
            .asked
            .get(&address)
            .is_some_and(|at| now.saturating_duration_since(*at) < ASK_INTERVAL)
        {
            return false;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.retain(|_, at| now.saturating_duration_since(*at) < ASK_INTERVAL);
            if self.asked.len() >= MAX_ASKED {
                return false;
            }
        }
        self.asked.insert(address, now);
        true
    }

    fn may_flush(&self, now: Instant) -> bool {
        self.changed
            && self.published_at.is_none_or(|at| now.saturating_duration_since(at) >= COALESCE)
    }
}

impl Core {
    /// Take in what workers noticed. Returns whether more is to be expected soon.
    pub(super) fn hear_links(&mut self, now: Instant) -> bool {
        let mut punts = Vec::new();
        self.dataplane.take_punts(&mut |punt| punts.push(punt));
        if !punts.is_empty() {
            self.links.heard_at = Some(now);
        }
        for punt in punts {
            match punt {
                Punt::Neighbour { port, address, mac, overrides } => {
                    let learned = self.network.learn(port, address, mac, overrides);
                    self.links.changed |= learned == Learned::Changed;
                }
                Punt::Resolve { port, address } => self.resolve(port, address, now),
            }
        }
        if self.links.may_flush(now) {
            self.publish_links();
        }
        self.links.heard_at.is_some_and(|at| now.saturating_duration_since(at) < ATTENTIVE)
    }

    /// Let the kernel find neighbours behind ports with a twin.
    pub fn attach_kernel(&mut self, mirror: Mirror) {
        self.kernel = Some(mirror);
    }

    /// Take in what the kernel says. It is in force once nothing is queued any more, or [`COALESCE`] after what was before:
    /// a burst of changes shares a few snapshots, and a request waits for one of them at most.
    pub fn follow_kernel(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.network.follow_kernel(change));
        self.links.changed = true;
        self.links.kernel_changed = true;
    }

    /// Nothing is queued.
    pub(super) fn rest(&mut self) {
        if self.links.kernel_changed {
            self.publish_links();
        }
    }

    fn publish_links(&mut self) {
        if self.resync_at.is_none() {
            let steering = self.steering.clone();
            // A failure is logged there, and the resync carries what changed.
            let _ = self.publish(&steering, Vec::new());
        }
    }

    /// Send an untagged frame by this port, with its tags if it has any.
    pub(super) fn send(&mut self, port: PortId, mut frame: Vec<u8>) -> Result<(), DataplaneError> {
        let Some(Link::Device { device, tags, .. }) =
            self.network.port(port).map(|port| port.config.link())
        else {
            return Ok(());
        };
        let (destination, source) = (Mac::read(&frame), Mac::read(&frame[6..]));
        // A vector always has room.
        let _ = LinkHeader::new(destination, source, tags).write(&mut frame);
        self.dataplane.transmit(device, &frame)
    }

    /// Ask for `address` on every link it can be on; on `port` when it is on none, or means something there only.
    fn resolve(&mut self, port: PortId, address: IpAddr, now: Instant) {
        if self.network.is_own(port, address) || !self.links.ask((port, address), now) {
            return;
        }
        if let Some(kernel) = &self.kernel
            && self.network.has_kernel(port)
        {
            kernel.find(port, address);
            return;
        }
        let links = self.network.links_of(address);
        let mut links: Vec<_> = links.map(|(id, port, own)| (id, port.mac, Some(own))).collect();
        if links.is_empty()
            && let Some(configured) = self.network.port(port)
        {
            links.push((port, configured.mac, configured.speaks_as(address)));
        }
        for (id, mac, own) in links {
            if let Err(error) = self.send(id, question(mac, own, address)) {
                tracing::warn!(%address, %error, "question for a neighbour not sent");
            }
        }
    }
}

/// Who has `address`, asked by the box's `own` one. Without, it is a probe: answered, and nobody learns from it (RFC 5227;
/// RFC 4861, section 7.2.4).
fn question(mac: Mac, own: Option<IpAddr>, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(wanted) => arp::request(mac, number(own), wanted.to_bits()).to_vec(),
        IpAddr::V6(wanted) => neighbour::solicitation(mac, number(own), wanted.to_bits()),
    }
}

/// An address as its family's questions write it; zero for none.
fn number<A: Address + Default>(address: Option<IpAddr>) -> A {
    address.and_then(A::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_a_second_and_bounds_what_it_remembers() {
        let start = Instant::now();
        let mut links = Links::default();
        let address = |n: u32| (PortId(0), n.ip());
        assert!(links.ask(address(1), start));
        assert!(!links.ask(address(1), start + ASK_INTERVAL / 2));
        assert!(links.ask(address(1), start + ASK_INTERVAL));
        let later = start + ASK_INTERVAL * 3;
        let asked = (0..2 * MAX_ASKED as u32).filter(|n| links.ask(address(*n), later)).count();
        assert_eq!(asked, MAX_ASKED);
        assert!(links.ask(address(9_999_999), later + ASK_INTERVAL));
    }
}
