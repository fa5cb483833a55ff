//! What servers answer to health checks: an HTTP answer in any pieces, a DNS reply.

use healthcheck::Verdict;
use healthcheck::check::dns::{Dns, Query};
use healthcheck::check::http::{Expect, Http, Request, StatusRange, Url, Version};
use healthcheck::check::{Conversation, Step};

use super::bytes::Bytes;

/// The verdict about an answer that comes in pieces of these sizes, taken in turn, and then ends.
fn verdict(expect: &Expect, answer: &[u8], sizes: &[usize]) -> Verdict {
    let url = Url {
        request: Request::new("/", "fuzz", Version::Http11),
        expect: expect.clone(),
    };
    let mut http = Http::new(vec![url], false);
    assert!(matches!(http.opened(), Step::Send(_)));
    let (mut rest, mut sizes) = (answer, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| *size);
        let (piece, after) = rest.split_at(size.clamp(1, rest.len()));
        rest = after;
        match http.received(piece) {
            Step::Done(verdict) => return verdict,
            Step::Wait => {}
            step => panic!("{step:?} in the midst of an answer"),
        }
    }
    match http.closed() {
        Step::Done(verdict) => verdict,
        step => panic!("{step:?} at the end of the connection"),
    }
}

/// However an HTTP answer is cut, the verdict is the same.
pub fn http(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let options = bytes.byte();
    let expect = Expect {
        statuses: match options & 1 {
            0 => Vec::new(),
            _ => vec![StatusRange::parse("200-404").expect("a range")],
        },
        digest: (options & 2 != 0).then(|| "5d41402abc4b2a76b9719d911017c592".to_owned()),
        regex: (options & 4 != 0).then(|| Expect::regex("hel*o$").expect("an expression")),
        no_match: options & 8 != 0,
        min_offset: usize::from(options >> 5),
        max_offset: usize::from(options & 16),
    };
    let sizes = [bytes.byte(), bytes.byte(), bytes.byte()].map(|n| usize::from(n % 40) + 1);
    let answer = bytes.rest();
    let whole = verdict(&expect, answer, &[]);
    assert_eq!(verdict(&expect, answer, &sizes), whole, "pieces of {sizes:?}");
    assert_eq!(verdict(&expect, answer, &[1]), whole, "byte by byte");
}

/// A DNS reply never ends in anything but a verdict or more waiting; one to another query is none.
pub fn dns(data: &[u8]) {
    let query = Query::new("www.example.org", "A").expect("a query");
    let mut check = Dns::new(query, 0x1234);
    assert!(matches!(check.opened(), Step::Send(_)));
    let other = !data.starts_with(&[0x12, 0x34]);
    match check.received(data) {
        Step::Wait => {}
        Step::Done(_) => assert!(!other, "a reply to another query was taken"),
        step => panic!("{step:?} after a datagram"),
    }
}
