#!/usr/bin/python3
"""Tests of the TRex kit: every profile is loaded by TRex's own client and its packets are looked at; driver, search and
report run on replies in the documented form (a model of a device under test, and recordings/).

    tests.py            installs the client from PyPI below target/trex/ if no other is there
"""
import base64
import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
import client  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
from search import Trial, no_drop  # noqa: E402


def ensure_library():
    try:
        client.library()
    except client.Missing:
        command = ["/usr/bin/python3", "-m", "pip", "install", "-q", "--no-deps", "--root-user-action=ignore", "--target", client.SITE, client.PACKAGE]
        subprocess.run(command, check=True)
        client.library()


def stl(**tunables):
    """The streams of the load profile, as the server is sent them."""
    from trex.stl.api import STLProfile
    return STLProfile.load_py(str(HERE / "profiles" / "load.py"), **tunables).to_json()


def astf(**tunables):
    from trex.astf.api import ASTFProfile
    words = [word for name, value in tunables.items() for word in (f"--{name}", str(value))]
    return json.loads(ASTFProfile.load_py(str(HERE / "profiles" / "http.py"), tunables=words).to_json_str())


def frame(stream):
    return base64.b64decode(stream["packet"]["binary"])


def ones_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def instructions(stream):
    return {i["type"] + ("." + i["name"] if "name" in i else ""): i for i in stream["vm"]["instructions"]}


class Profiles(unittest.TestCase):
    def test_udp_packets_of_every_size(self):
        for size in (64, 128, 256, 512, 1024, 1280, 1518):
            (stream,) = stl(protocol="udp", size=size, vip="10.9.0.1", port=53, flows=1000)
            data = frame(stream)
            self.assertEqual(len(data), size - 4)
            self.assertEqual((data[12:14], data[23], data[30:34]), (b"\x08\0", 17, bytes([10, 9, 0, 1])))
            total, sport, dport, length, checksum = *struct.unpack("!H", data[16:18]), *struct.unpack("!HHHH", data[34:42])
            self.assertEqual((total, length, dport, checksum), (size - 18, size - 38, 53, 0))
            self.assertEqual(ones_sum(data[14:34]), 0xFFFF, "IPv4 header checksum")

    def test_tuples_are_written_where_they_belong(self):
        for protocol in ("udp", "syn"):
            (stream,) = stl(protocol=protocol, flows=500_000, clients=20, client="16.0.0.250")
            made = instructions(stream)
            var = made["tuple_flow_var.client"]
            first = 16 << 24 | 250
            self.assertEqual((var["ip_min"], var["ip_max"], var["limit_flows"]), (first, first + 19, 500_000))
            self.assertEqual((var["port_min"], var["port_max"]), (1025, 65024))
            self.assertEqual(made["write_flow_var.client.ip"]["pkt_offset"], 26)
            self.assertEqual(made["write_flow_var.client.port"]["pkt_offset"], 34)
            fix = [name for name in made if name.startswith("fix_checksum")]
            self.assertEqual(fix, ["fix_checksum_ipv4"] if protocol == "udp" else ["fix_checksum_hw"])
            if protocol == "syn":
                self.assertEqual((made[fix[0]]["l2_len"], made[fix[0]]["l3_len"]), (14, 20))

    def test_syn_is_a_syn(self):
        (stream,) = stl(protocol="syn", port=443)
        data = frame(stream)
        self.assertEqual((len(data), data[23], data[47]), (60, 6, 0x02))
        self.assertEqual(struct.unpack("!H", data[36:38])[0], 443)

    def test_imix_has_three_sizes_in_proportion(self):
        streams = stl(size="imix")
        mix = [(len(frame(s)) + 4, s["mode"]["rate"]["value"]) for s in streams]
        self.assertEqual(mix, [(64, 28), (594, 16), (1518, 4)])

    def test_latency_is_a_stream_of_its_own(self):
        load, timed = stl(latency=1000, clients=10)
        self.assertEqual((load["flow_stats"]["enabled"], timed["flow_stats"]["rule_type"]), (False, "latency"))
        self.assertEqual(timed["flow_stats"]["stream_id"], 7)
        data = frame(timed)
        self.assertEqual(data[26:30], bytes([16, 0, 0, 11]), "a client that the load has not")
        self.assertGreaterEqual(len(data) - 42, 16, "room for the time stamp")

    def test_more_flows_than_tuples_are_refused(self):
        with self.assertRaisesRegex(Exception, "need more than"):
            stl(flows=100_000_000, clients=2)

    def test_http_through_nat_and_dr(self):
        nat = astf(method="nat", vip="10.9.0.1", port=80)
        (template,) = nat["templates"]
        self.assertEqual(template["client_template"]["port"], 80)
        self.assertEqual(template["server_template"]["assoc"][0]["port"], 8080, "what the balancer translates to")
        self.assertNotIn("ip", nat["s_glob_info"])
        dr = astf(method="dr", vip="10.9.0.1", port=80)
        self.assertEqual(dr["templates"][0]["server_template"]["assoc"][0]["port"], 80)
        self.assertEqual(dr["s_glob_info"]["ip"]["dont_use_inbound_mac"], 1)
        ranges = {d["dir"]: (d["ip_start"], d["ip_end"]) for d in nat["ip_gen_dist_list"]}
        self.assertEqual(ranges, {"c": ("16.0.0.1", "16.0.15.254"), "s": ("10.9.0.1", "10.9.0.1")})
        for profile in (nat, dr):
            sent = [base64.b64decode(buffer) for buffer in profile["buf_list"]]
            client_program, server_program = (p["commands"] for p in profile["program_list"])
            request, answer = sent[client_program[0]["buf_index"]], sent[server_program[1]["buf_index"]]
            self.assertTrue(request.startswith(b"GET / HTTP/1.1\r\n") and request.endswith(b"\r\n\r\n"))
            self.assertEqual((client_program[1]["min_bytes"], server_program[0]["min_bytes"]), (len(answer), len(request)))
            body = answer.split(b"\r\n\r\n", 1)[1]
            self.assertIn(f"Content-Length: {len(body)}".encode(), answer)

    def test_rounds_hold_connections_open(self):
        profile = astf(rounds=3, think=20)
        names = [command["name"] for command in profile["program_list"][0]["commands"]]
        self.assertEqual(names, ["tx", "rx", "delay", "tx", "rx", "delay", "tx", "rx"])


class Search(unittest.TestCase):
    @staticmethod
    def device(capacity, generator=1e9):
        def trial(rate):
            sent = min(rate, generator)
            return Trial(rate, sent, min(sent, capacity), 1.0)
        return trial

    def test_finds_the_capacity(self):
        for capacity in (1.0, 3_333_333, 9_000_000):
            found = no_drop(self.device(capacity), 10_000_000, steps=0.001)
            if capacity == 1.0:
                self.assertEqual(found.limit, "nothing passed")
            else:
                self.assertLessEqual(found.best.sent, capacity)
                self.assertGreater(found.best.sent, capacity - 10_000)
                self.assertEqual(found.limit, "loss")

    def test_a_device_faster_than_the_wire(self):
        found = no_drop(self.device(2e7), 1e7)
        self.assertEqual((found.limit, found.best.sent, len(found.trials)), ("ceiling", 1e7, 1))

    def test_a_slow_generator_is_not_the_devices_capacity(self):
        found = no_drop(self.device(1e9, generator=4e6), 1e7)
        self.assertEqual(found.limit, "generator")
        self.assertLess(found.best.asked, 4.2e6)

    def test_a_single_hiccup_is_forgiven(self):
        calls = []

        def trial(rate):
            calls.append(rate)
            return Trial(rate, rate, rate * (0.5 if len(calls) == 1 else 1), 1.0)
        self.assertEqual(no_drop(trial, 1e6).limit, "ceiling")
        self.assertEqual(len(calls), 2)

    def test_tolerated_loss(self):
        def trial(rate):
            return Trial(rate, rate, rate * (1 - 0.0005), 1.0)
        self.assertEqual(no_drop(trial, 1e6, loss=0.001).limit, "ceiling")
        self.assertEqual(no_drop(trial, 1e6, loss=0.0).limit, "nothing passed")


class Model:
    """Answers as a TRex server would, with a device that passes so many packets a second behind it."""

    def __init__(self, capacity, recording=None):
        self.capacity, self.calls, self.sent, self.got = capacity, [], 0, 0
        self.recording = json.loads((HERE / "recordings" / recording).read_text()) if recording else None

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def get_server_version(self):
        return {"version": "model"}

    def add_profile(self, file, ports, tunables):
        from trex.stl.api import STLProfile
        self.streams = STLProfile.load_py(file, tunables=tunables).to_json()

    def load_profile(self, file, tunables):
        from trex.astf.api import ASTFProfile
        self.profile = ASTFProfile.load_py(file, **tunables).to_json_str()

    def start(self, mult=None, duration=None, ports=None, force=False):
        rate = float(str(mult).removesuffix("pps"))
        self.sent, self.got = int(rate * duration), int(min(rate, self.capacity) * duration)

    def get_stats(self):
        if self.recording:
            return {int(k) if k.isdigit() else k: v for k, v in self.recording["get_stats"].items()}
        return {0: {"opackets": self.sent, "ipackets": 0}, 1: {"opackets": 0, "ipackets": self.got}, "global": {"queue_full": 0}}

    def get_pgid_stats(self):
        latency = self.recording["get_pgid_stats"]["latency"]
        return {"latency": {int(k): v for k, v in latency.items()}, "flow_stats": {}}


def measure(model, *words):
    options = run.arguments().parse_args(words)
    with contextlib.redirect_stdout(io.StringIO()):
        return run.measure(model, options, sleep=lambda seconds: None)


class Driver(unittest.TestCase):
    def test_sizes(self):
        model = Model(capacity=3_000_000)
        result = measure(model, "sizes", "--sizes", "64", "1518", "imix", "--gbps", "10")
        rows = {row["size"]: row for row in result["rows"]}
        self.assertAlmostEqual(rows["64"]["received"], 3e6, delta=1.5e5)
        self.assertEqual(rows["64"]["limit"], "loss")
        # A 10 Gbit/s wire carries 812,743 frames of 1518 bytes a second.
        self.assertAlmostEqual(rows["1518"]["received"], 812_743, delta=2)
        self.assertEqual(rows["1518"]["limit"], "ceiling")
        self.assertAlmostEqual(rows["1518"]["gbps"], 10.0, places=2)
        self.assertEqual(len(model.streams), 3, "the last profile is IMIX")
        self.assertIn(("set_port_attr", ([0, 1],), {"promiscuous": True}), model.calls)

    def test_flows_get_enough_clients(self):
        model = Model(capacity=2e6)
        result = measure(model, "flows", "--flow-counts", "1000", "10000000")
        self.assertEqual([row["flows"] for row in result["rows"]], [1000, 10_000_000])
        var = instructions(model.streams[0])["tuple_flow_var.client"]
        self.assertEqual(var["limit_flows"], 10_000_000)

    def test_syn(self):
        result = measure(Model(capacity=700_000), "syn", "--seconds", "1")
        self.assertAlmostEqual(result["rows"][0]["received"], 7e5, delta=1.6e5)

    def test_latency_percentiles(self):
        result = measure(Model(1e9, "latency.json"), "latency", "--rate", "1000000")
        self.assertEqual(len(result["rows"]), 5)
        row = result["rows"][0]
        # Of 5000: 1500 below 30, 3500 below 40, 4490 below 50, 4970 below 200, 4995 below 300.
        self.assertEqual((row["p50"], row["p90"], row["p99"], row["p99.9"]), (40, 200, 200, 300))
        self.assertEqual((row["average_us"], row["max_us"]), (41.7, 2310))

    def test_no_latency_through_a_tunnel(self):
        with self.assertRaisesRegex(client.Missing, "tunnel"):
            measure(Model(1e9), "latency", "--method", "tun")

    def test_http(self):
        result = measure(Model(0, "http.json"), "http", "--ceiling", "20000")
        row = result["rows"][0]
        self.assertEqual((row["connections_per_second"], row["limit"]), (20_000, "ceiling"))

    def test_without_a_server_one_line_says_so(self):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = run.main(["sizes", "--server", "127.0.0.1"])
        self.assertEqual(status, 2)
        lines = errors.getvalue().strip().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], r"^trex: no TRex server in mode stateless .* answers at 127\.0\.0\.1, port 4501")

    def test_without_the_library_one_line_says_so(self):
        script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import client; client.SITE = client.HERE = client.Path('/nonexistent')\n" \
                 "try: client.library()\nexcept client.Missing as missing: print(missing)"
        out = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
        self.assertRegex(out.stdout.strip(), r"^no TRex client: set PYTHONPATH .* pip install lbr-trex-client==[\d.]+$")


class Report(unittest.TestCase):
    def test_page_and_pictures(self):
        results = [measure(Model(3e6), "sizes", "--sizes", "64", "imix", "--note", "two NICs"),
                   measure(Model(2e6), "flows", "--flow-counts", "1000", "100000"),
                   measure(Model(1e9, "latency.json"), "latency", "--rate", "1000000"),
                   measure(Model(0, "http.json"), "http", "--ceiling", "20000"),
                   measure(Model(7e5), "syn")]
        for result in results:
            result["origin"] = "a model in the tests"
        with tempfile.TemporaryDirectory() as directory:
            with contextlib.redirect_stdout(io.StringIO()):
                page = report.report(results, Path(directory))
            text = page.read_text()
            pictures = sorted(Path(directory).glob("*.png"))
            self.assertEqual([p.name for p in pictures], ["flows-nat-1.png", "latency-nat-2.png", "sizes-nat-0.png"])
            for picture in pictures:
                self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
                self.assertIn(f"]({picture.name})", text)
        self.assertIn("two NICs", text)
        self.assertIn("Not a measurement: a model in the tests.", text)
        self.assertRegex(text, r"\| 64 \| (2\.9|3\.0)\d+ \|")
        self.assertRegex(text, r"\| 10% \| .* \| 42 \| 40 \| 200 \| 200 \| 300 \| 2310 \|")
        self.assertRegex(text, r"\| 20,000 \| 0\.0000% \| ceiling \|")


def main():
    ensure_library()
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed, {len(result.skipped)} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
