//! `ip rule`s that choose a table in a way that the mirror does not follow.

use std::collections::BTreeSet;

use dataplane::addr::Family;

use super::message::{Rule, TABLE_LOCAL, TABLE_MAIN};

/// The kernel's last rule leads here; nothing uses it.
const TABLE_DEFAULT: u32 = 253;

/// The rules that are not mirrored, as warnings.
#[derive(Debug, Default)]
pub struct Rules {
    warnings: BTreeSet<String>,
}

impl Rules {
    /// A rule appeared. Returns the warning that it deserves, once.
    pub fn put(&mut self, rule: &Rule, table: Option<u32>) -> Option<String> {
        let warning = warning(rule, table)?;
        self.warnings.insert(warning.clone()).then_some(warning)
    }

    /// A rule is gone. Returns the warning that no longer holds.
    pub fn remove(&mut self, rule: &Rule, table: Option<u32>) -> Option<String> {
        let warning = warning(rule, table)?;
        self.warnings.remove(&warning).then_some(warning)
    }

    /// Forgets all; returns what no longer holds.
    pub fn clear(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.warnings)
    }
}

fn warning(rule: &Rule, mirrored: Option<u32>) -> Option<String> {
    // Lookup order is `local`, then the mirrored table: a rule that says so needs no word.
    let expected = [
        Some(0),
        Some(TABLE_LOCAL),
        Some(TABLE_MAIN),
        Some(TABLE_DEFAULT),
        mirrored,
    ];
    if rule.unconditional && expected.contains(&Some(rule.table)) {
        return None;
    }
    let six = if rule.family == Family::V6 { " -6" } else { "" };
    Some(format!(
        "ip{six} rule {}: {} is not mirrored",
        rule.priority, rule.text
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_beyond_the_plain_ones_are_told_and_once() {
        let rule = |table, unconditional| Rule {
            family: Family::V4,
            priority: 5,
            table,
            unconditional,
            text: format!("from 10.0.0.0/8 lookup {table}"),
        };
        let mut rules = Rules::default();
        assert_eq!(rules.put(&rule(TABLE_MAIN, true), None), None);
        assert_eq!(rules.put(&rule(77, true), Some(77)), None);
        let line = "ip rule 5: from 10.0.0.0/8 lookup 77 is not mirrored";
        assert_eq!(rules.put(&rule(77, false), Some(77)).as_deref(), Some(line));
        assert_eq!(rules.put(&rule(77, false), Some(77)), None);
        assert_eq!(
            rules.remove(&rule(77, false), Some(77)).as_deref(),
            Some(line)
        );
        assert_eq!(rules.remove(&rule(77, false), Some(77)), None);
    }
}
