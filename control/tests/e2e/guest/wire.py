"""Frames as bytes: building what clients and servers send, reading what comes out."""
import ipaddress
import struct

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
FRAGMENT = 44
FLAGS = "FSRPAUEC"


def address(text):
    return ipaddress.ip_address(text).packed


def mac_of(addr):
    """The MAC of the machine with this address (all machines around the balancer follow this rule)."""
    packed = address(addr)
    return bytes([2, len(packed), *packed[-4:]])


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


CRC32C = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    CRC32C.append(number)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return ~crc & 0xFFFFFFFF


def pseudo(src, dst, protocol, length):
    if len(src) == 4:
        return src + dst + struct.pack("!BBH", 0, protocol, length)
    return src + dst + struct.pack("!IHBB", length, 0, 0, protocol)


def ip(src, dst, protocol, payload, ttl=64, tos=0, df=False, ident=0, offset=0, more=False, options=b""):
    """An IP packet; addresses as text. `offset` in bytes, `options` of whole words (both IPv4 only)."""
    a, b = address(src), address(dst)
    if len(a) == 4:
        field = (0x4000 if df else 0) | (0x2000 if more else 0) | offset // 8
        size = 20 + len(options)
        head = struct.pack("!BBHHHBBH4s4s", 0x40 | size // 4, tos, size + len(payload), ident, field, ttl, protocol, 0, a, b) + options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
    return struct.pack("!IHBB16s16s", 6 << 28 | tos << 20, len(payload), protocol, ttl, a, b) + payload


def pieces(packet, ends, ident):
    """The IP packet in pieces: its payload cut behind these offsets (multiples of 8)."""
    v4 = packet[0] >> 4 == 4
    size = (packet[0] & 15) * 4 if v4 else 40
    head, payload, out = packet[:size], packet[size:], []
    for begin, end in zip([0, *ends], [*ends, len(payload)]):
        more, part = end < len(payload), payload[begin:end]
        if v4:
            field = (0x2000 if more else 0) | begin // 8
            cut = head[:2] + struct.pack("!HHH", size + len(part), ident, field) + head[8:10] + b"\0\0" + head[12:]
            out.append(cut[:10] + struct.pack("!H", checksum(cut)) + cut[12:] + part)
        else:
            fragment = struct.pack("!BBHI", head[6], 0, begin | more, ident)
            out.append(head[:4] + struct.pack("!H", 8 + len(part)) + bytes([FRAGMENT]) + head[7:] + fragment + part)
    return out


def whole(packets):
    """IP packets put together again where they are pieces; pieces of packets that are not whole are left out."""
    out, waiting = [], {}
    for packet in packets:
        v4 = packet[0] >> 4 == 4
        if v4:
            size, field = (packet[0] & 15) * 4, struct.unpack("!H", packet[6:8])[0]
            length, more, offset = struct.unpack("!H", packet[2:4])[0], bool(field & 0x2000), (field & 0x1FFF) * 8
            key, head, part = (packet[12:20], packet[4:6], packet[9]), packet[:size], packet[size:length]
        else:
            if packet[6] != FRAGMENT:
                out.append(packet)
                continue
            field = struct.unpack("!H", packet[42:44])[0]
            length, more, offset = 40 + struct.unpack("!H", packet[4:6])[0], bool(field & 1), field & ~7
            key, head, part = (packet[8:40], packet[44:48], packet[40]), packet[:6] + packet[40:41] + packet[7:40], packet[48:length]
        if v4 and not more and not offset:
            out.append(packet)
            continue
        parts = waiting.setdefault(key, {})
        parts[offset] = (head, part, more)
        data, at = b"", 0
        while at in parts:
            data, last = data + parts[at][1], not parts[at][2]
            if last:
                first = parts[0][0]
                if v4:
                    first = first[:2] + struct.pack("!H", len(first) + len(data)) + b"\0\0\0\0" + first[8:10] + b"\0\0" + first[12:]
                    first = first[:10] + struct.pack("!H", checksum(first)) + first[12:]
                else:
                    first = first[:4] + struct.pack("!H", len(data)) + first[6:]
                out.append(first + data)
                del waiting[key]
                break
            at = len(data)
    return out


def sealed(src, dst, protocol, segment, at):
    """The segment with its checksum put in at an offset."""
    a, b = address(src), address(dst)
    total = checksum(pseudo(a, b, protocol, len(segment)) + segment)
    if protocol == UDP and total == 0:
        total = 0xFFFF
    return segment[:at] + struct.pack("!H", total) + segment[at + 2:]


def tcp(src, sport, dst, dport, flags="S", seq=1, ack=0, payload=b""):
    bits = sum(1 << FLAGS.index(letter) for letter in flags)
    return sealed(src, dst, TCP, struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, bits, 65535, 0, 0) + payload, 16)


def udp(src, sport, dst, dport, payload=b"", summed=True):
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return sealed(src, dst, UDP, segment, 6) if summed else segment


def sctp(sport, dport, chunk, tag=1):
    """A packet of one empty chunk of this type (INIT has its fixed fields)."""
    value = struct.pack("!IIHHI", 7, 65536, 1, 1, 1) if chunk in (1, 2) else b""
    if chunk == 0:
        value = struct.pack("!IHHI", 1, 0, 0, 0) + b"data"
    packet = struct.pack("!HHII", sport, dport, tag, 0) + struct.pack("!BBH", chunk, 3 if chunk == 0 else 0, 4 + len(value)) + value
    return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


def icmp(src, dst, kind, code, rest=0, payload=b""):
    """An ICMP message of the family of the addresses."""
    body = struct.pack("!BBHI", kind, code, 0, rest) + payload
    if ":" in src:
        return sealed(src, dst, ICMP6, body, 2)
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def ethernet(to, source, packet):
    return to + source + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def print_mac(mac):
    return ":".join(f"{byte:02x}" for byte in mac)


def read(frame):
    """What a frame holds, or None if it is not IP: addresses as text, numbers, `inner` in tunnels and ICMP errors."""
    kind = frame[12:14]
    if kind not in (b"\x08\0", b"\x86\xdd"):
        return None
    return {"eth_dst": print_mac(frame[:6]), "eth_src": print_mac(frame[6:12])} | read_ip(frame[14:])


def read_ip(packet):
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        field = struct.unpack("!H", packet[6:8])[0]
        length = struct.unpack("!H", packet[2:4])[0]
        out = {"src": str(ipaddress.ip_address(packet[12:16])), "dst": str(ipaddress.ip_address(packet[16:20])), "ttl": packet[8],
               "tos": packet[1], "proto": packet[9], "df": bool(field & 0x4000), "more": bool(field & 0x2000),
               "offset": (field & 0x1FFF) * 8, "id": struct.unpack("!H", packet[4:6])[0], "right": checksum(packet[:size]) == 0}
    else:
        size, length = 40, 40 + struct.unpack("!H", packet[4:6])[0]
        out = {"src": str(ipaddress.ip_address(packet[8:24])), "dst": str(ipaddress.ip_address(packet[24:40])), "ttl": packet[7],
               "tos": struct.unpack("!H", packet[:2])[0] >> 4 & 0xFF, "proto": packet[6], "offset": 0}
    rest = packet[size:length]
    if out["offset"]:
        return out | {"payload": rest.hex()}
    if out["proto"] in (TCP, UDP, SCTP) and len(rest) >= 8:
        out["sport"], out["dport"] = struct.unpack("!HH", rest[:4])
        if out["proto"] == TCP and len(rest) >= 20:
            out["flags"] = "".join(letter for bit, letter in enumerate(FLAGS) if rest[13] >> bit & 1)
            out["seq"], out["ack"] = struct.unpack("!II", rest[4:12])
            out["payload"] = rest[(rest[12] >> 4) * 4:].hex()
        elif out["proto"] == UDP:
            out["payload"] = rest[8:].hex()
        elif len(rest) > 12:
            out["chunk"] = rest[12]
    elif out["proto"] in (ICMP, ICMP6) and len(rest) >= 8:
        out["icmp"] = (rest[0], rest[1], struct.unpack("!I", rest[4:8])[0])
        error = rest[0] in (3, 4, 5, 11, 12) if out["proto"] == ICMP else rest[0] < 128
        if error and len(rest) >= 8 + 20:
            out["inner"] = read_ip(rest[8:])
        else:
            out["payload"] = rest[8:].hex()
    elif out["proto"] in (4, 41) and len(rest) >= 20:
        out["inner"] = read_ip(rest)
    else:
        out["payload"] = rest.hex()
    return out
