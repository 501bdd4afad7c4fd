"""From one VM of the box to another, each behind a managed address: frames judged by scapy, then kernels that talk."""

import dataclasses
import unittest

from harness.cast import roles
from harness.judge import readdressed, require_sound
from harness.scenario import Scenario, Service, everywhere
from harness.town import LOCATOR, VM_MAC, Town
from harness.traffic import Download, Http, Resolver
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

MODES = ("nat", "l2")


class BetweenVms(Scenario):
    turned = False

    def roles(self, family, mode, number):
        """Beside the usual ones: a home where others have the destination."""
        usual = roles(family, mode, number)
        if not self.turned:
            return usual
        home, other = usual.destination, usual.source
        return dataclasses.replace(
            usual,
            source=dataclasses.replace(home, name="source"),
            destination=dataclasses.replace(other, name="destination"),
        )

    def beside(self, service):
        """Services in each mode, each with its home behind the other port."""
        self.turned = True
        self.addCleanup(setattr, self, "turned", False)
        return [Service(self, service.family, mode) for mode in MODES]

    def ip(self, service, source, destination, layers, **fields):
        kind = IP if service.family == 4 else IPv6
        return kind(bytes(kind(src=source, dst=destination, **fields) / layers))

    def says(self, service, vm, called, layers):
        """The VM of one service says `layers` to another service's address; its home gets it as from any client."""
        packet = self.ip(service, vm.address, called.address, layers)
        hops = service.hops() + called.hops()
        expected = readdressed(packet, hops, src=service.address, dst=called.source.address)
        require_sound(expected)
        sent = self.send(vm.port, Ether(dst=vm.gateway, src=vm.mac) / packet)
        ether = Ether(dst=called.source.mac, src=called.source.gateway) / expected
        sent.reaches(called.source.port, "to_source", ether)
        return packet, expected

    # RFC 4787, REQ-9; RFC 5382, REQ-8; RFC 5508, REQ-7.
    @everywhere
    def test_every_protocol_both_ways(self, service):
        for called in self.beside(service):
            caller, answerer = (service, service.source, called), (called, called.source, service)
            syn = TCP(sport=5000, dport=80, flags="S", seq=9, options=[("MSS", 1460), ("WScale", 7)])
            self.says(*caller, syn)
            self.says(*answerer, TCP(sport=80, dport=5000, flags="SA", seq=99, ack=10, options=[("MSS", 1460)]))
            self.says(*caller, TCP(sport=5000, dport=80, flags="A", seq=10, ack=100))
            self.says(*caller, TCP(sport=5000, dport=80, flags="PA", seq=10, ack=100) / Raw(b"an odd question"))
            self.says(*caller, UDP(sport=5000, dport=53) / Raw(b"who?"))
            self.says(*answerer, UDP(sport=53, dport=5000) / Raw(b"an odd answer"))
            self.says(*caller, UDP(sport=5001, dport=53, chksum=0) / Raw(b"who?"))
            if service.family == 4:
                ping, pong = ICMP(type=8, id=7, seq=1), ICMP(type=0, id=7, seq=1)
            else:
                ping, pong = ICMPv6EchoRequest(id=7, seq=1), ICMPv6EchoReply(id=7, seq=1)
            self.says(*caller, ping / Raw(b"ping"))
            self.says(*answerer, pong / Raw(b"ping"))
            sessions = self.box.tidegate("switch", "sessions", "--address", called.address)
            self.assertEqual({each["client"] for each in sessions}, {service.address})

    # RFC 5508, REQ-7, and REQ-7a; RFC 7857, section 12.
    @everywhere
    def test_the_receiver_complains(self, service):
        unreachable = ICMP(type=3, code=3) if service.family == 4 else ICMPv6DestUnreach(code=4)
        for called in self.beside(service):
            as_sent, as_arrived = self.says(service, service.source, called, UDP(sport=5000, dport=9) / Raw(b"there?"))
            vm, caller = called.source, service.source
            quotes = self.ip(service, vm.address, service.address, unreachable / Raw(bytes(as_arrived)))
            # The quote as its sender knows it, but for the hops it had made.
            hops = service.hops() + called.hops()
            shown = readdressed(as_sent, hops)
            left = {"ttl": 64 - hops} if service.family == 4 else {"hlim": 64 - hops}
            expected = self.ip(service, called.address, caller.address, unreachable / Raw(bytes(shown)), **left)
            sent = self.send(vm.port, Ether(dst=vm.gateway, src=vm.mac) / quotes)
            sent.reaches(caller.port, "to_source", Ether(dst=caller.mac, src=caller.gateway) / expected)

    @everywhere
    def test_a_migration_of_one_of_both(self, service):
        for called in self.beside(service):
            if called.mode != service.mode:
                continue
            question, answer = UDP(sport=5000, dport=53) / Raw(b"who?"), UDP(sport=53, dport=5000) / Raw(b"I")
            self.says(service, service.source, called, question)
            self.assertEqual(service.begins_to_move(), 1)
            self.says(called, called.source, service, answer)
            # Nobody but the source speaks in the old session.
            vm = service.destination
            packet = self.ip(service, vm.address, called.address, question)
            self.send(vm.port, Ether(dst=vm.gateway, src=vm.mac) / packet).is_dropped("other_owner")
            self.says(service, vm, called, UDP(sport=5001, dport=53) / Raw(b"who?"))


class Kernels(unittest.TestCase):
    """Two guests' kernels, each behind an address; the second's is beside the town's own."""

    SECOND = {4: "10.9.0.101", 6: "2001:db8:9::101"}

    def talk(self, family, mode):
        town = Town(family, mode, {"linger": 1})
        self.addCleanup(town.end)
        second, (one, other) = self.SECOND[family], town.vms.values()
        locator = LOCATOR[family].format(12)
        backend = ["--name", "destination", "--port", "vm1", "--mac", VM_MAC["destination"]]
        if mode == "nat":
            backend += ["--locator", locator]
        else:
            other.ip("addr", "add", second, "dev", "vm1")
            other.ip("addr", "del", town.address, "dev", "vm1")
        town.box.tidegate("address", "add", second, *backend)
        town.serve()
        try:
            self.assertEqual(Http(one, second).who(), "destination")
            self.assertEqual(Http(other, town.address).who(), "source")
            self.assertEqual(Resolver(one, second).who(), "destination")
            downloads = [Download(one, second), Download(other, town.address)]
            if mode == "nat":
                # A VM that calls its own address.
                downloads.append(Download(one, town.address))
            for download in downloads:
                download.goes_on()
            for download in downloads:
                download.end()
            self.assertEqual([each.servers for each in downloads[:2]], [{"destination"}, {"source"}])
            received, outcomes, _ = town.box.counters()
            self.assertGreater(outcomes["to_source"], 1000)
            self.assertEqual(outcomes["to_client"] + outcomes["spoofed"], 0)
        except BaseException:
            print("", *town.situation(), sep="\n")
            raise

    def test_ipv4_nat(self):
        self.talk(4, "nat")

    def test_ipv4_l2(self):
        self.talk(4, "l2")

    def test_ipv6_nat(self):
        self.talk(6, "nat")

    def test_ipv6_l2(self):
        self.talk(6, "l2")
