//! Neighbours by address. One address may be known on several ports: link-local ones mean something on their link only,
//! and a guest that has moved is remembered for a while where it was.

use std::{collections::BTreeMap, net::IpAddr};

use tidegate_dataplane::{
    packet::{Address as _, Mac},
    steering::{IpPrefix, Neighbour, PortId},
};

/// Whose word it is that a neighbour is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is configured, or was checked when it announced itself.
    Ours,
    /// The kernel's, who notes down whoever asks it something, on any link: what is behind which port is said by routes.
    Kernel,
}

/// Whether `address` means something on its link only.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    u128::of(address).is_some_and(u128::is_link_local)
}

/// All neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours(BTreeMap<IpAddr, Vec<(Neighbour, Word)>>);

impl Neighbours {
    /// `address` is there. Returns whether that is news.
    pub(super) fn set(&mut self, address: IpAddr, neighbour: Neighbour, word: Word) -> bool {
        let known = self.0.entry(address).or_default();
        if known.contains(&(neighbour, word)) {
            return false;
        }
        known.retain(|(other, _)| other.port != neighbour.port);
        known.push((neighbour, word));
        true
    }

    /// `address` is not on this port. Returns whether that is news.
    pub(super) fn remove(&mut self, address: IpAddr, port: PortId) -> bool {
        let Some(known) = self.0.get_mut(&address) else { return false };
        let before = known.len();
        known.retain(|(neighbour, _)| neighbour.port != port);
        let is_news = known.len() != before;
        if known.is_empty() {
            self.0.remove(&address);
        }
        is_news
    }

    /// The MAC of `address` on this port.
    pub(super) fn on(&self, address: IpAddr, port: PortId) -> Option<Mac> {
        let known = self.0.get(&address)?;
        known.iter().find(|(it, _)| it.port == port).map(|(it, _)| it.mac)
    }

    /// Where `address` is by our own word.
    pub(super) fn ours(&self, address: IpAddr) -> Option<&Neighbour> {
        let known = self.0.get(&address)?;
        known.iter().rev().find(|(_, word)| *word == Word::Ours).map(|(it, _)| it)
    }

    /// The addresses in `prefix` that anything is known of.
    pub(super) fn inside(&self, prefix: IpPrefix) -> impl Iterator<Item = IpAddr> {
        let from = self.0.range(prefix.address()..).map(|(address, _)| *address);
        from.take_while(move |address| prefix.contains(*address))
    }

    /// The addresses that are known on this port.
    pub(super) fn on_port(&self, port: PortId) -> impl Iterator<Item = IpAddr> {
        let is_there =
            move |known: &[(Neighbour, Word)]| known.iter().any(|(it, _)| it.port == port);
        self.0.iter().filter(move |(_, known)| is_there(known)).map(|(address, _)| *address)
    }

    /// Of how many addresses anything is known.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
