//! A run that did not meet what it was for proves nothing: enough writes, every fault, an end with all nodes equal, no
//! panic in a log.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Demands, Verdict, nemesis};
use crate::history::{Act, Event, Kind};

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut problems = Vec::new();
    let is_write = |event: &&Event| event.f.is_write() || event.f == Act::Finish;
    let writes = events.iter().filter(is_write).filter(|event| event.kind == Kind::Ok).count() as u64;
    if writes < demands.writes_min {
        problems.push(format!("{writes} acknowledged writes, fewer than {}", demands.writes_min));
    }
    let (kinds, per_s) = count_kinds(events, demands, &mut problems);
    let kills = nemesis(events, Act::Kill).count();
    if kills < demands.kills as usize {
        problems.push(format!("{kills} kills, fewer than {}", demands.kills));
    }
    // a node that was killed twice before it was ready returns once
    let is_back =
        |kill: &&Event| nemesis(events, Act::Ready).any(|back| back.node == kill.node && back.time > kill.time);
    let back = nemesis(events, Act::Kill).filter(is_back).count();
    if back < kills {
        problems.push(format!("{kills} kills, and only {back} returns"));
    }
    let broken = nemesis(events, Act::Broken);
    problems.extend(broken.map(|broken| format!("the run could not go on: {}", broken.value["why"])));
    let suspects = nemesis(events, Act::Converge).filter_map(|end| end.value.get("suspects")?.as_array()).flatten();
    problems.extend(suspects.map(|node| format!("{node} takes no part at the end: it may have lost something")));
    if nemesis(events, Act::Converge).count() == 0 {
        problems.push("the nodes were never seen equal at the end".to_owned());
    }
    let logs: Vec<&Event> = nemesis(events, Act::Logs).collect();
    if logs.is_empty() {
        problems.push("nobody looked into the logs".to_owned());
    }
    let panics = logs.iter().filter_map(|logs| logs.value.get("panics").and_then(Value::as_array)).flatten();
    problems.extend(panics.map(|line| format!("panic: {line}")));
    let figures =
        json!({"writes": writes, "kills": kills, "events": events.len(), "ok_by_kind": kinds, "ok_per_s": per_s});
    Verdict::new("coverage", figures, problems)
}

/// How many operations of each kind were `ok` while the load was on, and how many in a second all together; too few of
/// a kind are a problem.
fn count_kinds(
    events: &[Event],
    demands: &Demands,
    problems: &mut Vec<String>,
) -> (BTreeMap<String, u64>, Option<f64>) {
    let load: Vec<&Event> = nemesis(events, Act::Load).collect();
    let [begin, end] = load[..] else { return (BTreeMap::new(), None) };
    let mut counts: BTreeMap<Act, u64> = demands.kinds.iter().map(|kind| (*kind, 0)).collect();
    let under_load = events.iter().filter(|event| event.time >= begin.time && event.time <= end.time);
    for event in under_load.filter(|event| event.kind == Kind::Ok) {
        *counts.entry(event.f).or_default() += 1;
    }
    let minutes = (end.time - begin.time) as f64 / 60e9;
    for kind in &demands.kinds {
        let (count, wanted) = (counts[kind], demands.kind_per_minute_min * minutes);
        if (count as f64) < wanted {
            problems.push(format!("{count} times {kind:?} in {minutes:.2} minutes, fewer than {wanted:.0}"));
        }
    }
    let all: u64 = counts.values().sum();
    let per_s = (minutes > 0.0).then(|| (all as f64 / (minutes * 60.0) * 10.0).round() / 10.0);
    (counts.into_iter().map(|(kind, count)| (format!("{kind:?}"), count)).collect(), per_s)
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::testing::{Line, history};

    fn good() -> Vec<Line<'static>> {
        let info = Kind::Info;
        vec![
            (0.0, Some(1), Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null),
            (0.1, Some(1), Kind::Ok, Act::PutBlob, "r:t", "", Value::Null),
            (1.0, None, info, Act::Kill, "", "a-1", Value::Null),
            (2.0, None, info, Act::Ready, "", "a-1", Value::Null),
            (3.0, None, info, Act::Converge, "", "", Value::Null),
            (4.0, None, info, Act::Logs, "", "", json!({"panics": []})),
        ]
    }

    // A kind of operation of which the load had too few proves nothing; what came before and after does not count.
    #[test]
    fn kinds() {
        let write = |at: f64, f: Act| -> [Line<'static>; 2] {
            [(at, Some(1), Kind::Invoke, f, "k", "", Value::Null), (at, Some(1), Kind::Ok, f, "k", "", Value::Null)]
        };
        let load = |at: f64| (at, None, Kind::Info, Act::Load, "", "", Value::Null);
        let mut lines = vec![load(0.0)];
        lines.extend([1.0, 2.0, 3.0].into_iter().flat_map(|at| write(at, Act::Put)));
        lines.extend(write(4.0, Act::Get));
        lines.push(load(30.0));
        lines.extend(write(31.0, Act::Get));
        let told = |kind_per_minute_min| {
            let demands = Demands { kinds: vec![Act::Put, Act::Get], kind_per_minute_min, ..demands() };
            let verdict = check(&history(&lines), &demands);
            assert_eq!(verdict.figures["ok_by_kind"], json!({"Put": 3, "Get": 1}));
            assert_eq!(verdict.figures["ok_per_s"], json!(0.1));
            verdict.problems.into_iter().filter(|problem| problem.contains("times")).collect::<Vec<_>>()
        };
        assert_eq!(told(2.0), Vec::<String>::new());
        assert_eq!(told(4.0), ["1 times Get in 0.50 minutes, fewer than 2"]);
        assert_eq!(told(8.0).len(), 2);
    }

    // Whatever is missing from a run is told.
    #[test]
    fn missing() {
        let demands = Demands { kills: 1, writes_min: 1, ..demands() };
        let told = |lines: &[Line<'_>]| check(&history(lines), &demands).problems;
        assert_eq!(told(&good()), Vec::<String>::new());
        for (gone, words) in
            [(1, "fewer than 1"), (2, "0 kills"), (3, "only 0 returns"), (4, "never seen equal"), (5, "into the logs")]
        {
            let mut lines = good();
            lines.remove(gone);
            assert!(told(&lines)[0].contains(words), "{words}: {:?}", told(&lines));
        }
        let mut other = good();
        other[3].5 = "b-1";
        assert!(told(&other)[0].contains("only 0 returns"), "another node came back");
        let mut broken = good();
        broken.push((5.0, None, Kind::Info, Act::Broken, "", "", json!({"why": "a-1 ended"})));
        assert!(told(&broken)[0].contains("a-1 ended"));
        let mut suspect = good();
        suspect[4].6 = json!({"suspects": ["c-1"]});
        assert!(told(&suspect)[0].contains("c-1"));
        let mut panicked = good();
        panicked[5].6 = json!({"panics": ["a-1: thread panicked at x.rs"]});
        assert!(told(&panicked)[0].contains("panicked at x.rs"));
    }
}
