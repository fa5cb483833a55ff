"""What crosses a switch: one JSON line for each VRRP advert, ARP packet, neighbour advertisement and TCP or ICMP packet.

    wire.py FILE [DEVICE]       frames that come in at any port of this namespace, until it is stopped; with DEVICE those
                                that leave by it instead

Fields: t (seconds, monotonic), port (the switch port that it came in by: who sent it), kind; adverts: src, dst, version,
vrid, priority, ttl, mac; ARP: op, addr and mac of the sender; advertisements: addr, mac, router (the flag); packets: src, dst, mac.
"""
import json
import socket
import struct
import sys
import time

ETH_P_ALL, OUTGOING = 3, 4


def ip(octets):
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)


def advert(src, dst, ttl, body):
    return {"kind": "advert", "src": ip(src), "dst": ip(dst), "ttl": ttl, "version": body[0] >> 4, "vrid": body[1], "priority": body[2]}


def read(frame):
    kind, payload = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and len(payload) >= 28:
        return {"kind": "arp", "op": payload[7], "mac": payload[8:14].hex(":"), "addr": ip(payload[14:18]), "target": ip(payload[24:28])}
    if kind == b"\x08\x00" and len(payload) >= 28:
        body = payload[(payload[0] & 15) * 4:]
        if payload[9] == 112:
            return advert(payload[12:16], payload[16:20], payload[8], body)
        return {"kind": "packet", "src": ip(payload[12:16]), "dst": ip(payload[16:20]), "protocol": payload[9]}
    if kind == b"\x86\xdd" and len(payload) >= 48:
        body = payload[40:]
        if payload[6] == 112:
            return advert(payload[8:24], payload[24:40], payload[7], body)
        if payload[6] == 58 and body[0] == 136:
            return {"kind": "na", "addr": ip(body[8:24]), "router": bool(body[4] & 0x80)}
        return {"kind": "packet", "src": ip(payload[8:24]), "dst": ip(payload[24:40]), "protocol": payload[6]}
    return None


# When the frame crossed, not when this process was woken.
SO_TIMESTAMPNS = 35
OFFSET = time.monotonic() - time.time()
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
device = sys.argv[2] if len(sys.argv) > 2 else None
if device:
    # Not woken for what goes by others: a benchmark's loopback traffic would take a core.
    sock.bind((device, ETH_P_ALL))
print("ready", flush=True)
with open(sys.argv[1], "w", buffering=1) as out:
    while True:
        frame, control, _, (port, _, kind, *_) = sock.recvmsg(256, 64)
        if (kind != OUTGOING or port != device) if device else (kind == OUTGOING or "." not in port):
            continue
        seen = read(frame)
        if seen:
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            where = {"t": OFFSET + seconds + nanoseconds / 1e9, "port": port, "mac": frame[6:12].hex(":")}
            out.write(json.dumps({**where, **seen}) + "\n")
