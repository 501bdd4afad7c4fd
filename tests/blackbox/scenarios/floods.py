"""Sessions that are only begun: however many there are at a cutover, the old stay counted and new ones are served."""

from harness.scenario import Scenario, everywhere
from harness.sessions import Tcp, Udp
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

#: A quarter of the room for sessions may be half open.
QUOTA = 256


class Floods(Scenario):
    sessions = 4 * QUOTA

    def begin_many(self, service, layer):
        """As many sessions as may be half open, each begun with one packet."""
        client = service.client
        for port in range(QUOTA):
            layer.sport = 10_000 + port
            frame = Ether(dst=client.gateway, src=client.mac) / service.packet(client, layer)
            self.links["uplink"].send(frame)
            if port % 64 == 63:
                self.settled(ended=False)
        self.expected["to_source"] += QUOTA
        self.require_outcomes()
        self.collect(service.source.port)
        self.waiting(service.source.port).clear()

    @everywhere
    def test_a_cutover_in_a_flood_of_syns(self, service):
        self.begin_many(service, TCP(dport=80, flags="S", seq=1))
        self.cut_over_and_go_on(service)

    @everywhere
    def test_a_cutover_of_a_name_server_whose_clients_ask_once(self, service):
        self.begin_many(service, UDP(dport=53))
        self.cut_over_and_go_on(service)

    def cut_over_and_go_on(self, service):
        self.assertEqual(service.begins_to_move(), QUOTA)
        Tcp(service, 40000).begins_with(service.destination).goes_on_with(service.destination)
        Udp(service, 40001).begins_with(service.destination)
        self.assertEqual(service.state()["home_sessions"], QUOTA)
        # The next test begins with a quota that nobody uses.
        service.is_aborted()
        service.box.tidegate("address", "remove", service.address)
