"""TRex, stateless: the benches' packets.

    start -f sessions.py -p 0 1 -m 1mpps -t --sessions 1000000 --sizes small

Clients' segments leave by the even port, the source's answers by the odd one. `--sizes imix` sends 7 small, 4 middle and
1 large frame of 12; `--flags S` begins sessions instead of using them. Sizes are without the check sequence.
"""

import argparse

from trex_stl_lib.api import (
    IP,
    TCP,
    CTRexVmInsFixHwCs,
    Ether,
    STLFlowLatencyStats,
    STLPktBuilder,
    STLScVmRaw,
    STLStream,
    STLTXCont,
    STLVmFixChecksumHw,
    STLVmTupleGen,
    STLVmWrFlowVar,
)

UPLINK = ("02:00:00:00:09:02", "02:00:00:00:01:01")
ACCESS = ("02:00:00:00:0a:01", "02:00:00:00:02:01")
MANAGED = "10.9.0.100"
LOCATOR = "10.8.0.11"
SERVICE = 80
# Sixteen ports on each address.
PORTS = (1024, 1039)
CLIENTS = 11 << 24
# Bytes and share.
SIZES = {"small": [(60, 1)], "imix": [(60, 7), (590, 4), (1514, 1)]}
# The smallest frame with room for TRex's own stamp, and how many of these per second.
TIMED_BYTES, TIMED_PPS = 70, 1000


class Sessions:
    """Streams of one port."""

    def __init__(self, to_box, options):
        self.to_box = to_box
        self.options = options

    def headers(self):
        macs = UPLINK if self.to_box else ACCESS
        ether = Ether(src=macs[0], dst=macs[1])
        if self.to_box:
            ends = IP(src="11.0.0.0", dst=MANAGED) / TCP(
                sport=PORTS[0], dport=SERVICE, flags=self.options.flags, seq=1000, ack=2000
            )
        else:
            ends = IP(src=LOCATOR, dst="11.0.0.0") / TCP(
                sport=SERVICE, dport=PORTS[0], flags="A", seq=2000, ack=1000
            )
        return ether / ends

    def clients(self):
        """Every client in turn."""
        last = CLIENTS + (self.options.sessions - 1) // 16
        address, port = ("IP.src", "TCP.sport") if self.to_box else ("IP.dst", "TCP.dport")
        text = ".".join(str(last >> shift & 255) for shift in (24, 16, 8, 0))
        return STLScVmRaw(
            [
                STLVmTupleGen(
                    name="client", ip_min="11.0.0.0", ip_max=text, port_min=PORTS[0], port_max=PORTS[1]
                ),
                STLVmWrFlowVar(fv_name="client.ip", pkt_offset=address),
                STLVmWrFlowVar(fv_name="client.port", pkt_offset=port),
                STLVmFixChecksumHw(
                    l3_offset="IP", l4_offset="TCP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP
                ),
            ]
        )

    def packets(self, size):
        headers = self.headers()
        padding = b"\0" * max(0, size - len(headers))
        return STLPktBuilder(pkt=headers / padding, vm=self.clients())

    def streams(self, group):
        sizes = SIZES[self.options.sizes]
        streams = [
            STLStream(packet=self.packets(size), mode=STLTXCont(pps=share)) for size, share in sizes
        ]
        # Always at the same rate, whatever the multiplier.
        timed = STLFlowLatencyStats(pg_id=group)
        streams.append(
            STLStream(
                packet=self.packets(TIMED_BYTES), mode=STLTXCont(pps=TIMED_PPS), flow_stats=timed
            )
        )
        return streams


class Profile:
    """What TRex asks for."""

    def get_streams(self, tunables, **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--sessions", type=int, default=1_000_000)
        parser.add_argument("--sizes", choices=sorted(SIZES), default="small")
        parser.add_argument("--flags", choices=["A", "S"], default="A")
        options = parser.parse_args(tunables)
        port = kwargs.get("port_id", 0)
        return Sessions(to_box=port % 2 == 0, options=options).streams(group=port + 1)


def register():
    return Profile()
