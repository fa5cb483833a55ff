"""VRRP-like adverts: IP protocol 112 to 224.0.0.18, TTL 255, ten a second.

    adverts.py send DEVICE                sends until it is stopped
    adverts.py receive DEVICE FILE        writes {"count": N, "longest_gap": seconds, "latest": seconds} to FILE ten
                                          times a second; "latest" is the longest way from sender to device
"""
import json
import os
import select
import socket
import struct
import sys
import time

GROUP, PROTOCOL, INTERVAL = "224.0.0.18", 112, 0.1
SO_TIMESTAMPNS = 35


def send(device):
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
    index = socket.if_nametoindex(device)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", b"", b"", index))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    print("ready", flush=True)
    due = time.monotonic()
    while True:
        sock.sendto(bytes.fromhex("2133640000010000") + struct.pack("!d", time.time()), (GROUP, 0))
        due += INTERVAL
        time.sleep(max(0, due - time.monotonic()))


def receive(device, path):
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
    index = socket.if_nametoindex(device)
    group = struct.pack("4s4si", socket.inet_aton(GROUP), b"", index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    # When the device gave it to the kernel, not when this process was woken.
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    print("ready", flush=True)
    count, longest, latest, last = 0, 0.0, 0.0, None
    while True:
        if select.select([sock], [], [], INTERVAL)[0]:
            data, control, *_ = sock.recvmsg(2048, 64)
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            latest = max(latest, seconds + nanoseconds / 1e9 - struct.unpack("!d", data[-8:])[0])
            now = time.monotonic()
            count, longest, last = count + 1, max(longest, now - last if last else 0.0), now
        gap = max(longest, time.monotonic() - last) if last else 0.0
        with open(path + ".part", "w") as file:
            json.dump({"count": count, "longest_gap": round(gap, 3), "latest": round(latest, 4)}, file)
        os.replace(path + ".part", path)


if sys.argv[1] == "send":
    send(sys.argv[2])
else:
    receive(sys.argv[2], sys.argv[3])
