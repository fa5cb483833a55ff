#!/usr/bin/python3
"""make demo-failover: an active/standby pair under load; the active node is stopped, killed, unplugged, and comes back.

Everything happens in network namespaces that are removed at the end, also after Ctrl-C or a failure. The nodes run
configs/pair-active.toml and configs/pair-standby.toml, with other devices and paths. The exit status is 0 only if no
connection was lost that had been established for more than three seconds.
"""
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from lab import Died, Failure, end_on_signals, need_build, remove_leftovers  # noqa: E402
from demo import command, say, show, title  # noqa: E402
from failover import AGE, DOWNLOADS, EVENTS, HERE_INSTEAD, IDLE, PAUSE, RATE, Failover, Trial  # noqa: E402


def main():
    began = time.monotonic()
    need_build()
    remove_leftovers()
    end_on_signals()
    title("An active/standby pair that loses no connection")
    say("""Both nodes run rvsd: VRRP moves the addresses, sync tells the other node of each connection. Services in NAT, DR
           and TUN, IPv4 and IPv6, with two web servers. The files are configs/pair-active.toml and configs/pair-standby.toml;
           of them only these lines are others here:""")
    show("\n".join(old for old, _ in HERE_INSTEAD))
    with Failover(servers=2) as pair:
        try:
            pair.start()
            say(f"""For each of the six addresses {DOWNLOADS} downloads that last, {IDLE} idle connections with a message every {PAUSE} s,
                    and {RATE} short requests a second on new connections.""")
            trial = Trial(pair)
            command("rvsadm -L --daemon        # on the active node, then on the standby")
            show("".join(node.adm("-L --daemon") for node in pair.nodes))
            for name, event in EVENTS:
                title(name[0].upper() + name[1:])
                for row in trial.run(name, event):
                    if row["kind"] == "short":
                        say(f"short requests: {row['before']} asked since, {row['failed']} failed, the slowest answer took {row['gap'] * 1000:.0f} ms")
                    else:
                        say(f"{row['kind']}: {row['before']} connections, {row['lost']} lost, longest pause {row['gap'] * 1000:.0f} ms")
        except (Failure, Died):
            print("\n" + pair.dump(), file=sys.stderr)
            raise
    title("What it came to")
    show(trial.table())
    say(f"""Connections that were established for more than {AGE} s before the event. Lost: ended by it, or unknown to the node
            that took over (unsynced). Gap: the longest that a download got no data, a message no answer; for short requests
            the slowest answer, with a second or more if the system had to send its first packet again.""")
    title(f"done in {time.monotonic() - began:.0f} s; {trial.lost()} connections lost")
    return 1 if trial.lost() else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, Died) as failure:
        sys.exit(f"demo-failover: {failure}")
    except KeyboardInterrupt:
        sys.exit("demo-failover: interrupted")
