"""Sessions before and after cutover: the old ones stay with the source, new ones go to the destination."""

from harness.scenario import Scenario, everywhere
from harness.sessions import Echo, Tcp, Udp


class Steering(Scenario):
    # Longer than a busy machine may take from one packet to the next.
    timeouts = {"linger": 1, "udp": 2, "icmp_echo": 2}

    # RFC 5508, REQ-1, for echo.
    @everywhere
    def test_old_sessions_stay_and_new_ones_go(self, service):
        source, destination = service.source, service.destination
        old = [kind(service, 41000).begins_with(source) for kind in (Tcp, Udp, Echo)]
        self.assertEqual(service.begins_to_move(), 3)
        for session in old:
            session.goes_on_with(source)
        new = [kind(service, 42000).begins_with(destination) for kind in (Tcp, Udp, Echo)]
        for session in old:
            session.goes_on_with(source)
        for session in new:
            session.goes_on_with(destination)
        self.assertEqual(service.state()["state"], "draining")
        old[0].ends_with(source)
        # Datagrams' sessions end with their silence.
        service.comes_to("drained")
        service.is_released()
        new[0].goes_on_with(destination)

    @everywhere
    def test_ports_of_a_closed_session_are_used_again_at_the_destination(self, service):
        first = Tcp(service).begins_with(service.source)
        self.assertEqual(service.begins_to_move(), 1)
        first.ends_with(service.source)
        Tcp(service).begins_with(service.destination).ends_with(service.destination)

    @everywhere
    def test_abort_gives_everything_back(self, service):
        old = Tcp(service, 41000).begins_with(service.source)
        service.begins_to_move()
        Tcp(service, 42000).begins_with(service.destination)
        service.is_aborted()
        old.goes_on_with(service.source)
        Tcp(service, 43000).begins_with(service.source)
