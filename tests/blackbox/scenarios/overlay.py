"""Real TCP to guests behind another switch, whose kernel takes packets out of the tunnel and puts packets in: there, and
back to where the service was."""

import unittest

from harness.overlay import Overlay, Session
from harness.traffic import retried

#: Bytes around an IP packet on its way.
AROUND = {"ipip": 0, "gue": 12, "vxlan": 30}
IP_LEN = {4: 20, 6: 40}
BYTES = 400_000


class Behind(unittest.TestCase):
    def there_and_back(self, kind, outer, inner, mode):
        overlay = Overlay(kind, outer, inner, mode)
        self.addCleanup(overlay.end)
        try:
            self.migrate(overlay)
        except BaseException:
            print("", *overlay.situation(), sep="\n")
            raise

    def migrate(self, overlay):
        near, address = overlay.near, overlay.address
        old = Session(near, address)
        old.push(BYTES)
        self.assertEqual((old.server, overlay.path_mtu()), ("source", 1500))

        self.assertEqual(overlay.moves_to("destination"), 1)
        behind = Session(near, address)
        self.assertEqual(behind.server, "destination")
        # The client's segments do not fit; its kernel is told how large they may be.
        behind.push(BYTES)
        mtu = 1500 - IP_LEN[overlay.outer] - AROUND[overlay.kind]
        self.assertEqual(overlay.path_mtu(), mtu)
        old.push(BYTES)
        old.end()
        overlay.is_drained()
        behind.push(BYTES)

        self.assertEqual(overlay.moves_to("source"), 1)
        back = Session(near, address)
        self.assertEqual(back.server, "source")
        back.push(BYTES)
        behind.push(BYTES)
        behind.end()
        overlay.is_drained()
        back.push(BYTES)
        back.end()
        # A packet may be on its way when the counters are read.
        retried(lambda: self.require_counts(overlay), AssertionError)

    def require_counts(self, overlay):
        received, outcomes, _ = overlay.box.counters()
        self.assertEqual(sum(outcomes.values()), received)
        self.assertGreater(outcomes["too_big_answered"], 0)
        unexpected = ("too_big", "tunnel_fragment", "tunnel_unreadable", "tunnel_congested", "no_headroom", "spoofed")
        self.assertEqual({name: outcomes[name] for name in unexpected}, dict.fromkeys(unexpected, 0))


def test(kind, outer, inner, mode):
    return lambda self: self.there_and_back(kind, outer, inner, mode)


for _kind in ("ipip", "gue", "vxlan"):
    for _outer in (4, 6):
        for _inner, _mode in ((4, "l2"), (6, "nat")) if _outer == 4 else ((4, "nat"), (6, "l2")):
            setattr(Behind, f"test_{_kind}_over_ipv{_outer}_ipv{_inner}_{_mode}", test(_kind, _outer, _inner, _mode))
