"""What scenarios are written in: who sends what, who gets it, and as what the box counts it."""

import collections
import functools
import os
import pathlib
import time
import unittest

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from .cast import NEIGHBOURS, PORTS, roles
from .judge import readdressed, require_same, require_sound, shown
from .link import Link
from .switch_box import SwitchBox

#: Within what the box must have passed a frame on, on a busy machine.
PATIENCE_S = 3.0
#: Frames of the control core: announcements and requests.
OWN = "originated"


def everywhere(test):
    """Make of `test(self, service)` one for each IP family and rewrite mode, each with an address of its own."""
    test.is_for_everywhere = True
    return test


class Scenario(unittest.TestCase):
    """A box of its own for each file of scenarios."""

    ports = PORTS
    neighbours = NEIGHBOURS
    timeouts = {"linger": 1}
    sessions = 4096
    more = ""
    #: Who is who around the `number`th address.
    roles = staticmethod(roles)
    number = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, test in list(vars(cls).items()):
            if not getattr(test, "is_for_everywhere", False):
                continue
            delattr(cls, name)
            for family in (4, 6):
                for mode in ("nat", "l2"):
                    setattr(cls, f"{name}_ipv{family}_{mode}", with_service(test, family, mode))

    @classmethod
    def setUpClass(cls):
        # A new box knows no address yet.
        Scenario.number = 0
        # Nobody but the test may speak: the kernel's own IPv6 stays silent on whatever interfaces come.
        pathlib.Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        cls.box = SwitchBox(cls.ports, cls.neighbours, cls.more, cls.timeouts, cls.sessions)
        cls.links = {}
        for port in cls.ports:
            interface = port["name"]
            os.system(f"ip link set {interface} arp off up")
            cls.links[interface] = Link(interface)

    @classmethod
    def tearDownClass(cls):
        for link in cls.links.values():
            link.close()
        cls.box.stop()

    def setUp(self):
        self.own_frames = []
        # What a test that failed left behind.
        for name in self.links:
            self.collect(name)
            self.waiting(name).clear()
        self.before, self.expected = self.settled(), collections.Counter()

    def tearDown(self):
        """Whatever the test was about: each packet sent had the outcome it was to have, and what came out was judged."""
        self.require_outcomes()
        self.assertEqual(*self.transmitted_and_captured())
        for name in self.links:
            self.assertEqual([shown(frame) for frame in self.waiting(name)], [], f"nobody expected this on {name}")

    def transmitted_and_captured(self):
        """Frames by device as the box counts them, and as they came; announcements may be between the two."""
        end = time.monotonic() + 1
        while True:
            transmitted = self.box.counters()[2]
            for name in self.links:
                self.collect(name)
            captured = {link.interface: link.received for link in self.links.values()}
            if transmitted == captured or time.monotonic() > end:
                return transmitted, captured

    def sent(self):
        return sum(link.sent for link in self.links.values())

    def settled(self, ended=True):
        """The outcomes, once all that was sent was received and, if `ended`, has one: fragments may be held for a while."""
        end = time.monotonic() + PATIENCE_S
        while True:
            received, outcomes, _ = self.box.counters()
            if received - outcomes[OWN] == self.sent() and (not ended or sum(outcomes.values()) == received):
                return collections.Counter({name: count for name, count in outcomes.items() if name != OWN})
            if time.monotonic() > end:
                raise AssertionError(f"{self.sent()} sent, {received} received, and these outcomes: {outcomes}")
            time.sleep(0.001)

    def require_outcomes(self):
        """All that this test sent has ended as it was to end, and nothing else has."""
        moved = self.settled() - self.before
        if moved != self.expected:
            raise AssertionError(f"expected {dict(self.expected)} packets, but there were {dict(moved)}")

    def waiting(self, name):
        """Frames that came and were not asked for yet."""
        return self.links[name].__dict__.setdefault("waiting", [])

    def collect(self, name, timeout=0.0):
        """Take in what has come on a link."""
        while (frame := self.links[name].receive(timeout)) is not None:
            ether = Ether(frame)
            # What the control core sends by itself is looked at by those who test it.
            if is_own(ether):
                self.own_frames.append((name, ether))
            else:
                self.waiting(name).append(frame)
            timeout = 0.0

    def frame_at(self, name):
        """The next frame on a link."""
        end = time.monotonic() + PATIENCE_S
        while not self.waiting(name) and time.monotonic() < end:
            self.collect(name, 0.1)
        if not self.waiting(name):
            self.require_outcomes()
            raise AssertionError(f"no frame came on {name}")
        return self.waiting(name).pop(0)

    def send(self, port, frame):
        """Send a frame into a port of the box."""
        self.links[port].send(frame)
        return Sent(self)


def with_service(test, family, mode):
    """A test of one family and mode."""

    @functools.wraps(test)
    def one(self):
        test(self, Service(self, family, mode))

    return one


def is_own(ether):
    """An announcement or request of the control core."""
    if ARP in ether:
        return ether[ARP].op == 1
    return IPv6 in ether and ether[IPv6].nh == 58 and ether.dst.startswith("33:33:")


class Sent:
    """A frame that was sent, and has yet to be judged."""

    def __init__(self, scenario):
        self.scenario = scenario

    def is_counted(self, outcome):
        """It has ended in `outcome`, and all before it in theirs."""
        self.scenario.expected[outcome] += 1
        self.scenario.require_outcomes()

    def reaches(self, port, outcome, expected):
        """It comes out of `port` as `expected`; that it was counted as `outcome` is seen at the next look at the counters."""
        self.scenario.expected[outcome] += 1
        frame = self.scenario.frame_at(port)
        require_same(frame, expected)

    def is_dropped(self, outcome):
        """It comes out nowhere."""
        self.is_counted(outcome)


class Service:
    """A managed address that the box has been told of, and its parties."""

    def __init__(self, scenario, family, mode):
        Scenario.number += 1
        self.scenario, self.box = scenario, scenario.box
        self.roles = scenario.roles(family, mode, Scenario.number)
        self.family, self.mode, self.address = family, mode, self.roles.address
        self.client, self.source, self.destination = self.roles.client, self.roles.source, self.roles.destination
        self.home = self.source
        self.box.tidegate("address", "add", self.address, *self.backend(self.source))

    def backend(self, vm):
        words = ["--name", vm.name, "--port", vm.port, "--mac", vm.mac]
        return words + (["--locator", vm.address] if self.mode == "nat" else [])

    def is_taken_over(self):
        self.box.tidegate("address", "takeover", self.address)

    def has_destination(self):
        self.box.tidegate("address", "destination", self.address, *self.backend(self.destination))

    def is_cut_over(self, *words):
        """How many old sessions the box counted."""
        (answer,) = self.box.tidegate("address", "cutover", self.address, *words)
        return answer["old_sessions"]

    def begins_to_move(self, *words):
        """Takeover, destination and cutover at once."""
        self.is_taken_over()
        self.has_destination()
        return self.is_cut_over(*words)

    def is_released(self, *words):
        self.box.tidegate("address", "release", self.address, *words)
        self.home = self.destination

    def is_aborted(self):
        self.box.tidegate("address", "abort", self.address)

    def hops(self):
        """The box is a hop for what it rewrites; a guest that owns the managed address is as on the client's own link."""
        return 1 if self.mode == "nat" else 0

    def state(self):
        """The address as the box describes it."""
        return self.box.tidegate("address", "show", self.address)[0]

    def comes_to(self, state):
        """Wait until the address is in `state`."""
        end = time.monotonic() + PATIENCE_S
        while (now := self.state())["state"] != state:
            if time.monotonic() > end:
                raise AssertionError(f"expected to become {state}, but it is {now}")
            time.sleep(0.01)

    def packet(self, sender, layers, **fields):
        """`layers` in an IP packet of this conversation as `sender` sends it."""
        ip = IP if self.family == 4 else IPv6
        receiver = self.address if sender == self.client else self.client.address
        packet = ip(**{"src": sender.address, "dst": receiver, **fields}) / layers
        return ip(bytes(packet))

    def sends(self, sender, layers, **fields):
        """`sender` sends `layers` in an IP packet with these fields."""
        packet = layers if isinstance(layers, (IP, IPv6)) else self.packet(sender, layers, **fields)
        return Message(self, sender, packet)


class Message:
    """A packet that one party sends and another is expected to get."""

    def __init__(self, service, sender, packet: Packet):
        self.service, self.sender, self.packet = service, sender, packet
        frame = Ether(dst=sender.gateway, src=sender.mac) / packet
        self.sent = service.scenario.send(sender.port, frame)

    def reaches(self, receiver):
        """`receiver` gets it, rewritten as the mode demands and otherwise as it was sent."""
        service = self.service
        expected = self.seen_by(receiver)
        if service.mode == "nat":
            require_sound(expected)
        if receiver == service.client:
            outcome = "to_client"
        else:
            outcome = "to_source" if receiver == service.home else "to_destination"
        ether = Ether(dst=receiver.mac, src=receiver.gateway) / expected
        self.sent.reaches(receiver.port, outcome, ether)
        return self

    def seen_by(self, receiver):
        service, hops = self.service, self.service.hops()
        if receiver == service.client:
            return readdressed(self.packet, hops, src=service.address)
        return readdressed(self.packet, hops, dst=receiver.address)

    def is_dropped(self, outcome):
        self.sent.is_dropped(outcome)
        return self
