//! The faults themselves: each kind that the run was for was done in full as often as it had to be, each was
//! undone, and no node reacted to one as none may.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Demands, Verdict};
use crate::history::{Act, Event, Kind};

/// How long a node may take to end when it is told to: what is promised, and a second for the harness to see it.
const STOP_MAX_MS: u64 = 11_000;
/// Reasons that are told for a kind that never came.
const REASONS_MAX: usize = 3;

/// One fault as the history tells it.
#[derive(Clone, Debug)]
pub(crate) struct Window<'a> {
    pub(crate) number: u64,
    pub(crate) kind: &'a str,
    pub(crate) nodes: Vec<&'a str>,
    /// `installed`, `skipped` or `indeterminate`; none when the run broke off in the midst of it.
    pub(crate) outcome: Option<&'a str>,
    /// When it was begun, and when that was done, in nanoseconds.
    pub(crate) from: u64,
    pub(crate) installed: u64,
    /// When it was undone.
    pub(crate) to: Option<u64>,
    /// What was told of its installation and its undoing.
    pub(crate) begun: &'a Value,
    pub(crate) healed: Option<&'a Value>,
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

fn number(event: &Event) -> u64 {
    event.value.get("fault").and_then(Value::as_u64).unwrap_or_default()
}

/// The faults of a history, in order of their beginning.
pub(crate) fn windows(events: &[Event]) -> Vec<Window<'_>> {
    let mut found: BTreeMap<u64, Window<'_>> = BTreeMap::new();
    for event in events.iter().filter(|event| matches!(event.f, Act::Inject | Act::Heal)) {
        let nodes = event.value.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let window = found.entry(number(event)).or_insert_with(|| Window {
            number: number(event),
            kind: text(&event.value, "kind").unwrap_or_default(),
            nodes: nodes.iter().filter_map(Value::as_str).collect(),
            outcome: None,
            from: event.time,
            installed: event.time,
            to: None,
            begun: &event.value,
            healed: None,
        });
        match (event.f, event.kind) {
            (Act::Inject, Kind::Info) => {
                (window.outcome, window.installed) = (text(&event.value, "outcome"), event.time);
                window.begun = &event.value;
            }
            (Act::Heal, Kind::Info) => (window.to, window.healed) = (Some(event.time), Some(&event.value)),
            _ => {}
        }
    }
    let mut windows: Vec<Window<'_>> = found.into_values().collect();
    // what is over at once is healed when it was done
    for window in windows.iter_mut().filter(|window| MOMENTS.contains(&window.kind)) {
        window.to = Some(window.installed);
    }
    windows
}

/// Kinds that leave nothing to undo.
const MOMENTS: [&str; 5] = ["transfer-leader", "restart", "restart-rolling", "rot-blob", "upgrade"];

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let windows = windows(events);
    let mut problems = Vec::new();
    for (kind, wanted) in &demands.faults {
        let of_kind: Vec<&Window<'_>> = windows.iter().filter(|window| window.kind == kind).collect();
        let done = of_kind.iter().filter(|window| window.outcome == Some("installed")).count();
        if done < *wanted as usize {
            let reasons: Vec<&str> = of_kind.iter().filter_map(|window| text(window.begun, "reason")).collect();
            let reasons = reasons.into_iter().take(REASONS_MAX).collect::<Vec<_>>().join("; ");
            problems.push(format!("{kind} was done {done} times in full, of {wanted}: {reasons}"));
        }
    }
    problems.extend(windows.iter().flat_map(wrong));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for window in &windows {
        let outcome = window.outcome.unwrap_or("broken off");
        *counts.entry(format!("{} {outcome}", window.kind)).or_default() += 1;
    }
    Verdict::new(
        "faults",
        json!({"faults": windows.len(), "outcomes": counts, "reactions": reactions(&windows)}),
        problems,
    )
}

/// What is wrong with one fault.
fn wrong(window: &Window<'_>) -> Vec<String> {
    let (kind, nodes, number) = (window.kind, window.nodes.join(" "), window.number);
    let mut found = Vec::new();
    if window.outcome.is_none() {
        found.push(format!("{kind} {nodes} (fault {number}) broke off"));
    }
    if window.outcome == Some("installed") && window.to.is_none() {
        found.push(format!("{kind} {nodes} (fault {number}) was never undone"));
    }
    if let Some(problem) = window.healed.and_then(|healed| text(healed, "problem")) {
        found.push(format!("{kind} {nodes} (fault {number}): {problem}"));
    }
    let stop_ms = window.begun.get("stop_ms").and_then(Value::as_u64).unwrap_or_default();
    if stop_ms > STOP_MAX_MS {
        found.push(format!("{kind} {nodes} (fault {number}): it took {stop_ms} ms to end"));
    }
    found
}

/// How nodes took damage: how often each reaction was seen.
fn reactions(windows: &[Window<'_>]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for window in windows {
        let Some(healed) = window.healed else { continue };
        let ended = healed.get("ended").is_some().then_some("ended by itself");
        if let Some(reaction) = text(healed, "reaction").or(ended) {
            *counts.entry(format!("{} {reaction}", window.kind)).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::testing::{Line, history};

    fn line(at: f64, kind: Kind, act: Act, more: &Value) -> Line<'static> {
        let mut value = json!({"fault": 1, "kind": "io-error", "nodes": ["a-1"], "safe": true});
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more.clone());
        }
        (at, None, kind, act, "", "", value)
    }

    fn good() -> Vec<Line<'static>> {
        vec![
            line(1.0, Kind::Invoke, Act::Inject, &Value::Null),
            line(1.1, Kind::Info, Act::Inject, &json!({"outcome": "installed"})),
            line(5.0, Kind::Invoke, Act::Heal, &Value::Null),
            line(6.0, Kind::Info, Act::Heal, &json!({"ended": "exit status: 1"})),
        ]
    }

    fn told(lines: &[Line<'_>], wanted: u32) -> String {
        let faults = BTreeMap::from([("io-error".to_owned(), wanted)]);
        check(&history(lines), &Demands { faults, ..demands() }).problems.join("; ")
    }

    #[test]
    fn done_and_undone() {
        assert_eq!(told(&good(), 1), "");
        let events = history(&good());
        let windows = windows(&events);
        assert_eq!((windows[0].from, windows[0].installed), (1_000_000_000, 1_100_000_000));
        assert_eq!(windows[0].to, Some(6_000_000_000));
        assert_eq!(reactions(&windows), BTreeMap::from([("io-error ended by itself".to_owned(), 1)]));
    }

    // Each way in which a run did not have its fault, or a node took it wrongly, is told.
    #[test]
    fn damages() {
        assert!(told(&good(), 2).contains("done 1 times in full, of 2"));
        assert!(told(&[], 1).contains("done 0 times"));
        let mut skipped = good();
        skipped[1] = line(1.1, Kind::Info, Act::Inject, &json!({"outcome": "skipped", "reason": "it needs root"}));
        assert!(told(&skipped, 1).contains("it needs root"));
        let mut perhaps = good();
        perhaps[1] = line(1.1, Kind::Info, Act::Inject, &json!({"outcome": "indeterminate", "reason": "503"}));
        assert!(told(&perhaps, 1).contains("done 0 times in full, of 1: 503"));
        assert!(told(&good()[..2], 1).contains("never undone"));
        assert!(told(&good()[..1], 1).contains("broke off"));
        let mut went_on = good();
        went_on[3] = line(6.0, Kind::Info, Act::Heal, &json!({"problem": "it went on"}));
        assert!(told(&went_on, 1).contains("it went on"));
        let mut slow = good();
        slow[1] = line(1.1, Kind::Info, Act::Inject, &json!({"outcome": "installed", "stop_ms": 20_000}));
        assert!(told(&slow, 1).contains("20000 ms to end"));
    }
}
