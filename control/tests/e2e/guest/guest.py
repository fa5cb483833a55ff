"""The emulated host: qemu with a virtual IOMMU, Debian's kernel and this machine's own file tree.

    with Guest(dir, nics=[Nic("virtio-net-pci", tap, slot, mac), ...], space=...) as guest:
        guest.sh("lspci")

The kernel package is fetched by its name and only unpacked (packages.py). The initramfs holds busybox and the modules that 9p needs; the rest of the system is this machine's file tree,
read-only over 9p, under a tmpfs. So whatever runs here runs there, and the kernel's other modules load by
themselves. Commands travel over a virtio-serial port (agent.py), which uses up no network.
"""
import gzip
import json
import shutil
import socket
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
from lab import Failure, PATIENCE, Program, wait_for  # noqa: E402
from packages import kernel  # noqa: E402

BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
# A TCG guest on a busy machine may take a minute to boot; 10 s is usual.
BOOT_SECONDS = 120


def cpio(entries):
    """A "newc" archive of (name, mode, content), which is what the kernel unpacks at boot."""
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(tree, version):
    """busybox, init and the boot modules in the order in which they load."""
    modules = tree / "lib/modules" / version
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _, rest = line.partition(":")
        needs[Path(module).name.split(".ko")[0].replace("-", "_")] = [module, *rest.split()]
    order = []
    for name in BOOT_MODULES:
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    directories = [(name, 0o040755, b"") for name in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "root")]
    files = [("bin/busybox", 0o100755, busybox.read_bytes()), ("init", 0o100755, (HERE / "init").read_bytes())]
    for path in order:
        files.append((f"modules/{Path(path).name}", 0o100644, (modules / path).read_bytes()))
    files.append(("modules/order", 0o100644, "".join(Path(path).name + "\n" for path in order).encode()))
    return gzip.compress(cpio(directories + files), 1)


class Nic:
    """A NIC on a tap device. `address` is its slot: 0000:00:10.0 for 0x10. Several `queues`: with RSS, virtio
    on a tap device with as many queues only."""

    def __init__(self, model, tap, address, mac, queues=1):
        self.model, self.tap, self.slot, self.mac, self.queues = model, tap, address, mac, queues
        self.pci = f"0000:00:{address:02x}.0"

    def arguments(self, number):
        device = f"{self.model},netdev=n{number},addr=0x{self.slot:x},mac={self.mac}"
        if self.model == "virtio-net-pci":      # otherwise a virtio device goes around the IOMMU
            device += ",disable-legacy=on,iommu_platform=on,ats=on"
        backend = f"tap,id=n{number},ifname={self.tap},script=no,downscript=no,vhost=off"
        if self.queues > 1:
            device += f",mq=on,rss=on,vectors={2 * self.queues + 2}"
            backend += f",queues={self.queues}"
        return ["-netdev", backend, "-device", device]


class Wire:
    """A NIC whose frames are datagrams between two Unix sockets: one datagram, one frame, no network of this
    machine in between. `theirs` is qemu's end, `ours` the other one's."""

    def __init__(self, ours, theirs, mac):
        self.ours, self.theirs, self.mac = ours, theirs, mac

    def arguments(self, number):
        ends = f"local.type=unix,local.path={self.theirs},remote.type=unix,remote.path={self.ours}"
        return ["-netdev", f"dgram,id=n{number},{ends}", "-device", f"virtio-net-pci,netdev=n{number},mac={self.mac}"]


class Guest:
    """A running guest. `iommu`: for NICs that are given to vfio-pci; `nodes`: NUMA nodes, of one processor each."""

    def __init__(self, directory, nics=(), space=None, memory=2048, cpus=2, iommu=True, nodes=1):
        self.dir, self.nics, self.space, self.sequence, self.buffer = Path(directory), nics, space, 0, b""
        tree, version = kernel()
        self.tree, self.version = tree, version
        image = self.dir / "initramfs"
        image.write_bytes(initramfs(tree, version))
        # On a busy machine the kernel may find the emulated timer too slow, and give up.
        words = f"console=ttyS0 panic=-1 quiet random.trust_cpu=on net.ifnames=0 no_timer_check intel_iommu=on tree={tree} agent={HERE / 'agent.py'}"
        self.argv = ["qemu-system-x86_64", "-nodefaults", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
                     "-smp", cpus, "-m", memory, "-display", "none", "-no-reboot", "-kernel", tree / "boot" / f"vmlinuz-{version}",
                     "-initrd", image, "-append", words, "-serial", f"file:{self.dir / 'console'}",
                     *(["-device", "intel-iommu,caching-mode=on,device-iotlb=on"] if iommu else []),     # before the devices it serves
                     "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={self.dir / 'agent'},server=on,wait=off",
                     "-device", "virtserialport,chardev=agent,name=agent",
                     "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        for node in range(nodes if nodes > 1 else 0):
            self.argv += ["-object", f"memory-backend-ram,id=m{node},size={memory // nodes}M",
                          "-numa", f"node,nodeid={node},cpus={node},memdev=m{node}"]
        for number, nic in enumerate(nics):
            self.argv += nic.arguments(number)

    def __enter__(self):
        argv = [str(word) for word in self.argv]
        self.program = Program("qemu", self.space.argv(argv) if self.space else argv, self.dir / "qemu.log")
        try:
            self.port = socket.socket(socket.AF_UNIX)
            wait_for("qemu's control socket", lambda: self._connect(), 30)
            hello = self._line(BOOT_SECONDS)
            if hello.get("ready") != self.version:
                raise Failure(f"the guest greeted with {hello}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self):
        if not self.program.running():
            raise Failure(f"qemu ended: {self.program.output()[-600:]}")
        self.port.connect(str(self.dir / "agent"))
        return True

    def _line(self, seconds):
        deadline = time.monotonic() + seconds * PATIENCE
        while b"\n" not in self.buffer:
            self.port.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                data = self.port.recv(1 << 16)
            except TimeoutError:
                raise Failure(f"the guest did not answer within {seconds * PATIENCE:.0f} s\n{self.console()}") from None
            if not data:
                raise Failure(f"the guest is gone\n{self.console()}")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def console(self):
        file = self.dir / "console"
        return "console: " + "\n".join(file.read_text(errors="replace").splitlines()[-30:]) if file.exists() else "no console"

    def ask(self, seconds=60, **request):
        """A request to the agent (agent.py says which there are); returns its answer."""
        self.sequence += 1
        request |= {"id": self.sequence, "seconds": seconds * PATIENCE}
        self.port.settimeout(30)
        self.port.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._line(seconds + 30)
            if answer.get("id") == self.sequence:
                return answer

    def run(self, script, seconds=60):
        """Runs a shell script in the guest; returns (exit status, output)."""
        answer = self.ask(seconds, script=script)
        return answer["status"], answer["output"]

    def sh(self, script, seconds=60):
        status, output = self.run(script, seconds)
        if status:
            raise Failure(f"in the guest: `{script.strip()[:300]}`: exit {status}\n{output[-3000:]}")
        return output

    def bind(self, nic):
        """Gives a NIC to vfio-pci, as the README tells an operator to."""
        device = f"/sys/bus/pci/devices/{nic.pci}"
        self.sh(f"modprobe vfio-pci; if [ -e {device}/driver ]; then echo {nic.pci} > {device}/driver/unbind; fi; "
                f"echo vfio-pci > {device}/driver_override; echo {nic.pci} > /sys/bus/pci/drivers_probe; "
                f"readlink {device}/driver | grep -q /vfio-pci")

    def hugepages(self, count):
        self.sh(f"echo {count} > /proc/sys/vm/nr_hugepages; mkdir -p /dev/hugepages; "
                "mountpoint -q /dev/hugepages || mount -t hugetlbfs nodev /dev/hugepages")

    def __exit__(self, *exception):
        self.port.close()
        self.program.stop(2)
