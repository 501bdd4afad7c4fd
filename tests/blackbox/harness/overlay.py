"""A guest behind another switch: that switch and the guest are one machine here, with the other end of a tunnel.

    client --near/router-- uplink --box-- vm0 -- source
       rack ------'  (tunnel's other end; in it the destination's address)
"""

import pathlib
import socket
import subprocess
import sys
import time

from .cast import CLIENT, CLIENT_MAC, GATEWAY_MAC, NEIGHBOURS, PORTS, UPLINK_MAC
from .netns import Namespace, ip
from .switch_box import Failed, SwitchBox

SERVICE = {4: "10.9.0.100", 6: "2001:db8:9::100"}
BOX = {4: "10.9.0.1", 6: "2001:db8:9::1"}
RACK = {4: "192.0.2.2", 6: "2001:db8:2::2"}
ROUTER = {4: "192.0.2.1", 6: "2001:db8:2::1"}
GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
BITS = {4: 32, 6: 128}
SOURCE_MAC, GUEST_MAC = "52:54:00:00:00:11", "52:54:00:00:00:12"
VNI = 7
DEVICE = "inner"
PORT = 9000
ROUTES = """
[[route]]
to = "192.0.2.0/24"
via = "10.9.0.2"

[[route]]
to = "2001:db8:2::/64"
via = "2001:db8:9::2"
"""
#: Says who it is, takes in what comes, and says how much that was.
SERVER = """
import socket, sys, threading
def serve(peer):
    peer.sendall((sys.argv[1] + "\\n").encode())
    count = 0
    while data := peer.recv(1 << 16):
        count += len(data)
        if data.endswith(b"?"):
            peer.sendall(f"{count}\\n".encode())
server = socket.create_server(("", int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


class Session:
    """A connection that stays, and that one can push bytes through."""

    def __init__(self, machine, address):
        end = time.monotonic() + 5
        while True:
            try:
                self.socket = machine.connect(address, PORT)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.socket.settimeout(10)
        self.lines = self.socket.makefile("r")
        self.server, self.pushed = self.lines.readline().strip(), 0

    def push(self, count):
        """Send so many bytes; the server has counted each one."""
        self.socket.sendall(b"x" * (count - 1) + b"?")
        self.pushed += count
        while (counted := int(self.lines.readline())) != self.pushed:
            if counted > self.pushed:
                raise AssertionError(f"{counted} of {self.pushed} bytes")

    def end(self):
        self.lines.close()
        self.socket.close()


class Overlay:
    """One managed address of the inner family; its source is on the box's link, its destination behind a tunnel."""

    def __init__(self, kind, outer, inner, mode):
        self.kind, self.outer, self.inner, self.mode = kind, outer, inner, mode
        self.address = SERVICE[inner]
        self.box = SwitchBox(PORTS, NEIGHBOURS, ROUTES, {"linger": 1})
        self.namespaces, self.device = [], None
        try:
            self.build()
        except BaseException:
            self.end()
            raise

    def build(self):
        self.near, self.source, self.rack = map(self.namespace, ("near", "source", "rack"))
        self.build_paths()
        self.build_source()
        self.build_tunnel()
        self.build_guest(self.rack, DEVICE, self.locator("destination"))
        for name, machine in (("source", self.source), ("destination", self.rack)):
            machine.start(sys.executable, "-c", SERVER, name, PORT)
        self.box.tidegate("address", "add", self.address, *self.backend("source"))

    def namespace(self, name):
        self.namespaces.append(Namespace(name))
        return self.namespaces[-1]

    def locator(self, name):
        if self.mode == "l2":
            return self.address
        number = {"source": 11, "destination": 12}[name]
        return f"10.8.0.{number}" if self.inner == 4 else f"2001:db8:8::{number}"

    def backend(self, name):
        words = ["--name", name]
        if name == "source":
            words += ["--port", "vm0", "--mac", SOURCE_MAC]
        else:
            words += ["--encap", self.kind, "--local", BOX[self.outer], "--remote", RACK[self.outer], "--port", "vm0"]
            words += ["--mac", GUEST_MAC, "--vni", VNI] if self.kind == "vxlan" else []
        return words + (["--locator", self.locator(name)] if self.mode == "nat" else [])

    def build_paths(self):
        near, rack = self.near, self.rack
        near.takes("uplink", CLIENT_MAC)
        near.sysctl("net.ipv4.ip_forward", 1)
        near.sysctl("net.ipv6.conf.all.forwarding", 1)
        ip("link", "add", "torack", "netns", "near", "type", "veth", "peer", "name", "underlay", "netns", "rack")
        near.ip("link", "set", "torack", "up")
        rack.ip("link", "set", "underlay", "up")
        for family, length in ((4, 24), (6, 64)):
            near.ip("addr", "add", f"{CLIENT[family]}/{length}", "dev", "uplink")
            near.ip("addr", "add", f"{ROUTER[family]}/{length}", "dev", "torack")
            rack.ip("addr", "add", f"{RACK[family]}/{length}", "dev", "underlay")
            rack.ip("route", "add", f"{BOX[family]}/{BITS[family]}", "via", ROUTER[family])
            near.ip("neigh", "replace", BOX[family], "lladdr", UPLINK_MAC, "dev", "uplink", "nud", "permanent")
            near.ip("route", "add", f"{SERVICE[family]}/{BITS[family]}", "via", BOX[family])

    def build_source(self):
        self.source.takes("vm0", SOURCE_MAC)
        self.build_guest(self.source, "vm0", self.locator("source"))

    def build_guest(self, machine, device, address):
        """The guest offers segments as large as its client's link takes, but sends none that are too large for the tunnel."""
        machine.ip("addr", "add", f"{address}/{BITS[self.inner]}", "dev", device)
        words = ["route", "add", "default", "dev", device, "mtu", "1400", "advmss", "1460" if self.inner == 4 else "1440"]
        if device != DEVICE or self.kind == "vxlan":
            gateway = GATEWAY[self.inner]
            machine.ip("neigh", "replace", gateway, "lladdr", GATEWAY_MAC, "dev", device, "nud", "permanent")
            machine.ip("route", "add", f"{gateway}/{BITS[self.inner]}", "dev", device)
            words[3:3] = ["via", gateway]
        machine.ip(*(["-6"] if self.inner == 6 else []), *words)

    def build_tunnel(self):
        """The kernel's own device where it has one; what it lacks is said."""
        local, remote = RACK[self.outer], BOX[self.outer]
        ends = ["local", local, "remote", remote]
        if self.kind == "vxlan":
            # Without an underlying device its MTU may be as if there were no tunnel.
            words = ["id", VNI, *ends, "dstport", "4789"]
            self.rack.ip("link", "add", DEVICE, "address", GUEST_MAC, "type", "vxlan", *words)
            self.device = "the kernel's vxlan"
        else:
            kind = ["ip6tnl", "mode", "any", "encaplimit", "none"] if self.outer == 6 else ["ipip" if self.inner == 4 else "sit"]
            gue = ["encap", "gue", "encap-sport", "auto", "encap-dport", "6080"] if self.kind == "gue" else []
            try:
                if gue:
                    self.rack.ip(*(["-6"] if self.outer == 6 else []), "fou", "add", "port", "6080", "gue")
                self.rack.ip("link", "add", DEVICE, "type", *kind, *ends, *gue)
                self.device = f"the kernel's {' '.join(kind + gue[:2])}"
            except AssertionError as error:
                self.stand_in(local, remote, str(error).splitlines()[-1])
        self.rack.ip("link", "set", DEVICE, "mtu", "1500", "up")

    def stand_in(self, local, remote, why):
        self.device = "a stand-in over the kernel's sockets"
        print(f"\n  NO KERNEL DEVICE for {self.kind} over IPv{self.outer} ({why}): {self.device}", file=sys.stderr)
        program = pathlib.Path(__file__).with_name("stand_in.py")
        command = [sys.executable, program, self.kind, local, remote, DEVICE]
        process = self.rack.start(*command, stdout=subprocess.PIPE, text=True)
        if process.stdout.readline() != "ready\n":
            raise Failed("the stand-in did not start")

    def moves_to(self, name):
        """Begin a migration; how many old sessions there are."""
        self.box.tidegate("address", "takeover", self.address)
        self.box.tidegate("address", "destination", self.address, *self.backend(name))
        (answer,) = self.box.tidegate("address", "cutover", self.address)
        return answer["old_sessions"]

    def is_drained(self):
        end = time.monotonic() + 10
        while self.box.tidegate("address", "show", self.address)[0]["state"] != "drained":
            if time.monotonic() > end:
                raise AssertionError("not drained")
            time.sleep(0.02)
        self.box.tidegate("address", "release", self.address, "--keep-tracking")

    def path_mtu(self):
        """What the client's kernel believes to be the largest packet to the address."""
        words = self.near.ip("route", "get", self.address).split()
        return int(words[words.index("mtu") + 1]) if "mtu" in words else 1500

    def situation(self):
        _, outcomes, _ = self.box.counters()
        yield f"{self.device}; outcomes: { {name: count for name, count in outcomes.items() if count} }"
        for namespace in self.namespaces:
            yield f"--- {namespace.name}\n{namespace.ip('-s', 'link')}{namespace.ip('route')}{namespace.ip('-6', 'route')}"

    def end(self):
        for namespace in self.namespaces:
            namespace.delete()
        self.box.stop()
