"""Debian packages that are only unpacked, below target/guest/: nothing is installed on this machine."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import Failure, Skip, TARGET, run  # noqa: E402

CACHE = TARGET / "guest"
APT = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]


def _update():
    run([*APT, "update"], 300)


def depends(package):
    """The package that a package like linux-image-amd64 stands for."""
    def find():
        text = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True).stdout
        return re.search(r"Depends: (linux-image-\S+)", text)
    if not find():
        _update()
    found = find()
    if not found:
        raise Skip(f"the package {package} (look at /etc/apt/sources.list)")
    return found.group(1)


def unpack(name, packages, finish=lambda tree: None):
    """The tree target/guest/NAME with these packages unpacked, downloaded on the first call.
    `packages` is called then and lists them; `finish` gets the tree before it is used."""
    done = CACHE / name
    if done.exists():
        return done
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"{name}.{os.getpid()}"
    work.mkdir()
    try:
        wanted = packages()

        def download():
            return subprocess.run([*APT, "download", *wanted], cwd=work, capture_output=True, text=True, timeout=600)
        result = download()
        if result.returncode:       # the lists may be older than the archive
            _update()
            result = download()
        if result.returncode:
            raise Failure(f"apt-get download {' '.join(wanted)}: {result.stderr.strip()[-600:]}")
        for file in work.glob("*.deb"):
            run(["dpkg-deb", "-x", file, work / "tree"], 120)
        finish(work / "tree")
        try:
            (work / "tree").rename(done)
        except OSError:
            pass                    # another run was quicker
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def kernel():
    """The kernel that linux-image-amd64 stands for. Returns (tree, version)."""
    def version(tree):
        return next((tree / "lib/modules").iterdir()).name
    tree = unpack("kernel", lambda: [depends("linux-image-amd64")], lambda tree: run(["depmod", "-b", tree, version(tree)], 120))
    return tree, version(tree)


def ipvsadm():
    """ipvsadm and the libraries it needs, as words of a command line."""
    tree = unpack("ipvsadm", lambda: ["ipvsadm", "libnl-3-200", "libnl-genl-3-200", "libpopt0"])
    libraries = sorted({str(file.parent) for file in tree.rglob("*.so.*")})
    return ["env", f"LD_LIBRARY_PATH={':'.join(libraries)}", str(tree / "sbin/ipvsadm")]
