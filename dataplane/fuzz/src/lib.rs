//! What the fuzz targets share: how bytes become a story for a worker, and what must hold.
//!
//! The network is that of `dataplane/tests/support/rig.rs`, and packets are written in the
//! notation of the packet vectors, so that a finding is easily turned into one.

#[path = "../../tests/support/notation.rs"]
#[allow(dead_code)]
mod notation;
#[path = "../../tests/support/rig.rs"]
#[allow(dead_code)]
mod rig;

mod bytes;
mod dialogue;
mod election;
mod keepalived;
mod peer;
mod pieces;
mod replies;
mod story;

use bytes::Bytes;
use dataplane::flow::{Flow, Parsed};
use dataplane::sync::wire::{Encoder, Message};
use dataplane::sync::{SyncEntry, flag};
use dataplane::wire::fragment::Fragments;
use dialogue::Dialogue;
use pieces::Pieces;
use story::Story;

/// VRRP's decoders see `data` as a packet, or a virtual router lives by it.
pub fn vrrp(data: &[u8]) {
    match data.split_first() {
        Some((0, packet)) => election::decode(packet),
        Some((_, story)) => election::live(story),
        None => {}
    }
}

/// A health check sees `data` as what a server answers.
pub fn replies(data: &[u8]) {
    match data.split_first() {
        Some((0, answer)) => replies::http(answer),
        Some((_, datagram)) => replies::dns(datagram),
        None => {}
    }
}

/// The decoder of synchronisation messages sees `data`. What it reads can be written, and reads the
/// same again.
pub fn sync(data: &[u8]) {
    let mut data = data.to_vec();
    // Nearly all random messages would fail by their size.
    if let (Ok(size), Some(field)) = (u16::try_from(data.len()), data.get_mut(2..4)) {
        field.copy_from_slice(&size.to_be_bytes());
    }
    let Ok(message) = Message::decode(&data) else {
        return;
    };
    let mut buffer = [0; 1472];
    for (entry, engine) in message.entries().flatten() {
        let mut encoder = Encoder::new(message.version, message.syncid);
        encoder
            .push(&mut buffer, &entry, &engine)
            .expect("an entry is short");
        let len = encoder.finish(&mut buffer);
        let again = Message::decode(&buffer[..len]).expect("a message");
        let read: Vec<_> = again.entries().collect();
        let flags = entry.flags & !flag::HASHED;
        assert_eq!(read, [Ok((SyncEntry { flags, ..entry }, engine))]);
    }
}

/// What other nodes of RVS say, and the records of a table, are read from `data`.
pub fn peer(data: &[u8]) {
    peer::peer(data);
}

/// `data` as a `keepalived.conf`.
pub fn import(data: &[u8]) {
    keepalived::import(data);
}

/// The parsers see `data` as a frame.
pub fn parse(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let tci = u16::from(bytes.byte()) & 0x0f;
    let mtu = 60 + u16::from(bytes.byte()) * 8;
    let frame = bytes.rest();
    if frame.len() > usize::from(u16::MAX) {
        return;
    }
    let Parsed::Ip(flow) = Flow::parse(frame, tci, frame.len() as u32) else {
        return;
    };
    let end = usize::from(flow.l3) + usize::from(flow.l3_len);
    assert!(end <= frame.len(), "the packet ends behind the frame");
    assert!(flow.l4 >= flow.l3, "the transport begins before the packet");
    assert!(
        usize::from(flow.l4) <= end,
        "the transport begins behind the packet"
    );
    let l3 = usize::from(flow.l3);
    let Some(mut fragments) = Fragments::new(frame, l3, mtu) else {
        return;
    };
    // IPv6 is cut where it has a fragment header already.
    let header = match flow.is_v4 {
        true => usize::from(frame[l3] & 15) * 4,
        false => 48,
    };
    let mut payload = 0;
    while let Some(len) = fragments.next_len() {
        assert!(
            len <= l3 + usize::from(mtu),
            "a fragment is longer than the MTU"
        );
        let mut buffer = vec![0; len];
        assert_eq!(fragments.write(&mut buffer), Some(len));
        let head = &buffer[l3..l3 + header];
        assert!(
            !flow.is_v4 || notation::checksum(&[head]) == 0,
            "header checksum of a fragment"
        );
        payload += len - l3 - header;
    }
    assert_eq!(
        payload,
        usize::from(flow.l3_len) - header,
        "payload of all fragments"
    );
}

/// A story in which everything may happen.
pub fn walk(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut story = Story::begin(bytes.byte(), bytes.byte());
    while !bytes.is_empty() {
        story.step(&mut bytes);
    }
    story.end();
}

/// As `Story::packet` reads them: TCP to each address, UDP, SCTP.
const OPENINGS: [[u8; 8]; 6] = [
    [0, 0, 0, 0, 0, 0, 2, 0],
    [1, 0, 0, 0, 0, 0, 2, 0],
    [0, 1, 1, 0, 0, 0, 2, 0],
    [8, 0, 0, 0, 0, 1, 0, 10],
    [9, 0, 0, 0, 0, 1, 0, 10],
    [12, 0, 0, 0, 0, 0, 1, 0],
];

/// Some connections, then ICMP messages only.
pub fn icmp(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut story = Story::begin(0xff, bytes.byte());
    for opening in OPENINGS {
        story.packet(&mut Bytes::new(&opening));
    }
    while !bytes.is_empty() {
        story.icmp(&mut bytes);
    }
    story.end();
}

/// A control connection of FTP.
pub fn ftp(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut dialogue = Dialogue::begin(&mut bytes);
    while !bytes.is_empty() {
        dialogue.step(&mut bytes);
    }
    dialogue.end();
}

/// Packets in pieces, through a worker or the table of first pieces alone.
pub fn fragments(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    if bytes.byte() & 3 == 0 {
        return pieces::table(bytes.rest());
    }
    let mut story = Pieces::begin();
    while !bytes.is_empty() {
        story.step(&mut bytes);
    }
    story.end();
}
