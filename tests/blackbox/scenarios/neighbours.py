"""Who answers for a managed address on the uplink: nobody, the box from takeover to release, then nobody again. And the
box as a neighbour of its own: on ports without a twin it answers, learns and asks over both families."""

import socket
import time
import unittest

from harness.cast import CLIENT, CLIENT_MAC, GATEWAY_MAC, PORTS, UPLINK_MAC
from harness.judge import readdressed, require_sound
from harness.netns import Namespace
from harness.scenario import Scenario, Service
from harness.switch_box import SwitchBox
from harness.traffic import retried
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

GATEWAY = "fe80::1"
SERVICE = "2001:db8:9::100"
OWN = "2001:db8:9::1"
GUEST_MAC = "52:54:00:00:00:0b"
STRANGER = "2001:db8:9::77"
STRANGER_MAC = "52:54:00:00:00:77"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def group(address):
    """The solicited-node group of an address, and the group's MAC."""
    packed = in6_getnsma(socket.inet_pton(socket.AF_INET6, address))
    return socket.inet_ntop(socket.AF_INET6, packed), in6_getnsmac(packed)


def subject(ether):
    """The address that a frame is about."""
    return ether[ARP].pdst if ARP in ether else ether[ICMPv6ND_NA].tgt


class Neighbours(Scenario):
    def arp(self, target, port="uplink", sender=CLIENT[4], mac=CLIENT_MAC):
        question = ARP(op="who-has", hwsrc=mac, psrc=sender, pdst=target)
        return self.send(port, Ether(src=mac, dst=BROADCAST) / question)

    def solicitation(self, target, hlim=255, sender=CLIENT[6], port="uplink", mac=CLIENT_MAC):
        to, group_mac = group(target)
        question = IPv6(src=sender, dst=to, hlim=hlim) / ICMPv6ND_NS(tgt=target)
        if sender != "::":
            question /= ICMPv6NDOptSrcLLAddr(lladdr=mac)
        return self.send(port, Ether(src=mac, dst=group_mac) / question)

    def is_told(self, port, own_mac, address, asker, mac):
        """The box says on a port that an address is its own, and that it is a router."""
        ether = Ether(self.frame_at(port))
        self.assertEqual((ether.src, ether.dst), (own_mac, mac))
        ip, answer = ether[IPv6], ether[ICMPv6ND_NA]
        self.assertEqual((ip.src, ip.dst, ip.hlim), (address, asker, 255))
        self.assertEqual((answer.tgt, answer.R, answer.S, answer.O), (address, 1, 1, 1))
        self.assertEqual(ether[ICMPv6NDOptDstLLAddr].lladdr, own_mac)
        require_sound(ip)

    def announcements(self, address):
        """What the box says of an address by itself, within the time it repeats it in."""
        time.sleep(0.3)
        for name in self.links:
            self.collect(name)
        return [(port, ether) for port, ether in self.own_frames if subject(ether) == address]

    def test_arp_is_answered_while_the_address_is_hosted(self):
        service = Service(self, 4, "nat")
        self.arp(service.address).is_dropped("arp_seen")
        service.is_taken_over()
        answer = ARP(op="is-at", hwsrc=UPLINK_MAC, psrc=service.address, hwdst=CLIENT_MAC, pdst=CLIENT[4])
        expected = Ether(src=UPLINK_MAC, dst=CLIENT_MAC) / answer
        self.arp(service.address).reaches("uplink", "neighbour_answered", expected)
        service.has_destination()
        service.is_cut_over()
        self.arp(service.address).reaches("uplink", "neighbour_answered", expected)
        # A guest's side is no place to ask for it.
        self.arp(service.address, port="vm0").is_dropped("arp_seen")
        service.comes_to("drained")
        service.is_released()
        self.arp(service.address).is_dropped("arp_seen")

    def test_a_takeover_over_ipv4_is_announced(self):
        service = Service(self, 4, "nat")
        service.is_taken_over()
        announced = self.announcements(service.address)
        self.assertGreaterEqual(len(announced), 2, "in case one is lost")
        for port, ether in announced:
            self.assertEqual((port, ether.dst, ether.src), ("uplink", BROADCAST, UPLINK_MAC))
            arp = ether[ARP]
            self.assertEqual((arp.psrc, arp.pdst, arp.hwsrc), (service.address, service.address, UPLINK_MAC))

    def test_a_takeover_over_ipv6_is_announced(self):
        service = Service(self, 6, "nat")
        service.is_taken_over()
        announced = self.announcements(service.address)
        self.assertGreaterEqual(len(announced), 2, "in case one is lost")
        for port, ether in announced:
            self.assertEqual((port, ether.dst, ether.src), ("uplink", "33:33:00:00:00:01", UPLINK_MAC))
            ip, advertisement = ether[IPv6], ether[ICMPv6ND_NA]
            self.assertEqual((ip.src, ip.dst, ip.hlim), (service.address, "ff02::1", 255))
            # Unsolicited, and it replaces what is cached (RFC 4861, section 7.2.6).
            self.assertEqual((advertisement.tgt, advertisement.S, advertisement.O), (service.address, 0, 1))
            self.assertEqual(ether[ICMPv6NDOptDstLLAddr].lladdr, UPLINK_MAC)
            require_sound(ip)

    def test_solicitations_are_answered_while_the_address_is_hosted(self):
        service = Service(self, 6, "nat")
        self.solicitation(service.address).is_dropped("neighbour_seen")
        service.is_taken_over()
        self.solicitation(service.address).is_counted("neighbour_answered")
        ether = Ether(self.frame_at("uplink"))
        self.assertEqual((ether.src, ether.dst), (UPLINK_MAC, CLIENT_MAC))
        ip, answer = ether[IPv6], ether[ICMPv6ND_NA]
        self.assertEqual((ip.src, ip.dst, ip.hlim), (service.address, CLIENT[6], 255))
        self.assertEqual((answer.tgt, answer.R, answer.S, answer.O), (service.address, 0, 1, 1), "as a host")
        self.assertEqual(ether[ICMPv6NDOptDstLLAddr].lladdr, UPLINK_MAC)
        require_sound(ip)
        service.is_aborted()
        self.solicitation(service.address).is_dropped("neighbour_seen")

    def test_a_probe_for_the_hosted_address_is_told_that_it_is_taken(self):
        # Duplicate address detection asks from nowhere, and all nodes hear the answer (RFC 4861, section 7.2.4).
        service = Service(self, 6, "l2")
        service.is_taken_over()
        self.announcements(service.address)
        self.own_frames.clear()
        self.solicitation(service.address, sender="::").is_counted("neighbour_answered")
        ((_, ether),) = self.announcements(service.address)
        self.assertEqual((ether.dst, ether[IPv6].dst), ("33:33:00:00:00:01", "ff02::1"))
        self.assertEqual((ether[ICMPv6ND_NA].tgt, ether[ICMPv6ND_NA].S), (service.address, 0))

    def test_a_solicitation_from_beyond_the_link_is_not_answered(self):
        service = Service(self, 6, "nat")
        service.is_taken_over()
        self.solicitation(service.address, hlim=254).is_dropped("bad_neighbour")

    def test_guests_find_their_gateway(self):
        for port in ("vm0", "vm1"):
            answer = ARP(op="is-at", hwsrc=GATEWAY_MAC, psrc="169.254.1.1", hwdst=GUEST_MAC, pdst="10.8.1.11")
            expected = Ether(src=GATEWAY_MAC, dst=GUEST_MAC) / answer
            asked = self.arp("169.254.1.1", port=port, sender="10.8.1.11", mac=GUEST_MAC)
            asked.reaches(port, "neighbour_answered", expected)

    def test_guests_find_their_gateway_over_ipv6(self):
        for port in ("vm0", "vm1"):
            asked = self.solicitation(GATEWAY, port=port, sender="fe80::b", mac=GUEST_MAC)
            asked.is_counted("neighbour_answered")
            self.is_told(port, GATEWAY_MAC, GATEWAY, "fe80::b", GUEST_MAC)
        # The uplink's own address is another's on a guest's side, and the other way round.
        self.solicitation(OWN, port="vm0", sender="fe80::b", mac=GUEST_MAC).is_dropped("neighbour_seen")
        self.solicitation(GATEWAY).is_dropped("neighbour_seen")

    def test_clients_find_the_box(self):
        self.solicitation(OWN).is_counted("neighbour_answered")
        self.is_told("uplink", UPLINK_MAC, OWN, CLIENT[6], CLIENT_MAC)

    def test_a_neighbour_is_asked_for_and_believed(self):
        packet = IPv6(src="2001:db8:8::9", dst=STRANGER) / UDP(sport=5000, dport=9) / b"are you there?"
        packet = IPv6(bytes(packet))
        frame = Ether(src=GUEST_MAC, dst=GATEWAY_MAC) / packet
        self.send("vm0", frame).is_dropped("neighbour_unknown")
        time.sleep(0.3)
        self.collect("uplink")
        ((port, ether),) = self.own_frames
        to, mac = group(STRANGER)
        self.assertEqual((port, ether.src, ether.dst), ("uplink", UPLINK_MAC, mac))
        ip = ether[IPv6]
        self.assertEqual((ip.src, ip.dst, ip.hlim, ether[ICMPv6ND_NS].tgt), (OWN, to, 255, STRANGER))
        self.assertEqual(ether[ICMPv6NDOptSrcLLAddr].lladdr, UPLINK_MAC)
        require_sound(ip)

        ether = Ether(src=STRANGER_MAC, dst=UPLINK_MAC)
        answer = ICMPv6ND_NA(tgt=STRANGER, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=STRANGER_MAC)
        self.send("uplink", ether / IPv6(src=STRANGER, dst=OWN, hlim=255) / answer).is_dropped("neighbour_seen")
        time.sleep(0.3)
        expected = Ether(src=UPLINK_MAC, dst=STRANGER_MAC) / readdressed(packet, 1)
        self.send("vm0", frame).reaches("uplink", "forwarded", expected)


class Kernels(unittest.TestCase):
    """A guest and a client whose kernels find the box by themselves, and whom the box finds: nobody's MAC is configured."""

    def setUp(self):
        self.box = SwitchBox(PORTS, [])
        self.addCleanup(self.box.stop)
        self.guest = self.machine("guest", "vm0", GUEST_MAC)
        self.client = self.machine("client", "uplink", CLIENT_MAC)
        self.client.ip("addr", "add", f"{CLIENT[6]}/64", "dev", "uplink")
        self.guest.ip("addr", "add", f"{SERVICE}/128", "dev", "vm0")
        self.guest.ip("route", "add", "default", "via", GATEWAY, "dev", "vm0")

    def machine(self, name, interface, mac):
        made = Namespace(name)
        self.addCleanup(made.delete)
        made.takes(interface, mac)
        made.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", 0)
        return made

    def neighbour(self, machine, address, interface):
        """What a kernel knows of a neighbour: its MAC, and what it has heard beside."""
        _, _, mac, *rest = machine.ip("-6", "neigh", "show", address, "dev", interface).split()
        return mac, rest

    def listens(self, machine, address):
        with machine.inside():
            made = socket.create_server((address, 7000), family=socket.AF_INET6)
        self.addCleanup(made.close)

    def talks(self, machine, address):
        retried(lambda: machine.connect(address, 7000).close(), OSError, 10)

    def test_a_guest_and_a_client_talk(self):
        home = ["--name", "guest", "--port", "vm0", "--mac", GUEST_MAC]
        self.box.tidegate("address", "add", SERVICE, *home)
        self.box.tidegate("address", "takeover", SERVICE)
        self.listens(self.client, CLIENT[6])
        self.listens(self.guest, SERVICE)
        # The guest begins: the box knows nothing of the client yet, and has to ask.
        self.talks(self.guest, CLIENT[6])
        self.talks(self.client, SERVICE)
        mac, rest = self.neighbour(self.guest, GATEWAY, "vm0")
        self.assertTrue(mac == GATEWAY_MAC and "router" in rest, (mac, rest))
        mac, rest = self.neighbour(self.client, SERVICE, "uplink")
        self.assertTrue(mac == UPLINK_MAC and "router" not in rest, (mac, rest))
        # A packet may be on its way when the counters are read.
        retried(self.require_sum, AssertionError)
        _, outcomes, _ = self.box.counters()
        for name in ("neighbour_unknown", "neighbour_answered", "neighbour_seen", "originated", "to_client"):
            self.assertGreater(outcomes[name], 0, name)
        self.assertEqual(outcomes["bad_neighbour"], 0, "what a kernel sends is valid")

    def require_sum(self):
        received, outcomes, _ = self.box.counters()
        self.assertEqual(sum(outcomes.values()), received)

    def test_a_guest_that_takes_its_gateway_s_address_is_told(self):
        self.guest.sysctl("net.ipv6.conf.vm0.accept_dad", 1)
        self.guest.ip("addr", "add", f"{GATEWAY}/64", "dev", "vm0")

        def is_refused():
            self.assertIn("dadfailed", self.guest.ip("addr", "show", "dev", "vm0"))

        retried(is_refused, AssertionError)
