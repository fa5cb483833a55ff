"""Sends UDP datagrams from fresh ports and prints what came back, a line each.

    udp_ask.py ADDRESS PORT COUNT [BYTES]
"""
import socket
import sys


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    size = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for number in range(count):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((address, port))
            question = f"question {number}".encode().ljust(size, b".")
            sock.send(question)
            try:
                answer = sock.recv(65535)
                name, _, echoed = answer.partition(b": ")
                print(name.decode() if echoed == question else "damaged", flush=True)
            except OSError as error:
                print(f"error: {error}", flush=True)


main()
