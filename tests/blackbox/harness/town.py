"""A town of machines around a box: two guests, a client on the uplink, and one behind a narrower path.

    far --1500-- | router and near client | --uplink-- box --vm0-- source
          ^1300 (towards far)                              --vm1-- destination
"""

import json
import pathlib
import subprocess
import threading
import time

from .cast import CLIENT, CLIENT_MAC, GATEWAY_MAC, NEIGHBOURS, PORTS, UPLINK_MAC
from .netns import Namespace, ip
from .switch_box import Failed, SwitchBox

SERVICE = {4: "10.9.0.100", 6: "2001:db8:9::100"}
LOCATOR = {4: "10.8.0.{}", 6: "2001:db8:8::{}"}
FAR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
ROUTER = {4: "192.0.2.1", 6: "2001:db8:2::1"}
NARROW = 1300
GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
VM_MAC = {"source": "52:54:00:00:00:11", "destination": "52:54:00:00:00:12"}
#: Room for every question that a name server is asked within a second or two.
SESSIONS = 65536
BITS = {4: 32, 6: 128}
ROUTES = """
[[route]]
to = "192.0.2.0/24"
via = "10.9.0.2"

[[route]]
to = "2001:db8:2::/64"
via = "2001:db8:9::2"
"""
SERVERS = pathlib.Path(__file__).resolve().parent.parent / "servers"


class Town:
    """Everything that is there for one migration of one address."""

    def __init__(self, family, mode, timeouts, options=()):
        self.family, self.mode, self.address = family, mode, SERVICE[family]
        self.options = options
        self.box = SwitchBox(PORTS, NEIGHBOURS, ROUTES, timeouts, SESSIONS)
        self.directory = self.box.directory
        self.namespaces = []
        try:
            self.build()
        except BaseException:
            self.end()
            raise

    def build(self):
        self.near, self.far, *vms = map(self.namespace, ("near", "far", *VM_MAC))
        self.vms = dict(zip(VM_MAC, vms))
        self.build_paths()
        for number, (name, vm) in enumerate(self.vms.items()):
            self.build_vm(vm, f"vm{number}", VM_MAC[name], LOCATOR[self.family].format(11 + number))
        self.box.tidegate("address", "add", self.address, *self.backend("source"), *self.options)

    def namespace(self, name):
        self.namespaces.append(Namespace(name))
        return self.namespaces[-1]

    def build_paths(self):
        near, far, box_mac = self.near, self.far, UPLINK_MAC
        near.takes("uplink", CLIENT_MAC)
        near.sysctl("net.ipv4.ip_forward", 1)
        near.sysctl("net.ipv6.conf.all.forwarding", 1)
        # Only the router's end is narrow: the far client offers segments that will not fit.
        ip("link", "add", "narrow", "netns", "near", "mtu", NARROW, "type", "veth", "peer", "name", "wide", "netns", "far")
        near.ip("link", "set", "narrow", "up")
        far.ip("link", "set", "wide", "up")
        for family, length in ((4, 24), (6, 64)):
            near.ip("addr", "add", f"{CLIENT[family]}/{length}", "dev", "uplink")
            near.ip("addr", "add", f"{ROUTER[family]}/{length}", "dev", "narrow")
            far.ip("addr", "add", f"{FAR[family]}/{length}", "dev", "wide")
            far.ip("route", "add", "default", "via", ROUTER[family])
            # Until takeover nobody answers for the address; the way is the box's own.
            via = {4: "10.9.0.1", 6: "2001:db8:9::1"}[family]
            near.ip("neigh", "replace", via, "lladdr", box_mac, "dev", "uplink", "nud", "permanent")
            near.ip("route", "add", f"{SERVICE[family]}/{BITS[family]}", "via", via)

    def build_vm(self, vm, interface, mac, locator):
        vm.takes(interface, mac)
        own = self.address if self.mode == "l2" else locator
        vm.ip("addr", "add", f"{own}/{BITS[self.family]}", "dev", interface)
        gateway = GATEWAY[self.family]
        vm.ip("neigh", "replace", gateway, "lladdr", GATEWAY_MAC, "dev", interface, "nud", "permanent")
        vm.ip("route", "add", f"{gateway}/{BITS[self.family]}", "dev", interface)
        vm.ip("route", "add", "default", "via", gateway, "dev", interface)

    def backend(self, name):
        number = list(self.vms).index(name)
        words = ["--name", name, "--port", f"vm{number}", "--mac", VM_MAC[name]]
        return words + (["--locator", LOCATOR[self.family].format(11 + number)] if self.mode == "nat" else [])

    def takes_over(self):
        """The box answers for the address from now on: its neighbours no longer need to know the box."""
        self.box.tidegate("address", "takeover", self.address)
        self.near.ip("route", "del", f"{self.address}/{BITS[self.family]}")
        self.box.tidegate("address", "destination", self.address, *self.backend("destination"))

    def cuts_over(self):
        (answer,) = self.box.tidegate("address", "cutover", self.address)
        return answer["old_sessions"]

    def releases(self):
        self.box.tidegate("address", "release", self.address)

    def stands(self):
        return self.box.tidegate("address", "show", self.address)[0]

    def serve(self):
        """What guests offer, each under its own name: the programs in servers/."""
        for name, vm in self.vms.items():
            for server in sorted(SERVERS.iterdir()):
                log = (self.directory / f"{name}-{server.name}.log").open("w")
                with log:
                    vm.start(server, name, self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def situation(self):
        """What there is to see when something went wrong."""
        _, outcomes, _ = self.box.counters()
        yield f"outcomes: { {name: count for name, count in outcomes.items() if count} }"
        yield from map(str, self.box.tidegate("switch", "sessions"))
        for namespace in self.namespaces:
            yield f"--- {namespace.name}\n{namespace.ip('-s', 'link')}"
            sockets = ["ip", "netns", "exec", namespace.name, "ss", "-tuni"]
            yield subprocess.run(sockets, capture_output=True, text=True).stdout

    def end(self):
        for namespace in self.namespaces:
            namespace.delete()
        self.box.stop()


class Watch(threading.Thread):
    """The migration's events, each with the time it came at."""

    def __init__(self, town):
        super().__init__(daemon=True)
        self.process = town.box.watch(town.address)
        self.events = []
        self.start()

    def run(self):
        for line in self.process.stdout:
            self.events.append((time.monotonic(), json.loads(line)))

    def drained_at(self):
        """When it was drained, once it is."""
        self.join(timeout=10)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for at, event in self.events:
            if event["state"] == "drained":
                return at
        raise Failed(f"not drained: {self.events}")
