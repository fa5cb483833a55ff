"""Datagrams of connection synchronisation, as hexadecimal text.

    datagrams.py receive DEVICE GROUP PORT        prints each that comes to the group, a line each
    datagrams.py send DEVICE GROUP PORT HEX...    sends them to the group
"""
import socket
import struct
import sys

what, device, group, port, *messages = sys.argv[1:]
index = socket.if_nametoindex(device)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if what == "receive":
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton(group), bytes(4), index))
    sock.bind((group, int(port)))
    print("ready", flush=True)
    while True:
        print(sock.recv(65536).hex(), flush=True)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
for message in messages:
    sock.sendto(bytes.fromhex(message), (group, int(port)))
