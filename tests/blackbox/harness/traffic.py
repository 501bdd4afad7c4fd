"""Clients as people use them. Each begins, goes on, ends, and says who served it."""

import http.client
import json
import select
import socket
import subprocess
import threading
import time

from scapy.layers.dns import DNS, DNSQR

#: Within what an answer must be there; nothing is lost, so no retransmission is waited for.
ANSWER_S = 3.0


def retried(attempt, error, limit_s=5.0):
    """Servers need a moment to start."""
    end = time.monotonic() + limit_s
    while True:
        try:
            return attempt()
        except error:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


class Http:
    """One connection, kept open from request to request."""

    def __init__(self, machine, address):
        self.connection = http.client.HTTPConnection(address)
        self.connection.sock = retried(lambda: machine.connect(address, 8000), OSError)
        self.socket = self.connection.sock

    def get(self, path):
        """Ask for something; who answered, and how many bytes."""
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        length = len(answer.read())
        if self.connection.sock is not self.socket:
            raise AssertionError("the connection was not kept")
        return answer.headers["Server-Name"], length

    def who(self):
        return self.get("/who")[0]

    def end(self):
        self.connection.close()


class Download(threading.Thread):
    """Fetches one thing after the other over one connection until it is told to end."""

    SIZE = 256 << 10

    def __init__(self, machine, address):
        super().__init__(daemon=True)
        self.http = Http(machine, address)
        self.servers, self.bytes, self.error = set(), 0, None
        self.ending = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                server, length = self.http.get(f"/{self.SIZE}")
                self.servers.add(server)
                self.bytes += length
        except Exception as error:
            self.error = error

    def goes_on(self):
        """Wait until more has come."""
        before, end = self.bytes, time.monotonic() + 10
        while self.bytes <= before + 2 * self.SIZE:
            if self.error or time.monotonic() > end:
                raise AssertionError(f"a download stands still at {before} bytes: {self.error}")
            time.sleep(0.01)

    def end(self):
        self.ending.set()
        self.join(timeout=10)
        self.http.end()
        if self.error:
            raise AssertionError(f"a download was broken: {self.error}")


class Resolver:
    """Asks a name server from one socket, or from a new one each time."""

    #: Below those the kernel chooses: each new socket has a port of its own, so that it is no old session by chance.
    PORTS = iter(range(5_000, 30_000))

    def __init__(self, machine, address):
        self.machine, self.address, self.number = machine, address, 0
        self.socket = retried(self.first, OSError)

    def first(self):
        made = self.connect()
        made.settimeout(0.2)
        try:
            self.ask(made)
        except OSError:
            made.close()
            raise
        made.settimeout(ANSWER_S)
        return made

    def connect(self, own_port=0):
        return self.machine.connect(self.address, 53, socket.SOCK_DGRAM, own_port)

    def ask(self, over):
        self.number = (self.number + 1) % 0x10000
        over.send(bytes(DNS(id=self.number, rd=1, qd=DNSQR(qname="who.example", qtype="TXT"))))
        answer = DNS(over.recv(4096))
        if answer.id != self.number or answer.ancount != 1:
            raise AssertionError(f"another answer: {answer.summary()}")
        return answer.an.rdata[0].decode()

    def who(self):
        """Who answers the socket that has asked before."""
        return self.ask(self.socket)

    def who_new(self):
        """Who answers a socket that nobody knows."""
        with self.connect(next(self.PORTS)) as fresh:
            return self.ask(fresh)

    def end(self):
        self.socket.close()


class Asking(threading.Thread):
    """A resolver that asks all the time, each time from a new port."""

    def __init__(self, machine, address):
        super().__init__(daemon=True)
        self.resolver = Resolver(machine, address)
        self.answers, self.error = [], None
        self.ending = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                self.answers.append(self.resolver.who_new())
        except Exception as error:
            self.error = error

    def end(self):
        """The answers' senders in order, each named once for a row of answers."""
        self.ending.set()
        self.join(timeout=10)
        self.resolver.end()
        if self.error:
            raise AssertionError(f"after {len(self.answers)} answers: {self.error}")
        return [who for number, who in enumerate(self.answers) if number == 0 or who != self.answers[number - 1]]


class Shell:
    """A secure shell that stays."""

    def __init__(self, machine, address, directory):
        options = {
            "UserKnownHostsFile": directory / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        command = ["ssh", "-F", "none", "-i", directory / "client", *words, "-T", f"root@{address}", "sh"]
        self.process = machine.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.says("remembered=yes; echo ready", "ready", 10)

    def says(self, command, expected, limit_s=ANSWER_S):
        """Run a command in the shell that is there."""
        self.process.stdin.write(f"{command}\n".encode())
        readable, _, _ = select.select([self.process.stdout], [], [], limit_s)
        said = self.process.stdout.readline().decode().strip() if readable else None
        if said != expected:
            raise AssertionError(f"the shell said {said!r} to {command!r} instead of {expected!r}")

    def goes_on_at(self, name):
        self.says("echo $(ip netns identify $$) $remembered", f"{name} yes")

    def end(self):
        self.process.stdin.write(b"exit\n")
        if self.process.wait(timeout=5) != 0:
            raise AssertionError(f"ssh ended with {self.process.returncode}")


class Iperf:
    """Both directions at once, for a while."""

    def __init__(self, machine, address, seconds):
        self.machine, self.address, self.seconds = machine, address, seconds
        command = ["iperf3", "--client", address, "--time", seconds, "--bidir", "--interval", "0.25", "--json"]
        self.process = machine.start(*command, "--bitrate", "20M", stdout=subprocess.PIPE, text=True)

    def end(self):
        """It ran to its end, and never stood still."""
        printed = self.process.communicate(timeout=self.seconds + 10)[0]
        report = json.loads(printed)
        if self.process.returncode != 0 or "error" in report:
            raise AssertionError(f"iperf3: {report.get('error', printed)}")
        for interval in report["intervals"]:
            for direction in ("sum", "sum_bidir_reverse"):
                if interval[direction]["seconds"] > 0.2 and interval[direction]["bytes"] == 0:
                    raise AssertionError(f"iperf3 stood still: {interval[direction]}")


def make_keys(directory, address):
    """Keys for `Shell` and its server; a clone has its source's."""
    for name in ("client", "client.pub", "host_key"):
        (directory / name).unlink(missing_ok=True)
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "client"], **run)
    made = subprocess.run(["dropbearkey", "-t", "ed25519", "-f", directory / "host_key"], **run)
    public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519"))
    (directory / "known_hosts").write_text(f"{address} {public}\n")
