"""Stateless load: so many clients to one virtual service, packets of one size or IMIX.

    --protocol udp    known connections: the first packet of each of the `flows` tuples opens one, the others are hits
    --protocol syn    new connections: opening TCP segments of `flows` different clients, never completed
    --size N          bytes on the wire with the FCS, 64 to 1518, or "imix"
    --latency PPS     a second stream that is timed, beside the load (0: none)

Packets are IPv4. UDP checksums are 0, as RFC 768 allows; TCP's are filled in by TRex.
"""
import argparse

from trex.stl.api import (IP, TCP, UDP, CTRexVmInsFixHwCs, Ether, STLFlowLatencyStats, STLPktBuilder, STLStream, STLTXCont, STLVM)

# TRex's IMIX: bytes with the FCS, and how many of each.
IMIX = ((64, 28), (594, 16), (1518, 4))
FCS = 4
FIRST_PORT, LAST_PORT = 1025, 65024
LATENCY_ID = 7


def last_client(first, clients):
    """The address `clients - 1` after `first`."""
    parts = [int(part) for part in first.split(".")]
    number = int.from_bytes(bytes(parts), "big") + clients - 1
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


def packet(options, size):
    """A packet to the virtual service and the instructions that make `flows` different ones of it."""
    layer = {"udp": UDP(sport=FIRST_PORT, dport=options.port, chksum=0),
             "syn": TCP(sport=FIRST_PORT, dport=options.port, flags="S", seq=1)}[options.protocol]
    base = Ether() / IP(src=options.client, dst=options.vip) / layer
    base = base / (max(0, size - FCS - len(base)) * b"r")
    name = "UDP" if options.protocol == "udp" else "TCP"
    vm = STLVM()
    vm.tuple_var(name="client", ip_min=options.client, ip_max=last_client(options.client, options.clients),
                 port_min=FIRST_PORT, port_max=LAST_PORT, limit_flows=options.flows)
    vm.write("client.ip", "IP.src")
    vm.write("client.port", f"{name}.sport")
    if options.protocol == "udp":
        vm.fix_chksum()
    else:
        vm.fix_chksum_hw(l3_offset="IP", l4_offset="TCP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP)
    return STLPktBuilder(pkt=base, vm=vm)


def timed(options):
    """The timed stream: 64 bytes of payload carry TRex's time stamp. It is one connection of its own."""
    client = last_client(options.client, options.clients + 1)
    base = Ether() / IP(src=client, dst=options.vip) / UDP(sport=FIRST_PORT, dport=options.port, chksum=0) / (64 * b"t")
    return STLStream(packet=STLPktBuilder(pkt=base), mode=STLTXCont(pps=options.latency),
                     flow_stats=STLFlowLatencyStats(pg_id=LATENCY_ID))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("udp", "syn"), default="udp")
    parser.add_argument("--size", default="64")
    parser.add_argument("--vip", default="10.1.0.100")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--client", default="16.0.0.1", help="first client address")
    parser.add_argument("--clients", type=int, default=1000, help="client addresses")
    parser.add_argument("--flows", type=int, default=100_000, help="different (address, port) pairs")
    parser.add_argument("--latency", type=float, default=0)
    return parser


class Load:
    def get_streams(self, tunables=(), direction=0, port_id=0, **kwargs):
        options = arguments().parse_args(tunables)
        if options.flows > options.clients * (LAST_PORT - FIRST_PORT + 1):
            raise ValueError(f"{options.flows} flows need more than {options.clients} clients")
        sizes = IMIX if options.size == "imix" else ((int(options.size), 1),)
        streams = [STLStream(packet=packet(options, size), mode=STLTXCont(pps=share), isg=10.0 * number)
                   for number, (size, share) in enumerate(sizes)]
        return streams + ([timed(options)] if options.latency else [])


def register():
    return Load()
