"""Backends behind another switch: what the box wraps around packets, by scapy, and what it takes out of such packets."""

import collections
import struct

from harness.cast import CLIENT, CLIENT_MAC, GATEWAY_MAC, UPLINK_MAC
from harness.judge import readdressed, require_same, require_sound
from harness.scenario import Scenario
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

LOCAL = {4: "10.9.0.1", 6: "2001:db8:9::1"}
GUEST_MAC = "52:54:00:00:77:01"
VNI = 0xABCDEF
KINDS = ("ipip", "gue", "vxlan")
#: Bytes around an IP packet, behind the outer IP header.
AROUND = {"ipip": 0, "gue": 12, "vxlan": 30}
IP_LEN = {4: 20, 6: 40}
MTU = 1500

Tunnel = collections.namedtuple("Tunnel", "kind outer inner mode address locator")


def tunnels():
    """Each kind over each family, with packets of each inside, in each mode."""
    number = 0
    for kind in KINDS:
        for outer in (4, 6):
            for inner in (4, 6):
                for mode in ("nat", "l2"):
                    number += 1
                    address = f"10.9.1.{number}" if inner == 4 else f"2001:db8:9::2:{number:x}"
                    locator = f"10.7.0.{number}" if inner == 4 else f"2001:db8:7::{number:x}"
                    yield Tunnel(kind, outer, inner, mode, address, locator if mode == "nat" else address)


def ip(family, **fields):
    return (IP if family == 4 else IPv6)(**fields)


class Tunnels(Scenario):
    def setUp(self):
        super().setUp()
        self.added = []

    def tearDown(self):
        for address in self.added:
            self.box.tidegate("address", "remove", address)
        super().tearDown()

    def each(self):
        for tunnel in tunnels():
            with self.subTest(**tunnel._asdict()):
                words = ["--name", "guest", "--encap", tunnel.kind]
                words += ["--local", LOCAL[tunnel.outer], "--remote", CLIENT[tunnel.outer]]
                if tunnel.kind == "vxlan":
                    words += ["--mac", GUEST_MAC, "--port", "vm0", "--vni", VNI]
                if tunnel.mode == "nat":
                    words += ["--locator", tunnel.locator]
                self.box.tidegate("address", "add", tunnel.address, *words)
                self.added.append(tunnel.address)
                yield tunnel
                self.added.remove(tunnel.address)
                self.box.tidegate("address", "remove", tunnel.address)

    def question(self, tunnel, payload=b"question", **fields):
        packet = ip(tunnel.inner, src=CLIENT[tunnel.inner], dst=tunnel.address, **fields)
        packet = packet / UDP(sport=40000, dport=9000) / Raw(payload)
        return type(packet)(bytes(packet))

    def wrapped(self, tunnel, packet):
        """What the machine at the other end makes of a packet of the guest."""
        outer = ip(tunnel.outer, src=CLIENT[tunnel.outer], dst=LOCAL[tunnel.outer])
        number = 4 if tunnel.inner == 4 else 41
        if tunnel.kind == "ipip":
            around = outer / Raw(bytes(packet))
            setattr(around, "proto" if tunnel.outer == 4 else "nh", number)
        elif tunnel.kind == "gue":
            around = outer / UDP(sport=50000, dport=6080) / Raw(struct.pack("!BBH", 0, number, 0) + bytes(packet))
        else:
            inner = Ether(src=GUEST_MAC, dst=GATEWAY_MAC) / packet
            around = outer / UDP(sport=50000, dport=4789) / VXLAN(flags=8, vni=VNI) / inner
        return Ether(src=CLIENT_MAC, dst=UPLINK_MAC) / around

    def unwrapped(self, tunnel, frame):
        """The packet in a frame to the other end, whose headers scapy finds right."""
        frame = Ether(frame)
        self.assertEqual((frame.src, frame.dst), (UPLINK_MAC, CLIENT_MAC))
        outer = frame.payload
        self.assertEqual((outer.src, outer.dst), (LOCAL[tunnel.outer], CLIENT[tunnel.outer]))
        if tunnel.outer == 4:
            require_sound(outer)
            self.assertEqual((outer.flags, outer.ttl, outer.len), ("DF", 64, len(frame) - 14))
        else:
            self.assertEqual((outer.hlim, outer.plen), (64, len(frame) - 54))
        number = 4 if tunnel.inner == 4 else 41
        if tunnel.kind == "ipip":
            self.assertEqual(outer.proto if tunnel.outer == 4 else outer.nh, number)
            return bytes(outer.payload)
        udp = outer[UDP]
        self.assertGreaterEqual(udp.sport, 0xC000)
        if tunnel.outer == 4:
            self.assertEqual(udp.chksum, 0)
        else:
            require_sound(outer)
        payload = bytes(udp.payload)
        if tunnel.kind == "gue":
            self.assertEqual((udp.dport, payload[:4]), (6080, struct.pack("!BBH", 0, number, 0)))
            return payload[4:]
        self.assertEqual((udp.dport, payload[:8]), (4789, bytes(VXLAN(flags=8, vni=VNI))))
        inner = Ether(payload[8:])
        self.assertEqual((inner.src, inner.dst), (GATEWAY_MAC, GUEST_MAC))
        return payload[22:]

    def ask(self, packet):
        return self.send("uplink", Ether(src=CLIENT_MAC, dst=UPLINK_MAC) / packet)

    def test_both_ways(self):
        for tunnel in self.each():
            hops = 1 if tunnel.mode == "nat" else 0
            question = self.question(tunnel)
            self.ask(question)
            self.expected["to_source"] += 1
            inside = self.unwrapped(tunnel, self.frame_at("uplink"))
            require_same(inside, readdressed(question, hops, dst=tunnel.locator))

            answer = ip(tunnel.inner, src=tunnel.locator, dst=CLIENT[tunnel.inner])
            answer = answer / UDP(sport=9000, dport=40000) / Raw(b"the answer")
            sent = self.send("uplink", self.wrapped(tunnel, answer))
            expected = readdressed(type(answer)(bytes(answer)), hops, src=tunnel.address)
            sent.reaches("uplink", "to_client", Ether(src=UPLINK_MAC, dst=CLIENT_MAC) / expected)

    def test_dscp_and_ecn_show_outside(self):
        for tunnel in self.each():
            field = "tos" if tunnel.inner == 4 else "tc"
            self.ask(self.question(tunnel, **{field: 0xBA}))
            self.expected["to_source"] += 1
            outer = Ether(self.frame_at("uplink")).payload
            self.assertEqual(outer.tos if tunnel.outer == 4 else outer.tc, 0xBA)

    def test_what_does_not_fit_is_told_to_the_sender(self):
        for tunnel in self.each():
            mtu = MTU - IP_LEN[tunnel.outer] - AROUND[tunnel.kind]
            room = mtu - IP_LEN[tunnel.inner] - 8
            fields = {"flags": "DF"} if tunnel.inner == 4 else {}
            self.ask(self.question(tunnel, bytes(room), **fields))
            self.expected["to_source"] += 1
            self.assertEqual(len(self.frame_at("uplink")), 14 + MTU)
            question = self.question(tunnel, bytes(room + 1), **fields)
            if tunnel.inner == 4:
                error = IP(src=tunnel.address, dst=CLIENT[4], tos=0xC0, flags="DF", id=0)
                error = error / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(bytes(question)[: 576 - 28])
            else:
                error = IPv6(src=tunnel.address, dst=CLIENT[6], tc=0xC0)
                error = error / ICMPv6PacketTooBig(mtu=mtu) / Raw(bytes(question)[: 1280 - 48])
            expected = Ether(src=UPLINK_MAC, dst=CLIENT_MAC) / error
            self.ask(question).reaches("uplink", "too_big_answered", expected)

    def test_others_are_not_believed(self):
        for tunnel in self.each():
            forged = ip(tunnel.inner, src=tunnel.locator, dst=CLIENT[tunnel.inner])
            forged = forged / TCP(sport=80, dport=40001, flags="R")
            frame = self.wrapped(tunnel, forged)
            other = "10.9.0.77" if tunnel.outer == 4 else "2001:db8:9::77"
            frame[IP if tunnel.outer == 4 else IPv6].src = other
            self.send("uplink", Ether(bytes(frame))).is_dropped("for_host")
            # Without a tunnel around it.
            self.ask(forged).is_dropped("spoofed")
