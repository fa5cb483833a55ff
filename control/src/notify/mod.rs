//! Notifications: what happens to virtual routers, servers and quorum is told in order to a
//! stream on a Unix socket ([`stream`]), to named pipes ([`fifo`]), to scripts ([`scripts`]) and by
//! mail ([`mail`]).
//!
//! [`Notifier::tell`] returns at once. A thread of its own does the rest, and none of those who are
//! told can delay it: a reader that does not read is disconnected, a full pipe loses lines, scripts
//! run in helpers, and mails wait for another thread.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use dataplane::time::Instant;
use mio::{Events, Poll, Token, Waker};

mod event;
mod fifo;
mod mail;
mod scripts;
mod stream;

pub use event::{Event, RouterState, Subject, SyncAlarm};

use self::fifo::Fifo;
use self::mail::Mailer;
use self::scripts::Lanes;
use self::stream::Stream;
use crate::clock;
use crate::config::notify::Notify;
use crate::script::{Report, Scripts};

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
const FIRST_READER: usize = 16;
/// Longest sleep.
const NAP: Duration = Duration::from_secs(3600);

/// What the thread is told.
enum Order {
    /// When it happened, since 1970.
    Tell(Duration, Event),
    Set(Arc<Notify>),
    Ended(Subject, Report),
    Finish(Duration, Sender<()>),
    End,
}

struct Line {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

/// A handle on the thread; clones are the same. The default one has no thread and tells nobody.
#[derive(Clone, Default)]
pub struct Notifier(Option<Arc<Line>>);

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no room for a thread or an epoll instance. A socket or a pipe that cannot be
    /// made is logged.
    pub fn start(notify: &Notify, scripts: Scripts) -> io::Result<Notifier> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (orders, taken) = unbounded();
        let mut teller = Teller {
            lanes: Lanes::new(scripts, orders.clone(), Arc::clone(&waker)),
            poll,
            orders: taken,
            notify: Arc::new(notify.clone()),
            before: None,
            stream: Stream::default(),
            fifos: Vec::new(),
            mailer: Mailer::start()?,
            mailed: HashMap::new(),
            number: 0,
            finish: None,
        };
        // Who starts rvsd finds the socket and the pipes there.
        teller.open();
        teller.look_at_mail();
        std::thread::Builder::new()
            .name("rvs-notify".to_owned())
            .spawn(move || teller.run())?;
        Ok(Notifier(Some(Arc::new(Line { orders, waker }))))
    }

    /// Tells of an event whoever is to know. Events are told in the order of these calls.
    pub fn tell(&self, event: Event) {
        let time = clock::boot_time() + clock::now().since(Instant(0));
        self.order(Order::Tell(time, event));
    }

    /// Takes another configuration. Scripts of what it has no more are still run for what becomes
    /// of that.
    pub fn set(&self, notify: &Notify) {
        self.order(Order::Set(Arc::new(notify.clone())));
    }

    /// Waits until all scripts have run, `patience` at most; whether they have.
    pub fn finish(&self, patience: Duration) -> bool {
        let (tell, told) = crossbeam::channel::bounded(1);
        self.order(Order::Finish(patience, tell));
        // Without a thread the sender is dropped with the order.
        let patience = patience + Duration::from_millis(200);
        told.recv_timeout(patience).is_ok()
    }

    fn order(&self, order: Order) {
        if let Some(line) = &self.0 {
            // A thread that has ended tells nobody.
            let _ = line.orders.send(order);
            let _ = line.waker.wake();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The thread holds the waker, too: a wake by one that is gone would be lost.
        let _ = self.orders.send(Order::End);
        let _ = self.waker.wake();
    }
}

/// Which events a pipe is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    All,
    Vrrp,
    Lvs,
}

struct Teller {
    poll: Poll,
    orders: Receiver<Order>,
    notify: Arc<Notify>,
    /// The configuration before this one.
    before: Option<Arc<Notify>>,
    stream: Stream,
    fifos: Vec<(Share, Fifo)>,
    lanes: Lanes,
    mailer: Mailer,
    /// What was last mailed, by what it was about.
    mailed: HashMap<String, String>,
    number: u64,
    /// Who waits for scripts, and how long.
    finish: Option<(Instant, Sender<()>)>,
}

impl Teller {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            let until = self.finish.as_ref().map(|(until, _)| *until);
            let timeout = until.map_or(NAP, |until| until.since(clock::now()));
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "notifications end: epoll failed");
                    return;
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.stream.accept(self.poll.registry(), FIRST_READER),
                    token => self.stream.on_event(token),
                }
            }
            if !self.obey() {
                return;
            }
            let now = clock::now();
            let idle = self.lanes.is_idle();
            if self
                .finish
                .as_ref()
                .is_some_and(|(until, _)| idle || *until <= now)
                && let Some((_, tell)) = self.finish.take()
                && idle
            {
                // Who does not wait any more need not know.
                let _ = tell.send(());
            }
        }
    }

    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Tell(time, event)) => self.tell(time, &event),
                Ok(Order::Set(notify)) => {
                    self.before = Some(std::mem::replace(&mut self.notify, notify));
                    self.open();
                    self.look_at_mail();
                }
                Ok(Order::Ended(subject, report)) => self.lanes.ended(&subject, &report),
                Ok(Order::Finish(patience, tell)) => {
                    self.finish = Some((clock::now() + patience, tell));
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Has the mailer say what is in the way of mails, if they are to go another way than before.
    fn look_at_mail(&mut self) {
        let before = self.before.as_ref().and_then(|before| before.mail.as_ref());
        if let Some(mail) = &self.notify.mail
            && before != Some(mail)
        {
            self.mailer.look(mail);
        }
    }

    /// Opens what the configuration names and is not open yet.
    fn open(&mut self) {
        let notify = Arc::clone(&self.notify);
        self.stream.set(&notify, self.poll.registry(), LISTENER);
        let mut old = std::mem::take(&mut self.fifos);
        for (share, path) in [
            (Share::All, &notify.fifos.all),
            (Share::Vrrp, &notify.fifos.vrrp),
            (Share::Lvs, &notify.fifos.lvs),
        ] {
            let Some(path) = path else { continue };
            let same = |(s, fifo): &(Share, Fifo)| *s == share && fifo.path() == path;
            if let Some(at) = old.iter().position(same) {
                self.fifos.push(old.swap_remove(at));
                continue;
            }
            match Fifo::open(path, notify.mode) {
                Ok(fifo) => self.fifos.push((share, fifo)),
                Err(why) => tracing::error!(reason = why, "events are not written to it"),
            }
        }
    }

    fn tell(&mut self, time: Duration, event: &Event) {
        if let Event::Instance { state, .. } = event
            && state.is_priority()
            && !self.notify.priority_changes
        {
            return;
        }
        self.number += 1;
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + time).to_string();
        self.stream.tell(&event.json(self.number, &time));
        if let Some(line) = event.line() {
            tracing::debug!(event = "notify", "{line}");
            for (share, fifo) in &mut self.fifos {
                if *share == Share::All || (*share == Share::Vrrp) == event.is_vrrp() {
                    fifo.tell(&line);
                }
            }
        }
        let mut commands = scripts::commands(event, &self.notify);
        if commands.is_empty()
            && let Some(before) = &self.before
            && is_gone(event, &self.notify)
        {
            commands = scripts::commands(event, before);
        }
        self.lanes
            .add(&event.subject(), commands, self.notify.timeout);
        self.mail(event);
    }

    fn mail(&mut self, event: &Event) {
        let Some(mail) = &self.notify.mail else {
            return;
        };
        let is_wanted = match event {
            Event::Instance { state, .. } | Event::Group { state, .. } => {
                mail.vrrp && (mail.faults || *state != RouterState::Fault)
            }
            Event::Server { .. } | Event::Quorum { .. } => mail.checker,
            Event::Sync { .. } => false,
        };
        let Some((subject, body)) = event.mail().filter(|_| is_wanted) else {
            return;
        };
        // What it is about stands before the dash, and its state after it.
        let about = subject.split(" - ").next().unwrap_or_default().to_owned();
        if self.mailed.insert(about, subject.clone()).as_ref() != Some(&subject) {
            self.mailer.send(mail, subject, body);
        }
    }
}

/// Whether the configuration does not know what an event is about.
fn is_gone(event: &Event, notify: &Notify) -> bool {
    match event {
        Event::Instance { name, .. } => !notify.instances.contains_key(name),
        Event::Group { name, .. } => !notify.groups.contains_key(name),
        Event::Server {
            service, server, ..
        } => !notify.servers.contains_key(&(*service, *server)),
        Event::Quorum { service, .. } => !notify.services.contains_key(service),
        Event::Sync { .. } => false,
    }
}

#[cfg(test)]
mod tests;
