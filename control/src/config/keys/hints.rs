//! Keys that people bring along from elsewhere.

/// Keys that people bring along from elsewhere, and what to say about them:
/// (section, key, what to do).
pub const HINTS: &[(&str, &str, &str)] = &[
    ("", "vrrp_instance", "write [[vrrp.instance]]"),
    ("", "vrrp_script", "write [[track.script]]"),
    (
        "vrrp.instance",
        "virtual_router_id",
        "the key is called \"vrid\"",
    ),
    (
        "vrrp.instance",
        "virtual_ipaddress",
        "write [[vrrp.instance.vip]]",
    ),
    ("vrrp.instance", "nopreempt", "write preempt = false"),
    (
        "vrrp.instance",
        "state",
        "the key is called \"initial_state\"",
    ),
    (
        "vrrp.instance",
        "unicast_peer",
        "write [[vrrp.instance.peers]]",
    ),
    ("vrrp.instance", "use_vmac", "the key is called \"vmac\""),
    ("", "healthcheck", "write [[service.check]]"),
    ("", "virtual_server", "write [[service]]"),
    ("", "ports", "write [[port]], once per port"),
    ("", "services", "write [[service]], once per service"),
    (
        "service",
        "persistent",
        "the key is called \"persistence_timeout\"",
    ),
    ("service", "pe", "the key is called \"persistence_engine\""),
    ("service", "flags", "the key is called \"scheduler_flags\""),
    (
        "service",
        "sched_flags",
        "the key is called \"scheduler_flags\"",
    ),
    ("service", "healthcheck", "write [[service.check]]"),
    ("service", "ops", "the key is called \"one_packet\""),
    ("service", "lb_algo", "the key is called \"scheduler\""),
    ("service", "real_server", "write [[service.server]]"),
    (
        "service.server",
        "healthcheck",
        "write [[service.server.check]]",
    ),
    ("service.server", "lb_kind", "the key is called \"method\""),
    (
        "service.server",
        "forwarding",
        "the key is called \"method\"",
    ),
    (
        "service.server",
        "u_threshold",
        "the key is called \"upper\"",
    ),
    (
        "service.server",
        "l_threshold",
        "the key is called \"lower\"",
    ),
    (
        "port",
        "device",
        "write the device itself: pci = \"0000:03:00.0\" or af_packet = \"eth1\"",
    ),
    ("workers", "count", "name the cores: cores = [1]"),
    ("log", "level", "the key is called \"filter\""),
];
