"""Where and of what figures are: processor, kernel, DPDK, commit, load. For the programs of the kit in Python."""
import os
import platform
import re
import subprocess
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def said(*argv):
    """The one line that a program prints; "unknown" without it."""
    try:
        found = subprocess.run(argv, capture_output=True, text=True, cwd=REPO, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def machine():
    """What every result file says of the run."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    virtual = ", virtual" if re.search(r"^flags.*\bhypervisor\b", info, re.M) else ""
    return {
        "cpu": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores{virtual}",
        "kernel": platform.release(),
        "dpdk": said("pkg-config", "--modversion", "libdpdk"),
        "commit": said("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": round(os.getloadavg()[0], 1),
    }


def line(place):
    """The same for the head of a table."""
    return (f"{place['cpu']}, Linux {place['kernel']}, DPDK {place['dpdk']}, {place['commit']}, load {place['load']} at the start, "
            f"{place['date']}")
