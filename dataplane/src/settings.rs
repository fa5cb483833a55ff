//! Live settings of the core: timeouts and the sysctls of `net.ipv4.vs` that it obeys.

use crate::packet::PuntClass;
use crate::sync::Rules;

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
    /// Templates of destinations with weight 0 are given up.
    pub expire_quiescent_template: bool,
    /// Packets of a marked service without a usable destination go to their own.
    pub cache_bypass: bool,
    /// Schedule TCP segments without SYN.
    pub sloppy_tcp: bool,
    /// Schedule SCTP packets without INIT.
    pub sloppy_sctp: bool,
    /// Schedule ICMP errors by the packet they quote.
    pub schedule_icmp: bool,
    /// Free part of the connection table, in entries, below which the automatic defences start.
    pub amemthresh: u32,
    /// `drop_packet` 3 drops one of so many.
    pub am_droprate: u32,
    /// Drop idle and half-open connections: 0 to 3.
    pub drop_entry: u32,
    /// Drop opening packets: 0 to 3.
    pub drop_packet: u32,
    /// Use the secure TCP table: 0 to 3.
    pub secure_tcp: u32,
    /// Seconds after which `lblc` forgets a destination address that was not asked for.
    pub lblc_expiration: u32,
    /// The same for `lblcr`.
    pub lblcr_expiration: u32,
    /// Take snapshots and estimate rates; control obeys it, workers count all the same.
    pub run_estimation: bool,
    /// Path MTU discovery in tunnels: copy DF, answer too-big packets.
    pub pmtu_disc: bool,
    /// Answer packets of unknown NAT servers' flows with port unreachable.
    pub nat_icmp_send: bool,
    /// ICMP answers of ours a second, over all (`net.ipv4.icmp_msgs_per_sec`).
    pub icmp_msgs_per_sec: u32,
    /// Their burst (`net.ipv4.icmp_msgs_burst`).
    pub icmp_msgs_burst: u32,
    /// Milliseconds between such answers to one peer once a burst of six is used up, 0 = no
    /// limit for a peer (`net.ipv4.icmp_ratelimit`).
    pub icmp_ratelimit: u32,
    /// While a receive queue stays full, refuse a share of what would open connections.
    pub hits_first: bool,
    /// While a backup of connection synchronisation runs, clients' packets are left to the host;
    /// control obeys it.
    pub backup_only: bool,
    /// When a master of connection synchronisation announces.
    pub sync: Rules,
    /// UDP ports and threads of synchronisation; control obeys these three when a daemon starts.
    pub sync_ports: u32,
    /// Messages that may wait to be sent, 0 = a number of ours.
    pub sync_qlen_max: u32,
    /// Bytes of the buffers of its sockets, 0 = the system's default.
    pub sync_sock_size: u32,
    /// Packets a second to the kernel for each class (`PuntClass`), 0 = no limit.
    pub punt_limits: [u32; PuntClass::COUNT],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timeouts: Timeouts::default(),
            expire_nodest_conn: false,
            conn_reuse_mode: 1,
            expire_quiescent_template: false,
            cache_bypass: false,
            sloppy_tcp: false,
            sloppy_sctp: false,
            schedule_icmp: false,
            amemthresh: 1024,
            am_droprate: 10,
            drop_entry: 0,
            drop_packet: 0,
            secure_tcp: 0,
            lblc_expiration: 86_400,
            lblcr_expiration: 86_400,
            run_estimation: true,
            pmtu_disc: true,
            nat_icmp_send: false,
            icmp_msgs_per_sec: 1000,
            icmp_msgs_burst: 50,
            icmp_ratelimit: 1000,
            hits_first: true,
            backup_only: false,
            sync: Rules::default(),
            sync_ports: 1,
            sync_qlen_max: 0,
            sync_sock_size: 0,
            punt_limits: [20_000, 20_000, 50_000, 100_000, 200_000],
        }
    }
}
