"""The tunnel's end of a real server whose kernel has no ipip: takes IPv4 and IPv6 packets out of IPv4 and
IPv6 packets (protocols 4 and 41) and hands them to the kernel through a TUN device."""
import fcntl
import os
import select
import socket
import struct
import subprocess

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DEVICE = "decap0"


def tun_device():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", DEVICE, "up"], check=True)
    # The inner source address is the client's, which is not reached through this device.
    with open(f"/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter", "w") as setting:
        setting.write("0")
    return tun


def inner_packet(outer_family, data):
    """A raw IPv4 socket delivers the outer header too, a raw IPv6 socket does not."""
    return data[(data[0] & 0x0F) * 4:] if outer_family == socket.AF_INET else data


def main():
    tun = tun_device()
    sockets = [socket.socket(family, socket.SOCK_RAW, protocol)
               for family in (socket.AF_INET, socket.AF_INET6) for protocol in (4, 41)]
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    print("ready", flush=True)
    while True:
        for sock in select.select(sockets, [], [])[0]:
            packet = inner_packet(sock.family, sock.recv(65535))
            if packet and packet[0] >> 4 in (4, 6):
                os.write(tun, packet)


main()
