#!/usr/bin/python3
"""Connections that last: downloads that the server paces, and idle ones with a message now and then.

    lasting.py FILE DOWNLOADS IDLE PAUSE PAYLOAD PACE HOST...

So many of each kind to port 80 of each HOST; a message every PAUSE seconds; PAYLOAD is the file that is downloaded, the
name of its copy at the server being the same, which sends PACE bytes a second (64k, 1m). What arrives is compared with it
byte by byte. One that is lost, or silent for PATIENCE seconds, is followed by another one. FILE gets a JSON line for each
thing that happened: t (seconds, monotonic), id (of a connection), what: "open" (with kind, host, local), "alive" (data
came; after a message `took` is what the answer took), "lost" (with error), "over" (a download came to its end).
Until it is stopped.
"""
import json
import os
import socket
import sys
import threading
import time

PATIENCE = 15
path, downloads, idle, pause, payload, pace, *hosts = sys.argv[1:]
lock = threading.Lock()
out = open(path, "w", buffering=1)
last = 0


def tell(number, what, **more):
    with lock:
        out.write(json.dumps({"t": time.monotonic(), "id": number, "what": what, **more}) + "\n")


def connect(kind, host):
    global last
    sock = socket.create_connection((host, 80), PATIENCE)
    with lock:
        last += 1
        number = last
    local = sock.getsockname()
    tell(number, "open", kind=kind, host=host, local=f"[{local[0]}]:{local[1]}" if ":" in host else f"{local[0]}:{local[1]}")
    return sock, number


def head(sock):
    """The rest of an answer after its head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise OSError("closed by the server")
        data += more
    first, _, body = data.partition(b"\r\n\r\n")
    if not first.startswith(b"HTTP/1.1 200"):
        raise OSError(f"answer {first[:60]!r}")
    return body


def download(sock, number, name):
    sock.sendall(f"GET /paced/{name}?rate={pace} HTTP/1.1\r\nHost: lasting\r\nConnection: close\r\n\r\n".encode())
    data = head(sock)
    with open(payload, "rb") as copy:
        while data:
            tell(number, "alive")
            if data != copy.read(len(data)):
                raise OSError("damaged data")
            data = sock.recv(65536)
        if copy.read(1):
            raise OSError("ended early")


def messages(sock, number, name):
    server = None
    while True:
        began = time.monotonic()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: lasting\r\n\r\n")
        answer = head(sock)
        while not answer.endswith(b"\n"):
            answer += sock.recv(65536) or b"closed\n"
        if answer != (server or answer):
            raise OSError(f"answered by {answer!r}, before by {server!r}")
        server = answer
        tell(number, "alive", took=time.monotonic() - began)
        time.sleep(max(0.0, began + float(pause) - time.monotonic()))


def keep(kind, talk, host):
    while True:
        number = 0
        try:
            sock, number = connect(kind, host)
            with sock:
                talk(sock, number, os.path.basename(payload))
            tell(number, "over")
        except OSError as error:
            # One that never opened is none that was lost.
            if number:
                tell(number, "lost", error=str(error))
            time.sleep(0.5)


for turn in range(max(int(downloads), int(idle))):
    for kind, talk, most in (("download", download, int(downloads)), ("idle", messages, int(idle))):
        if turn < most:
            for host in hosts:
                threading.Thread(target=keep, args=(kind, talk, host), daemon=True).start()
                # Messages are spread over the pause: some are always on their way.
                time.sleep(float(pause) / (most * len(hosts)))
print("ready", flush=True)
while True:
    time.sleep(60)
