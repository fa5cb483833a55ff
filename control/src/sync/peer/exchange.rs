//! The two ends of a TCP connection between peers: who asks for a copy, and who gives it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError};
use dataplane::service::Engine;
use dataplane::sync::{Batch, EngineData};
use dataplane::time::Instant;
use mio::Waker;
use mio::net::TcpStream;

use super::copies::{Order, Piece, pieces};
use super::frame::{self, Ask, Frame, Packer, Refusal, Want, millis, ticks};
use super::record::Seals;

/// A peer that neither sends nor takes anything in this time is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes read or written before others have their turn.
const SHARE: usize = 1 << 18;

/// Batches that may wait for the control loop before reading pauses.
const WAITING: usize = 64;

/// A stream with what was read and not understood yet, and what was not sent yet.
struct Pipe {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that were sent.
    sent: usize,
    moved: Instant,
}

impl Pipe {
    fn new(now: Instant, stream: TcpStream) -> Pipe {
        Pipe {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            moved: now,
        }
    }

    /// Sends what waits; whether all of it went.
    fn write(&mut self, now: Instant) -> io::Result<bool> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => (self.sent, self.moved) = (self.sent + n, now),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_early(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads up to so many bytes; whether there may be more.
    fn read(&mut self, now: Instant, most: usize) -> io::Result<bool> {
        let before = self.input.len();
        let mut piece = [0; 1 << 14];
        while self.input.len() - before < most {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.input.extend(&piece[..n]);
                    self.moved = now;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_early(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Appends a frame to what waits.
    fn put(&mut self, seals: &mut Seals, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, frame);
        seals.write(&mut self.output, &bytes);
    }

    fn is_stuck(&self, now: Instant) -> bool {
        now.since(self.moved) >= PATIENCE
    }
}

/// Nothing can be done now. (A stream that is not connected yet says so in its own way.)
fn is_early(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// How a step of an exchange ended.
pub enum Step {
    /// It waits for the other side.
    Waits,
    /// It has more to do at once, or waits for the control loop.
    Busy,
    /// It is over: so many entries.
    Done(u64),
    /// It failed.
    Failed(String),
}

/// Asks a peer for a copy and hands what comes to the control loop.
pub struct Fetch {
    pipe: Pipe,
    batch: Batch,
    waiting: VecDeque<Arc<Batch>>,
    entries: u64,
    /// How many there were to be.
    end: Option<u64>,
    /// Entries that make no sense here.
    pub refused: u64,
}

impl Fetch {
    /// Over a stream that is being connected.
    pub fn new(now: Instant, stream: TcpStream, seals: &mut Seals, ask: Ask) -> Fetch {
        let mut pipe = Pipe::new(now, stream);
        pipe.put(seals, &Frame::Ask(ask));
        Fetch {
            pipe,
            batch: Batch::default(),
            waiting: VecDeque::new(),
            entries: 0,
            end: None,
            refused: 0,
        }
    }

    /// Its stream.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.pipe.stream
    }

    /// Goes on as far as it can.
    pub fn step(&mut self, now: Instant, seals: &mut Seals, batches: &Sender<Arc<Batch>>) -> Step {
        match self.go_on(now, seals, batches) {
            Ok(step) => step,
            Err(why) => Step::Failed(why),
        }
    }

    fn go_on(
        &mut self,
        now: Instant,
        seals: &mut Seals,
        batches: &Sender<Arc<Batch>>,
    ) -> Result<Step, String> {
        if let Ok(Some(e)) | Err(e) = self.pipe.stream.take_error() {
            return Err(e.to_string());
        }
        self.hand_over(batches);
        if let Some(entries) = self.end {
            // Done when the workers have it, or are about to.
            let is_over = self.waiting.is_empty() && batches.is_empty();
            return Ok(if is_over {
                Step::Done(entries)
            } else {
                Step::Busy
            });
        }
        if self.waiting.len() >= WAITING {
            self.pipe.moved = now;
            return Ok(Step::Busy);
        }
        self.pipe.write(now).map_err(|e| e.to_string())?;
        let read = self.pipe.read(now, SHARE);
        // What came before an end counts.
        self.understand(seals)?;
        self.hand_over(batches);
        match read {
            _ if self.end.is_some() => Ok(Step::Busy),
            Err(e) => Err(e.to_string()),
            Ok(true) => Ok(Step::Busy),
            Ok(false) if !self.waiting.is_empty() => Ok(Step::Busy),
            Ok(false) if self.pipe.is_stuck(now) => Err("nothing comes any more".to_owned()),
            Ok(false) => Ok(Step::Waits),
        }
    }

    fn understand(&mut self, seals: &mut Seals) -> Result<(), String> {
        let input = std::mem::take(&mut self.pipe.input);
        let mut at = 0;
        while self.end.is_none() {
            let rest = input.get(at..).unwrap_or(&[]);
            let Some((frame, len)) = seals.read(rest)? else {
                break;
            };
            at += len;
            match frame {
                Frame::Start { .. } => {}
                Frame::Entries(payload) => self.take(payload)?,
                Frame::End { entries, .. } => {
                    if entries != self.entries {
                        return Err(format!(
                            "{entries} entries were sent, {} came",
                            self.entries
                        ));
                    }
                    self.close_batch();
                    self.end = Some(entries);
                }
                Frame::Refuse(Refusal::NoMaster) => return Err("no master runs there".to_owned()),
                Frame::Refuse(Refusal::Busy) => return Err("it is busy with others".to_owned()),
                Frame::Ask(_) => return Err("a question in place of an answer".to_owned()),
            }
        }
        self.pipe.input = input.get(at..).unwrap_or(&[]).to_vec();
        Ok(())
    }

    fn take(&mut self, payload: &[u8]) -> Result<(), String> {
        let Fetch {
            batch,
            waiting,
            entries,
            refused,
            ..
        } = self;
        let read = frame::entries(payload, |entry, engine, ms| {
            if entry.check(&engine).is_err() {
                *refused += 1;
                return;
            }
            batch.push_copy(entry, &engine, ticks(ms));
            if batch.is_full() {
                waiting.push_back(Arc::new(std::mem::take(batch)));
            }
        });
        let count = read.map_err(|_| "an entry that cannot be read".to_owned())?;
        *entries += u64::from(count);
        Ok(())
    }

    fn close_batch(&mut self) {
        if !self.batch.rows.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.waiting.push_back(Arc::new(batch));
        }
    }

    fn hand_over(&mut self, batches: &Sender<Arc<Batch>>) {
        while let Some(batch) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
                batches.try_send(batch)
            {
                self.waiting.push_front(batch);
                return;
            }
        }
    }
}

/// What a node that gives copies knows of itself.
pub struct Giver<'a> {
    /// Its group of balancers, if a master runs.
    pub syncid: Option<u8>,
    /// Its run.
    pub boot: u64,
    /// Entries in its table.
    pub connections: u64,
    /// Where copies are ordered.
    pub desk: &'a Sender<Order>,
    /// Rung with each order, and when there is room for more.
    pub control: &'a Waker,
    /// Of this thread.
    pub own: &'a Arc<Waker>,
}

/// Gives a peer what it asks for.
pub struct Serve {
    pipe: Pipe,
    /// Who asks.
    pub from: SocketAddr,
    pieces: Option<Receiver<Piece>>,
    packer: Packer,
    is_over: bool,
    /// The whole table is asked for.
    is_whole: bool,
}

impl Serve {
    /// Somebody connected.
    pub fn new(now: Instant, stream: TcpStream, from: SocketAddr) -> Serve {
        Serve {
            pipe: Pipe::new(now, stream),
            from,
            pieces: None,
            packer: Packer::new(0),
            is_over: false,
            is_whole: false,
        }
    }

    /// Its stream.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.pipe.stream
    }

    /// Whether it gives the whole table.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Goes on as far as it can.
    pub fn step(&mut self, now: Instant, seals: &mut Seals, giver: &Giver<'_>) -> Step {
        match self.go_on(now, seals, giver) {
            Ok(step) => step,
            Err(why) => Step::Failed(why),
        }
    }

    fn go_on(
        &mut self,
        now: Instant,
        seals: &mut Seals,
        giver: &Giver<'_>,
    ) -> Result<Step, String> {
        if self.pieces.is_none() && !self.is_over {
            self.pipe
                .read(now, frame::MAX_PAYLOAD)
                .map_err(|e| e.to_string())?;
            self.listen(seals, giver)?;
        }
        let mut written = 0;
        loop {
            if !self.pipe.write(now).map_err(|e| e.to_string())? {
                let is_stuck = self.pipe.is_stuck(now);
                return if is_stuck {
                    Err("it takes nothing".to_owned())
                } else {
                    Ok(Step::Waits)
                };
            }
            if self.is_over {
                return Ok(Step::Done(self.packer.entries));
            }
            if written >= SHARE {
                return Ok(Step::Busy);
            }
            let Some(pieces) = &self.pieces else {
                let is_stuck = self.pipe.is_stuck(now);
                return if is_stuck {
                    Err("it asks nothing".to_owned())
                } else {
                    Ok(Step::Waits)
                };
            };
            match pieces.try_recv() {
                Ok(piece) => {
                    let _ = giver.control.wake();
                    self.pack(seals, piece);
                    written += self.pipe.output.len();
                }
                Err(TryRecvError::Empty) => {
                    // The workers have the word.
                    self.pipe.moved = now;
                    return Ok(Step::Waits);
                }
                Err(TryRecvError::Disconnected) => return Err("no copy was made".to_owned()),
            }
        }
    }

    fn listen(&mut self, seals: &mut Seals, giver: &Giver<'_>) -> Result<(), String> {
        let ask = match seals.read(&self.pipe.input)? {
            Some((Frame::Ask(ask), _)) => ask,
            Some(_) => return Err("no question".to_owned()),
            None => return Ok(()),
        };
        if giver.syncid != Some(ask.syncid) {
            self.pipe.put(seals, &Frame::Refuse(Refusal::NoMaster));
            self.is_over = true;
            return Ok(());
        }
        let wanted = ask.want.of_table();
        let (sender, receiver) = pieces();
        let order = Order {
            wanted,
            pieces: sender,
            waker: Arc::clone(giver.own),
        };
        if giver.desk.try_send(order).is_err() {
            self.pipe.put(seals, &Frame::Refuse(Refusal::Busy));
            self.is_over = true;
            return Ok(());
        }
        let _ = giver.control.wake();
        let (boot, connections) = (giver.boot, giver.connections);
        self.pipe.put(seals, &Frame::Start { boot, connections });
        self.packer = Packer::new(ask.syncid);
        self.pieces = Some(receiver);
        self.is_whole = ask.want == Want::Everything;
        Ok(())
    }

    fn pack(&mut self, seals: &mut Seals, piece: Piece) {
        let mut frames = Vec::new();
        let out = &mut frames;
        match piece {
            Piece::Part(collection) => {
                let batch = &collection.batch;
                self.packer.unsaid += u64::from(collection.unsaid);
                for row in &batch.rows {
                    let idle = match row.age {
                        dataplane::sync::Age::Copied(ticks) => millis(ticks),
                        dataplane::sync::Age::Announced => 0,
                    };
                    // There is one engine.
                    let engine = batch.data_of(row).map(|data| EngineData {
                        data,
                        name: Engine::Sip.name().as_bytes(),
                    });
                    self.packer
                        .push(out, &row.entry, &engine.unwrap_or_default(), idle);
                }
            }
            Piece::End => {
                self.packer.flush(out);
                let Packer {
                    entries, unsaid, ..
                } = self.packer;
                frame::encode(out, &Frame::End { entries, unsaid });
                self.is_over = true;
            }
        }
        seals.write(&mut self.pipe.output, &frames);
    }
}
