"""PCI NICs bound to vfio-pci, in an emulated host with a virtual IOMMU and hugepages (guest/guest.py).

The balancer is the guest; client and servers stay in namespaces of this machine. The guest runs this
machine's own file tree, so `rvsd` and `rvsadm` there are the ones just built."""
import re
import sys

from lab import BIN, HERE, METHOD, REPO, VIPS, at, check, config_text, lasts, need_programs, network, port, wait_for

sys.path.insert(0, str(HERE / "guest"))
MODELS = ("virtio-net-pci", "e1000", "vmxnet3")


def nat_through(lab, balancer):
    for vip in VIPS["nat"]:
        balancer.adm(f"-A -t {at(vip, 80)} -s rr")
        for server in lab.servers:
            balancer.adm(f"-a -t {at(vip, 80)} -r {at(server.addr6 if ':' in vip else server.addr, 80)} {METHOD['nat']}")
        wait_for(f"an answer from {vip}", lambda: lab.client.curl(f"http://{at(vip, 80)}/", seconds=5), 30)
        lab.expect_all_servers(vip, 4)
        lab.download(vip, "1m", 90)
    rows = balancer.adm("-Ln --stats --exact")
    check(at(VIPS["nat"][0], 80) in rows, rows)


@lasts(900)
@network(servers=2)
def test_pci_ports(lab):
    """virtio, e1000 and vmxnet3 on vfio-pci: open, carry NAT over both families, and give the NIC back."""
    need_programs("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb")
    from balancer import GuestBalancer
    from guest import Guest, Nic
    lab.client.ip("neighbour flush all")
    nics = {}
    for number, (model, queues) in enumerate([*((model, 1) for model in MODELS), ("virtio-net-pci", 2)]):
        for side, bridge in enumerate(("front", "back")):
            tap = f"tap{number}{side}"
            lab.switch.ip(f"tuntap add {tap} mode tap" + (" multi_queue" if queues > 1 else ""))
            lab.switch.ip(f"link set {tap} master {bridge} up")
            slot = 0x10 + 2 * number + side
            name = model if queues == 1 else "several queues"
            nics.setdefault(name, []).append(Nic(model, tap, slot, f"02:00:00:00:10:{slot:02x}", queues))
    with Guest(lab.dir, [nic for pair in nics.values() for nic in pair], lab.switch) as guest, \
            GuestBalancer(guest) as balancer:
        in_the_guest(lab, guest, balancer, nics)


def in_the_guest(lab, guest, balancer, nics):
    guest.sh("modprobe tun; sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
    # Before anything is prepared: what is missing has to be said.
    from balancer import in_hugepages
    first = nics["virtio-net-pci"][0]
    text = in_hugepages(port("f0", f'pci = "{first.pci}"'))
    guest.sh(f"cat > /run/bare.toml <<'END'\n{text}\nEND")
    status, told = guest.run(f"{BIN}/rvsd --check-host --config /run/bare.toml", 60)
    check(status != 0 and "vm.nr_hugepages" in told and first.pci in told, f"--check-host on a bare host: exit {status}: {told}")
    status, told = guest.run(f"{BIN}/rvsd /run/bare.toml", 60)
    check(status not in (0, 101) and "vfio-pci" in told and first.pci in told, f"NIC not bound: exit {status}: {told}")
    guest.bind(first)
    status, told = guest.run(f"{BIN}/rvsd /run/bare.toml", 60)
    check(status not in (0, 101) and "nr_hugepages" in told, f"without hugepages: exit {status}: {told}")
    guest.hugepages(200)
    steered_by_nics(lab, guest, balancer, nics.pop("several queues"))
    for model, pair in nics.items():
        for nic in pair:
            guest.bind(nic)
        balancer.start(pair)
        wait_for(f"the link of both {model} ports", lambda: all(view["link"] for view in balancer.status()["ports"]), 30)
        nat_through(lab, balancer)
        drivers = ", ".join(view["driver"] for view in balancer.status()["ports"])
        balancer.stop()
        lab.client.ip("neighbour flush all")
        print(f"         {model}: {drivers}")
    # This kernel has what the outer one may lack: the tests marked @needs_guest_kernel run here.
    output = guest.run(f"cd {REPO} && RVS_BIN={BIN} RVS_PATIENCE=8 /usr/bin/python3 {HERE}/run.py --inside", 300)
    check(output[0] == 0 and " 0 failed, 0 skipped" in output[1], output[1])
    print("".join(f"         inside: {line}\n" for line in output[1].splitlines() if line.startswith("passed")), end="")


def steered_by_nics(lab, guest, balancer, pair):
    """Two workers on NICs with two queues: each packet comes to the worker that has its connection."""
    for nic in pair:
        guest.bind(nic)
    balancer.start(pair, faces=("clients", "servers"), worker="cores = [0, 1]\nidle = \"adaptive\"")
    status = balancer.status()
    check(status["steering"].startswith("by the NICs"), f"steering: {status['steering']}")
    nat_through(lab, balancer)
    vip = VIPS["nat"][0]
    workers = balancer.status()["workers"]
    for _ in range(20):
        lab.client.curl(f"http://{at(vip, 80)}/", seconds=5)
    lab.download(vip, "1m", 90)
    before, workers = workers, balancer.status()["workers"]
    handed = sum(new["handed_over"] - old["handed_over"] for new, old in zip(workers, before))
    check(handed == 0, f"{handed} packets handed over: {workers}")
    # Ports in a row go to both workers by turns.
    grown = [new["connections"] - old["connections"] for new, old in zip(workers, before)]
    check(min(grown) > 0, f"{grown} new connections: {before}, then {workers}")
    balancer.stop()
    lab.client.ip("neighbour flush all")
    print("         two queues: steered by the NICs, no packet handed over")


test_pci_ports.guest = True

URGENT = """
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("dtap0", 0))
wire.settimeout(1)
own, peer = bytes.fromhex("020000000009"), bytes(map(int, sys.argv[1].split(".")))
asks = b"\\xff" * 6 + own + bytes.fromhex("0806 0001 0800 06 04 0001") + own + bytes([10, 1, 0, 9]) + bytes(6) + peer
body = bytes.fromhex("31010100 00640000 0a010063")
head = bytearray(bytes.fromhex("45c0 0020 0000 0000 ff70 0000") + bytes([10, 1, 0, 9]) + bytes([224, 0, 0, 18]))
words = sum(int.from_bytes(head[i:i + 2], "big") for i in range(0, 20, 2))
head[10:12] = (~(words % 0xffff) & 0xffff).to_bytes(2, "big")
advert = bytes.fromhex("01005e000012") + own + bytes.fromhex("0800") + bytes(head) + body
for _ in range(20):
    wire.send(asks)
    wire.send(advert)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            frame = wire.recv(2048)
        except TimeoutError:
            break
        if frame[12:14] == b"\\x08\\x06" and frame[20:22] == b"\\x00\\x02" and frame[:6] == own:
            sys.exit(0)
sys.exit("no answer")
"""


@lasts(400)
@network(servers=1)
def test_urgent_frames(lab):
    """A port with flow rules (net_tap) has a queue of its own for ARP and VRRP, and what comes by it is answered."""
    need_programs("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", "tc")
    from balancer import SOCKET, GuestBalancer
    from guest import Guest
    with Guest(lab.dir, space=lab.switch, iommu=False) as guest, GuestBalancer(guest) as balancer:
        guest.sh("for module in tun sch_multiq sch_ingress cls_flower act_skbedit; do modprobe $module; done")
        for word, has in (("all", True), ("auto", False)):
            ports = port("f0", f'vdev = "net_tap0,iface=dtap0"\noffloads = "{word}"') + port("b0", "null = {}")
            balancer.launch(config_text(SOCKET, "rvs", ports, worker='idle = "adaptive"'))
            front = balancer.status()["ports"][0]
            log = guest.run("cat /run/rvsd.log")[1]
            check(("urgent-queue" in front["offloads"]) == has, f"{word}: {front['offloads']}\n{log}")
            guest.sh("ip link set dtap0 up; ip link set tf0 up; ip address add 10.1.0.1/24 dev tf0")
            status, output = guest.run(f"python3 - 10.1.0.1 <<'END'\n{URGENT}\nEND", 60)
            check(status == 0, f"{word}: no answer to ARP: {output}\n{log}")
            if has:
                check("kept for arp, vrrp" in log, log)
                rules = guest.sh("tc -s filter show dev dtap0")
                hits = [int(n) for n in re.findall(r"queue_mapping 1.*?Sent \d+ bytes (\d+) pkt", rules, re.S)]
                check(len(hits) >= 2 and sum(n > 0 for n in hits) >= 2, rules)
            balancer.stop()


test_urgent_frames.guest = True
