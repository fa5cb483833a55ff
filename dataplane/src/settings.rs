//! Live settings of the core: timeouts and the sysctls of `net.ipv4.vs` that it obeys.

/// Timeouts of `ipvsadm --set` in seconds, with the kernel's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP ESTABLISHED.
    pub tcp: u32,
    /// TCP FIN_WAIT.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp: 900,
            tcp_fin: 120,
            udp: 300,
        }
    }
}

/// Everything a worker may be told to do differently while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--set`.
    pub timeouts: Timeouts,
    /// Packets of connections whose real server was deleted: drop (false) or expire (true).
    pub expire_nodest_conn: bool,
    /// Port reuse rules, see `ip_vs_conn_reuse_mode`.
    pub conn_reuse_mode: u32,
    /// Schedule TCP segments without SYN.
    pub sloppy_tcp: bool,
    /// Path MTU discovery in tunnels: copy DF, answer too-big packets.
    pub pmtu_disc: bool,
    /// Answer packets of unknown NAT servers' flows with port unreachable.
    pub nat_icmp_send: bool,
    /// ICMP answers of ours a second, over all (`net.ipv4.icmp_msgs_per_sec`).
    pub icmp_msgs_per_sec: u32,
    /// Their burst (`net.ipv4.icmp_msgs_burst`).
    pub icmp_msgs_burst: u32,
    /// Packets a second to the kernel for each class (`PuntClass`), 0 = no limit.
    pub punt_limits: [u32; 4],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timeouts: Timeouts::default(),
            expire_nodest_conn: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
            pmtu_disc: true,
            nat_icmp_send: false,
            icmp_msgs_per_sec: 1000,
            icmp_msgs_burst: 50,
            punt_limits: [20_000, 50_000, 100_000, 200_000],
        }
    }
}
