"""rvsd in the emulated host (guest.py): the guest is the balancer."""
import json

from lab import BIN, Died, address_commands, config_text, port, wait_for

SOCKET = "/run/rvsd.sock"
HUGEPAGES = 'memory = "hugepages"'


def in_hugepages(ports, **config):
    """A configuration as the lab's, but with buffers in hugepages."""
    text = config_text(SOCKET, "rvs", ports, memory="hugepages", **config)
    return text.replace(HUGEPAGES, HUGEPAGES + "\nmemory_mb = 256")


class GuestBalancer:
    """rvsd in the guest; as a context it shows what rvsd said if something fails."""

    def __init__(self, guest):
        self.guest = guest

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print("---- rvsd in the guest\n" + self.log())

    def adm(self, arguments, seconds=30):
        return self.guest.sh(f"{BIN}/rvsadm --socket {SOCKET} {arguments}", seconds)

    def launch(self, text):
        """Starts rvsd with this configuration and waits until it answers."""
        self.guest.sh(f"cat > /run/rvsd.toml <<'END'\n{text}\nEND\n"
                      f"rm -f /run/rvsd.exit\n({BIN}/rvsd /run/rvsd.toml > /run/rvsd.log 2>&1 & echo $! > /run/rvsd.pid; "
                      "wait $!; echo $? > /run/rvsd.exit) &")
        wait_for("rvsd in the guest", self.ready, 90)

    def start(self, nics, faces=("both", "both"), worker='idle = "adaptive"', addresses=None, **config):
        """On NICs. `addresses`: `ip` commands that give the twins theirs; without, those of a lab's balancer."""
        ports = "".join(port(name, f'pci = "{nic.pci}"\nfaces = "{side}"') for name, nic, side in zip(("f0", "b0"), nics, faces))
        self.launch(in_hugepages(ports, worker=worker, **config))
        commands = addresses or ["link set tf0 up", "link set tb0 up", *address_commands("tf0", "tb0")]
        self.guest.sh("ip -batch - <<'END'\n" + "\n".join(commands) + "\nEND")

    def ready(self):
        status, output = self.guest.run(f"if [ -e /run/rvsd.exit ]; then exit 99; fi; {BIN}/rvsadm --socket {SOCKET} status", 30)
        if status == 99:
            raise Died("rvsd in the guest ended: " + self.log())
        return status == 0

    def pid(self):
        return int(self.guest.sh("cat /run/rvsd.pid"))

    def status(self):
        return json.loads(self.adm("--json status"))

    def log(self):
        return self.guest.run("tail -40 /run/rvsd.log")[1]

    def stop(self):
        """SIGTERM, and back to a host without twins."""
        self.guest.sh("kill $(cat /run/rvsd.pid)")
        wait_for("rvsd in the guest to end with status 0", lambda: self.guest.run("cat /run/rvsd.exit")[1].strip() == "0", 30)
        self.guest.sh("for twin in tf0 tb0; do ip link delete $twin; done")
