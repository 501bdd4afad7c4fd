"""UDP-Lite (RFC 3828) and DCCP (RFC 4340) for scapy, which knows neither: checksums over the addresses, and over as much of the
packet as it says itself."""

import socket

from scapy.fields import BitField, ByteField, ShortField, XShortField
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, bind_layers
from scapy.utils import checksum


def pseudo_header(ip, protocol, length):
    """What stands before the packet for its checksum, as before TCP's."""
    if ip.version == 4:
        addresses = socket.inet_aton(ip.src) + socket.inet_aton(ip.dst)
    else:
        addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in (ip.src, ip.dst))
    return addresses + length.to_bytes(4, "big") + bytes([0, protocol])


class Summed(Packet):
    """The checksum is the fourth pair of bytes in both."""

    def post_build(self, header, payload):
        if self.chksum is None:
            packet = header[:6] + b"\0\0" + header[8:] + payload
            covered = packet[: self.covered(header) or None]
            value = checksum(pseudo_header(self.underlayer, self.number, len(packet)) + covered)
            header = header[:6] + self.written(value).to_bytes(2, "big") + header[8:]
        return header + payload


class UdpLite(Summed):
    name, number = "UDP-Lite", 136
    fields_desc = [
        ShortField("sport", 40000),
        ShortField("dport", 9000),
        ShortField("coverage", 8),
        XShortField("chksum", None),
    ]

    def covered(self, _header):
        return self.coverage

    def written(self, value):
        # Zero would be none, and none is not allowed.
        return value or 0xFFFF


class Dccp(Summed):
    """A packet of type DATA with a short sequence number."""

    name, number = "DCCP", 33
    fields_desc = [
        ShortField("sport", 40000),
        ShortField("dport", 9000),
        ByteField("offset", 3),
        BitField("ccval", 0, 4),
        BitField("coverage", 1, 4),
        XShortField("chksum", None),
        BitField("reserved", 0, 3),
        BitField("type", 2, 4),
        BitField("extended", 0, 1),
        ByteField("reserved2", 0),
        ShortField("sequence", 7),
    ]

    def covered(self, _header):
        return self.coverage and self.offset * 4 + (self.coverage - 1) * 4

    def written(self, value):
        return value


for kind in (UdpLite, Dccp):
    bind_layers(IP, kind, proto=kind.number)
    bind_layers(IPv6, kind, nh=kind.number)
