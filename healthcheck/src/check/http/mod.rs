//! HTTP and HTTPS (HTTP_GET, SSL_GET): one or more URLs, each on a connection of its own, all of
//! them within the one deadline of the attempt. The first that fails ends it.
//!
//! Intended deviations from keepalived: URLs follow each other at once instead of `delay_loop`
//! apart; bodies in chunks (RFC 9112, 7.1) are put together before they are compared; an answer is
//! complete at its Content-Length, not only at the end of the connection.

mod expect;
mod request;
mod response;

pub use expect::{Expect, StatusRange};
pub use request::{Request, Version};
use response::Response;

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// One URL of a check.
#[derive(Clone, Debug)]
pub struct Url {
    /// What is sent.
    pub request: Request,
    /// What is accepted.
    pub expect: Expect,
}

/// See the module.
#[derive(Debug)]
pub struct Http {
    urls: Vec<Url>,
    tls: bool,
    /// The URL that is asked for now.
    turn: usize,
    response: Response,
}

impl Http {
    /// A check of these URLs, none of which means that an open connection is enough.
    pub fn new(urls: Vec<Url>, tls: bool) -> Http {
        Http {
            urls,
            tls,
            turn: 0,
            response: Response::default(),
        }
    }

    fn next(&mut self, verdict: Result<(), Failure>) -> Step {
        if let Err(failure) = verdict {
            return Step::fail(failure);
        }
        self.turn += 1;
        match self.turn < self.urls.len() {
            true => Step::Reopen,
            false => Step::Done(Ok(Passed::default())),
        }
    }

    fn path(&self) -> String {
        let url = self.urls.get(self.turn);
        url.map(|url| url.request.path.clone()).unwrap_or_default()
    }

    fn complete(&mut self) -> Step {
        let verdict = match self.urls.get(self.turn) {
            Some(url) => url.expect.judge(&url.request.path, &mut self.response),
            None => Ok(()),
        };
        self.next(verdict)
    }
}

impl Conversation for Http {
    fn channel(&self) -> Channel {
        if self.tls {
            Channel::Tls
        } else {
            Channel::Stream
        }
    }

    fn opened(&mut self) -> Step {
        let Some(url) = self.urls.get(self.turn) else {
            return Step::Done(Ok(Passed::default()));
        };
        self.response = Response::new(url.expect.digest.is_some(), url.expect.regex.is_some());
        Step::Send(url.request.bytes())
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        match self.response.read(bytes) {
            Ok(false) => Step::Wait,
            Ok(true) => self.complete(),
            Err(why) => Step::fail(Failure::Malformed(format!("{}: {why}", self.path()))),
        }
    }

    fn closed(&mut self) -> Step {
        match self.response.end() {
            true => self.complete(),
            false => Step::fail(Failure::Closed("the answer was complete")),
        }
    }

    fn expired(&mut self) -> Verdict {
        let waiting = match self.response.status() {
            Some(_) => "end of the answer",
            None => "answer",
        };
        Err(Failure::Timeout(waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url {
            request: Request::new(path, "www.example.org", Version::Http10),
            expect: Expect::default(),
        }
    }

    fn one(expect: Expect) -> Http {
        let mut http = Http::new(vec![Url { expect, ..url("/") }], false);
        http.opened();
        http
    }

    const PASSED: Step = Step::Done(Ok(Passed { delta: 0 }));

    #[test]
    fn an_answer_in_pieces() {
        let mut http = one(Expect::default());
        let answer = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n";
        for byte in &answer[..answer.len() - 1] {
            assert_eq!(http.received(&[*byte]), Step::Wait);
        }
        assert_eq!(http.received(b"\n"), PASSED, "204 has no body");
    }

    #[test]
    fn a_body_ends_with_its_length_or_the_connection() {
        let mut http = one(Expect::default());
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(http.received(head), Step::Wait);
        assert_eq!(http.received(b"hell"), Step::Wait);
        assert_eq!(http.received(b"o"), PASSED);
        let mut http = one(Expect::default());
        assert_eq!(http.received(b"HTTP/1.0 200 OK\r\n\r\nhello"), Step::Wait);
        assert_eq!(http.closed(), PASSED);
        let mut http = one(Expect::default());
        http.received(head);
        http.received(b"hell");
        assert_eq!(
            http.closed(),
            Step::fail(Failure::Closed("the answer was complete"))
        );
    }

    #[test]
    fn statuses_digests_and_expressions() {
        let body = |text: &str| format!("HTTP/1.0 200 OK\r\n\r\n{text}");
        let ask = |expect: Expect, answer: &str| {
            let mut http = one(expect);
            match http.received(answer.as_bytes()) {
                Step::Wait => http.closed(),
                step => step,
            }
        };
        let path = || "/".to_owned();
        let failed = Failure::Status {
            got: 503,
            path: path(),
        };
        let answer = "HTTP/1.0 503 Busy\r\n\r\n";
        assert_eq!(ask(Expect::default(), answer), Step::fail(failed));
        let busy = Expect {
            statuses: vec![StatusRange::parse("500-503").unwrap()],
            ..Expect::default()
        };
        assert_eq!(ask(busy, answer), PASSED);

        let hello = "5d41402abc4b2a76b9719d911017c592";
        let digest = |d: &str| Expect {
            digest: Some(d.into()),
            ..Expect::default()
        };
        assert_eq!(ask(digest(&hello.to_uppercase()), &body("hello")), PASSED);
        let failed = Failure::Digest {
            got: hello.into(),
            path: path(),
        };
        assert_eq!(ask(digest("00"), &body("hello")), Step::fail(failed));

        let regex = |text: &str, no_match| Expect {
            regex: Some(Expect::regex(text).unwrap()),
            no_match,
            ..Expect::default()
        };
        assert_eq!(ask(regex("^h.*o$", false), &body("hello")), PASSED);
        let failed = |matched| {
            Step::fail(Failure::Regex {
                matched,
                path: path(),
            })
        };
        assert_eq!(ask(regex("^x", false), &body("hello")), failed(false));
        assert_eq!(ask(regex("^h", true), &body("hello")), failed(true));
        let late = Expect {
            min_offset: 1,
            ..regex("^h", false)
        };
        assert_eq!(ask(late, &body("hello")), failed(false));
    }

    #[test]
    fn chunks_are_put_together() {
        let digest = Some("5d41402abc4b2a76b9719d911017c592".into());
        let mut http = one(Expect {
            digest,
            ..Expect::default()
        });
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n";
        let steps: Vec<Step> = answer.iter().map(|b| http.received(&[*b])).collect();
        let (last, before) = steps.split_last().unwrap();
        assert!(before.iter().all(|s| *s == Step::Wait));
        assert_eq!(*last, PASSED);
    }

    #[test]
    fn urls_follow_each_other_and_the_first_failure_ends_it() {
        let mut http = Http::new(vec![url("/a"), url("/b")], false);
        for (path, next) in [("/a", Step::Reopen), ("/b", PASSED)] {
            let Step::Send(request) = http.opened() else {
                panic!("a request is sent")
            };
            let line = format!("GET {path} HTTP/1.0\r\n");
            assert!(request.starts_with(line.as_bytes()));
            assert_eq!(
                http.received(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
                next
            );
        }
    }

    #[test]
    fn what_is_no_http_says_so() {
        let step = one(Expect::default()).received(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
        assert!(
            matches!(step, Step::Done(Err(Failure::Malformed(_)))),
            "{step:?}"
        );
        let endless = one(Expect::default()).received(&[b'a'; 70_000]);
        assert!(matches!(endless, Step::Done(Err(Failure::Malformed(_)))));
    }
}
