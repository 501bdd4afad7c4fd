"""Checksums after rewriting, where arithmetic has its corners."""

import socket
import unittest

from harness.judge import summed
from harness.scenario import Scenario, Service, everywhere
from harness.sessions import Echo, Tcp, Udp
from harness.summed import Dccp, UdpLite
from harness.town import Town
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.packet import Raw


class Checksums(Scenario):
    @everywhere
    def test_payloads_of_every_small_length(self, service):
        sessions = [kind(service) for kind in (Udp, Echo)]
        tcp = Tcp(service).begins_with(service.source)
        for length in range(5):
            payload = bytes(range(0x80, 0x80 + length))
            for session in sessions:
                session.sends(service.client, payload).reaches(service.source)
                session.sends(service.source, payload).reaches(service.client)
            tcp.sends(service.client, "PA", payload).reaches(service.source)
            tcp.sends(service.source, "PA", payload).reaches(service.client)

    @everywhere
    def test_a_datagram_without_checksum_stays_without(self, service):
        # Over IPv6 that is what tunnels do (RFC 6935); a receiver that does not allow it drops it itself.
        unchecked = Udp(service, checksum=0)
        unchecked.sends(service.client, b"odd").reaches(service.source)
        unchecked.sends(service.source, b"even").reaches(service.client)

    @everywhere
    def test_a_udp_checksum_of_zero_is_sent_as_ones(self, service):
        for sender, receiver in ((service.client, service.source), (service.source, service.client)):
            message = self.with_sum_of_zero(service, sender, receiver)
            self.assertEqual(message.seen_by(receiver)[UDP].chksum, 0xFFFF)
            service.sends(sender, message.packet).reaches(receiver)

    def with_sum_of_zero(self, service, sender, receiver):
        """A datagram whose checksum comes to zero once it is rewritten: what is added makes up for what is missing."""
        ports = {"sport": 40000, "dport": 9000} if sender == service.client else {"sport": 9000, "dport": 40000}
        layers = UDP(**ports) / Raw(b"\0\0")
        plain = service.sends(sender, layers).reaches(receiver)
        filling = plain.seen_by(receiver)[UDP].chksum
        return service.sends(sender, UDP(**ports) / Raw(filling.to_bytes(2, "big"))).reaches(receiver)

    @everywhere
    def test_a_wrong_checksum_is_not_made_right(self, service):
        # The receiver is to see that the packet was damaged before the box.
        packet = service.packet(service.client, UDP(sport=40000, dport=9000) / Raw(b"damaged"))
        packet[UDP].chksum ^= 0x0101
        message = service.sends(service.client, packet)
        message.sent.is_counted("to_source")
        came = packet.__class__(self.frame_at(service.source.port)[14:])
        self.assertNotEqual(came[UDP].chksum, summed(came)[UDP].chksum)
        self.assertEqual(bytes(summed(came)), bytes(message.seen_by(service.source)))

    @everywhere
    def test_headers_with_options(self, service):
        udp = UDP(sport=40000, dport=9000) / Raw(b"question")
        if service.family == 4:
            options = {"options": [IPOption_Router_Alert()], "tos": 0xB9, "id": 0xFFFF, "flags": "DF"}
            service.sends(service.client, udp, **options).reaches(service.source)
            return
        for layers in (IPv6ExtHdrHopByHop() / udp, IPv6ExtHdrDestOpt() / udp, IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / udp):
            service.sends(service.client, layers, tc=0xB9, fl=0xFFFFF).reaches(service.source)

    @everywhere
    def test_udp_lite_and_dccp_cover_what_they_say(self, service):
        # RFC 3828, section 3.1; RFC 4340, section 9.2: the addresses are covered always.
        headers = [UdpLite(coverage=covered) for covered in (0, 8, 11)]
        headers += [Dccp(coverage=covered) for covered in (0, 1, 2)]
        for header in headers:
            for payload in (b"odd", b"partially covered"):
                service.sends(service.client, header / Raw(payload)).reaches(service.source)
                service.sends(service.source, header / Raw(payload)).reaches(service.client)

    def test_ipv4_header_sums_at_both_ends(self):
        # Where a one's complement sum can be zero in two ways.
        service = Service(self, 4, "nat")
        udp = UDP(sport=40000, dport=9000) / Raw(b"question")
        base = service.packet(service.client, udp, id=0)[IP].chksum
        for wanted in (0x0000, 0x0001, 0x00FF, 0x0100, 0x0101, 0xFEFF, 0xFF00, 0xFFFE):
            identification = (base - wanted) % 0xFFFF
            packet = service.packet(service.client, udp, id=identification)
            self.assertIn(packet.chksum, (wanted, wanted - 1, wanted + 1))
            service.sends(service.client, packet).reaches(service.source)


#: RFC 3828 in Linux: the protocol, and how much of what is sent the checksum covers.
UDP_LITE, SEND_COVERAGE = 136, 10


class UdpLiteBetweenKernels(unittest.TestCase):
    """The layers for UDP-Lite and DCCP above are our own; of UDP-Lite the kernel judges, too. Of DCCP none does: Linux has it no
    more since 6.16."""

    def both_ways(self, family):
        town = Town(family, "nat", {})
        self.addCleanup(town.end)
        kind = socket.AF_INET if family == 4 else socket.AF_INET6

        def made(machine):
            with machine.inside():
                made = socket.socket(kind, socket.SOCK_DGRAM, UDP_LITE)
            self.addCleanup(made.close)
            made.settimeout(5)
            return made

        client, server = made(town.near), made(town.vms["source"])
        server.bind(("", 9000))
        client.connect((town.address, 9000))
        for coverage in (0, 8, 11):
            for each in (client, server):
                each.setsockopt(UDP_LITE, SEND_COVERAGE, coverage)
            for question in (b"odd", b"partially covered"):
                client.send(question)
                received, asker = server.recvfrom(4096)
                server.sendto(received + b", answered", asker)
                # What has a wrong checksum is dropped by the kernel, and nothing comes.
                self.assertEqual(client.recv(4096), question + b", answered")

    def test_over_ipv4(self):
        self.both_ways(4)

    def test_over_ipv6(self):
        self.both_ways(6)
