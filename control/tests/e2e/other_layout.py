#!/usr/bin/env python3
"""Builds rvsd with a connection table of another layout, as `rvsd-other-layout` beside the others: tests upgrade to it and
back. Run before the build of the rest, which then lies under its own name."""
import os
import shutil
import subprocess
from pathlib import Path

from lab import REPO, TARGET

NAME = "rvsd-other-layout"


def older():
    """An older build to upgrade to and back from, if RVS_OLDER names one."""
    return [Path(os.environ[name]) for name in ["RVS_OLDER"] if name in os.environ]


def main():
    cargo = os.environ.get("CARGO", "cargo")
    subprocess.run([cargo, "build", "--bin", "rvsd", "--features", "dataplane/other-layout"], cwd=REPO, check=True)
    made = TARGET / "debug" / "rvsd"
    new, name = made.with_name(f"{NAME}.new"), made.with_name(NAME)
    # A link to what cargo makes would change with it.
    shutil.copy2(made, new)
    os.replace(new, name)
    # The next build is to put its own there, whatever it finds unchanged.
    made.unlink()


if __name__ == "__main__":
    main()
