"""Sends a file over TCP, closes its side and prints the answer.

    upload.py ADDRESS PORT FILE
"""
import socket
import sys


def main():
    address, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with socket.create_connection((address, port), 20) as sock, open(path, "rb") as file:
        sock.settimeout(60)
        sock.sendfile(file)
        sock.shutdown(socket.SHUT_WR)
        print(sock.recv(4096).decode().strip())


main()
