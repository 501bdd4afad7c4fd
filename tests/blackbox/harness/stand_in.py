"""The other end of an IPIP or GUE tunnel on a kernel that has no device for it: a TUN device, and sockets of the kernel
for what is around its packets.

    stand_in.py ipip|gue LOCAL REMOTE DEVICE

Prints "ready" once the device is there, which is then to be given addresses.
"""

import fcntl
import os
import selectors
import socket
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
IPIP, IPV6 = 4, 41
GUE_PORT = 6080


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def protocol(packet):
    return IPIP if packet[0] >> 4 == 4 else IPV6


class Ipip:
    """A raw socket for each of the two protocols."""

    def __init__(self, family, local, remote):
        self.has_header, self.remote = family == socket.AF_INET, (remote, 0)
        self.sockets = {number: socket.socket(family, socket.SOCK_RAW, number) for number in (IPIP, IPV6)}
        for each in self.sockets.values():
            each.bind((local, 0))

    def receive(self, ready):
        data, sender = ready.recvfrom(65535)
        # Only IPv4 shows its header.
        return (data[(data[0] & 15) * 4 :] if self.has_header else data), sender[0]

    def send(self, packet):
        self.sockets[protocol(packet)].sendto(packet, self.remote)

    def all(self):
        return self.sockets.values()


class Gue:
    """UDP, whose checksums the kernel verifies."""

    def __init__(self, family, local, remote):
        self.socket, self.remote = socket.socket(family, socket.SOCK_DGRAM), (remote, GUE_PORT)
        self.socket.bind((local, GUE_PORT))

    def receive(self, ready):
        data, sender = ready.recvfrom(65535)
        if data[0] != 0 or data[1] != protocol(data[4:]) or data[2:4] != bytes(2):
            sys.exit(f"not GUE as expected: {data[:8].hex()}")
        return data[4:], sender[0]

    def send(self, packet):
        self.socket.sendto(struct.pack("!BBH", 0, protocol(packet), 0) + packet, self.remote)

    def all(self):
        return [self.socket]


def main(kind, local, remote, name):
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    device = tun(name)
    tunnel = {"ipip": Ipip, "gue": Gue}[kind](family, local, remote)
    selector = selectors.DefaultSelector()
    selector.register(device, selectors.EVENT_READ)
    for each in tunnel.all():
        selector.register(each, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj == device:
                tunnel.send(os.read(device, 65535))
                continue
            packet, sender = tunnel.receive(key.fileobj)
            if sender == remote:
                os.write(device, packet)


if __name__ == "__main__":
    main(*sys.argv[1:])
