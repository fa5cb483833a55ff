//! Rules that mark packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::addr::Family;
use dataplane::marks::{MarkRule, Ports};
use dataplane::packet::PortId;
use dataplane::route::Prefix;

use crate::api;
use crate::api::{ErrorKind, MarkMatch, MarkView, Origin, ServiceKey};
use crate::config::RunningMark;

use super::build::core_protocol;
use super::change::origin_of_new;
use super::edit::is_unused;
use super::{Author, Counters, Model, Refusal};

impl Model {
    pub(super) fn put_mark(
        &mut self,
        author: Author,
        rule: &MarkMatch,
        mark: u32,
    ) -> Result<(), Refusal> {
        let refuse = |why: String| {
            let text = format!("mark {mark} {rule}: {why}");
            Err(Refusal::new(ErrorKind::Invalid, text))
        };
        if mark == 0 {
            return refuse("a mark is 1 or more".into());
        }
        if let Some(name) = rule.port.as_ref().filter(|name| !self.ports.contains(name)) {
            return refuse(format!(
                "there is no port \"{name}\"; there are {}",
                self.ports.join(", ")
            ));
        }
        if let Err(why) = rule.clone().checked(Some(rule.family)) {
            return refuse(why);
        }
        let old = self.marks.get(rule);
        if let (Some(old), Author::Operator) = (old, author) {
            let why = format!(
                "its packets have mark {} already; delete that first",
                old.mark
            );
            return refuse(why);
        }
        let origin = origin_of_new(author);
        let before = self
            .marks
            .insert(rule.clone(), RunningMark { mark, origin });
        if let Some(before) = before.filter(|before| before.mark != mark) {
            self.remember_mark(rule, before.mark);
        }
        self.marks_changed = true;
        self.roles.start_anew();
        Ok(())
    }

    pub(super) fn delete_mark(&mut self, rule: &MarkMatch) -> Result<(), Refusal> {
        let Some(gone) = self.marks.remove(rule) else {
            return Err(Refusal::new(
                ErrorKind::Invalid,
                format!("no rule marks the packets with {rule}; see `rvsadm mark list`"),
            ));
        };
        self.remember_mark(rule, gone.mark);
        self.marks_changed = true;
        self.roles.start_anew();
        Ok(())
    }

    /// Connections outlive the rule that brought them here: they are found before any mark is
    /// asked for. Their packets must still be looked up.
    fn remember_mark(&mut self, rule: &MarkMatch, mark: u32) {
        let family = rule.family;
        let service = ServiceKey::Mark { mark, family };
        self.former_marks.insert((service, destination(rule)));
    }

    /// Forgets deleted rules whose service has no connection left.
    pub(super) fn forget_marks(&mut self, counters: Counters<'_>) {
        let mut former = std::mem::take(&mut self.former_marks);
        let before = former.len();
        former.retain(|(service, _)| {
            let own = self.services.get(service);
            let own = own.into_iter().flat_map(|s| s.servers.iter().map(|s| s.id));
            let deleted = self.trash.iter().filter(|(of, ..)| of == service);
            let mut all = own.chain(deleted.map(|(_, _, trashed)| trashed.id));
            all.any(|id| !is_unused(counters, id))
        });
        if former.len() != before {
            self.roles.start_anew();
        }
        self.former_marks = former;
    }

    /// Says what the ports are called, for rules that name one.
    pub fn set_ports(&mut self, names: Vec<String>) {
        self.ports = names;
    }

    /// The rules that mark packets, as listed.
    pub fn marks(&self) -> Vec<MarkView> {
        let view = |(rule, m): (&MarkMatch, &RunningMark)| MarkView {
            mark: m.mark,
            matches: rule.clone(),
            origin: m.origin,
        };
        self.marks.iter().map(view).collect()
    }

    /// Says where a rule that marks packets counts as coming from.
    pub fn set_mark_origin(&mut self, rule: &MarkMatch, origin: Origin) {
        if let Some(mark) = self.marks.get_mut(rule) {
            mark.origin = origin;
        }
    }

    /// The rules as workers have them.
    pub(super) fn mark_rules(&self) -> impl Iterator<Item = MarkRule> + '_ {
        self.marks.iter().map(|(rule, m)| {
            let input = rule.port.as_ref();
            MarkRule {
                source: rule.source.map_or(any(rule.family), |n| n.prefix()),
                destination: destination(rule),
                protocol: rule.protocol.map(|p| core_protocol(p).number()),
                source_ports: rule.source_port.map_or(Ports::ANY, Ports::from),
                destination_ports: rule.destination_port.map_or(Ports::ANY, Ports::from),
                vlan: rule.vlan,
                input: input
                    .and_then(|name| self.ports.iter().position(|p| p == name))
                    .map(|i| PortId(i as u16)),
                mark: m.mark,
            }
        })
    }

    /// Destinations of packets whose mark has a service, also one that was deleted and may have
    /// connections left; those of deleted rules, too.
    pub(super) fn marked_destinations(&self) -> Vec<Prefix> {
        let deleted = self.trash.iter().map(|(service, ..)| service);
        let keys: BTreeSet<ServiceKey> = self.services.keys().copied().chain(deleted).collect();
        let has_service = |rule: &MarkRule| {
            let family = match rule.destination.addr().family() {
                Family::V4 => api::Family::Ipv4,
                Family::V6 => api::Family::Ipv6,
            };
            let mark = rule.mark;
            keys.contains(&ServiceKey::Mark { mark, family })
        };
        let mut found: Vec<Prefix> = self
            .mark_rules()
            .filter(has_service)
            .map(|rule| rule.destination)
            .collect();
        let former = self.former_marks.iter();
        found.extend(
            former
                .filter(|(key, _)| keys.contains(key))
                .map(|(_, at)| *at),
        );
        found.dedup();
        found
    }
}

/// All addresses of a family.
fn any(family: api::Family) -> Prefix {
    let any = match family {
        api::Family::Ipv4 => IpAddr::from([0; 4]),
        api::Family::Ipv6 => IpAddr::from([0; 16]),
    };
    Prefix::new(any.into(), 0).unwrap_or_else(|| Prefix::host(any.into()))
}

/// Where the packets of a rule go.
fn destination(rule: &MarkMatch) -> Prefix {
    rule.destination
        .map_or_else(|| any(rule.family), |n| n.prefix())
}
