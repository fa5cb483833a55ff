//! Keywords that nothing is made of, and why.

/// No packet depends on these.
pub const IGNORED: &[(&[&str], &str)] = &[
    (
        &[
            "snmp_socket",
            "enable_snmp_keepalived",
            "enable_snmp_vrrp",
            "enable_snmp_checker",
            "enable_snmp_rfc",
            "enable_snmp_rfcv2",
            "enable_snmp_rfcv3",
            "enable_traps",
            "snmp_name",
            "snmp_server",
        ],
        "there is no SNMP agent; rvsadm prints the same as JSON",
    ),
    (
        &["enable_dbus", "dbus_service_name", "dbus_no_interface_name"],
        "there is no D-Bus interface",
    ),
    (
        &[
            "vrrp_iptables",
            "vrrp_ipsets",
            "vrrp_nftables",
            "nftables",
            "nftables_priority",
            "nftables_counters",
            "nftables_ifindex",
            "namespace_with_ipsets",
        ],
        "RVS needs no firewall rules: workers decide what they take",
    ),
    (
        &[
            "vrrp_rt_priority",
            "checker_rt_priority",
            "bfd_rt_priority",
            "vrrp_cpu_affinity",
            "checker_cpu_affinity",
            "bfd_cpu_affinity",
            "vrrp_rlimit_rttime",
            "vrrp_rlimit_rtime",
            "checker_rlimit_rttime",
            "checker_rlimit_rtime",
            "bfd_rlimit_rttime",
            "bfd_rlimit_rtime",
            "vrrp_no_swap",
            "checker_no_swap",
            "bfd_no_swap",
            "vrrp_priority",
            "checker_priority",
            "bfd_priority",
            "max_auto_priority",
            "min_auto_priority_delay",
        ],
        "the processes of keepalived; RVS has one, see [workers] and [vrrp]",
    ),
    (
        &[
            "vrrp_netlink_cmd_rcv_bufs",
            "vrrp_netlink_cmd_rcv_bufs_force",
            "vrrp_netlink_monitor_rcv_bufs",
            "vrrp_netlink_monitor_rcv_bufs_force",
            "lvs_netlink_cmd_rcv_bufs",
            "lvs_netlink_cmd_rcv_bufs_force",
            "lvs_netlink_monitor_rcv_bufs",
            "lvs_netlink_monitor_rcv_bufs_force",
            "process_monitor_rcv_bufs",
            "process_monitor_rcv_bufs_force",
            "vrrp_rx_bufs_policy",
            "vrrp_rx_bufs_multiplier",
            "kernel_rx_buf_size",
        ],
        "buffers are RVS's own",
    ),
    (
        &[
            "process_names",
            "process_name",
            "vrrp_process_name",
            "checker_process_name",
            "bfd_process_name",
            "use_pid_dir",
            "umask",
            "tmp_config_directory",
            "config_save_dir",
            "json_version",
            "child_wait_time",
            "instance",
            "data_use_instance",
            "random_seed",
            "debug",
            "reload_file",
        ],
        "about the keepalived process itself",
    ),
    (
        &["reload_check_config"],
        "always so: a file with a mistake changes nothing",
    ),
    (
        &["include_check"],
        "includes were resolved; what was not found is in this report",
    ),
    (
        &["reload_time_file", "reload_repeat"],
        "reload by a timer of the system: rvsadm reload",
    ),
    (
        &[
            "linkbeat_use_polling",
            "linkbeat_interfaces",
            "disable_local_igmp",
            "native_ipv6",
            "dynamic_interfaces",
            "allow_no_interface",
            "default_interface",
            "track_group",
        ],
        "RVS learns of interfaces from the kernel, and those that come later are taken up",
    ),
    (
        &["lvs_flush", "lvs_flush_onstop", "lvs_flush_on_stop"],
        "rvsd starts with the services of its file and no others",
    ),
    (
        &[
            "log_unknown_vrids",
            "checker_log_all_failures",
            "log_all_failures",
        ],
        "adverts of others and failures are counted, rvsadm shows them",
    ),
    (
        &["startup_script_timeout", "shutdown_script_timeout"],
        "belongs to the script",
    ),
    (
        &["startup_script", "shutdown_script"],
        "start it from the unit of rvsd: ExecStartPre=, ExecStopPost=",
    ),
];

/// Packets, or which host serves them, may depend on these.
pub const LOST: &[(&[&str], &str)] = &[
    (
        &["bfd_instance", "BFD_CHECK", "track_bfd"],
        "there is no BFD in RVS; a routing daemon can run it on the twins",
    ),
    (
        &["auth_hmac"],
        "adverts have no HMAC; remove it on all hosts, or give them a link of their own",
    ),
    (
        &["static_ipaddress", "static_routes", "static_rules"],
        "addresses and routes of the twins are the system's business: ip, networkd, ifupdown",
    ),
    (
        &["net_namespace", "net_namespace_ipvs"],
        "start rvsd in the namespace: NetworkNamespacePath= of its unit",
    ),
    (
        &[
            "nftables_ipvs",
            "nftables_ipvs_priority",
            "nftables_ipvs_start_fwmark",
        ],
        "each address of a group is a service of its own here",
    ),
    (
        &["lvs_sync_daemon_interface", "lvs_sync_daemon_inteface"],
        "an old form: write lvs_sync_daemon INTERFACE INSTANCE",
    ),
    (
        &[
            "laddr_group_name",
            "local_address_group",
            "syn_proxy",
            "match_group",
            "tunnel",
        ],
        "an extension of DPVS that RVS does not have",
    ),
];
