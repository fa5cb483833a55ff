"""Random scenarios: rules of ipvsadm and packets of clients and servers.

A scenario is a list of steps, plain data, so that it can be written to a file and cut down:

    ["rule", LINE]                          a line of ipvsadm
    ["sysctl", NAME, VALUE]                 net.ipv4.vs.NAME
    ["mark", N, PROTOCOL, VIRTUAL, PORT]    packets to there get this firewall mark
    ["client", FLOW, PACKET]                a client's packet; FLOW = [protocol, client, port, virtual, port]
    ["server", FLOW, PACKET]                the answer of the server that the flow went to; left out if there is none
    ["client-error", FLOW, CODE]            an ICMP error from a client about the server's last packet
    ["server-error", FLOW, CODE]            and from a server, about the last packet it got
    ["early-error", FLOW, CODE]             an ICMP error from a client about a packet that nobody has sent
    ["say", FLOW, SIDE, FLAGS, TEXT]        FTP: a segment of a control connection, in its order; SERVER in TEXT is the
                                            address of the real server as PASV writes it
    ["data", FLOW, SIDE, KIND, PORTS, FLAGS]    a segment of a data connection ("passive", "active")
    ["begin", FLOW, SERVER, CALL]           SIP: a server's message to the client of FLOW that nobody asked for
    ["wait", SECONDS]
    ["tables"]                              services and connections are compared
    ["listing", ARGUMENTS]                  the text of both programs is compared

PACKET holds what differs from the usual: flags (TCP), chunk (SCTP), size (bytes of payload), ttl, tos, df, summed (UDP),
cut (only so many bytes of the IP packet's payload are left), options (of IPv4, hexadecimal), pieces (the packet comes in
pieces: [offset behind, ...] and the order in which they arrive), call (a SIP message with this Call-ID).
The same seed gives the same scenario with the same features.
"""
import random

from kernel import RATES, SERVERS, VIPS, server

# Lines that RVS takes only once it has the feature: (feature, lines).
PROBES = [(f"scheduler {name}", [f"-A -t 10.9.0.1:80 -s {name}"]) for name in "rr wrr lc wlc sed nq dh sh lblc lblcr fo ovf mh".split()] + [
    ("sctp", ["-A --sctp-service 10.9.0.1:80 -s rr"]),
    ("mark", ["mark add 1 protocol tcp destination 10.9.0.1 destination-port 80", "-A -f 1 -s rr"]),
    ("persistent", ["-A -t 10.9.0.1:80 -s rr -p 30 -M 255.255.255.0"]),
    ("flags", ["-A -t 10.9.0.1:80 -s sh -b sh-port"]),
    ("gue", ["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.2.0.11 -i --tun-type gue --tun-port 6080"]),
    ("gre", ["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.2.0.11 -i --tun-type gre"]),
    ("pieces", []),
    ("ftp", ["-A -t 10.9.0.1:21 -s rr", "-a -t 10.9.0.1:21 -r 10.2.0.11:21 -m"]),
    ("sip", ["-A -u 10.9.0.1:5060 -s rr -p 30 --pe sip"]),
    ("any port", ["-A -t 10.9.0.1:0 -s rr -p 30"]),
    ("mixed", ["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r [fd02::11]:80 -i"]),
]
# Settings that change what happens to packets: (name, values other than the default).
SYSCTLS = {"conn_reuse_mode": (0, 2, 3), "sloppy_tcp": (1,), "sloppy_sctp": (1,), "pmtu_disc": (0,), "nat_icmp_send": (1,),
           "expire_quiescent_template": (1,), "expire_nodest_conn": (1,), "schedule_icmp": (1,), "secure_tcp": (2, 3), "drop_packet": (2, 3)}
PORTS = (80, 443, 8080)
WEIGHTS = (0, 1, 1, 1, 1, 2, 3, 5)
# What a TCP connection may do, one word a packet: c or s, then the flags; "c+" carries data.
TALKS = ("cS sSA cA c+PA sA sPA cA cFA sA sFA cA", "cS sSA cA cFA sFA cA", "cS sSA cA sFA cFA sA", "cS sSA cA cR", "cS sSA cA sR", "cS sRA",
         "cS cS sSA cA", "cS cA c+PA", "cS cFA cA", "cS cR cA", "cS sSA sSA cA cFA cA cS", "cA", "cFA", "cR", "cSA", "sSA cA", "cS sSA cA cRA cS",
         "cSF sSA cA", "c cS", "cS sSA c cA", "cS sSA cA sFA cA sA cFA")
CHUNKS = (1, 10, 0, 3, 7, 8, 14, 6, 2, 11, 5, 9, 4, 12)


def at(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


class Maker:
    """Makes one scenario. `features` and `sysctls`: what both sides have."""

    def __init__(self, seed, features, sysctls, length=60):
        self.random, self.features, self.sysctls, self.length = random.Random(seed), features, sysctls, length
        self.steps, self.services, self.talks, self.values, self.marked = [], [], [], {}, []
        self.dialogues, self.calls = [], None
        self.schedulers = [name.split()[1] for name in features if name.startswith("scheduler ")]

    def make(self):
        chance = self.random
        if self.sysctls and chance.random() < 0.6:
            for name in chance.sample(self.sysctls, min(len(self.sysctls), chance.choice((1, 1, 2, 3)))):
                self.sysctl(name, chance.choice(SYSCTLS[name]))
        self.waits, self.persistence = chance.random() < 0.08, (30, 300)
        if self.waits:
            timeouts = [chance.choice((1, 2, 3)), chance.choice((1, 2)), chance.choice((1, 2, 3))]
            self.rule("--set " + " ".join(map(str, timeouts)))
            # Not those of connections: see deviations.TOGETHER.
            self.persistence = [seconds for seconds in (2, 3, 4) if seconds not in timeouts]
        for _ in range(chance.choice((1, 1, 2, 3))):
            self.add_service()
        # Not where time passes: see deviations.TOGETHER.
        if "ftp" in self.features and not self.waits and chance.random() < 0.15:
            self.add_ftp()
        if "sip" in self.features and not self.waits and chance.random() < 0.12:
            self.add_sip()
        packets = 0
        while packets < self.length:
            pick = chance.random()
            if pick < 0.07:
                self.edit()
            elif pick < 0.09 and self.waits:
                self.steps.append(["wait", 1.35])
            else:
                packets += 1
                self.traffic()
                if packets % 12 == 0:
                    self.steps.append(["tables"])
        self.steps.append(["tables"])
        if chance.random() < 0.15:
            self.steps += [["listing", arguments] for arguments in ("-Ln", "-Ln --thresholds", "-Ln --persistent-conn", "-Sn")]
        return self.steps

    # ---- rules -----------------------------------------------------------------------------

    def sysctl(self, name, value):
        if name == "drop_packet":
            self.steps.append(["sysctl", "am_droprate", self.random.choice(RATES)])
        self.values[name] = value
        self.steps.append(["sysctl", name, value])

    def rule(self, line):
        self.steps.append(["rule", line])

    def add_mark(self, mark, family):
        """Marks packets of up to three kinds, none of which has another mark."""
        for _ in range(self.random.choice((1, 2, 2, 3))):
            kind = [self.random.choice(("tcp", "tcp", "udp", *(["sctp"] if "sctp" in self.features else []))), self.vip(family), self.random.choice(PORTS)]
            if kind not in [known for _, known in self.marked]:
                self.marked.append((mark, kind))
                self.steps.append(["mark", mark, *kind])

    def vip(self, family):
        return self.random.choice([vip for vip in VIPS if (":" in vip) == (family == 6)])

    def add_service(self):
        chance = self.random
        family = chance.choice((4, 4, 4, 6))
        method = chance.choice(("-m", "-m", "-m", "-g", "-i", ""))
        if "mark" in self.features and chance.random() < 0.2:
            mark = 10 * len(self.steps) + family        # another one for each
            self.add_mark(mark, family)
            service = {"name": f"-f {mark}{' -6' if family == 6 else ''}", "mark": mark, "protocol": None, "port": 0, "family": family}
        else:
            protocol = chance.choices(("-t", "-u", "--sctp-service"), (6, 3, 1 if "sctp" in self.features else 0))[0]
            addr = self.vip(family)
            port = 0 if "any port" in self.features and chance.random() < 0.1 else chance.choice(PORTS)
            service = {"name": f"{protocol} {at(addr, port)}", "mark": None, "protocol": protocol, "addr": addr, "port": port, "family": family}
        service |= {"servers": [], "method": method}
        self.rule(f"-A {service['name']}{self.service_options(service)}")
        self.services.append(service)
        for _ in range(chance.choice((0, 1, 2, 2, 3, 3, 4, 5))):
            self.add_server(service)
        return service

    def service_options(self, service):
        chance, scheduler = self.random, self.random.choice(self.schedulers)
        options = f" -s {scheduler}"
        if "persistent" in self.features and (service["port"] == 0 and not service["mark"] or chance.random() < 0.25):
            options += f" -p {chance.choice(self.persistence)}"
            if chance.random() < 0.3:
                options += f" -M {chance.choice((64, 120))}" if service["family"] == 6 else f" -M {chance.choice(('255.255.255.0', '255.255.0.0'))}"
        if (service["mark"] or service["protocol"] == "-u") and chance.random() < 0.15:
            options += " -o"
        if scheduler in ("sh", "mh") and "flags" in self.features and chance.random() < 0.4:
            options += " -b " + chance.choice((f"{scheduler}-fallback", f"{scheduler}-port", f"{scheduler}-fallback,{scheduler}-port"))
        return options

    def server_options(self, service):
        chance = self.random
        method = service["method"] or chance.choice(("-m", "-g", "-i"))
        options = f" {method}"
        if method == "-i" and chance.random() < 0.5:
            kind = chance.choice([name for name in ("ipip", "gue", "gre") if name == "ipip" or name in self.features])
            options += f" --tun-type {kind}" + (" --tun-port 6080" if kind == "gue" else "")
            if kind != "ipip" and chance.random() < 0.4:
                options += chance.choice((" --tun-csum", " --tun-nocsum", *([" --tun-remcsum"] if kind == "gue" else [])))
        if chance.random() < 0.8:
            options += f" -w {chance.choice(WEIGHTS)}"
        if chance.random() < 0.12:
            upper = chance.choice((1, 2, 3, 4))
            options += f" -x {upper}"
            if chance.random() < 0.5:
                options += f" -y {chance.choice((1, upper, upper + 1))}"
        return options

    def add_server(self, service):
        chance = self.random
        number = chance.choice(SERVERS[:7])
        port = service["port"] if chance.random() < 0.6 else chance.choice((80, 8080, 9000))
        options, family = self.server_options(service), service["family"]
        if " -i" in options and "mixed" in self.features and chance.random() < 0.2:
            family = 10 - family
        name = at(server(number, family), port)
        service["servers"].append(name)
        self.rule(f"-a {service['name']} -r {name}{options}")

    def edit(self):
        chance = self.random
        service = chance.choice(self.services)
        some = chance.choice(service["servers"]) if service["servers"] else at(server(11, service["family"]), 80)
        what = chance.choices(("add", "edit", "delete", "back", "service", "gone", "new", "clear"), (4, 8, 4, 2, 2, 1, 1, 0.3))[0]
        if what == "add":
            self.add_server(service)
        elif what == "edit":
            self.rule(f"-e {service['name']} -r {some}{self.server_options(service)}")
        elif what == "delete":
            self.rule(f"-d {service['name']} -r {some}")
        elif what == "back":
            self.rule(f"-d {service['name']} -r {some}")
            self.rule(f"-a {service['name']} -r {some}{self.server_options(service)}")
        elif what == "service":
            self.rule(f"-E {service['name']}{self.service_options(service)}")
        elif what == "gone":
            self.rule(f"-D {service['name']}")
            self.rule(f"-A {service['name']}{self.service_options(service)}")
            for name in service["servers"][:3]:
                self.rule(f"-a {service['name']} -r {name}{self.server_options(service)}")
        elif what == "clear":
            self.rule("-C")
        else:
            self.add_service()

    # ---- packets ---------------------------------------------------------------------------

    def flow(self):
        chance = self.random
        service = chance.choice(self.services)
        kinds = [kind for mark, kind in self.marked if mark == service["mark"]]
        if service["mark"] and kinds:
            protocol, addr, port = chance.choice(kinds)
        elif service["mark"]:
            protocol, addr, port = "tcp", self.vip(service["family"]), chance.choice(PORTS)
        else:
            protocol = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}[service["protocol"]]
            addr, port = service["addr"], service["port"] or chance.choice(PORTS)
        if chance.random() < 0.05:
            port = 7777
        host = chance.choice((1, 2, 3, 7, 300))
        client = f"fd08::{host:x}" if service["family"] == 6 else f"10.8.{host >> 8}.{host & 255}"
        return [protocol, client, 1024 + chance.randrange(12), addr, port]

    def add_ftp(self):
        """A service on port 21, and dialogues with it that come between the other packets."""
        chance = self.random
        family = chance.choice((4, 4, 6))
        name = f"-t {at(self.vip(family), 21)}"
        if name in [service["name"] for service in self.services]:
            return
        persistent = f" -p {self.persistence[0]}" if "persistent" in self.features and chance.random() < 0.3 else ""
        self.rule(f"-A {name} -s {chance.choice(self.schedulers)}{persistent}")
        for number in chance.sample(SERVERS[:7], chance.choice((1, 2, 3))):
            self.rule(f"-a {name} -r {at(server(number, family), chance.choice((21, 21, 2121)))} -m")
        # The kernel tracks these connections even when they have ended, so each has a port of its own.
        self.dialogues = [self.dialogue(name, family) for _ in range(chance.choice((1, 2, 3)))]

    def dialogue(self, name, family):
        chance = self.random
        addr = name.split()[1].rsplit(":", 1)[0].strip("[]")
        client = f"fd08::{chance.choice((1, 2)):x}" if family == 6 else f"10.8.0.{chance.choice((1, 2))}"
        flow = ["tcp", client, chance.randrange(20000, 60000), addr, 21]
        steps = [["say", flow, "client", "S", ""], ["say", flow, "server", "SA", ""], ["say", flow, "client", "A", ""],
                 ["say", flow, "server", "PA", "220 ready\r\n"], ["say", flow, "client", "A", ""]]
        for _ in range(chance.choice((1, 1, 2, 3))):
            ports = [chance.randrange(20000, 60000), chance.randrange(1024, 65536)]
            kind = chance.choice(("passive", "active"))
            steps += self.agree(flow, family, kind, ports)
            ends = ("client", "server") if kind == "passive" else ("server", "client")
            steps += [["data", flow, ends[word == "b"], kind, ports, flags] for word, flags in
                      zip("abaab", ("S", "SA", "A", "PA", "A"))][:chance.choice((1, 3, 5, 5))]
        if chance.random() < 0.5:
            steps += [["say", flow, "client", "FA", ""], ["say", flow, "server", "FA", ""], ["say", flow, "client", "A", ""]]
        return steps

    def agree(self, flow, family, kind, ports):
        """What is said about a data connection."""
        chance = self.random
        client, (mine, named) = flow[1], ports
        high, low = divmod(mine if kind == "active" else named, 256)
        if kind == "active":
            numbers = f"{client.replace('.', ',')},{high},{low}"
            asks = [f"EPRT |{2 if family == 6 else 1}|{client}|{mine}|"] + ([f"PORT {numbers}"] * 2 if family == 4 else [])
            answers = ["200 fine"]
        else:
            asks, answers = ["EPSV"], [f"229 Extended Passive Mode (|||{named}|)"]
            if family == 4 and chance.random() < 0.7:
                asks, answers = ["PASV"], [f"227 Entering Passive Mode (SERVER,{high},{low})"]
        text = chance.choice(asks) + "\r\n"
        return [["say", flow, "client", "PA", text], ["say", flow, "server", "A", ""],
                ["say", flow, "server", "PA", chance.choice(answers) + "\r\n"], ["say", flow, "client", "A", ""],
                ["say", flow, "client", "PA", "RETR x\r\n"], ["say", flow, "server", "PA", "150 here\r\n"], ["say", flow, "client", "A", ""]]

    def add_sip(self):
        """A service whose templates go by Call-ID, and calls that clients and servers begin."""
        chance = self.random
        family = chance.choice((4, 4, 6))
        vip, persistence = self.vip(family), f"-p {self.persistence[0]}"
        if chance.random() < 0.3:
            persistence += " -M 64" if family == 6 else " -M 255.255.0.0"
        name = f"-u {at(vip, 5060)}"
        self.rule(f"-A {name} -s {chance.choice(self.schedulers)} {persistence}{chance.choice(('', '', ' -o'))} --pe sip")
        servers = chance.sample(SERVERS[:7], chance.choice((1, 2, 3)))
        for number in servers:
            self.rule(f"-a {name} -r {at(server(number, family), 5060)} -m -w {chance.choice(WEIGHTS)}")
        self.calls = vip, family, [server(number, family) for number in servers]

    def call(self):
        """A message of a call, or something that is none."""
        chance = self.random
        vip, family, servers = self.calls
        host = chance.choice((1, 2, 300))
        client = f"fd08::{host:x}" if family == 6 else f"10.8.{host >> 8}.{host & 255}"
        flow = ["udp", client, chance.choice((5060, 5061, 5062)), vip, 5060]
        call = f"{chance.choice('abcd')}@{chance.choice(('x', 'example.org'))}"
        if chance.random() < 0.15:
            return ["begin", flow, chance.choice(servers), call]
        return [chance.choice(("client", "client", "server")), flow, {"call": call} if chance.random() < 0.85 else {"size": 30}]

    def traffic(self):
        chance = self.random
        if self.calls and chance.random() < 0.4:
            self.steps.append(self.call())
            return
        self.dialogues = [steps for steps in self.dialogues if steps]
        if self.dialogues and chance.random() < 0.7:
            self.steps.append(chance.choice(self.dialogues).pop(0))
            return
        if len(self.talks) < 6 or chance.random() < 0.1:
            flow = self.flow()
            if flow[0] == "tcp":
                words = chance.choice(TALKS).split()
            elif flow[0] == "udp":
                words = [chance.choice(("c", "c", "s")) for _ in range(chance.randrange(1, 6))]
            else:
                words = [f"{side}{chunk}" for side, chunk in (("c", 1), ("s", 2), ("c", 10), ("s", 11), ("c", 0), ("c", 7), ("s", 8), ("c", 14))]
            self.talks.append([flow, words])
        talk = chance.choice(self.talks)
        flow, words = talk
        if not words:
            self.talks.remove(talk)
            return
        odd = chance.random()
        if odd < 0.04:
            self.steps.append([chance.choice(("client-error", "server-error")), flow, chance.choice((1, 3, 4, 11))])
            return
        if odd < 0.08 and "schedule_icmp" in self.values and [flow[0], flow[3], flow[4]] not in [kind for _, kind in self.marked]:
            self.steps.append(["early-error", flow, chance.choice((1, 3, 4, 11))])
            return
        if odd < 0.12:
            word = chance.choice("cs") + self.oddity(flow[0])
        else:
            word = words.pop(0)
        packet, rest = {}, word[1:]
        if flow[0] == "tcp":
            packet["flags"] = rest.replace("+", "")
            if "+" in rest:
                packet["size"] = chance.choice((1, 100, 1400))
        elif flow[0] == "udp":
            packet["size"] = chance.choice((0, 8, 100, 1400, 1460 if flow[0] == "udp" and chance.random() < 0.3 else 20))
            if ":" not in flow[1] and chance.random() < 0.1:
                packet["summed"] = False
        else:
            packet["chunk"] = int(rest)
        if chance.random() < 0.05:
            packet["ttl"] = chance.choice((1, 2, 255))
        if chance.random() < 0.05:
            packet["tos"] = chance.choice((2, 3, 0xB8, 0xBB))
        if ":" not in flow[1] and chance.random() < 0.3:
            packet["df"] = True
        if ":" not in flow[1] and chance.random() < 0.02:
            packet["options"] = chance.choice(("01010101", "9404000001010100"))
        if chance.random() < 0.02:
            packet["cut"] = chance.choice((4, 6, 8, 12, 16, 19, 20))
        if "pieces" in self.features and flow[0] != "sctp" and chance.random() < 0.05 and not {"cut", "options", "summed", "df"} & set(packet):
            self.cut(packet)
        self.steps.append(["client" if word[0] == "c" else "server", flow, packet])

    def cut(self, packet):
        """The packet comes in pieces, none too long for a tunnel."""
        chance = self.random
        packet["size"] = chance.choice((40, 500, 1400, 3000))
        ends, length = [], packet["size"] + 8
        while not ends or length - ends[-1] > 1360:
            ends.append((ends[-1] if ends else 0) + 8 * chance.randrange(3, min(170, length // 8)))
        order = list(range(len(ends) + 1))
        if chance.random() < 0.5:
            chance.shuffle(order)
        packet["pieces"] = [ends, order]

    def oddity(self, protocol):
        if protocol == "tcp":
            return "".join(letter for letter in "FSRPA" if self.random.random() < 0.35)
        return str(self.random.choice(CHUNKS)) if protocol == "sctp" else ""


def make(seed, features, sysctls, length=60):
    return Maker(seed, features, sysctls, length).make()


def rules(seed, features):
    """Only lines that set rules up, for listings: a scenario's first part, somewhat larger."""
    maker = Maker(seed, features, [], 0)
    maker.waits, maker.persistence = False, (30, 300)
    for _ in range(6):
        maker.add_service()
    return [step[1] for step in maker.steps if step[0] == "rule"]
