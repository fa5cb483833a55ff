"""Two hosts that share addresses by VRRP, a client, and a switch that remembers what crossed it.

    client ── c0 ═╗                        node a: rvsd or keepalived, 10.1.0.11
          .1.2    ╠═ front bridge ══ f0 ── node b: the same            10.1.0.12
    servers ─ s0 ═╝       (.1.21, .1.22)

A node that runs rvsd has its addresses on the twin tf0, one that runs keepalived on f0 itself. With `back=True` there is
a second bridge, 10.2.0.0/24, with the servers behind the nodes' b0.
"""
import json
import signal
import time

from lab import BIN, PREFIX, Failure, Lab, check, config_text, port, run, wait_for

VIP, VIP6 = "10.1.0.100", "fd01::100"
LINK_LOCAL = "fe80::100"


class Node:
    def __init__(self, lab, name, number):
        """`number` is the last part of its own addresses."""
        self.lab, self.name, self.number = lab, name, number
        self.addr = f"10.1.0.{number}"
        self.space = lab.space(name)
        self.space.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
        self.socket = lab.dir / f"{name}.sock"
        self.device, self.program = "f0", None

    @property
    def wire(self):
        """Its port of the switch."""
        return f"{self.name}.f0"

    def rvsd(self, text, ports=("f0",), worker="", extra=""):
        """Starts rvsd with this VRRP and service configuration, with the node's own addresses on the twins."""
        config = self.lab.dir / f"{self.name}.toml"
        table = "\n".join(port(name, f'af_packet = "{name}"') for name in ports)
        config.write_text(config_text(self.socket, f"{PREFIX}{self.name}", table, text, worker, extra))
        self.device, self.twins, self.config = "tf0", [f"t{name}" for name in ports], config
        self.start()

    def start(self):
        self.program = self.space.spawn([BIN / "rvsd", self.config], f"rvsd.{self.name}")
        wait_for(f"rvsd of {self.name}", lambda: Lab._died(self.program) or self.adm_result("status").returncode == 0, 30)
        for net, twin in enumerate(self.twins, 1):
            self.space.batch(f"link set {twin} up", f"address replace 10.{net}.0.{self.number}/24 dev {twin}",
                             f"address replace fd0{net}::{self.number}/64 dev {twin} nodad")

    def keepalived(self, text):
        """Starts Debian's keepalived with this configuration."""
        config = self.lab.dir / f"{self.name}.conf"
        config.write_text("global_defs {\n    script_user root\n}\n" + text)
        self.space.ip(f"address replace {self.addr}/24 dev f0")
        self.space.ip(f"address replace fd01::{self.number}/64 dev f0 nodad")
        pids = [option for name in "prc" for option in (f"-{name}", self.lab.dir / f"{self.name}.{name}.pid")]
        for option in pids[1::2]:
            option.unlink(missing_ok=True)
        for vip in (f"{VIP}/24", f"{VIP}/32", f"{VIP6}/64", f"{LINK_LOCAL}/64"):
            self.space.ip(f"address delete {vip} dev f0", fail=False)
        self.device = "f0"
        self.program = self.space.spawn(["keepalived", "-n", "-l", "-D", "-P", "-f", config, *pids], f"keepalived.{self.name}")

    def crash(self):
        """kill -9, of children too. keepalived's addresses stay where they are, as they would."""
        run(["pkill", "-KILL", "-P", str(self.program.pid)], fail=False)
        self.program.signal(signal.SIGKILL)
        self.program.wait()

    def stop(self):
        self.program.signal(signal.SIGTERM)
        self.program.wait()

    def adm_result(self, arguments, seconds=10):
        return run([str(BIN / "rvsadm"), "--socket", str(self.socket)] + arguments.split(), seconds, fail=False)

    def adm(self, arguments, seconds=10):
        result = self.adm_result(arguments, seconds)
        if result.returncode:
            raise Failure(f"{self.name}: rvsadm {arguments}: {result.stdout}{result.stderr}")
        return result.stdout

    def instance(self, name="v"):
        """How one of rvsd's instances stands."""
        view = json.loads(self.adm("--json vrrp"))
        found = [instance for instance in view["instances"] if instance["name"] == name]
        if not found:
            raise Failure(f"{self.name} has no instance {name} yet")
        return found[0]

    def holds(self, addr=VIP):
        return addr + "/" in self.space.ip("-br address show")

    def expect(self, state, name="v", seconds=15):
        """Waits for an instance of rvsd to have this state."""
        wait_for(f"{self.name} to be {state}", lambda: self.instance(name)["state"] == state, seconds)


class Pair(Lab):
    """`with Pair() as lab:` builds the network; nothing runs on the nodes yet."""

    def __init__(self, servers=0, back=False, **rest):
        self.back = back
        super().__init__(servers, **rest)

    def build(self):
        self.build_switch()
        self.client = self.space("client")
        self.cable(self.client, "c0", "front", "10.1.0.2/24", "fd01::2/64")
        self.nodes = [Node(self, name, number) for number, name in enumerate("ab", 11)]
        for node in self.nodes:
            self.cable(node.space, "f0", "front")
            if self.back:
                self.cable(node.space, "b0", "back")
        self.servers = [self.pair_server(number) for number in range(1, self.count + 1)]
        self.record = self.dir / "wire.json"
        self.peer(self.switch, "wire.py", self.record)

    def private_cable(self):
        """y0, a cable between the two nodes alone: 10.3.0.1 and .2."""
        a, b = self.nodes
        a.space.batch(f"link add y0 type veth peer name y0 netns {b.space.name}")
        for number, node in enumerate((a, b), 1):
            node.space.batch(f"address add 10.3.0.{number}/24 dev y0", "link set y0 up")

    def pair_server(self, number):
        space = self.space(f"server{number}")
        space.number = number
        net = 2 if self.back else 1
        space.addr = f"10.{net}.0.{20 + number}"
        self.cable(space, "s0", "back" if self.back else "front", f"{space.addr}/24")
        space.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
        self.nginx(space, f"server {number}")
        return space

    def dump(self):
        text = [super().dump()]
        for node in self.nodes:
            if node.program and node.program.running() and node.device == "tf0":
                result = node.adm_result("vrrp")
                text.append(f"---- {node.name}: rvsadm vrrp\n{result.stdout}{result.stderr}")
        rows = [row for row in self.seen() if row["kind"] != "packet"][-60:]
        text.append("---- the wire\n" + "\n".join(json.dumps(row) for row in rows))
        return "\n".join(text)

    def announce(self, space, device, addr):
        """One gratuitous ARP by a host that says it has `addr`."""
        space.run(["/usr/bin/python3", "-I", "-S", "-c",
                   "import socket,sys\ns=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\ns.bind((sys.argv[1],0))\nm=s.getsockname()[4]\n"
                   "a=socket.inet_aton(sys.argv[2])\ns.send(b'\\xff'*6+m+bytes.fromhex('08060001080006040001')+m+a+b'\\xff'*6+a)",
                   device, addr])

    # ---- the wire ------------------------------------------------------------------------------

    def seen(self, **wanted):
        """Frames that crossed the switch, oldest first: those with these values."""
        rows = [json.loads(line) for line in self.record.read_text().splitlines() if line.endswith("}")]
        return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]

    def adverts(self, node, since=0, zero=False, vrid=51):
        """Adverts of a node after a time, those with priority 0 or the others."""
        rows = self.seen(kind="advert", port=node.wire, vrid=vrid)
        return [row for row in rows if row["t"] > since and (row["priority"] == 0) == zero]

    def wait_advert(self, node, since, seconds=10, **how):
        """The first advert of a node after a time."""
        return wait_for(f"an advert of {node.name}", lambda: self.adverts(node, since, **how), seconds)[0]

    def spoken(self, node, since, vips=(VIP, VIP6, LINK_LOCAL)):
        """What a node sent about addresses after a time: answers and announcements; of rvsd also packets that it
        forwarded for them or sent in their name."""
        late = [row for kind in ("arp", "na") for vip in vips for row in self.seen(kind=kind, port=node.wire, addr=vip)]
        if node.device == "tf0":
            packets = self.seen(kind="packet", port=node.wire)
            late += [row for row in packets if row["src"] in vips or row["dst"] in vips]
        return [row for row in late if row["t"] > since]

    def takeover(self, old, new, since, expected, slack=0.5, vrid=51):
        """Checks that `new` took over in time after what happened at `since`, and that `old` fell silent before.
        Returns the seconds from the old node's last word to the new one's first."""
        first = self.wait_advert(new, since, expected + slack + 5, vrid=vrid)["t"]
        # The last word of the old one: an advert, or that it gives up.
        words = self.adverts(old, 0, vrid=vrid) + self.adverts(old, 0, True, vrid=vrid)
        last = max(row["t"] for row in words if row["t"] <= first)
        took = first - last
        check(expected - 0.02 <= took <= expected + slack, f"{new.name} took over {took:.3f} s after the last word of {old.name}, expected {expected:.3f} s")
        time.sleep(0.2)
        late = self.adverts(old, first, vrid=vrid)
        late += self.spoken(old, first)
        check(not late, f"{old.name} spoke after {new.name} had taken over at {first}: {late[:4]}")
        return took


def instance(priority, interval="100ms", name="v", vrid=51, vips=(f"{VIP}/24",), extra="", rest=""):
    """An instance of rvsd on tf0."""
    listed = ", ".join(f'{{ addr = "{vip}" }}' for vip in vips)
    return (f'[[vrrp.instance]]\nname = "{name}"\ninterface = "tf0"\nvrid = {vrid}\npriority = {priority}\n'
            f'advert_int = "{interval}"\nvip = [{listed}]\n{extra}\n{rest}\n')


def peer(priority, interval=0.1, version=3, vips=(f"{VIP}/24",), extra="", vrid=51):
    """The same for keepalived, on f0."""
    listed = "\n".join(f"        {vip} dev f0" for vip in vips)
    return (f"vrrp_instance v {{\n    state BACKUP\n    interface f0\n    virtual_router_id {vrid}\n    priority {priority}\n"
            f"    version {version}\n    advert_int {interval}\n    {extra}\n    virtual_ipaddress {{\n{listed}\n    }}\n}}\n")


def down(priority, interval=0.1, version=3):
    """Seconds of silence after which a backup of this priority takes over."""
    return 3 * interval + skew(priority, interval, version)


def skew(priority, interval=0.1, version=3):
    return (256 - priority) / 256 * (interval if version == 3 else 1)
