"""What the driver of virtual routers has to do with the kernel: groups, addresses that others remove, tracked devices."""
from cases.vrrp_pair import prepared
from lab import check, wait_for
from pair import LINK_LOCAL, VIP, VIP6, instance


def became_master(node, name="v"):
    return node.instance(name)["counters"]["became-master"]


@prepared(servers=0)
def test_an_address_that_somebody_removes(lab, a, b):
    """It is a reason to give way, and then the address comes back; what a reload removes is none."""
    a.rvsd(instance(150, vips=(f"{VIP}/24", "10.1.0.103/24")))
    a.expect("MASTER")
    before = became_master(a)
    a.config.write_text(a.config.read_text().replace("10.1.0.103/24", "10.1.0.104/24"))
    a.adm("reload")
    wait_for("the address of the new file", lambda: a.holds("10.1.0.104") and not a.holds("10.1.0.103"))
    # This one is told after the removals of the reload.
    a.space.ip(f"address delete {VIP}/24 dev tf0")
    wait_for("it to become master once more", lambda: became_master(a) > before)
    wait_for("the address to be back", lambda: a.holds(VIP) and a.holds("10.1.0.104"))
    causes = [word for line in a.program.output().splitlines() for word in line.split() if word.startswith("event=")]
    check(causes.count('event="address-lost"') == 1, f"what a reload removed counted as lost: {causes}")
    check(became_master(a) == before + 1, f"became master {became_master(a)} times")


@prepared(servers=0)
def test_groups_and_the_router_flag(lab, a, b):
    """Interfaces join the groups of adverts, for switches that filter, and leave them; hosts that forward say so."""
    a.space.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    six = instance(150, name="w", vips=(f"{LINK_LOCAL}/64", f"{VIP6}/64"))
    for node, of in ((a, instance(150)), (b, instance(100))):
        node.rvsd(of + six.replace("150", "100") if node is b else of + six)
    for name in "vw":
        a.expect("MASTER", name)
        b.expect("BACKUP", name)

    def joined(node):
        """Of the twin: 224.0.0.18, and ff02::12."""
        four, device = False, ""
        for line in node.space.run("cat /proc/net/igmp").stdout.splitlines()[1:]:
            words = line.split()
            device = words[1] if len(words) > 4 else device
            four |= device == "tf0" and words[0] == "120000E0"
        six = [line.split() for line in node.space.run("cat /proc/net/igmp6").stdout.splitlines()]
        return four, any(words[1] == "tf0" and words[2] == "ff02" + "0" * 26 + "12" for words in six)
    check((joined(a), joined(b)) == ((True, True), (True, True)), f"memberships: {joined(a)}, {joined(b)}")
    flags = {row["router"] for row in lab.seen(kind="na", port=a.wire, addr=VIP6)}
    check(flags == {True}, f"the router flag of the master that forwards: {flags}")
    text = b.config.read_text()
    b.config.write_text(text.replace(six.replace("150", "100"), ""))
    b.adm("reload")
    wait_for("the group of IPv6 to be left", lambda: joined(b) == (True, False))
    a.stop()
    b.config.write_text(text)
    b.adm("reload")
    b.expect("MASTER", "w")
    wait_for("an announcement", lambda: lab.seen(kind="na", port=b.wire, addr=VIP6))
    flags = {row["router"] for row in lab.seen(kind="na", port=b.wire, addr=VIP6)}
    check(flags == {False}, f"the router flag of the master that does not forward: {flags}")


@prepared(servers=0)
def test_tracked_device_and_file_over_reloads(lab, a, b):
    """A device that loses its carrier and a file lower the priority, also of an instance that a reload brings."""
    a.space.ip("link add hb0 type veth peer name hb1")
    for end in ("hb0", "hb1"):
        a.space.ip(f"link set {end} up")
    state = lab.dir / "state"
    state.write_text("20\n")
    track = 'track = [{ kind = "interface", name = "hb0", weight = -50 }, { kind = "file", name = "f", weight = -1 }]'
    file = f'[[track.file]]\nname = "f"\npath = "{state}"\n'
    one, two = (instance(150, name=name, vrid=vrid, vips=(vip,), extra=track)
                for name, vrid, vip in (("v", 51, f"{VIP}/24"), ("w", 52, "10.1.0.102/24")))

    def priorities(*names):
        return [a.instance(name)["priority"] for name in names]
    a.rvsd(one + file)
    a.expect("MASTER")
    wait_for("the file to count", lambda: priorities("v") == [130])
    a.space.ip("link set hb1 down")
    wait_for("the device to count", lambda: priorities("v") == [80])
    a.config.write_text(a.config.read_text().replace(file, two + file))
    a.adm("reload")
    a.expect("MASTER", "w")
    wait_for("both to count for the new one", lambda: priorities("v", "w") == [80, 80])
    # A file that was not watched for a while is told anew, though it says the same.
    text = a.config.read_text()
    a.config.write_text(text.replace(file, "").replace(', { kind = "file", name = "f", weight = -1 }', ""))
    a.adm("reload")
    wait_for("the device alone to count", lambda: priorities("v", "w") == [100, 100])
    a.config.write_text(text)
    a.adm("reload")
    wait_for("both to count again", lambda: priorities("v", "w") == [80, 80])
    a.space.ip("link set hb1 up")
    state.write_text("0\n")
    wait_for("the priorities of the file", lambda: priorities("v", "w") == [150, 150])
    a.space.ip("link delete hb0")
    wait_for("a device that is gone to count", lambda: priorities("v", "w") == [100, 100])
