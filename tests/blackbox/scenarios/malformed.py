"""Broken packets: each is counted under a name, none disturbs the box."""

import random

from harness.cast import CLIENT_MAC, GATEWAY_MAC, UPLINK_MAC
from harness.scenario import Scenario, Service, everywhere
from harness.sessions import Tcp
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

#: Random changes are the same in each run.
SEED = 20


class Malformed(Scenario):
    def corpus(self, service):
        """Frames of every kind the box knows, to be broken."""
        ether = Ether(dst=UPLINK_MAC, src=CLIENT_MAC)
        ends = {"src": service.client.address, "dst": service.address}
        udp = UDP(sport=40000, dport=9000) / Raw(b"payload")
        tcp = TCP(sport=40000, dport=80, flags="PA", options=[("Timestamp", (1, 2))]) / Raw(b"payload")
        if service.family == 4:
            quote = IP(src=service.address, dst=service.client.address) / udp
            layers = [tcp, udp, ICMP() / Raw(b"ping"), ICMP(type=3, code=4, nexthopmtu=1280) / quote, ICMP(type=3, code=4) / (quote / ICMP())]
            yield from (ether / IP(**ends) / layer for layer in layers)
            yield ether / IP(**ends, flags="MF") / udp
            yield ether / IP(**ends, frag=3) / Raw(b"rest")
            yield ether / IP(**ends, proto=47) / Raw(b"tunnel")
            yield Ether(dst="ff:ff:ff:ff:ff:ff", src=CLIENT_MAC) / ARP(op=1, psrc=service.client.address, pdst=service.address)
        else:
            quote = IPv6(src=service.address, dst=service.client.address) / udp
            headers = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / udp
            layers = [tcp, udp, ICMPv6EchoRequest(data=b"ping"), ICMPv6PacketTooBig() / quote, headers]
            layers += [IPv6ExtHdrRouting(addresses=[service.client.address], segleft=1) / udp]
            layers += [IPv6ExtHdrFragment(m=1) / udp, IPv6ExtHdrFragment(offset=3) / Raw(b"rest")]
            yield from (ether / IPv6(**ends) / layer for layer in layers)
        yield ether / Dot1Q(vlan=7) / IP(**{"dst": "10.9.0.1"}) / udp
        yield ether / Dot1AD(vlan=7) / Dot1Q(vlan=8) / Dot1Q(vlan=9) / Raw(b"tags")

    def send_all(self, frames, port="uplink"):
        """Send frames as fast as the box takes them, and judge by their number alone."""
        before = self.settled()
        for number, frame in enumerate(frames):
            self.links[port].send(frame)
            if number % 64 == 63:
                self.settled(ended=False)
        moved = self.settled() - before
        self.expected += moved
        for name in self.links:
            self.collect(name, 0.05)
            self.waiting(name).clear()
        return moved

    def goes_on(self, service):
        """A session is as it was."""
        Tcp(service, 50000).begins_with(service.source).goes_on_with(service.source)

    @everywhere
    def test_cut_short_at_every_length(self, service):
        # The kernel takes no frame into a device that is shorter than an Ethernet header.
        frames = [bytes(frame)[:length] for frame in self.corpus(service) for length in range(14, len(bytes(frame)))]
        moved = self.send_all(frames)
        self.assertIn(f"bad_ipv{service.family}", moved)
        self.goes_on(service)

    @everywhere
    def test_random_changes(self, service):
        chance = random.Random(SEED)
        frames = []
        for frame in self.corpus(service):
            for _ in range(40):
                changed = bytearray(bytes(frame))
                for _ in range(chance.randint(1, 4)):
                    # The link header is left alone, or nearly all would end there.
                    changed[chance.randrange(12, min(len(changed), 90))] = chance.randrange(256)
                frames.append(bytes(changed))
        self.send_all(frames)
        self.goes_on(service)

    @everywhere
    def test_from_a_guest(self, service):
        chance = random.Random(SEED)
        frames = []
        for vm in (service.source, service.destination):
            ether = Ether(dst=GATEWAY_MAC, src=vm.mac)
            good = bytes(ether / service.packet(vm, TCP(sport=80, dport=40000, flags="SA") / Raw(b"payload")))
            frames += [good[:length] for length in range(14, len(good))]
            for _ in range(100):
                changed = bytearray(good)
                changed[chance.randrange(14, len(good))] = chance.randrange(256)
                frames.append(bytes(changed))
        self.send_all(frames, "vm0")
        self.send_all(frames, "vm1")
        self.goes_on(service)

    def test_headers_that_contradict_themselves(self):
        service = Service(self, 4, "nat")
        ends = {"src": service.client.address, "dst": service.address}
        udp = UDP(sport=40000, dport=9000) / Raw(b"payload")
        for ip, outcome in (
            (IP(**ends, version=5) / udp, "bad_ipv4"),
            (IP(**ends, ihl=4) / udp, "bad_ipv4"),
            (IP(**ends, ihl=15) / udp, "bad_ipv4"),
            (IP(**ends, len=19) / udp, "bad_ipv4"),
            (IP(**ends, len=200) / udp, "bad_ipv4"),
            (IP(**ends, len=27) / udp, "bad_transport"),
            (IP(**ends) / TCP(sport=1, dport=2, dataofs=15), "bad_transport"),
            (IP(**ends) / TCP(sport=1, dport=2, dataofs=4), "bad_transport"),
        ):
            with self.subTest(ip.summary()):
                self.send("uplink", Ether(dst=UPLINK_MAC, src=CLIENT_MAC) / ip).is_dropped(outcome)

    def test_what_is_not_for_the_box(self):
        udp = UDP(sport=1, dport=2)
        for frame, outcome in (
            (Ether(dst="02:00:00:00:77:77", src=CLIENT_MAC) / IP(dst="10.9.0.1") / udp, "not_for_us"),
            (Ether(dst=UPLINK_MAC, src=CLIENT_MAC, type=0x88CC) / Raw(b"lldp"), "other_ethertype"),
            (Ether(dst=UPLINK_MAC, src=CLIENT_MAC) / IP(dst="10.9.0.1") / udp, "for_host"),
            (Ether(dst="01:00:5e:00:00:05", src=CLIENT_MAC) / IP(dst="224.0.0.5") / udp, "group"),
            (Ether(dst=UPLINK_MAC, src=CLIENT_MAC) / Dot1Q(vlan=77) / IP(dst="10.9.0.1") / udp, "unknown_vlan"),
        ):
            with self.subTest(frame.summary()):
                self.send("uplink", frame).is_dropped(outcome)
