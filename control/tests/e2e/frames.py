"""Frames and capture files made by hand: what tests and load scripts replay."""
import socket
import struct


def checksum(data):
    """The internet checksum (RFC 1071) as a number."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ipv4(src, dst, protocol, payload, ident=0, ttl=64):
    src, dst = socket.inet_aton(src), socket.inet_aton(dst)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, 0, ttl, protocol, 0, src, dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_checksum(src, dst, protocol, segment, at):
    """Writes the transport checksum, over the pseudo header, at an offset of the segment."""
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, protocol, len(segment))
    total = checksum(pseudo + segment) or (0xFFFF if protocol == 17 else 0)
    return segment[:at] + struct.pack("!H", total) + segment[at + 2:]


SYN, ACK = 0x02, 0x10


def tcp(src, sport, dst, dport, flags=SYN, seq=1, payload=b""):
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq, 0, 0x50, flags, 65535, 0, 0) + payload
    return ipv4(src, dst, 6, with_checksum(src, dst, 6, segment, 16))


def udp(src, sport, dst, dport, payload=b""):
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return ipv4(src, dst, 17, with_checksum(src, dst, 17, segment, 6))


def ethernet(dst, src, packet, ethertype=0x0800):
    """A frame of at least 60 bytes (64 with its FCS, which is not part of it)."""
    return (mac(dst) + mac(src) + struct.pack("!H", ethertype) + packet).ljust(60, b"\0")


def write_pcap(path, frames):
    """A classic capture file: Ethernet, a microsecond between two frames."""
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            out.write(struct.pack("<IIII", number // 1_000_000, number % 1_000_000, len(frame), len(frame)) + frame)


def clients(count, first="172.16.0.1", first_port=2000):
    """`count` different (address, port) pairs: addresses in order, then the next port."""
    base = struct.unpack("!I", socket.inet_aton(first))[0]
    hosts = min(count, 4000)
    for number in range(count):
        yield socket.inet_ntoa(struct.pack("!I", base + number % hosts)), first_port + number // hosts
