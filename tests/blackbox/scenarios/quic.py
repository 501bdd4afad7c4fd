"""QUIC through a migration: a connection survives its client's change of address."""

import unittest

from harness.quic import Quic
from harness.town import Town, Watch
from harness.traffic import retried

#: A session of a client's former address lasts as long as it is silent.
TIMEOUTS = {"udp": 1}
QUIC = ("--quic-connection-id-length", "8")


class QuicThroughACutover(unittest.TestCase):
    def town(self, family, mode, options):
        town = Town(family, mode, TIMEOUTS, options)
        self.addCleanup(town.end)
        town.serve()
        # Servers need a moment to start.
        self.connect(town, behind_nat=False, who="source").end()
        return town

    def connect(self, town, behind_nat, who):
        def attempt():
            made = Quic(town.near, town.address, behind_nat)
            if (said := made.who()) != who:
                made.process.kill()
                raise AssertionError(f"{said!r} serves instead of {who}")
            return made

        return retried(attempt, (AssertionError, OSError))

    def counted(self, town, name):
        (answer,) = town.box.tidegate("switch", "counters")
        return sum(worker[name] for worker in answer["workers"])

    def migrate(self, family, mode):
        town = self.town(family, mode, QUIC)
        stays = self.connect(town, behind_nat=False, who="source")
        moves = self.connect(town, behind_nat=False, who="source")
        forgotten = self.connect(town, behind_nat=True, who="source")
        town.takes_over()
        watch = Watch(town)
        self.assertGreaterEqual(town.cuts_over(), 3)
        new = self.connect(town, behind_nat=True, who="destination")

        self.assertEqual(forgotten.who_after_forgotten(), "source")
        self.assertEqual(new.who_after_forgotten(), "destination")
        self.assertEqual(self.counted(town, "quic_moved"), 2)
        self.assertEqual(self.counted(town, "quic_unknown"), 0)
        # Of this one the box only knows that it exists: by default it is the source's.
        self.assertEqual(moves.who_after_move(), "source")
        self.assertGreaterEqual(self.counted(town, "quic_unknown"), 1)
        self.assertEqual((stays.who(), forgotten.who(), new.who()), ("source", "source", "destination"))

        for old in (stays, moves, forgotten):
            old.end()
        watch.drained_at()
        town.releases()
        self.assertEqual(new.who_after_forgotten(), "destination")
        new.end()

    def test_ipv4_nat(self):
        self.migrate(4, "nat")

    def test_ipv6_l2(self):
        self.migrate(6, "l2")

    def test_that_it_is_the_connection_id_that_does_it(self):
        """Where the box is not told of QUIC, the same client finds the destination, which does not know it."""
        town = self.town(4, "l2", ())
        forgotten = self.connect(town, behind_nat=True, who="source")
        town.takes_over()
        town.cuts_over()
        self.assertNotEqual(forgotten.who_after_forgotten(), "source")
        forgotten.process.kill()
        forgotten.nat.end()
