"""Conversations of a client with a managed address, each with words for its life."""

from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Raw


class Tcp:
    """A TCP connection that the client opens; both sides' sequence numbers are kept."""

    def __init__(self, service, port=40000, at=80):
        self.service, self.ports = service, (port, at)
        self.next = {"client": 1000, "vm": 0xFFFF_FFF0}

    def sends(self, sender, flags, payload=b"", **fields):
        """A segment, in order."""
        mine, theirs = ("client", "vm") if sender == self.service.client else ("vm", "client")
        sport, dport = self.ports if mine == "client" else reversed(self.ports)
        ack = self.next[theirs] if "A" in flags else 0
        segment = TCP(sport=sport, dport=dport, flags=flags, seq=self.next[mine], ack=ack, **fields)
        self.next[mine] += len(payload) + ("S" in flags) + ("F" in flags)
        self.next[mine] &= 0xFFFF_FFFF
        return self.service.sends(sender, segment / Raw(payload) if payload else segment)

    def begins_with(self, vm):
        """The handshake."""
        client = self.service.client
        self.sends(client, "S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]).reaches(vm)
        self.sends(vm, "SA", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]).reaches(client)
        self.sends(client, "A").reaches(vm)
        return self

    def goes_on_with(self, vm):
        """Data in both directions; of odd lengths, which checksums must bear."""
        client = self.service.client
        self.sends(client, "PA", b"question").reaches(vm)
        self.sends(vm, "PA", b"the answer is odd").reaches(client)
        return self

    def ends_with(self, vm):
        """FINs and their acknowledgements."""
        client = self.service.client
        self.sends(client, "FA").reaches(vm)
        self.sends(vm, "FA").reaches(client)
        self.sends(client, "A").reaches(vm)
        return self


class Udp:
    """Datagrams that ask and answer."""

    def __init__(self, service, port=40000, at=9000, checksum=None):
        self.service, self.ports, self.checksum = service, (port, at), checksum

    def sends(self, sender, payload):
        is_client = sender == self.service.client
        sport, dport = self.ports if is_client else reversed(self.ports)
        datagram = UDP(sport=sport, dport=dport, chksum=self.checksum) / Raw(payload)
        return self.service.sends(sender, datagram)

    def begins_with(self, vm):
        return self.goes_on_with(vm)

    def goes_on_with(self, vm):
        self.sends(self.service.client, b"question").reaches(vm)
        self.sends(vm, b"the answer is odd").reaches(self.service.client)
        return self


class Echo:
    """Pings with one identifier."""

    def __init__(self, service, port=40000):
        self.service, self.identifier, self.sequence = service, port, 0

    def sends(self, sender, payload=b"ping"):
        is_client = sender == self.service.client
        if self.service.family == 4:
            layer = ICMP(type=8 if is_client else 0, id=self.identifier, seq=self.sequence)
        else:
            kind = ICMPv6EchoRequest if is_client else ICMPv6EchoReply
            layer = kind(id=self.identifier, seq=self.sequence)
        return self.service.sends(sender, layer / Raw(payload))

    def begins_with(self, vm):
        return self.goes_on_with(vm)

    def goes_on_with(self, vm):
        self.sequence += 1
        self.sends(self.service.client).reaches(vm)
        self.sends(vm, b"an odd pong").reaches(self.service.client)
        return self


class Other:
    """A protocol whose ports the box does not know: all of it between two addresses is one conversation."""

    def __init__(self, service, number):
        self.service, self.number = service, number

    def sends(self, sender, payload):
        field = "proto" if self.service.family == 4 else "nh"
        return self.service.sends(sender, Raw(payload), **{field: self.number})
