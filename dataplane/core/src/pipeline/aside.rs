//! What is taken through all stages alone: fragments, and what one VM of the box sends another (RFC 4787, REQ-9; RFC 5382,
//! REQ-8; RFC 5508, REQ-7).
//!
//! Both are set aside in the first stage and taken up in the last, between the packets they came between; others see
//! nothing of it.
//!
//! From one VM to another, a packet leaves by the sender's managed address and comes in again by the receiver's: it goes
//! through the box twice, and has a session on each side.
//!
//! | pass | arrives on | session | what becomes of it |
//! |---|---|---|---|
//! | out | the sender's port | the sender's, whose client is the receiver's address and port | what becomes of packets to any client |
//! | in | [`PortId::HAIRPIN`] | the receiver's, whose client is the sender's address and port | what becomes of packets from any client |
//!
//! Each session is on the shard of its own client, so each pass may need another worker. What has come in again goes out
//! again only as the ICMP error about itself, to its sender, and about errors there are none: three passes at most.
//!
//! Both sides count down the time to live as they do for others, so in `nat` on both sides there are two hops.

use arrayvec::ArrayVec;

use super::{
    Origin, Outcome, Verdict, classify,
    classify::without_sessions,
    egress,
    lane::{self, Arrival, Directed, Lane, Sender, Steered, Tracked},
    shard::Desk,
};
use crate::{
    packet::{Packet, PacketBuf, Transport},
    steering::{Direction, Family, Hop, PortId, Recent, Service, Snapshot},
};

/// Where a packet that was set aside is being looked at.
pub(super) struct Scene<'a> {
    pub(super) desk: &'a mut Desk,
    pub(super) on: (&'a Snapshot, PortId),
    pub(super) origin: Origin,
    pub(super) now_ms: u64,
}

impl<A: Family> Lane<A> {
    /// Leave a packet, with so many tracked ones before it, for the last stage.
    #[cold]
    #[inline(never)]
    pub(super) fn set_aside(&mut self, at: usize, before: usize) -> Directed {
        self.aside.push((at as u16, before as u16));
        Directed::Tracked
    }

    /// First stage of an ICMP error.
    #[cold]
    #[inline(never)]
    pub(super) fn direct_error<B: PacketBuf>(
        &mut self,
        desk: &mut Desk,
        arrival: Arrival<'_>,
        packet: &mut B,
    ) -> Directed {
        match self.icmp_error(desk, arrival, packet) {
            Verdict::Transmit(PortId::HAIRPIN, _) => Directed::Anew(PortId::HAIRPIN),
            verdict => Directed::Ended(verdict),
        }
    }

    /// As [`Lane::steer_all`], with what was set aside in between.
    #[cold]
    #[inline(never)]
    pub(super) fn steer_with_aside<B: PacketBuf>(
        &mut self,
        (desk, origin): (&mut Desk, Origin),
        snapshot: &Snapshot,
        now_ms: u64,
        tracked: &[Steered<'_, A>],
        (frames, ports, verdicts): (&mut [B], &mut [PortId], &mut [Verdict]),
    ) {
        let mut steered = 0;
        for (at, before) in self.aside.take() {
            let (at, before) = (usize::from(at), usize::from(before));
            let burst = (&mut *frames, &*ports, &mut *verdicts);
            self.steer_all(desk, snapshot, now_ms, &tracked[steered..before], burst);
            steered = before;
            let scene = Scene { desk: &mut *desk, on: (snapshot, ports[at]), origin, now_ms };
            verdicts[at] = self.singly(scene, &mut frames[at], &mut ports[at]);
        }
        self.steer_all(desk, snapshot, now_ms, &tracked[steered..], (frames, ports, verdicts));
    }

    /// What becomes of a packet that was set aside. When it goes on to another shard, `port` is where it arrived last.
    pub(super) fn singly<B: PacketBuf>(
        &mut self,
        mut scene: Scene<'_>,
        packet: &mut B,
        port: &mut PortId,
    ) -> Verdict {
        loop {
            match self.pass(&mut scene, packet) {
                Ok(Verdict::Transmit(PortId::HAIRPIN, _)) => {
                    *port = PortId::HAIRPIN;
                    scene.on.1 = PortId::HAIRPIN;
                    // No other shard has seen it as it is now.
                    scene.origin = Origin::Port;
                }
                ended => return ended.unwrap_or_else(Verdict::Drop),
            }
        }
    }

    /// Take one packet through all stages.
    fn pass<B: PacketBuf>(
        &mut self,
        scene: &mut Scene<'_>,
        packet: &mut B,
    ) -> Result<Verdict, Outcome> {
        let (snapshot, id) = scene.on;
        let parsed = A::parse(packet.as_ref()).map_err(classify::bad::<A>)?;
        let transport = parsed.headers.transport;
        if transport == Transport::IcmpError {
            let arrival = Arrival { snapshot, id, at: 0 };
            return Ok(self.icmp_error(scene.desk, arrival, packet));
        }
        let (recent, destination) = (&mut Recent::default(), parsed.destination());
        let (service, sender) =
            match snapshot.plane::<A>().direction(id, parsed.source(), destination, recent) {
                Direction::ToAddress(service) => (service, Sender::Client),
                Direction::ToLocator(service, path) => (service, Sender::DirectClient(path)),
                Direction::FromBackend(service, path) => (service, Sender::Backend(path)),
                Direction::Spoofed => return Err(Outcome::Spoofed),
                // The receiver's address was removed between two passes.
                Direction::Plain | Direction::ToTunnel => {
                    let (headers, on) = (&parsed.headers, scene.on);
                    return Ok(egress::route(packet, headers, destination, on, scene.desk));
                }
            };
        if transport == Transport::Fragment {
            return self.fragment(scene, packet);
        }
        if !transport.has_sessions() {
            return Err(without_sessions(transport));
        }
        if !service.tracked {
            return Ok(untracked(scene, packet, &parsed, service, sender));
        }
        Ok(self.alone(scene, packet, &parsed, service, sender))
    }

    /// Steer one packet.
    pub(super) fn alone<B: PacketBuf>(
        &mut self,
        scene: &mut Scene<'_>,
        packet: &mut B,
        parsed: &Packet<A>,
        service: &Service<A>,
        sender: Sender<'_, A>,
    ) -> Verdict {
        let (snapshot, id) = scene.on;
        let steered = match self.steered(scene.desk, parsed, service, sender) {
            Ok(steered) => steered,
            Err(shard) => return Verdict::Redirect(shard),
        };
        let mut tracked: Tracked<'_, A> = ArrayVec::new();
        tracked.push(steered);
        self.look_ahead(snapshot, &mut tracked);
        if *snapshot.way_from_vm(id, parsed.destination()) == Hop::HAIRPIN {
            tracked[0].hop = snapshot.hairpin();
        }
        let mut verdict = [Verdict::Drop(Outcome::NoRoute)];
        let burst = (std::slice::from_mut(packet), &[id][..], &mut verdict[..]);
        self.steer_all(scene.desk, snapshot, scene.now_ms, &tracked, burst);
        verdict[0]
    }
}

/// As [`lane::untracked`], and what goes to another VM of the box comes in again.
pub(super) fn untracked<A: Family, B: PacketBuf>(
    scene: &mut Scene<'_>,
    packet: &mut B,
    parsed: &Packet<A>,
    service: &Service<A>,
    sender: Sender<'_, A>,
) -> Verdict {
    let ((snapshot, id), destination) = (scene.on, parsed.destination());
    if let Sender::Backend(path) = sender
        && let hop = snapshot.way_from_vm(id, destination)
        && *hop == Hop::HAIRPIN
    {
        let (headers, way) = (&parsed.headers, (destination, hop));
        return egress::to_client_otherwise(packet, headers, way, path, scene.on, scene.desk);
    }
    lane::untracked(scene.desk, scene.on, packet, parsed, service, sender)
}
