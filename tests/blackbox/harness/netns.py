"""Network namespaces with the kernel's own stack in them."""

import contextlib
import ctypes
import socket
import subprocess

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    """Run `ip`; what it printed."""
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


class Namespace:
    """A machine on the network: interfaces, addresses, processes. All of it goes with `delete`."""

    def __init__(self, name):
        self.name = name
        self.processes = []
        ip("netns", "add", name)
        self.ip("link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.all.disable_ipv6", 0)
        self.sysctl("net.ipv6.conf.default.disable_ipv6", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)

    def ip(self, *words):
        return ip("-n", self.name, *words)

    def sysctl(self, name, value):
        path = f"/proc/sys/{name.replace('.', '/')}"
        subprocess.run(["ip", "netns", "exec", self.name, "sh", "-c", f"echo {value} >{path}"], check=True)

    def takes(self, interface, mac, mtu=1500):
        """Take an interface over from the lab's own namespace."""
        ip("link", "set", interface, "netns", self.name)
        self.ip("link", "set", interface, "address", mac, "mtu", mtu, "arp", "on", "up")

    def start(self, *command, **how):
        """A process in here."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, command)], **how)
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def inside(self):
        """Sockets that are made meanwhile belong here."""
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            enter(there)
            try:
                yield
            finally:
                enter(home)

    def connect(self, address, port, kind=socket.SOCK_STREAM, own_port=0):
        """A socket of this machine, connected."""
        with self.inside():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.settimeout(5)
        made.bind(("", own_port))
        made.connect((address, port))
        return made

    def delete(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        ip("netns", "delete", self.name)


def enter(namespace):
    if LIBC.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
