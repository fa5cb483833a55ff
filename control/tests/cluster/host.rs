//! Clients and servers: TCP stacks that speak to each other through the nodes.
//!
//! A client sends pieces of a stream that its number decides, waits until the server has sent each
//! back, thinks, and goes on. Bytes that are not those it sent are a fault of the balancer.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dataplane::time::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::random::Random;

const BUFFER: usize = 2048;
const MTU: usize = 1400;

/// Packets of a stack.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: StackTime) -> Option<(Received, Sending<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Received(packet), Sending(&mut self.leaving)))
    }

    fn transmit(&mut self, _: StackTime) -> Option<Sending<'_>> {
        Some(Sending(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ip;
        all.max_transmission_unit = MTU;
        all
    }
}

fn stack_time(now: Instant) -> StackTime {
    StackTime::from_micros((now.0 / 1000) as i64)
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

/// A stack with its sockets.
struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
}

impl Stack {
    fn new(now: Instant, addrs: &[Ipv4Addr], seed: u64) -> Stack {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, stack_time(now));
        interface.update_ip_addrs(|all| {
            for addr in addrs {
                // All the world is on this link.
                all.push(IpCidr::new(IpAddress::Ipv4(*addr), 0)).unwrap();
            }
        });
        Stack {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
        }
    }

    fn poll(&mut self, now: Instant) {
        let (wire, sockets) = (&mut self.wire, &mut self.sockets);
        self.interface.poll(stack_time(now), wire, sockets);
    }

    fn timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(stack_time(now), &self.sockets)?;
        // A stack that wants to be asked at once has said all it can.
        let at = Instant(at.total_micros().max(0) as u64 * 1000);
        Some(at.max(now + Duration::from_micros(100)))
    }
}

/// Byte number `at` of a client's stream.
fn byte(flow: usize, at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (flow as u64) << 17);
    (mixed >> 53) as u8
}

/// How far a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Begins then.
    Waiting(Instant),
    /// SYN sent.
    Connecting,
    /// Waits for its bytes to come back.
    Busy,
    /// Sends more then.
    Thinking(Instant),
    /// Closed by itself when it had all.
    Done,
    /// Reset, or closed by the other end.
    Broken,
}

/// One connection of the clients.
pub struct Flow {
    pub port: u16,
    pub service: IpEndpoint,
    pub progress: Progress,
    socket: Option<SocketHandle>,
    sent: usize,
    returned: usize,
    /// Pieces to go.
    left: u32,
    /// Goes on until it is told to end.
    endless: bool,
}

/// All clients: one address, a port for each.
pub struct Clients {
    pub addr: Ipv4Addr,
    pub flows: Vec<Flow>,
    stack: Stack,
    random: Random,
    is_ending: bool,
}

/// What a client's connection is called: its port.
pub const FIRST_PORT: u16 = 20_000;

impl Clients {
    pub fn new(now: Instant, addr: Ipv4Addr, seed: u64) -> Clients {
        Clients {
            addr,
            flows: Vec::new(),
            stack: Stack::new(now, &[addr], seed),
            random: Random::new(seed),
            is_ending: false,
        }
    }

    /// One more connection, from then on.
    pub fn plan(&mut self, at: Instant, service: IpEndpoint, pieces: u32, endless: bool) {
        self.flows.push(Flow {
            port: FIRST_PORT + self.flows.len() as u16,
            service,
            progress: Progress::Waiting(at),
            socket: None,
            sent: 0,
            returned: 0,
            left: pieces,
            endless,
        });
    }

    /// Endless ones close when they have what they wait for.
    pub fn end(&mut self) {
        self.is_ending = true;
    }

    pub fn receive(&mut self, packet: Vec<u8>) {
        self.stack.wire.arrived.push_back(packet);
    }

    /// Does what is due; packets that leave. An error is a stream that is not what was sent.
    pub fn poll(&mut self, now: Instant) -> Result<Vec<Vec<u8>>, String> {
        self.stack.poll(now);
        for i in 0..self.flows.len() {
            self.tend(now, i)?;
        }
        self.stack.poll(now);
        Ok(self.stack.wire.leaving.drain(..).collect())
    }

    pub fn timeout(&mut self, now: Instant) -> Option<Instant> {
        let own = self.flows.iter().filter_map(|flow| match flow.progress {
            Progress::Waiting(at) | Progress::Thinking(at) => Some(at.max(now)),
            _ => None,
        });
        own.chain(self.stack.timeout(now)).min()
    }

    fn tend(&mut self, now: Instant, i: usize) -> Result<(), String> {
        let Clients {
            stack,
            random,
            flows,
            ..
        } = self;
        let flow = &mut flows[i];
        if let Progress::Waiting(at) = flow.progress {
            if at > now {
                return Ok(());
            }
            let handle = stack.sockets.add(socket());
            let tcp = stack.sockets.get_mut::<Socket<'static>>(handle);
            let context = stack.interface.context();
            let local = (IpAddress::Ipv4(self.addr), flow.port);
            tcp.connect(context, flow.service, local).unwrap();
            flow.socket = Some(handle);
            flow.progress = Progress::Connecting;
            return Ok(());
        }
        let Some(handle) = flow.socket else {
            return Ok(());
        };
        let tcp = stack.sockets.get_mut::<Socket<'static>>(handle);
        if matches!(flow.progress, Progress::Done | Progress::Broken) {
            return Ok(());
        }
        match tcp.state() {
            State::SynSent | State::SynReceived => return Ok(()),
            State::Established => {}
            _ => {
                flow.progress = Progress::Broken;
                return Ok(());
            }
        }
        let mut wrong = None;
        let start = flow.returned;
        let read = tcp.recv(|bytes| {
            for (n, got) in bytes.iter().enumerate() {
                if *got != byte(i, start + n) {
                    wrong.get_or_insert(start + n);
                }
            }
            (bytes.len(), bytes.len())
        });
        flow.returned += read.unwrap_or(0);
        if let Some(at) = wrong {
            return Err(format!("flow {i}: byte {at} is not what was sent"));
        }
        let is_due = match flow.progress {
            Progress::Connecting => true,
            Progress::Busy if flow.returned == flow.sent => {
                flow.progress = Progress::Thinking(now + random.millis(5, 250));
                false
            }
            Progress::Thinking(at) => at <= now,
            _ => false,
        };
        if !is_due {
            return Ok(());
        }
        let is_over = match flow.endless {
            true => self.is_ending,
            false => flow.left == 0,
        };
        if is_over {
            flow.progress = Progress::Done;
            tcp.close();
            return Ok(());
        }
        flow.left = flow.left.saturating_sub(1);
        let len = 1 + random.below(900) as usize;
        let piece: Vec<u8> = (0..len).map(|n| byte(i, flow.sent + n)).collect();
        flow.sent += tcp.send_slice(&piece).unwrap_or(0);
        flow.progress = Progress::Busy;
        Ok(())
    }
}

/// A server: sends back whatever comes.
pub struct Server {
    stack: Stack,
    handles: Vec<SocketHandle>,
    ports: [u16; 2],
}

/// Sockets of each port that wait for connections.
const SPARE: usize = 4;

impl Server {
    /// With its own address and a virtual one (direct routing), on two ports.
    pub fn new(now: Instant, addrs: &[Ipv4Addr], ports: [u16; 2], seed: u64) -> Server {
        let mut server = Server {
            stack: Stack::new(now, addrs, seed),
            handles: Vec::new(),
            ports,
        };
        server.listen();
        server
    }

    fn listen(&mut self) {
        let mut waiting: BTreeMap<u16, usize> = BTreeMap::new();
        for handle in &self.handles {
            let tcp = self.stack.sockets.get::<Socket<'static>>(*handle);
            if tcp.state() == State::Listen {
                *waiting.entry(tcp.listen_endpoint().port).or_default() += 1;
            }
        }
        for port in self.ports {
            for _ in waiting.get(&port).copied().unwrap_or(0)..SPARE {
                let mut tcp = socket();
                tcp.listen(port).unwrap();
                self.handles.push(self.stack.sockets.add(tcp));
            }
        }
    }

    /// A SYN that came twice would open two sockets: this stack has no table of half-open
    /// connections.
    pub fn receive(&mut self, packet: Vec<u8>) {
        let is_syn = packet[33] & 0x12 == 0x02;
        let port = u16::from_be_bytes([packet[20], packet[21]]);
        let is_known = |handle: &SocketHandle| {
            let tcp = self.stack.sockets.get::<Socket<'static>>(*handle);
            tcp.remote_endpoint().is_some_and(|end| end.port == port)
        };
        if !is_syn || !self.handles.iter().any(is_known) {
            self.stack.wire.arrived.push_back(packet);
        }
    }

    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.stack.poll(now);
        for handle in &self.handles {
            let tcp = self.stack.sockets.get_mut::<Socket<'static>>(*handle);
            while tcp.can_recv() && tcp.can_send() {
                let room = tcp.send_capacity() - tcp.send_queue();
                let piece = tcp.recv(|bytes| {
                    let len = bytes.len().min(room);
                    (len, bytes[..len].to_vec())
                });
                let Ok(piece) = piece else { break };
                if piece.is_empty() || tcp.send_slice(&piece).is_err() {
                    break;
                }
            }
            if tcp.state() == State::CloseWait && !tcp.can_recv() && tcp.send_queue() == 0 {
                tcp.close();
            }
        }
        self.listen();
        self.stack.poll(now);
        self.stack.wire.leaving.drain(..).collect()
    }

    pub fn timeout(&mut self, now: Instant) -> Option<Instant> {
        self.stack.timeout(now)
    }
}
