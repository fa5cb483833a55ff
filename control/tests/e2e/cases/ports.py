"""Every kind of port opens and forwards. The far side of a shared-memory port is DPDK's own testpmd."""
from lab import AF_PACKET_PORTS, at, check, need_programs, network, port, wait_for


def testpmd(lab, vdev):
    """testpmd in a namespace of its own, passing frames between `vdev` and the front network, in f0's place."""
    need_programs("dpdk-testpmd")
    if not hasattr(lab, "far"):
        lab.lb.ip("link set f0 down")
        lab.far = lab.space("far")
        lab.far.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
        lab.cable(lab.far, "p0", "front")
    pipe = lab.dir / f"testpmd.{len(lab.programs)}"
    words = ["dpdk-testpmd", "--lcores=0@0,1@0", "--no-huge", "-m", "256", "--no-pci", f"--file-prefix={lab.far.name}", "--no-telemetry",
             f"--vdev={vdev}", "--vdev=net_af_packet0,iface=p0",
             "--", "--total-num-mbufs=8192", "--forward-mode=io", "--auto-start", "--no-lsc-interrupt", "-i"]
    # A console that never ends: testpmd leaves when its input does.
    program = lab.far.spawn(["sh", "-c", f"mkfifo {pipe}; exec 3<>{pipe}; exec \"$@\" <&3", "sh", *words], "testpmd")
    wait_for("testpmd", lambda: "testpmd>" in program.output() or lab._died(program), 30)
    return program


def answers_by(lab, vips):
    """Polls for the first answer (a shared-memory link comes up a little after the start), then expects each one."""
    for vip in vips:
        wait_for(f"an answer from {vip}", lambda: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2))
        lab.expect_all_servers(vip, 4)
        lab.download(vip, "1m")


def test_af_xdp(lab):
    """Both ports on AF_XDP sockets."""
    lab.start(ports=port("f0", 'af_xdp = "f0"') + port("b0", 'af_xdp = "b0"'))
    answers_by(lab, lab.service("nat"))


def test_memif(lab):
    """The front port is a memif; testpmd carries its frames to the front network."""
    socket = lab.dir / "memif.sock"
    mac = "02:00:00:00:0a:01"
    lab.write_config(ports=port("f0", f'memif = {{ socket = "{socket}", id = 0, role = "server" }}\nmac = "{mac}"') +
                     port("b0", 'af_packet = "b0"'))
    lab.start(addresses=False)
    testpmd(lab, f"net_memif0,id=0,role=client,socket={socket},socket-abstract=no")
    lab.put_addresses()
    answers_by(lab, lab.service("nat"))


def test_vhost_user(lab):
    """The front port is a virtio-user on a vhost-user socket that testpmd listens on."""
    socket = lab.dir / "vhost.sock"
    testpmd(lab, f"net_vhost0,iface={socket},queues=1")
    lab.start(ports=port("f0", f'vhost_user = "{socket}"\nmac = "02:00:00:00:0a:02"') + port("b0", 'af_packet = "b0"'))
    answers_by(lab, lab.service("nat"))


def test_peer_of_memif_goes_away(lab):
    """The other side of a memif dies: the link goes down, rvsd stays; it comes back: requests work again."""
    socket = lab.dir / "memif.sock"
    lab.write_config(ports=port("f0", f'memif = {{ socket = "{socket}", id = 0, role = "server" }}\nmac = "02:00:00:00:0a:01"') +
                     port("b0", 'af_packet = "b0"'))
    lab.start(addresses=False)
    link = lambda: next(view["link"] for view in lab.status()["ports"] if view["name"] == "f0")  # noqa: E731
    check(not link(), "the link is up although nobody is connected")
    vdev = f"net_memif0,id=0,role=client,socket={socket},socket-abstract=no"
    peer = testpmd(lab, vdev)
    wait_for("the link to come up", link)
    lab.put_addresses()
    peer.stop()
    wait_for("the link to go down", lambda: not link())
    wait_for("the twin's carrier to go down", lambda: "NO-CARRIER" in lab.lb.ip("link show tf0"))
    testpmd(lab, vdev)
    answers_by(lab, lab.service("nat", families=(4,)))


@network(servers=1)
def test_pcap_and_null(lab):
    """A pcap port reads frames from a file and writes what it sends; a null port opens beside it."""
    import struct
    # A pcap file with one ARP request for the port's address is enough to see both directions.
    frame = bytes.fromhex("ffffffffffff" "020000000001" "0806" "0001080006040001" "020000000001") + bytes([10, 1, 0, 2]) + b"\0" * 6 + bytes([10, 1, 0, 1])
    frame = frame.ljust(60, b"\0")
    records = b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for _ in range(3))
    source, sink = lab.dir / "in.pcap", lab.dir / "out.pcap"
    source.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + records)
    lab.start(ports=AF_PACKET_PORTS + port("p0", f'pcap = {{ rx = "{source}", tx = "{sink}", infinite = true }}') + port("n0", "null = {}"))

    def counter(name, key):
        return dict(next(view["counters"] for view in lab.status()["ports"] if view["name"] == name)).get(key, 0)
    wait_for("packets from the file", lambda: counter("p0", "rx") > 0)
    lab.lb.ip("link set tp0 up")
    lab.lb.ip("address add 10.1.0.1/32 dev tp0")
    wait_for("packets to the file", lambda: counter("p0", "tx") > 0)
    check(any(view["name"] == "n0" for view in lab.status()["ports"]), "the null port is not listed")
    for vip in lab.service("nat"):
        lab.expect_all_servers(vip, 2)
