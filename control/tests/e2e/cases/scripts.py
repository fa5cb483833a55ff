"""Scripts: checks by script and file, what they do when they fail, and notifications of what they find."""
import json
import os
import signal
import socket
import time

from cases.health import expect, states
from lab import Failure, check, wait_for

VIP = "10.1.0.100"

SERVICE = """
[[service]]
protocol = "tcp"
address = "10.1.0.100"
port = 80
scheduler = "wrr"

[[service.server]]
address = "{one}"
method = "nat"
weight = 4

[[service.server.check]]
delay_loop = "100ms"
delay_before_retry = "50ms"
warmup = "0s"
retry = 0
{check}

[[service.server]]
address = "{two}"
method = "nat"
weight = 4
"""


def start(lab, text, extra="", more=""):
    one, two = lab.servers
    lab.start(services=SERVICE.format(one=one.addr, two=two.addr, check=text) + more, extra=extra)


def script(lab, text, mode=0o755, name="check.sh"):
    """Writes a program in one step, so that no check meets half of it."""
    path = lab.dir / name
    new = lab.dir / f"{name}.new"
    new.write_text(f"#!/bin/sh\n{text}\n")
    new.chmod(mode)
    new.rename(path)
    return path


def weight(lab, server):
    for line in lab.adm_quiet("-Ln").splitlines():
        words = line.split()
        if words[0] == "->" and words[1] == f"{server.addr}:80":
            return int(words[3])
    raise Failure(f"{server.addr} is not listed")


def helpers(lab):
    """Processes of rvsd's helpers, by user."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/status") as status:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        except (OSError, ValueError):
            continue
        if fields.get("Name") == "rvs-scripts" and int(fields["PPid"]) == daemon(lab):
            found[int(fields["Uid"].split()[0])] = int(entry)
    return found


def daemon(lab):
    """The process of rvsd: `ip netns exec` becomes it."""
    return lab.rvsd.pid


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def test_a_script_decides_and_sets_the_weight(lab):
    """Exit statuses set the weight; a script that fails, hangs, is killed or is missing takes the server out."""
    path = script(lab, "exit 12")
    start(lab, f'type = "script"\ncommand = ["{path}", "{lab.servers[0].addr}"]\nuser = "nobody"\ndynamic = true\ntimeout = "500ms"')
    one = lab.servers[0]
    wait_for("weight 10", lambda: weight(lab, one) == 10)
    script(lab, "exit 0")
    wait_for("the configured weight", lambda: weight(lab, one) == 4)
    script(lab, 'echo "$1 is full" >&2; exit 1')
    expect(lab, one, "down", f"exit status 1: {one.addr} is full")
    check(lab.answers(VIP, 4) == ["server 2"], "a server was asked whose script failed")
    script(lab, "exit 0")
    expect(lab, one, "up", "script up")
    pids = lab.dir / "pids"
    pids.mkdir(mode=0o777)
    pids.chmod(0o777)
    script(lab, f"sleep 600 & echo $! > {pids}/child; echo $$ > {pids}/own; wait")
    expect(lab, one, "down", "not done in time")
    script(lab, "kill -9 $$")
    expect(lab, one, "down", "ended by signal 9")
    for name in ("own", "child"):
        pid = int((pids / name).read_text())
        wait_for(f"the end of the script that hung ({name})", lambda: gone(pid))
    path.unlink()
    expect(lab, one, "down", "does not exist")
    script(lab, "exit 0", mode=0o644)
    expect(lab, one, "down", "not executable")
    script(lab, "exit 5")
    wait_for("weight 3", lambda: weight(lab, one) == 3)
    check(states(lab)[one.addr][0] == "up", "the server is not up again")
    # It sets the weight, whatever the operator's.
    lab.adm(f"-e -t {VIP}:80 -r {one.addr}:80 -m -w 8")
    wait_for("weight 3 in place of 8", lambda: weight(lab, one) == 3)
    # One that runs when its server goes has nobody left to tell.
    lab.config.write_text(lab.config.read_text().replace('timeout = "500ms"', 'timeout = "90s"'))
    lab.adm("reload")
    (pids / "own").unlink()
    script(lab, f"echo $$ > {pids}/new; mv {pids}/new {pids}/own; exec sleep 600")
    wait_for("the script to run", (pids / "own").exists)
    lab.adm(f"-d -t {VIP}:80 -r {one.addr}:80")
    pid = int((pids / "own").read_text())
    wait_for("the end of a script that nobody waits for", lambda: gone(pid))


def test_scripts_of_root_and_the_end_of_helpers(lab):
    """Root runs nothing that others can write to; a killed helper is replaced; scripts end with rvsd."""
    pids = lab.dir / "pids"
    pids.mkdir(mode=0o777)
    pids.chmod(0o777)
    path = script(lab, f"echo $$ > {pids}/own.new; mv {pids}/own.new {pids}/own; sleep 600")
    service = f'type = "script"\ncommand = ["{path}"]\nuser = "USER"\ntimeout = "10m"'
    start(lab, service.replace("USER", "root"))
    one = lab.servers[0]
    expect(lab, one, "down", "does not run as root: /tmp can be written by everybody")
    check("can be written by everybody" in lab.rvsd.output(), "the start gave no warning")
    text = lab.config.read_text()
    lab.config.write_text(text.replace('user = "root"', 'user = "nobody"'))
    lab.adm("reload")
    first = wait_for("a script that runs", lambda: (pids / "own").exists() and int((pids / "own").read_text()))
    with open(f"/proc/{first}/status") as status:
        lines = status.read().splitlines()
    check("CapEff:\t0000000000000000" in lines, "a script of nobody has capabilities")
    helper = [pid for uid, pid in helpers(lab).items() if uid != 0]
    check(len(helper) == 1, f"helpers that are not root's: {helpers(lab)}")
    (pids / "own").unlink()
    os.kill(helper[0], signal.SIGKILL)
    wait_for("the end of a script whose helper was killed", lambda: gone(first))
    second = wait_for("another script", lambda: (pids / "own").exists() and int((pids / "own").read_text()))
    check(second != first, "the script is the same")
    wait_for("a word about it", lambda: "the helper for scripts of nobody ended (signal: 9" in lab.rvsd.output())
    lasting = list(helpers(lab).values())
    lab.rvsd.signal(signal.SIGKILL)
    for pid in [second, *lasting]:
        wait_for("the end of scripts and helpers after rvsd was killed", lambda: gone(pid))


def test_a_file_decides(lab):
    """FILE_CHECK: a number takes the server out, no number or 0 brings it back."""
    path = lab.dir / "maintenance"
    start(lab, f'type = "file"\npath = "{path}"')
    one = lab.servers[0]
    expect(lab, one, "up", "file up")
    path.write_text("1\n")
    expect(lab, one, "down", "the file holds 1")
    path.write_text("soon\n")
    expect(lab, one, "down", "is not a whole number")
    path.unlink()
    expect(lab, one, "up", "file up")
    text = lab.config.read_text()
    lab.config.write_text(text.replace('type = "file"', 'type = "file"\nweight = 2'))
    path.write_text("3\n")
    lab.adm("reload")
    wait_for("weight 4 + 2 * 3", lambda: weight(lab, one) == 10)


NOTIFY = """
[scripts]
user = "nobody"

[notify.fifo]
lvs = "{dir}/lvs"

[alert.smtp]
to = ["noc@example.org"]
server = "127.0.0.1:1"
connect_timeout = "1s"
"""

NOTES = """
[service.server.notify]
down = ["{script}", "server", "two", "down"]
up = ["{script}", "server", "two", "up"]

[service.notify]
quorum_up = ["{script}", "quorum", "up"]
quorum_down = ["{script}", "quorum", "down"]
"""


def test_everyone_is_told_in_order(lab):
    """Stream, pipe, scripts and `rvsadm events` tell the same in the same order; mail says once that it cannot."""
    out = lab.dir / "out"
    out.touch()
    out.chmod(0o666)
    # The first ones take longest: what is not run in order is written in another.
    note = script(lab, f'[ "$1" = quorum ] || sleep 0.3; echo "$@" >> {out}', name="note.sh")
    flag = lab.dir / "flag"
    check_one = f'type = "file"\npath = "{flag}"'
    check_two = f'\n[[service.server.check]]\ndelay_loop = "100ms"\nwarmup = "0s"\nretry = 0\n{check_one}\n'
    start(lab, check_one, extra=NOTIFY.format(dir=lab.dir), more=check_two + NOTES.format(script=note))
    pipe = os.open(lab.dir / "lvs", os.O_RDONLY | os.O_NONBLOCK)
    one, two = lab.servers
    wait_for("quorum at the start", lambda: "quorum up" in out.read_text())
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(f"{lab.socket}.events")
    lines = stream.makefile()
    check(json.loads(lines.readline())["type"] == "hello", "the stream does not say hello")
    for value, state in (("1", "down"), ("0", "up")):
        flag.write_text(value)
        for server in (one, two):
            expect(lab, server, state)
    wait_for("the last script", lambda: out.read_text().count("\n") == 5)
    told = out.read_text().split("\n")
    check(told[0] == "quorum up" and sorted(told[1:3]) == ["quorum down", "server two down"]
          and sorted(told[3:5]) == ["quorum up", "server two up"], f"scripts wrote {told}")
    events = lab.adm_quiet("events").splitlines()
    check(len(events) == 7, f"events: {events}")
    heard = []
    while len(heard) < 7:
        heard.append(json.loads(lines.readline()))
    check([event["seq"] for event in heard] == list(range(1, 8)), f"the stream: {heard}")
    written = os.read(pipe, 65536).decode().splitlines()
    os.close(pipe)
    check(len(written) >= 6 and f"RS [{two.addr}]:tcp:80 [{VIP}]:tcp:80 DOWN" in written
          and f"VS [{VIP}]:tcp:80 DOWN" in written, f"the pipe: {written}")
    wait_for("a word about the mail server", lambda: "mail server 127.0.0.1:1 takes no mail" in lab.rvsd.output(), 30)
    time.sleep(0)
    check(lab.rvsd.output().count("takes no mail") == 1, "the mail server is complained about more than once")
