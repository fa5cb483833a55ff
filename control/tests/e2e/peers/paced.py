"""Requests at a steady rate, each on a new connection that is tried once, until SIGTERM.

    paced.py FILE RATE TIMEOUT URL

FILE gets a JSON line for each request when it ended: t (seconds, monotonic, when it began), took, ok, by or error. A request
fails that is not answered within TIMEOUT seconds; the kernel's own second try of a lost first packet comes later than
that if TIMEOUT is below 1.
"""
import json
import signal
import socket
import sys
import threading
import time
import urllib.parse

path, rate, patience, url = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), urllib.parse.urlsplit(sys.argv[4])
lock = threading.Lock()
out = open(path, "w", buffering=1)


def get():
    deadline = time.monotonic() + patience
    with socket.create_connection((url.hostname, url.port or 80), patience) as sock:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock.sendall(f"GET {url.path or '/'} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"answer {answer[:60]!r}")
    return body.decode(errors="replace").strip()


def one():
    began = time.monotonic()
    try:
        row = {"ok": True, "by": get()}
    except OSError as error:
        row = {"ok": False, "error": repr(error)}
    row.update(t=began, took=time.monotonic() - began)
    with lock:
        out.write(json.dumps(row) + "\n")


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
due, threads = time.monotonic(), []
while not signal.sigtimedwait([signal.SIGTERM], max(0, due - time.monotonic())):
    thread = threading.Thread(target=one)
    thread.start()
    threads = [t for t in threads if t.is_alive()] + [thread]
    due += 1 / rate
for thread in threads:
    thread.join()
