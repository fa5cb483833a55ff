"""Where RVS is meant to differ from the kernel. Each entry says why; docs/ipvs-compat.md has the same list.

A step that would only show a known deviation is left out before either side sees it. Keep this short: whatever else
differs is a mistake.
"""


def server_spec(line):
    """(service, server, what an -a or -e says about it), with ipvsadm's defaults."""
    words = [word for word in line.split() if word != "-6"]
    spec = {"method": "-g", "-w": "1", "-x": "0", "-y": "0"}
    options = iter(words[5:])
    for word in options:
        if word in ("-m", "-g", "-i"):
            spec["method"] = word
        elif word in ("--tun-csum", "--tun-nocsum", "--tun-remcsum"):
            spec["csum"] = word
        else:
            spec[word] = next(options)
    if spec["method"] == "-i":
        spec.setdefault("--tun-type", "ipip")
    return tuple(words[1:3]), words[4], spec


# Services that are always there. Without a service of a family the kernel lets go of all packets of that family,
# those of connections that still exist, too; RVS goes on with connections as it does while other services are left.
ALWAYS = ["-A -u 10.9.0.8:9 -s rr", "-A -u [fd09::4]:9 -s rr"]

# REVIVED: a SYN ends an old connection with direct routing or a tunnel, and its service is gone, so the host answers with
# a reset. In the kernel that reset passes IPVS in the same moment and gives the connection, whose timer has not run yet,
# its time back. In RVS it has ended. A scenario that gets there is over. The same goes for a packet of the old server
# that comes within a tick of the kernel's: there is a pause behind what may open a known connection anew.

# TOGETHER: a template and its last connection are due within the width of a slot of the kernel's timers (32 ms for times
# up to 2 s, 256 ms up to 16 s, 2 s up to 2 minutes, 16 s up to 17 minutes). In the kernel both end if they are in the same
# slot, otherwise the template gets another minute, and where slots begin depends on when the machine was started. RVS
# goes by the distance. Scenarios that let time pass have no persistence as long as a connection's timeout, and no
# FTP, where control connections have the timeout of their data.

# TRACKED: the kernel tracks FTP's control connections (nf_conntrack), too, and drops what does not fit its own idea of
# TCP: a client's segment before the server has answered, for one. RVS tracks nothing besides IPVS and passes it. Clients
# speak in turn.

# SWEPT: with expire_nodest_conn a deletion sends the kernel through its table, in the order of a hash seeded at boot. A
# template whose server has answered (ASSURED) ends if it comes behind its last connection, and stays if it comes before
# it. In RVS the order is another one. A second deletion ends what the first one left, on both sides.


class Rules:
    """Which lines of a scenario both sides get."""

    def __init__(self):
        self.specs = {}
        self.direct = {}

    def takes(self, line):
        """Two kinds of lines are left out:

        An edit of a server to what it already is changes nothing in RVS: a reload and a health check that repeat
        themselves must not disturb traffic. In the kernel it starts the round of wrr anew.

        A server that changes between direct routing and another method. In the kernel all connections of a server
        share one cached route, and one made for another method has no next hop for direct routing: packets of older
        connections then go to whoever has the virtual address, which nobody has. RVS sends them to the server."""
        words = [word for word in line.split() if word != "-6"]
        if words[0] in ("-a", "-e"):
            service, server, spec = server_spec(line)
            if words[0] == "-e" and self.specs.get((service, server)) == spec:
                return False
            if self.direct.setdefault((service, server), spec["method"] == "-g") != (spec["method"] == "-g"):
                return False
            if words[0] == "-e" or (service, server) not in self.specs:
                self.specs[service, server] = spec
        elif words[0] == "-d":
            self.specs.pop((tuple(words[1:3]), words[4]), None)
        elif words[0] == "-D":
            self.specs = {key: spec for key, spec in self.specs.items() if key[0] != tuple(words[1:3])}
        elif words[0] == "-C":
            self.specs.clear()
        return True
