"""Stops one thread of a process, as if it hung, until SIGTERM.

    freeze.py PID NAME      the first thread whose name begins with NAME
"""
import ctypes
import os
import signal
import sys
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4


def ptrace(request, thread):
    if libc.ptrace(request, thread, 0, 0):
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
tasks = sorted(Path(f"/proc/{sys.argv[1]}/task").iterdir(), key=lambda path: int(path.name))
named = [int(task.name) for task in tasks if (task / "comm").read_text().startswith(sys.argv[2])]
if not named:
    sys.exit("no such thread; there are " + ", ".join((task / "comm").read_text().strip() for task in tasks))
ptrace(SEIZE, named[0])
ptrace(INTERRUPT, named[0])
os.waitpid(named[0], 0x40000000)
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
ptrace(DETACH, named[0])
