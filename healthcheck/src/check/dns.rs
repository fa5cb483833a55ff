//! A DNS query over UDP (DNS_CHECK; RFC 1035, 4.1). Any reply without an error passes, an empty one
//! too: the server works.

use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE, header_buffer};

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// Types that may be asked for, by their names.
pub const TYPES: &[(&str, TYPE)] = &[
    ("A", TYPE::A),
    ("NS", TYPE::NS),
    ("CNAME", TYPE::CNAME),
    ("SOA", TYPE::SOA),
    ("MX", TYPE::MX),
    ("TXT", TYPE::TXT),
    ("AAAA", TYPE::AAAA),
];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    name: Name<'static>,
    kind: TYPE,
}

impl Query {
    /// `kind` is one of [`TYPES`] in any case; the name "." is the root.
    ///
    /// # Errors
    /// One line.
    pub fn new(name: &str, kind: &str) -> Result<Query, String> {
        let known = TYPES.iter().find(|(n, _)| n.eq_ignore_ascii_case(kind));
        let Some((_, kind)) = known else {
            let names: Vec<&str> = TYPES.iter().map(|(n, _)| *n).collect();
            return Err(format!(
                "type \"{kind}\" is unknown; known: {}",
                names.join(", ")
            ));
        };
        let name = Name::new(name.trim_end_matches('.'))
            .map_err(|_| format!("\"{name}\" is not a DNS name"))?;
        Ok(Query {
            name: name.into_owned(),
            kind: *kind,
        })
    }
}

/// One query and its reply.
#[derive(Clone, Debug)]
pub struct Dns {
    query: Query,
    id: u16,
}

impl Dns {
    /// `id` should differ from attempt to attempt.
    pub fn new(query: Query, id: u16) -> Dns {
        Dns { query, id }
    }
}

impl Conversation for Dns {
    fn channel(&self) -> Channel {
        Channel::Datagram
    }

    fn opened(&mut self) -> Step {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let kind = QTYPE::TYPE(self.query.kind);
        let name = self.query.name.clone();
        packet
            .questions
            .push(Question::new(name, kind, CLASS::IN.into(), false));
        match packet.build_bytes_vec() {
            Ok(bytes) => Step::Send(bytes),
            Err(why) => Step::fail(Failure::Malformed(format!("the query: {why}"))),
        }
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        let ours = header_buffer::id(bytes) == Ok(self.id)
            && header_buffer::has_flags(bytes, PacketFlag::RESPONSE) == Ok(true);
        // Short and foreign datagrams are not the reply; it may still come.
        let Some(code) = ours
            .then(|| header_buffer::rcode(bytes))
            .and_then(Result::ok)
        else {
            return Step::Wait;
        };
        match code {
            RCODE::NoError => Step::Done(Ok(Passed::default())),
            code => Step::fail(Failure::Rcode(code as u16)),
        }
    }

    fn closed(&mut self) -> Step {
        Step::Wait
    }

    fn expired(&mut self) -> Verdict {
        Err(Failure::Timeout("reply"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns() -> Dns {
        Dns::new(Query::new("www.example.org.", "aaaa").unwrap(), 0x1234)
    }

    #[test]
    fn the_query_asks_for_what_was_configured() {
        let wanted = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
                       \x03www\x07example\x03org\x00\x00\x1c\x00\x01";
        assert_eq!(dns().opened(), Step::Send(wanted.to_vec()));
        let root = Query::new(".", "SOA").unwrap();
        let wanted = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\0\0\x06\0\x01";
        assert_eq!(Dns::new(root, 1).opened(), Step::Send(wanted.to_vec()));
    }

    #[test]
    fn only_the_code_of_our_reply_counts() {
        let reply = |id: u8, flags: u8, code: u8| {
            let mut bytes = vec![0x12, id, flags, code];
            bytes.extend([0; 8]);
            bytes
        };
        assert_eq!(
            dns().received(&reply(0x35, 0x81, 0)),
            Step::Wait,
            "another id"
        );
        assert_eq!(dns().received(&reply(0x34, 0x01, 0)), Step::Wait, "a query");
        assert_eq!(dns().received(&[0x12, 0x34]), Step::Wait, "too short");
        assert_eq!(
            dns().received(&reply(0x34, 0x81, 0)),
            Step::Done(Ok(Passed::default()))
        );
        let failed = dns().received(&reply(0x34, 0x81, 0x83));
        assert_eq!(failed, Step::fail(Failure::Rcode(3)));
    }

    #[test]
    fn mistakes_say_what_is_known() {
        assert!(Query::new("a", "PTR").unwrap_err().contains("AAAA"));
        assert!(Query::new(&"a".repeat(64), "A").is_err());
    }
}
