"""What VMs send: who may speak in the managed address's name, and when."""

from harness.cast import CLIENT_MAC, UPLINK_MAC
from harness.judge import readdressed, summed
from harness.scenario import Scenario, everywhere
from harness.sessions import Tcp, Udp
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw


class Vms(Scenario):
    @everywhere
    def test_a_session_that_the_source_begins_is_its_own(self, service):
        datagram = UDP(sport=5000, dport=123) / Raw(b"what time is it?")
        answer = UDP(sport=123, dport=5000) / Raw(b"late")
        service.sends(service.source, datagram).reaches(service.client)
        service.sends(service.client, answer).reaches(service.source)
        self.assertEqual(service.begins_to_move(), 1)
        service.sends(service.client, answer).reaches(service.source)
        service.sends(service.source, datagram).reaches(service.client)

    @everywhere
    def test_the_destination_may_begin_sessions_after_cutover(self, service):
        service.begins_to_move()
        datagram = UDP(sport=5000, dport=123) / Raw(b"what time is it?")
        service.sends(service.destination, datagram).reaches(service.client)
        service.sends(service.client, UDP(sport=123, dport=5000) / Raw(b"late")).reaches(service.destination)

    @everywhere
    def test_a_clone_cannot_speak_for_a_session_of_the_source(self, service):
        old = Tcp(service).begins_with(service.source)
        service.begins_to_move()
        reset = TCP(sport=80, dport=40000, flags="R", seq=old.next["vm"])
        service.sends(service.destination, reset).is_dropped("other_owner")
        segment = TCP(sport=80, dport=40000, flags="PA", seq=old.next["vm"], ack=old.next["client"]) / Raw(b"I too")
        service.sends(service.destination, segment).is_dropped("other_owner")
        old.goes_on_with(service.source)

    @everywhere
    def test_the_source_cannot_speak_for_a_session_of_the_destination(self, service):
        service.begins_to_move()
        new = Tcp(service).begins_with(service.destination)
        service.sends(service.source, TCP(sport=80, dport=40000, flags="RA")).is_dropped("other_owner")
        new.goes_on_with(service.destination)

    @everywhere
    def test_what_the_clone_inherited_is_not_let_out(self, service):
        service.begins_to_move()
        segment = TCP(sport=80, dport=40001, flags="PA", seq=5, ack=6) / Raw(b"who am I?")
        service.sends(service.destination, segment).is_dropped("stale_clone")

    @everywhere
    def test_a_destination_before_its_time(self, service):
        service.is_taken_over()
        service.has_destination()
        message = service.sends(service.destination, UDP(sport=5000, dport=123) / Raw(b"hello"))
        if service.mode == "l2":
            message.is_dropped("before_cutover")
        else:
            # Under its own address it may say what it likes.
            expected = Ether(dst=CLIENT_MAC, src=UPLINK_MAC) / readdressed(message.packet, 1)
            message.sent.reaches("uplink", "forwarded", expected)

    @everywhere
    def test_the_managed_address_from_where_nobody_has_it(self, service):
        packet = service.packet(service.client, UDP(sport=9000, dport=40000) / Raw(b"me"))
        packet.src, packet.dst = service.address, service.client.address
        frame = Ether(dst=service.destination.gateway, src="52:54:00:00:00:99") / summed(packet)
        self.send("vm1", frame).is_dropped("spoofed")

    @everywhere
    def test_unknown_tcp_is_adopted_as_old(self, service):
        self.assertEqual(service.begins_to_move(), 0)
        segment = TCP(sport=40000, dport=80, flags="A", seq=5, ack=6)
        service.sends(service.client, segment).reaches(service.source)
        self.assertEqual(service.state()["home_sessions"], 1)
        service.sends(service.source, TCP(sport=80, dport=40000, flags="PA", seq=6, ack=5) / Raw(b"yes")).reaches(
            service.client
        )

    @everywhere
    def test_unknown_tcp_may_be_dropped_or_sent_on(self, service):
        segment = TCP(sport=40000, dport=80, flags="A", seq=5, ack=6)
        service.begins_to_move("--unknown-tcp", "drop")
        service.sends(service.client, segment).is_dropped("unknown_tcp")
        service.is_aborted()
        service.begins_to_move("--unknown-tcp", "destination")
        service.sends(service.client, segment).reaches(service.destination)

    @everywhere
    def test_a_reset_without_session_begins_none(self, service):
        service.begins_to_move()
        service.sends(service.client, TCP(sport=40000, dport=80, flags="R", seq=5)).reaches(service.source)
        self.assertEqual(service.state()["home_sessions"], 0)

    @everywhere
    def test_old_datagrams_end_at_their_deadline_although_they_go_on(self, service):
        if service.mode == "l2":
            return
        old = Udp(service).begins_with(service.source)
        service.begins_to_move("--datagram-max-age", "1")
        old.goes_on_with(service.source)
        service.comes_to("drained")
        old.goes_on_with(service.destination)
