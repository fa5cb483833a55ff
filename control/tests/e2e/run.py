#!/usr/bin/python3
"""Runs the end-to-end tests: every function `test_*` of cases/*.py, each in a network of its own.

    run.py [--list] [--inside] [FILTER...]     FILTER: a part of "file.function"

A test that takes a parameter gets a fresh `Lab`; `@network(...)` says how to build it. A test that cannot
run here raises `Skip` with what it lacks. The last line names how many passed, failed and were skipped.
"""
import argparse
import importlib
import inspect
import os
import signal
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
from lab import Died, Failure, Lab, PATIENCE, Skip, end_on_signals, need_build, remove_leftovers  # noqa: E402


def tests(filters, inside):
    found = []
    for path in sorted((HERE / "cases").glob("*.py")):
        module = importlib.import_module(f"cases.{path.stem}")
        for name, function in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(function) and function.__module__ == module.__name__:
                full = f"{path.stem}.{name[5:]}"
                if getattr(function, "inside", False) != inside:
                    continue
                if not filters or any(word in full for word in filters):
                    found.append((full, function))
    # What boots a machine comes last: the quick answers first.
    return sorted(found, key=lambda item: getattr(item[1], "guest", False))


def too_long(number, frame):
    raise Failure("the test as a whole took too long")


def run_one(function):
    """Returns "passed", or raises what the test raised after printing what is known about it."""
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(getattr(function, "seconds", 120) * PATIENCE))
    try:
        if not inspect.signature(function).parameters:
            function()
            return
        with Lab(**getattr(function, "network", {})) as lab:
            try:
                function(lab)
            except (Skip, KeyboardInterrupt):
                raise
            except BaseException:
                signal.alarm(0)
                print(lab.dump())
                raise
    finally:
        signal.alarm(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="*")
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("--inside", action="store_true", help="this is the emulated host: run the tests that need its kernel")
    options = parser.parse_args()
    chosen = tests(options.filter, options.inside)
    if options.list:
        for name, function in chosen:
            print(f"{name:45} {inspect.getdoc(function).splitlines()[0]}")
        return 0
    need_build()
    end_on_signals()
    remove_leftovers()
    counts, began = {"passed": 0, "failed": 0, "skipped": 0}, time.monotonic()
    failed = []
    for name, function in chosen:
        start = time.monotonic()
        note = ""
        try:
            run_one(function)
            outcome = "passed"
        except Skip as reason:
            outcome, note = "skipped", f"  lacks: {reason}"
        except (Failure, Died) as reason:
            outcome, note = "failed", f"\n      {reason}"
            frames = [frame for frame in traceback.extract_tb(reason.__traceback__) if "/cases/" in frame.filename]
            if frames:
                note += f"\n      at {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
        except KeyboardInterrupt:
            print(f"interrupted in {name}; everything removed", flush=True)
            return 130
        except Exception:
            outcome, note = "failed", "\n" + traceback.format_exc()
        counts[outcome] += 1
        if outcome == "failed":
            failed.append(name)
        print(f"{outcome:8} {name:45} {time.monotonic() - start:6.1f} s{note}", flush=True)
    if failed:
        print("failed:", ", ".join(failed))
    print(f"end to end: {time.monotonic() - began:.0f} s")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
