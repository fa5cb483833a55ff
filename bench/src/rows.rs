//! The rows of the table: how connections are made, which packets they get, what is checked.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dataplane::command::{Command, Outcome};
use dataplane::proto::tcp::State;
use dataplane::schedule;
use dataplane::settings::{Settings, Timeouts};
use dataplane::time::secs;

use crate::audit::{Expect, Totals};
use crate::cores::{self, Cores, Gain};
use crate::model::Measured;
use crate::pair::{self, Source};
use crate::pictures;
use crate::report::Row;
use crate::rig::{self, Cost, Family, Method, Plan, Ports, Rig, SERVERS, Side};
use crate::testpmd::Testpmd;
use crate::traffic::{
    ACK, Client, Generator, LEN4, LEN6, OPENS, Random, Reply4, Reply6, Request4, Request6, SYN,
    Shape, Spread, Templates,
};

/// Two workers on two cores: not a row, but asked for like one.
pub const TWO_CORES: &str = "two-cores";

/// Half-open connections in the steady state of the rows of new connections.
const NEW_LIVE: u32 = 1_000_000;
/// How long they live (SYN_RECV).
const NEW_TIMEOUT: u32 = 60;

/// Half-open connections in the steady state of the mixed row. As many as its table has room
/// for: the fewer they are, the faster time has to pass, and the more timers fire.
const MIXED_LIVE: u32 = 200_000;

/// Services of the rows of services.
const SERVICES: [u32; 3] = [1, 128, 2048];

/// Real servers of the rows of schedulers.
const DESTINATIONS: [u32; 3] = [3, 100, 1000];

/// A row of new connections.
struct Fresh {
    name: String,
    /// Of the packets that open them.
    flags: u8,
    /// Connections in the steady state.
    live: u32,
    /// The worker by the size of its table.
    table: u32,
    /// Rounds at most.
    rounds: usize,
    /// CPU time of a round at most.
    cpu: Duration,
    /// Services that get the connections, if they are others than usual; 0 if not.
    services: u32,
    /// Scheduler and number of real servers, if the service is to be another.
    service: Option<(&'static str, u32)>,
}

impl Fresh {
    fn new(name: &str, flags: u8) -> Fresh {
        Fresh {
            name: name.to_owned(),
            flags,
            live: NEW_LIVE,
            table: NEW_LIVE,
            rounds: usize::MAX,
            cpu: Duration::MAX,
            services: 0,
            service: None,
        }
    }
}

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of each row.
    pub rounds: usize,
    /// CPU time of the worker in each round of each row.
    pub cpu: Duration,
    /// Time that testpmd runs in each round.
    pub reference: Duration,
    /// Only rows whose name contains this.
    pub only: Option<String>,
    /// Only rows with as many connections.
    pub flows: Option<u32>,
    /// No rows with more.
    pub largest: u32,
}

impl Options {
    /// Whether a row is asked for.
    pub fn wants(&self, name: &str, flows: u32) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
            && self.flows.is_none_or(|only| flows == only)
    }
}

/// Everything a row needs. All of it runs on the worker's lcore, which sleeps while testpmd has
/// the core: the two never compete.
pub struct Bench {
    /// The worker.
    pub rig: Rig,
    /// Its ports.
    pub ports: Ports,
    /// The reference.
    pub testpmd: Testpmd,
    /// The workers of two cores and their reference, if they are asked for.
    pub two: Option<(Cores, Testpmd)>,
    /// The command line.
    pub options: Options,
}

/// Rows over one set of connections.
struct Group {
    family: Family,
    method: Method,
    flows: u32,
}

/// In which order connections are hit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A random permutation, over and over.
    Uniform,
    /// Zipf with exponent 1.
    Zipf,
}

const NAT: &[(&str, Side, Order)] = &[
    ("nat-request", Side::Request, Order::Uniform),
    ("nat-reply", Side::Reply, Order::Uniform),
];
const NAT_ZIPF: &[(&str, Side, Order)] = &[
    ("nat-request", Side::Request, Order::Uniform),
    ("nat-reply", Side::Reply, Order::Uniform),
    ("nat-request-zipf", Side::Request, Order::Zipf),
    ("nat-reply-zipf", Side::Reply, Order::Zipf),
];
const DIRECT: &[(&str, Side, Order)] = &[("dr-established", Side::Request, Order::Uniform)];
const TUNNEL: &[(&str, Side, Order)] = &[("tun-established", Side::Request, Order::Uniform)];
const NAT6: &[(&str, Side, Order)] = &[
    ("nat6-request", Side::Request, Order::Uniform),
    ("nat6-reply", Side::Reply, Order::Uniform),
];

/// One way to run a row once.
type Measure = Box<dyn FnMut(&mut Rig, &Ports, Plan) -> Result<Cost>>;

/// The costs of a row's rounds, ours and testpmd's.
struct Series {
    name: String,
    flows: u32,
    costs: Vec<Cost>,
    references: Vec<f64>,
}

impl Series {
    fn new(name: &str, flows: u32) -> Series {
        Series {
            name: name.to_owned(),
            flows,
            costs: Vec::new(),
            references: Vec::new(),
        }
    }

    /// Adds a round: what it cost, and testpmd before and after it.
    fn add(&mut self, cost: Cost, before: f64, after: f64) {
        self.costs.push(cost);
        self.references.push((before + after) / 2.0);
    }

    fn row(&self) -> Row {
        let cpu: Vec<f64> = self.costs.iter().map(|c| c.cpu).collect();
        let bursts: Vec<f64> = self.costs.iter().map(|c| c.median).collect();
        Row::new(&self.name, self.flows, &cpu, &bursts, &self.references)
    }
}

impl Bench {
    /// Runs all rows asked for and gives each to `done` as soon as it is known.
    ///
    /// # Errors
    /// A failed audit.
    pub fn run(&mut self, mut done: impl FnMut(Row)) -> Result<Option<Measured>> {
        self.info_rows(&mut done)?;
        for flows in rig::sizes(self.options.largest) {
            let (nat, slower) = (
                if flows == 1_000_000 { NAT_ZIPF } else { NAT },
                "nat-established",
            );
            self.group(Family::V4, Method::Nat, flows, nat, Some(slower), &mut done)?;
        }
        for (method, rows) in [(Method::Direct, DIRECT), (Method::Tunnel, TUNNEL)] {
            for flows in rig::sizes(self.options.largest) {
                self.group(Family::V4, method, flows, rows, None, &mut done)?;
            }
        }
        self.group(
            Family::V6,
            Method::Nat,
            1_000_000,
            NAT6,
            Some("nat6-established"),
            &mut done,
        )?;
        self.mixed(&mut done)?;
        self.pair(&mut done)?;
        self.new_connections(&Fresh::new("new-connection", SYN), &mut done)?;
        self.new_connections(&Fresh::new("new-connection-wheel", ACK), &mut done)?;
        for scheduler in schedule::names().filter(|name| *name != "none") {
            for destinations in DESTINATIONS {
                let row = Fresh {
                    live: 50_000,
                    table: 100_000,
                    rounds: 2,
                    cpu: self.options.cpu / 8,
                    service: Some((scheduler, destinations)),
                    ..Fresh::new(&format!("new-connection-{scheduler}"), SYN)
                };
                self.new_connections(&row, &mut done)?;
            }
        }
        for services in SERVICES {
            let row = Fresh {
                live: 50_000,
                table: 100_000,
                services,
                ..Fresh::new(pictures::SERVICES, SYN)
            };
            match services {
                1 => self.open_new::<Spread<0>>(&row, &mut done)?,
                128 => self.open_new::<Spread<127>>(&row, &mut done)?,
                _ => self.open_new::<Spread<2047>>(&row, &mut done)?,
            }
        }
        self.two_cores()
    }

    fn wants(&self, name: &str, flows: u32) -> bool {
        self.options.wants(name, flows)
    }

    /// Rounds of workers on two cores and of testpmd on the same, in turns.
    fn two_cores(&mut self) -> Result<Option<Measured>> {
        let Some((workers, testpmd)) = &mut self.two else {
            return Ok(None);
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            ours.push(workers.measure(self.options.cpu)?);
            theirs.push(cores::testpmd(testpmd, self.options.reference)?);
        }
        Ok(Some(Measured::new(
            Gain::middle(ours),
            Gain::middle(theirs),
        )))
    }

    fn plan(&self) -> Plan {
        Plan {
            cpu: self.options.cpu,
            packets: 0,
            step: None,
        }
    }

    /// What the ports and the generator cost without a worker.
    fn info_rows(&mut self, done: &mut impl FnMut(Row)) -> Result<()> {
        if !self.wants("ports", 0) && !self.wants("ports-generator", 0) {
            return Ok(());
        }
        self.rig.choose_source(Family::V4);
        let clients: Vec<Client> = (0..100_000).map(Client::number).collect();
        let expect = Expect {
            family: Family::V4,
            method: Method::Nat,
            side: Side::Request,
            is_new: true,
        };
        let mut generator = generator::<Request4, LEN4>(expect, ACK, &clients);
        let mut series = [Series::new("ports", 0), Series::new("ports-generator", 0)];
        let plan = Plan {
            cpu: self.options.cpu / 2,
            ..self.plan()
        };
        let mut before = self.testpmd.run(self.options.reference)?;
        for _ in 0..self.options.rounds {
            for (generates, series) in series.iter_mut().enumerate() {
                let cost = match generates {
                    0 => self.rig.run_ports(plan, &mut ()),
                    _ => self.rig.run_ports(plan, &mut generator),
                };
                let after = self.testpmd.run(self.options.reference)?;
                series.add(cost, before, after);
                before = after;
            }
        }
        series.iter().for_each(|s| done(s.row()));
        Ok(())
    }

    /// Rows over one set of connections; the slowest of them is also reported as `slower`.
    #[allow(clippy::too_many_arguments)]
    fn group(
        &mut self,
        family: Family,
        method: Method,
        flows: u32,
        rows: &'static [(&'static str, Side, Order)],
        slower: Option<&'static str>,
        done: &mut impl FnMut(Row),
    ) -> Result<()> {
        let group = Group {
            family,
            method,
            flows,
        };
        let wanted: Vec<_> = rows
            .iter()
            .filter(|(name, ..)| self.wants(name, flows))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let clients = self
            .establish(&group)
            .with_context(|| format!("{flows} connections"))?;
        let mut series = Vec::new();
        let mut measures: Vec<Measure> = Vec::new();
        for (name, side, order) in &wanted {
            series.push(Series::new(name, flows));
            measures.push(group.measure(*side, *order, &clients));
        }
        let plan = self.plan();
        let mut before = self.testpmd.run(self.options.reference)?;
        for _ in 0..self.options.rounds {
            for (series, measure) in series.iter_mut().zip(&mut measures) {
                let cost = measure(&mut self.rig, &self.ports, plan)
                    .with_context(|| format!("{} {flows}", series.name))?;
                let after = self.testpmd.run(self.options.reference)?;
                series.add(cost, before, after);
                before = after;
            }
        }
        let rows: Vec<Row> = series.iter().map(Series::row).collect();
        let uniform = rows
            .iter()
            .zip(&wanted)
            .filter(|(_, (.., o))| *o == Order::Uniform);
        let slowest = uniform.max_by(|a, b| a.0.ratio.total_cmp(&b.0.ratio));
        if let (Some(name), Some((row, _))) = (slower, slowest) {
            done(Row {
                name: name.to_owned(),
                ..row.clone()
            });
        }
        rows.into_iter().for_each(done);
        self.expire_all(flows)
    }

    /// Opens the connections as clients would, and returns them with their real servers.
    fn establish(&mut self, group: &Group) -> Result<Vec<Client>> {
        let Group {
            family,
            method,
            flows,
            ..
        } = *group;
        let Bench { rig, .. } = self;
        rig.choose_size(flows);
        rig.choose_source(family);
        let clients: Vec<Client> = (0..flows).map(Client::number).collect();
        let expect = Expect {
            family,
            method,
            side: Side::Request,
            is_new: true,
        };
        let before = Totals::of(rig.worker.worker.counters());
        for flags in [SYN, ACK] {
            match family {
                Family::V4 => once(rig, generator::<Request4, LEN4>(expect, flags, &clients))?,
                Family::V6 => once(rig, generator::<Request6, LEN6>(expect, flags, &clients))?,
            }
        }
        let after = Totals::of(rig.worker.worker.counters());
        ensure!(
            after.lost == before.lost,
            "packets were lost while connections were opened"
        );
        let mut found = rig::clients_in(&rig.worker.worker, State::Established as u8);
        let live = rig.worker.worker.connections();
        ensure!(
            found.len() == flows as usize && live == flows,
            "audit: {} of {live} connections are established, should be {flows}",
            found.len()
        );
        // Hit in another order than they were made in.
        Random(7).shuffle(&mut found);
        Ok(found)
    }

    /// Lets time pass until every connection has expired.
    fn expire_all(&mut self, flows: u32) -> Result<()> {
        let rig = &mut self.rig;
        let counters = rig.worker.worker.counters().clone();
        let before = Totals::of(&counters);
        rig.time = rig.time + Duration::from_secs(2000);
        // A worker looks at one shard after the other, each every 16 ms.
        for _ in 0..100_000 {
            if rig.worker.worker.connections() == 0 {
                break;
            }
            rig.time = rig.time + Duration::from_millis(1);
            rig.worker.worker.expire(rig.time, 1 << 16);
        }
        let after = Totals::of(&counters);
        let (live, ended) = (rig.worker.worker.connections(), after.ended - before.ended);
        ensure!(
            live == 0 && ended == u64::from(flows) && after.bound == 0 && after.active == 0,
            "audit: {ended} of {flows} connections expired, {live} live, {} bound, {} active",
            after.bound,
            after.active
        );
        Ok(())
    }

    /// Two workers, the first of which receives everything: packets of its own connections, and
    /// packets of the other's. The difference is what handing one over costs both together.
    fn pair(&mut self, done: &mut impl FnMut(Row)) -> Result<()> {
        let names = ["pair-own", "pair-handed-over"];
        if !names.iter().any(|name| self.wants(name, pair::FLOWS)) {
            return Ok(());
        }
        let Bench {
            rig,
            testpmd,
            options,
            ..
        } = self;
        let clients = pair::clients();
        let expect = Expect {
            family: Family::V4,
            method: Method::Nat,
            side: Side::Request,
            is_new: true,
        };
        let mut series = Vec::new();
        for (name, clients) in names.into_iter().zip(&clients) {
            for flags in [SYN, ACK] {
                let mut generator = generator::<Request4, LEN4>(expect, flags, clients);
                let plan = Plan {
                    cpu: Duration::ZERO,
                    packets: generator.round(),
                    step: None,
                };
                rig.run_pair(plan, &mut Source(&mut generator));
            }
            let generator = generator::<Request4, LEN4>(expect, ACK, clients);
            series.push((Series::new(name, pair::FLOWS), generator));
        }
        let plan = Plan {
            cpu: options.cpu,
            packets: 0,
            step: None,
        };
        let mut pmd_before = testpmd.run(options.reference)?;
        for _ in 0..options.rounds {
            for (handed, (series, generator)) in series.iter_mut().enumerate() {
                let (before, already) = (rig.pair.totals(), rig.pair.handed());
                let sunk = rig.pair.sunk()?;
                let first = generator.packets;
                let cost = rig.run_pair(plan, &mut Source(&mut *generator));
                let packets = generator.packets - first;
                let handed = packets * handed as u64;
                ensure!(
                    rig.pair.handed() - already == handed,
                    "audit: {} packets handed over, should be {handed}",
                    rig.pair.handed() - already
                );
                rig.pair.audit(&before, packets, handed)?;
                ensure!(
                    rig.pair.sunk()? - sunk == packets,
                    "audit: the sink counted other packets"
                );
                let pmd_after = testpmd.run(options.reference)?;
                series.add(cost, pmd_before, pmd_after);
                pmd_before = pmd_after;
            }
        }
        series.iter().for_each(|(series, _)| done(series.row()));
        Ok(())
    }

    /// Nine packets of established connections, then one that opens another, of which as many end
    /// as begin.
    fn mixed(&mut self, done: &mut impl FnMut(Row)) -> Result<()> {
        let (name, flows) = ("mixed-90-10", NEW_LIVE);
        if !self.wants(name, flows) {
            return Ok(());
        }
        let group = Group {
            family: Family::V4,
            method: Method::Nat,
            flows,
        };
        let established = self.establish(&group)?;
        let mut fresh = (flows..).map(|i| Client {
            server: OPENS,
            ..Client::number(i)
        });
        let mut clients = Vec::with_capacity(established.len() / 9 * 30);
        // Three rounds, so that there are half as many new clients again as live at once.
        for nine in [&established; 3].into_iter().flat_map(|e| e.chunks(9)) {
            clients.extend_from_slice(nine);
            clients.extend(fresh.next());
        }
        clients.truncate(clients.len() / 32 * 32);
        let expect = Expect {
            family: Family::V4,
            method: Method::Nat,
            side: Side::Request,
            is_new: false,
        };
        let mut generator = generator::<Request4, LEN4>(expect, ACK, &clients);
        let Bench {
            rig,
            ports,
            testpmd,
            options,
            ..
        } = self;
        // 3.2 of a burst open one; a client comes back after its connection has ended.
        let step = Duration::from_secs(u64::from(NEW_TIMEOUT)) * 32 / 10 / MIXED_LIVE;
        let fill = Plan {
            cpu: Duration::ZERO,
            packets: u64::from(MIXED_LIVE) * 12,
            step: Some(step),
        };
        rig.run(fill, &mut generator);
        let mut series = Series::new(name, flows);
        let mut pmd_before = testpmd.run(options.reference)?;
        for _ in 0..options.rounds {
            let (before, first) = (Totals::of(rig.worker.worker.counters()), generator.packets);
            let sent = sent_by(ports)?;
            let plan = Plan {
                cpu: options.cpu,
                packets: 0,
                step: Some(step),
            };
            let cost = rig.run(plan, &mut generator);
            let pmd_after = testpmd.run(options.reference)?;
            series.add(cost, pmd_before, pmd_after);
            pmd_before = pmd_after;

            let (after, last) = (Totals::of(rig.worker.worker.counters()), generator.packets);
            let packets = last - first;
            after.audit(&before, Side::Request, packets, Family::V4.bytes())?;
            ensure!(
                sent_by(ports)? - sent == packets,
                "audit: the sink counted other packets"
            );
            let opened = generator.opened(last) - generator.opened(first);
            let (new, ended) = (
                after.connections - before.connections,
                after.ended - before.ended,
            );
            ensure!(
                new == opened && ended.abs_diff(new) <= new / 20 + 4096,
                "audit: {new} new connections for {opened} packets that open one, {ended} ended"
            );
            let live = rig::clients_in(&rig.worker.worker, State::Established as u8).len();
            ensure!(
                live == flows as usize,
                "audit: {live} connections are established, should be {flows}"
            );
            check_samples(&generator)?;
        }
        done(series.row());
        let live = self.rig.worker.worker.connections();
        self.expire_all(live)
    }

    /// One new connection a packet, and one expiry a packet: time passes so fast that as many
    /// connections end as begin. With SYN they wait half-open; with ACK (`sloppy_tcp`) they are
    /// established and lie in the timing wheel.
    fn new_connections(&mut self, row: &Fresh, done: &mut impl FnMut(Row)) -> Result<()> {
        self.open_new::<Request4>(row, done)
    }

    /// As [`Bench::new_connections`], with frames of this shape.
    fn open_new<S: Shape<LEN4>>(&mut self, row: &Fresh, done: &mut impl FnMut(Row)) -> Result<()> {
        if !self.wants(&row.name, 0) {
            return Ok(());
        }
        let flags = row.flags;
        let Bench {
            rig,
            ports,
            testpmd,
            options,
            ..
        } = self;
        rig.choose_size(row.table);
        if let Some((scheduler, destinations)) = row.service {
            rig.worker
                .worker
                .apply(rig.time, rig::reschedule(scheduler, destinations)?);
        }
        for command in rig::spread(row.services)? {
            if let Outcome::Refused(why, _) = rig.worker.worker.apply(rig.time, command) {
                bail!("the worker refuses {} services: {why}", row.services);
            }
        }
        rig.choose_source(Family::V4);
        let timeouts = Timeouts {
            tcp: NEW_TIMEOUT,
            ..Timeouts::default()
        };
        let settings = Settings {
            timeouts,
            sloppy_tcp: flags == ACK,
            ..rig::settings()
        };
        rig.worker
            .worker
            .apply(rig.time, Command::PutSettings(settings));
        let state = if flags == ACK {
            State::Established
        } else {
            State::SynRecv
        };

        // Half as many again as live at once: a client comes back long after its end.
        let clients: Vec<Client> = (0..row.live / 2 * 3).map(Client::number).collect();
        let expect = Expect {
            family: Family::V4,
            method: Method::Nat,
            side: Side::Request,
            is_new: true,
        };
        let mut generator = generator::<S, LEN4>(expect, flags, &clients);
        let step = Duration::from_secs(u64::from(NEW_TIMEOUT)) * 32 / row.live;
        let fill = Plan {
            cpu: Duration::ZERO,
            packets: u64::from(row.live) / 5 * 6,
            step: Some(step),
        };
        rig.run(fill, &mut generator);
        let mut series = Series::new(&row.name, 0);
        let mut pmd_before = testpmd.run(options.reference)?;
        for _ in 0..options.rounds.min(row.rounds) {
            let (before, first) = (Totals::of(rig.worker.worker.counters()), generator.packets);
            let (live, sent) = (rig.worker.worker.connections(), sent_by(ports)?);
            let plan = Plan {
                cpu: row.cpu.min(options.cpu),
                packets: 0,
                step: Some(step),
            };
            let cost = rig.run(plan, &mut generator);
            let pmd_after = testpmd.run(options.reference)?;
            series.add(cost, pmd_before, pmd_after);
            pmd_before = pmd_after;

            let (after, packets) = (
                Totals::of(rig.worker.worker.counters()),
                generator.packets - first,
            );
            after.audit(&before, Side::Request, packets, Family::V4.bytes())?;
            ensure!(
                sent_by(ports)? - sent == packets,
                "audit: the sink counted other packets"
            );
            let (new, ended) = (
                after.connections - before.connections,
                after.ended - before.ended,
            );
            ensure!(
                new == packets,
                "audit: {new} new connections for {packets} packets"
            );
            ensure!(
                ended.abs_diff(new) <= new / 20 + 4096,
                "audit: {ended} connections ended while {new} began: no steady state"
            );
            let want = u64::from(live) + new - ended;
            let have = rig::clients_in(&rig.worker.worker, state as u8).len() as u64;
            ensure!(
                have == want && after.bound == want && after.active == want,
                "audit: {have} connections in {}, {} bound, {} active, should be {want}",
                state.name(),
                after.bound,
                after.active
            );
            check_samples(&generator)?;
        }
        done(Row {
            destinations: match row.service {
                Some((_, destinations)) => destinations,
                None => row.services * SERVERS as u32,
            },
            ..series.row()
        });
        let live = rig.worker.worker.connections();
        rig.worker
            .worker
            .apply(rig.time, Command::PutSettings(rig::settings()));
        self.expire_all(live)
    }
}

impl Group {
    /// A run of one row over these clients.
    fn measure(&self, side: Side, order: Order, clients: &[Client]) -> Measure {
        let Group {
            family,
            method,
            flows,
            ..
        } = *self;
        let expect = Expect {
            family,
            method,
            side,
            is_new: false,
        };
        let clients = match order {
            Order::Uniform => clients.to_vec(),
            // Enough draws that the tail is met too; a multiple of the burst.
            Order::Zipf => Random(11).zipf(clients, 1 << 21),
        };
        match (family, side) {
            (Family::V4, Side::Request) => established(
                generator::<Request4, LEN4>(expect, ACK, &clients),
                expect,
                flows,
                &clients,
            ),
            (Family::V4, Side::Reply) => established(
                generator::<Reply4, LEN4>(expect, ACK, &clients),
                expect,
                flows,
                &clients,
            ),
            (Family::V6, Side::Request) => established(
                generator::<Request6, LEN6>(expect, ACK, &clients),
                expect,
                flows,
                &clients,
            ),
            (Family::V6, Side::Reply) => established(
                generator::<Reply6, LEN6>(expect, ACK, &clients),
                expect,
                flows,
                &clients,
            ),
        }
    }
}

/// A generator for packets with these flags.
pub fn generator<S: Shape<LEN>, const LEN: usize>(
    expect: Expect,
    flags: u8,
    clients: &[Client],
) -> Generator<S, LEN> {
    let Expect {
        family,
        method,
        side,
        ..
    } = expect;
    let templates: Templates<LEN> = core::array::from_fn(|s| {
        let flags = if s < SERVERS { flags } else { SYN };
        let mut template = rig::template(family, method, side, flags, s % SERVERS);
        S::clear(&mut template);
        template
    });
    Generator::new(templates, clients, expect)
}

/// Sends a packet of each client.
fn once<S: Shape<LEN>, const LEN: usize>(
    rig: &mut Rig,
    mut generator: Generator<S, LEN>,
) -> Result<()> {
    let plan = Plan {
        cpu: Duration::ZERO,
        packets: generator.round(),
        step: None,
    };
    rig.run(plan, &mut generator);
    check_samples(&generator)
}

/// A run over established connections, with its audit.
fn established<S: Shape<LEN>, const LEN: usize>(
    mut generator: Generator<S, LEN>,
    expect: Expect,
    flows: u32,
    clients: &[Client],
) -> Measure {
    let mut distinct: Vec<(u32, u16)> = clients.iter().map(|c| (c.addr, c.port)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let distinct = distinct.len();
    Box::new(move |rig, ports, plan| {
        // A second passes, so that every deadline of this run is a new one.
        rig.time = rig.time + Duration::from_secs(1);
        let counters = rig.worker.worker.counters().clone();
        let (before, first, sent) = (Totals::of(&counters), generator.packets, sent_by(ports)?);
        let start = rig.time.ticks();
        // The caches are testpmd's at first.
        rig.run(
            Plan {
                cpu: Duration::from_millis(20),
                packets: 0,
                step: None,
            },
            &mut generator,
        );
        let round = generator.round();
        let cost = rig.run(
            Plan {
                packets: plan.packets.max(round),
                ..plan
            },
            &mut generator,
        );

        let (after, packets) = (Totals::of(&counters), generator.packets - first);
        after.audit(&before, expect.side, packets, expect.family.bytes())?;
        ensure!(
            sent_by(ports)? - sent == packets,
            "audit: the sink counted other packets"
        );
        ensure!(
            after.connections == before.connections && after.ended == before.ended,
            "audit: connections came or went"
        );
        let (live, flows) = (rig.worker.worker.connections(), flows as usize);
        let timeout = secs(Timeouts::default().tcp);
        let (mut good, mut moved) = (0, 0);
        rig.worker.worker.for_each_connection(|e| {
            good += usize::from(e.state == State::Established as u8);
            let since = e.deadline.wrapping_sub(start.plus(timeout).0) as i32;
            moved += usize::from(since >= 0 && since <= rig.time.ticks().since(start));
        });
        if live as usize != flows || good != flows || moved != distinct {
            bail!(
                "audit: {live} connections, {good} established, should be {flows}; {moved} \
                 deadlines moved, should be {distinct}"
            );
        }
        ensure!(
            after.bound == flows as u64 && after.active == flows as u64,
            "audit: {} connections bound and {} active at the real servers, should be {flows}",
            after.bound,
            after.active
        );
        check_samples(&generator)?;
        Ok(cost)
    })
}

fn sent_by(ports: &Ports) -> Result<u64> {
    Ok(ports.ports[1].stats()?.tx_packets)
}

fn check_samples<S: Shape<LEN>, const LEN: usize>(generator: &Generator<S, LEN>) -> Result<()> {
    match &generator.wrong {
        Some(why) => bail!("audit: {why}"),
        None if generator.checked == 0 && generator.packets > 1 << 16 => {
            bail!("audit: no frame was sampled")
        }
        None => Ok(()),
    }
}
