//! No acknowledged push is lost, on no node, and a visible tag always pulls whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, at, key, node, pairs};
use crate::history::{Act, Event};

fn digest(value: &Value) -> Option<&str> {
    value.get("digest")?.as_str()
}

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut problems = Vec::new();
    let pushes = pairs(events, &[Act::PutManifest]);
    let acknowledged: BTreeMap<&str, &str> = pushes
        .iter()
        .filter(|push| push.is_ok())
        .filter_map(|push| Some((key(push.invoke), digest(&push.invoke.value)?)))
        .collect();
    let reads = pairs(events, &[Act::ReadBack]);
    for read in reads.iter().filter(|read| read.is_ok()) {
        let Some(end) = read.end else { continue };
        let wanted = acknowledged.get(key(read.invoke)).copied();
        if digest(&end.value) != wanted {
            let (key, at) = (key(read.invoke), at(end));
            problems.push(format!("{key}: read back at {at} as {}, pushed as {wanted:?}", end.value));
        }
    }
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let finals = pairs(events, &[Act::FinalPull]);
    for pull in &finals {
        judge_final(pull, &acknowledged, &mut seen, &mut problems);
    }
    let whole: BTreeSet<&str> = finals.iter().filter(|pull| is_whole(pull)).map(|pull| key(pull.invoke)).collect();
    for key in acknowledged.keys() {
        if !whole.contains(key) {
            problems.push(format!("{key}: pulled whole from no node at the end, so nothing is proven"));
        }
        for node in &demands.nodes {
            if !seen.contains(&(*key, node.as_str())) {
                problems.push(format!("{key}: never pulled from {node} at the end, so nothing is proven"));
            }
        }
    }
    let figures = json!({
        "acknowledged": acknowledged.len(),
        "unknown": pushes.len() - acknowledged.len(),
        "read_back": reads.len(),
        "final_pulls": finals.len(),
    });
    Verdict::new("lost", figures, problems)
}

/// Whether the whole image was pulled and not its tag read only; histories of before there was a choice say nothing.
fn is_whole(pull: &Pair<'_>) -> bool {
    pull.is_ok() && pull.invoke.value.get("whole").is_none_or(|whole| whole == &Value::Bool(true))
}

fn judge_final<'a>(
    pull: &Pair<'a>,
    acknowledged: &BTreeMap<&str, &str>,
    seen: &mut BTreeSet<(&'a str, &'a str)>,
    problems: &mut Vec<String>,
) {
    let (key, node) = (key(pull.invoke), node(pull.invoke));
    let wanted = acknowledged.get(key).copied();
    let Some(end) = pull.end.filter(|_| pull.is_ok()) else {
        let what = if wanted.is_some() { "LOST, or half of it" } else { "half visible" };
        problems.push(format!("{key}: {what} on {node}: {}", pull.error()));
        return;
    };
    seen.insert((key, node));
    let got = digest(&end.value);
    let pushed = digest(&pull.invoke.value);
    if wanted.is_some() && got != wanted || got.is_some() && got != pushed {
        problems.push(format!("{key}: LOST on {node}: pushed as {wanted:?}, pulled as {got:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::{Line, history};

    /// A push that is acknowledged, read back, and pulled from every node.
    fn good() -> Vec<Line<'static>> {
        let push = json!({"digest": "sha256:1"});
        let (invoke, ok) = (Kind::Invoke, Kind::Ok);
        let mut lines = vec![
            (0.0, Some(1), invoke, Act::PutManifest, "r:t", "", push.clone()),
            (0.1, Some(1), ok, Act::PutManifest, "r:t", "", Value::Null),
            (0.2, Some(1), invoke, Act::ReadBack, "r:t", "", Value::Null),
            (0.3, Some(1), ok, Act::ReadBack, "r:t", "", push.clone()),
        ];
        for (node, at) in [("a-1", 1.0), ("b-1", 2.0), ("c-1", 3.0)] {
            lines.push((at, Some(1), invoke, Act::FinalPull, "r:t", node, push.clone()));
            lines.push((at, Some(1), ok, Act::FinalPull, "r:t", node, push.clone()));
        }
        lines
    }

    fn told(lines: &[Line<'_>]) -> Vec<String> {
        check(&history(lines), &demands()).problems
    }

    #[test]
    fn nothing_lost() {
        assert_eq!(told(&good()), Vec::<String>::new());
    }

    // Each injected damage is seen: a tag that is gone or another one on one node, a pull that fails, a node that was
    // never asked, a stale read by the pusher.
    #[test]
    fn damages() {
        let mut gone = good();
        gone[7].6 = json!({"digest": null});
        assert!(told(&gone)[0].contains("LOST on b-1"));
        let mut other = good();
        other[9].6 = json!({"digest": "sha256:2"});
        assert!(told(&other)[0].contains("LOST on c-1"));
        let mut broken = good();
        broken[5].2 = Kind::Fail;
        assert!(told(&broken)[0].contains("LOST, or half of it on a-1"));
        assert!(told(&good()[..8])[0].contains("never pulled from c-1"));
        let mut shallow = good();
        shallow.iter_mut().filter(|line| line.3 == Act::FinalPull).for_each(|line| line.6["whole"] = json!(false));
        assert!(told(&shallow)[0].contains("pulled whole from no node"));
        let mut stale = good();
        stale[3].6 = json!({"digest": null});
        assert!(told(&stale)[0].contains("read back"));
        let mut unended = good();
        unended.pop();
        assert!(told(&unended)[0].contains("it never ended"));
    }

    // A push nobody knows about may be absent or whole, never half there.
    #[test]
    fn unknown_pushes() {
        let mut unknown = good();
        unknown[1].2 = Kind::Info;
        unknown.drain(2..4);
        unknown.iter_mut().skip(2).for_each(|line| line.1 = Some(2));
        assert_eq!(told(&unknown), Vec::<String>::new());
        unknown[3].6 = json!({"digest": null});
        assert_eq!(told(&unknown), Vec::<String>::new());
        unknown[3].2 = Kind::Fail;
        assert!(told(&unknown)[0].contains("half visible on a-1"));
    }
}
