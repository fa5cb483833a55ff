"""Health checks that ask for the virtual address at each server, by the way that clients' packets take."""
from cases.health import expect
from cases.https import GOOD, certificates
from lab import VIPS, check, wait_for

PROBE, PROBE6 = "10.1.0.7", "fd01::7"

HEALTH = f"""
[health]
probe_addresses = ["{PROBE}", "{PROBE6}"]
"""

SERVICE = """
[[service]]
protocol = "tcp"
address = "{vip}"
port = {port}
scheduler = "rr"

[[service.check]]
type = "{kind}"
{via}
delay_loop = "200ms"
delay_before_retry = "50ms"
warmup = "0s"
timeout = "1s"
{extra}
"""

SERVER = """
[[service.server]]
address = "{addr}"
method = "{method}"
"""


def service(lab, vip, method, kind="tcp", port=80, via='via = "vip"', extra=""):
    servers = lab.servers if ":" not in vip else []
    text = SERVICE.format(vip=vip, port=port, kind=kind, via=via, extra=extra)
    return text + "".join(SERVER.format(addr=server.addr, method=method) for server in servers)


def start(lab, services, **config):
    lab.start(services=services, extra=HEALTH, **config)
    # Until this host holds the address nobody can answer, which says nothing about servers.
    wait_for("the log to say it", lambda: "does not hold the probe address" in lab.rvsd.output())
    check("down" not in [line.split()[0] for line in lab.adm_quiet("health").splitlines() if line], lab.adm_quiet("health"))
    lab.lb.batch(f"address add {PROBE}/32 dev tf0", f"address add {PROBE6}/128 dev tf0 nodad")


def take(server, vip):
    """The server does not hold the virtual address any more."""
    server.ip(f"address del {vip}/32 dev lo")


def give(server, vip):
    server.ip(f"address add {vip}/32 dev lo")


def test_a_dr_server_without_the_virtual_address(lab):
    """Its own address answers and a plain check passes; asked for the virtual address it fails, until it has it again."""
    vip = VIPS["dr"][0]
    lab.start(services=service(lab, vip, "dr", via=""), extra=HEALTH)
    lab.lb.ip(f"address add {PROBE}/32 dev tf0")
    one, two = lab.servers
    expect(lab, one, "up", "tcp up")
    take(one, vip)
    lab.lb.run("sleep 1")
    check("via vip" not in lab.adm("health"), "a plain check asks for no virtual address")
    expect(lab, one, "up", "tcp up")
    text = lab.config.read_text()
    lab.config.write_text(text.replace('type = "tcp"\n', 'type = "tcp"\nvia = "vip"\n'))
    lab.adm("reload")
    expect(lab, one, "down", "answer to the SYN in time")
    expect(lab, two, "up", f"tcp up (via vip {vip}:80 from {PROBE})")
    check(lab.answers(vip, 4) == ["server 2"], "who answers without server 1")
    give(one, vip)
    expect(lab, one, "up", "tcp up")
    check(lab.answers(vip, 4) == ["server 1", "server 2"], "who answers with server 1 back")


def test_a_tun_server_without_the_virtual_address(lab):
    """Probes are wrapped as clients' packets are; a server that cannot take them apart fails, too. Two workers."""
    vip = VIPS["tun"][0]
    start(lab, service(lab, vip, "tun", kind="http", extra='regex = "^server"'), worker="cores = [0, 1]")
    one, two = lab.servers
    lab.decapsulate([one, two])
    for server in lab.servers:
        expect(lab, server, "up", "http up")
    check(lab.answers(vip, 4) == ["server 1", "server 2"], "who answers")
    take(one, vip)
    expect(lab, one, "down", "in time")
    give(one, vip)
    expect(lab, one, "up", "http up")
    two.decap.stop()
    expect(lab, two, "down", "answer to the SYN in time")
    check(lab.answers(vip, 4) == ["server 1"], "who answers without server 2")


def test_what_the_web_server_says_for_the_virtual_address(lab):
    """HTTP and HTTPS by the virtual address: refused, a wrong page, several pages on connections of their own."""
    vip = VIPS["dr"][0]
    directory = certificates(lab)
    one, two = lab.servers
    tls = lab.peer(one, "tls.py", 8443, directory, GOOD)
    text = service(lab, vip, "dr", kind="https", port=8443,
                   extra=f'sni = "{GOOD}"\nhost = "{GOOD}"\npaths = ["/", "/more"]\nverify = true\nca_file = "{directory}/ca.pem"')
    start(lab, text)
    expect(lab, one, "up", "https up")
    expect(lab, two, "down", "connection refused")
    tls.stop()
    expect(lab, one, "down", "connection refused")
    text = lab.config.read_text()
    config = text[:text.index("[[service]]")] + service(lab, vip, "dr", kind="http", extra='paths = ["/", "/nosuch"]')
    lab.config.write_text(config)
    lab.adm("reload")
    expect(lab, one, "down", "status 404 for /nosuch")
    lab.config.write_text(config.replace('"/nosuch"', '"/"'))
    lab.adm("reload")
    expect(lab, one, "up", "http up")
    # nginx saw the virtual address asked, and by the probe address.
    access = (lab.dir / one.short / "access.log").read_text()
    check(f"{PROBE} - " in access, f"who asked: {access[-300:]}")


def test_ipv6_pings_and_a_standby(lab):
    """The other family; a ping of the probe address is the kernel's; a standby checks, too."""
    vip = VIPS["dr"][1]
    text = SERVICE.format(vip=vip, port=80, kind="http", via='via = "vip"', extra="")
    for server in lab.servers:
        text += SERVER.format(addr=server.addr6, method="dr")
    start(lab, text)
    one, two = lab.servers

    def alive(server):
        for line in lab.adm_quiet("health").splitlines():
            if f"[{server.addr6}]" in line and "not checked" not in line:
                return line.split()[0]
        return None
    for server in lab.servers:
        wait_for(f"{server.addr6} to be up", lambda: alive(server) == "up")
    one.ip(f"-6 address del {vip}/128 dev lo")
    wait_for(f"{one.addr6} to be down", lambda: alive(one) == "down")
    one.ip(f"-6 address add {vip}/128 dev lo nodad")
    wait_for(f"{one.addr6} to be up", lambda: alive(one) == "up")
    lab.client.run(f"ping -c 1 -W 5 {PROBE}", seconds=10)
    # A standby, which does not hold the virtual address, finds the same.
    lab.lb.ip(f"-6 address del {vip}/128 dev tf0")
    one.nginx.stop()
    wait_for(f"{one.addr6} to be down", lambda: alive(one) == "down")
    check(alive(two) == "up", "the other one")
