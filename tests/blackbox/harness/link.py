"""The outer end of a box's port: frames go in and come out as bytes."""

import select
import socket
import struct
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6


class Link:
    """A network interface that is the other end of a port of the box."""

    def __init__(self, interface):
        self.interface = interface
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((interface, ETH_P_ALL))
        self.socket.setblocking(False)
        self.sent = 0
        self.received = 0

    def send(self, frame):
        self.socket.send(bytes(frame))
        self.sent += 1

    def receive(self, timeout=0.0):
        """The next frame that the box sent, or None."""
        end = time.monotonic() + timeout
        while True:
            readable, _, _ = select.select([self.socket], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                return None
            frame, ancillary, _, sender = self.socket.recvmsg(65600, 256)
            # What this side sent is shown again.
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            self.received += 1
            return with_tag(frame, ancillary)

    def close(self):
        self.socket.close()


class Tagged:
    """A VLAN of a link: what comes must have these tags, and nothing else may."""

    def __init__(self, link, *tags):
        self.link = link
        # An outer tag before another is a service tag (IEEE 802.1ad).
        kinds = [0x88A8] * (len(tags) - 1) + [0x8100]
        self.tags = b"".join(struct.pack("!HH", kind, tag) for kind, tag in zip(kinds, tags))

    interface = property(lambda self: self.link.interface)
    sent = property(lambda self: self.link.sent)
    received = property(lambda self: self.link.received)

    def send(self, frame):
        frame = bytes(frame)
        self.link.send(frame[:12] + self.tags + frame[12:])

    def receive(self, timeout=0.0):
        frame = self.link.receive(timeout)
        if frame is None:
            return None
        end = 12 + len(self.tags)
        if frame[12:end] != self.tags:
            raise AssertionError(f"expected the tags {self.tags.hex()} in {frame.hex()}")
        return frame[:12] + frame[end:]

    def close(self):
        self.link.close()


def with_tag(frame, ancillary):
    """The kernel takes a frame's outer VLAN tag away and tells of it beside."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", data[:20])
            if status & TP_STATUS_VLAN_VALID:
                known = status & TP_STATUS_VLAN_TPID_VALID
                tag = struct.pack("!HH", tpid if known else 0x8100, tci)
                return frame[:12] + tag + frame[12:]
    return frame
