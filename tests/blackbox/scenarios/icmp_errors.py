"""ICMP errors find whoever sent the packet they quote, which is quoted as its sender knows it (RFC 5508, section 4)."""

from harness.judge import readdressed
from harness.scenario import Scenario, everywhere
from harness.sessions import Echo, Other, Tcp, Udp
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

#: GRE and ESP, with the first bytes of each.
UNKNOWN = {47: bytes.fromhex("0000 6558"), 50: bytes.fromhex("0000 1001 0000 0001")}
ROUTER = {4: "192.0.2.99", 6: "2001:db8:ffff::99"}
INNER_ROUTER = {4: "10.8.255.1", 6: "2001:db8:8:ffff::1"}


def errors(family):
    """One error of each kind there is; the third is about a packet that is too big."""
    if family == 4:
        return [
            ICMP(type=3, code=1),
            ICMP(type=3, code=3),
            ICMP(type=3, code=4, nexthopmtu=1280),
            ICMP(type=11, code=0),
            ICMP(type=12, code=0, ptr=9),
        ]
    return [
        ICMPv6DestUnreach(code=0),
        ICMPv6DestUnreach(code=4),
        ICMPv6PacketTooBig(mtu=1280),
        ICMPv6TimeExceeded(code=0),
        ICMPv6ParamProblem(code=0, ptr=6),
    ]


def ip(family, **fields):
    return (IP if family == 4 else IPv6)(**fields)


def framed(service, source, destination, packet):
    return Ether(src=source, dst=destination, type=0x0800 if service.family == 4 else 0x86DD) / Raw(packet)


class IcmpErrors(Scenario):
    def error(self, service, error, source, destination, quote, hops=0):
        """An ICMP error as one IP packet after `hops` hops. What it quotes is bytes: none of it is left to scapy's guesses."""
        left = {"ttl": 64 - hops} if service.family == 4 else {"hlim": 64 - hops}
        return bytes(ip(service.family, src=source, dst=destination, **left) / error / Raw(bytes(quote)))

    def delivered(self, service, sender, receiver, packet, expected, outcome=None):
        """`sender` sends the error, and `receiver` gets it as expected."""
        outcome = outcome or ("to_client" if receiver == service.client else "to_source")
        sent = self.send(sender.port, framed(service, sender.mac, sender.gateway, packet))
        sent.reaches(receiver.port, outcome, framed(service, receiver.gateway, receiver.mac, expected))

    def from_client(self, service, packet):
        return self.send("uplink", framed(service, service.client.mac, service.client.gateway, packet))

    def about_answer(self, service, answer, length=None, kinds=slice(2, 3)):
        """A router on the client's side about what the source answered; the source gets it."""
        for error in errors(service.family)[kinds]:
            at_client = bytes(answer.seen_by(service.client))[:length]
            at_source = bytes(readdressed(answer.seen_by(service.client), src=service.source.address))[:length]
            packet = self.error(service, error, ROUTER[service.family], service.address, at_client)
            expected = self.error(service, error, ROUTER[service.family], service.source.address, at_source, service.hops())
            self.delivered(service, service.client, service.source, packet, expected)

    def about_question(self, service, question, sender, length=None, kinds=slice(2, 3)):
        """The source or a router before it about what the client asked; the client gets it."""
        for error in errors(service.family)[kinds]:
            at_source = bytes(question.seen_by(service.source))[:length]
            at_client = bytes(readdressed(question.seen_by(service.source), dst=service.address))[:length]
            packet = self.error(service, error, sender, service.client.address, at_source)
            new = service.address if sender == service.source.address else sender
            expected = self.error(service, error, new, service.client.address, at_client, service.hops())
            self.delivered(service, service.source, service.client, packet, expected)

    def conversations(self, service):
        """A question of the client and an answer of the source, for each protocol."""
        tcp = Tcp(service).begins_with(service.source)
        yield (
            tcp.sends(service.client, "PA", b"question").reaches(service.source),
            tcp.sends(service.source, "PA", b"a long answer" * 20).reaches(service.client),
        )
        for session in (Udp(service), Udp(service, 40001, checksum=0), Echo(service)):
            yield (
                session.sends(service.client, b"question").reaches(service.source),
                session.sends(service.source, b"a long answer" * 20).reaches(service.client),
            )
        for number, header in UNKNOWN.items():
            session = Other(service, number)
            yield (
                session.sends(service.client, header + b"question").reaches(service.source),
                session.sends(service.source, header + b"a long answer" * 20).reaches(service.client),
            )

    # RFC 4787, REQ-12b.
    @everywhere
    def test_errors_of_every_kind(self, service):
        udp = Udp(service)
        question = udp.sends(service.client, b"question").reaches(service.source)
        answer = udp.sends(service.source, b"the answer").reaches(service.client)
        self.about_answer(service, answer, kinds=slice(None))
        self.about_question(service, question, service.source.address, kinds=slice(None))

    # RFC 4787, REQ-12a; RFC 5508, REQ-4.
    @everywhere
    def test_a_router_on_the_clients_side(self, service):
        for _, answer in self.conversations(service):
            self.about_answer(service, answer)

    # RFC 5508, REQ-5.
    @everywhere
    def test_the_source_itself(self, service):
        for question, _ in self.conversations(service):
            self.about_question(service, question, service.source.address)

    # RFC 5508, REQ-3d.
    @everywhere
    def test_extensions_stay_as_they_are(self, service):
        answer = Udp(service).begins_with(service.source).sends(service.source, b"answer").reaches(service.client)
        # The quote is filled up to 128 bytes and its length told (in words of 4 or 8 bytes); an object of RFC 4884 follows.
        extension = bytes.fromhex("2000 dff5 0008 0101 1896 9101")
        at_client = bytes(answer.seen_by(service.client))
        at_source = bytes(readdressed(answer.seen_by(service.client), src=service.source.address))
        error = ICMP(type=11, length=32) if service.family == 4 else ICMPv6TimeExceeded(length=16)
        ends = ROUTER[service.family], service.address
        packet = self.error(service, error, *ends, at_client.ljust(128, b"\0") + extension)
        ends = ROUTER[service.family], service.source.address
        expected = self.error(service, error, *ends, at_source.ljust(128, b"\0") + extension, service.hops())
        self.delivered(service, service.client, service.source, packet, expected)

    # RFC 5508, REQ-5.
    @everywhere
    def test_a_router_before_the_source(self, service):
        # It has an address of its own, which stays (RFC 5508, REQ-5).
        router = INNER_ROUTER[service.family]
        for question, _ in self.conversations(service):
            if service.mode == "nat":
                self.about_question(service, question, router)
                continue
            # Nothing was rewritten, so there is nothing to do but to route it.
            quote = question.seen_by(service.source)
            about = errors(service.family)[2], router, service.client.address, quote
            packet, expected = self.error(service, *about), self.error(service, *about, hops=1)
            self.delivered(service, service.source, service.client, packet, expected, "forwarded")

    @everywhere
    def test_no_more_quoted_than_must_be(self, service):
        headers = 20 if service.family == 4 else 40
        for question, answer in self.conversations(service):
            self.about_answer(service, answer, headers + 8)
            self.about_question(service, question, service.source.address, headers + 8)

    @everywhere
    def test_they_follow_the_owner_after_cutover(self, service):
        old = Udp(service, 41000)
        old.begins_with(service.source)
        answer = old.sends(service.source, b"answer").reaches(service.client)
        service.begins_to_move()
        self.about_answer(service, answer)

    # RFC 5508, REQ-4.
    @everywhere
    def test_about_no_session(self, service):
        quoted = ip(service.family, src=service.address, dst=service.client.address) / UDP(sport=9000, dport=9)
        packet = self.error(service, errors(service.family)[0], ROUTER[service.family], service.address, quoted)
        self.from_client(service, packet).is_dropped("icmp_unmatched")

    # RFC 5508, REQ-3.
    @everywhere
    def test_an_error_that_is_damaged(self, service):
        answer = Udp(service).begins_with(service.source).sends(service.source, b"answer").reaches(service.client)
        quote = answer.seen_by(service.client)
        packet = self.error(service, errors(service.family)[0], ROUTER[service.family], service.address, quote)
        damaged = packet[:-1] + bytes([packet[-1] ^ 1])
        self.from_client(service, damaged).is_dropped("bad_icmp_checksum")

    @everywhere
    def test_a_quote_cut_short(self, service):
        answer = Udp(service).begins_with(service.source).sends(service.source, b"answer").reaches(service.client)
        quote = bytes(answer.seen_by(service.client))
        for length in (0, 7, 19, 27):
            packet = self.error(service, errors(service.family)[0], ROUTER[service.family], service.address, quote[:length])
            self.from_client(service, packet).is_dropped("icmp_quote_unreadable")
