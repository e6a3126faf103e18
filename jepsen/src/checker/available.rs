//! While a majority is untouched, a write that is begun after a fault soon succeeds.

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, faults, nemesis, pairs};
use crate::history::{Act, Event};

/// The writes that are waited for.
const WRITES: [Act; 5] = [Act::PutBlob, Act::PutManifest, Act::PushImage, Act::Untag, Act::DeleteImage];

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let allowed = demands.available_max_ms.saturating_mul(1_000_000);
    // the end of the load: who begins nothing more can't be waited for
    let over = nemesis(events, Act::Load).nth(1).map_or(0, |end| end.time);
    let writes: Vec<Pair<'_>> = pairs(events, &WRITES).into_iter().filter(Pair::is_ok).collect();
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

    /// A fault at 10 s under load until `over`, and writes of `(begun, ended)`.
    fn verdict(is_safe: bool, outcome: &str, over: f64, writes: &[(f64, f64)]) -> Verdict {
        let fault =
            |outcome: &str| json!({"fault": 1, "kind": "kill", "nodes": ["a-1"], "safe": is_safe, "outcome": outcome});
        let mut lines: Vec<Line<'_>> = vec![
            (0.0, None, Kind::Info, Act::Load, "", "", Value::Null),
            (9.0, None, Kind::Invoke, Act::Inject, "", "", fault("")),
            (10.0, None, Kind::Info, Act::Inject, "", "", fault(outcome)),
            (over, None, Kind::Info, Act::Load, "", "", Value::Null),
        ];
        for (number, (begun, ended)) in writes.iter().enumerate() {
            let process = Some(number as u64);
            lines.push((*begun, process, Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null));
            lines.push((*ended, process, Kind::Ok, Act::PutBlob, "r:t", "", Value::Null));
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
}
