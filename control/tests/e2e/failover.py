"""The pair of configs/pair-active.toml and configs/pair-standby.toml under load, and what befalls its active node.

The network is that of lab.py with two balancers in place of one: `active` (10.1.0.3, 10.2.0.3) and `standby` (.4), which
share the virtual addresses and the servers' gateway, and a cable eth1 between them. Downloads that the servers pace, idle
connections with a message every two seconds and short requests run in NAT, DR and TUN, IPv4 and IPv6.

An event is a function in EVENTS. It does something to the pair and returns when another node has the addresses (or the
same one still has them); before each change of hands it calls `trial.about_to_change(node)`, which notes what is alive
and which of that the successor does not know.
"""
import json
import shutil
import time

import other_layout
from lab import BIN, PREFIX, REPO, VIPS, Lab, at, check, payloads, wait_for
from pair import Node
from cases.upgrade import followed

# Of each kind to each of the six addresses; requests a second, and how long one may take.
DOWNLOADS, IDLE, RATE, TIMEOUT = 2, 4, 4, 10
PAUSE = 2
# Bytes per second of a download: none is over before the run.
PACE = "64k"
PAYLOAD = "100m"
# Connections count that were established for so long, seconds.
AGE = 3
KINDS = ("download", "idle")
# What of the files is of another host than this lab: (text, text in its place).
HERE_INSTEAD = (('memory = "hugepages"', 'memory = "no-huge"\nfile_prefix = "{prefix}{name}"'),
                ("cores = [1]", "cores = [{core}]"),
                ('pci = "0000:03:00.0"', 'af_packet = "f0"'),
                ('pci = "0000:03:00.1"', 'af_packet = "b0"'),
                ('directory = "/var/lib/rvs"', 'directory = "{dir}/{name}.state"'),
                ('table = "/run/rvs/table"', 'table = "{dir}/{name}.table"\n[admin]\nsocket = "{socket}"'))


class Member(Node):
    """A node with a file of configs/; only what differs in a lab is replaced."""

    def __init__(self, lab, name, number, core, file):
        super().__init__(lab, name, number)
        self.core, self.file = core, file

    def configure(self, edit=lambda text: text):
        text = edit((REPO / "configs" / self.file).read_text())
        for old, new in HERE_INSTEAD:
            check(text.count(old) == 1, f"{self.file} has {text.count(old)} lines {old}")
            text = text.replace(old, new.format(prefix=PREFIX, name=self.name, core=self.core, dir=self.lab.dir, socket=self.socket))
        self.config = self.lab.dir / f"{self.name}.toml"
        self.config.write_text(text)
        self.device, self.twins = "rvs-front", ["rvs-front", "rvs-back"]

    def state(self):
        return self.instance("front")["state"] if self.program.running() else "DOWN"

    def sync_roles(self):
        """Synchronisation daemons that run, as `rvsadm -L --daemon` lists them."""
        return [line.split()[0] for line in self.adm("-L --daemon").splitlines()]

    def known(self):
        """(client, virtual) of all connections in the table."""
        rows = [line.split() for line in self.adm("-Lnc").splitlines()[2:]]
        return {(row[3], row[4]) for row in rows}


def two_nodes(lab, files):
    """Nodes by these names with these files, on both bridges and with a cable eth1 between them."""
    nodes = [Member(lab, name, 3 + core, core, file) for core, (name, file) in enumerate(files.items())]
    for node in nodes:
        lab.cable(node.space, "f0", "front")
        lab.cable(node.space, "b0", "back")
    one, two = nodes
    one.space.batch(f"link add eth1 type veth peer name eth1 netns {two.space.name}")
    for node in nodes:
        node.space.batch(f"address add 10.3.0.{node.number}/24 dev eth1", "link set eth1 up")
    return nodes


class Failover(Lab):
    """`with Failover() as pair:` builds the network; `pair.start()` starts both nodes."""

    def build_balancers(self):
        self.active, self.standby = self.nodes = two_nodes(self, {"active": "pair-active.toml", "standby": "pair-standby.toml"})

    def start(self, edit=lambda text: text):
        """Starts both; returns when the active one has the addresses and everything answers."""
        for node in self.nodes:
            node.configure(edit)
            node.start()
        wait_for("the active node to be master", lambda: self.active.state() == "MASTER", 30)
        self.standby.expect("BACKUP", "front")
        self.decapsulate(self.servers)
        for vip in (vip for vips in VIPS.values() for vip in vips):
            wait_for(f"{vip} to answer", lambda vip=vip: self.client.curl(f"http://{at(vip, 80)}/", seconds=2).startswith("server"), 20)

    def master(self):
        """The node that has the addresses."""
        return next(node for node in self.nodes if node.state() == "MASTER")

    def dump(self):
        text = [super().dump()]
        for node in self.nodes:
            for arguments in ("vrrp", "-L --daemon --json", "-Ln"):
                if node.program and node.program.running():
                    result = node.adm_result(arguments)
                    text.append(f"---- {node.name}: rvsadm {arguments}\n{result.stdout}{result.stderr}")
        return "\n".join(text)


class Trial:
    """Load through a pair, and what each event did to it."""

    def __init__(self, pair, downloads=DOWNLOADS, idle=IDLE):
        self.pair, self.file, self.rows, self.notes = pair, pair.dir / "lasting.json", [], []
        vips = [vip for vips in VIPS.values() for vip in vips]
        copy = payloads() / PAYLOAD
        lasting = pair.peer(pair.client, "lasting.py", self.file, downloads, idle, PAUSE, copy, PACE, *vips)
        self.short = [pair.dir / f"short.{number}.json" for number in range(len(vips))]
        requests = [pair.peer(pair.client, "paced.py", file, RATE, TIMEOUT, f"http://{at(vip, 80)}/") for vip, file in zip(vips, self.short)]
        self.programs = [lasting, *requests]
        wait_for("all connections", lambda: len(self.alive(0)) == len(vips) * (downloads + idle), 20)

    def happened(self):
        """Rows of lasting.py so far."""
        return [json.loads(line) for line in self.file.read_text().splitlines() if line.endswith("}")]

    def alive(self, age=AGE):
        """{id: row of its beginning} of the connections that are there and that old."""
        found, now = {}, time.monotonic()
        for row in self.happened():
            if row["what"] == "open" and row["t"] <= now - age:
                found[row["id"]] = row
            elif row["what"] in ("lost", "over"):
                found.pop(row["id"], None)
        return found

    def about_to_change(self, successor):
        """Notes what is alive, and what of that the node does not know that has the addresses next."""
        self.before, known = self.alive(), successor.known()
        self.unknown = {number for number, row in self.before.items() if (row["local"], at(row["host"], 80)) not in known}
        self.changed = time.monotonic()

    def run(self, name, event):
        """One event, and a row of the table for each kind of connection."""
        wait_for("connections old enough", lambda: len(self.alive()) == len(self.alive(0)), 30)
        self.before = None
        event(self)
        check(self.before is not None, f"{name}: no node was about to take the addresses")

        def settled():
            """Each has said something after the event, or is lost."""
            heard = {row["id"] for row in self.happened() if row["what"] == "lost" or row["what"] != "open" and row["t"] > self.over}
            return heard >= self.before.keys() and time.monotonic() > self.over + 1
        self.over = time.monotonic()
        wait_for("each connection to go on or to be lost", settled, 40)
        happened = self.happened()
        lost = {row["id"]: row["error"] for row in happened if row["what"] == "lost" and row["id"] in self.before}
        for kind in KINDS:
            mine = [number for number, row in self.before.items() if row["kind"] == kind]
            gone = [number for number in mine if number in lost or number in self.unknown]
            self.rows.append({"event": name, "kind": kind, "before": len(mine), "lost": len(gone),
                              "unsynced": sum(number in self.unknown for number in mine), "gap": self.gap(kind, happened)})
            for number in gone:
                row = self.before[number]
                self.rows[-1].setdefault("who", []).append(
                    f"{row['local']} -> {at(row['host'], 80)}: {lost.get(number, 'survived')}" + (", not known to the successor" if number in self.unknown else ""))
        asked = [json.loads(line) for file in self.short for line in file.read_text().splitlines() if line.endswith("}")]
        asked = [row for row in asked if row["t"] + row["took"] > self.changed]
        self.rows.append({"event": name, "kind": "short", "before": len(asked), "failed": sum(not row["ok"] for row in asked),
                          "gap": max((row["took"] for row in asked if row["ok"]), default=0.0)})
        return self.rows[-3:]

    def gap(self, kind, happened):
        """The longest that a download heard nothing, or that a message waited for its answer, seconds, since the event."""
        longest, heard = 0.0, {}
        for row in happened:
            number = row["id"]
            if row["what"] == "alive" and number in self.before and self.before[number]["kind"] == kind:
                waited = row["took"] if kind == "idle" else row["t"] - heard.get(number, row["t"])
                if row["t"] >= self.changed:
                    longest = max(longest, waited)
                heard[number] = row["t"]
        return longest

    def lost(self):
        """How many connections were lost in all events."""
        return sum(row.get("lost", 0) for row in self.rows)

    def table(self):
        """What to print at the end."""
        lines = [f"{'event':<38}{'connections':<12}{'before':>8}{'lost':>6}{'unsynced':>10}{'gap':>10}"]
        for row in self.rows:
            title = row["event"] if row["kind"] == KINDS[0] else ""
            if row["kind"] == "short":
                lines.append(f"{title:<38}{'short':<12}{row['before']:>8}{'-':>6}{'-':>10}{row['gap'] * 1000:>7.0f} ms   {row['failed']} failed")
            else:
                lines.append(f"{title:<38}{row['kind']:<12}{row['before']:>8}{row['lost']:>6}{row['unsynced']:>10}{row['gap'] * 1000:>7.0f} ms")
                lines += [f"    lost: {who}" for who in row.get("who", [])]
        return "\n".join(lines + self.notes)


# ---- what befalls the pair -------------------------------------------------------------------------


def stopped(trial):
    """The active node ends in order (SIGTERM)."""
    trial.about_to_change(trial.pair.standby)
    trial.pair.active.stop()
    trial.pair.standby.expect("MASTER", "front")


def killed(trial):
    """kill -9 of the active node, and nobody starts it again in time."""
    trial.about_to_change(trial.pair.standby)
    trial.pair.active.crash()
    trial.pair.standby.expect("MASTER", "front")


def replaced(trial):
    """Another machine takes the standby's place, with empty disks; once it knows all connections the active node is killed."""
    pair, standby = trial.pair, trial.pair.standby
    standby.stop()
    (pair.dir / f"{standby.name}.table").unlink()
    shutil.rmtree(pair.dir / f"{standby.name}.state")
    standby.start()
    standby.expect("BACKUP", "front")
    began = time.monotonic()
    everything = {(row["local"], at(row["host"], 80)) for row in trial.alive(0).values()}
    wait_for("the new standby to know all connections", lambda: everything <= standby.known(), 30)
    trial.notes.append(f"a new standby knew all connections {time.monotonic() - began:.1f} s after it was there")
    killed(trial)


def unplugged(trial):
    """Both data cables of the active node are pulled."""
    trial.about_to_change(trial.pair.standby)
    cables(trial.pair, "down")
    trial.pair.standby.expect("MASTER", "front")


def plugged(trial):
    """They are plugged in again, and it takes the addresses back."""
    cables(trial.pair, "up")
    taken_back(trial)


def started(trial):
    """It is started again, and takes the addresses back."""
    trial.pair.active.start()
    taken_back(trial)


def cables(pair, state):
    for device in ("f0", "b0"):
        pair.switch.ip(f"link set {pair.active.name}.{device} {state}")


def taken_back(trial):
    """Waits until the active node has the addresses; what it knows is looked at until then."""
    active = trial.pair.active

    def back():
        if active.state() == "MASTER":
            return True
        trial.about_to_change(active)
        return False
    wait_for("the active node to take the addresses back", back, 60)
    trial.pair.standby.expect("BACKUP", "front")


def upgraded(trial, binary="rvsd"):
    """`rvsadm upgrade` to this build on one node after the other, the standby first."""
    pair = trial.pair
    for node in (pair.standby, pair.active):
        if node is pair.active:
            trial.about_to_change(pair.standby)
        said = node.adm(f"upgrade --binary {BIN / binary}", 60)
        node.program = followed(node.program, said)
        wait_for(f"rvsd of {node.name}", lambda node=node: node.adm_result("status").returncode == 0, 30)
        trial.notes.append(f"upgrade of the {node.name} node: {said.strip()}")
    # If the pause was longer than the standby's patience it has the addresses for a moment.
    wait_for("the active node to be master", lambda: pair.active.state() == "MASTER", 60)
    pair.standby.expect("BACKUP", "front")


EVENTS = (("the active node is stopped", stopped), ("it comes back", started),
          ("kill -9 of the active node", killed), ("it is started again", started),
          ("its cables are pulled", unplugged), ("they are plugged in again", plugged),
          ("a new standby, kill -9 of the active", replaced), ("it is started again", started),
          ("both are upgraded, the standby first", upgraded),
          ("both, to another table layout", lambda trial: upgraded(trial, other_layout.NAME)),
          *((f"both, to {build.name} of RVS_OLDER", lambda trial, build=build: upgraded(trial, build)) for build in other_layout.older()),
          ("both, back to the first build", upgraded))
