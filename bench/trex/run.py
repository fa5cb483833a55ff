#!/usr/bin/python3
"""Drives a TRex server against RVS and writes what it measured as JSON; report.py makes tables and pictures of it.

    run.py sizes      no-drop rate for each packet size and IMIX, known connections
    run.py flows      the same with 64 bytes and a thousand to ten million connections
    run.py syn        new connections per second: highest rate of opening segments without loss
    run.py latency    latency percentiles at shares of a rate (--rate, else the no-drop rate is searched first)
    run.py http       ASTF: HTTP connections per second, all complete (a server started with --astf)

docs/trex.md says how to wire and start everything.
"""
import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
from client import Missing, connect  # noqa: E402
from search import Trial, no_drop  # noqa: E402

SIZES = ("64", "128", "256", "512", "1024", "1280", "1518", "imix")
FLOWS = (1_000, 100_000, 1_000_000, 10_000_000)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
# Preamble, start of frame and gap: what a frame takes on the wire besides itself.
GAP = 20
# After the last packet was sent, until those on their way have come.
DRAIN = 0.5


def wire_bytes(size):
    """Average bytes of a frame with its FCS."""
    if size != "imix":
        return int(size)
    mix = ((64, 28), (594, 16), (1518, 4))
    return sum(bytes_ * share for bytes_, share in mix) / sum(share for _, share in mix)


def line_rate(gbps, size):
    return gbps * 1e9 / 8 / (wire_bytes(size) + GAP)


class Stateless:
    """A TRex server in stateless mode. Port `out` is the clients' side, `back` the servers'."""

    def __init__(self, client, options, sleep=time.sleep):
        self.client, self.options, self.sleep = client, options, sleep
        self.out, self.back = options.ports
        client.reset(ports=[self.out, self.back])
        if options.mac:
            client.set_l2_mode(self.out, dst_mac=options.mac)
        client.set_port_attr([self.out, self.back], promiscuous=True)

    def load(self, **tunables):
        """Puts the load profile on the clients' port."""
        o = self.options
        words = {"vip": o.vip, "port": o.port, "client": o.client, "clients": o.clients, **tunables}
        self.client.remove_all_streams([self.out])
        self.client.add_profile(str(HERE / "profiles" / "load.py"), ports=[self.out],
                                tunables=[word for name, value in words.items() for word in (f"--{name}", str(value))])

    def trial(self, rate, seconds=None):
        """Sends at a rate for the time of a trial."""
        seconds = seconds or self.options.seconds
        c = self.client
        c.clear_stats()
        c.start(ports=[self.out], mult=f"{rate:.0f}pps", duration=seconds, force=True)
        c.wait_on_traffic(ports=[self.out])
        self.sleep(DRAIN)
        stats = c.get_stats()
        sent, received = stats[self.out]["opackets"], stats[self.back]["ipackets"]
        return Trial(asked=rate, sent=sent / seconds, received=received / seconds, seconds=seconds,
                     queue_full=stats.get("global", {}).get("queue_full", 0))

    def warm(self, flows):
        """Opens the connections before they are measured, at a tenth of the ceiling of 64 bytes."""
        rate = line_rate(self.options.gbps, "64") / 10
        self.trial(rate, seconds=max(1.0, flows / rate))

    def search(self, size):
        o = self.options
        return no_drop(self.trial, line_rate(o.gbps, size), o.loss, o.steps)

    def latency(self):
        """The histogram of the timed stream: {microseconds (lower bound): packets}, and what TRex adds up."""
        stats = self.client.get_pgid_stats()["latency"][7]
        return stats["latency"], stats["err_cntrs"]


def percentiles(histogram):
    """TRex counts latencies by their first digit: the upper bound of the bucket is what is sure."""
    buckets = sorted((int(low), count) for low, count in histogram.items())
    total, result = sum(count for _, count in buckets), {}
    for wanted in PERCENTILES:
        seen = 0
        for low, count in buckets:
            seen += count
            # In integers: 99.9 % of 5000 is 4995, not a little more.
            if 1000 * seen >= round(10 * wanted) * total:
                result[f"p{wanted:g}"] = upper_bound(low)
                break
    return result


def upper_bound(low):
    """End of the bucket that begins at `low` microseconds: 0-9, 10-19, ..., 100-199, ..., 1000-1999."""
    step = 10 ** max(1, len(str(low)) - 1)
    return low // step * step + step if low >= 10 else 10


def sizes(trex, options):
    for size in options.sizes:
        trex.load(protocol="udp", size=size, flows=options.flows)
        trex.warm(options.flows)
        yield {"size": size, **found_row(trex.search(size), size)}


def flows(trex, options):
    for number in options.flow_counts:
        clients = max(options.clients, number // 50_000 + 1)
        trex.load(protocol="udp", size="64", flows=number, clients=clients)
        trex.warm(number)
        yield {"flows": number, **found_row(trex.search("64"), "64")}


def syn(trex, options):
    # As many tuples as a trial can use up: each packet opens a connection.
    number = min(60_000 * options.clients, int(line_rate(options.gbps, "64") * options.seconds))
    trex.load(protocol="syn", size="64", flows=number)
    yield {"tuples": number, **found_row(trex.search("64"), "64")}


def latency(trex, options):
    if options.method == "tun":
        raise Missing("TRex knows timed packets by the IP identification, which a tunnel hides: no latency for tun")
    trex.load(protocol="udp", size=options.size, flows=options.flows)
    trex.warm(options.flows)
    rate = options.rate or trex.search(options.size).best.sent
    trex.load(protocol="udp", size=options.size, flows=options.flows, latency=options.timed)
    for share in SHARES:
        done = trex.trial(share * rate + options.timed)
        times, errors = trex.latency()
        yield {"share": share, "of": rate, "size": options.size, **done.as_row(),
               "average_us": times["average"], "min_us": times["total_min"], "max_us": times["total_max"],
               "jitter_us": times["jitter"], **percentiles(times["histogram"]), "dropped": errors["dropped"],
               "out_of_order": errors["out_of_order"]}


def found_row(found, size):
    best = found.best
    return {**best.as_row(), "gbps": best.received * (wire_bytes(size) + GAP) * 8 / 1e9, "limit": found.limit,
            "trials": len(found.trials)}


def http(client, options, sleep=time.sleep):
    """The highest rate at which every connection completes, by doubling and halving."""
    client.reset()
    words = ["--method", options.method, "--vip", options.vip, "--port", str(options.port), "--client", options.client]
    if options.rport:
        words += ["--rport", str(options.rport)]
    client.load_profile(str(HERE / "profiles" / "http.py"), tunables={"tunables": words})

    def trial(rate):
        client.clear_stats()
        client.start(mult=rate, duration=options.seconds)
        client.wait_on_traffic()
        sleep(DRAIN)
        stats = client.get_stats()
        sides = stats["traffic"]
        asked, done = sides["client"].get("tcps_connattempt", 0), sides["server"].get("tcps_closed", 0)
        bad = sum(sides[side].get(name, 0) for side in ("client", "server")
                  for name in ("err_cwf", "err_no_syn", "err_no_template", "tcps_drops", "tcps_conndrops"))
        return Trial(asked=rate, sent=asked / options.seconds, received=max(0, done - bad) / options.seconds, seconds=options.seconds,
                     queue_full=stats.get("global", {}).get("queue_full", 0))

    found = no_drop(trial, options.ceiling, options.loss, options.steps)
    yield {"connections_per_second": found.best.received, **found.best.as_row(), "limit": found.limit, "trials": len(found.trials)}


TESTS = {"sizes": sizes, "flows": flows, "syn": syn, "latency": latency, "http": http}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", choices=TESTS)
    parser.add_argument("--server", default="127.0.0.1", help="host of the TRex server")
    parser.add_argument("--ports", type=int, nargs=2, default=(0, 1), metavar=("CLIENTS", "SERVERS"))
    parser.add_argument("--mac", help="MAC of RVS on the clients' side, if TRex is configured with MACs of another device")
    parser.add_argument("--method", choices=("nat", "dr", "tun"), default="nat", help="forwarding method of the service")
    parser.add_argument("--vip", default="10.1.0.100")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--rport", type=int, help="http: port of the real servers")
    parser.add_argument("--client", default="16.0.0.1", help="first client address")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--flow-counts", type=int, nargs="+", default=FLOWS)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--size", default="64", help="latency: packet size")
    parser.add_argument("--gbps", type=float, default=10, help="speed of the wire: the ceiling of each search")
    parser.add_argument("--ceiling", type=float, default=500_000, help="http: most connections a second to try")
    parser.add_argument("--loss", type=float, default=0.0, help="share that may be lost: 0 is RFC 2544's no-drop rate")
    parser.add_argument("--steps", type=float, default=0.01, help="resolution of a search, share of the ceiling")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a trial; RFC 2544 wants 60 to confirm")
    parser.add_argument("--rate", type=float, help="latency: packets per second that the shares are of")
    parser.add_argument("--timed", type=float, default=1000, help="latency: timed packets per second")
    parser.add_argument("--note", default="", help="machine, NICs, workers: goes into the report")
    parser.add_argument("--out", type=Path, help="default: target/trex/TEST.json")
    return parser


def measure(client, options, sleep=time.sleep):
    """Rows of a test, with what is needed to repeat it."""
    if options.test == "http":
        rows = http(client, options, sleep)
    else:
        rows = TESTS[options.test](Stateless(client, options, sleep), options)
    result = {"test": options.test, "method": options.method, "note": options.note, "date": time.strftime("%Y-%m-%d"),
              "server": client.get_server_version() if hasattr(client, "get_server_version") else {},
              "options": {name: value for name, value in vars(options).items() if name != "out"}, "rows": []}
    for row in rows:
        print(json.dumps(row), flush=True)
        result["rows"].append(row)
    return result


def main(argv=None):
    options = arguments().parse_args(argv)
    out = options.out or HERE.parents[1] / "target" / "trex" / f"{options.test}.json"
    try:
        client = connect(options.server, astf=options.test == "http")
        try:
            result = measure(client, options)
        finally:
            client.disconnect()
    except Missing as missing:
        print(f"trex: {missing}", file=sys.stderr)
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
