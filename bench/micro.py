#!/usr/bin/python3
"""The results of `make bench-micro` as one JSON file, next to an earlier one.

    micro.py [--against FILE]      reads target/v3/criterion, writes target/bench/micro.json; make bench-micro

Printed are nanoseconds (median) and, with --against, by how much each piece became slower or faster; what moved less
than its own confidence interval is not marked.
"""
import argparse
import json
import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "bench"))
sys.dont_write_bytecode = True
from place import line, machine  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))


def collect(directory):
    """{"group/function/parameter": {"ns": median, "low": ..., "high": ...}} of the last run."""
    rows = {}
    for path in sorted(directory.glob("**/new/estimates.json")):
        name = json.loads((path.parent / "benchmark.json").read_text())["full_id"]
        median = json.loads(path.read_text())["median"]
        bounds = median["confidence_interval"]
        rows[name] = {"ns": round(median["point_estimate"], 3), "low": round(bounds["lower_bound"], 3), "high": round(bounds["upper_bound"], 3)}
    return rows


def compare(rows, before):
    """Lines of the table: name, nanoseconds, change."""
    for name, row in rows.items():
        old = before.get(name)
        if not old:
            yield f"{name:32} {row['ns']:10.2f} ns" + ("   new" if before else "")
            continue
        change = row["ns"] / old["ns"] - 1
        apart = row["low"] > old["high"] or row["high"] < old["low"]
        mark = ("   slower" if change > 0 else "   faster") if apart and abs(change) > 0.03 else ""
        yield f"{name:32} {row['ns']:10.2f} ns {change:+8.1%}{mark}"
    for name in before:
        if name not in rows:
            yield f"{name:32}            gone"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    rows = collect(TARGET / "v3" / "criterion")
    if not rows:
        print(f"micro: no results in {TARGET}/v3/criterion; run make bench-micro", file=sys.stderr)
        return 2
    before, place = {}, machine()
    print(line(place))
    if options.against:
        earlier = json.loads(options.against.read_text())
        before = earlier["rows"]
        print(f"against {line(earlier['machine'])}")
    for text in compare(rows, before):
        print(text)
    out = TARGET / "bench" / "micro.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": place, "rows": rows}, indent=1) + "\n")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
