"""Memory of workers on a machine with two NUMA nodes, which is an emulated host (guest/guest.py)."""
import sys

from lab import HERE, check, lasts, need_programs, network, port

sys.path.insert(0, str(HERE / "guest"))


def placed(guest, pid):
    """What rvsd has placed by a rule of its own, the connection table: (rule, {node: KiB}) of each mapping."""
    found = []
    for line in guest.sh(f"cat /proc/{pid}/numa_maps").splitlines():
        words = line.split()
        if not words[1].startswith("prefer"):
            continue
        values = dict(word.split("=", 1) for word in words[2:] if "=" in word)
        size = int(values["kernelpagesize_kB"])
        found.append((words[1], {name[1:]: int(count) * size for name, count in values.items() if name[0] == "N" and name[1:].isdigit()}))
    return found


@lasts(400)
@network(servers=1)
def test_memory_on_two_nodes(lab):
    """Each worker's part of the table, and its pool of buffers, is on the node of its core; a far NIC is told."""
    need_programs("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb")
    from balancer import GuestBalancer, in_hugepages
    from guest import Guest
    with Guest(lab.dir, space=lab.switch, iommu=False, nodes=2) as guest, GuestBalancer(guest) as balancer:
        guest.sh("modprobe tun")
        guest.sh("for n in 0 1; do echo 220 > /sys/devices/system/node/node$n/hugepages/hugepages-2048kB/nr_hugepages; done")
        ports = port("f0", "null = {}") + port("b0", "null = {}")
        balancer.launch(in_hugepages(ports, worker='cores = [0, 1]\nidle = "adaptive"\nconnections = 1000000'))
        status = balancer.status()
        check([worker["node"] for worker in status["workers"]] == [0, 1], f"workers: {status['workers']}")
        pools = sorted((pool["name"], pool["node"]) for pool in status["buffers"])
        check(pools == [("rvs-0", 0), ("rvs-1", 1)], f"pools: {pools}")
        shown = balancer.adm("status")
        check("NUMA node 0  core 0" in shown and "NUMA node 1  core 1" in shown, shown)
        table = placed(guest, balancer.pid())
        wrong = [(rule, on) for rule, on in table for node in on if not rule.endswith(f":{node}")]
        kib = [sum(on.get(node, 0) for _, on in table) for node in ("0", "1")]
        print(f"         table: {kib} KiB by node, {len(table)} stretches")
        check(len(table) >= 2 and min(kib) > 20_000 and not wrong, f"elsewhere: {wrong[:5]}")
        balancer.stop()


test_memory_on_two_nodes.guest = True
