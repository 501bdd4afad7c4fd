"""QUIC clients: one on the network itself, one behind a NAT that may forget it."""

import os
import select
import socket
import subprocess
import threading

from .traffic import ANSWER_S


class Nat(threading.Thread):
    """What a home router is to a client's datagrams: it sends them on from a port of its own, and forgets which."""

    def __init__(self, machine, address, port):
        super().__init__(daemon=True)
        self.outside = lambda: machine.connect(address, port, socket.SOCK_DGRAM)
        with machine.inside():
            self.inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inner.bind(("127.0.0.1", 0))
        self.outer = [self.outside()]
        self.ending, self.client = False, None
        self.start()

    def run(self):
        while not self.ending:
            readable, _, _ = select.select([self.inner, self.outer[-1]], [], [], 0.05)
            for each in readable:
                if each is self.inner:
                    datagram, self.client = self.inner.recvfrom(65536)
                    self.outer[-1].send(datagram)
                else:
                    self.inner.sendto(each.recv(65536), self.client)

    def forgets(self):
        """From now on the client seems to be at another port."""
        self.outer.append(self.outside())

    def end(self):
        self.ending = True
        self.join()
        for each in (self.inner, *self.outer):
            each.close()


class Quic:
    """One connection, and a question whenever it is asked for one."""

    def __init__(self, machine, address, behind_nat):
        self.nat = Nat(machine, address, 443) if behind_nat else None
        host, port = self.nat.inner.getsockname() if self.nat else (address, 443)
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        command = [f"{os.environ['TIDEGATE_PROGRAMS']}/tidegate-quic", "ask", where]
        self.process = machine.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def says(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        readable, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        return self.process.stdout.readline().decode().strip() if readable else None

    def who(self):
        """Who answers."""
        return self.says("who")

    def who_after_forgotten(self):
        """Who answers when its NAT has forgotten it; its connection ID is the same."""
        self.nat.forgets()
        return self.says("who")

    def who_after_move(self):
        """Who answers when it has changed its network itself; its connection ID is one that nobody else has seen."""
        return self.says("move")

    def end(self):
        self.process.stdin.close()
        if self.process.wait(timeout=5) != 0:
            raise AssertionError(f"a QUIC connection ended with {self.process.returncode}")
        if self.nat:
            self.nat.end()
