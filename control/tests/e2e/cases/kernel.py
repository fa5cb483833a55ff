"""RVS against the kernel's IPVS and ipvsadm in an emulated host (guest/kernel.py)."""
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lab import HERE, PREFIX, Failure, check, lasts, need_programs

sys.path.insert(0, str(HERE / "guest"))
# How long `make test` compares random scenarios; the guest's boot comes on top.
SECONDS = float(os.environ.get("RVS_DIFFERENTIAL_SECONDS", "25"))
booted = []


def kernel():
    """The guest with the kernel's IPVS, booted once for all tests here."""
    need_programs("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", "apt-get")
    import compare
    from kernel import Kernel
    if not compare.REPLAY.exists():
        raise Failure(f"{compare.REPLAY} is missing: run \"make e2e\"")
    if not booted:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        guest = Kernel(directory).__enter__()
        booted.append(guest)
        atexit.register(guest.__exit__)
    booted[0].reset()
    return booted[0]


@lasts(400)
def test_rules_both_ways():
    """What ipvsadm saves loads into rvsadm and the other way round, and the listings are the same byte for byte."""
    guest = kernel()
    import compare
    import scenario
    listings = ("-Ln", "-Ln --thresholds", "-Ln --persistent-conn", "-Sn")
    # Neither program's text names the rules that give marks.
    have = [name for name in compare.features() if name != "mark"]
    # Each set must hold more than one kind of thing, or the comparison says little.
    for seed in range(3):
        guest.reset()
        lines = scenario.rules(f"rules {seed}", have)
        guest.ipvsadm(*lines)
        status, saved = guest.program("-Sn")
        check(status == 0 and saved.count("-A ") >= 3 and saved.count("-a ") >= 3, f"ipvsadm -Sn: exit {status}\n{saved}")
        theirs = [guest.program(*arguments.split()) for arguments in listings]
        # Thresholds are not saved: they are compared from the lines themselves below.
        loaded = compare.replay([compare.rvsadm("-R", stdin=saved)] + [compare.rvsadm(arguments) for arguments in listings])
        check(loaded[0]["rvsadm"] == {"status": 0, "out": "", "err": ""}, f"rvsadm -R of what ipvsadm -Sn wrote: {loaded[0]}\n{saved}")
        same(listings[0::3], theirs[0::3], loaded[1::3])
        direct = compare.replay([compare.rvsadm(line) for line in lines] + [compare.rvsadm(arguments) for arguments in listings])
        ours = direct[-len(listings):]
        same(listings, theirs, ours)
        # And back: the kernel loads what rvsadm saved, and shows what it showed before, but for thresholds.
        guest.reset()
        check(guest.program("-R", stdin=ours[3]["rvsadm"]["out"]) == (0, ""), f"ipvsadm -R of\n{ours[3]['rvsadm']['out']}")
        same(listings[0::3], [guest.program(*arguments.split()) for arguments in listings[0::3]], ours[0::3])


def same(listings, theirs, ours):
    for arguments, (status, text), answer in zip(listings, theirs, ours, strict=True):
        mine = answer["rvsadm"]
        check((status, text) == (mine["status"], mine["out"] + mine["err"]),
              f"{arguments} differs\nipvsadm: exit {status}\n{text}rvsadm: exit {mine['status']}\n{mine['out']}{mine['err']}")


test_rules_both_ways.guest = True


@lasts(900)
def test_differential():
    """Random rules, packets and time have the same effect in the kernel and in RVS. The same ones each time, so that a
    change that has nothing to do with it cannot fail here; `make differential` goes where nobody has been."""
    guest = kernel()
    import differential
    seed = os.environ.get("SEED") or "13044"
    count, frames = differential.search(guest, seed, SECONDS, most=40, say=lambda text: print(f"         {text}"))
    print(f"         seed {seed}: {count} scenarios, {frames} frames")
    check(count > 0 and frames > 0, "nothing was compared")


test_differential.guest = True
