//! ICMP errors go where the session they quote goes. They begin, refresh and change nothing.

use std::net::IpAddr;

use tidegate_dataplane::{
    pipeline::Outcome,
    session::Tuple,
    steering::{Backend, ManagedAddress},
};

use super::{
    Expected, Model, Receiver, Sender, Session, Side, backends, speaks_as, tuple_of,
    way_out::{Speaker, dropped, forwarded, one_hop_less, to_vm},
};
use crate::{
    packet::{Body, DCCP, Packet, Quote, UDP_LITE, ip_len},
    world::AGAIN,
};

/// Every error quotes so much behind the IP header (RFC 792); protocols without ports need none of it.
const LEAST_QUOTED: usize = 8;

impl Model {
    pub(super) fn error(
        &self,
        packet: &Packet,
        quote: &Quote,
        sender: Sender<'_>,
        receiver: Receiver<'_>,
    ) -> Expected {
        let about = &quote.packet;
        let reached = self.receiver(about.destination);
        let is_plain = matches!((&sender, &receiver), (Sender::Anyone, Receiver::Anyone));
        let is_opaque = |number| !matches!(number, UDP_LITE | DCCP);
        let needed = match about.body {
            Body::Protocol(number) if is_opaque(number) => 0,
            _ => LEAST_QUOTED,
        };
        let is_readable =
            quote.bytes >= ip_len(about.source) + needed && !matches!(about.body, Body::Error(_));
        if is_plain && (!is_readable || matches!(reached, Receiver::Anyone)) {
            return forwarded(packet);
        }
        if !is_readable {
            return dropped(Outcome::IcmpQuoteUnreadable);
        }
        if !quote.intact {
            return dropped(Outcome::BadIcmpChecksum);
        }
        // It is for whoever sent what it quotes, or it is not what it claims to be.
        if about.source != packet.destination {
            return dropped(Outcome::IcmpUnmatched);
        }
        // A VM's own address is what the box wrote for another VM, or what that one knew; it matters on the way out alone.
        let before_vm = packet.port != AGAIN && matches!(reached, Receiver::Locator(..));
        match (sender, receiver) {
            (Sender::Backend(_, vm), _) => self.error_to_client(packet, about, Some(vm)),
            (_, Receiver::Managed(_)) if before_vm => self.error_to_client(packet, about, None),
            (_, Receiver::Managed(address)) => self.error_to_vm(packet, about, address),
            (Sender::Anyone, Receiver::Locator(..)) => {
                let of_vm = before_vm.then(|| self.error_to_client(packet, about, None));
                let is_other = |ended: &Expected| ended.outcome == Outcome::IcmpUnmatched;
                // About what the VM sent under its own address.
                of_vm.filter(|ended| !is_other(ended)).unwrap_or_else(|| forwarded(packet))
            }
            (Sender::Anyone, _) => self.error_to_client(packet, about, None),
            (Sender::Impostor, _) => unreachable!("impostors are not heard"),
        }
    }

    /// About what a VM sent to a client in the managed address's name.
    fn error_to_vm(&self, packet: &Packet, about: &Packet, address: &ManagedAddress) -> Expected {
        let tuple = tuple_of(about, Side::Vm, address.address);
        let owner = match (address.tracked, self.session(&tuple)) {
            (false, _) => address.home,
            (true, None) => return dropped(Outcome::IcmpUnmatched),
            (true, Some(session)) => owner(address, session),
        };
        let about = Packet { source: speaks_as(address, &owner), ..about.clone() };
        to_vm(address, owner, &quoting(packet, about))
    }

    /// About what a client sent to a VM, by the VM itself or by a router before it.
    fn error_to_client(&self, packet: &Packet, about: &Packet, by: Option<Backend>) -> Expected {
        let (address, reached) = match self.receiver(about.destination) {
            // On its way the packet never got another address, so there is nothing to translate.
            Receiver::Managed(_) if by.is_none() => return forwarded(packet),
            Receiver::Managed(address) => (address, None),
            Receiver::Locator(address, vm) => (address, Some(vm)),
            Receiver::Anyone => return dropped(Outcome::IcmpUnmatched),
        };
        let tuple = |named: IpAddr| Tuple {
            address: named,
            ..tuple_of(about, Side::Client, about.destination)
        };
        // Who quotes a locator speaks of what its VM was sent, steered or because the client chose it.
        let is_whose = |vm: &Backend| reached.is_none_or(|reached| reached.slot == vm.slot);
        let steered = self.session(&tuple(address.address)).map(|session| owner(address, session));
        let is_direct = reached.is_some() && self.session(&tuple(about.destination)).is_some();
        let vm = match (address.tracked, steered.filter(is_whose)) {
            (false, _) => address.home,
            (true, Some(owner)) => owner,
            (true, None) if is_direct => return self.forwarded_for_vm(packet),
            (true, None) => return dropped(Outcome::IcmpUnmatched),
        };
        if by.is_some_and(|by| by.slot != vm.slot) {
            return dropped(Outcome::OtherOwner);
        }
        if about.destination != speaks_as(address, &vm) {
            // Nobody sent it such a packet.
            return dropped(Outcome::IcmpUnmatched);
        }
        let translated = quoting(packet, Packet { destination: address.address, ..about.clone() });
        match by {
            Some(by) => self.to_client(address, &by, &translated),
            // A router's own words keep its address.
            None => {
                let out = self.onward(translated, Outcome::ToClient);
                one_hop_less(packet, Speaker::Anyone, out)
            }
        }
    }
}

fn owner(address: &ManagedAddress, session: &Session) -> Backend {
    backends(address).find(|vm| vm.slot == session.owner).expect("a backend")
}

/// `packet` about `about`.
fn quoting(packet: &Packet, about: Packet) -> Packet {
    let Body::Error(quote) = &packet.body else { unreachable!("an error") };
    let quote = Quote { packet: about, ..(**quote).clone() };
    Packet { body: Body::Error(Box::new(quote)), ..packet.clone() }
}
