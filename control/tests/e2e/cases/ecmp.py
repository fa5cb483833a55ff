"""Two equal nodes behind a router that spreads flows over them: flows go on where the router moves them.

    client 10.5.0.2 ── router 10.1.0.254 ── front ══ nodes one (10.1.0.3), two (10.1.0.4) ══ back ── servers

The nodes run configs/ecmp-node.toml with the services of the lab's DR addresses, which they have on lo; answers leave the
servers by d0 to the router.
"""
import functools
import os
import pwd
import re

from failover import two_nodes
from lab import DIRECT_TABLE, REPO, VIPS, Lab, at, check, in_lab, lasts, need_programs, paced, payload_sum, wait_for

ROUTER = ("10.1.0.254", "fd01::fe")
ADDRESSES = VIPS["dr"]


class Ecmp(Lab):
    def build_balancers(self):
        self.one, self.two = self.nodes = two_nodes(self, {"one": "ecmp-node.toml", "two": "ecmp-node.toml"})

    def build(self):
        super().build()
        self.router = self.space("router")
        self.router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.fib_multipath_hash_policy=1 "
                       "net.ipv6.fib_multipath_hash_policy=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0")
        self.cable(self.router, "r0", "front", *(f"{addr}/{length}" for addr, length in zip(ROUTER, (24, 64))))
        self.router.batch(f"link add c0 type veth peer name r0 netns {self.client.name}")
        for space, device, number in ((self.router, "c0", 1), (self.client, "r0", 2)):
            space.run(f"ethtool -K {device} tx off")
            space.batch(f"link set {device} up", f"address add 10.5.0.{number}/24 dev {device}", f"address add fd05::{number}/64 dev {device} nodad")
        self.client.batch(*(f"route add {vip} via {via}" for vip, via in zip(ADDRESSES, ("10.5.0.1", "fd05::1"))))
        for server in self.servers:
            server.batch(*(f"route add default via {via} dev d0 onlink table {DIRECT_TABLE}" for via in ROUTER))

    def start(self, edit=lambda node, text: text):
        for node in self.nodes:
            node.space.batch(*(f"address add {vip} dev lo" for vip in ADDRESSES))
            node.configure(functools.partial(edit, node))
            node.start()
            node.space.batch(*(f"route replace default via {via} dev rvs-front" for via in ROUTER))
        for node in self.nodes:
            wait_for(f"all servers of {node.name}", lambda node=node: len(re.findall(r"Route +1 ", node.adm("-Ln"))) == 4, 20)

    def spread(self, *nodes):
        """The router's routes to the virtual addresses, by these nodes."""
        for vip, own in zip(ADDRESSES, ("10.1.0.{}", "fd01::{}")):
            hops = " ".join(f"nexthop via {own.format(node.number)} dev r0" for node in nodes)
            self.router.ip(f"route replace {vip} {hops}")

    def ways(self, vip):
        """Numbers of the nodes that the router sends packets for an address to."""
        routes = self.router.ip(f"-{6 if ':' in vip else 4} -details route show {vip}")
        macs = {line.split()[0]: line for line in self.router.ip("neighbour show dev r0").splitlines()}
        found = set()
        for node in self.nodes:
            own = [f"10.1.0.{node.number}", f"fd01::{node.number}"]
            mac = node.space.run("cat /sys/class/net/rvs-front/address").stdout.strip()
            # BGP may give the node's link-local address.
            own += [addr for addr, line in macs.items() if mac in line]
            if any(f"via {addr} " in routes for addr in own):
                found.add(node.number)
        return found

    def downloads(self, each, rate, size="10m"):
        """So many of each address, at a pace that the server keeps."""
        loads = []
        for number in range(each):
            for vip in ADDRESSES:
                command = f"curl -gsSf -m 200 '{paced(vip, rate, size)}' | sha256sum"
                loads.append(self.client.spawn(["sh", "-c", command], f"download{number}"))
        return loads

    def whole(self, loads, size="10m"):
        for load in loads:
            load.wait(60)
            check(load.output().split()[:1] == [payload_sum(size)], f"a download: {load.output()[-200:]}")

    def crossed(self, node):
        """Packets from clients that a node has forwarded."""
        rows = [line.split() for line in node.adm("-Ln --stats --exact").splitlines() if line.startswith("TCP")]
        return [int(row[3]) for row in rows]

    def dump(self):
        text = [super().dump()]
        for node in self.nodes:
            for arguments in ("-Ln", "-Ln --stats --exact", "health", "-L --daemon --json"):
                if node.program and node.program.running():
                    result = node.adm_result(arguments)
                    text.append(f"---- {node.name}: rvsadm {arguments}\n{result.stdout}{result.stderr}")
        return "\n".join(text)


in_ecmp = in_lab(lambda: Ecmp(servers=2))


def without_scripts(node, text):
    """The route is this test's own."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(("[service.notify]", "quorum_", "user =")))


@lasts(240)
@in_ecmp
def test_a_flow_goes_on_at_another_node(lab, one, two):
    """DR with mh and sync between two nodes, IPv4 and IPv6: the router moves all flows to one node, then to the other."""
    lab.start(without_scripts)
    lab.spread(one, two)
    for vip in ADDRESSES:
        wait_for(f"{vip} to answer", lambda vip=vip: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2).startswith("server"), 20)
    loads = lab.downloads(4, "400k")
    wait_for("packets through both nodes", lambda: all(sum(lab.crossed(node)) > 40 for node in lab.nodes), 20)
    wait_for("both nodes to know all downloads", lambda: len(one.known()) >= len(loads) and one.known() == two.known(), 20)
    for alone, other in ((two, one), (one, two)):
        check(all(load.running() for load in loads), "downloads that are over say nothing about the move")
        lab.spread(alone)
        before = lab.crossed(alone)
        wait_for(f"packets of all flows through node {alone.name}", lambda: all(new - old > 100 for new, old in zip(lab.crossed(alone), before)), 20)
        quiet = lab.crossed(other)
        check(max(new - old for new, old in zip(lab.crossed(other), quiet)) == 0, f"packets still cross node {other.name}")
    lab.whole(loads)


def bird(lab, space, config, *options):
    """BIRD in a namespace, as Debian's unit runs it; its files are in a directory that belongs to its user."""
    directory = lab.dir / f"bird.{space.short}"
    directory.mkdir()
    user = pwd.getpwnam("bird")
    os.chown(directory, user.pw_uid, user.pw_gid)
    file = directory / "bird.conf"
    file.write_text(config.replace("log syslog all;", "log stderr all;").replace("/run/bird", str(directory)))
    argv = ["bird", "-f", "-u", "bird", "-g", "bird", "-c", file, "-s", directory / "bird.ctl", "-P", directory / "bird.pid"]
    program = space.spawn(argv, f"bird.{space.short}")
    wait_for(f"BIRD of {space.short}", lambda: Lab._died(program) or (directory / "bird.ctl").exists())
    return directory


def router_config(nodes):
    text = f"log syslog all;\nrouter id {ROUTER[0]};\nprotocol device {{}}\n"
    for family in (4, 6):
        text += f"protocol kernel kernel{family} {{ ipv{family} {{ import none; export all; }}; merge paths on; }}\n"
    text += "template bgp node { local as 65000; connect delay time 1; connect retry time 2; error wait time 1, 2; }\n"
    for node in nodes:
        for family, own in ((4, f"10.1.0.{node.number}"), (6, f"fd01::{node.number}")):
            text += f"protocol bgp {node.name}{family} from node {{ neighbor {own} as 65001; ipv{family} {{ import all; export none; }}; }}\n"
    return text


@lasts(400)
@in_ecmp
def test_bird_announces_what_has_a_quorum(lab, one, two):
    """BIRD on the twins: a route is there while its service has a quorum, and goes with it, a drain, a stop and a crash."""
    need_programs("bird", "birdc")

    def with_bird(node, text):
        config = (REPO / "configs/ecmp-bird.conf").read_text()
        for old, new in (("router id 10.1.0.3;", f"router id 10.1.0.{node.number};"), ("hold time 9;", "hold time 3;"), ("keepalive time 3;", "keepalive time 1;")):
            check(config.count(old) == 1, f"ecmp-bird.conf has {config.count(old)} lines {old}")
            config = config.replace(old, new)
        directory = bird(lab, node.space, config)
        script = directory / "ecmp-announce"
        script.write_text((REPO / "configs/ecmp-announce").read_text().replace("/run/bird", str(directory)))
        script.chmod(0o755)
        return text.replace("/etc/rvs/ecmp-announce", str(script))
    bird(lab, lab.router, router_config(lab.nodes))
    lab.start(with_bird)

    def routed(what, *nodes):
        """The router sends both families to these nodes, and every download goes on."""
        want = {node.number for node in nodes}
        wait_for(f"{what}: routes by {want}", lambda: all(lab.ways(vip) == want for vip in ADDRESSES), 30)
        for vip in ADDRESSES:
            wait_for(f"{vip} to answer", lambda vip=vip: lab.client.curl(f"http://{at(vip, 80)}/", seconds=3).startswith("server"), 20)
        print(f"         {what}: routes by {sorted(want)}")
    routed("both have a quorum", one, two)
    loads = lab.downloads(2, "200k")
    wait_for("both nodes to know all downloads", lambda: len(one.known()) >= len(loads) and one.known() >= two.known(), 20)
    lab.switch.ip(f"link set {one.name}.b0 down")
    routed("node one reaches no server", two)
    lab.switch.ip(f"link set {one.name}.b0 up")
    routed("it reaches them again", one, two)
    for server in lab.servers:
        for real in (server.addr, server.addr6):
            two.adm(f"drain {real} --no-wait")
    routed("all servers are drained at node two", one)
    for server in lab.servers:
        for real in (server.addr, server.addr6):
            two.adm(f"undrain {real}")
    routed("they are not any more", one, two)
    one.stop()
    routed("node one is stopped", two)
    one.start()
    routed("it is started again", one, two)
    two.crash()
    routed("kill -9 of node two", one)
    two.start()
    routed("it is started again", one, two)
    check(all(load.running() or load.output().split()[:1] == [payload_sum("10m")] for load in loads), "a download was lost on the way")
    lab.whole(loads)
