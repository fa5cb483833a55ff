"""Changes while requests run: no request may fail."""
import signal
import time

from lab import VIPS, at, check, network, payload_sum, service_text, wait_for


@network(servers=3)
def test_server_added_and_removed_under_load(lab):
    """A server joins, another is deleted after it drained: the load sees no failure."""
    lab.start()
    one, two, three = lab.servers
    vips = lab.service("nat", servers=[one, two])
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips])
    load.answered(50)
    for vip in vips:
        lab.add_real("nat", vip, three)
    load.answered(10, "server 3")
    for vip in vips:
        lab.adm(f"-e -t {at(vip, 80)} -r {at(one.addr6 if ':' in vip else one.addr, 80)} -m -w 0")
    for vip in vips:
        real = at(one.addr6 if ":" in vip else one.addr, 80)
        wait_for(f"{real} to have no active connection", lambda: active(lab, vip, real) == 0)
        lab.adm(f"-d -t {at(vip, 80)} -r {real}")
    load.answered(50)
    report = load.finish()
    check(report["slowest"] < 1.0, f"slowest request {report['slowest']} s: a packet was lost on the way")


def active(lab, vip, real):
    """ActiveConn of a server in `rvsadm -Ln`."""
    service = None
    for line in lab.adm_quiet("-Ln").splitlines()[3:]:
        words = line.split()
        if words[0] != "->":
            service = words[1]
        elif service == at(vip, 80) and words[1] == real:
            return int(words[4])
    return None


def test_quiesced_server_gets_nothing_new(lab):
    """Weight 0: running downloads finish, no new connection reaches the server."""
    lab.start()
    one, two = lab.servers
    for vip in lab.service("nat"):
        slow = lab.client.spawn(["sh", "-c", f"curl -gsSf --limit-rate 4M http://{at(vip, 80)}/files/10m | sha256sum"], "slow")
        other = lab.client.spawn(["sh", "-c", f"curl -gsSf --limit-rate 4M http://{at(vip, 80)}/files/10m | sha256sum"], "slow")
        wait_for("a download on each server", lambda: all(lab.conns(vip, server=server) for server in lab.servers))
        real = at(one.addr6 if ":" in vip else one.addr, 80)
        lab.adm(f"-e -t {at(vip, 80)} -r {real} -m -w 0")
        check(lab.answers(vip, 5) == ["server 2"], "a quiesced server answered a new connection")
        lab.expect_conns(2 + 5, vip)        # everything is counted by now
        check(lab.conns(vip, server=one) == 1, "a new connection was counted for the quiesced server")
        for download in (slow, other):
            check(download.wait(30) == 0 and payload_sum("10m") in download.output(), f"download: {download.output()}")


def test_deleted_server_ends_nothing_else(lab):
    """Deleting a server leaves the connections of the other alone."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    load = lab.load(f"http://{at(vip, 80)}/")
    load.answered(20)
    lab.adm(f"-e -t {at(vip, 80)} -r {lab.servers[0].addr}:80 -m -w 0")
    wait_for("server 1 to drain", lambda: active(lab, vip, f"{lab.servers[0].addr}:80") == 0)
    lab.adm(f"-d -t {at(vip, 80)} -r {lab.servers[0].addr}:80")
    load.answered(50, "server 2")
    load.finish()


@network(servers=2)
def test_a_connection_outlives_the_rule_that_marked_it(lab):
    """`rvsadm mark`: a rule is listed and balances; once it is deleted what is open goes on, and nothing new comes."""
    lab.start()
    for vip, family in zip(VIPS["nat"], ("", " -6")):
        rule = f"destination {vip}/{128 if family else 32} protocol tcp destination-port 80"
        lab.adm(f"-A -f 7{family} -s rr")
        for server in lab.servers:
            lab.adm(f"-a -f 7{family} -r {at(server.addr6 if family else server.addr, 80)} -m")
        lab.adm(f"mark add 7 {rule}")
        listed = lab.adm("mark list")
        check(f"7 {rule}" in " ".join(listed.split()), f"not listed: {listed}")
        check(lab.adm_result(f"mark add 8 {rule}").returncode == 1, "a second mark for the same packets was accepted")
        lab.expect_all_servers(vip)
        slow = lab.client.spawn(["sh", "-c", f"curl -gsSf --limit-rate 4M http://{at(vip, 80)}/files/10m | sha256sum"], "slow")
        wait_for("the download to run", lambda: " ESTABLISHED " in lab.adm_quiet("-Lnc"))
        lab.adm(f"mark delete 7 {rule}")
        check(lab.adm("mark list").split() == [], "the rule is still listed")
        check("server" not in lab.client.curl(f"http://{at(vip, 80)}/", seconds=2, fail=False), "a new connection was balanced without a mark")
        check(slow.wait(30) == 0 and payload_sum("10m") in slow.output(), f"download: {slow.output()}")
        check(lab.adm_result(f"mark delete 7 {rule}").returncode == 1, "a rule was deleted twice")


def timed(what, change, effect, limit=1.0):
    """Carries out a change and checks how soon its effect is seen."""
    began = time.monotonic()
    change()
    wait_for(what, effect)
    took = time.monotonic() - began
    check(took < limit, f"{what}: took {took:.2f} s, has to take effect within {limit} s")


@network(servers=1)
def test_route_changed_under_load(lab):
    """A new route to the servers takes effect within a second and fails no request."""
    lab.start()
    server = lab.servers[0]
    # The server also holds an address outside the back network, reached by a route.
    for family, real, prefix in ((4, "10.77.0.1", "10.77.0.0/24"), (6, "fd77::1", "fd77::/64")):
        vip = VIPS["nat"][family == 6]
        server.ip(f"address add {real}/{128 if family == 6 else 32} dev lo")
        second = f"10.2.0.201/24" if family == 4 else "fd02::201/64 nodad"
        gateway = "10.2.0.201" if family == 4 else "fd02::201"
        server.ip("link add m0 link s0 type macvlan mode bridge", fail=False)
        server.ip("link set m0 up")
        server.ip(f"address add {second.split()[0].split('/')[0]}/{128 if family == 6 else 32} dev m0")
        lab.lb.ip(f"-{family} route add {prefix} via {server.addr6 if family == 6 else server.addr}")
        lab.adm(f"-A -t {at(vip, 80)} -s rr")
        lab.adm(f"-a -t {at(vip, 80)} -r {at(real, 80)} -m")
        load = lab.load(f"http://{at(vip, 80)}/")
        load.answered(20)
        before = received(server, "m0")
        timed("packets on the new path", lambda: lab.lb.ip(f"-{family} route replace {prefix} via {gateway}"),
              lambda: received(server, "m0") > before + 5)
        load.answered(50)
        report = load.finish()
        check(report["slowest"] < 1.0, f"slowest request {report['slowest']} s")


def received(space, device):
    return int(space.run(f"cat /sys/class/net/{device}/statistics/rx_packets").stdout)


@network(servers=1)
def test_neighbour_changed_under_load(lab):
    """The server's MAC changes: traffic follows within a second of the kernel's neighbour entry."""
    lab.start()
    server = lab.servers[0]
    vips = lab.service("nat")
    server.ip("link add m0 link s0 type macvlan mode bridge")
    server.ip("link set m0 up")
    mac = server.run("cat /sys/class/net/m0/address").stdout.strip()
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips])
    load.answered(20)
    for real in (server.addr, server.addr6):
        before = received(server, "m0")
        timed("frames with the new MAC", lambda: lab.lb.ip(f"neighbour replace {real} lladdr {mac} dev tb0 nud permanent"),
              lambda: received(server, "m0") > before + 5)
    load.answered(50)
    report = load.finish()
    check(report["slowest"] < 1.5, f"slowest request {report['slowest']} s")


@network(servers=2)
def test_reload_adds_services(lab):
    """SIGHUP and `rvsadm reload` apply the file as a difference and keep what rvsadm added."""
    lab.start()
    live = lab.service("dr", families=(4,))[0]
    vip = VIPS["nat"][0]
    load = lab.load(f"http://{at(live, 80)}/")
    load.answered(10)
    lab.write_config(services=service_text("tcp", vip, 80, "rr", [(server.addr, 80, "nat", 1) for server in lab.servers]))
    lab.rvsd.signal(signal.SIGHUP)
    wait_for("the service of the file", lambda: ("TCP", at(vip, 80)) in lab.stats())
    lab.expect_all_servers(vip)
    check(("TCP", at(live, 80)) in lab.stats(), "the reload removed a service that rvsadm had added")
    lab.write_config()
    lab.adm("reload")
    check(("TCP", at(vip, 80)) not in lab.stats(), "the service left the file but still runs")
    lab.config.write_text(lab.config.read_text() + "\n[nonsense]\n")
    refused = lab.adm_result("reload")
    check(refused.returncode != 0 and "nonsense" in refused.stdout + refused.stderr, f"a broken file was taken: {refused}")
    check(("TCP", at(live, 80)) in lab.stats(), "a refused reload changed something")
    load.answered(10)
    load.finish()
