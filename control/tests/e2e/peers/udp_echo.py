"""Answers each UDP datagram with "NAME: " and its content, from the address it was sent to.

    udp_echo.py PORT NAME
"""
import socket
import struct
import sys


def main():
    port, name = int(sys.argv[1]), sys.argv[2].encode()
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.bind(("::", port))
    print("ready", flush=True)
    while True:
        data, ancillary, _, client = sock.recvmsg(65535, socket.CMSG_SPACE(20))
        # Keep the address, forget the interface: the answer is routed by its source address.
        local = next(value[:16] for level, kind, value in ancillary if kind == socket.IPV6_PKTINFO)
        info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + struct.pack("I", 0))
        sock.sendmsg([name + b": " + data], [info], 0, client)


main()
