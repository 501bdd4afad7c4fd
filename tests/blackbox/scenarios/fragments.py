"""Fragments in any order reach the owner of their datagram, and there make one whole datagram again."""

import itertools

from harness.scenario import Scenario, everywhere
from harness.sessions import Udp
from scapy.layers.inet import IP, UDP, defragment, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, defragment6, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

PAYLOAD = bytes(range(251)) * 12
#: Three pieces of the payload.
SIZE = 1280


class Fragments(Scenario):
    number_of_datagram = 0

    def pieces(self, service, sender, layers, number):
        """The datagram `layers` as `sender` sends it in fragments."""
        if service.family == 4:
            return fragment(service.packet(sender, layers, id=number), SIZE - SIZE % 8)
        packet = service.packet(sender, layers)
        packet.remove_payload()
        whole = IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrFragment(id=number) / layers
        return fragment6(whole, SIZE)

    def whole(self, service, pieces):
        """Put together by scapy."""
        if service.family == 4:
            (datagram,) = defragment([IP(piece) for piece in pieces])
        else:
            # Scapy says it sorts them, and does not.
            inorder = sorted(map(IPv6, pieces), key=lambda piece: piece[IPv6ExtHdrFragment].offset)
            datagram = defragment6(inorder)
        return datagram.__class__(bytes(datagram))

    def sent_in(self, service, sender, receiver, order):
        """The datagram that `receiver` gets when its fragments are sent in this order."""
        type(self).number_of_datagram += 1
        ports = (40000, 9000) if sender == service.client else (9000, 40000)
        layers = UDP(sport=ports[0], dport=ports[1]) / Raw(PAYLOAD)
        # Over IPv6 the checksum is needed before the fragments are made.
        layers = service.packet(sender, layers)[UDP]
        pieces = self.pieces(service, sender, layers, self.number_of_datagram)
        self.assertEqual(len(pieces), 3)
        for at in order:
            frame = Ether(dst=sender.gateway, src=sender.mac) / pieces[at].__class__(bytes(pieces[at]))
            self.links[sender.port].send(frame)
        if receiver == service.client:
            outcome = "to_client"
        else:
            outcome = "to_source" if receiver == service.home else "to_destination"
        self.expected[outcome] += len(order)
        return self.whole(service, [self.frame_at(receiver.port)[14:] for _ in order])

    def require_datagram(self, service, datagram, source, destination):
        self.assertEqual((datagram.src, datagram.dst), (source, destination))
        self.assertEqual(bytes(datagram[UDP].payload), PAYLOAD)
        checksum = datagram[UDP].chksum
        del datagram[UDP].chksum
        self.assertEqual(datagram.__class__(bytes(datagram))[UDP].chksum, checksum)

    # RFC 4787, REQ-14.
    @everywhere
    def test_in_every_order(self, service):
        client, source = service.client, service.source
        for order in itertools.permutations(range(3)):
            there = self.sent_in(service, client, source, order)
            self.require_datagram(service, there, client.address, source.address)
            back = self.sent_in(service, source, client, order)
            self.require_datagram(service, back, service.address, client.address)

    @everywhere
    def test_after_a_cutover_they_go_where_their_session_is(self, service):
        client = service.client
        Udp(service).begins_with(service.source)
        service.begins_to_move()
        datagram = self.sent_in(service, client, service.source, (2, 0, 1))
        self.require_datagram(service, datagram, client.address, service.source.address)

    @everywhere
    def test_a_new_session_may_begin_with_them(self, service):
        client = service.client
        service.begins_to_move()
        datagram = self.sent_in(service, client, service.destination, (1, 2, 0))
        self.require_datagram(service, datagram, client.address, service.destination.address)
