"""Time to live: a packet that is rewritten has made a hop; one for a guest that owns the address has not."""

from harness.judge import require_sound
from harness.scenario import Scenario, everywhere
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw


class Hops(Scenario):
    def ways(self, service):
        """Each direction with a datagram for it."""
        yield service.client, service.source, UDP(sport=40000, dport=9000) / Raw(b"question")
        yield service.source, service.client, UDP(sport=9000, dport=40000) / Raw(b"the answer")

    def field(self, service, hops):
        return {"ttl": hops} if service.family == 4 else {"hlim": hops}

    @everywhere
    def test_the_last_but_one_hop_passes(self, service):
        for sender, receiver, datagram in self.ways(service):
            for hops in (255, 64, 2):
                service.sends(sender, datagram, **self.field(service, hops)).reaches(receiver)

    # RFC 5508, REQ-10, for Time Exceeded.
    @everywhere
    def test_the_last_hop_ends_at_a_router_which_says_so(self, service):
        for sender, receiver, datagram in self.ways(service):
            message = service.sends(sender, datagram, **self.field(service, 1))
            if service.mode == "l2":
                message.reaches(receiver)
                continue
            message.sent.is_counted("ttl_expired_answered")
            ether = Ether(self.frame_at(sender.port))
            self.assertEqual((ether.dst, ether.src), (sender.mac, sender.gateway))
            self.require_time_exceeded(ether.payload, message.packet)
            if sender == service.client:
                self.assertEqual(ether.payload.src, service.address, "a client knows no other address")

    def require_time_exceeded(self, error, packet):
        """`error` tells the sender of `packet` that it was too long on its way, and quotes it as it was sent."""
        require_sound(error)
        self.assertEqual(error.dst, packet.src)
        self.assertEqual(error.payload.type, 11 if packet.version == 4 else 3)
        self.assertEqual(error.payload.code, 0)
        self.assertEqual(bytes(error.payload.payload), bytes(packet))
