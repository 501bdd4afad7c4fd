"""Time to live: a packet that is rewritten has made a hop; one for a guest that owns the address has not."""

from harness.scenario import Scenario, everywhere
from scapy.layers.inet import UDP
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

    @everywhere
    def test_the_last_hop_ends_at_a_router_alone(self, service):
        for sender, receiver, datagram in self.ways(service):
            message = service.sends(sender, datagram, **self.field(service, 1))
            if service.mode == "nat":
                message.is_dropped("ttl_expired")
            else:
                message.reaches(receiver)
