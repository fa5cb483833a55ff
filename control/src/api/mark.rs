//! Rules that give packets a firewall mark, as they are written: in words, in the file and in the
//! admin API.
//!
//! In words, as `rvsadm mark` takes and prints them: `source 172.16.0.0/12 destination
//! 203.0.113.0/24 protocol tcp source-port 1024-65535 destination-port 80 vlan 7 port wan`. What is
//! left out is not asked. Without a prefix the packets are IPv4, or `family ipv6`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::addr::Addr;
use dataplane::marks::Ports;
use dataplane::route::Prefix;
use serde::{Deserialize, Serialize};

use super::{Family, Origin, Protocol};

/// A network in one spelling: no bits behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Net {
    addr: IpAddr,
    len: u8,
}

impl Net {
    /// Its family.
    pub fn family(&self) -> Family {
        if self.addr.is_ipv6() {
            Family::Ipv6
        } else {
            Family::Ipv4
        }
    }

    /// As the core has it.
    pub fn prefix(&self) -> Prefix {
        let addr = Addr::from(self.addr);
        Prefix::new(addr, self.len).unwrap_or_else(|| Prefix::host(addr))
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let prefix: Prefix = text.parse().map_err(|_| {
            format!("\"{text}\" is no network; write 192.0.2.0/24 or 2001:db8::/32")
        })?;
        Ok(Net {
            addr: prefix.addr().into(),
            len: prefix.len(),
        })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// One port or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl From<PortRange> for Ports {
    fn from(range: PortRange) -> Ports {
        Ports {
            first: range.first,
            last: range.last,
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
            _ => Err(format!("\"{text}\" is no port; write 80 or 8000-8999")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

macro_rules! as_text {
    ($($kind:ty)*) => {$(
        impl TryFrom<String> for $kind {
            type Error = String;
            fn try_from(text: String) -> Result<$kind, String> {
                text.parse()
            }
        }
        impl From<$kind> for String {
            fn from(value: $kind) -> String {
                value.to_string()
            }
        }
    )*};
}

as_text!(Net PortRange);

/// Which packets a rule is about: what identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkMatch {
    /// Family of the packets, that of the networks.
    #[serde(default)]
    pub family: Family,
    /// Where they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Net>,
    /// Where they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Net>,
    /// Transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Ports they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<PortRange>,
    /// Ports they go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<PortRange>,
    /// VLAN, 0 for untagged packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Name of the port they come in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// A rule as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkView {
    /// The mark.
    pub mark: u32,
    /// Of which packets.
    #[serde(rename = "match")]
    pub matches: MarkMatch,
    /// Where it came from.
    pub origin: Origin,
}

impl MarkMatch {
    /// Puts it into its one spelling: a network of all addresses is none.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn checked(mut self, family: Option<Family>) -> Result<MarkMatch, String> {
        let nets = [self.source, self.destination].into_iter().flatten();
        let mut families: Vec<Family> = nets.map(|n| n.family()).chain(family).collect();
        families.dedup();
        self.family = match families[..] {
            [] => Family::Ipv4,
            [family] => family,
            _ => return Err("source, destination and family are not of one family".into()),
        };
        for net in [&mut self.source, &mut self.destination] {
            *net = net.filter(|n| n.len != 0);
        }
        if self.vlan.is_some_and(|vlan| vlan > 4094) {
            return Err("a vlan is 0 (untagged) to 4094".into());
        }
        Ok(self)
    }

    /// Reads it in words.
    ///
    /// # Errors
    /// One line that says what to do.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<MarkMatch, String> {
        let mut matches = MarkMatch::default();
        let mut family = None;
        let mut seen: Vec<&str> = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if seen.contains(&word) {
                return Err(format!("{word} is given twice"));
            }
            seen.push(word);
            let known = WORDS.iter().find(|known| **known == word);
            let Some(&known) = known else {
                return Err(format!(
                    "unknown word \"{word}\"; known: {}",
                    WORDS.join(", ")
                ));
            };
            let value = words
                .next()
                .ok_or_else(|| format!("{known} lacks its value"))?;
            match known {
                "family" => {
                    family = Some(match value {
                        "ipv4" => Family::Ipv4,
                        "ipv6" => Family::Ipv6,
                        other => return Err(format!("family \"{other}\"; give ipv4 or ipv6")),
                    });
                }
                "source" => matches.source = Some(value.parse()?),
                "destination" => matches.destination = Some(value.parse()?),
                "protocol" => {
                    let protocol = PROTOCOLS.iter().find(|(name, _)| *name == value);
                    let Some((_, protocol)) = protocol else {
                        return Err(format!("protocol \"{value}\"; give tcp, udp or sctp"));
                    };
                    matches.protocol = Some(*protocol);
                }
                "source-port" => matches.source_port = Some(value.parse()?),
                "destination-port" => matches.destination_port = Some(value.parse()?),
                "vlan" => {
                    let vlan = value.parse();
                    matches.vlan =
                        Some(vlan.map_err(|_| format!("vlan \"{value}\" is no number"))?);
                }
                _ => matches.port = Some(value.to_owned()),
            }
        }
        matches.checked(family)
    }
}

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
];

const WORDS: [&str; 8] = [
    "family",
    "source",
    "destination",
    "protocol",
    "source-port",
    "destination-port",
    "vlan",
    "port",
];

impl fmt::Display for MarkMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if self.family == Family::Ipv6 && self.source.is_none() && self.destination.is_none() {
            parts.push("family ipv6".into());
        }
        parts.extend(self.source.map(|n| format!("source {n}")));
        parts.extend(self.destination.map(|n| format!("destination {n}")));
        let protocol = PROTOCOLS.iter().find(|(_, p)| Some(*p) == self.protocol);
        parts.extend(protocol.map(|(name, _)| format!("protocol {name}")));
        parts.extend(self.source_port.map(|p| format!("source-port {p}")));
        parts.extend(
            self.destination_port
                .map(|p| format!("destination-port {p}")),
        );
        parts.extend(self.vlan.map(|n| format!("vlan {n}")));
        parts.extend(self.port.as_ref().map(|name| format!("port {name}")));
        if parts.is_empty() {
            parts.push("family ipv4".into());
        }
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MarkMatch, String> {
        MarkMatch::from_words(text.split_whitespace())
    }

    #[test]
    fn words_are_read_as_they_are_printed() {
        for text in [
            "family ipv4",
            "family ipv6",
            "destination 2001:db8::/32 protocol udp",
            "source 172.16.0.0/12 destination 203.0.113.0/24 protocol tcp source-port 1024-65535 \
             destination-port 80 vlan 7 port wan",
        ] {
            let matches = read(text).unwrap();
            let printed = matches.to_string();
            assert_eq!(printed.split_whitespace().collect::<Vec<_>>().join(" "), {
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            let json = serde_json::to_string(&matches).unwrap();
            assert_eq!(serde_json::from_str::<MarkMatch>(&json).unwrap(), matches);
        }
        // One spelling only.
        assert_eq!(
            read("destination 10.1.2.3/8").unwrap().to_string(),
            "destination 10.0.0.0/8"
        );
        assert_eq!(read("source 0.0.0.0/0").unwrap(), read("").unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in [
            ("destination", "lacks its value"),
            ("destination 10.0.0.0/40", "is no network"),
            ("source 10.0.0.0/8 destination ::/0", "not of one family"),
            ("destination-port 90-80", "is no port"),
            ("dport 80", "unknown word \"dport\""),
            ("vlan 4095", "a vlan is"),
            ("vlan 1 vlan 2", "given twice"),
            ("protocol icmp", "give tcp, udp or sctp"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.contains(what), "{text}: {found}");
        }
    }
}
