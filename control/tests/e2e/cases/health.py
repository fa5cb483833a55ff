"""Health checks: a dead server gets no new connection, a living one comes back, drained ones stay drained."""
import json
import signal

from lab import check, network, wait_for

VIP = "10.1.0.100"

SERVICE = """
[[service]]
protocol = "tcp"
address = "10.1.0.100"
port = 80
scheduler = "rr"

[[service.check]]
type = "{kind}"
delay_loop = "200ms"
delay_before_retry = "50ms"
warmup = "0s"
timeout = "1s"
{extra}
"""

SERVER = """
[[service.server]]
address = "{addr}"
method = "nat"
"""


def start(lab, kind="http", extra='paths = ["/"]'):
    servers = "".join(SERVER.format(addr=server.addr) for server in lab.servers)
    lab.start(services=SERVICE.format(kind=kind, extra=extra) + servers)


def states(lab):
    """State of each server by its address, and what its check says."""
    found = {}
    for line in lab.adm_quiet("health").split("\n\n")[0].splitlines()[1:]:
        words = line.split(None, 4)
        # Lines about pools say something else.
        if len(words) < 5 or words[0] not in ("up", "down"):
            continue
        found[words[3].split(":")[0]] = (words[0], words[4])
    return found


def expect(lab, server, state, word=""):
    def stands():
        now = states(lab).get(server.addr, ("", ""))
        return now[0] == state and word in now[1] and "not checked" not in now[1]
    wait_for(f"{server.addr} to be {state} ({word})", stands)


@network(servers=3)
def test_a_dead_server_is_left_out_and_comes_back(lab):
    """nginx of one server is stopped and started under load: requests fail only until the check sees it."""
    start(lab)
    one, two, three = lab.servers
    for server in lab.servers:
        expect(lab, server, "up", "http up")
    one.nginx.stop()
    expect(lab, one, "down", "connection refused")
    check(lab.answers(VIP, 9) == ["server 2", "server 3"], "a dead server was asked")
    # The operator drains a second one: its check passes and changes nothing about that.
    lab.adm(f"-e -t {VIP}:80 -r {two.addr}:80 -m -w 0")
    check(lab.answers(VIP, 5) == ["server 3"], "a drained server was asked")
    lab.nginx(one, "server 1")
    expect(lab, one, "up", "http up")
    expect(lab, two, "up", "http up")
    check(lab.answers(VIP, 6) == ["server 1", "server 3"], "who answers after server 1 came back")


def test_a_silent_server_and_a_reload(lab):
    """A server whose packets are lost is down after the deadline; a reload with another pace keeps that."""
    start(lab, kind="tcp", extra="")
    one, two = lab.servers
    for server in lab.servers:
        expect(lab, server, "up", "tcp up")
    one.run(["nft", "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; policy accept; }; "
             "add rule inet deaf in tcp dport 80 drop"])
    expect(lab, one, "down", "answer to the SYN in time")
    text = lab.config.read_text()
    lab.config.write_text(text.replace('"200ms"', '"150ms"'))
    lab.adm("reload")
    check(states(lab)[one.addr][0] == "down", "a reload made a dead server alive")
    check(lab.answers(VIP, 4) == ["server 2"], "a dead server was asked")
    one.run(["nft", "delete table inet deaf"])
    expect(lab, one, "up", "tcp up")
    lab.config.write_text(text[:text.index("[[service.check]]")] + text[text.index("[[service.server]]"):])
    lab.adm("reload")
    check(states(lab) == {}, "servers are checked that should not be")


FAULTY = {
    # kind: the port of the service, its protocol, more keys, what each way to fail is called
    "http": (80, "tcp", 'paths = ["/"]',
             {"hang": "in time", "half": "closed", "wrong": "status 503 for /", "drip": "in time"}),
    "smtp": (25, "tcp", "", {"hang": "no banner in time", "half": "closed", "wrong": "554 go away", "drip": "in time"}),
    "dns": (53, "udp", "", {"hang": "in time", "half": "in time", "wrong": "DNS error 2", "unknown": "DNS error 3"}),
    "udp": (7, "udp", 'payload = "2a"\nreply = "8x 00"\nreply_min = 2', {"hang": "in time", "half": "", "wrong": ""}),
}


def check_of(lab, kind):
    for server in json.loads(lab.adm_quiet("health --json"))["servers"]:
        if server["checks"] and server["checks"][0]["type"] == kind:
            return server["alive"], server["checks"][0]
    return False, {}


@network(servers=1)
def test_every_way_to_fail(lab):
    """HTTP, SMTP, DNS and UDP servers that refuse, hang, stop half-way, answer wrongly or drip are named so, and come back."""
    services, peers, server = "", {}, lab.servers[0]
    for kind, (port, protocol, keys, _) in FAULTY.items():
        (lab.dir / kind).write_text("good")
        peers[kind] = lab.peer(server, "faulty.py", kind, 8000 + port, lab.dir / kind)
        services += f"""
[[service]]
protocol = "{protocol}"
address = "{VIP}"
port = {port}
[[service.check]]
type = "{kind}"
delay_loop = "200ms"
delay_before_retry = "50ms"
warmup = "0s"
timeout = "400ms"
{keys}
[[service.server]]
address = "{server.addr}"
port = {8000 + port}
method = "nat"
"""
    lab.start(services=services)

    def expect_check(kind, alive, word=""):
        def stands():
            is_alive, found = check_of(lab, kind)
            return found.get("has_run") and is_alive == alive and word in found.get("failure", "")
        wait_for(f"{kind} to be {'up' if alive else 'down'} ({word})", stands)

    for kind, (port, _, _, ways) in FAULTY.items():
        expect_check(kind, True)
        for way, word in ways.items():
            (lab.dir / kind).write_text(way)
            expect_check(kind, False, word)
            (lab.dir / kind).write_text("good")
            expect_check(kind, True)
        peers[kind].stop()
        expect_check(kind, False, "connection refused")


SORRY = """
quorum = 2
sorry_server = { address = "10.2.0.13", method = "nat" }
"""


@network(servers=3)
def test_a_sorry_server_below_quorum(lab):
    """Below quorum the sorry server answers, and quorum brings the others back, as soon as the checks see it."""
    service = SERVICE.format(kind="http", extra='paths = ["/"]').replace('scheduler = "rr"\n', 'scheduler = "rr"' + SORRY)
    one, two, _ = lab.servers
    lab.start(services=service + SERVER.format(addr=one.addr) + SERVER.format(addr=two.addr))
    for server in (one, two):
        expect(lab, server, "up", "http up")
    check(lab.answers(VIP, 6) == ["server 1", "server 2"], "who answers while all live")
    one.nginx.stop()
    expect(lab, one, "down", "connection refused")
    check(lab.answers(VIP, 6) == ["server 3"], "who answers below quorum")
    pool = json.loads(lab.adm_quiet("health --json"))["pools"][0]
    check((pool["has_quorum"], pool["weight"], pool["sorry"]["serves"]) == (False, 1, True), f"pool {pool}")
    check("quorum-down" in lab.rvsd.output(), "the log has no word of the lost quorum")
    lab.nginx(one, "server 1")
    expect(lab, one, "up", "http up")
    check(lab.answers(VIP, 6) == ["server 1", "server 2"], "who answers after quorum is gained")


def test_clients_leave_a_failed_server(lab):
    """A persistent client goes elsewhere once its server failed, and stays with it if the file says so."""
    start(lab)
    text = lab.config.read_text()
    lab.config.write_text(text.replace('scheduler = "rr"', 'scheduler = "rr"\npersistence_timeout = 300'))
    lab.adm("reload")
    for server in lab.servers:
        expect(lab, server, "up", "http up")
    mine = lab.client.curl(f"http://{VIP}/")
    check(lab.answers(VIP, 3) == [mine], "the client is not kept")
    server = next(s for s in lab.servers if f"server {s.number}" == mine)
    other = next(f"server {s.number}" for s in lab.servers if s is not server)
    server.nginx.stop()
    expect(lab, server, "down", "connection refused")
    check(lab.answers(VIP, 3) == [other], "the client did not leave its dead server")
    # As keepalived does it: weight 0, and templates lead there.
    lab.config.write_text(lab.config.read_text().replace('scheduler = "rr"', 'scheduler = "rr"\nreschedule_failed = false'))
    lab.adm("reload")
    lab.nginx(server, mine)
    expect(lab, server, "up", "http up")
    check(lab.answers(VIP, 3) == [other], "the client left the server that it has now")
    other = next(s for s in lab.servers if s is not server)
    other.nginx.stop()
    expect(lab, other, "down", "connection refused")
    failed = lab.client.run(["curl", "-gsS", "-m", "3", f"http://{VIP}/"], fail=False)
    check(failed.returncode == 7, f"the template does not lead to the dead server: {failed}")


@network(servers=2)
def test_a_drain_under_load_loses_nothing(lab):
    """A server is drained and stopped under load without a failed request, and stays drained over reload and restart."""
    lab.write_config(services=SERVICE.format(kind="http", extra='paths = ["/"]')
                     + "".join(SERVER.format(addr=server.addr) for server in lab.servers),
                     extra=f'[state]\ndirectory = "{lab.dir}/state"')
    (lab.dir / "state").mkdir()
    lab.start()
    one, two = lab.servers
    for server in lab.servers:
        expect(lab, server, "up", "http up")
    report = lab.dir / "load.json"
    load = lab.peer(lab.client, "load.py", "--report", report, f"http://{VIP}/")
    tally = lambda: json.loads(report.read_text()) if report.exists() else {"by": {}}
    wait_for("answers of both servers", lambda: len(tally()["by"]) == 2)
    text = lab.adm(f"drain {one.addr} --deadline 2s", seconds=30)
    check("it is safe to switch it off" in text.splitlines()[-1], f"drain ends with {text!r}")
    before = tally()["by"]
    one.nginx.stop()
    wait_for("more answers", lambda: tally()["by"]["server 2"] > before["server 2"] + 50)
    load.signal(signal.SIGTERM)
    load.wait()
    end = tally()
    check(end["failed"] == 0, f"{end['failed']} requests failed: {end['errors']}")
    check(end["by"]["server 1"] - before["server 1"] <= 4, "a drained server was given new connections")
    # Its check passes again, and changes nothing; nor does a reload, nor another start.
    lab.nginx(one, "server 1")
    expect(lab, one, "up", "http up")
    check(lab.answers(VIP, 4) == ["server 2"], "a check brought a drained server back")
    lab.adm("reload")
    check(lab.answers(VIP, 4) == ["server 2"], "a reload brought a drained server back")
    lab.rvsd.stop()
    lab.start(addresses=False)
    for server in lab.servers:
        expect(lab, server, "up", "http up")
    check(lab.answers(VIP, 4) == ["server 2"], "a restart brought a drained server back")
    check(f"{one.addr}:80 of tcp {VIP}:80" in lab.adm("drain"), "`drain` does not list it")
    lab.adm(f"undrain {one.addr}:80")
    check(lab.answers(VIP, 4) == ["server 1", "server 2"], "undrain")
    missing = lab.adm_result("drain 10.2.0.99")
    check(missing.returncode == 1 and "no service has a server" in missing.stderr, f"{missing}")
    # A long download: it goes on until the deadline, and ends there.
    lab.adm(f"drain {two.addr} --no-wait")
    slow = lab.client.spawn(["curl", "-gsS", "-m", "60", "--limit-rate", "1k", f"http://{VIP}/files/10m"], "slow")
    active = lambda: [line.split()[4] for line in lab.adm_quiet("-Ln").splitlines() if f"{one.addr}:80" in line]
    wait_for("an active connection", lambda: active() == ["1"])
    lab.adm(f"drain {one.addr} --no-wait")
    wait_for("a second of the drain", lambda: json.loads(
        lab.adm_quiet(f"drain {one.addr} --json"))["servers"][0]["since"] >= 1)
    check(slow.running(), "the drain ended a connection before its deadline")
    text = lab.adm(f"drain {one.addr} --deadline 1s", seconds=30)
    check("it is safe to switch it off" in text.splitlines()[-1], f"drain ends with {text!r}")


@network(servers=1)
def test_a_server_that_does_not_answer_pings(lab):
    """Echoes that are lost, and those that are refused, take it out; the first one that comes back brings it back."""
    start(lab, kind="ping", extra="")
    one = lab.servers[0]
    expect(lab, one, "up", "ping up")
    for verdict, word in (("drop", "in time"), ("reject with icmp type host-prohibited", "")):
        one.run(["nft", "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
                 f"add rule inet deaf in ip protocol icmp icmp type echo-request {verdict}"])
        expect(lab, one, "down", word)
        one.run(["nft", "delete table inet deaf"])
        expect(lab, one, "up", "ping up")
