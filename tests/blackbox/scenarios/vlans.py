"""VLANs: the client behind one tag, the source behind another, the destination behind two."""

import dataclasses

from harness import cast
from harness.cast import CLIENT_MAC, GATEWAY_MAC, UPLINK_MAC, roles
from harness.link import Tagged
from harness.scenario import Scenario, everywhere
from harness.sessions import Echo, Tcp, Udp
from scapy.layers.inet import UDP
from scapy.layers.l2 import Dot1Q, Ether

CLIENT = {4: "10.9.10.2", 6: "2001:db8:a::2"}
VLANS = """
[[port]]
name = "clients"
on = "uplink"
vlan = "100"
addresses = ["10.9.10.1/24", "2001:db8:a::1/64"]
role = "uplink"

[[port]]
name = "rack1"
on = "vm0"
vlan = "200"
role = "access"

[[port]]
name = "rack2"
on = "vm1"
vlan = "300.8"
role = "access"
"""


def behind_tags(family, mode, number):
    """The usual roles, on other ports."""
    usual = roles(family, mode, number)
    move = dataclasses.replace
    return move(
        usual,
        client=move(usual.client, port="clients", address=CLIENT[family]),
        source=move(usual.source, port="rack1"),
        destination=move(usual.destination, port="rack2"),
    )


class Vlans(Scenario):
    # Hosted addresses are announced on uplinks, tagged here.
    ports = [{**port, "role": "access"} for port in cast.PORTS]
    more = VLANS
    neighbours = [{"address": address, "mac": CLIENT_MAC, "port": "clients"} for address in CLIENT.values()]
    roles = staticmethod(behind_tags)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        uplink, vm0, vm1 = (cls.links[name] for name in ("uplink", "vm0", "vm1"))
        cls.links = {"clients": Tagged(uplink, 100), "rack1": Tagged(vm0, 200), "rack2": Tagged(vm1, 300, 8)}

    @everywhere
    def test_a_migration_from_one_vlan_to_another(self, service):
        old = [kind(service, 41000).begins_with(service.source) for kind in (Tcp, Udp, Echo)]
        self.assertEqual(service.begins_to_move(), 3)
        for session in old:
            session.goes_on_with(service.source)
        for kind in (Tcp, Udp, Echo):
            kind(service, 42000).begins_with(service.destination)

    @everywhere
    def test_a_vlan_that_no_port_has(self, service):
        client = service.client
        packet = service.packet(client, UDP(sport=40000, dport=9000))
        for tags in (Dot1Q(vlan=101), Dot1Q(vlan=100) / Dot1Q(vlan=8)):
            frame = Ether(dst=client.gateway, src=client.mac) / tags / packet
            self.links["clients"].link.send(frame)
            self.expected["unknown_vlan"] += 1
            self.require_outcomes()

    @everywhere
    def test_another_vlan_of_the_same_wire_is_another_port(self, service):
        # Without a tag it is the device's own port, behind which the source is not.
        frame = Ether(dst=GATEWAY_MAC, src=service.source.mac) / service.packet(
            service.source, UDP(sport=9000, dport=40000)
        )
        self.links["rack1"].link.send(frame)
        self.expected["spoofed"] += 1
        self.require_outcomes()

    @everywhere
    def test_priority_is_no_other_vlan(self, service):
        client = service.client
        packet = service.packet(client, UDP(sport=40000, dport=9000))
        self.links["clients"].link.send(Ether(dst=UPLINK_MAC, src=client.mac) / Dot1Q(vlan=100, prio=5) / packet)
        self.expected["to_source"] += 1
        self.require_outcomes()
        self.frame_at("rack1")
