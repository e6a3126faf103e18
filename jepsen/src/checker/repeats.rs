//! No client that repeats three times fails; where faults last longer than its repeats, failures are counted only.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Demands, Verdict, at, key, pairs};
use crate::history::{Act, Event};

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let steps = pairs(events, &[Act::PutBlob, Act::PutManifest, Act::ReadBack]);
    let mut problems = Vec::new();
    let mut tries: BTreeMap<u64, u64> = BTreeMap::new();
    for step in &steps {
        let count = step.end.and_then(|end| end.value.get("tries")?.as_u64()).unwrap_or(1);
        *tries.entry(count).or_default() += 1;
        if !step.is_ok() {
            let (f, key, at) = (step.invoke.f, key(step.invoke), at(step.invoke));
            problems.push(format!("{f:?} {key} begun at {at} failed after {count} tries: {}", step.error()));
        }
    }
    let figures = json!({"steps": steps.len(), "steps_by_tries": tries, "failed": problems.len()});
    if demands.may_fail_clients {
        problems.clear();
    }
    Verdict::new("repeats", figures, problems)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::demands;
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::history;

    // A step that failed, whether for sure or perhaps, is told; one that needed repeats is counted.
    #[test]
    fn failures() {
        for (end, is_good) in [(Kind::Ok, true), (Kind::Fail, false), (Kind::Info, false)] {
            let events = history(&[
                (0.0, Some(1), Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null),
                (4.0, Some(1), end, Act::PutBlob, "r:t", "", json!({"tries": 3})),
            ]);
            let verdict = check(&events, &demands());
            assert_eq!(verdict.is_good, is_good, "{end:?}");
            assert!(check(&events, &Demands { may_fail_clients: true, ..demands() }).is_good);
            assert_eq!(verdict.figures["failed"], u64::from(!is_good));
            assert_eq!(verdict.figures["steps_by_tries"], json!({"3": 1}));
        }
        let unended = history(&[(0.0, Some(1), Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null)]);
        assert!(!check(&unended, &demands()).is_good);
    }
}
