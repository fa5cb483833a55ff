"""A TCP server: reads until the client closes its side, then answers "NAME BYTES SHA256".

    digest.py PORT NAME
"""
import hashlib
import socket
import sys
import threading


def serve(connection, name):
    with connection:
        digest, total = hashlib.sha256(), 0
        while data := connection.recv(1 << 16):
            digest.update(data)
            total += len(data)
        connection.sendall(f"{name} {total} {digest.hexdigest()}\n".encode())


def main():
    listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, sys.argv[2]), daemon=True).start()


main()
