"""A server that health checks ask, and that fails in the way that a file says.

    faulty.py KIND PORT FILE        KIND: http, smtp, dns or udp

FILE holds one word, read for each request: "good"; "hang", which says nothing; "half", which stops in the
middle of its answer; "wrong", which answers something else; "drip", which sends a byte each 0.2 s; of dns "unknown",
which knows no such name.
"""
import socket
import struct
import sys
import threading
import time

KIND, PORT, FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
HTTP = {"good": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n", "half": b"HTTP/1.0 2",
        "wrong": b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n"}


def mode():
    with open(FILE) as file:
        return file.read().strip()


def drip(sock, data):
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.2)


def http(sock, how):
    sock.recv(4096)
    if how == "hang":
        sock.recv(4096)
    elif how == "drip":
        drip(sock, HTTP["good"])
    else:
        sock.sendall(HTTP[how])


def smtp(sock, how):
    if how == "hang":
        sock.recv(4096)
    elif how == "half":
        sock.sendall(b"22")
    elif how == "drip":
        drip(sock, b"220 mail.example ESMTP\r\n")
    else:
        sock.sendall(b"220 mail.example ESMTP\r\n" if how == "good" else b"554 go away\r\n")
        while line := sock.recv(4096):
            sock.sendall(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 mail.example\r\n")


def serve_one(sock):
    try:
        with sock:
            {"http": http, "smtp": smtp}[KIND](sock, mode())
    except OSError:
        pass  # The check gave up first.


def dns(data, how):
    number, = struct.unpack("!H", data[:2])
    code = {"wrong": 2, "unknown": 3}.get(how, 0)
    answer = struct.pack("!HHHHHH", number, 0x8180 | code, 1, 0, 0, 0) + data[12:]
    return answer[:5] if how == "half" else answer


def udp(data, how):
    return {"good": b"\x81\x00" + data, "half": b"\x81", "wrong": b"\x41\x00"}[how]


def main():
    kind = socket.SOCK_DGRAM if KIND in ("dns", "udp") else socket.SOCK_STREAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", PORT))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    print("ready", flush=True)
    while True:
        if kind == socket.SOCK_STREAM:
            threading.Thread(target=serve_one, args=(sock.accept()[0],), daemon=True).start()
            continue
        data, peer = sock.recvfrom(2048)
        how = mode()
        if how != "hang":
            sock.sendto({"dns": dns, "udp": udp}[KIND](data, how), peer)


main()
