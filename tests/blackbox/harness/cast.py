"""Who is on stage: a client, a managed address, and the two VMs it moves between."""

from dataclasses import dataclass, field

#: MAC addresses of the box.
UPLINK_MAC = "02:00:00:00:01:01"
GATEWAY_MAC = "02:00:00:00:02:01"
CLIENT_MAC = "02:00:00:00:09:02"

PORTS = [
    {
        "name": "uplink",
        "device": "net_tap0,iface=uplink",
        "mac": UPLINK_MAC,
        "addresses": '["10.9.0.1/24", "2001:db8:9::1/64"]',
        "role": "uplink",
    },
    *(
        {
            "name": f"vm{number}",
            "device": f"net_tap{number + 1},iface=vm{number}",
            "mac": GATEWAY_MAC,
            "addresses": '["169.254.1.1/32", "fe80::1/64"]',
            "role": "access",
        }
        for number in range(2)
    ),
]
CLIENT = {4: "10.9.0.2", 6: "2001:db8:9::2"}
NEIGHBOURS = [{"address": address, "mac": CLIENT_MAC, "port": "uplink"} for address in CLIENT.values()]


@dataclass(frozen=True)
class Party:
    """Somebody who sends frames to the box and gets frames from it."""

    name: str
    port: str
    mac: str
    gateway: str
    address: str = field(compare=False)

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Roles:
    """The parties around one managed address of one IP family, in one rewrite mode."""

    family: int
    mode: str
    address: str
    client: Party
    source: Party
    destination: Party

    def __str__(self):
        return f"IPv{self.family} {self.mode}"


def roles(family, mode, number):
    """The `number`th managed address and who is around it."""
    address = f"10.9.0.{100 + number}" if family == 4 else f"2001:db8:9::1:{number:x}"

    def vm(index):
        # A clone has its source's address and MAC.
        own = f"10.8.{number}.{11 + index}" if family == 4 else f"2001:db8:8:{number:x}::{11 + index:x}"
        mac = f"52:54:00:00:{number:02x}:{11 + (index if mode == 'nat' else 0):02x}"
        name = ("source", "destination")[index]
        return Party(name, f"vm{index}", mac, GATEWAY_MAC, own if mode == "nat" else address)

    client = Party("client", "uplink", CLIENT_MAC, UPLINK_MAC, CLIENT[family])
    return Roles(family, mode, address, client, vm(0), vm(1))
