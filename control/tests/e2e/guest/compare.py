"""One scenario (scenario.py) through the kernel and through RVS, and what differs.

The kernel goes first and decides what the servers answer. RVS then gets the same rules, the same frames and the
kernel's times, in the example program `replay` (control/examples/replay): control, admin socket and a worker.
"""
import ipaddress
import json
import re
import subprocess
import time

from lab import Failure, PATIENCE, TARGET
from kernel import DEFENCE, MACS, SIDES, VIPS, network, server
from deviations import ALWAYS, Rules
from scenario import PROBES, SYSCTLS
import wire

REPLAY = TARGET / "debug/examples/replay"
CONFIG = """[dpdk]
memory = "no-huge"
[workers]
connections = 4096
max_services = 64
max_servers = 512
[ipvs]
icmp_msgs_per_sec = 1000000
icmp_msgs_burst = 1000000
icmp_ratelimit = 0
"""
NUMBERS = {"tcp": wire.TCP, "udp": wire.UDP, "sctp": wire.SCTP}
OWN = {net + "1" for side in SIDES for net in side} | set(VIPS)
# The kernel's HZ, in which /proc/net/ip_vs has persistence times.
HZ = 250
# Seconds by which times of expiry may differ: both are cut to whole ones, a moment apart.
SLACK = 1
# Seconds that a listing takes at most.
LISTING = 3
# Seconds after which connections of deleted servers have ended on both sides (expire_nodest_conn).
SWEEP = 0.3
# Timeouts of seconds that nothing sets: SCTP's states NONE, INIT1 and REJECTED, and what no packet has opened but an error.
FIRST = {"sctp": (2, 4), "error": (3,)}
# Within so many seconds after its time a connection ends: timers run in slots, of 256 ms in the kernel for such times, of
# 250 ms in RVS. And so many before it no packet may be on its way.
SLOT, BEFORE = 0.6, 0.05


# ---- RVS -------------------------------------------------------------------------------------------

def replay(steps, config=CONFIG):
    """Steps of the example program; returns their answers."""
    document = json.dumps({"network": network(), "config": config, "steps": steps})
    result = subprocess.run([str(REPLAY)], input=document, capture_output=True, text=True, timeout=120 * PATIENCE)
    if result.returncode:
        raise Failure(f"replay: exit {result.returncode}: {result.stderr[-2000:]}")
    return json.loads(result.stdout)


def rvsadm(line, at=0, stdin=""):
    return {"at": at, "do": {"rvsadm": [line, stdin]}}


def features():
    """What RVS has of what scenarios may use."""
    found = []
    for name, lines in PROBES:
        if all(answer["rvsadm"]["status"] == 0 for answer in replay([rvsadm(line) for line in lines])):
            found.append(name)
    return found


def sysctls():
    """The settings that RVS has, of those that change what happens to packets."""
    found = []
    for name in SYSCTLS:
        try:
            replay([], with_sysctls({name: SYSCTLS[name][0]}))
            found.append(name)
        except Failure:
            pass
    return found


def with_sysctls(values):
    def text(value):
        return str(value)
    lines = "".join(f"{name} = {value}\n" for name, value in values.items())
    config = CONFIG + lines
    # Switches are true and false in the file, 0 and 1 in the kernel.
    for name in ("expire_nodest_conn", "schedule_icmp", "sloppy_tcp", "sloppy_sctp", "pmtu_disc", "nat_icmp_send", "expire_quiescent_template"):
        config = re.sub(rf"(?m)^{name} = 1$", f"{name} = true", config)
        config = re.sub(rf"(?m)^{name} = 0$", f"{name} = false", config)
    return config


# ---- the kernel --------------------------------------------------------------------------------------

class Trial:
    """Runs a scenario in the kernel and writes down what RVS is to be asked, step by step."""

    def __init__(self, kernel):
        self.kernel, self.answers, self.values, self.rules = kernel, [], {}, Rules()
        self.flows = {}         # flow -> (server, port) that the kernel chose
        self.direct = set()     # flows whose packets went to a server with the virtual address
        self.last = {}          # ("client" or "server", flow) -> last IP packet it got
        self.streams = {}       # flow -> what each end sends next, and what the client has seen of the server's
        self.short = {}         # flow -> (its last packet's time, what may be left of it then)

    def run(self, scenario):
        """[(step of the scenario, step for RVS, the kernel's answer)]"""
        self.kernel.reset()
        self.began, self.is_revived = time.monotonic(), False
        self.keep_services(-1)
        for number, step in enumerate(scenario):
            getattr(self, step[0].replace("-", "_"))(number, *step[1:])
            if self.is_revived:
                break
        return self.answers

    def let_end(self):
        """Lets those connections end that are about to: whether they still count may differ for part of a second."""
        while True:
            now = time.monotonic()
            ends = [last + seconds for last, timeouts in self.short.values() for seconds in timeouts]
            ends = [end for end in ends if end - BEFORE <= now < end + SLOT]
            if not ends:
                return
            time.sleep(max(ends) + SLOT - now)

    def note(self, number, action, answer):
        self.answers.append((number, {"at": time.monotonic() - self.began, "do": action}, answer))

    def rule(self, number, line):
        if not self.rules.takes(line):
            return
        at = time.monotonic() - self.began
        said = self.kernel.ipvsadm(line)[0]
        self.answers.append((number, {"at": at, "do": {"rvsadm": [line, ""]}}, ("rule", said)))
        if line.split()[0] in ("-d", "-D", "-C") and self.values.get("expire_nodest_conn"):
            time.sleep(SWEEP)
            self.sweep_again(number)
        if line == "-C":
            self.keep_services(number)

    def keep_services(self, number):
        """See deviations.ALWAYS."""
        for line in ALWAYS:
            self.kernel.ipvsadm(line)
            self.note(number, {"rvsadm": [line, ""]}, ("rule", ""))

    def sweep_again(self, number):
        """See deviations.SWEPT."""
        dummy = f"-t {VIPS[0]}:1"
        for line in (f"-A {dummy}", f"-a {dummy} -r {server(22)}:1", f"-D {dummy}"):
            self.note(number, {"rvsadm": [line, ""]}, ("rule", self.kernel.ipvsadm(line)[0]))
        time.sleep(SWEEP)

    def mark(self, number, mark, protocol, addr, port):
        self.kernel.mark(mark, protocol, addr, port)
        rule = f"mark add {mark} protocol {protocol} destination {addr} destination-port {port}"
        self.note(number, {"rvsadm": [rule, ""]}, ("mark",))

    def sysctl(self, number, name, value):
        if name == "drop_packet":
            rate = self.values.get("am_droprate", int(self.kernel.defaults["am_droprate"]))
            self.kernel.restart_drops()
            self.kernel.sysctl(am_droprate=rate)
        self.kernel.sysctl(**{name: value})
        self.values[name] = value
        if name in ("drop_packet", "secure_tcp"):
            time.sleep(DEFENCE)
        self.note(number, {"reload": with_sysctls(self.values)}, ("sysctl",))

    def wait(self, number, seconds):
        time.sleep(seconds)
        self.note(number, "wait", ("wait",))

    def tables(self, number):
        self.let_end()
        services, connections = self.kernel.tables()
        self.note(number, {"rvsadm": ["-Ln --nosort", ""]}, ("services", kernel_services(services)))
        self.note(number, {"rvsadm": ["-Lnc --persistent-conn", ""]}, ("connections", kernel_connections(connections)))

    def listing(self, number, arguments):
        # The program takes its time: no connection may end meanwhile.
        if any(seconds < LISTING for _, seconds in kernel_connections(self.kernel.tables()[1]).values()):
            return
        status, text = self.kernel.program(*arguments.split())
        self.note(number, {"rvsadm": [arguments, ""]}, ("listing", status, text))

    def client(self, number, flow, packet):
        protocol, client, port, vip, vport = flow
        data = segment(protocol, client, port, vip, vport, packet)
        self.let_end()
        self.touch(flow)
        if "pieces" in packet:
            self.pieces(number, 0, "10.1.0.254", data, packet)
            return
        out = self.frame(number, 0, wire.ethernet(MACS[0], wire.mac_of("10.1.0.254"), data))
        # See deviations.REVIVED.
        if tuple(flow) in self.flows and ("S" in packet.get("flags", "") or packet.get("chunk") == 1):
            self.kernel.tick()
        for side, frame in out:
            got = wire.read(frame)
            if side == 1 and (got["dst"] == vip or "inner" in got):
                self.direct.add(tuple(flow))
            # See deviations.REVIVED.
            if got["src"] == vip and "R" in got.get("flags", "") and "S" in packet.get("flags", "") and tuple(flow) in self.direct:
                self.is_revived = True
            if side == 1 and got["dst"] != vip and "sport" in got and "icmp" not in got:
                self.flows[tuple(flow)] = (got["dst"], got["dport"])
                self.last["server", tuple(flow)] = frame[14:]

    def server(self, number, flow, packet):
        protocol, client, port, _, _ = flow
        if tuple(flow) not in self.flows:
            return
        addr, sport = self.flows[tuple(flow)]
        data = segment(protocol, addr, sport, client, port, packet)
        self.let_end()
        self.touch(flow)
        if "pieces" in packet:
            self.pieces(number, 1, addr, data, packet)
            return
        out = self.frame(number, 1, wire.ethernet(MACS[1], wire.mac_of(addr), data))
        for side, frame in out:
            if side == 0 and "icmp" not in wire.read(frame):
                self.last["client", tuple(flow)] = frame[14:]

    def touch(self, flow, kind=None):
        """A packet of this flow comes now."""
        if timeouts := FIRST.get(kind or flow[0]):
            self.short[tuple(flow)] = time.monotonic(), timeouts

    def say(self, number, flow, side, flags, text):
        """FTP: numbers and addresses are those that the two ends have seen by now."""
        protocol, client, port, vip, vport = flow
        if "S" in flags and side == "client":
            self.streams[tuple(flow)] = {"client": 1000 * number, "server": 2 ** 32 - 100 * number, "seen": 2 ** 32 - 100 * number, "open": False}
        stream, real = self.streams.get(tuple(flow)), self.flows.get(tuple(flow))
        if not stream or (side == "server" and not real):
            return
        # The kernel's own tracking of these connections takes no segment out of turn: see deviations.TRACKED.
        if side == "client" and "S" not in flags and not stream["open"]:
            return
        if side == "client":
            data = self.tcp(client, port, vip, vport, flags, stream["client"], stream["seen"], text)
            out = self.frame(number, 0, wire.ethernet(MACS[0], wire.mac_of("10.1.0.254"), data))
        else:
            text = text.replace("SERVER", real[0].replace(".", ","))
            data = self.tcp(*real, client, port, flags, stream["server"], stream["client"], text)
            out = self.frame(number, 1, wire.ethernet(MACS[1], wire.mac_of(real[0]), data))
        for to, frame in out:
            got, one = wire.read(frame), ("S" in flags) + ("F" in flags)
            if side == "client" and to == 1 and got.get("dport") and "icmp" not in got:
                self.flows[tuple(flow)] = (got["dst"], got["dport"])
                stream["client"] = (stream["client"] + len(text) + one) % 2 ** 32
            elif side == "server" and to == 0 and got["dst"] == client and "payload" in got:
                stream["server"] = (stream["server"] + len(text) + one) % 2 ** 32
                stream["open"] = True
                stream["seen"] = (stream["seen"] + len(got["payload"]) // 2 + one) % 2 ** 32

    @staticmethod
    def tcp(src, sport, dst, dport, flags, seq, ack, text):
        body = wire.tcp(src, sport, dst, dport, flags, seq % 2 ** 32, ack % 2 ** 32 if "A" in flags else 0, text.encode())
        return wire.ip(src, dst, wire.TCP, body)

    def data(self, number, flow, side, kind, ports, flags):
        """A segment of a data connection: `ports` are the client's and the one that was named to or by it."""
        _, client, _, vip, vport = flow
        real = self.flows.get(tuple(flow))
        if not real:
            return
        mine, named = ports
        inner, outer = (named, named) if kind == "passive" else (real[1] - 1, vport - 1)
        if side == "client":
            frame = self.tcp(client, mine, vip, outer, flags, 1, 1, "")
            self.frame(number, 0, wire.ethernet(MACS[0], wire.mac_of("10.1.0.254"), frame))
        else:
            frame = self.tcp(real[0], inner, client, mine, flags, 1, 1, "")
            self.frame(number, 1, wire.ethernet(MACS[1], wire.mac_of(real[0]), frame))

    def begin(self, number, flow, addr, call):
        _, client, port, _, vport = flow
        data = segment("udp", addr, vport, client, port, {"call": call})
        self.frame(number, 1, wire.ethernet(MACS[1], wire.mac_of(addr), data))

    def client_error(self, number, flow, code):
        quoted = self.last.get(("client", tuple(flow)))
        if quoted:
            self.error(number, 0, flow[1], flow[3], code, quoted, "10.1.0.254")

    def server_error(self, number, flow, code):
        quoted = self.last.get(("server", tuple(flow)))
        if quoted:
            addr = self.flows[tuple(flow)][0]
            self.error(number, 1, addr, flow[1], code, quoted, addr)

    def early_error(self, number, flow, code):
        protocol, client, port, vip, vport = flow
        quoted = segment(protocol, vip, vport, client, port, {"flags": "SA", "chunk": 2, "size": 8})
        self.let_end()
        self.touch(flow, "error")
        self.error(number, 0, client, vip, code, quoted, "10.1.0.254")

    def pieces(self, number, side, source, data, packet):
        """A packet in pieces: what leaves is compared once all have come."""
        ends, order = packet["pieces"]
        frames = [wire.ethernet(MACS[side], wire.mac_of(source), piece) for piece in wire.pieces(data, ends, number + 1)]
        *early, last = [frames[place] for place in order]
        for frame in early:
            at = time.monotonic() - self.began
            self.kernel.send(side, frame)
            self.answers.append((number, {"at": at, "do": {"frame": [side, frame.hex()]}}, ("piece",)))
        at = time.monotonic() - self.began
        out = self.kernel.inject(side, last)
        whole = wire.ethernet(MACS[side], wire.mac_of(source), data)
        self.answers.append((number, {"at": at, "do": {"frame": [side, last.hex()]}}, ("pieces", side, whole, out)))

    def error(self, number, side, src, dst, code, quoted, from_mac):
        kind, sub, rest = {1: (3, 3, 0), 3: (3, 1, 0), 4: (3, 4, 1000), 11: (11, 0, 0)}[code]
        protocol = wire.ICMP
        if ":" in src:
            kind, sub = {1: (1, 4), 3: (1, 0), 4: (2, 0), 11: (3, 0)}[code]
            rest, protocol = (1280 if code == 4 else 0), wire.ICMP6
        body = wire.icmp(src, dst, kind, sub, rest, quoted[:200])
        self.frame(number, side, wire.ethernet(MACS[side], wire.mac_of(from_mac), wire.ip(src, dst, protocol, body)))

    def frame(self, number, side, frame):
        at = time.monotonic() - self.began
        out = self.kernel.inject(side, frame)
        self.answers.append((number, {"at": at, "do": {"frame": [side, frame.hex()]}}, ("frame", side, frame, out)))
        return out


def segment(protocol, src, sport, dst, dport, packet):
    """The IP packet that a step describes."""
    data = bytes(number & 255 for number in range(packet.get("size", 0)))
    if "call" in packet:
        data = f"OPTIONS sip:x SIP/2.0\r\nCall-ID: {packet['call']}\r\n\r\n".encode()
    if protocol == "tcp":
        body = wire.tcp(src, sport, dst, dport, packet.get("flags", "S"), payload=data)
    elif protocol == "udp":
        body = wire.udp(src, sport, dst, dport, data, packet.get("summed", True))
    else:
        body = wire.sctp(sport, dport, packet.get("chunk", 1))
    return wire.ip(src, dst, NUMBERS[protocol], body[:packet.get("cut", len(body))], packet.get("ttl", 64), packet.get("tos", 0),
                   packet.get("df", False), options=bytes.fromhex(packet.get("options", "")))


# ---- tables --------------------------------------------------------------------------------------------

def hex_addr(text):
    if ":" in text or text.startswith("["):
        return str(ipaddress.ip_address(text.strip("[]")))
    return str(ipaddress.ip_address(int(text, 16)))


def hex_endpoint(text):
    addr, port = text.rsplit(":", 1)
    return hex_addr(addr), int(port, 16)


def endpoint(text):
    addr, port = text.rsplit(":", 1)
    return str(ipaddress.ip_address(addr.strip("[]"))), int(port)


def kernel_services(text):
    """{(protocol, address, port): [scheduler, flags..., servers]} of /proc/net/ip_vs."""
    services, current = {}, None
    for line in text.splitlines()[3:]:
        words = line.split()
        if words[0] == "->":
            current[1].append([*hex_endpoint(words[1]), words[2], *map(int, words[3:])])
            continue
        key = ("FWM", int(words[1], 16)) if words[0] == "FWM" else (words[0], *hex_endpoint(words[1]))
        # The file leaves this out for IPv6.
        flags = {"ops": "ops" in words} if ":" not in str(key[1]) else {}
        if "persistent" in words:
            where = words.index("persistent")
            flags["persistent"] = int(words[where + 1]) // HZ
        current = services[key] = [(words[2], flags), []]
    return services


def rvs_services(text):
    services, current = {}, None
    for line in text.splitlines()[3:]:
        words = line.split()
        if words[0] == "->":
            current[1].append([*endpoint(words[1]), words[2], *map(int, words[3:])])
            continue
        key = ("FWM", int(words[1])) if words[0] == "FWM" else (words[0], *endpoint(words[1]))
        scheduler = words[3] if words[0] == "FWM" and words[2] == "IPv6" else words[2]
        flags = {"ops": "ops" in words} if ":" not in str(key[1]) else {}
        if "persistent" in words:
            flags["persistent"] = int(words[words.index("persistent") + 1])
        current = services[key] = [(scheduler, flags), []]
    return services


def kernel_connections(text):
    """{(protocol, client, port, virtual, port, server, port, engine, its data): (state, seconds)} of /proc/net/ip_vs_conn."""
    rows = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        ends = [hex_addr(word) if number % 2 == 0 else int(word, 16) for number, word in enumerate(words[1:7])]
        rows[words[0], *ends, *words[9:]] = (words[7], int(words[8]))
    return rows


def rvs_connections(text):
    rows = {}
    for line in text.splitlines()[2:]:
        words = line.split()
        minutes, seconds = words[1].split(":")
        rows[words[0], *endpoint(words[3]), *endpoint(words[4]), *endpoint(words[5]), *words[6:]] = (words[2], 60 * int(minutes) + int(seconds))
    return rows


# ---- comparing -------------------------------------------------------------------------------------------

def loosen(frame, made):
    """Blanks what the kernel makes up: identifications of its own packets and of tunnels' outer headers, and with them
    the header checksum (verified apart), flow labels of its own packets, and the source port of GUE, seeded at boot."""
    frame = bytearray(frame)
    if frame[12:14] == b"\x08\0":
        protocol = frame[23]
        gue = protocol == wire.UDP and made is None
        if made or protocol in (4, 41, 47) or gue:
            frame[18:20] = frame[24:26] = b"\0\0"
    else:
        gue = frame[20] == wire.UDP and made is None
        if made:
            frame[14:18] = b"\x60\0\0\0"
        if frame[20] == wire.FRAGMENT and made is None:
            frame[58:62] = b"\0\0\0\0"
            if frame[54] == wire.UDP and frame[56:58] == b"\0\1":
                frame[62:64] = frame[68:70] = b"\0\0"
    if gue:
        at = 34 if frame[12:14] == b"\x08\0" else 54
        frame[at:at + 2] = b"\0\0"
        frame[at + 6:at + 8] = b"\0\0"
    return bytes(frame)


def summary(side, frame):
    packet = wire.read(frame)
    return f"{('client', 'server')[side]} {packet}"


def is_sound(packet, protocol):
    """Whether the checksum of TCP or UDP is right."""
    v4 = packet[0] >> 4 == 4
    body = packet[(packet[0] & 15) * 4:] if v4 else packet[40:]
    if len(body) < (20 if protocol == wire.TCP else 8):
        return False
    if v4 and protocol == wire.UDP and body[6:8] == b"\0\0":
        return True
    src, dst = (packet[12:16], packet[16:20]) if v4 else (packet[8:24], packet[24:40])
    return wire.checksum(wire.pseudo(src, dst, protocol, len(body)) + body) == 0


def host_answers(side, frame, longest=1500):
    """What the host itself does with a packet that IPVS leaves to it: [(side, kind)]."""
    packet = wire.read(frame)
    protocol = packet["proto"]
    if packet["dst"] in OWN:
        if protocol in (wire.TCP, wire.UDP) and not is_sound(frame[14:], protocol):
            return []
        if protocol == wire.TCP:
            return [] if "R" in packet.get("flags", "") else [(side, "reset")]
        if protocol == wire.SCTP and len(frame) - 14 - (40 if ":" in packet["dst"] else (frame[14] & 15) * 4) < 12:
            return []
        if protocol in (wire.UDP, wire.SCTP):
            return [(side, "icmp")]
        return []
    # Too old, or too long for a link that is no longer than ours.
    if packet["ttl"] <= 1 or len(frame) - 14 > longest:
        return [(side, "icmp")]
    return [(1 if packet["dst"].startswith(SIDES[1]) else 0, "routed")]


def kind_of(frame, given):
    packet, before = wire.read(frame), wire.read(given)
    if "icmp" in packet and "icmp" not in before:
        return "icmp"
    if "R" in packet.get("flags", "") and packet["src"] == before["dst"]:
        return "reset"
    same = all(packet.get(key) == before.get(key) for key in ("src", "dst", "sport", "dport", "payload", "icmp"))
    return "routed" if same and packet["ttl"] == before["ttl"] - 1 else "changed"


def compare_left(want, frame, out):
    """RVS leaves the frame to the host, which does what is wanted."""
    got = [(to, kind_of(out_frame, frame)) for to, out_frame in out]
    return None if sorted(want) == sorted(got) else f"left to the host, which would do {want}, but the kernel did:\n" + show(out)


def compare_frame(kernel, answer):
    _, side, frame, out = kernel
    verdict, ours = answer["frame"]["verdict"], [(port, bytes.fromhex(text)) for port, text in answer["frame"]["out"]]
    if verdict == "kernel":
        return compare_left(host_answers(side, frame), frame, out)
    is_icmp = "icmp" in wire.read(frame)
    given = wire.read(frame)

    def key(to, out_frame):
        packet = wire.read(out_frame)
        made = not is_icmp and "icmp" in packet
        # From the balancer itself: GUE, and IPv6 tunnels whose packets were cut.
        if packet["proto"] in (wire.UDP, wire.FRAGMENT) and packet["src"] in OWN and packet["src"] not in (given["dst"], given["src"]) and packet["dst"] != given["src"]:
            made = None
        return to, loosen(out_frame, made)
    if [key(*item) for item in out] != [key(*item) for item in ours]:
        return f"RVS ({verdict}) sent:\n{show(ours)}the kernel sent:\n{show(out)}"
    for _, out_frame in ours:
        if out_frame[12:14] == b"\x08\0" and not wire.read(out_frame)["right"]:
            return f"RVS sent a wrong IPv4 header checksum:\n{show(ours)}"
    return None


def essence(frames):
    """What arrives in the end: packets put together again, out of their tunnels, as (side, next hop, outer packet, packet)."""
    out = []
    for hop in sorted({(side, frame[:6]) for side, frame in frames}):
        for packet in wire.whole([frame[14:] for side, frame in frames if (side, frame[:6]) == hop]):
            outer = wire.read_ip(packet)
            protocol, size = outer["proto"], (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
            inner = None
            if protocol in (4, 41):
                inner = packet[size:]
            elif protocol == 47:
                inner = packet[size + (8 if packet[size] & 0x80 else 4):]
            elif protocol == wire.UDP and outer["src"] in OWN and outer["dport"] == 6080:
                inner = packet[size + 8 + 4 * (packet[size + 8] & 31) + 4:]
            out.append((*hop, outer if inner else None, packet if inner is None else inner))
    tunnels = {(*item[:2], item[2]["src"], item[2]["dst"], item[2]["ttl"], item[2]["tos"]) for item in out if item[2]}
    plain = [(*item[:2], loosen(bytes(12) + (b"\x08\0" if item[3][0] >> 4 == 4 else b"\x86\xdd") + item[3], True)) for item in out if not item[2]]
    inner = [loosen(bytes(12) + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet, True)
             for packet in wire.whole([item[3] for item in out if item[2]])]
    return sorted(plain), sorted(tunnels), sorted(inner)


def compare_pieces(kernel, answers):
    _, side, frame, out = kernel
    verdicts = {answer["frame"]["verdict"] for answer in answers} - {"hold"}
    ours = [(port, bytes.fromhex(text)) for answer in answers for port, text in answer["frame"]["out"]]
    if verdicts == {"kernel"}:
        # The host cuts it again.
        joined = [(to, bytes(12) + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet) for to in (0, 1)
                  for packet in wire.whole([sent[14:] for at, sent in out if at == to])]
        return compare_left(host_answers(side, frame, 65535), frame, joined)
    if any("icmp" in wire.read(sent) for _, sent in ours + out):
        # An answer about the first piece here, about all there.
        same = [[(to, wire.read(sent)["dst"], wire.read(sent).get("icmp")) for to, sent in some] for some in (ours, out)]
    else:
        same = [essence(some) for some in (ours, out)]
    return None if same[0] == same[1] else f"RVS ({', '.join(sorted(verdicts))}) sent:\n{show(ours)}the kernel sent:\n{show(out)}"


def show(frames):
    return "".join(f"    {summary(*item)}\n" for item in frames) or "    nothing\n"


def is_same_connection(theirs, ours):
    """What is in its last second may have ended, or been given more time, on the other side."""
    both = [row for row in (theirs, ours) if row]
    if any(seconds == 0 for _, seconds in both):
        return True
    return len(both) == 2 and theirs[0] == ours[0] and abs(theirs[1] - ours[1]) <= SLACK


def compare_rows(title, theirs, ours, same):
    wrong = []
    for key in sorted(set(theirs) | set(ours), key=str):
        if not same(theirs.get(key), ours.get(key)):
            wrong.append(f"    {key}\n        kernel {theirs.get(key)}\n        RVS    {ours.get(key)}")
    return f"{title}:\n" + "\n".join(wrong) if wrong else None


def ending(*tables):
    """Servers of connections in their last second: the other side may not count them any more."""
    return {key[5] for rows in tables for key, (_, seconds) in rows.items() if seconds == 0}


def without_counts(service, servers):
    return service and (service[0], [row[:4] if row[0] in servers else row for row in service[1]])


def compare(kernel, answer, after=None):
    """What differs in one step, as text, or None. `after`: the next step and its answer."""
    kind = kernel[0]
    if kind == "frame":
        return compare_frame(kernel, answer)
    if kind == "rule":
        said = answer["rvsadm"]["err"]
        said = "".join(line for line in said.splitlines(True) if not line.startswith("warning: "))
        return None if said == kernel[1] else f"the kernel's ipvsadm said {kernel[1]!r}, rvsadm {said!r}"
    if kind == "services":
        last = ending(after[0][1], rvs_connections(after[1]["rvsadm"]["out"]))
        return compare_rows("services", kernel[1], rvs_services(answer["rvsadm"]["out"]),
                            lambda a, b: without_counts(a, last) == without_counts(b, last))
    if kind == "connections":
        return compare_rows("connections", kernel[1], rvs_connections(answer["rvsadm"]["out"]), is_same_connection)
    if kind == "listing" and (kernel[1], kernel[2]) != (answer["rvsadm"]["status"], answer["rvsadm"]["out"] + answer["rvsadm"]["err"]):
        return f"the kernel's ipvsadm: exit {kernel[1]}\n{kernel[2]}rvsadm: exit {answer['rvsadm']['status']}\n{answer['rvsadm']['out']}{answer['rvsadm']['err']}"
    return None


def differences(kernel, scenario):
    """[(number of the step, what differs)] and the number of frames compared."""
    trial = Trial(kernel).run(scenario)
    answers = replay([step for _, step, _ in trial])
    found = []
    pieces = []
    for at, ((number, _, theirs), ours) in enumerate(zip(trial, answers)):
        if theirs[0] in ("piece", "pieces"):
            pieces.append(ours)
        after = (trial[at + 1][2], answers[at + 1]) if theirs[0] == "services" else None
        text = compare_pieces(theirs, pieces) if theirs[0] == "pieces" else compare(theirs, ours, after)
        if theirs[0] == "pieces":
            pieces = []
        if text:
            found.append((number, text))
    return found, sum(theirs[0] == "frame" for _, _, theirs in trial)
