//! Keys of data ports: `[[port]]` and the tables of its kinds.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Choice, Integer, Table, Text, Texts};
use super::{Section, key};

pub(super) static PORT: Section = Section {
    path: "port",
    list: true,
    live: false,
    help: "A data port. Give exactly one of `pci`, `af_packet`, `af_xdp`, `memif`, `vhost_user`, `pcap`, `null`, `bond`, `vdev`.",
    keys: &[
        key(
            "name",
            Text,
            Required,
            "name in `rvsadm status` and `rvsadm capture`",
        ),
        key(
            "pci",
            Text,
            Computed("none"),
            "PCI address of a NIC bound to vfio-pci, `0000:03:00.0`",
        ),
        key(
            "af_packet",
            Text,
            Computed("none"),
            "kernel interface, reached by an AF_PACKET socket; works everywhere",
        ),
        key(
            "af_xdp",
            Text,
            Computed("none"),
            "kernel interface, reached by an AF_XDP socket",
        ),
        key(
            "memif",
            Table(&MEMIF),
            Computed("none"),
            "shared-memory port to another process on this host",
        ),
        key(
            "vhost_user",
            Text,
            Computed("none"),
            "path of a vhost-user socket that the other side (a switch, a hypervisor) listens on",
        ),
        key(
            "pcap",
            Table(&PCAP),
            Computed("none"),
            "packets from and to files, for tests",
        ),
        key(
            "null",
            Table(&NULL),
            Computed("none"),
            "no packets, or empty ones as fast as asked, for benches",
        ),
        key(
            "bond",
            Table(&BOND),
            Computed("none"),
            "several devices as one: failover, or more bandwidth",
        ),
        key(
            "vdev",
            Text,
            Computed("none"),
            "any other virtual device as DPDK writes it, `net_tap0,iface=x0`",
        ),
        key(
            "mac",
            Text,
            Computed("chosen by the driver at each start"),
            "own MAC address; for memif and vhost_user only, other devices have one",
        ),
        key(
            "twin",
            Text,
            Computed("`rvs-` and the name of the port"),
            "name of the kernel device that carries the port's addresses and routes; at most 15 characters",
        ),
        key(
            "mtu",
            Integer(576, 9216),
            Value("1500"),
            "largest packet in bytes, without its Ethernet header; at most 3542 on af_xdp; on af_packet the interface gets it, too",
        ),
        key(
            "rx_queues",
            Integer(0, 64),
            Value("0"),
            "receive queues; 0: one for each worker if the device spreads packets (RSS), else 1",
        ),
        key(
            "faces",
            Choice(&["both", "clients", "servers"], &[]),
            Value("\"both\""),
            "who is on this port; if every port says either clients or servers, NICs that take a key of ours (RSS) bring requests and replies of a client over IPv4 to one worker, and nothing is handed over",
        ),
        key(
            "rx_descriptors",
            Integer(64, 32_768),
            Value("1024"),
            "receive ring, packets per queue",
        ),
        key(
            "tx_descriptors",
            Integer(64, 32_768),
            Value("1024"),
            "transmit ring, packets per queue",
        ),
        key(
            "promiscuous",
            Boolean,
            Value("false"),
            "receive frames for any MAC; frames that are not ours are dropped all the same",
        ),
        key(
            "rx_csum_fixup",
            Boolean,
            Computed("true on af_packet and af_xdp"),
            "complete TCP, UDP and SCTP checksums that a virtual peer left to its hardware",
        ),
        key(
            "rx_gso_fixup",
            Boolean,
            Value("false"),
            "cut TCP packets of up to 64 KiB that a virtual peer left to its hardware (TSO) to the MTU; af_packet only, takes 64 MiB",
        ),
        key(
            "offloads",
            Choice(&["auto", "all", "none"], &[]),
            Value("\"auto\""),
            "checksums that the NIC verifies or works out, VLAN tags that it takes out and puts in, and a receive queue of its own for VRRP and ARP; auto: where the driver has a NIC do it, all: also where it does it itself",
        ),
        key(
            "twin_sysctls",
            Boolean,
            Value("true"),
            "set arp_ignore, arp_announce, rp_filter and send_redirects of the twin to values fit for a load balancer",
        ),
    ],
};

pub(super) static MEMIF: Section = Section {
    path: "port.memif",
    list: false,
    live: false,
    help: "Written inline: `memif = { socket = \"/run/rvs/memif.sock\", id = 0, role = \"server\" }`. \
           A peer that misbehaves can crash `rvsd` ([why, and what to use then](operations.md#memif-ports)).",
    keys: &[
        key("socket", Text, Required, "path of the control socket"),
        key(
            "id",
            Integer(0, u32::MAX as i64),
            Value("0"),
            "interface number, the same on both sides",
        ),
        key(
            "role",
            Choice(
                &["server", "client"],
                &[("master", "server"), ("slave", "client")],
            ),
            Value("\"client\""),
            "who makes the socket",
        ),
    ],
};

pub(super) static PCAP: Section = Section {
    path: "port.pcap",
    list: false,
    live: false,
    help: "Written inline: `pcap = { rx = \"in.pcap\", tx = \"out.pcap\" }`; either files or an interface.",
    keys: &[
        key(
            "rx",
            Text,
            Computed("nothing is received"),
            "file to read packets from",
        ),
        key(
            "tx",
            Text,
            Computed("sent packets are dropped"),
            "file to write packets to",
        ),
        key(
            "interface",
            Text,
            Computed("none"),
            "kernel interface, by libpcap",
        ),
        key(
            "infinite",
            Boolean,
            Value("false"),
            "read the file over and over",
        ),
    ],
};

pub(super) static NULL: Section = Section {
    path: "port.null",
    list: false,
    live: false,
    help: "Written inline: `null = {}`.",
    keys: &[
        key(
            "size",
            Integer(60, 9216),
            Value("64"),
            "bytes of a received packet",
        ),
        key(
            "receive",
            Boolean,
            Value("false"),
            "receive packets (of undefined contents)",
        ),
    ],
};

pub(super) static BOND: Section = Section {
    path: "port.bond",
    list: false,
    live: false,
    help: "Written inline: `bond = { mode = \"active-backup\", members = [\"0000:03:00.0\", \"0000:03:00.1\"] }`. \
           When another member takes over, the addresses of the twin are announced again.",
    keys: &[
        key(
            "mode",
            Choice(&["active-backup", "balance", "802.3ad"], &[]),
            Required,
            "one sends and the others stand by; all send, by a hash; the same agreed with the switch (LACP)",
        ),
        key(
            "members",
            Texts,
            Required,
            "PCI addresses, kernel interfaces (by AF_PACKET), or names of devices in `dpdk.vdevs`",
        ),
        key(
            "primary",
            Text,
            Computed("the first member, until it fails"),
            "the member that sends whenever its link is up; active-backup only",
        ),
        key(
            "xmit_policy",
            Choice(&["l2", "l23", "l34"], &[]),
            Value("\"l34\""),
            "what the hash is made of: MAC addresses, and IP addresses, or IP addresses and ports",
        ),
    ],
};
