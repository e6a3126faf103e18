//! While a majority is untouched, a write that is begun after a fault soon succeeds. Whichever it is and whoever begins
//! it: clients that push keep their connections through the balancer, so that all of them may wait at the one node that
//! was hit, while others write at the majority.

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, faults, nemesis, pairs};
use crate::history::{Act, Event};

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let allowed = demands.available_max_ms.saturating_mul(1_000_000);
    // the end of the load: who begins nothing more can't be waited for
    let over = nemesis(events, Act::Load).nth(1).map_or(0, |end| end.time);
    let writes: Vec<Pair<'_>> = pairs(events, &Act::WRITES).into_iter().filter(Pair::is_ok).collect();
    let (mut problems, mut took_ms, mut unjudged) = (Vec::new(), Vec::new(), 0);
    let windows = faults::windows(events);
    let judged = windows
        .iter()
        .filter(|window| window.outcome == Some("installed") && window.begun.get("safe") == Some(&Value::Bool(true)));
    for window in judged {
        let begun_after = writes.iter().filter(|write| write.invoke.time >= window.installed);
        let first = begun_after.filter_map(|write| Some(write.end?.time)).min();
        match first {
            Some(end) if end - window.installed <= allowed => took_ms.push((end - window.installed) / 1_000_000),
            _ if window.installed.saturating_add(allowed) > over => unjudged += 1,
            _ => {
                let after = std::time::Duration::from_nanos(window.installed).as_secs_f64();
                let first_ms = first.map(|end| (end - window.installed) / 1_000_000);
                let (kind, nodes) = (window.kind, window.nodes.join(" "));
                let first = first_ms.map_or("never".to_owned(), |ms| format!("after {ms} ms"));
                problems.push(format!("{kind} {nodes} at {after:.3} s: the next write begun succeeded {first}"));
            }
        }
    }
    took_ms.sort_unstable();
    let figures = json!({
        "judged": took_ms.len() + problems.len(),
        "median_ms": took_ms.get(took_ms.len() / 2),
        "longest_ms": took_ms.last(),
        "too_near_the_end": unjudged,
    });
    Verdict::new("available", figures, problems)
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::{Line, history};

    /// A fault at 10 s under load until `over`, and pushes of blobs of `(begun, ended)`.
    fn verdict(is_safe: bool, outcome: &str, over: f64, writes: &[(f64, f64)]) -> Verdict {
        let of_blobs: Vec<_> = writes.iter().map(|(begun, ended)| (Act::PutBlob, *begun, *ended)).collect();
        verdict_of(is_safe, outcome, over, &of_blobs)
    }

    fn verdict_of(is_safe: bool, outcome: &str, over: f64, done: &[(Act, f64, f64)]) -> Verdict {
        let fault =
            |outcome: &str| json!({"fault": 1, "kind": "kill", "nodes": ["a-1"], "safe": is_safe, "outcome": outcome});
        let mut lines: Vec<Line<'_>> = vec![
            (0.0, None, Kind::Info, Act::Load, "", "", Value::Null),
            (9.0, None, Kind::Invoke, Act::Inject, "", "", fault("")),
            (10.0, None, Kind::Info, Act::Inject, "", "", fault(outcome)),
            (over, None, Kind::Info, Act::Load, "", "", Value::Null),
        ];
        for (number, (act, begun, ended)) in done.iter().enumerate() {
            let process = Some(number as u64);
            lines.push((*begun, process, Kind::Invoke, *act, "r:t", "", Value::Null));
            lines.push((*ended, process, Kind::Ok, *act, "r:t", "", Value::Null));
        }
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        check(&history(&lines), &demands())
    }

    // Only a write that was begun after the fault shows anything, and only in time.
    #[test]
    fn table() {
        let soon = verdict(true, "installed", 60.0, &[(10.5, 12.0)]);
        assert!(soon.is_good && soon.figures["longest_ms"] == 2000, "{:?}", soon.figures);
        assert!(!verdict(true, "installed", 60.0, &[]).is_good);
        assert!(!verdict(true, "installed", 60.0, &[(9.5, 12.0)]).is_good, "it was under way before");
        let late = verdict(true, "installed", 60.0, &[(10.5, 25.0)]);
        assert!(late.problems[0].contains("kill a-1 at 10.000 s") && late.problems[0].contains("after 15000 ms"));
        assert!(verdict(true, "installed", 15.0, &[]).is_good, "the load ended before");
        assert!(verdict(false, "installed", 60.0, &[]).is_good, "a majority was hit");
        assert!(verdict(true, "skipped", 60.0, &[]).is_good, "nothing was done");
    }

    // Everybody who pushes waits at the node that was hit: any other write shows that the majority works. A read does
    // not.
    #[test]
    fn any_write() {
        let waits = [(Act::PutBlob, 9.9, 22.4), (Act::PutManifest, 9.9, 22.4)];
        let with = |act| verdict_of(true, "installed", 60.0, &[waits[0], waits[1], (act, 10.1, 11.5)]);
        for act in Act::WRITES {
            let soon = with(act);
            assert!(soon.is_good && soon.figures["longest_ms"] == 1500, "{act:?}: {:?}", soon.problems);
        }
        assert!([Act::Pull, Act::Get, Act::ReadWhole, Act::Look, Act::List].into_iter().all(|act| !with(act).is_good));
    }
}
