"""Time to live: a packet that is rewritten has made a hop; one for a guest that owns the address has not."""

from harness.judge import require_sound
from harness.scenario import Scenario, everywhere
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach
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
            self.require_error(ether.payload, message.packet, (11, 0) if service.family == 4 else (3, 0))
            if sender == service.client:
                self.assertEqual(ether.payload.src, service.address, "a client knows no other address")

    # RFC 5508, REQ-10, for Destination Unreachable; RFC 1812, section 5.2.7.1; RFC 4443, section 3.1.
    @everywhere
    def test_a_router_without_a_route_says_so(self, service):
        nowhere = {"dst": "198.51.100.1" if service.family == 4 else "3fff:ffff::1"}
        datagram = UDP(sport=9000, dport=40000) / Raw(b"to nobody")
        # Through the box as through any router, and from a VM of it to a client that it knows no way to.
        for sender in (service.client, service.source):
            message = service.sends(sender, datagram, **nowhere)
            message.sent.is_counted("no_route_answered")
            ether = Ether(self.frame_at(sender.port))
            self.assertEqual((ether.dst, ether.src), (sender.mac, sender.gateway))
            self.require_error(ether.payload, message.packet, (3, 0) if service.family == 4 else (1, 0))
            # Nobody is told about errors.
            kind = ICMP(type=3, code=3) if service.family == 4 else ICMPv6DestUnreach(code=4)
            error = service.sends(sender, kind / Raw(bytes(message.packet)), **nowhere)
            error.sent.is_dropped("no_route" if sender == service.client else "icmp_unmatched")

    def require_error(self, error, packet, kind):
        """`error` tells the sender of `packet` what is of this type and code, and quotes it as it was sent."""
        require_sound(error)
        self.assertEqual(error.dst, packet.src)
        self.assertEqual((error.payload.type, error.payload.code), kind)
        self.assertEqual(bytes(error.payload.payload), bytes(packet))
