"""Sends broken frames: IPv4 with a wrong header checksum, a header cut short, a length beyond the frame.

    malformed.py DEVICE MAC VIP
"""
import socket
import struct
import sys


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, target, payload, length=None, right=True):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length or 20 + len(payload), 1, 0x4000, 64, 6, 0,
                         socket.inet_aton(source), socket.inet_aton(target))
    value = checksum(header) ^ (0 if right else 0x5555)
    return header[:10] + struct.pack("!H", value) + header[12:] + payload


def main():
    device, mac, vip = sys.argv[1:4]
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    ethernet = bytes.fromhex(mac.replace(":", "")) + sock.getsockname()[4] + b"\x08\x00"
    syn = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 0x50, 2, 64000, 0, 0)
    for packet in (ipv4("10.1.0.2", vip, syn, right=False),
                   ipv4("10.1.0.2", vip, syn, length=1400),
                   ipv4("10.1.0.2", vip, syn)[:12],
                   ipv4("10.1.0.2", vip, syn[:6])):
        sock.send(ethernet + packet)
    print("ready", flush=True)


main()
