"""The kernel's IPVS in the guest, packet by packet.

             10.1.0.0/24  fd01::/64                  10.2.0.0/24  fd02::/64
    clients ── gateway .254 ══ eth0 [ guest ] eth1 ══ servers .11, .12 ... ::11, ::12 ...

This program plays all machines around the guest: frames go over Unix sockets (guest.Wire), so nothing of this
machine's network takes part. After each packet a ping goes through the NIC that it came by and, once that was answered,
one through the other: the guest has one CPU and its queues keep their order, so whatever the packet caused is out by
then. No time-outs are involved, and a sequence of packets has the same outcome each time.
"""
import os
import select
import socket
import time

from guest import Guest, Wire
from lab import Failure, PATIENCE, wait_for
from packages import ipvsadm
import wire

SIDES = (("10.1.0.", "fd01::"), ("10.2.0.", "fd02::"))
MACS = (bytes.fromhex("525400000001"), bytes.fromhex("525400000002"))
GATEWAY = ("10.1.0.254", "fd01::fe")
SERVERS = range(11, 23)
VIPS = [f"10.9.0.{number}" for number in range(1, 9)] + [f"fd09::{number}" for number in range(1, 5)]
# Defence modes are looked at every second.
DEFENCE = 1.1
# Values of am_droprate in scenarios, rising.
RATES = (1, 2, 3, 5)
# Prefix that the fences' payload begins with.
FENCE = b"rvs fence "
SCHEDULERS = "rr wrr lc wlc sed nq dh sh lblc lblcr fo ovf mh".split()
# Said by ipvsadm when asked to end what does not run: marks the end of what a line before it had to say.
SENTINEL, SENTINEL_SAYS = "--stop-daemon master", "No daemon is running\n"


def server(number, family=4):
    return f"10.2.0.{number}" if family == 4 else f"fd02::{number}"


def network():
    """The same network for RVS (the form that the example `replay` reads)."""
    return {"ports": [{"mac": wire.print_mac(mac), "mtu": 1500, "addresses": [f"{v4}1/24", f"{v6}1/64"]} for mac, (v4, v6) in zip(MACS, SIDES)],
            "gateways": list(GATEWAY), "local": VIPS,
            "neighbours": [[0, gateway, wire.print_mac(wire.mac_of(GATEWAY[0]))] for gateway in GATEWAY] +
                          [[1, server(number, family), wire.print_mac(wire.mac_of(server(number, family)))] for number in SERVERS for family in (4, 6)]}


class Kernel:
    """`with Kernel(directory) as kernel:` boots the guest."""

    def __init__(self, directory):
        self.sockets, wires = [], []
        for number, mac in enumerate(MACS):
            ours, theirs = directory / f"ours{number}", directory / f"theirs{number}"
            end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            end.bind(str(ours))
            self.sockets.append((end, str(theirs)))
            wires.append(Wire(ours, theirs, wire.print_mac(mac)))
        self.argv, self.fences, self.sysctls, self.has_marks = ipvsadm(), 0, {}, False
        self.guest = Guest(directory, wires, memory=512, cpus=1, iommu=False)

    def __enter__(self):
        self.guest.__enter__()
        try:
            self.set_up()
        except BaseException:
            self.guest.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        self.guest.__exit__()
        for end, _ in self.sockets:
            end.close()

    def set_up(self):
        commands = [f"address add {vip}/{128 if ':' in vip else 32} dev lo" for vip in VIPS]
        for number, (v4, v6) in enumerate(SIDES):
            commands += [f"link set eth{number} up", f"address add {v4}1/24 dev eth{number}", f"address add {v6}1/64 dev eth{number} nodad"]
        for number, neighbour, mac in network()["neighbours"] + [[1, "10.2.0.254", wire.print_mac(wire.mac_of("10.2.0.254"))]]:
            commands.append(f"neighbour replace {neighbour} lladdr {mac} dev eth{number} nud permanent")
        commands += [f"route add default via {gateway}" for gateway in GATEWAY]
        modules = " ".join(f"ip_vs_{name}" for name in SCHEDULERS)
        self.guest.sh(f"""
            modprobe -a virtio_net ip_vs {modules} ip_vs_ftp ip_vs_pe_sip ipip ip_gre fou ip6_tunnel
            for device in all default eth0 eth1; do
                (cd /proc/sys/net/ipv6/conf/$device; echo 0 > accept_dad; echo 0 > router_solicitations; echo 0 > accept_ra; echo 1 > forwarding)
                (cd /proc/sys/net/ipv4/conf/$device; echo 0 > rp_filter; echo 0 > send_redirects)
            done
            cd /proc/sys/net
            echo 1 > ipv4/ip_forward; echo 0 > ipv4/icmp_ratelimit; echo 1000000 > ipv4/icmp_msgs_per_sec; echo 1000000 > ipv4/icmp_msgs_burst; echo 0 > ipv6/icmp/ratelimit
            ip -batch - <<'END'\n""" + "\n".join(commands) + "\nEND\n"
            # One queue for all: the default one lets packets with some TOS values pass others.
            "for device in eth0 eth1; do tc qdisc replace dev $device root pfifo limit 1000; done")
        names = self.guest.sh("cd /proc/sys/net/ipv4/vs; grep -H . * 2>/dev/null")
        self.defaults = dict(line.split(":", 1) for line in names.splitlines())
        wait_for("a ping through the guest", self._alive, 20)

    def _alive(self):
        self.drain(0.2)
        try:
            self.fence(0.5)
        except Failure:
            return False
        return True

    # ---- rules -----------------------------------------------------------------------------

    def ipvsadm(self, *lines):
        """Carries out lines of `ipvsadm -R`; returns for each what it said (nothing when it worked)."""
        return [self._line(line) for line in lines]

    def _line(self, line):
        answer = self.guest.ask(tell="ipvsadm", argv=[*self.argv, "-R"], text=f"{line}\n{SENTINEL}\n", until=SENTINEL_SAYS)
        if "error" in answer:
            raise Failure(f"ipvsadm {line}: {answer['error']}")
        return answer["output"].removesuffix(SENTINEL_SAYS)

    def program(self, *arguments, stdin=""):
        """One run of ipvsadm: (status, output)."""
        return tuple(self.guest.ask(calls=[[*self.argv, *arguments]], stdin=stdin)["results"][0])

    def mark(self, number, protocol, addr, port):
        """Packets to there get this mark before anything else sees them."""
        family = "ip6" if ":" in addr else "ip"
        rule = f"{family} daddr {addr} {protocol} dport {port} meta mark set {number}"
        self.guest.sh(f"nft 'add table inet rvs; add chain inet rvs marks {{ type filter hook prerouting priority -150; }}; add rule inet rvs marks {rule}'")
        self.has_marks = True

    def restart_drops(self):
        """The first packet that drop_packet sees is the one that it drops: the kernel goes on counting where it was. With
        a rate of 1 it drops each once what it counted down from is used up, and begins again then."""
        self.sysctl(am_droprate=1, drop_packet=3)
        time.sleep(DEFENCE)
        service, source = f"{VIPS[0]}:1", "10.1.0.254"
        self.ipvsadm(f"-A -u {service} -s rr")
        packet = wire.ip(source, VIPS[0], wire.UDP, wire.udp(source, 1, VIPS[0], 1))
        # What is not dropped is answered: the service has no server.
        for _ in range(RATES[-1] + 1):
            if not self.inject(0, wire.ethernet(MACS[0], wire.mac_of(source), packet)):
                break
        else:
            raise Failure("drop_packet 3 with am_droprate 1 does not drop packets")
        self.ipvsadm(f"-D -u {service}")
        self.sysctl(drop_packet=0, am_droprate=int(self.defaults["am_droprate"]))

    def sysctl(self, **values):
        answer = self.guest.ask(write=[[f"/proc/sys/net/ipv4/vs/{name}", f"{value}\n"] for name, value in values.items()], files=[])
        if "error" in answer:
            raise Failure(f"sysctl {values}: {answer['error']}")
        self.sysctls |= values

    @staticmethod
    def tick():
        """What is to end at once ends with the next tick: 4 ms."""
        time.sleep(0.012)

    def tables(self):
        """/proc/net/ip_vs and /proc/net/ip_vs_conn, as text."""
        self.tick()
        return self.guest.ask(files=["/proc/net/ip_vs", "/proc/net/ip_vs_conn"])["files"]

    def reset(self):
        """No rule, no connection, no setting is left. Connections go with their servers when expire_nodest_conn is
        set; deleting one more server looks through the table again, for templates that had connections before."""
        self.sysctl(expire_nodest_conn=1)
        if self.has_marks:
            self.guest.sh("nft delete table inet rvs")
            self.has_marks = False
        self.ipvsadm("-C", "--set 900 120 300")

        def empty():
            if len(self.tables()[1].splitlines()) <= 1:
                return True
            dummy = f"-t {VIPS[0]}:1"
            self.ipvsadm(f"-A {dummy}", f"-a {dummy} -r {server(22)}:1", f"-D {dummy}")
            time.sleep(0.01)
        wait_for("the connection table to be empty", empty, 10)
        self.sysctl(**({name: self.defaults[name] for name in self.sysctls} | {"expire_nodest_conn": 0}))
        if {"drop_packet", "secure_tcp"} & set(self.sysctls):
            time.sleep(DEFENCE)
        self.sysctls.clear()

    # ---- frames ----------------------------------------------------------------------------

    def send(self, side, frame):
        end, peer = self.sockets[side]
        end.sendto(frame, peer)

    def drain(self, seconds):
        """Throws away what comes out within so many seconds of silence."""
        while select.select([end for end, _ in self.sockets], [], [], seconds)[0]:
            for end, _ in self.sockets:
                if select.select([end], [], [], 0)[0]:
                    end.recv(65536)

    def fence(self, seconds=5, first=0):
        """Waits until everything sent before has had its effect; returns the frames that came out, [(side, frame)]."""
        out = []
        for side in (first, 1 - first):
            v4 = SIDES[side][0]
            self.fences += 1
            mark = FENCE + str(self.fences).encode() + b";"
            source = v4 + "254"
            echo = wire.icmp(source, v4 + "1", 8, 0, 0, mark)
            self.send(side, wire.ethernet(MACS[side], wire.mac_of(source), wire.ip(source, v4 + "1", wire.ICMP, echo)))
            deadline, back = time.monotonic() + seconds * PATIENCE, False
            while not back:
                ready = select.select([end for end, _ in self.sockets], [], [], max(0, deadline - time.monotonic()))[0]
                if not ready:
                    raise Failure("a ping through the guest was lost\n" + self.guest.console())
                for at, (end, _) in enumerate(self.sockets):
                    if end in ready:
                        frame = end.recv(65536)
                        if FENCE in frame:
                            back |= mark in frame
                        elif not is_chatter(frame):
                            out.append((at, frame))
        return out

    def inject(self, side, frame):
        """One frame in; the frames that come out because of it."""
        self.send(side, frame)
        return self.fence(first=side)


def is_chatter(frame):
    """ARP, neighbour discovery and group membership, which the guest says by itself."""
    kind = frame[12:14]
    if kind not in (b"\x08\0", b"\x86\xdd"):
        return True
    packet = wire.read(frame)
    if packet["proto"] in (0, 2):
        return True
    return packet["proto"] == wire.ICMP6 and packet.get("icmp", (0,))[0] in (133, 134, 135, 136, 143)
