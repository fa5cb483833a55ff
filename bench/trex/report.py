#!/usr/bin/python3
"""Makes a report of what run.py measured: a Markdown page with tables, and a picture for each test.

    report.py [FILE.json...] [--out DIRECTORY]      default: all of target/trex/*.json, to target/trex/report
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
TITLES = {"sizes": "Throughput by packet size", "flows": "Throughput by connections", "syn": "New connections",
          "latency": "Latency under load", "http": "HTTP connections"}
# Columns: heading, key of the row, how it is written.
MPPS = ("Mpps", "received", lambda value: f"{value / 1e6:.3f}")
LOSS = ("lost", "loss", lambda value: f"{value:.4%}")
ENDED = ("search ended by", "limit", str)
TRIALS = ("trials", "trials", str)
US = "{:.0f}".format
COLUMNS = {
    "sizes": [("bytes", "size", str), MPPS, ("Gbit/s on the wire", "gbps", "{:.2f}".format), LOSS, ENDED, TRIALS],
    "flows": [("connections", "flows", "{:,}".format), MPPS, LOSS, ENDED, TRIALS],
    "syn": [("new connections/s", "received", "{:,.0f}".format), ("tuples", "tuples", "{:,}".format), LOSS, ENDED, TRIALS],
    "latency": [("load", "share", "{:.0%}".format), MPPS, ("average us", "average_us", US), ("p50 us", "p50", US), ("p90 us", "p90", US),
                ("p99 us", "p99", US), ("p99.9 us", "p99.9", US), ("max us", "max_us", US), LOSS],
    "http": [("connections/s", "connections_per_second", "{:,.0f}".format), LOSS, ENDED, TRIALS],
}


def table(result):
    columns = COLUMNS[result["test"]]
    lines = ["| " + " | ".join(heading for heading, _, _ in columns) + " |", "|" + " ---: |" * len(columns)]
    for row in result["rows"]:
        cells = [write(row[key]) if key in row else "-" for _, key, write in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(result):
    """The picture of a test, for `bench --plot`; None where a table says it all."""
    rows, title = result["rows"], f"{TITLES[result['test']]}, {result['method']}"
    if result["test"] == "sizes":
        return {"title": title, "y": "Mpps", "bars": [[str(row["size"]), row["received"] / 1e6] for row in rows]}
    if result["test"] == "flows":
        points = [[row["flows"], row["received"] / 1e6] for row in rows]
        return {"title": title, "x": "connections", "y": "Mpps", "log_x": True, "series": [{"name": "64 bytes", "points": points}]}
    if result["test"] == "latency":
        names = ("p50", "p90", "p99", "p99.9")
        series = [{"name": name, "points": [[100 * row["share"], row[name]] for row in rows if name in row]} for name in names]
        return {"title": title, "x": "load, % of the no-drop rate", "y": "microseconds", "series": series}
    return None


def plot(drawing, path):
    """Draws with `bench --plot`; False if it is not built."""
    for build in ("release", "debug"):
        program = TARGET / build / "bench"
        if program.exists():
            subprocess.run([program, "--plot", "-", "--picture", path], input=json.dumps(drawing), text=True, check=True)
            return True
    return False


def caveats(result):
    """What a reader has to know before believing a row."""
    notes = []
    if any(not row.get("generator_kept_up", True) or row.get("limit") == "generator" for row in result["rows"]):
        notes.append("The generator did not keep up in some trials: those rows are a lower bound, and a limit of TRex.")
    if any(row.get("queue_full", 0) for row in result["rows"]):
        notes.append("TRex counted full transmit queues.")
    if any(row.get("limit") == "nothing passed" for row in result["rows"]):
        notes.append("No rate passed in some rows: the row is the last trial.")
    loss = result["options"].get("loss", 0)
    notes.append("No packet was lost at the rates shown." if not loss else f"Up to {loss:.3%} of the packets may be lost.")
    return notes


def report(results, out):
    out.mkdir(parents=True, exist_ok=True)
    text = ["# RVS under TRex", ""]
    for number, result in enumerate(results):
        options, server = result["options"], result.get("server") or {}
        text += [f"## {TITLES[result['test']]}: {result['method']}", ""]
        if result.get("origin"):
            text += [f"Not a measurement: {result['origin']}.", ""]
        text += [table(result), ""]
        drawing = chart(result)
        name = f"{result['test']}-{result['method']}-{number}.png"
        if drawing and plot(drawing, out / name):
            text += [f"![{TITLES[result['test']]}]({name})", ""]
        elif drawing:
            text += ["(No picture: build `bench` first, `cargo build -p bench`.)", ""]
        text += [f"- {note}" for note in caveats(result)]
        text += [f"- TRex {server.get('version', 'of unknown version')}, {options['seconds']} s a trial, "
                 f"{options['flows']:,} connections of {options['clients']:,} clients, {result['date']}. {result['note']}".rstrip(), ""]
    page = out / "report.md"
    page.write_text("\n".join(text))
    return page


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET / "trex" / "report")
    options = parser.parse_args(argv)
    files = options.files or sorted((REPO / "target" / "trex").glob("*.json"))
    if not files:
        print("trex: no results; run run.py first or name its files", file=sys.stderr)
        return 2
    print(f"written: {report([json.loads(path.read_text()) for path in files], options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
