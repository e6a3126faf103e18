//! Pulls by digest never fail at a node that lives and hears whoever leads: cut off from it, a node can't know what was
//! pushed since. But for two losses at once: when a node has just come back without what it held, and another one is
//! hit, some blobs are on none that can be reached, and are answered with 503 until that one is back.

use serde_json::{Value, json};

use super::faults::Window;
use super::{Verdict, at, key, nemesis, node, pairs};
use crate::history::{Act, Event};

/// How long a failed pull may have been connected to the leader nevertheless, in nanoseconds: an election, or until a
/// connection is made again.
const CONNECTED_MAX: u64 = 3_000_000_000;

/// How long a node that came back empty is filled again: what it held may have one other copy until then, nanoseconds.
const FILLS_MAX: u64 = 30_000_000_000;

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

/// Since when a node was hit while another one was being filled, and until when.
fn thin(events: &[Event], downs: &[(&str, u64, u64)]) -> Vec<(u64, u64)> {
    let is_new = |start: &&Event| start.value["as"] == "a new node";
    let emptied: Vec<&Event> = nemesis(events, Act::Start).filter(is_new).collect();
    let fills = |name: &str, from: u64| {
        let just_before = |start: &&Event| start.time <= from && from - start.time <= FILLS_MAX;
        emptied.iter().copied().filter(just_before).any(|start| node(start) != name)
    };
    downs.iter().filter(|(name, from, _)| fills(name, *from)).map(|(_, from, to)| (*from, *to)).collect()
}

/// The end of a node's address: `portolan dev` gives 127.*region*.*zone*.*node* to the node that it calls b-1.
fn ending(name: &str) -> Option<String> {
    let (zone, number) = name.split_once('-')?;
    let &[letter] = zone.as_bytes() else { return None };
    Some(format!(".{}.{number}", letter.checked_sub(b'a')? + 1))
}

/// Whether a fault drops all packets of one direction between two nodes.
fn cuts(window: &Window<'_>, one: &str, other: &str) -> bool {
    let (Some(one), Some(other)) = (ending(one), ending(other)) else { return false };
    let rules = window.begun.get("rules").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    rules.iter().filter_map(Value::as_str).filter(|rule| !rule.contains("--probability")).any(|rule| {
        let mut words = rule.split(' ');
        let mut behind = |flag| words.by_ref().skip_while(|word| *word != flag).nth(1).unwrap_or_default();
        let (from, to) = (behind("-s"), behind("-d"));
        from.ends_with(&one) && to.ends_with(&other) || from.ends_with(&other) && to.ends_with(&one)
    })
}

/// For how long of the time `from` to `to` a node was cut off from who led then.
fn cut_off(events: &[Event], windows: &[Window<'_>], name: &str, from: u64, to: u64) -> u64 {
    let leaders: Vec<(u64, &str)> = nemesis(events, Act::Leader).map(|seen| (seen.time, node(seen))).collect();
    let mut times = Vec::new();
    for (at, (since, leader)) in leaders.iter().enumerate() {
        let until = leaders.get(at + 1).map_or(u64::MAX, |next| next.0);
        let cutting = windows.iter().filter(|window| cuts(window, name, leader));
        times.extend(cutting.map(|window| {
            let begins = from.max(*since).max(window.from);
            (begins, to.min(until).min(window.to.unwrap_or(u64::MAX)))
        }));
    }
    times.sort_unstable();
    let (mut sum, mut counted_to) = (0, 0);
    for (begins, ends) in times {
        sum += ends.saturating_sub(begins.max(counted_to));
        counted_to = counted_to.max(ends);
    }
    sum
}

pub(super) fn check(events: &[Event]) -> Verdict {
    let (downs, windows) = (downs(events), super::faults::windows(events));
    let (pulls, thin) = (pairs(events, &[Act::Pull]), thin(events, &downs));
    let (mut at_dead, mut at_cut_off, mut of_thin, mut slowest_ms) = (0u64, 0u64, 0u64, 0);
    let mut problems = Vec::new();
    for pull in &pulls {
        let ended = pull.end.map_or(u64::MAX, |end| end.time);
        let was_down = |(name, from, to): &(&str, u64, u64)| {
            *name == node(pull.invoke) && *from <= ended && pull.invoke.time <= *to
        };
        let was_cut_off = || {
            let cut = cut_off(events, &windows, node(pull.invoke), pull.invoke.time, ended);
            let connected = (ended - pull.invoke.time).saturating_sub(cut);
            cut >= connected && connected <= CONNECTED_MAX
        };
        let is_of_thin = || {
            let overlaps = |(from, to): &(u64, u64)| *from <= ended && pull.invoke.time <= *to;
            pull.error().starts_with("503 ") && thin.iter().any(overlaps)
        };
        if pull.is_ok() {
            slowest_ms = slowest_ms.max((ended - pull.invoke.time) / 1_000_000);
        } else if downs.iter().any(was_down) {
            at_dead += 1;
        } else if was_cut_off() {
            at_cut_off += 1;
        } else if is_of_thin() {
            of_thin += 1;
        } else {
            let (key, node, at) = (key(pull.invoke), node(pull.invoke), at(pull.invoke));
            problems.push(format!("{key} from {node}, which lived, at {at}: {}", pull.error()));
        }
    }
    let figures = json!({
        "pulls": pulls.len(), "failed_at_dead_nodes": at_dead, "failed_cut_off_from_the_leader": at_cut_off,
        "failed_when_a_node_was_empty_and_another_hit": of_thin, "slowest_ms": slowest_ms
    });
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

    // A blob may be out of reach while a node is hit that is not the one that was emptied just before; with 503, and
    // no longer.
    #[test]
    fn two_losses() {
        let problems = |emptied: f64, at: f64, answer: &str| {
            let mut lines = vec![
                (emptied, None, Kind::Info, Act::Start, "", "c-1", json!({"as": "a new node"})),
                (50.0, None, Kind::Info, Act::Kill, "", "b-1", Value::Null),
                (53.0, None, Kind::Info, Act::Ready, "", "b-1", Value::Null),
                (at, Some(1), Kind::Invoke, Act::Pull, "r@d", "a-1", Value::Null),
                (at + 0.5, Some(1), Kind::Info, Act::Pull, "r@d", "a-1", Value::Null),
            ];
            lines.sort_by(|one, other| one.0.total_cmp(&other.0));
            let mut events = history(&lines);
            events
                .iter_mut()
                .filter(|event| event.f == Act::Pull)
                .for_each(|event| event.error = Some(answer.to_owned()));
            check(&events).problem_count
        };
        assert_eq!(problems(48.0, 51.0, "503 /v2/r/blobs/d"), 0);
        assert_eq!(problems(48.0, 51.0, "404 /v2/r/blobs/d"), 1, "never absent");
        assert_eq!(problems(48.0, 48.5, "503 /v2/r/blobs/d"), 1, "before the other one was hit");
        assert_eq!(problems(48.0, 54.0, "503 /v2/r/blobs/d"), 1, "both are back");
        assert_eq!(problems(10.0, 51.0, "503 /v2/r/blobs/d"), 1, "it has been filled long since");
    }

    /// A pull from b-1 that fails, between the given times; from 5 to 20 s a link is cut, of which c-1, who leads until
    /// a-1 does from 15 s on, is one end.
    fn fails_beside(rule: &str, from: f64, to: f64) -> bool {
        let fault = json!({
            "fault": 1, "kind": "ring", "nodes": ["c-1"], "outcome": "installed", "rules": [rule]
        });
        let mut lines = vec![
            (1.0, None, Kind::Info, Act::Leader, "", "c-1", json!({"term": 1})),
            (5.0, None, Kind::Info, Act::Inject, "", "", fault.clone()),
            (15.0, None, Kind::Info, Act::Leader, "", "a-1", json!({"term": 2})),
            (20.0, None, Kind::Info, Act::Heal, "", "", fault),
            (20.1, None, Kind::Info, Act::Ready, "", "c-1", Value::Null),
            (from, Some(1), Kind::Invoke, Act::Pull, "r@d", "b-1", Value::Null),
            (to, Some(1), Kind::Info, Act::Pull, "r@d", "b-1", Value::Null),
        ];
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        check(&history(&lines)).is_good
    }

    // Forgiven is a node that does not hear the leader, whichever direction is cut, but for the time of an election.
    #[test]
    fn cut_off_from_the_leader() {
        let ways = ["-s 127.9.3.1 -d 127.9.2.1", "-s 127.9.2.1 -d 127.9.3.1 -p tcp --dport 7001"];
        for way in ways {
            assert!(fails_beside(way, 5.5, 14.5), "{way}");
            assert!(fails_beside(way, 7.0, 17.0), "{way}: the next leader is just elected");
            assert!(!fails_beside(way, 1.2, 4.0), "{way}: before it");
            assert!(!fails_beside(way, 3.0, 6.0), "{way}: it was connected most of the time");
            assert!(!fails_beside(way, 10.0, 19.0), "{way}: it heard the next leader");
        }
        assert!(!fails_beside("-s 127.9.3.1 -d 127.9.1.1", 5.5, 14.5), "another node is cut off");
        let chance = format!("{} -m statistic --mode random --probability 0.20", ways[0]);
        assert!(!fails_beside(&chance, 5.5, 14.5), "most packets arrive");
    }
}
