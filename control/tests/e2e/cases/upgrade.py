"""`rvsadm upgrade`: another rvsd takes over, and nobody notices."""
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import other_layout
from other_layout import older
from cases import health, sync
from cases.crash import Traffic, keeps, moved_whole, start, state
from cases.vrrp_pair import children, kept_state, lasting, outage, prepared, rows, service, slow_download, steady
from lab import BIN, HERE, at, check, lasts, network, wait_for
from pair import VIP, down, instance

LOOSE = 3000    # ms; machines that run tests do much else


class Successor:
    """The process that took over from one we started."""

    def __init__(self, pid, before):
        self.pid, self.name, self.argv, self.log, self.process = pid, before.name, before.argv, before.log, before.process
        self.first = getattr(before, "first", before)

    def running(self):
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            # The first thread may be gone before the others.
            return state not in "ZX" or len(os.listdir(f"/proc/{self.pid}/task")) > 1
        except OSError:
            return False

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=10):
        wait_for(f"process {self.pid} to end", lambda: not self.running(), seconds)

    def stop(self, seconds=5):
        if self.running():
            self.signal(signal.SIGTERM)
        self.wait(seconds)

    def output(self):
        return Path(self.log).read_text(errors="replace")


def followed(old, text):
    """The process that took over from `old` by what `rvsadm upgrade` said; checks the pause in forwarding."""
    found = re.search(r"\(process (\d+)\); forwarding paused for (\d+) ms", text)
    check(found, f"said: {text}")
    old.wait()
    print(f"         forwarding paused for {found.group(2)} ms")
    check(int(found.group(2)) < LOOSE, text)
    return Successor(int(found.group(1)), old)


def upgrade(lab, arguments=""):
    """Upgrades to the same program."""
    lab.rvsd = followed(lab.rvsd, lab.adm(f"upgrade {arguments}", 60))
    lab.wait_ready()


def requests(lab):
    """Connections as counted in all, and by service; they lag by two seconds."""
    total = json.loads(lab.adm("--json stats"))["total"]["conns"]
    return [total] + [service["stats"]["conns"] for service in json.loads(lab.adm("--json -L --stats"))["services"]]


def impostor(lab, *words):
    """A program that says it is a new rvsd, and what it does then (peers/impostor.py)."""
    program = lab.dir / f"impostor-{words[0]}"
    program.write_text(f"#!/bin/sh\nexec /usr/bin/python3 -I -S {HERE}/peers/impostor.py {' '.join(words)}\n")
    program.chmod(0o755)
    return program


def resets(lab):
    """Connections that each host of the lab lost by a reset, attempts that failed by one, and resets that the balancer sent.

    Those that clients and servers send are not counted by themselves. Who is closed by the other side sends its FIN again
    and again in a pause, and several of them may cross at its end. The other side, in TIME_WAIT, acknowledges each; the first
    acknowledgement ends the connection, and whatever comes after that is answered by a reset that nobody minds."""
    found = {}
    for space in (lab.client, lab.lb, *lab.servers):
        names, values = [line.split() for line in space.sh("cat /proc/net/snmp").splitlines() if line.startswith("Tcp:")]
        row = {name: int(value) for name, value in zip(names[1:], values[1:])}
        found[space.short] = (row["EstabResets"], row["AttemptFails"], row["OutRsts"] if space is lab.lb else 0)
    return found


def adverse(lab, arguments, *words):
    """An upgrade that fails and says these words; the process stays the same."""
    before = lab.rvsd.pid
    result = lab.adm_result(f"upgrade {arguments}", 60)
    said = result.stdout + result.stderr
    check(result.returncode == 1, f"upgrade {arguments}: exit {result.returncode}: {said}")
    for word in words:
        check(word in said, f"`{word}` is not in: {said}")
    check(lab.rvsd.running() and lab.rvsd.pid == before, "the old process is gone")


@lasts(240)
@network(servers=2)
def test_nobody_notices(lab):
    """Upgrades under downloads, idle connections and short requests, NAT and DR, both families: nothing is lost, no reset."""
    start(lab)
    vips = [vip for mode in ("nat", "dr") for vip in lab.service(mode)]
    lab.adm("--set 77 0 0")
    lab.adm("--start-daemon backup --mcast-interface tf0 --syncid 9")
    daemons = lab.adm("-L --daemon")
    traffic = Traffic(lab, vips, "400k")
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips], threads=2)
    load.answered(20)
    rules, clean = lab.adm("-Sn"), resets(lab)
    for turn in range(3):
        counted = requests(lab)
        upgrade(lab)
        going_on = requests(lab)
        check(all(now >= before for now, before in zip(going_on, counted)), f"counted {counted}, then {going_on}")
        load.answered(20)
        check(lab.adm("-Sn") == rules, "live services are gone")
        check("77 120 300" in lab.adm("-L --timeout"), "the timeout is lost")
        check("backup" in daemons and lab.adm("-L --daemon") == daemons, f"daemons: {lab.adm('-L --daemon')}")
        keeps(lab, 6 * len(vips))
    # While all of it still runs.
    check(resets(lab) == clean, f"resets: {resets(lab)}, before {clean}")
    report = load.finish()
    print(f"         {report['ok']} requests, the slowest took {report['slowest']} s")
    traffic.finish()
    lab.rvsd.stop()
    check(not lab.socket.exists(), "the admin socket stayed")
    tables = lab.lb.sh("nft list tables netdev")
    check("rvs_" not in tables, f"guards stayed: {tables}")


@lasts(120)
@network(servers=2)
def test_failed_starts(lab):
    """A program that is not there, is none, ends, hangs, or refuses the file: one line, and rvsd goes on as before."""
    start(lab)
    vips = lab.service("nat")
    traffic = Traffic(lab, vips, "600k")
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips], threads=2)
    adverse(lab, f"--binary {lab.dir}/absent", "cannot be started", "absent", "nothing has changed")
    adverse(lab, "--binary /bin/false", "ended before it was ready", "exit status: 1")
    adverse(lab, f"--binary {BIN}/rvsadm", "ended before it was ready")
    sleeper = lab.dir / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 100\n")
    sleeper.chmod(0o755)
    adverse(lab, f"--binary {sleeper} --deadline 2s", "was not ready within 2 s")
    adverse(lab, f"--binary {impostor(lab, 'records', '99')}", "cannot take over", "records of version 1", "reads 99", "nothing has changed")
    good = lab.config.read_text()
    lab.config.write_text(good + '\n[[service]]\nprotocol = "tcp"\naddress = "10.1.0.100"\nport = 99\nscheduler = "wlcc"\n')
    adverse(lab, "", "does not start", 'did you mean "wlc"', str(lab.config))
    lab.config.write_text(good)
    load.answered(20)
    check("took over" not in lab.rvsd.output(), "something took over")
    upgrade(lab)
    load.answered(20)
    load.finish()
    traffic.finish()


@lasts(120)
@network(servers=2)
def test_a_failure_with_the_ports(lab):
    """A program that says it is prepared and dies with the ports: the old one takes them back, nothing is lost."""
    start(lab)
    vips = lab.service("nat") + lab.service("dr")
    lab.adm(f"-A -u {at(vips[0], 53)} -s wlc")
    traffic = Traffic(lab, vips, "400k")
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips], threads=2)
    load.answered(20)
    rules, clean = lab.adm("-Sn"), resets(lab)
    adverse(lab, f"--binary {impostor(lab, 'die')}", "ended before it was ready", "takes the ports back")
    lab.wait_ready()
    check(lab.adm("-Sn") == rules, "live services are gone")
    load.answered(20)
    upgrade(lab)
    load.answered(20)
    check(resets(lab) == clean, f"resets: {resets(lab)}, before {clean}")
    load.finish()
    traffic.finish()


@lasts(120)
@network(servers=2)
def test_a_program_that_hangs_with_the_ports(lab):
    """A program that takes the ports and says nothing any more: the old one has them back after a time, nothing is lost."""
    start(lab)
    vips = lab.service("nat")
    # Web servers close connections that are idle for so long.
    traffic = Traffic(lab, vips, "300k", idle=False)
    rules = lab.adm("-Sn")
    began = time.monotonic()
    adverse(lab, f"--binary {impostor(lab, 'hang')}", "was not ready within 20 s and is killed", "takes the ports back")
    check(time.monotonic() - began < 60, "it took for ever")
    lab.wait_ready()
    check(lab.adm("-Sn") == rules, "live services are gone")
    keeps(lab, len(vips))
    left = [Path(f"/proc/{child}/cmdline").read_text() for child in children(lab.rvsd.pid)]
    check(not any("impostor" in line for line in left), f"it was not killed: {left}")
    traffic.finish()


@lasts(120)
@network(servers=2)
def test_another_number_of_workers(lab):
    """One worker, then two, then one: persistent clients keep everything."""
    def configure(worker):
        lab.write_config(extra=state(lab), worker=worker)
    configure("")
    lab.start()
    vips = lab.service("nat", options="-p 300")
    traffic = Traffic(lab, vips, "400k")
    clean = resets(lab)
    for worker in ("cores = [0, 1]", ""):
        configure(worker)
        upgrade(lab)
        keeps(lab, 7 * len(vips))
    moved_whole(lab)
    traffic.finish()
    check(resets(lab) == clean, f"resets: {resets(lab)}, before {clean}")


@lasts(120)
@network(servers=2)
def test_another_table(lab):
    """A table of another size, none that outlives a process, and back: each connection is carried over by itself."""
    start(lab)
    vips = lab.service("nat", options="-p 300") + lab.service("dr")
    traffic = Traffic(lab, vips, "400k")
    clean = resets(lab)
    small = lab.config.read_text()
    lab.write_config(extra=state(lab), worker="connections = 150000")
    large = lab.config.read_text()
    anonymous = re.sub(r"(?m)^table = .*$", "", small)
    for text in (large, anonymous, anonymous, small):
        lab.config.write_text(text)
        upgrade(lab)
        check("one by one" in lab.rvsd.output().rsplit("handing over", 1)[1], "the table went over as it lies")
        keeps(lab, 6 * len(vips))
    check(not list(lab.dir.glob("table.new")), "a file was left")
    lab.rvsd.signal(signal.SIGKILL)
    lab.rvsd.wait()
    lab.start(addresses=False)
    keeps(lab, 6 * len(vips), "after a crash")
    traffic.finish()
    check(resets(lab) == clean, f"resets: {resets(lab)}, before {clean}")


@lasts(120)
@network(servers=2)
def test_another_layout(lab):
    """A build whose table lies otherwise in memory, and back: each connection is carried over by itself."""
    other = BIN / other_layout.NAME
    check(other.exists(), f"{other} is missing: run control/tests/e2e/other_layout.py, then make build")
    lab.write_config(extra=state(lab))
    sizes = [lab.lb.run([binary, "--print-layout", lab.config]).stdout for binary in (BIN / "rvsd", other)]
    check(sizes[0] != sizes[1], f"the same layout: {sizes[0]}")
    lab.start()
    vips = lab.service("nat", options="-p 300") + lab.service("dr")
    traffic = Traffic(lab, vips, "400k")
    clean = resets(lab)
    for binary in (other, other, *older(), BIN / "rvsd"):
        before = Path(os.readlink(f"/proc/{lab.rvsd.pid}/exe"))
        stays = before == binary
        upgrade(lab, f"--binary {binary}")
        check(os.readlink(f"/proc/{lab.rvsd.pid}/exe") == str(binary), "another program runs")
        said = lab.rvsd.output().rsplit("handing over", 1)[1]
        # What layout an older build has is not known.
        check(other not in (binary, before) or ("one by one" in said) != stays, f"between two of a layout: {stays}: {said}")
        keeps(lab, 6 * len(vips))
    traffic.finish()
    check(resets(lab) == clean, f"resets: {resets(lab)}, before {clean}")


@lasts(120)
@prepared(servers=2, back=True)
def test_a_master_stays_master(lab, a, b):
    """Both nodes of a pair are upgraded under load: no priority 0, no other master, no storm of announcements."""
    lasting(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    download = slow_download(lab, "1m", 60)
    since = time.monotonic()
    became = b.instance()["counters"]["became-master"]
    for node in (b, a, a):
        node.program = followed(node.program, node.adm("upgrade", 60))
        wait_for(f"rvsd of {node.name}", lambda: node.adm_result("status").returncode == 0)
    a.expect("MASTER")
    check(a.instance()["cause"] == "resume" and a.holds(), a.instance())
    back = time.monotonic()
    wait_for("answers again", lambda: len([row for row in rows(load, back + 0.5) if row["ok"]]) > 5)
    time.sleep(down(99, 1))
    check(not lab.adverts(a, since, zero=True) and not lab.adverts(b, since, zero=True), "somebody gave up")
    check(not lab.adverts(b, since), "the other node took over")
    b.expect("BACKUP")
    check(not b.holds(), "the backup holds the address")
    check(became == 0 and b.instance()["counters"]["became-master"] == 0, b.instance()["counters"])
    announced = [row for row in lab.seen(kind="arp", port=a.wire, addr=VIP) if row["t"] > since]
    check(len(announced) <= 40, f"{len(announced)} announcements")
    check(download.wait(60) == 0, f"the download ended: {download.output()}")
    load.stop()


def in_step(node):
    """Whether the node's peer has all of its connections, by what it lists."""
    daemons = json.loads(node.adm("--json -L --daemon"))["daemons"]
    return any(peer["in_step"] for daemon in daemons for peer in daemon["peers"])


def synchronised(a, b):
    """Waits until b, a backup, has the table of a again; neither complains, and b has never missed a."""
    wait_for("the standby to have the table again", lambda: in_step(a), 20)
    for node in (a, b):
        wait_for("no complaint", lambda node=node: "synchronisation" not in node.adm("status"), 10)
    said = b.program.output()
    check('event="sync-lost"' not in said and 'event="sync-gap"' not in said, f"the standby missed the other: {said}")


@lasts(240)
@prepared(servers=2)
def test_a_long_pause_is_handed_over(lab, a, b):
    """Ports that take longer than the peer waits: it is master first, a download goes on there, and gives it back. Then a
    short pause, which is not handed over, and one that is by order, to nobody."""
    lab.private_cable()
    for server in lab.servers:
        server.ip(f"address add {VIP}/32 dev lo")
    for node, priority in ((a, 100), (b, 99)):
        node.rvsd(instance(priority, "1s") + service("dr", servers=lab.servers),
                  extra=kept_state(lab, node) + sync.sync("vrrp:v"))
    a.expect("MASTER")
    record = lab.dir / "a.state" / "ports.json"
    wait_for("what the start took", record.exists)
    a.stop()
    measured = json.loads(record.read_text())
    check(len(measured) == 1 and 0 < measured[0]["start_ms"] < 30000, f"recorded: {measured}")
    measured[0]["upgrade_ms"] = 9000
    record.write_text(json.dumps(measured))
    a.start()
    a.expect("MASTER", seconds=30)
    b.expect("BACKUP")
    load = steady(lab)
    download = slow_download(lab, "200k", 150)   # Fifty seconds of it.
    wait_for("the standby to have the table", lambda: in_step(a), 20)
    time.sleep(1)   # A message about the download takes no longer.
    since = time.monotonic()
    text = a.adm("upgrade", 60)
    check("a pause of 9000 ms is expected" in text and "handed over v to 10.3.0.2 before" in text, f"said: {text}")
    a.program = followed(a.program, text)
    wait_for("rvsd of a", lambda: a.adm_result("status").returncode == 0)
    check(lab.adverts(a, since, zero=True), "it did not give up")
    check(lab.adverts(b, since), "the other node was never master")
    a.expect("MASTER", seconds=30)
    check(a.instance()["cause"] != "resume", a.instance())
    b.expect("BACKUP")
    synchronised(a, b)
    took, failed = outage(load, since)
    print(f"      handed over and back: {failed} requests failed, over {took:.2f} s")
    # A skew and a little, twice: it is by far less than a master-down interval.
    check(failed <= 40, f"{failed} requests failed")
    size = (lab.dir / "slow").stat().st_size
    check(download.running(), f"the download was over too early, after {size} bytes: {download.output()}")
    again = time.monotonic()
    check(json.loads(record.read_text())[0]["upgrade_ms"] < 9000, record.read_text())
    text = a.adm("upgrade", 60)
    check("handed over" not in text, f"said: {text}")
    a.program = followed(a.program, text)
    a.expect("MASTER")
    check(not lab.adverts(a, again, zero=True), "it gave up for a short pause")
    synchronised(a, b)
    check(download.wait(100) == 0, f"the download ended: {download.output()}")
    load.stop()
    b.stop()
    refused = a.adm_result("upgrade --hand-over=always", 60)
    check(refused.returncode == 1 and "nobody took over v" in refused.stderr and "nothing has changed" in refused.stderr,
          f"said: {refused.stdout}{refused.stderr}")
    check(a.program.running() and a.instance()["state"] == "MASTER", "the old process is gone")
    a.program = followed(a.program, a.adm("upgrade --hand-over=never", 60))
    a.expect("MASTER")


@network(servers=1)
def test_the_service_manager_follows(lab):
    """MAINPID comes from the old process when the new one serves; SIGHUP to the new one is a reload."""
    lab.write_config(extra=state(lab))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(lab.dir / "notify"))
    manager.settimeout(10)
    lab.rvsd = lab.lb.spawn(["env", f"NOTIFY_SOCKET={lab.dir}/notify", BIN / "rvsd", lab.config], "rvsd")
    lab.wait_ready()
    old = lab.rvsd.pid
    upgrade(lab)
    told = []
    while not told or not told[-1].startswith("MAINPID="):
        told.append(manager.recv(4096).decode())
        check("STOPPING=1" not in told[-1], f"told: {told}")
    check(told[-1].strip() == f"MAINPID={lab.rvsd.pid}" and lab.rvsd.pid != old, f"told: {told}")
    lab.rvsd.signal(signal.SIGHUP)
    wait_for("a reload", lambda: "RELOADING=1" in manager.recv(4096).decode())


@network(servers=2)
def test_a_dead_server_stays_left_out(lab):
    """A server that its checks took out before the upgrade gets no connection after it, and comes back when it lives."""
    health.start(lab)
    one, two = lab.servers
    one.nginx.stop()
    health.expect(lab, one, "down")
    health.expect(lab, two, "up")
    since = len(lab.rvsd.output())
    upgrade(lab)
    load = lab.load(f"http://{health.VIP}/", threads=2)
    load.answered(20)
    check(set(load.finish()["by"]) == {"server 2"}, load.report())
    check("server-up" not in lab.rvsd.output()[since:], lab.rvsd.output()[since:])
    lab.nginx(one, "server 1")
    health.expect(lab, one, "up")
