//! Connections against a server that is a stack of its own, which holds the virtual address.

use dataplane::addr::Addr;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::stack::{Wire, stack_time};
use super::*;

const PROBE: [u8; 4] = [10, 1, 0, 7];
const VIP: [u8; 4] = [10, 1, 0, 100];

fn way(last: u8) -> Way {
    Way {
        server: Addr::v4([10, 2, 0, last]),
        tunnel: None,
    }
}

fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(VIP), port)
}

/// A real server that answers to the virtual address on port 80.
struct Server {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
}

impl Server {
    fn new() -> Server {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut wire, stack_time(Instant(0)));
        interface.update_ip_addrs(|addrs| {
            addrs
                .push(IpCidr::new(IpAddress::from(IpAddr::from(VIP)), 0))
                .unwrap();
        });
        let buffer = || SocketBuffer::new(vec![0; 4096]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.listen(80).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        sockets.add(socket);
        Server {
            interface,
            sockets,
            wire,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        let (_, socket) = self.sockets.iter_mut().next().unwrap();
        let smoltcp::socket::Socket::Tcp(socket) = socket;
        socket
    }
}

/// The path, its exchange and one server, and packets between them.
struct Net {
    exchange: Arc<Exchange>,
    path: Path,
    server: Server,
    now: Instant,
    /// The real servers that packets went to.
    asked: Vec<Addr>,
}

impl Net {
    fn new() -> Net {
        let exchange = Arc::new(Exchange::new([IpAddr::from(PROBE)]));
        exchange.follow(|_| true);
        Net {
            path: Path::new(Arc::clone(&exchange)),
            exchange,
            server: Server::new(),
            now: Instant(1_000_000_000),
            asked: Vec::new(),
        }
    }

    /// Lets packets go to and fro, a millisecond a turn; the server with this last byte answers.
    fn run(&mut self, turns: u32, answers: u8) {
        for _ in 0..turns {
            self.now = self.now + Duration::from_millis(1);
            self.path.turn(self.now);
            while let Some(frame) = self.exchange.next_probe() {
                let way = Way::read(frame.first_chunk().unwrap()).unwrap();
                self.asked.push(way.server);
                if way.server == super::tests::way(answers).server {
                    let packet = frame[Way::LEN + 14..].to_vec();
                    self.server.wire.arrived.push_back(packet);
                }
            }
            let Server {
                interface,
                sockets,
                wire,
            } = &mut self.server;
            interface.poll(stack_time(self.now), wire, sockets);
            for packet in self.server.wire.leaving.drain(..) {
                let mut frame = vec![0; 14];
                frame[12..].copy_from_slice(&[8, 0]);
                frame.extend(packet);
                assert!(
                    self.exchange.take(&frame),
                    "not addressed to the probe address"
                );
            }
        }
    }
}

#[test]
fn a_question_and_its_answer_by_the_virtual_address() {
    let mut net = Net::new();
    let line = net.path.connect(net.now, 5, way(11), vip(80)).unwrap();
    assert_eq!(net.path.progress(line), Progress::Connecting);
    net.run(5, 11);
    assert_eq!(net.path.progress(line), Progress::Open);
    assert!(net.path.take_news().contains(&5));
    assert!(net.asked.iter().all(|addr| *addr == way(11).server));
    let now = net.now;
    let mut stream = net.path.stream(now, line);
    let mut bytes = [0; 100];
    assert_eq!(
        stream.read(&mut bytes).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    stream.write_all(b"question").unwrap();
    net.run(5, 11);
    assert_eq!(net.server.socket().recv_slice(&mut bytes), Ok(8));
    net.server.socket().send_slice(b"answer").unwrap();
    net.server.socket().close();
    net.run(5, 11);
    let now = net.now;
    let mut stream = net.path.stream(now, line);
    assert_eq!(stream.read(&mut bytes).unwrap(), 6);
    assert_eq!(&bytes[..6], b"answer");
    assert_eq!(stream.read(&mut bytes).unwrap(), 0, "the end");
    net.path.close(now, line);
    net.run(20, 11);
    assert!(net.path.lines.is_empty(), "nothing is left of it");
}

#[test]
fn two_servers_of_one_address_are_told_apart() {
    let mut net = Net::new();
    let one = net.path.connect(net.now, 1, way(11), vip(80)).unwrap();
    let two = net.path.connect(net.now, 2, way(12), vip(80)).unwrap();
    assert_ne!(one, two);
    net.run(5, 12);
    assert_eq!(net.path.progress(one), Progress::Connecting);
    assert_eq!(net.path.progress(two), Progress::Open);
    assert_eq!(net.path.take_news().iter().max(), Some(&2));
}

#[test]
fn refusals_and_silence() {
    let mut net = Net::new();
    let refused = net.path.connect(net.now, 1, way(11), vip(81)).unwrap();
    let silent = net.path.connect(net.now, 2, way(12), vip(80)).unwrap();
    net.run(5, 11);
    assert_eq!(net.path.progress(refused), Progress::Refused);
    assert_eq!(net.path.progress(silent), Progress::Connecting);
    // A lost SYN is sent again.
    let sent = net.asked.len();
    net.run(1500, 11);
    assert!(net.asked.len() > sent);
    for line in [refused, silent] {
        net.path.close(net.now, line);
    }
    net.run(2100, 11);
    assert!(net.path.lines.is_empty());
    // A late answer is for nobody, and no news.
    net.path.take_news();
    let v6 = net
        .path
        .connect(net.now, 3, way(11), "[2001:db8::1]:80".parse().unwrap());
    assert!(v6.unwrap_err().to_string().contains("no IPv6 address"));
}

#[test]
fn an_address_that_nobody_answers_for_is_not_used() {
    let mut net = Net::new();
    net.exchange.follow(|addr| addr != Addr::v4(PROBE));
    let refused = net.path.connect(net.now, 1, way(11), vip(80)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this host does not hold the probe address 10.1.0.7; add it to a twin"
    );
    net.exchange.follow(|addr| addr == Addr::v4(PROBE));
    assert!(net.path.connect(net.now, 1, way(11), vip(80)).is_ok());
}
