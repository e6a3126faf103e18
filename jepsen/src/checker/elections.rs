//! Who led: terms rise, each has one leader, and without a fault there is no election.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Demands, Verdict, at, nemesis, node};
use crate::history::{Act, Event};

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut leaders: BTreeMap<u64, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut highest = 0;
    for seen in nemesis(events, Act::Leader) {
        let Some(term) = seen.value.get("term").and_then(serde_json::Value::as_u64) else { continue };
        let (name, at) = (node(seen), at(seen));
        if term < highest {
            problems.push(format!("term {term} at {at}, after term {highest}"));
        }
        highest = highest.max(term);
        if let Some(other) = leaders.insert(term, name).filter(|other| *other != name) {
            problems.push(format!("term {term} had two leaders: {other}, and at {at} {name}"));
        }
    }
    let terms = leaders.last_key_value().zip(leaders.first_key_value()).map_or(0, |(last, first)| last.0 - first.0);
    if demands.is_quiet && terms > 0 {
        problems.push(format!("{terms} elections without a fault"));
    }
    let looks = nemesis(events, Act::Leader).count();
    if demands.is_quiet && looks < 2 {
        problems.push("nobody looked who leads".to_owned());
    }
    Verdict::new("elections", json!({"elections": terms, "looks": looks}), problems)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::demands;
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::{Line, history};

    fn is_good(seen: &[(&'static str, u64)], is_quiet: bool) -> bool {
        let look = |(second, (name, term)): (usize, &(&'static str, u64))| -> Line<'static> {
            (second as f64, None, Kind::Info, Act::Leader, "", *name, json!({"term": term}))
        };
        let lines: Vec<Line<'_>> = seen.iter().enumerate().map(look).collect();
        check(&history(&lines), &Demands { is_quiet, ..demands() }).is_good
    }

    // A change of term fails a quiet run; two leaders in a term and terms that fall fail every run; a quiet run at
    // which nobody looked proves nothing.
    #[test]
    fn table() {
        assert!(is_good(&[("a-1", 3), ("a-1", 3)], true));
        assert!(!is_good(&[("a-1", 3), ("a-1", 4)], true));
        assert!(!is_good(&[("a-1", 3), ("b-1", 5), ("b-1", 5)], true));
        assert!(!is_good(&[("a-1", 3)], true));
        assert!(!is_good(&[], true));
        assert!(is_good(&[("a-1", 3), ("b-1", 5)], false));
        assert!(!is_good(&[("a-1", 3), ("b-1", 3)], false));
        assert!(!is_good(&[("a-1", 5), ("b-1", 3)], false));
        assert!(
            !check(&history(&[(0.0, None, Kind::Info, Act::Leader, "", "a-1", Value::Null)]), &{
                Demands { is_quiet: true, ..demands() }
            })
            .is_good
        );
    }
}
