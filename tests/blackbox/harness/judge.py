"""What a frame must look like, by scapy: built from nothing, with every checksum computed anew."""

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import IPerror6, IPv6, _ICMPv6
from scapy.layers.l2 import Ether
from scapy.utils import hexdump

from .summed import Summed

#: Layers that carry a checksum, with the field's name.
SUMMED = (
    (IP, "chksum"),
    (TCP, "chksum"),
    (UDP, "chksum"),
    (ICMP, "chksum"),
    (_ICMPv6, "cksum"),
    (Summed, "chksum"),
)


def summed(packet):
    """`packet` with each of its checksums computed anew. A quoted packet is left as it is, and so is a UDP datagram that
    has no checksum."""
    packet = packet.copy()
    layer = packet
    while layer and not isinstance(layer, (IPerror, IPerror6)):
        for kind, field in SUMMED:
            if isinstance(layer, kind) and not (kind is UDP and layer.chksum == 0):
                delattr(layer, field)
        layer = layer.payload
    return packet.__class__(bytes(packet))


def readdressed(packet, hops=0, **fields):
    """`packet` (IP or IPv6) with other addresses and `hops` hops later."""
    changed = packet.copy()
    for name, value in fields.items():
        setattr(changed, name, value)
    if isinstance(changed, IPv6):
        changed.hlim -= hops
    else:
        changed.ttl -= hops
    return summed(changed)


def require_same(frame, expected):
    """`frame` is `expected`, byte for byte."""
    if bytes(frame) != bytes(expected):
        raise AssertionError(f"expected\n{shown(expected)}\nbut there came\n{shown(frame)}")


def require_sound(packet):
    """Each checksum of `packet` is the one scapy computes."""
    right = summed(packet)
    if bytes(right) != bytes(packet):
        raise AssertionError(f"a checksum is wrong in\n{shown(packet)}\nand would be right in\n{shown(right)}")


def shown(packet):
    """A packet or frame for people."""
    if isinstance(packet, bytes):
        packet = Ether(packet)
    return f"{packet.summary()}\n{hexdump(packet, dump=True)}"
