"""A load balancer of the kernel's IPVS and one of RVS as a pair: real connections go on through the other one.

The kernel's is the emulated host (guest/guest.py) with a NIC on each bridge of the lab, and a third one on the bridge
`sync`, where the node of RVS has y0. Who is active has the addresses of the lab; the other one has none.
"""
import shlex
import sys

from cases.sync import established, rows, services, similar
from lab import HERE, VIPS, address_commands, at, check, lasts, need_programs, network, paced, payload_sum, wait_for

sys.path.insert(0, str(HERE / "guest"))
SYNCID = 7
DOWNLOADS = 2


class KernelNode:
    """The guest as a load balancer, with the rules of the NAT services."""

    def __init__(self, lab, guest):
        from packages import ipvsadm
        self.lab, self.guest, self.argv = lab, guest, shlex.join(map(str, ipvsadm()))
        guest.sh("""
            modprobe -a virtio_net ip_vs ip_vs_rr
            for device in all default eth0 eth1 eth2; do
                (cd /proc/sys/net/ipv6/conf/$device; echo 0 > accept_dad; echo 0 > router_solicitations; echo 0 > accept_ra; echo 1 > forwarding)
                (cd /proc/sys/net/ipv4/conf/$device; echo 0 > rp_filter; echo 0 > send_redirects)
            done
            echo 1 > /proc/sys/net/ipv4/ip_forward
            ip address add 10.3.0.2/24 dev eth2; ip link set eth2 up""")
        for vip in VIPS["nat"]:
            self.adm(f"-A -t {at(vip, 80)} -s rr")
            for server in lab.servers:
                self.adm(f"-a -t {at(vip, 80)} -r {at(server.addr6 if ':' in vip else server.addr, 80)} -m")

    def adm(self, arguments):
        return self.guest.sh(f"{self.argv} {arguments}")

    def activate(self):
        self.guest.sh("ip -batch - <<'END'\n" + "\n".join(["link set eth0 up", "link set eth1 up", *address_commands("eth0", "eth1")]) + "\nEND")

    def unplug(self):
        """As if it had died: nothing comes out of it any more."""
        self.guest.sh("for device in eth0 eth1; do ip address flush dev $device; ip link set $device down; done")


class RvsNode:
    """rvsd in the lab's own balancer, started without the addresses."""

    def __init__(self, lab):
        self.lab = lab
        lab.start(addresses=False, services=services(lab))

    def adm(self, arguments):
        return self.lab.adm(arguments)

    def activate(self):
        for device in ("f0", "b0"):
            self.lab.lb.ip(f"link set {device} up")
        self.lab.put_addresses()

    def unplug(self):
        self.lab.lb.batch("link set f0 down", "link set b0 down")


def handed_over(lab, active, successor, interfaces):
    """Downloads that begin through the active node, which announces them, end through its successor."""
    active.adm(f"--start-daemon master --mcast-interface {interfaces[0]} --syncid {SYNCID}")
    successor.adm(f"--start-daemon backup --mcast-interface {interfaces[1]} --syncid {SYNCID}")
    for vip in VIPS["nat"]:
        wait_for(f"{vip} to answer", lambda vip=vip: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2).startswith("server"), 20)
    loads = []
    for number in range(DOWNLOADS):
        for vip in VIPS["nat"]:
            command = f"curl -gsSf -m 300 '{paced(vip, '200k')}' | sha256sum"
            loads.append(lab.client.spawn(["sh", "-c", command], f"download{number}"))

    def same():
        """The successor lists the downloads as the active node does: in the same state, with about as much time."""
        ours = {ends: row for ends, row in rows(active.adm("-Lnc")).items() if row[0] == "ESTABLISHED"}
        theirs = {ends: row for ends, row in rows(successor.adm("-Lnc")).items() if ends in ours}
        return len(ours) == len(loads) and similar(theirs, ours) and ours
    ours = wait_for("the successor to list what the active node does", same, 30)
    check(all(load.running() for load in loads), "downloads that are over say nothing about the take-over")
    active.unplug()
    successor.activate()
    forget_neighbours(lab)
    for load in loads:
        load.wait(200)
        check(load.output().split()[:1] == [payload_sum("10m")], f"a download across the take-over: {load.output()[-200:]}")
    # They ended here: the successor sees their last packets.
    wait_for("the successor to see all of them end", lambda: not established(successor.adm("-Lnc")) & ours.keys(), 10)
    for vip in VIPS["nat"]:
        lab.expect_all_servers(vip)
    active.adm("--stop-daemon master")
    successor.adm("--stop-daemon backup")


def forget_neighbours(lab):
    """What a takeover's gratuitous ARP does otherwise."""
    for space in (lab.client, *lab.servers):
        for family in (4, 6):
            space.ip(f"-{family} neigh flush all")


@lasts(600)
@network(servers=2)
def test_take_over(lab):
    """Downloads begun through the kernel's IPVS end through RVS, and those begun through RVS through the kernel's IPVS."""
    need_programs("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", "apt-get")
    from guest import Guest, Nic
    lab.switch.batch("link add sync type bridge mcast_snooping 0 forward_delay 0", "link set sync up")
    lab.cable(lab.lb, "y0", "sync", "10.3.0.1/24")
    nics = []
    for number, bridge in enumerate(("front", "back", "sync")):
        lab.switch.batch(f"tuntap add tap{number} mode tap", f"link set tap{number} master {bridge} up")
        nics.append(Nic("virtio-net-pci", f"tap{number}", 0x10 + number, f"02:00:00:00:20:{number:02x}"))
    with Guest(lab.dir, nics, lab.switch, memory=512, cpus=1, iommu=False) as guest:
        kernel, rvs = KernelNode(lab, guest), RvsNode(lab)
        kernel.activate()
        handed_over(lab, kernel, rvs, ("eth2", "y0"))
        print("         kernel to RVS: every download ended whole")
        handed_over(lab, rvs, kernel, ("y0", "eth2"))
        print("         RVS to kernel: every download ended whole")


test_take_over.guest = True
