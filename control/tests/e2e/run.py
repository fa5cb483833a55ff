#!/usr/bin/python3
"""Runs the end-to-end tests: every function `test_*` of cases/*.py, each in a network of its own.

    run.py [--list] [--inside] [FILTER...]     FILTER: a part of "file.function"

A test that takes a parameter gets a fresh `Lab`; `@network(...)` says how to build it. A test that cannot
run here raises `Skip` with what it lacks. A test that failed runs once more after all others: on a shared
machine a deadline may pass for no fault of the program. Passing then counts, but is named as unsteady with
what went wrong at first, and `--once` does without it. The last lines repeat what failed; the very last names
how many passed, failed and were skipped.
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


def attempt(name, function):
    """Runs one test and prints how it went; returns the outcome and what there is to say about it."""
    start, note = time.monotonic(), ""
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
    except Exception:
        outcome, note = "failed", "\n" + traceback.format_exc()
    print(f"{outcome:8} {name:45} {time.monotonic() - start:6.1f} s{note}", flush=True)
    return outcome, note


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="*")
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("--once", action="store_true", help="no second try for a test that failed")
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
    began, outcomes, notes = time.monotonic(), {}, {}
    try:
        for name, function in chosen:
            outcomes[name], notes[name] = attempt(name, function)
        failed = [name for name, _ in chosen if outcomes[name] == "failed"]
        # Many failures are no accident: they need no second look.
        if failed and len(failed) <= 3 and not options.once:
            print("once more:", ", ".join(failed), flush=True)
            for name, function in chosen:
                if name in failed:
                    outcomes[name], again = attempt(name, function)
                    notes[name] += again
    except KeyboardInterrupt:
        print("interrupted; everything removed", flush=True)
        return 130
    for name in failed:
        said = "FAILED" if outcomes[name] == "failed" else f"UNSTEADY ({outcomes[name]} at the second try)"
        print(f"{said}: {name}{notes[name]}")
    print(f"end to end: {time.monotonic() - began:.0f} s")
    counts = {word: sum(outcome == word for outcome in outcomes.values()) for word in ("passed", "failed", "skipped")}
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
