"""Sends one VRRP advert over IPv4 with whatever is wrong in it.

    inject.py DEVICE SOURCE VRID KEY=VALUE...       keys: version priority interval auth password ttl type count vips length
                                                    checksum (a number), repeat, pause (seconds)
"""
import socket
import struct
import sys
import time

device, source, vrid = sys.argv[1:4]
given = dict(word.split("=", 1) for word in sys.argv[4:])


def number(key, default):
    return int(given.get(key, default))


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xffff) + (value >> 16)
    return ~value & 0xffff


version = number("version", 3)
vips = [socket.inet_aton(vip) for vip in given.get("vips", "").split(",") if vip]
interval = number("interval", 10)
head = bytes([version << 4 | number("type", 1), int(vrid), number("priority", 200), number("count", len(vips))])
head += bytes([number("auth", 0), interval]) if version == 2 else struct.pack("!H", interval)
tail = b"".join(vips)
if version == 2:
    tail += given.get("password", "").encode().ljust(8, b"\0")
body = head + b"\0\0" + tail
src, dst = socket.inet_aton(source), socket.inet_aton("224.0.0.18")
pseudo = src + dst + struct.pack("!BBH", 0, 112, len(body)) if version == 3 else b""
checksum = number("checksum", total(pseudo + body))
body = head + struct.pack("!H", checksum) + tail
body = body[:number("length", len(body))]
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0xc0, 20 + len(body), 1, 0, number("ttl", 255), 112, 0, src, dst)
header = header[:10] + struct.pack("!H", total(header)) + header[12:]
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((device, 0))
mac = sock.getsockname()[4]
for _ in range(number("repeat", 1)):
    sock.send(bytes.fromhex("01005e000012") + mac + b"\x08\x00" + header + body)
    time.sleep(float(given.get("pause", 0)))
