"""Who answers for a managed address on the uplink: nobody, the box from takeover to release, then nobody again."""

import socket
import time

from harness.cast import CLIENT, CLIENT_MAC, GATEWAY_MAC, UPLINK_MAC
from harness.judge import require_sound
from harness.scenario import Scenario, Service
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

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

    def solicitation(self, target, hlim=255, sender=CLIENT[6], port="uplink"):
        to, mac = group(target)
        question = IPv6(src=sender, dst=to, hlim=hlim) / ICMPv6ND_NS(tgt=target)
        if sender != "::":
            question /= ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)
        return self.send(port, Ether(src=CLIENT_MAC, dst=mac) / question)

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
        self.solicitation(service.address).is_dropped("group")
        service.is_taken_over()
        self.solicitation(service.address).is_counted("neighbour_answered")
        ether = Ether(self.frame_at("uplink"))
        self.assertEqual((ether.src, ether.dst), (UPLINK_MAC, CLIENT_MAC))
        ip, answer = ether[IPv6], ether[ICMPv6ND_NA]
        self.assertEqual((ip.src, ip.dst, ip.hlim), (service.address, CLIENT[6], 255))
        self.assertEqual((answer.tgt, answer.S), (service.address, 1))
        self.assertEqual(ether[ICMPv6NDOptDstLLAddr].lladdr, UPLINK_MAC)
        require_sound(ip)
        service.is_aborted()
        self.solicitation(service.address).is_dropped("group")

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
        self.solicitation(service.address, hlim=254).is_dropped("group")

    def test_guests_find_their_gateway(self):
        for port in ("vm0", "vm1"):
            mac = "52:54:00:00:00:0b"
            answer = ARP(op="is-at", hwsrc=GATEWAY_MAC, psrc="169.254.1.1", hwdst=mac, pdst="10.8.1.11")
            expected = Ether(src=GATEWAY_MAC, dst=mac) / answer
            asked = self.arp("169.254.1.1", port=port, sender="10.8.1.11", mac=mac)
            asked.reaches(port, "neighbour_answered", expected)
