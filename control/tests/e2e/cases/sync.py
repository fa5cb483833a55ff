"""Connection synchronisation: a standby takes over the connections of a node that died, and kernels understand us.

The nodes talk over y0, a cable of their own between namespaces, 10.3.0.1 and .2.
"""
import json
import re
import signal
import time

from lab import (AF_PACKET_PORTS, BIN, PREFIX, VIPS, address_commands, at, check, config_text,
                 family_of, lasts, paced, payload_sum, run, server_addr, service_text, wait_for)

GROUP, PORT, SYNCID = "224.0.0.81", 8848, 7


def link(lab, other):
    """The cable between the balancer's namespace and another one."""
    lab.lb.batch(f"link add y0 type veth peer name y0 netns {other.name}")
    for number, space in enumerate((lab.lb, other), 1):
        space.batch(f"address add 10.3.0.{number}/24 dev y0", "link set y0 up")


def sync(role, key=None):
    text = f'\n[sync]\nrole = "{role}"\ninterface = "y0"\nsyncid = {SYNCID}\n'
    return text + (f'key_file = "{key}"\n' if key else "")


def services(lab, mode="nat"):
    text = ""
    for vip in VIPS[mode]:
        servers = [(server.addr if family_of(vip) == 4 else server.addr6, 80, mode, 1) for server in lab.servers]
        text += service_text("tcp", vip, 80, "rr", servers)
    return text


class Standby:
    """Another rvsd with the same services, in a namespace of its own. It has no addresses until it takes over."""

    def __init__(self, lab, key=None):
        self.lab, self.space = lab, lab.balancer_space("lb2")
        link(lab, self.space)
        self.socket, self.config = lab.dir / "standby.sock", lab.dir / "standby.toml"
        self.config.write_text(config_text(self.socket, PREFIX + "standby", AF_PACKET_PORTS, services(lab), extra=sync("backup", key)))

    def start(self):
        self.program = self.space.spawn([BIN / "rvsd", self.config], "standby")
        wait_for("the standby to answer", lambda: self.lab._died(self.program) or self.result("status").returncode == 0, 30)

    def result(self, arguments):
        return run([str(BIN / "rvsadm"), "--socket", str(self.socket), *arguments.split()], fail=False)

    def adm(self, arguments):
        result = self.result(arguments)
        check(result.returncode == 0, f"standby: rvsadm {arguments}: {result.stderr}")
        return result.stdout

    def take_over(self):
        """What VRRP does otherwise: the addresses come here, and everybody learns it."""
        for device in ("tf0", "tb0"):
            self.space.ip(f"link set {device} up")
        self.space.batch(*address_commands("tf0", "tb0"))
        for space in (self.lab.client, *self.lab.servers):
            for family in (4, 6):
                space.ip(f"-{family} neigh flush all")


def rows(listing):
    """{(client, virtual, server): (state, seconds left)} of `-Lnc`."""
    found = {}
    for line in listing.splitlines()[2:]:
        _, left, state, client, virtual, server = line.split()
        minutes, seconds = left.split(":")
        found[client, virtual, server] = (state, int(minutes) * 60 + int(seconds))
    return found


def established(listing):
    return {ends for ends, (state, _) in rows(listing).items() if state == "ESTABLISHED"}


@lasts(200)
def test_a_standby_goes_on(lab):
    """The active node is killed in the middle of downloads (NAT, IPv4 and IPv6); the standby finishes them."""
    lab.write_config(services=services(lab), extra=sync("master"))
    standby = Standby(lab)
    standby.start()
    lab.start()
    daemon = f"mcast=y0, syncid={SYNCID}, maxlen=1472, group={GROUP}, port={PORT}, ttl=1"
    check(lab.adm("-L --daemon") == f"master sync daemon ({daemon})\n", lab.adm("-L --daemon"))
    check(standby.adm("-L --daemon") == f"backup sync daemon ({daemon})\n", standby.adm("-L --daemon"))
    loads = []
    for number in range(4):
        for vip in VIPS["nat"]:
            command = f"curl -gsSf -m 150 '{paced(vip, '700k')}' | sha256sum"
            loads.append(lab.client.spawn(["sh", "-c", command], f"download{number}"))
    def announced():
        # A download that curl does not slow down may be over already.
        listing = lab.adm("-Lnc")
        active, there = established(listing), established(standby.adm("-Lnc"))
        return len(rows(listing)) == len(loads) and len(active) > len(loads) // 2 and active == there
    wait_for("the standby to know all connections", announced, 20)
    counts = {server.number: sum(f"{real}:80" in ends[2] or f"[{real}]:80" in ends[2] for ends in established(standby.adm("-Lnc"))
                                 for real in (server.addr, server.addr6)) for server in lab.servers}
    check(all(0 < count <= len(loads) // len(lab.servers) for count in counts.values()), f"connections by server: {counts}")
    listed = standby.adm("-Ln")
    check(re.search(r"-> 10\.2\.0\.11:80 +Masq +1 +[12] ", listed), f"bound and counted active:\n{listed}")
    check(sum(load.running() for load in loads) > len(loads) // 2, "downloads that are over say nothing about the take-over")
    lab.rvsd.signal(signal.SIGKILL)
    lab.rvsd.wait()
    lab.lb.batch("link set f0 down", "link set b0 down")
    standby.take_over()
    for load in loads:
        load.wait(120)
        check(load.output().split()[:1] == [payload_sum("10m")], f"a download across the take-over: {load.output()[-200:]}")
    # And it balances what comes new.
    for vip in VIPS["nat"]:
        names = sorted({lab.client.curl(f"http://{at(vip, 80)}/") for _ in range(4)})
        check(names == [f"server {server.number}" for server in lab.servers], f"{vip}: {names}")


@lasts(120)
def test_the_interface_goes_and_comes_back(lab):
    """Sealed messages; the cable is removed and made anew, and set down and up: both daemons say so and go on. Then without
    a group."""
    key = lab.dir / "sync.key"
    key.write_text("no more than a test of 32 bytes.\n")
    key.chmod(0o600)
    lab.write_config(services=services(lab), extra=sync("master", key))
    standby = Standby(lab, key)
    standby.start()
    lab.start()
    vip = VIPS["nat"][0]

    def daemon(adm):
        view, = json.loads(adm("-L --daemon --json"))["daemons"]
        return view

    def told(what):
        before = daemon(standby.adm)["entries"]
        lab.client.curl(f"http://{at(vip, 80)}/")
        wait_for(f"the standby to be told, {what}", lambda: daemon(standby.adm)["entries"] > before, 10)
    told("at first")
    lab.lb.batch("link del y0")
    for name, adm in (("master", lab.adm), ("backup", standby.adm)):
        wait_for(f"the {name} to miss its interface", lambda: daemon(adm)["cuts"] == 1, 10)
        check(f"the {name} daemon's interface y0 is not there" in adm("status"), adm("status"))
    lab.client.curl(f"http://{at(vip, 80)}/")
    link(lab, standby.space)
    for adm in (lab.adm, standby.adm):
        wait_for("the interface to be back", lambda: "y0 is not there" not in adm("status"), 10)
    told("after the cable was made anew")
    lab.lb.batch("link set y0 down")
    time.sleep(2)
    lab.lb.batch("link set y0 up")
    told("after the cable was down")
    for config, adm, peer in ((standby.config, standby.adm, "10.3.0.1"), (lab.config, lab.adm, "10.3.0.2")):
        config.write_text(config.read_text().replace("interface = \"y0\"\n", f'interface = "y0"\ngroup = "{peer}"\n'))
        adm("reload")
        check(daemon(adm)["group"] == peer, daemon(adm))
    told("from peer to peer")
    for adm in (lab.adm, standby.adm):
        view = daemon(adm)
        check(view["authenticated"] and not any(view[name] for name in ("unsigned", "forged", "stale", "replayed")), view)
    check("interface y0 is gone" in lab.rvsd.output() and "interface y0 is back" in lab.rvsd.output(), lab.rvsd.output()[-2000:])


def peer(text):
    """The one peer in `-L --daemon --json`, once it is there."""
    peers = [peer for daemon in json.loads(text)["daemons"] for peer in daemon["peers"]]
    return peers[0] if len(peers) == 1 else None


@lasts(120)
def test_a_standby_joins_late(lab):
    """A standby that starts later gets the whole table at once, also what was never announced; messages that are lost
    on the way are noticed and repaired; a link that is down raises an alarm and changes no role."""
    lab.write_config(services=services(lab), extra=sync("master") + "\n[ipvs]\nsync_threshold = 1000000\nsync_period = 0\n")
    standby = Standby(lab)
    lab.start()
    def load(count):
        for number in range(count):
            for vip in VIPS["nat"]:
                command = f"curl -gsSf -m 100 -o /dev/null '{paced(vip, '10k')}'"
                lab.client.spawn(["sh", "-c", command], "idle")
    load(5)
    wanted = 5 * len(VIPS["nat"])
    wait_for("downloads", lambda: len(established(lab.adm("-Lnc"))) == wanted, 20)
    standby.start()
    wait_for("the whole table", lambda: established(standby.adm("-Lnc")) == established(lab.adm("-Lnc")), 15)
    wait_for("the transfer to be counted", lambda: (peer(standby.adm("--json -L --daemon")) or {}).get("transfers") == 1, 10)
    found = peer(standby.adm("--json -L --daemon"))
    check(found["alive"] and found["complete"] and found["copied"] >= wanted and found["gaps"] == 0, f"{found}")
    check(peer(lab.adm("--json -L --daemon"))["alive"], "the master knows its backup")
    # From now on connections are announced, and nothing of that comes.
    drop = "add table inet x; add chain inet x in { type filter hook input priority 0; }; add rule inet x in udp dport 8848 drop"
    standby.space.run(["nft", drop])
    lab.adm("sysctl sync_threshold='3 50'")
    load(5)
    wait_for("more downloads", lambda: len(established(lab.adm("-Lnc"))) == 2 * wanted, 20)
    wait_for("a repair", lambda: peer(standby.adm("--json -L --daemon"))["repairs"] > 0, 15)
    wait_for("what was lost", lambda: established(standby.adm("-Lnc")) == established(lab.adm("-Lnc")), 10)
    found = peer(standby.adm("--json -L --daemon"))
    check(found["missed"] > 0 and found["transfers"] == 1, f"{found}")
    standby.space.run(["nft", "delete table inet x"])
    # The link goes.
    check("synchronisation" not in standby.adm("status"), standby.adm("status"))
    lab.lb.ip("link set y0 down")
    for node in (lab, standby):
        wait_for("the alarm", lambda: "nothing is heard of 10.3.0." in node.adm("status"), 15)
    check(standby.adm("-L --daemon").startswith("backup"), "its role stays")
    lab.lb.ip("link set y0 up")
    for node in (lab, standby):
        wait_for("the alarm to end", lambda: "synchronisation" not in node.adm("status"), 15)


@lasts(120)
def test_a_takeover_waits_for_the_table():
    """A node of higher priority leaves a living master alone until it has its table, and replaces one that dies at once."""
    import pair
    with pair.Pair() as lab:
        a, b = lab.nodes
        lab.private_cable()
        table = '[vrrp]\ntakeover_wait = "60s"\n'
        closed = "add table inet x; add chain inet x in { type filter hook input priority 0; }; add rule inet x in tcp dport 9848 reject with tcp reset"

        def start(node, priority):
            node.rvsd(table + pair.instance(priority), extra=sync("vrrp:v"))

        def stays_backup(seconds):
            a.expect("BACKUP")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                check(a.instance()["state"] == "BACKUP", f"it took over without the table: {a.adm('vrrp')}")
                time.sleep(0.1)
        try:
            start(b, 100)
            b.expect("MASTER")
            b.space.run(["nft", closed])
            start(a, 200)
            stays_backup(4)
            b.space.run(["nft", "delete table inet x"])
            a.expect("MASTER", seconds=20)
            b.expect("BACKUP")
            # The other way round: the master dies while its table cannot be had.
            a.stop()
            b.expect("MASTER")
            b.space.run(["nft", closed])
            a.start()
            stays_backup(2)
            b.crash()
            a.expect("MASTER", seconds=3)
        except BaseException:
            print(lab.dump())
            raise


def test_daemons_come_and_go(lab):
    """rvsadm starts, lists and stops daemons with ipvsadm's words; a reload follows [sync]."""
    other = lab.space("other")
    link(lab, other)
    lab.start()
    check(lab.adm("-L --daemon") == "", "none runs")
    lab.adm("--start-daemon backup --mcast-interface y0 --syncid 9 --sync-maxlen 1000 --mcast-group 239.1.1.1 --mcast-port 9999 --mcast-ttl 3")
    lab.adm("--start-daemon master --mcast-interface y0 --syncid 7")
    check(lab.adm("-Ln --daemon") == "master sync daemon (mcast=y0, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
          "backup sync daemon (mcast=y0, syncid=9, maxlen=1024, group=239.1.1.1, port=9999, ttl=3)\n", lab.adm("-Ln --daemon"))
    for arguments, words in (("--start-daemon master --mcast-interface y0", "Daemon has already run"),
                             ("--start-daemon master --mcast-interface nosuch0", "Daemon has already run")):
        result = lab.adm_result(arguments)
        check((result.returncode, result.stderr) == (255, words + "\n"), f"{arguments}: {result}")
    lab.adm("--stop-daemon master")
    lab.adm("--stop-daemon backup")
    result = lab.adm_result("--stop-daemon backup")
    check((result.returncode, result.stderr) == (255, "No daemon is running\n"), f"{result}")
    result = lab.adm_result("--start-daemon master --mcast-interface nosuch0")
    check((result.returncode, result.stderr) == (255, "No such device\n"), f"{result}")
    text = lab.config.read_text()
    lab.config.write_text(text + sync("both"))
    lab.adm("reload")
    check([line.split()[0] for line in lab.adm("-L --daemon").splitlines()] == ["master", "backup"], lab.adm("-L --daemon"))
    lab.config.write_text(text)
    lab.adm("reload")
    check(lab.adm("-L --daemon") == "", "the file asks for none any more")


def test_backup_only(lab):
    """While a backup runs, clients' packets are the host's if backup_only is set."""
    other = lab.space("other")
    link(lab, other)
    lab.start()
    vip, = lab.service("nat", families=(4,))
    lab.expect_all_servers(vip)
    lab.adm("sysctl backup_only=1")
    lab.expect_all_servers(vip)                     # no backup yet
    lab.adm(f"--start-daemon backup --mcast-interface y0 --syncid {SYNCID}")
    url = f"http://{at(vip, 80)}/"
    wait_for("the host to refuse", lambda: lab.client.run(f"curl -gsS -m 2 {url}", fail=False).returncode == 7, 10)
    lab.adm("--stop-daemon backup")
    wait_for("an answer", lambda: lab.client.curl(url, seconds=5), 10)
    lab.expect_all_servers(vip)


def guest():
    from cases.kernel import kernel
    return kernel()


def from_kernel(machine, seconds):
    """Synchronisation messages that the kernel sends within so many seconds."""
    import select
    end, found, deadline = machine.sockets[0][0], [], time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and select.select([end], [], [], left)[0]:
        frame = end.recv(65536)
        if frame[:6] == bytes.fromhex("01005e000051") and frame[23] == 17:
            found.append(frame[42:])
    return found


def similar(theirs, ours):
    """Whether both list the same connections in the same states, and times within some seconds."""
    return theirs.keys() == ours.keys() and all(theirs[key][0] == ours[key][0] and abs(theirs[key][1] - ours[key][1]) < 15 for key in theirs)


@lasts(400)
def test_kernel_and_rvs(lab):
    """The emulated kernel as master and RVS as its backup, then the other way round: both list the same connections."""
    machine = guest()
    import kernel as guest_kernel
    import wire
    other = lab.space("other")
    link(lab, other)
    lab.start()
    # The kernel announces.
    vip, real = "10.9.0.1", [server_addr(1), server_addr(2)]
    rules = [f"-A -t {vip}:80 -s rr -p 300 -M 255.255.255.0"] + [f"-a -t {vip}:80 -r {addr}:8080 -m" for addr in real]
    machine.ipvsadm(*rules)
    for rule in rules:
        lab.adm(rule)
    lab.adm(f"--start-daemon backup --mcast-interface y0 --syncid {SYNCID}")
    machine.sysctl(sync_threshold="2 10")
    status = machine.program("--start-daemon", "master", "--mcast-interface", "eth0", "--syncid", str(SYNCID))
    check(status == (0, ""), f"ipvsadm --start-daemon: {status}")
    try:
        gateway = guest_kernel.GATEWAY[0]
        for number in range(5):
            client, sport = f"10.5.{number}.1", 40000 + number
            for flags in ("S", "A", "A"):
                frames = machine.inject(0, wire.ethernet(guest_kernel.MACS[0], wire.mac_of(gateway), wire.ip(
                    client, vip, wire.TCP, wire.tcp(client, sport, vip, 80, flags))))
                if flags == "S":
                    server = next(wire.read(frame) for side, frame in frames if side == 1)
                    machine.inject(1, wire.ethernet(guest_kernel.MACS[1], wire.mac_of(server["dst"]), wire.ip(
                        server["dst"], client, wire.TCP, wire.tcp(server["dst"], 8080, client, sport, "SA"))))
        messages = from_kernel(machine, 6)
        check(messages, "the kernel's master said nothing")
        other.run(["/usr/bin/python3", "-I", "-S", lab.peers / "datagrams.py", "send", "y0", GROUP, PORT, *[m.hex() for m in messages]])
        theirs = rows(machine.program("-Lnc")[1])
        check(len(theirs) == 10 and {state for state, _ in theirs.values()} == {"ESTABLISHED", "ASSURED"}, f"the kernel has {theirs}")
        wait_for("RVS to list what the kernel does", lambda: similar(theirs, rows(lab.adm("-Lnc"))), 10)
        check(similar(theirs, rows(lab.adm("-Lnc"))), f"kernel {theirs}\nRVS {lab.adm('-Lnc')}")
        active = re.findall(r"Masq +\d+ +(\d+) +(\d+)", lab.adm("-Ln"))
        check(active == re.findall(r"Masq +\d+ +(\d+) +(\d+)", machine.program("-Ln")[1]) and sum(int(n) for n, _ in active) == 5,
              f"active connections: {active}")
    finally:
        machine.program("--stop-daemon", "master")
    # RVS announces what real clients do.
    machine.reset()
    lab.adm("--stop-daemon backup")
    lab.adm("-C")
    vip, = lab.service("nat", families=(4,))
    machine.ipvsadm(f"-A -t {vip}:80 -s rr", *[f"-a -t {vip}:80 -r {server.addr}:80 -m" for server in lab.servers])
    heard = lab.peer(other, "datagrams.py", "receive", "y0", GROUP, PORT)
    lab.adm(f"--start-daemon master --mcast-interface y0 --syncid {SYNCID}")
    status = machine.program("--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", str(SYNCID))
    check(status == (0, ""), f"ipvsadm --start-daemon: {status}")
    try:
        loads = [lab.client.spawn(["sh", "-c", f"curl -gsSf -m 100 '{paced(vip, '300k')}' | sha256sum"], "slow")
                 for _ in range(4)]

        def ours():
            # Without those of before: a connection outlives its service.
            return {ends: row for ends, row in rows(lab.adm("-Lnc")).items() if ends[1] == at(vip, 80)}
        wait_for("four downloads", lambda: [state for state, _ in ours().values()] == 4 * ["ESTABLISHED"], 10)
        told = 0

        def same():
            nonlocal told
            lines = heard.output().split()[1:]
            for message in lines[told:]:
                packet = wire.ip("10.1.0.9", GROUP, wire.UDP, wire.udp("10.1.0.9", 40001, GROUP, PORT, bytes.fromhex(message)), ttl=1)
                machine.send(0, wire.ethernet(bytes.fromhex("01005e000051"), wire.mac_of("10.1.0.9"), packet))
            told = len(lines)
            theirs = rows(machine.program("-Lnc")[1])
            return len(theirs) == 4 and similar(theirs, ours())
        wait_for("the kernel to list what RVS does", same, 30)
        check(re.findall(r"Masq +\d+ +(\d+) +(\d+)", machine.program("-Ln")[1]) == [("2", "0"), ("2", "0")], machine.program("-Ln")[1])
        check(all(load.running() or load.output().split()[:1] == [payload_sum("10m")] for load in loads),
              f"downloads: {[load.output()[-200:] for load in loads]}")
    finally:
        machine.program("--stop-daemon", "backup")


test_kernel_and_rvs.guest = True
