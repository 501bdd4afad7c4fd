"""A running tidegated: its configuration, its process, and the operator's command line to it."""

import json
import os
import pathlib
import subprocess
import time

#: Where the programs are; set by `run`.
PROGRAMS = pathlib.Path()
READY_S = 20

HEAD = """
[eal]
memory_mib = 64
mbufs = 4096
args = ["--file-prefix=tidegate-blackbox"]

[routes]
table = "map"

[workers]
cpus = [0]
sessions = {sessions}
sessions_ipv6 = {sessions}

[api]
listen = ["{endpoint}"]

[timeouts]
{timeouts}
"""

PORT = """
[[port]]
name = "{name}"
device = "{device}"
mac = "{mac}"
addresses = {addresses}
role = "{role}"
"""

NEIGHBOUR = """
[[neighbour]]
address = "{address}"
mac = "{mac}"
port = "{port}"
"""


class Failed(AssertionError):
    """The box or its command line did not do what it was asked for."""


class SwitchBox:
    """Started when made; `stop` ends it and says how it ended."""

    def __init__(self, ports, neighbours, more="", timeouts=None, sessions=4096):
        self.directory = pathlib.Path(os.environ["TIDEGATE_LAB"]) / "blackbox"
        self.directory.mkdir(exist_ok=True)
        self.endpoint = f"unix:{self.directory}/tidegated.sock"
        self.log = self.directory / "tidegated.log"
        seconds = "\n".join(f"{name} = {value}" for name, value in (timeouts or {}).items())
        text = HEAD.format(sessions=sessions, endpoint=self.endpoint, timeouts=seconds)
        text += "".join(PORT.format(**port) for port in ports)
        text += "".join(NEIGHBOUR.format(**neighbour) for neighbour in neighbours)
        file = self.directory / "tidegated.toml"
        file.write_text(text + more)
        command = [PROGRAMS / "tidegated", "--config", file]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + READY_S
        while "tidegated is ready" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                self.process.wait()
                raise Failed(f"tidegated did not become ready:\n{self.log.read_text()}")
            time.sleep(0.01)

    def tidegate(self, *words):
        """What the command line answers: one object per line."""
        command = [PROGRAMS / "tidegate", "--json", "--switch", self.endpoint, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise Failed(f"tidegate {' '.join(map(str, words))}: {done.stderr}\n{self.log.read_text()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def watch(self, address):
        """A process that prints the events of the address's migration."""
        command = [PROGRAMS / "tidegate", "--json", "--switch", self.endpoint]
        command += ["address", "watch", str(address), "--interval-ms", "20"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def counters(self):
        """Packets received, packets by outcome, and frames sent by port."""
        (answer,) = self.tidegate("switch", "counters")
        outcomes = {each["name"]: each["packets"] for each in answer["outcomes"]}
        transmitted = {each["name"]: each["tx_packets"] for each in answer["ports"]}
        return answer["received"], outcomes, transmitted

    def stop(self):
        """End it as an operator would."""
        self.process.terminate()
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        printed = self.log.read_text()
        if status != 0 or "panicked" in printed:
            raise Failed(f"tidegated ended with {status}:\n{printed}")
