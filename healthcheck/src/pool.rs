//! One virtual service: quorum, sorry server, and what its servers are in the table.
//!
//! The rules are keepalived's. The live weight W is the sum of the effective weights of alive
//! servers. Quorum is lost when W is 0 or below `quorum - hysteresis`, and gained when W reaches
//! `quorum + hysteresis`. When it is lost and there is a sorry server, the servers that are still
//! alive leave and the sorry server serves; when it is gained the servers come back. Without a
//! sorry server those that are alive go on serving below quorum, and only notices are given.
//!
//! Intended deviations: when quorum is gained the servers are put back before the sorry server
//! leaves, so that no moment is without a server; and living servers that are inhibited on failure
//! rest with weight 0 while the sorry server serves, so that their connections can finish.

/// Index of a server in its pool.
pub type Index = usize;

/// What decides about quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Weight that is needed.
    pub quorum: u32,
    /// Distance of losing and gaining from `quorum`; below `quorum`.
    pub hysteresis: u32,
    /// Whether there is a sorry server.
    pub sorry: bool,
}

/// What the health of a server says about its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// All checks are up.
    pub alive: bool,
    /// Weight while alive.
    pub weight: u32,
    /// Weight as configured, which a drain does not change: it bounds the quorum.
    pub configured: u32,
    /// A dead server stays with weight 0 instead of leaving.
    pub inhibit: bool,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The server is in the table with this weight.
    Put(Index, u32),
    /// The server is in the table, with weight 0 because it failed.
    Inhibit(Index),
    /// The server is in the table, with weight 0 because the sorry server serves.
    Rest(Index),
    /// The server is not in the table.
    Remove(Index),
    /// The sorry server serves, or serves no more.
    Sorry(bool),
    /// Tell: a server came up or went down.
    Server(Index, bool),
    /// Tell: quorum was gained or lost; the live weight.
    Quorum(bool, u64),
}

impl Action {
    /// The same for the server that has this index now.
    fn at(self, index: Index) -> Action {
        match self {
            Action::Put(_, weight) => Action::Put(index, weight),
            Action::Inhibit(_) => Action::Inhibit(index),
            Action::Rest(_) => Action::Rest(index),
            Action::Remove(_) => Action::Remove(index),
            other => other,
        }
    }
}

/// A quorum beyond the weights of all servers could never be reached: it becomes their sum.
fn reachable(quorum: Quorum, members: &[Member]) -> Quorum {
    let all: u64 = members.iter().map(|m| u64::from(m.configured)).sum();
    let most = all.saturating_sub(quorum.hysteresis.into());
    Quorum {
        quorum: quorum.quorum.min(u32::try_from(most).unwrap_or(u32::MAX)),
        ..quorum
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pool {
    /// As configured.
    asked: Quorum,
    /// As it can be reached.
    quorum: Quorum,
    members: Vec<Member>,
    /// What each was last told to be.
    placed: Vec<Option<Action>>,
    has_quorum: bool,
    sorry_serves: bool,
}

impl Pool {
    /// A service whose servers are in this state at start. The actions put it into the table and
    /// say that quorum was gained, if it is.
    pub fn new(quorum: Quorum, members: Vec<Member>, out: &mut Vec<Action>) -> Pool {
        let mut pool = Pool {
            placed: vec![None; members.len()],
            quorum: reachable(quorum, &members),
            asked: quorum,
            members,
            has_quorum: false,
            sorry_serves: false,
        };
        // The gain rule decides at start.
        pool.has_quorum = pool.live_weight() >= pool.gain();
        pool.sorry_serves = !pool.has_quorum && quorum.sorry;
        if pool.sorry_serves {
            out.push(Action::Sorry(true));
        }
        pool.place_all(out);
        out.push(Action::Quorum(pool.has_quorum, pool.live_weight()));
        pool
    }

    /// Takes another configuration: each server with its index before, if it had one. What did not
    /// change is left alone; servers that are gone are the caller's to remove. Other bounds than
    /// before are judged by the rule of gaining. With the same ones a quorum that there was is only
    /// lost below its floor: an edit, or a drain, within the hysteresis is no loss. (Intended
    /// deviation: keepalived judges by the rule of gaining after each reload.)
    pub fn reload(
        &mut self,
        quorum: Quorum,
        members: &[(Member, Option<Index>)],
        out: &mut Vec<Action>,
    ) {
        let before = |old: &Option<Index>| old.and_then(|old| self.placed.get(old).copied()?);
        let placed = members.iter().enumerate();
        self.placed = placed
            .map(|(index, (_, old))| before(old).map(|action| action.at(index)))
            .collect();
        self.members = members.iter().map(|(member, _)| *member).collect();
        self.quorum = reachable(quorum, &self.members);
        let bounds = |quorum: Quorum| (quorum.quorum, quorum.hysteresis);
        let is_same = bounds(self.asked) == bounds(quorum);
        self.asked = quorum;
        let (had, sorry) = (self.has_quorum, self.sorry_serves);
        self.has_quorum = match had && is_same {
            true => !self.loses(),
            false => self.live_weight() >= self.gain(),
        };
        self.sorry_serves = !self.has_quorum && quorum.sorry;
        if self.sorry_serves && !sorry {
            out.push(Action::Sorry(true));
        }
        self.place_all(out);
        if sorry && !self.sorry_serves {
            out.push(Action::Sorry(false));
        }
        if had != self.has_quorum {
            out.push(Action::Quorum(self.has_quorum, self.live_weight()));
        }
    }

    /// What a server was last told to be: put, inhibited, at rest or removed.
    pub fn placed(&self, index: Index) -> Option<Action> {
        self.placed.get(index).copied()?
    }

    /// What is needed, with a quorum that can be reached.
    pub fn needs(&self) -> Quorum {
        self.quorum
    }

    /// Whether there is quorum.
    pub fn has_quorum(&self) -> bool {
        self.has_quorum
    }

    /// Whether the sorry server serves.
    pub fn sorry_serves(&self) -> bool {
        self.sorry_serves
    }

    /// Sum of the weights of alive servers.
    pub fn live_weight(&self) -> u64 {
        let alive = self.members.iter().filter(|m| m.alive);
        alive.map(|m| u64::from(m.weight)).sum()
    }

    /// Takes the new state of a server.
    pub fn set(&mut self, index: Index, member: Member, out: &mut Vec<Action>) {
        let Some(old) = self.members.get_mut(index) else {
            return;
        };
        let was_alive = core::mem::replace(old, member).alive;
        let lost = self.loses();
        let gained = !self.has_quorum && self.live_weight() >= self.gain();
        // A last server that dies with the quorum leaves after the sorry server came, and one that
        // brings it back does not rest first.
        if !(lost || gained) || !self.quorum.sorry {
            self.place(index, out);
        }
        if was_alive != member.alive {
            out.push(Action::Server(index, member.alive));
        }
        self.settle(out);
    }

    fn settle(&mut self, out: &mut Vec<Action>) {
        let weight = self.live_weight();
        if self.loses() {
            self.has_quorum = false;
            if self.quorum.sorry {
                self.sorry_serves = true;
                out.push(Action::Sorry(true));
                self.place_all(out);
            }
            out.push(Action::Quorum(false, weight));
        } else if !self.has_quorum && weight >= self.gain() {
            self.has_quorum = true;
            let sorry = core::mem::take(&mut self.sorry_serves);
            self.place_all(out);
            if sorry {
                out.push(Action::Sorry(false));
            }
            out.push(Action::Quorum(true, weight));
        }
    }

    fn loses(&self) -> bool {
        let weight = self.live_weight();
        let floor = self.quorum.quorum.saturating_sub(self.quorum.hysteresis);
        self.has_quorum && (weight == 0 || weight < u64::from(floor))
    }

    fn gain(&self) -> u64 {
        // A pool whose servers weigh 0 altogether has quorum only when one of them weighs more.
        (u64::from(self.quorum.quorum) + u64::from(self.quorum.hysteresis)).max(1)
    }

    fn place_all(&mut self, out: &mut Vec<Action>) {
        for index in 0..self.members.len() {
            self.place(index, out);
        }
    }

    fn place(&mut self, index: Index, out: &mut Vec<Action>) {
        let (Some(member), Some(placed)) = (self.members.get(index), self.placed.get_mut(index))
        else {
            return;
        };
        let wanted = match (member.alive, self.sorry_serves) {
            (true, false) => Action::Put(index, member.weight),
            (false, _) if member.inhibit => Action::Inhibit(index),
            (true, true) if member.inhibit => Action::Rest(index),
            _ => Action::Remove(index),
        };
        if *placed != Some(wanted) {
            *placed = Some(wanted);
            out.push(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::*;

    fn alive(weight: u32) -> Member {
        Member {
            alive: true,
            weight,
            configured: weight,
            inhibit: false,
        }
    }

    fn dead(weight: u32) -> Member {
        Member {
            alive: false,
            ..alive(weight)
        }
    }

    fn pool(quorum: u32, hysteresis: u32, sorry: bool, members: &[Member]) -> (Pool, Vec<Action>) {
        let mut out = Vec::new();
        let quorum = super::Quorum {
            quorum,
            hysteresis,
            sorry,
        };
        (Pool::new(quorum, members.to_vec(), &mut out), out)
    }

    fn after(pool: &mut Pool, index: Index, member: Member) -> Vec<Action> {
        let mut out = Vec::new();
        pool.set(index, member, &mut out);
        out
    }

    #[test]
    fn a_start_puts_everything_in_and_gains_quorum() {
        let (_, out) = pool(1, 0, false, &[alive(1), alive(3)]);
        assert_eq!(out, [Put(0, 1), Put(1, 3), Quorum(true, 4)]);
    }

    #[test]
    fn a_start_with_alpha_servers_is_without_quorum() {
        let (mut p, out) = pool(1, 0, true, &[dead(1)]);
        assert_eq!(out, [Sorry(true), Remove(0), Quorum(false, 0)]);
        let out = after(&mut p, 0, alive(1));
        assert_eq!(
            out,
            [Server(0, true), Put(0, 1), Sorry(false), Quorum(true, 1)]
        );
    }

    #[test]
    fn the_sorry_server_comes_before_the_last_server_leaves() {
        let (mut p, _) = pool(1, 0, true, &[alive(1), alive(1)]);
        assert_eq!(after(&mut p, 0, dead(1)), [Remove(0), Server(0, false)]);
        let out = after(&mut p, 1, dead(1));
        assert_eq!(
            out,
            [Server(1, false), Sorry(true), Remove(1), Quorum(false, 0)]
        );
        let out = after(&mut p, 0, alive(1));
        assert_eq!(
            out,
            [Server(0, true), Put(0, 1), Sorry(false), Quorum(true, 1)]
        );
    }

    #[test]
    fn below_quorum_the_living_serve_if_nobody_is_sorry() {
        let (mut p, _) = pool(3, 0, false, &[alive(1), alive(1), alive(1)]);
        let out = after(&mut p, 0, dead(1));
        assert_eq!(out, [Remove(0), Server(0, false), Quorum(false, 2)]);
        assert_eq!(after(&mut p, 1, dead(1)), [Remove(1), Server(1, false)]);
        assert_eq!(after(&mut p, 2, alive(5)), [Put(2, 5), Quorum(true, 5)]);
    }

    #[test]
    fn hysteresis_keeps_quorum_from_flapping() {
        let members: Vec<Member> = (0..6).map(|_| alive(1)).collect();
        let (mut p, _) = pool(3, 1, false, &members);
        // Lost below 2, gained at 4.
        for index in 0..4 {
            after(&mut p, index, dead(1));
        }
        assert!(p.has_quorum());
        after(&mut p, 4, dead(1));
        assert!(!p.has_quorum());
        after(&mut p, 0, alive(1));
        after(&mut p, 1, alive(1));
        assert!(!p.has_quorum());
        after(&mut p, 2, alive(1));
        assert!(p.has_quorum());
    }

    #[test]
    fn a_dead_server_that_is_inhibited_stays_with_weight_0() {
        let inhibited = Member {
            inhibit: true,
            ..alive(2)
        };
        let (mut p, _) = pool(1, 0, false, &[inhibited, alive(1)]);
        let down = Member {
            alive: false,
            ..inhibited
        };
        assert_eq!(after(&mut p, 0, down), [Inhibit(0), Server(0, false)]);
        assert_eq!(after(&mut p, 0, inhibited), [Put(0, 2), Server(0, true)]);
    }

    #[test]
    fn a_living_server_rests_while_the_sorry_server_serves() {
        let inhibited = Member {
            inhibit: true,
            ..alive(1)
        };
        let (mut p, _) = pool(2, 0, true, &[inhibited, inhibited]);
        let down = Member {
            alive: false,
            ..inhibited
        };
        let out = after(&mut p, 0, down);
        let lost = [Server(0, false), Sorry(true), Inhibit(0), Rest(1)];
        assert_eq!(out[..4], lost);
        assert_eq!(p.placed(1), Some(Rest(1)));
        let out = after(&mut p, 0, inhibited);
        let gained = [Server(0, true), Put(0, 1), Put(1, 1), Sorry(false)];
        assert_eq!(out[..4], gained);
    }

    #[test]
    fn a_drain_counts_as_a_loss() {
        let (mut p, _) = pool(2, 0, false, &[alive(1), alive(1)]);
        let drained = Member {
            weight: 0,
            ..alive(1)
        };
        let mut out = Vec::new();
        let quorum = super::Quorum {
            quorum: 2,
            hysteresis: 0,
            sorry: false,
        };
        p.reload(quorum, &[(drained, Some(0)), (alive(1), Some(1))], &mut out);
        assert_eq!(out, [Put(0, 0), Quorum(false, 1)]);
    }

    #[test]
    fn a_quorum_beyond_all_weights_is_their_sum() {
        let (p, _) = pool(10, 0, false, &[alive(1), alive(1)]);
        assert!(p.has_quorum());
    }

    #[test]
    fn a_quorum_that_is_cut_down_leaves_room_for_the_hysteresis() {
        // 3 with hysteresis 2 is gained at 5, all that there is, and lost below 1: at 0.
        let members = [alive(1), alive(4)];
        let (mut p, out) = pool(10, 2, false, &members);
        assert_eq!(p.needs().quorum, 3);
        assert_eq!(out.last(), Some(&Quorum(true, 5)));
        assert_eq!(after(&mut p, 1, dead(4)), [Remove(1), Server(1, false)]);
        let out = after(&mut p, 0, dead(1));
        assert_eq!(out, [Remove(0), Server(0, false), Quorum(false, 0)]);
    }

    #[test]
    fn no_weight_is_no_quorum_whatever_is_needed() {
        // All servers together weigh no more than the hysteresis.
        let (mut p, out) = pool(10, 5, false, &[alive(5)]);
        assert_eq!(p.needs().quorum, 0);
        assert_eq!(out.last(), Some(&Quorum(true, 5)));
        let out = after(&mut p, 0, dead(5));
        assert_eq!(out, [Remove(0), Server(0, false), Quorum(false, 0)]);
        // Servers that weigh nothing.
        let (_, out) = pool(1, 0, true, &[alive(0)]);
        assert_eq!(out.last(), Some(&Quorum(false, 0)));
    }

    #[test]
    fn a_reload_with_other_bounds_is_judged_by_the_rule_of_gaining() {
        let members: Vec<Member> = (0..6).map(|_| alive(1)).collect();
        let (mut p, _) = pool(3, 1, false, &members);
        for index in 0..3 {
            after(&mut p, index, dead(1));
        }
        assert!(p.has_quorum(), "3 is not below 2");
        let same: Vec<(Member, Option<Index>)> = (0..6)
            .map(|i| (if i < 3 { dead(1) } else { alive(1) }, Some(i)))
            .collect();
        let mut out = Vec::new();
        let quorum = |quorum, sorry| super::Quorum {
            quorum,
            hysteresis: 1,
            sorry,
        };
        p.reload(quorum(3, true), &same, &mut out);
        assert_eq!(out, [], "with the same bounds 3 is not below 2");
        p.reload(quorum(4, true), &same, &mut out);
        let lost = out.last().copied();
        assert_eq!(lost, Some(Quorum(false, 3)), "with others 3 is below 5");
        out.clear();
        p.reload(quorum(3, true), &same, &mut out);
        assert_eq!(out, [], "and stays lost: it is below 4");
    }

    #[test]
    fn a_drain_within_the_hysteresis_is_no_loss() {
        let members: Vec<Member> = (0..6).map(|_| alive(1)).collect();
        let (mut p, _) = pool(3, 1, true, &members);
        let quorum = super::Quorum {
            quorum: 3,
            hysteresis: 1,
            sorry: true,
        };
        let mut after_drains_of = |drained: usize| {
            let weight = |i| u32::from(i >= drained);
            let member = |i| Member {
                weight: weight(i),
                ..alive(1)
            };
            let all: Vec<_> = (0..6).map(|i| (member(i), Some(i))).collect();
            let mut out = Vec::new();
            p.reload(quorum, &all, &mut out);
            out.retain(|action| matches!(action, Quorum(..) | Sorry(_)));
            out
        };
        // Lost below 2, gained at 4.
        assert_eq!(after_drains_of(3), []);
        assert_eq!(after_drains_of(4), []);
        assert_eq!(after_drains_of(5), [Sorry(true), Quorum(false, 1)]);
        assert_eq!(after_drains_of(3), []);
        assert_eq!(after_drains_of(2), [Sorry(false), Quorum(true, 4)]);
    }

    #[test]
    fn a_reload_touches_only_what_changed() {
        let (mut p, _) = pool(1, 0, true, &[alive(1), alive(2)]);
        let mut out = Vec::new();
        let quorum = super::Quorum {
            quorum: 1,
            hysteresis: 0,
            sorry: true,
        };
        // The first is gone, the second is the first now, and one is new.
        p.reload(quorum, &[(alive(2), Some(1)), (alive(7), None)], &mut out);
        assert_eq!(out, [Put(1, 7)]);
        out.clear();
        p.reload(quorum, &[(dead(2), Some(0))], &mut out);
        assert_eq!(out, [Sorry(true), Remove(0), Quorum(false, 0)]);
        out.clear();
        p.reload(quorum, &[(dead(2), Some(0))], &mut out);
        assert_eq!(out, [], "the sorry server serves already");
    }

    #[test]
    fn a_changed_weight_is_an_edit_and_may_cost_the_quorum() {
        let (mut p, _) = pool(2, 0, false, &[alive(3), alive(0)]);
        assert_eq!(after(&mut p, 0, alive(2)), [Put(0, 2)]);
        assert_eq!(after(&mut p, 0, alive(2)), []);
        assert_eq!(after(&mut p, 0, alive(0)), [Put(0, 0), Quorum(false, 0)]);
    }
}
