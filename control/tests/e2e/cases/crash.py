"""rvsd is killed and started again: connections, rules and live changes are still there."""
import hashlib
import json
import mmap
import random
import re
import signal
import threading
import time

from lab import VIPS, Failure, at, check, lasts, needs_guest_kernel, network, paced, payload_sum, service_text, wait_for

IDLE = 5


def state(lab, directory=None, table=None):
    return f'[state]\ndirectory = "{directory or lab.dir / "state"}"\ntable = "{table or lab.dir / "table"}"\n'


def start(lab, **how):
    lab.write_config(extra=state(lab, **how))
    lab.start()


def again(lab):
    """Starts rvsd once more; the twins kept their addresses."""
    lab.start(addresses=False)


def kill(lab):
    lab.rvsd.signal(signal.SIGKILL)
    lab.rvsd.wait()


class Traffic:
    """Downloads and idle connections over some addresses."""

    def __init__(self, lab, vips, rate="600k", idle=True):
        self.lab, self.vips, self.downloads = lab, vips, []
        for number, vip in enumerate(vips):
            file = lab.dir / f"download.{number}"
            argv = ["curl", "-gsSf", "-m", "120", "-o", file, paced(vip, rate)]
            self.downloads.append((vip, file, lab.client.spawn(argv, f"curl.{number}")))
        self.idle = lab.peer(lab.client, "idle.py", IDLE, *vips) if idle else None
        wait_for("all downloads to begin", lambda: all(file.exists() and file.stat().st_size for _, file, _ in self.downloads))

    def finish(self):
        for vip, file, program in self.downloads:
            status = program.wait(60)
            check(status == 0, f"the download from {vip} ended with {status}: {program.output()}")
            total = hashlib.sha256(file.read_bytes()).hexdigest()
            check(total == payload_sum("10m"), f"the download from {vip} arrived damaged")
        if not self.idle:
            return
        self.idle.signal(signal.SIGTERM)
        self.idle.wait(30)
        report = json.loads(self.idle.output().splitlines()[-1])
        check(report == {"kept": IDLE * len(self.vips), "lost": []}, f"idle connections: {report}")


def took_over(lab):
    """What the last start said of the table: connections, torn and unbound entries."""
    found = re.findall(r"took over the connection table.*", lab.rvsd.output())
    check(found, f"nothing was taken over: {lab.rvsd.output()}")
    number = lambda name: int(re.search(rf"{name}=(\d+)", found[-1]).group(1))
    return number("connections"), number("torn"), number("unbound")


def keeps(lab, least, when="now"):
    """Checks that the last start took over so many connections at the least, each of them whole."""
    connections, torn, unbound = took_over(lab)
    check(connections >= least and (torn, unbound) == (0, 0), f"{when} {connections} connections, {torn} torn, {unbound} unbound")


def moved_whole(lab):
    """Checks that connections were moved to another number of workers, and none was lost."""
    moved = [line for line in lab.rvsd.output().splitlines() if "were moved to the workers of this one" in line]
    check(moved and all("lost=0" in line for line in moved), f"said: {moved}")


@network(servers=2)
def test_established_connections_outlive_a_kill(lab):
    """kill -9 under downloads and idle connections in NAT, DR and TUN, both families: none is lost."""
    start(lab)
    vips = [vip for mode in ("nat", "dr", "tun") for vip in lab.service(mode)]
    traffic = Traffic(lab, vips)
    before = lab.adm("-Sn")
    kill(lab)
    again(lab)
    check(lab.adm("-Sn") == before, "live services are gone")
    keeps(lab, len(vips) * (IDLE + 1))
    rows = [line.split() for line in lab.adm("-Ln").splitlines() if line.lstrip().startswith("-> 10.")]
    check(sum(int(row[4]) for row in rows) >= 3 * (IDLE + 1), f"active connections were not counted again: {rows}")
    traffic.finish()
    for vip in vips:
        lab.expect_all_servers(vip)


class Changes:
    """Adds services by rvsadm, one after the other, and remembers which of them were acknowledged."""

    def __init__(self, lab, vip):
        self.lab, self.vip, self.acknowledged, self.total = lab, vip, [], 0
        self.over, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(0.02):
            # Not 80: the service of the load.
            service = at(self.vip, 1000 + self.total % 50_000)
            try:
                done = self.lab.adm_result(f"-A -u {service} -s rr").returncode == 0
            except Failure:
                continue
            # Nobody answers while rvsd is down.
            if done:
                self.acknowledged.append(service)
            self.total += 1

    def there(self):
        """Checks that everything is in the rules that was acknowledged before."""
        wanted = self.acknowledged[:]
        saved = set(self.lab.adm("-Sn").split())
        gone = [service for service in wanted if service not in saved]
        check(not gone, f"{len(gone)} of {len(wanted)} acknowledged services are gone: {gone[:5]}")

    def finish(self):
        self.over.set()
        self.thread.join()


def orderly(lab, changes):
    """A stop and a start: the file counts, so that what was changed live ends there."""
    lab.rvsd.stop()
    changes.acknowledged.clear()
    again(lab)


def kills_under_load(lab, rounds, say=print):
    """Five kills a round at random moments, with two workers, under downloads, idle connections, requests and changes."""
    vips = VIPS["nat"]
    services = "".join(service_text("tcp", vip, 80, "rr", [(server.addr if vip == vips[0] else server.addr6, 80, "nat", 1)
                                                           for server in lab.servers]) for vip in vips)
    lab.write_config(extra=state(lab), worker="cores = [0, 1]", services=services)
    lab.start()
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips], threads=2)
    changes = Changes(lab, vips[0])
    choice = random.Random(6)
    for number in range(rounds):
        traffic = Traffic(lab, vips, "250k")
        for turn in range(5):
            load.answered(choice.randrange(1, 200))     # a moment that nobody chose
            if (5 * number + turn) % 2 == 0:
                orderly(lab, changes)                   # three crashes within a minute would be a loop
                load.answered(20)
            kill(lab)
            again(lab)
            connections, torn, unbound = took_over(lab)
            check(connections > 0 and unbound == 0, f"{connections} connections, {torn} torn, {unbound} unbound")
            changes.there()
        load.answered(20)
        traffic.finish()
        say(f"         {5 * number + 5} kills, {changes.total} changes of rules, {connections} connections taken over by the last start")
    changes.finish()
    # A request waits while nobody forwards, and is answered then: none may fail.
    report = load.finish()
    say(f"         {report['ok']} requests, the slowest took {report['slowest']} s")

    def held():
        pools = lab.status()["buffers"]
        return sum(pool["size"] - pool["free"] for pool in pools), sum(pool["rings"] for pool in pools)
    wait_for("all buffers but those in rings to be free", lambda: (lambda now: now[0] <= now[1])(held()), 20)
    check(all(port["counters"]["no-mbuf"] == 0 for port in lab.status()["ports"]), "packets found no buffer")


@lasts(300)
@network(servers=2)
def test_five_kills_under_load(lab):
    """Five kills at random moments under load and changes with two workers: no connection and no acknowledged rule is lost."""
    kills_under_load(lab, 1)


@network(servers=2)
def test_another_number_of_workers_after_a_kill(lab):
    """Killed with two workers and started with one, killed again and started with two: persistent clients keep everything."""
    def configure(worker):
        lab.write_config(extra=state(lab), worker=worker)
    configure("cores = [0, 1]")
    lab.start()
    vips = lab.service("nat", options="-p 300")
    traffic = Traffic(lab, vips, "300k")
    for worker in ("", "cores = [0, 1]"):
        kill(lab)
        configure(worker)
        again(lab)
        keeps(lab, len(vips) * (IDLE + 2))
    moved_whole(lab)
    traffic.finish()


@network(servers=1)
def test_live_changes_outlive_a_kill(lab):
    """What rvsadm changed is there after kill -9; what the file changed meanwhile is applied as in a reload."""
    first = service_text("tcp", VIPS["nat"][0], 80, "rr", [(lab.servers[0].addr, 80, "nat", 1)])
    lab.write_config(extra=state(lab), services=first)
    lab.start()
    lab.adm(f"-A -u {at(VIPS['nat'][0], 53)} -s wlc")
    lab.adm(f"-e -t {at(VIPS['nat'][0], 80)} -r {at(lab.servers[0].addr, 80)} -m -w 7")
    lab.adm("--set 77 0 0")
    kill(lab)
    second = service_text("tcp", VIPS["nat"][0], 443, "lc", [(lab.servers[0].addr, 443, "nat", 1)])
    lab.write_config(extra=state(lab), services=first + second)
    again(lab)
    saved = lab.adm("-Sn")
    for line in (f"-A -u {VIPS['nat'][0]}:53 -s wlc", f"-r {lab.servers[0].addr}:80 -m -w 7", f"-A -t {VIPS['nat'][0]}:443 -s lc"):
        check(line in saved, f"{line} is missing:\n{saved}")
    check("77 120 300" in lab.adm("-L --timeout"), "the timeout is lost")
    lab.rvsd.stop()
    again(lab)
    check(f"{VIPS['nat'][0]}:53" not in lab.adm("-Sn"), "after an orderly end the file counts")


@network(servers=2)
def test_a_crash_loop_sets_live_changes_aside(lab):
    """Three crashes within a minute: table and live changes are kept aside, rvsd starts from the file."""
    start(lab)
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip)
    for turn in range(3):
        check(lab.adm("-Sn") != "", f"the live service is gone after {turn} crashes")
        kill(lab)
        again(lab)
    check(lab.adm("-Sn").strip() == "", f"left: {lab.adm('-Sn')}")
    said = [line for line in lab.rvsd.output().splitlines() if "3 crashes within 60 s" in line]
    check(len(said) == 1, f"said: {said}")
    check(list((lab.dir / "state").glob("rules.json.crashed-*")), "the rules were not kept")
    check(list(lab.dir.glob("table.crashed-*")), "the table was not kept")


def flip(path, offsets):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for offset in offsets:
            memory[offset] ^= 0x55


@network(servers=2)
def test_a_table_damaged_at_random(lab):
    """Bytes of the table flipped in few and in many places: damaged entries are dropped and counted, the others go on."""
    vips = VIPS["nat"]
    services = "".join(service_text("tcp", vip, 80, "rr", [(server.addr if vip == vips[0] else server.addr6, 80, "nat", 1)
                                                           for server in lab.servers]) for vip in vips)
    lab.write_config(extra=state(lab), services=services)
    lab.start()
    size = (lab.dir / "table").stat().st_size
    choice = random.Random(1)
    for turn, places in enumerate((20, 20_000, 1_000_000)):
        load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips])
        load.answered(300)
        load.finish()
        if turn == 2:
            lab.rvsd.stop()                         # three crashes within a minute would be a loop
            again(lab)
        there = len(lab.adm("-Lnc").splitlines()) - 2
        kill(lab)
        flip(lab.dir / "table", [choice.randrange(4096, size) for _ in range(places)])
        again(lab)
        connections, torn, unbound = took_over(lab)
        print(f"         {places} bytes flipped: {there} connections before, {connections} after, {torn} torn, {unbound} unbound")
        check(connections + torn + unbound <= there + 5, f"{connections} of {there} connections: some were invented")
        check(connections > there // 2 if turn == 0 else torn > 0, f"{connections} of {there} connections, {torn} torn")
        check(len(lab.adm("-Lnc").splitlines()) - 2 <= connections, "the listing has more than the table")
        for vip in vips:
            lab.expect_all_servers(vip)


@network(servers=2)
def test_what_is_damaged_costs_a_line(lab):
    """Corrupted table, corrupted rules, both: rvsd starts, says so, and what is left works."""
    vip = VIPS["nat"][0]
    services = service_text("tcp", vip, 80, "rr", [(server.addr, 80, "nat", 1) for server in lab.servers])
    lab.write_config(extra=state(lab), services=services)
    lab.start()
    lab.expect_all_servers(vip)
    lab.adm("--set 77 0 0")

    kill(lab)
    flip(lab.dir / "table", [40])
    flip(lab.dir / "state" / "rules.json", [200])
    again(lab)
    said = lab.rvsd.output()
    check("the connection table starts empty" in said and "it is damaged" in said, said)
    lab.expect_all_servers(vip)

    lab.adm("--set 78 0 0")
    lab.adm("--set 79 0 0")
    kill(lab)
    journal = lab.dir / "state" / "rules.journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    again(lab)
    check("are half a record" in lab.rvsd.output(), lab.rvsd.output())
    check(" 78 " in lab.adm("-L --timeout"), "what was answered before the torn record is lost")
    wait_for("rules written whole", lambda: not journal.exists())
    lab.rvsd.stop()

    (lab.dir / "table").write_bytes(b"short")
    again(lab)
    check("the connection table starts empty" in lab.rvsd.output(), lab.rvsd.output())
    lab.expect_all_servers(vip)


@network(servers=1)
def test_unwritable_state(lab):
    """A state directory that cannot be written, a full one, a table that has no room: a line each, the rest works."""
    (lab.dir / "file").write_text("no directory")
    start(lab, directory=lab.dir / "file", table=lab.dir / "file" / "table")
    said = lab.rvsd.output()
    check("will not outlive a crash" in said and "memory that ends with rvsd" in said, said)
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    lab.rvsd.stop()

    full = lab.dir / "full"
    full.mkdir()
    lab.write_config(extra=state(lab, directory=full / "state", table=full / "table"))
    inside = f"mount -t tmpfs -o size=64k tmpfs {full} && exec {' '.join(map(str, lab.rvsd.argv[4:]))}"
    lab.rvsd = lab.lb.spawn(["unshare", "-m", "sh", "-c", inside], "rvsd")
    lab.wait_ready()
    check("memory that ends with rvsd" in lab.rvsd.output(), lab.rvsd.output())
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    for number in range(400):
        result = lab.adm_result(f"-A -u {at(vip, 1000 + number)} -s rr")
        check(result.returncode == 0, f"refused: {result.stderr}")
        if "cannot be written" in result.stderr:
            break
    else:
        raise Failure("64 KiB took the rules of 400 services")
    check("cannot be written" in lab.adm("status"), "status does not tell")
    lab.expect_all_servers(vip, 2)


@needs_guest_kernel
@network(servers=2)
def test_steps_of_the_wall_clock(lab):
    """The clock steps by days, forth and back, while rvsd runs and while it is down: connections and deadlines stay."""
    start(lab)
    vip, = lab.service("nat", families=(4,))
    idle = lab.peer(lab.client, "idle.py", IDLE, vip)
    lab.adm(f"drain {lab.servers[0].addr} --deadline 10m --no-wait")

    def left():
        """How many established connections there are, the least seconds that one has, and those of the drain."""
        rows = [line.split() for line in lab.adm("-Lnc").splitlines()[2:]]
        times = [int(row[1].split(":")[0]) * 60 + int(row[1].split(":")[1]) for row in rows if row[2] == "ESTABLISHED"]
        return len(times), min(times), json.loads(lab.adm("drain --json"))["servers"][0].get("left")

    def step(days):
        lab.lb.run(["date", "-s", f"@{int(time.time()) + days * 86_400}"])

    before = left()
    check(before[0] == IDLE and before[1] > 800 and before[2] > 500, f"connections, seconds left, deadline: {before}")
    for running, down in ((10, -20), (-5, 30)):
        step(running)
        stepped = left()
        check(stepped[0] == IDLE and before[1] - stepped[1] < 200, f"before {before}, after a step of the clock {stepped}")
        check(0 <= before[2] - stepped[2] < 200, f"before {before}, after a step of the clock {stepped}")
        kill(lab)
        step(down)
        again(lab)
        keeps(lab, IDLE)
        now = left()
        check(now[0] == IDLE and before[1] - now[1] < 200, f"before {before}, after steps of the clock {now}")
        check(now[2] is not None and 0 <= before[2] - now[2] < 200, f"the deadline: before {before}, after a crash {now}")
    idle.signal(signal.SIGTERM)
    idle.wait(30)
    check(json.loads(idle.output().splitlines()[-1]) == {"kept": IDLE, "lost": []}, idle.output())
