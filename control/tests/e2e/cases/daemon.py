"""The daemon itself: its file, its admin socket, its errors, its idling, its packet capture."""
import json
import os
import signal
import socket
import struct
import time
from pathlib import Path

from lab import AF_PACKET_PORTS, BIN, Failure, VIPS, at, check, config_text, network, port, run, wait_for


def rvsd(lab, *arguments, seconds=20):
    return run(lab.lb.argv([BIN / "rvsd", *arguments]), seconds, fail=False)


@network(servers=0)
def test_check_config_names_every_mistake(lab):
    """`--check-config`: all mistakes in one run, each with file and line and what was probably meant."""
    lab.write_config()
    result = rvsd(lab, "--check-config", lab.config)
    check(result.returncode == 0, f"a good file was refused: {result.stdout}{result.stderr}")
    text = lab.config.read_text().replace("max_routes", "max_routs")
    text += '\n[[service]]\nprotocol = "tcp"\naddress = "10.1.0.100"\nport = 80\nscheduler = "wlcc"\n'
    lab.config.write_text(text)
    result = rvsd(lab, "--check-config", lab.config)
    told = result.stdout + result.stderr
    check(result.returncode != 0, "a wrong file was accepted")
    for word, meant in (("max_routs", "max_routes"), ("wlcc", "wlc")):
        line = next(number for number, row in enumerate(text.splitlines(), 1) if word in row)
        check(f"{lab.config}:{line}" in told or (str(lab.config) in told and f"line {line}" in told), f"{word}: file and line {line} missing in: {told}")
        check(f'did you mean "{meant}"' in told, f"{word}: no suggestion in: {told}")


@network(servers=0)
def test_missing_file(lab):
    """A configuration file that is not there: one line that names it."""
    result = rvsd(lab, lab.dir / "absent.toml")
    told = (result.stdout + result.stderr).strip()
    check(result.returncode != 0 and "absent.toml" in told and len(told.splitlines()) == 1, f"{result.returncode}: {told}")


@network(servers=0)
def test_check_host(lab):
    """`--check-host` says what this host lacks for a file and how to get it, and changes nothing."""
    lab.config.write_text(config_text(lab.socket, "rvs-none", port("f0", 'pci = "0000:7f:1f.7"'), memory="hugepages"))
    before = open("/proc/sys/vm/nr_hugepages").read()
    result = rvsd(lab, "--check-host", "--config", lab.config)
    told = (result.stdout + result.stderr).lower()
    for topic in ("hugepages", "iommu", "vfio", "locked memory", "isolcpus", "0000:7f:1f.7"):
        check(topic in told, f"nothing is said about {topic}: {told}")
    check(result.returncode != 0, "a NIC that is not there is no failure")
    check(open("/proc/sys/vm/nr_hugepages").read() == before, "a check changed the host")


@network(servers=0)
def test_without_privileges(lab):
    """Started by a user without capabilities: one line says which ones are missing, no panic."""
    lab.socket = lab.dir / "open" / "rvsd.sock"
    lab.socket.parent.mkdir()
    lab.socket.parent.chmod(0o777)
    lab.write_config()
    result = run(lab.lb.argv(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
                              BIN / "rvsd", lab.config]), 20, fail=False)
    told = result.stdout + result.stderr
    check(result.returncode not in (0, 101) and "net_admin" in told.lower(), f"exit {result.returncode}: {told}")
    check("panicked" not in told, told)


@network(servers=0)
def test_missing_interface(lab):
    """A port whose interface does not exist: the error names port and interface."""
    lab.write_config(ports=port("f0", 'af_packet = "nosuch0"'))
    result = rvsd(lab, lab.config, seconds=30)
    told = result.stdout + result.stderr
    check(result.returncode not in (0, 101, -6, -11) and "nosuch0" in told, f"exit {result.returncode}: {told}")


@network(servers=0)
def test_missing_hugepages(lab):
    """More hugepages asked for than there are: the error says how to get them."""
    text = config_text(lab.socket, "rvs-none", AF_PACKET_PORTS, memory="hugepages")
    lab.config.write_text(text.replace('memory = "hugepages"', 'memory = "hugepages"\nmemory_mb = 1048576'))
    result = rvsd(lab, lab.config, seconds=30)
    told = result.stdout + result.stderr
    check(result.returncode not in (0, 101, -6, -11) and "nr_hugepages" in told, f"exit {result.returncode}: {told}")


def guarded(lab):
    """What rvsd does to the device behind a port: its nftables chain, and IPv6 that is off."""
    tables = lab.lb.run(["nft", "list", "tables"]).stdout.strip()
    return tables, lab.lb.run(["cat", "/proc/sys/net/ipv6/conf/f0/disable_ipv6"]).stdout.strip()


@network(servers=0)
def test_a_start_that_is_interrupted_is_undone(lab):
    """SIGTERM while ports are being started: rvsd ends with status 0, and devices are as they were."""
    slow = lab.dir / "slow"
    slow.mkdir()
    (slow / "nft").write_text(f"""#!/bin/sh
        touch {slow}/began
        while [ ! -e {slow}/go ]; do sleep 0.02; done
        PATH=$REAL_PATH exec nft "$@"
    """)
    (slow / "nft").chmod(0o755)
    lab.write_config()
    path = os.environ["PATH"]
    rvsd = lab.lb.spawn([BIN / "rvsd", lab.config], "rvsd", dict(os.environ, PATH=f"{slow}:{path}", REAL_PATH=path))
    wait_for("the first guard", lambda: (slow / "began").exists() or lab._died(rvsd), 30)
    rvsd.signal(signal.SIGTERM)
    (slow / "go").touch()
    status = rvsd.wait(20)
    check(status == 0, f"exit status {status}: {rvsd.output()}")
    check(guarded(lab) == ("", "0"), f"left: {guarded(lab)}")
    check(not lab.socket.exists(), "the admin socket is left")


@network(servers=0)
def test_what_a_killed_daemon_left_is_put_right(lab):
    """kill -9, another start, an orderly end: the device behind a port is as it was before the first start."""
    check(guarded(lab) == ("", "0"), f"before: {guarded(lab)}")
    first = lab.start(addresses=False)
    first.signal(signal.SIGKILL)
    first.wait()
    check(guarded(lab)[1] == "1", "IPv6 is on behind the port")
    second = lab.start(addresses=False)
    check(second.stop() == 0, f"the end: {second.output()}")
    check(guarded(lab) == ("", "0"), f"left: {guarded(lab)}")


@network(servers=0)
def test_second_daemon_is_refused(lab):
    """A second rvsd on the same admin socket: refused with a line that says so; the first goes on."""
    lab.start()
    result = rvsd(lab, lab.config, seconds=30)
    told = result.stdout + result.stderr
    check(result.returncode not in (0, 101, -6, -11) and str(lab.socket) in told, f"exit {result.returncode}: {told}")
    check(lab.adm_result("status").returncode == 0, "the first daemon does not answer any more")


def connect(lab):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(lab.socket))
    return sock


def read_answer(sock):
    """A frame of the admin API, or None if the daemon closed the connection."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return None
        if not more:
            return None
        data += more
    return json.loads(data[4:])


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


@network(servers=1)
def test_admin_socket_survives_abuse(lab):
    """Malformed, oversized, half and stalled requests: a clear error or a closed connection, nobody else is harmed."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    stalled = [connect(lab) for _ in range(20)]
    for sock in stalled:
        sock.sendall(b"\x00\x00")                           # half a length, and then nothing
    for bad in (frame(b"not json"), frame(b"{}"), frame(b'{"version":1,"request":{"op":"no-such"}}'), frame(b'{"version":999,"request":{"op":"version"}}'),
                frame(b""), frame(b"\xff" * 5000), frame(b"[" * 100_000)):
        with connect(lab) as sock:
            sock.sendall(bad)
            answer = read_answer(sock)
            check(answer is None or answer.get("kind") == "error", f"{bad[:60]!r} got {answer}")
    with connect(lab) as sock:
        sock.sendall(struct.pack(">I", 0x7FFFFFFF) + b"x" * 10)
        answer = read_answer(sock)
        check(answer is None or answer.get("kind") == "error", f"an oversized frame got {answer}")
    with connect(lab) as sock:
        sock.sendall(frame(b'{"version":1,"request":{"op":"version"}}')[:-3])   # cut short by a close
    reader = connect(lab)                                   # asks a lot and never reads
    try:
        reader.settimeout(1)
        for _ in range(2000):
            reader.sendall(frame(b'{"version":1,"request":{"op":"status"}}'))
    except OSError:
        pass
    check(lab.client.curl(f"http://{at(vip, 80)}/") == "server 1", "forwarding stopped")
    began = time.monotonic()
    lab.adm("-Ln")
    check(time.monotonic() - began < 2, "another client had to wait")
    for sock in (*stalled, reader):
        sock.close()


@network(servers=0)
def test_admin_socket_is_private(lab):
    """The socket's default mode is 0600."""
    lab.start()
    mode = lab.socket.stat().st_mode & 0o777
    check(mode == 0o600, f"mode {mode:o}")


def cpu_seconds(pid):
    words = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@network(servers=1)
def test_idle_costs_little(lab):
    """An idle rvsd does not poll without a rest.

    A worker that never sleeps takes a whole core. How little a sleeping one takes is measured by
    `make bench-idle` on a quiet machine; here other work shares the cores and makes each waking dearer.
    """
    lab.start()
    lab.service("nat")
    lab.expect_all_servers(VIPS["nat"][0], 2)
    measured = []

    def below():
        start, before = time.monotonic(), cpu_seconds(lab.rvsd.pid)
        while time.monotonic() - start < 3:
            time.sleep(0.1)             # the measurement itself: CPU time over three seconds
        measured.append(round((cpu_seconds(lab.rvsd.pid) - before) / (time.monotonic() - start) * 100, 1))
        return measured[-1] < 40
    try:
        wait_for("an idle interval below 40 % CPU", below, 12)
    except Failure:
        raise Failure(f"idle: {measured} % of a core, measured over 3 s each") from None
    print(f"         idle: {measured[-1]} % of a core")


@network(servers=1)
def test_capture(lab):
    """`rvsadm capture` writes pcapng with both directions of a request, and the reason of each drop."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    file = lab.dir / "capture.pcapng"
    capture = lab.spawn(lab.adm_argv(["capture", "f0", str(file), "--packets", "200", "--seconds", "60"]), "capture")
    wait_for("the capture to start", lambda: file.exists())
    lab.expect_all_servers(vip, 2)
    lab.client.ip(f"neighbour replace {vip} lladdr 02:00:00:00:99:99 dev c0 nud permanent")
    lab.client.run(["curl", "-s", "-m", "1", f"http://{vip}/"], fail=False)
    capture.signal(2)
    capture.wait(20)

    def content():
        data = file.read_bytes()
        return data if b"GET / HTTP" in data and b"server 1" in data and b"not-our-mac" in data else None
    check(wait_for("request, answer and drop reason in the file", content)[:4] == b"\x0a\x0d\x0d\x0a", "not a pcapng file")


@network(servers=1)
def test_listing_and_saving(lab):
    """-Sn and -R are each other's inverse; --json is JSON; -Z zeroes."""
    lab.start()
    lab.service("nat")
    lab.service("dr", port=53, protocol="udp", scheduler="wlc")
    saved = lab.adm("-Sn")
    lab.adm("-C")
    check(lab.adm("-Sn").strip() == "", "services are left after -C")
    lab.adm("-R", stdin=saved)
    check(lab.adm("-Sn") == saved, f"saved and restored differ:\n{saved}\n{lab.adm('-Sn')}")
    json.loads(lab.adm("--json -Ln"))
    lab.expect_all_servers(VIPS["nat"][0], 2)
    lab.expect_conns(2, VIPS["nat"][0])
    rows = lab.adm("-Lnc")
    check("10.1.0.2" in rows and rows.startswith("IPVS connection entries"), rows)
    lab.adm("-Z")
    lab.expect_conns(0, VIPS["nat"][0])


@network(servers=0)
def test_service_on_a_missing_address_warns(lab):
    """-A for an address that no port holds: accepted, with a warning; live as soon as the address is there."""
    lab.start()
    result = lab.adm_result("-A -t 10.1.0.250:80 -s rr")
    check(result.returncode == 0 and "10.1.0.250" in result.stderr, f"exit {result.returncode}, stderr: {result.stderr!r}")
    lab.lb.ip("address add 10.1.0.250/32 dev tf0")
    refused = wait_for("a refusal by the service without server", lambda: lab.client.run(
        ["curl", "-gsS", "-m", "2", "http://10.1.0.250/"], fail=False).returncode == 7)
    check(refused, "")


@network(servers=1)
def test_malformed_packets(lab):
    """Truncated packets and wrong IPv4 header checksums are dropped by name; requests go on."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    lab.peer(lab.client, "malformed.py", "c0", lab.lb.run("cat /sys/class/net/tf0/address").stdout.strip(), vip)
    for reason in ("bad-checksum", "truncated"):
        wait_for(f"a drop named {reason}", lambda: lab.drops(reason) > 0)
    lab.expect_all_servers(vip, 2)


@network(servers=0)
def test_usual_limits_suffice(lab):
    """rvsd runs under the usual limits (memlock 8 MiB, 1024 files) on virtual ports."""
    lab.write_config()
    lab.rvsd = lab.lb.spawn(["prlimit", "--memlock=8388608:8388608", "--nofile=1024:1024", BIN / "rvsd", lab.config], "rvsd")
    lab.wait_ready()


@network(servers=0)
def test_the_pump_goes_before_other_threads(lab):
    """What carries adverts and ARP to the wire has ten nice levels on the thread that lists and reloads."""
    lab.start()

    def niceness(thread):
        # Behind the name in brackets: the seventeenth word.
        return int((thread / "stat").read_text().rsplit(")", 1)[1].split()[16])
    threads = {(task / "comm").read_text().strip(): niceness(task) for task in Path(f"/proc/{lab.rvsd.pid}/task").iterdir()}
    usual = threads["rvs-checks"]
    check(threads["rvs-pump"] == max(usual - 10, -20) and threads["rvsd"] == usual, f"niceness of threads: {threads}")
