//! Pulls by digest never fail at a node that lives.

use serde_json::json;

use super::{Verdict, at, key, nemesis, node, pairs};
use crate::history::{Act, Event};

/// When nodes were down, or suffered another fault: from then until ready again.
fn downs(events: &[Event]) -> Vec<(&str, u64, u64)> {
    let back = |name: &str, from: u64| {
        let back = nemesis(events, Act::Ready).find(|ready| node(ready) == name && ready.time > from);
        back.map_or(u64::MAX, |ready| ready.time)
    };
    let kills = nemesis(events, Act::Kill).map(|kill| (node(kill), kill.time, back(node(kill), kill.time)));
    let windows = super::faults::windows(events).into_iter().flat_map(|window| {
        // ready again only counts behind the end of the fault
        let hit = move |name| (name, window.from, back(name, window.to.unwrap_or(u64::MAX)));
        window.nodes.into_iter().map(hit).collect::<Vec<_>>()
    });
    kills.chain(windows).collect()
}

pub(super) fn check(events: &[Event]) -> Verdict {
    let downs = downs(events);
    let pulls = pairs(events, &[Act::Pull]);
    let (mut at_dead, mut slowest_ms) = (0u64, 0);
    let mut problems = Vec::new();
    for pull in &pulls {
        let ended = pull.end.map_or(u64::MAX, |end| end.time);
        let was_down = |(name, from, to): &(&str, u64, u64)| {
            *name == node(pull.invoke) && *from <= ended && pull.invoke.time <= *to
        };
        if pull.is_ok() {
            slowest_ms = slowest_ms.max((ended - pull.invoke.time) / 1_000_000);
        } else if downs.iter().any(was_down) {
            at_dead += 1;
        } else {
            let (key, node, at) = (key(pull.invoke), node(pull.invoke), at(pull.invoke));
            problems.push(format!("{key} from {node}, which lived, at {at}: {}", pull.error()));
        }
    }
    let figures = json!({"pulls": pulls.len(), "failed_at_dead_nodes": at_dead, "slowest_ms": slowest_ms});
    Verdict::new("pulls", figures, problems)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::history::Kind;
    use crate::history::testing::history;

    /// A pull that fails, between the given times; b-1 is down from 5 to 8 s, a-1 from 20 s on, c-1 paused from 30
    /// to 41.
    fn fails(from: f64, to: f64, name: &str) -> bool {
        let fault = json!({"fault": 1, "kind": "pause", "nodes": ["c-1"], "outcome": "installed"});
        let mut lines = vec![
            (5.0, None, Kind::Info, Act::Kill, "", "b-1", Value::Null),
            (7.0, None, Kind::Info, Act::Start, "", "b-1", Value::Null),
            (8.0, None, Kind::Info, Act::Ready, "", "b-1", Value::Null),
            (20.0, None, Kind::Info, Act::Kill, "", "a-1", Value::Null),
            (30.0, None, Kind::Invoke, Act::Inject, "", "", fault.clone()),
            (31.0, None, Kind::Info, Act::Inject, "", "", fault.clone()),
            (40.0, None, Kind::Info, Act::Heal, "", "", fault),
            (41.0, None, Kind::Info, Act::Ready, "", "c-1", Value::Null),
            (from, Some(1), Kind::Invoke, Act::Pull, "r@d", name, Value::Null),
            (to, Some(1), Kind::Info, Act::Pull, "r@d", name, Value::Null),
        ];
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        check(&history(&lines)).is_good
    }

    // A failure is forgiven only if the node asked was down at some time of the pull.
    #[test]
    fn table() {
        assert!(!fails(1.0, 2.0, "b-1"), "it lived");
        assert!(!fails(5.5, 6.0, "c-1"), "another one was down");
        assert!(!fails(8.5, 9.0, "b-1"), "it was back");
        assert!(fails(4.5, 5.5, "b-1"), "it was killed meanwhile");
        assert!(fails(6.0, 7.5, "b-1"), "it was down");
        assert!(fails(21.0, 22.0, "a-1"), "it never came back");
        assert!(!fails(19.0, 19.5, "a-1"), "it was not yet down");
        assert!(fails(30.5, 31.0, "c-1") && fails(40.5, 40.6, "c-1"), "it was paused, or not yet well again");
        assert!(!fails(29.0, 29.5, "c-1") && !fails(42.0, 43.0, "c-1"), "it was well");
    }
}
