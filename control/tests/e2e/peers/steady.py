"""Requests on one connection at a steady pace: what an established flow gets through.

    steady.py HOST PORT SECONDS PER_SECOND      prints {"asked": N, "answered": N, "slowest": seconds}

A request is sent when it is due and the one before it is answered; an answer that takes long costs the ones
that were due meanwhile.
"""
import json
import socket
import sys
import time


def answer(sock, data):
    """Reads one answer; returns what came behind it."""
    while b"\r\n\r\n" not in data:
        data += receive(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += receive(sock)
    return body[length:]


def receive(sock):
    data = sock.recv(65536)
    if not data:
        raise OSError("the server closed the connection")
    return data


def main():
    host, port, seconds, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    answered, slowest, left = 0, 0.0, b""
    with socket.create_connection((host, port), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(20)
        began = time.monotonic()
        asked = int(seconds * pace)
        for turn in range(asked):
            now, due = time.monotonic(), began + turn / pace
            if now >= began + seconds:
                break
            if now - due > 1 / pace:
                continue
            time.sleep(max(0.0, due - now))
            sent = time.monotonic()
            sock.sendall(b"GET / HTTP/1.1\r\nHost: steady\r\n\r\n")
            left = answer(sock, left)
            answered, slowest = answered + 1, max(slowest, time.monotonic() - sent)
    print(json.dumps({"asked": asked, "answered": answered, "slowest": round(slowest, 4)}))


main()
