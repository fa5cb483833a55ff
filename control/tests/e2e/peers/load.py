"""Requests on new connections until SIGTERM: what failed, who answered, how long the slowest took.

    load.py --report FILE [--threads N] URL...

FILE is JSON, replaced ten times a second. A request counts as answered only if the status is 200 and the
body is complete. On SIGTERM each thread finishes the request it is in; a request fails after TIMEOUT seconds.
"""
import argparse
import json
import os
import signal
import socket
import threading
import time
import urllib.parse

TIMEOUT = 20


class Tally:
    def __init__(self):
        self.lock, self.stop = threading.Lock(), False
        self.ok, self.failed, self.by, self.errors, self.slowest = 0, 0, {}, [], 0.0
        self.asked = {}

    def write(self, path):
        with self.lock:
            text = json.dumps({"ok": self.ok, "failed": self.failed, "by": self.by, "errors": self.errors,
                               "slowest": round(self.slowest, 3),
                               "waiting": [f"{host} for {time.monotonic() - began:.1f} s" for host, began in self.asked.values()]})
        part = f"{path}.part"
        with open(part, "w") as file:
            file.write(text)
        os.replace(part, path)


def get(host, port, path):
    deadline = time.monotonic() + TIMEOUT
    with socket.create_connection((host, port), TIMEOUT) as sock:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"answer {answer[:60]!r}")
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length" and int(value) != len(body):
            raise OSError(f"{len(body)} of {int(value)} bytes")
    return body


def work(tally, urls):
    turn = 0
    while not tally.stop:
        url = urls[turn % len(urls)]
        turn += 1
        began = time.monotonic()
        with tally.lock:
            tally.asked[threading.get_ident()] = (url.hostname, began)
        try:
            body = get(url.hostname, url.port or 80, url.path or "/")
            error, name = None, body.decode(errors="replace").strip() if len(body) < 64 else "file"
        except OSError as problem:
            error, name = f"{url.hostname}: {problem!r} after {time.monotonic() - began:.2f} s", None
        with tally.lock:
            del tally.asked[threading.get_ident()]
            tally.slowest = max(tally.slowest, time.monotonic() - began)
            if error:
                tally.failed += 1
                tally.errors = (tally.errors + [error])[-5:]
            else:
                tally.ok += 1
                tally.by[name] = tally.by.get(name, 0) + 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("urls", nargs="+")
    options = parser.parse_args()
    tally = Tally()
    # Waited for, not handled: a handler that runs inside `Event.wait` and sets that event waits for itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    urls = [urllib.parse.urlsplit(url) for url in options.urls]
    threads = [threading.Thread(target=work, args=(tally, urls)) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    while not signal.sigtimedwait([signal.SIGTERM], 0.1):
        tally.write(options.report)
    tally.stop = True
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            tally.write(options.report)
    tally.write(options.report)


main()
