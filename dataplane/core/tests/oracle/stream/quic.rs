//! Connections whose clients come from other addresses than before.

use tidegate_dataplane::{packet::protocol, session::Tuple};

use super::Stream;
use crate::{
    model::Model,
    packet::{Body, ID_LEN, Packet, Quic},
    world::{QUIC, clients, family},
};

/// Connection IDs there are: few, so that they meet again.
const IDS: u64 = 24;

impl Stream {
    /// A client's packet, of a connection that the box may have seen or not.
    pub(super) fn quic_client(&mut self, model: &Model) -> Option<Packet> {
        let address = self.address(model)?.address;
        let tuple = Tuple {
            client: self.chance.pick(&clients(family(address))),
            client_port: 1 + self.chance.below(u16::MAX.into()) as u16,
            address,
            address_port: QUIC.ports[0],
            protocol: protocol::UDP,
        };
        self.remember(tuple);
        let (to, from) = (self.id(), (self.id(), ID_LEN));
        let body = match self.chance.one_in(4) {
            true => Quic::Long { to, from },
            false => Quic::Short { to },
        };
        Some(Packet { len: self.quic_len(), ..self.by_client(&tuple, Body::Quic(body)) })
    }

    /// What a server says in its first flight, or an ID of another length than the box was told of.
    pub(super) fn quic_server(&mut self) -> Body {
        let len = self.chance.weighted(&[(8, ID_LEN), (1, 5), (1, 0)]);
        Body::Quic(Quic::Long { to: self.id(), from: (self.id(), len) })
    }

    fn id(&mut self) -> u8 {
        self.chance.below(IDS) as u8
    }

    /// Mostly enough for a header.
    pub(super) fn quic_len(&mut self) -> u8 {
        if self.chance.one_in(8) { self.chance.below(32) as u8 } else { 32 }
    }
}
