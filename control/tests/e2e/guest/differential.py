#!/usr/bin/python3
"""The live differential test: random scenarios through the kernel in a guest and through RVS, until time is up.

    differential.py [--seconds N] [--seed N] [--only FILE]

A difference ends the run: the scenario is cut down to few steps, printed, and written to target/differential/, from
where `--only` runs it again. Scenario number i of seed s depends on s and i alone (and on what RVS has).
"""
import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
sys.dont_write_bytecode = True
from lab import PREFIX, TARGET, Failure, end_on_signals, remove_leftovers  # noqa: E402
import compare  # noqa: E402
import scenario  # noqa: E402
from kernel import Kernel  # noqa: E402


def shrink(kernel, steps, seconds=60):
    """Fewer steps that still differ: leaves out ever smaller pieces."""
    deadline = time.monotonic() + seconds

    def differs(some):
        if time.monotonic() > deadline:
            return False
        return bool(compare.differences(kernel, some)[0])
    found, _ = compare.differences(kernel, steps)
    if not found:
        return steps
    shorter = steps[:found[0][0] + 1]
    steps = shorter if differs(shorter) else steps
    size = max(1, len(steps) // 2)
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size:]
            if differs(fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def report(steps, found):
    wrong = dict(found)
    lines = []
    for number, step in enumerate(steps):
        lines.append(f"  {number:3} {json.dumps(step)}")
        if number in wrong:
            lines.append("      ^ " + wrong[number].replace("\n", "\n        ").rstrip())
    return "\n".join(lines)


def search(kernel, seed, seconds, say=print, most=None):
    """Runs for `seconds`, or `most` scenarios. Returns (scenarios, frames) compared; raises Failure with the shortest scenario that differs."""
    features, sysctls = compare.features(), compare.sysctls()
    say(f"compared: {', '.join(features)}; {', '.join(sysctls)}")
    deadline, count, frames = time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline and count != most:
        steps = scenario.make(f"{seed}/{count}", features, sysctls)
        found, compared = compare.differences(kernel, steps)
        count, frames = count + 1, frames + compared
        # A machine that was held up may have let a time pass, and SCTP's first one is 4 s. What differs for good differs
        # again.
        if found:
            found, _ = compare.differences(kernel, steps)
        if found:
            first = f"{json.dumps(steps[found[0][0]])}\n{found[0][1]}"
            say(f"scenario {seed}/{count - 1} differs in {len(found)} steps; shortening it. The first one:\n{first}")
            whole, steps = steps, shrink(kernel, steps)
            found, _ = compare.differences(kernel, steps)
            if not found:
                raise Failure(f"RVS and the kernel differed in scenario {count - 1} of seed {seed}, but not when it ran again:\n"
                              f"{json.dumps(whole)}\n{first}")
            directory = TARGET / "differential"
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / f"{seed}-{count - 1}.json"
            file.write_text("[" + ",\n".join(json.dumps(step) for step in steps) + "]\n")
            raise Failure(f"RVS and the kernel differ (seed {seed}, scenario {count - 1}, {file}):\n{report(steps, found)}")
    return count, frames


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", default=None)
    parser.add_argument("--only", type=Path)
    options = parser.parse_args()
    if not compare.REPLAY.exists():
        sys.exit(f"{compare.REPLAY} is missing: run \"make differential\"")
    end_on_signals()
    remove_leftovers()
    seed = options.seed or str(random.SystemRandom().randrange(1_000_000))
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with Kernel(directory) as kernel:
            if options.only:
                steps = json.loads(options.only.read_text())
                found, _ = compare.differences(kernel, steps)
                print(report(steps, found))
                return 1 if found else 0
            count, frames = search(kernel, seed, options.seconds)
            print(f"seed {seed}: {count} scenarios, {frames} frames, no difference")
    except Failure as failure:
        print(failure)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
