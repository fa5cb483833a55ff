"""Health checks: a dead server gets no new connection, a living one comes back, drained ones stay drained."""
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
    for line in lab.adm_quiet("health").splitlines()[1:]:
        words = line.split(None, 4)
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
