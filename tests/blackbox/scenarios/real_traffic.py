"""Migrations under traffic as people have it, between kernels: nothing breaks, and the drain ends with the last old
session."""

import time
import unittest

from harness.town import FAR, NARROW, Town, Watch
from harness.traffic import Asking, Download, Http, Iperf, Resolver, Shell, make_keys, retried

TIMEOUTS = {"linger": 1, "udp": 2, "tcp_reset": 1}
TCP = 6
#: What the box may take to say that it is drained: it looks every few milliseconds.
PROMPT_S = 0.5


def old(town):
    """Protocols and ports of the sessions that the source still has."""
    sessions = town.box.tidegate("switch", "sessions", "--address", town.address)
    live = [each for each in sessions if each["owner"] == "source" and each["state"] != "lingering"]
    return [(each["protocol"], each["address_port"]) for each in live]


class RealTraffic(unittest.TestCase):
    def under_way(self, family, mode):
        town = Town(family, mode, TIMEOUTS)
        self.addCleanup(town.end)
        make_keys(town.directory, town.address)
        town.serve()
        return town

    def migrated_under_traffic(self, family, mode):
        town = self.under_way(family, mode)
        try:
            self.migrate(town, family)
        except BaseException:
            print("", *town.situation(), sep="\n")
            raise

    def migrate(self, town, family):
        near, address = town.near, town.address

        page, resolver, asking = Http(near, address), Resolver(near, address), Asking(near, address)
        shell = Shell(near, address, town.directory)
        download = Download(town.far, address)
        download.goes_on()
        iperf = Iperf(near, address, 2)
        # Its own connection, and one for each direction; all three must be old.
        retried(lambda: self.assertEqual(old(town).count((TCP, 5201)), 3), AssertionError)

        town.takes_over()
        watch = Watch(town)
        self.assertEqual((page.who(), resolver.who()), ("source", "source"))
        self.assertGreaterEqual(town.cuts_over(), 7, "web page, names, shell, download, iperf3's three")

        # The old go on where they are, new ones find the destination.
        self.assertEqual((page.who(), resolver.who()), ("source", "source"))
        shell.goes_on_at("source")
        download.goes_on()
        new_page = Http(near, address)
        self.assertEqual((new_page.who(), resolver.who_new()), ("destination", "destination"))
        new_shell = Shell(near, address, town.directory)
        new_shell.goes_on_at("destination")
        new_download = Download(town.far, address)
        new_download.goes_on()
        for name in ("source", "destination"):
            self.assertIn(f"mtu {NARROW}", town.vms[name].ip("route", "get", FAR[family]), f"{name} was not told")

        # One old session after the other ends; the drain waits for the last.
        iperf.end()
        self.assertEqual(asking.end(), ["source", "destination"], "who answered, in order")
        download.end()
        self.assertEqual(download.servers, {"source"})
        page.end()
        resolver.end()
        # Datagrams end with their silence, and so does what iperf3 may have reset.
        retried(lambda: self.assertEqual(old(town), [(TCP, 22)]), AssertionError)
        self.assertEqual(town.stands()["state"], "draining")
        shell.goes_on_at("source")
        before = time.monotonic()
        shell.end()
        after = time.monotonic()
        drained = watch.drained_at()
        self.assertTrue(before < drained < after + PROMPT_S, f"drained {drained - after:+.3f} s after the last session")

        town.releases()
        new_shell.goes_on_at("destination")
        new_download.goes_on()
        new_download.end()
        self.assertEqual(new_download.servers, {"destination"})
        self.assertEqual(new_page.who(), "destination")
        new_shell.end()
        retried(lambda: self.require_sum(town), AssertionError)

    def require_sum(self, town):
        received, outcomes, _ = town.box.counters()
        self.assertEqual(sum(outcomes.values()), received)
        self.assertEqual(outcomes["icmp_unmatched"] + outcomes["bad_icmp_checksum"], 0)

    def test_ipv4_nat(self):
        self.migrated_under_traffic(4, "nat")

    def test_ipv4_l2(self):
        self.migrated_under_traffic(4, "l2")

    def test_ipv6_nat(self):
        self.migrated_under_traffic(6, "nat")

    def test_ipv6_l2(self):
        self.migrated_under_traffic(6, "l2")
