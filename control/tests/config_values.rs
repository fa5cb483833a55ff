//! What the keys of a file become in `Config`.

use std::path::Path;
use std::time::Duration;

use control::api::{Method, Protocol, ServerKey, ServiceKey, Tunnel, TunnelChecksum, TunnelKind};
use control::config::{
    self, Config, Device, DpdkConfig, Host, Idle, Iova, KernelTable, LogFormat, MemoryMode,
    OperatorState, Rules,
};
use dataplane::settings::Settings;

fn host(online: u32, isolated: &[u32]) -> Host {
    Host {
        online: (0..online).collect(),
        isolated: isolated.to_vec(),
        memory_mb: None,
        ..Host::default()
    }
}

fn parse_on(host: &Host, text: &str) -> Config {
    config::parse(Path::new("test.toml"), text, host).unwrap_or_else(|mistakes| {
        panic!(
            "{}",
            mistakes
                .iter()
                .map(|m| format!("{m}\n"))
                .collect::<String>()
        )
    })
}

fn parse(text: &str) -> Config {
    parse_on(&host(4, &[]), text)
}

const FRONT: &str = "[[port]]\nname = \"front\"\naf_packet = \"f0\"\n";

#[test]
fn one_port_is_enough_and_the_rest_has_defaults() {
    let config = parse(FRONT);
    assert_eq!(
        config.dpdk,
        DpdkConfig {
            memory: MemoryMode::Hugepages,
            memory_mb: 512,
            file_prefix: "rvs".into(),
            main_cores: vec![0, 1, 2],
            worker_cores: vec![3],
            vdevs: vec!["net_af_packet0,iface=f0,blocksz=65536,framesz=2048,framecnt=8192".into()],
            pci: vec![],
            iova: Iova::Auto,
            log_level: vec!["error".into()],
            single_file_segments: false,
            telemetry: false,
            extra_args: vec![],
        }
    );
    let workers = &config.workers;
    assert_eq!(
        (workers.idle, workers.may_sleep(&config.ports)),
        (Idle::Auto, true)
    );
    assert_eq!(
        (workers.idle_spin_polls, workers.idle_sleep),
        (64, Duration::from_micros(400))
    );
    assert_eq!(
        (workers.connections, workers.max_servers),
        (1_000_000, 16_384)
    );
    let port = &config.ports[0];
    assert_eq!(
        (port.twin.as_str(), port.mtu, port.rx_csum_fixup),
        ("rvs-front", 1500, true)
    );
    assert_eq!(
        (port.promiscuous, port.twin_sysctls, port.rx_queues),
        (false, true, 0)
    );
    assert_eq!((port.rx_descriptors, port.tx_descriptors), (1024, 1024));
    assert_eq!(config.kernel.table, KernelTable::Main);
    assert_eq!(config.kernel.neighbour_refresh, Duration::from_secs(20));
    assert_eq!(config.admin.socket, Path::new(control::api::DEFAULT_SOCKET));
    assert_eq!(
        (config.admin.mode, config.admin.group.as_deref()),
        (0o600, None)
    );
    assert_eq!(
        (config.log.format, config.log.filter.as_str()),
        (LogFormat::Human, "info")
    );
    assert_eq!(config.rules, Rules::default());
    assert_eq!(*config.settings(), Settings::default());
}

#[test]
fn a_bond_comes_after_its_members() {
    let text = r#"
        [dpdk]
        memory = "no-huge"
        vdevs = ["net_tap0,iface=t0"]
        [[port]]
        name = "front"
        af_packet = "f0"
        [[port]]
        name = "back"
        bond = { mode = "active-backup", members = ["b0", "net_tap0", "03:00.1"], primary = "b0" }
        [[port]]
        name = "other"
        bond = { mode = "802.3ad", members = ["c0"], xmit_policy = "l23" }
        mtu = 9000
    "#;
    let config = parse(text);
    assert_eq!(
        config.dpdk.vdevs,
        [
            "net_tap0,iface=t0",
            "net_af_packet1,iface=b0,blocksz=65536,framesz=2048,framecnt=8192",
            "net_af_packet2,iface=c0,blocksz=12288,framesz=12288,framecnt=1365",
            "net_af_packet0,iface=f0,blocksz=65536,framesz=2048,framecnt=8192",
            "net_bonding0,mode=1,slave=net_af_packet1,slave=net_tap0,slave=0000:03:00.1,\
             primary=net_af_packet1,xmit_policy=l34",
            "net_bonding1,mode=4,slave=net_af_packet2,xmit_policy=l23",
        ]
    );
    assert_eq!(config.dpdk.pci, ["0000:03:00.1"]);
    let [front, back, other] = &config.ports[..] else {
        panic!("three ports")
    };
    assert_eq!(back.device_name, "net_bonding0");
    assert_eq!(back.kernel_interfaces().collect::<Vec<_>>(), ["b0"]);
    assert!(
        back.is_pci() && !other.is_pci(),
        "a NIC among them is polled"
    );
    assert!(back.rx_csum_fixup && other.rx_csum_fixup);
    // A slot of the ring has to fit into a packet buffer.
    assert_eq!(
        [front, back, other].map(config::Port::longest_frame),
        [2048, 2048, 12288]
    );
}

#[test]
fn devices_become_vdevs_with_names_of_their_own() {
    let text = r#"
        [dpdk]
        memory = "no-huge"
        vdevs = ["net_af_packet0,iface=member"]
        pci = ["04:00.0"]
        [[port]]
        name = "a"
        af_packet = "a0"
        [[port]]
        name = "b"
        af_packet = "b0"
        [[port]]
        name = "c"
        af_xdp = "c0"
        [[port]]
        name = "d"
        memif = { socket = "/run/m.sock", id = 7, role = "server" }
        mac = "02:00:00:00:00:0A"
        [[port]]
        name = "e"
        vhost_user = "/run/v.sock"
        [[port]]
        name = "f"
        pcap = { rx = "in.pcap", infinite = true }
        [[port]]
        name = "g"
        null = {}
        [[port]]
        name = "h"
        null = { size = 128, receive = true }
        [[port]]
        name = "i"
        vdev = "net_null0,size=64"
        [[port]]
        name = "j"
        pci = "0A:1F.7"
        [[port]]
        name = "k"
        pcap = { interface = "k0" }
    "#;
    let config = parse(text);
    let expected = [
        "net_af_packet0,iface=member",
        "net_af_packet1,iface=a0,blocksz=65536,framesz=2048,framecnt=8192",
        "net_af_packet2,iface=b0,blocksz=65536,framesz=2048,framecnt=8192",
        "net_af_xdp0,iface=c0",
        "net_memif0,id=7,role=server,socket=/run/m.sock,socket-abstract=no,mac=02:00:00:00:00:0a",
        "net_virtio_user0,path=/run/v.sock",
        "net_pcap0,rx_pcap=in.pcap,infinite_rx=1",
        "net_null1,size=64,no-rx=1",
        "net_null2,size=128",
        "net_null0,size=64",
        "net_pcap1,iface=k0",
    ];
    assert_eq!(config.dpdk.vdevs, expected);
    assert_eq!(config.dpdk.pci, ["0000:0a:1f.7", "0000:04:00.0"]);
    assert_eq!(
        (config.dpdk.memory_mb, config.workers.connections),
        (256, 65_536)
    );
    // no-huge shares its memory as it is.
    assert!(!config.dpdk.single_file_segments);
    let names: Vec<&str> = config
        .ports
        .iter()
        .map(|p| p.device_name.as_str())
        .collect();
    assert_eq!(
        names[..3],
        ["net_af_packet1", "net_af_packet2", "net_af_xdp0"]
    );
    assert_eq!(names[8..], ["net_null0", "0000:0a:1f.7", "net_pcap1"]);
    let kernel: Vec<_> = config
        .ports
        .iter()
        .flat_map(|p| p.kernel_interfaces())
        .collect();
    assert_eq!(kernel, ["a0", "b0", "c0"]);
    let fixed: Vec<bool> = config.ports.iter().map(|p| p.rx_csum_fixup).collect();
    assert_eq!(fixed[..4], [true, true, true, false]);
    assert_eq!(config.ports[9].device, Device::Pci("0000:0a:1f.7".into()));
    assert!(
        !config.workers.may_sleep(&config.ports),
        "a PCI port is polled"
    );
}

#[test]
fn vhost_user_on_hugepages_wants_single_file_segments() {
    let port = "[[port]]\nname = \"v\"\nvhost_user = \"/run/v.sock\"\n";
    assert!(parse(port).dpdk.single_file_segments);
    let off = format!("[dpdk]\nsingle_file_segments = false\n{port}");
    assert!(!parse(&off).dpdk.single_file_segments);
}

#[test]
fn cores_are_chosen_from_what_the_host_has() {
    let cores = |host: &Host| {
        let dpdk = parse_on(host, FRONT).dpdk;
        (dpdk.main_cores, dpdk.worker_cores)
    };
    assert_eq!(cores(&host(4, &[2, 3])), (vec![0, 1], vec![2]));
    assert_eq!(cores(&host(2, &[])), (vec![0], vec![1]));
    assert_eq!(cores(&host(1, &[])), (vec![0], vec![0]));
    let unknown = config::parse(Path::new("test.toml"), FRONT, &Host::default());
    let mistakes = unknown.expect_err("no core is known");
    assert!(
        mistakes[0].text.contains("name one: [workers] cores = [1]"),
        "{}",
        mistakes[0]
    );
}

#[test]
fn services_and_servers() {
    let text = FRONT.to_owned()
        + r#"
        [kernel]
        vrf = "data"
        [ipvs]
        udp_timeout = 30
        sloppy_tcp = true
        [punt]
        host = 0
        [[service]]
        protocol = "udp"
        address = "10.0.0.1"
        port = 53
        one_packet = true
        [[service.server]]
        address = "10.1.0.1"
        [[service.server]]
        address = "10.1.0.2"
        port = 5353
        method = "masq"
        weight = 0
        upper = 10
        lower = 5
        [[service.server]]
        address = "fd00::3"
        port = 99
        method = "tunnel"
        state = "drain"
        tun_type = "gue"
        tun_port = 6080
        tun_checksum = "csum"
        [[service]]
        protocol = "tcp"
        address = "fd00::1"
        port = 80
        scheduler = "rr"
    "#;
    let config = parse(&text);
    assert_eq!(config.kernel.table, KernelTable::Vrf("data".into()));
    let settings = config.settings();
    assert_eq!((settings.timeouts.tcp, settings.timeouts.udp), (900, 30));
    assert!(settings.sloppy_tcp && settings.pmtu_disc);
    assert_eq!(settings.punt_limits, [20_000, 20_000, 50_000, 0, 200_000]);
    let key = |protocol, addr: &str, port| {
        let addr = addr.parse().expect("a literal address");
        ServiceKey::new(protocol, addr, port)
    };
    let dns = &config.rules.services[&key(Protocol::Udp, "10.0.0.1", 53)];
    assert_eq!(
        (dns.spec.scheduler.as_str(), dns.spec.one_packet),
        ("wlc", true)
    );
    let server = |at: usize| {
        let server = &dns.servers[at];
        let ServerKey { addr, port } = server.key;
        let spec = &server.spec;
        let numbers = (spec.weight, spec.upper, spec.lower);
        (addr.to_string(), port, spec.method, numbers, server.state)
    };
    let (up, drain) = (OperatorState::Up, OperatorState::Drain);
    assert_eq!(
        server(0),
        ("10.1.0.1".into(), 53, Method::Route, (1, 0, 0), up)
    );
    assert_eq!(
        server(1),
        ("10.1.0.2".into(), 5353, Method::Masq, (0, 10, 5), up)
    );
    // The port of a tunnelled packet cannot be changed.
    assert_eq!(
        server(2),
        ("fd00::3".into(), 53, Method::Tunnel, (1, 0, 0), drain)
    );
    let gue = Tunnel {
        kind: TunnelKind::Gue,
        port: 6080,
        checksum: TunnelChecksum::Full,
    };
    let tunnels: Vec<Tunnel> = dns.servers.iter().map(|s| s.spec.tunnel).collect();
    assert_eq!(tunnels, [Tunnel::default(), Tunnel::default(), gue]);
    let web = &config.rules.services[&key(Protocol::Tcp, "fd00::1", 80)];
    assert_eq!((web.spec.scheduler.as_str(), web.servers.len()), ("rr", 0));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn the_kernel_table_may_be_a_number() {
    let table = |n: &str| {
        parse(&format!("{FRONT}[kernel]\ntable = {n}\n"))
            .kernel
            .table
    };
    assert_eq!(table("100"), KernelTable::Number(100));
    assert_eq!(table("254"), KernelTable::Main);
    assert_eq!(table("\"main\""), KernelTable::Main);
}

#[test]
fn this_host_can_be_probed() {
    let host = Host::probe();
    assert!(!host.online.is_empty());
    assert!(host.memory_mb.is_some_and(|mb| mb > 64));
}

/// `[state]`: what systemd says counts unless the file says otherwise, and "" is nothing.
#[test]
fn what_outlives_the_daemon() {
    let systemd = Host {
        state_directory: Some("/var/lib/rvs".into()),
        runtime_directory: Some("/run/rvs".into()),
        ..host(4, &[])
    };
    let port = "[[port]]\nname = \"a\"\nnull = {}\n";
    let of = |host: &Host, text: &str| {
        let text = format!("{text}{port}");
        let config = config::parse(Path::new("rvs.toml"), &text, host).unwrap();
        let show = |path: Option<std::path::PathBuf>| path.map(|p| p.display().to_string());
        (show(config.state.directory), show(config.state.table))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(&host(4, &[]), ""), (None, None));
    let both = (some("/var/lib/rvs"), some("/run/rvs/table"));
    assert_eq!(of(&systemd, ""), both);
    let written = "[state]\ndirectory = \"\"\ntable = \"/mnt/huge/t\"\n";
    assert_eq!(of(&systemd, written), (None, some("/mnt/huge/t")));
    let relative = format!("[state]\ntable = \"t\"\n{port}");
    let mistakes = config::parse(Path::new("rvs.toml"), &relative, &host(4, &[])).unwrap_err();
    assert_eq!((mistakes.len(), mistakes[0].line), (1, 2));
}

/// Every command is looked at when the file is loaded, those of trackers too.
#[test]
fn commands_of_tracked_scripts_are_looked_at() {
    let text = "[[port]]\nname = \"p\"\naf_packet = \"p\"\n\n\
                [[track.script]]\nname = \"web\"\ncommand = [\"/nonexistent/web\", \"80\"]\nuser = \"root\"\n";
    let config = parse(text);
    let found: Vec<(usize, &[String])> = config
        .commands
        .iter()
        .map(|written| (written.line, written.command.argv.as_slice()))
        .collect();
    assert_eq!(
        found,
        [(7, &["/nonexistent/web".to_owned(), "80".into()][..])]
    );
    let account = &config.commands[0].command.account;
    assert_eq!(*account, Some("root".parse().unwrap()));
    let told = config::notify::look(&config);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].line, 7);
    assert!(
        told[0].text.contains("/nonexistent/web"),
        "{}",
        told[0].text
    );
}

#[test]
fn strict_decides_what_no_key_of_its_own_does() {
    let machine = |keys: &str| {
        let text = format!(
            "{FRONT}[[vrrp.instance]]\nname = \"v\"\ninterface = \"e0\"\nvrid = 1\n{keys}\n\
             vip = [{{ addr = \"192.0.2.1\" }}]\n"
        );
        let config = parse(&text);
        let machine = &config.vrrp.instances[0].machine;
        (
            machine.accept,
            machine.answers_lower,
            machine.advert_before_yielding,
            machine.owner_ignores,
        )
    };
    assert_eq!(machine(""), (true, true, true, false));
    assert_eq!(machine("strict = true"), (false, false, false, true));
    assert_eq!(
        machine(
            "strict = true\naccept = true\nlower_prio_no_advert = false\n\
             higher_prio_send_advert = true\nowner_ignore_adverts = false"
        ),
        (true, true, true, false)
    );
}
