#!/usr/bin/python3
"""make test: formatting, lints, cargo's tests and the end-to-end tests; the last line sums all of them up.

    suite.py [STEP...]      steps: lint cargo fuzz e2e trex
"""
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[2]
CARGO = os.environ.get("CARGO", "cargo")
STEPS = {
    "lint": [("rustfmt", [CARGO, "fmt", "--all", "--check"]),
             ("clippy", [CARGO, "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
             # The fuzz targets have a lock file of their own; a dependency new to the workspace has to be in it, too.
             ("fuzz lock file", [CARGO, "fetch", "--quiet", "--locked", "--manifest-path", "dataplane/fuzz/Cargo.toml"])],
    "cargo": [("cargo test", [CARGO, "test", "--workspace", "--no-fail-fast"])],
    "fuzz": [("fuzz", ["env", "FUZZ_SEED=1", str(REPO / "dataplane/fuzz/run"), "30"])],
    "e2e": [("build for upgrades", ["/usr/bin/python3", "control/tests/e2e/other_layout.py"]),
            ("build", [CARGO, "build", "--workspace", "--bins", "--example", "replay"]),
            ("end to end", ["/usr/bin/python3", "-u", str(HERE / "run.py")])],
    "trex": [("load generator kit", ["/usr/bin/python3", str(REPO / "bench/trex/tests.py")])],
}
CARGO_RESULT = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
OUR_RESULT = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")


def step(name, argv):
    """Runs a program, passing its output on; returns what it counted as (passed, failed, skipped)."""
    print(f"\n== {name}: {' '.join(argv)}", flush=True)
    began, counts = time.monotonic(), [0, 0, 0]
    process = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            found = CARGO_RESULT.match(line) or OUR_RESULT.fullmatch(line.strip())
            if found:
                counts = [sum(pair) for pair in zip(counts, map(int, found.groups()))]
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()      # it got the signal, too, and cleans up
        raise
    print(f"== {name}: exit {status} after {time.monotonic() - began:.0f} s", flush=True)
    if counts == [0, 0, 0]:
        # Formatting, lints and builds are one result each.
        counts = [1, 0, 0] if status == 0 else [0, 1, 0]
    elif status and not counts[1]:
        counts[1] += 1      # it failed without saying which test did (a test program that crashed)
    return counts


def main():
    total, failed = [0, 0, 0], []
    try:
        for group in sys.argv[1:] or STEPS:
            for name, argv in STEPS[group]:
                counts = step(name, argv)
                total = [sum(pair) for pair in zip(total, counts)]
                if counts[1]:
                    failed.append(name)
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    if failed:      # what failed may be thousands of lines above
        print(f"\nfailed: {', '.join(failed)}")
    print("\n{} passed, {} failed, {} skipped".format(*total), flush=True)
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
