//! Sync groups: virtual routers that are master together or not at all.
//!
//! A member at fault puts all at fault. A member that ceases to be master makes all cease. A
//! member whose wait is over becomes master when the wait of every other is over too; until then
//! it waits another master-down interval.

use crate::config::Key;
use crate::instance::{GroupOrder, Health, Instance, Reaction, Role};
use crate::track::Tracked;

/// A sync group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name for people.
    pub name: String,
    /// Its virtual routers.
    pub members: Vec<Key>,
    /// Trackers that count for every member, before the member's own of the same id.
    pub trackers: Vec<Tracked>,
    /// Whether weights of trackers count (`sync_group_tracking_weight`). Otherwise a failure is
    /// a fault, so that members keep their order.
    pub tracking_weight: bool,
}

impl Group {
    /// What a member has to be told after one of them, `stepped`, took a step.
    pub(crate) fn orders(
        members: &[&Instance],
        stepped: Key,
        reaction: Reaction,
    ) -> Vec<(Key, GroupOrder)> {
        let mut orders = Vec::new();
        // Health first: members at fault say so to their peers, they do not just cease.
        for member in members {
            let others = members.iter().filter(|other| other.key() != member.key());
            let worst = others
                .map(|other| other.own_health())
                .max()
                .unwrap_or(Health::Fine);
            if worst != member.group_health() {
                orders.push((member.key(), GroupOrder::Health(worst)));
            }
        }
        for member in members.iter().filter(|member| member.key() != stepped) {
            if reaction.ceased && member.wants_master() {
                orders.push((member.key(), GroupOrder::Yield));
            }
            if reaction.lower_master && member.state().role() == Role::Master {
                orders.push((member.key(), GroupOrder::Announce));
            }
        }
        // A member that ceased does not want to be master.
        if Group::is_ready(members) {
            for member in members.iter().filter(|m| m.state().role() == Role::Backup) {
                orders.push((member.key(), GroupOrder::Promote));
            }
        }
        orders
    }

    /// Whether every member wants to be master and may.
    pub(crate) fn is_ready(members: &[&Instance]) -> bool {
        members
            .iter()
            .all(|m| m.wants_master() && m.own_health() == Health::Fine)
    }

    /// The state of the group: that of all members, or none while they change.
    pub(crate) fn role(members: &[&Instance]) -> Option<Role> {
        let first = members.first()?.state().role();
        members
            .iter()
            .all(|member| member.state().role() == first)
            .then_some(first)
    }
}
