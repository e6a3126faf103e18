//! Never a wrong byte: what is read whole hashes to its digest, what is read in part is that part of what was sent. A
//! read may fail; what was acknowledged may not be absent.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, at, key, node, pairs};
use crate::history::{Act, Event, Kind};

/// What is done to blobs.
pub(super) const ACTS: [Act; 4] = [Act::Upload, Act::Mount, Act::ReadWhole, Act::ReadRange];

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut problems = Vec::new();
    // when each blob was first acknowledged
    let mut acknowledged: BTreeMap<&str, u64> = BTreeMap::new();
    let pushes = pairs(events, &[Act::Upload, Act::Mount]);
    for push in pushes.iter().filter(|push| push.is_ok()) {
        let end = push.end.map_or(u64::MAX, |end| end.index);
        let first = acknowledged.entry(key(push.invoke)).or_insert(end);
        *first = (*first).min(end);
    }
    let known = |push: &Pair<'_>| acknowledged.get(key(push.invoke)).is_some_and(|index| *index < push.invoke.index);
    let reads = pairs(events, &[Act::ReadWhole, Act::ReadRange]);
    let (mut whole, mut parts, mut failed) = (0u64, 0u64, 0u64);
    let mut readers: BTreeSet<&str> = BTreeSet::new();
    for read in &reads {
        let Some(end) = read.end.filter(|end| end.kind != Kind::Info) else {
            failed += 1;
            continue;
        };
        let told = match (end.kind, end.value.get("status").and_then(Value::as_u64)) {
            (Kind::Ok, Some(status)) => {
                *(if status == 206 { &mut parts } else { &mut whole }) += 1;
                readers.insert(node(read.invoke));
                compare(&end.value)
            }
            (Kind::Ok, None) => Some("an answer without a status".to_owned()),
            (_, Some(404)) if known(read) => Some("LOST: it was acknowledged, and is absent".to_owned()),
            (_, Some(416)) => Some("a range that is there was refused".to_owned()),
            _ => {
                failed += 1;
                None
            }
        };
        let (key, node, time) = (key(read.invoke), node(read.invoke), at(read.invoke));
        problems.extend(told.map(|told| format!("{key} from {node} at {time}: {told}")));
    }
    for name in demands.nodes.iter().filter(|name| !readers.contains(name.as_str())) {
        problems.push(format!("nothing was read from {name}, so nothing is proven of it"));
    }
    let mounts = pushes.iter().filter(|push| push.is_ok() && push.invoke.f == Act::Mount).count();
    let figures = json!({
        "blobs": acknowledged.len(),
        "mounted": mounts,
        "read_whole": whole,
        "read_in_part": parts,
        "reads_failed": failed,
    });
    Verdict::new("bytes", figures, problems)
}

/// What is wrong with an answer, if something is.
fn compare(value: &Value) -> Option<String> {
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    let (Some(got), Some(want)) = (field("got"), field("want")) else { return Some("no digest was noted".to_owned()) };
    if got != want {
        let size = value.get("size").unwrap_or(&Value::Null);
        return Some(format!("WRONG BYTES: {size} bytes with digest {got} instead of {want}"));
    }
    let (range, wanted) = (field("range"), field("want_range"));
    (range != wanted).then(|| format!("it says it is {range:?}, asked for was {wanted:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::testing::{Line, history};

    /// A blob that is pushed, and read from every node: whole, and in part.
    fn good() -> Vec<Line<'static>> {
        let (invoke, ok) = (Kind::Invoke, Kind::Ok);
        let mut lines = vec![
            (0.0, Some(1), invoke, Act::Upload, "r@d", "", Value::Null),
            (0.1, Some(1), ok, Act::Upload, "r@d", "", Value::Null),
        ];
        for node in ["a-1", "b-1", "c-1"] {
            lines.push((0.2, Some(1), invoke, Act::ReadWhole, "r@d", node, Value::Null));
            let whole = json!({"status": 200, "size": 5, "got": "d", "want": "d"});
            lines.push((0.2, Some(1), ok, Act::ReadWhole, "r@d", node, whole));
        }
        let range = "bytes 1-2/5";
        let part = json!({"status": 206, "size": 2, "got": "p", "want": "p", "range": range, "want_range": range});
        lines.push((0.4, Some(1), invoke, Act::ReadRange, "r@d", "a-1", Value::Null));
        lines.push((0.5, Some(1), ok, Act::ReadRange, "r@d", "a-1", part));
        lines
    }

    fn told(lines: &[Line<'_>]) -> String {
        check(&history(lines), &demands()).problems.join("; ")
    }

    #[test]
    fn all_right() {
        assert_eq!(told(&good()), "");
        let mut failing = good();
        failing[9].2 = Kind::Info;
        failing[9].6 = Value::Null;
        assert_eq!(told(&failing), "", "errors are allowed");
    }

    // Each injected damage is seen: a wrong byte in the whole, in a part, a part of another place, an absent blob, a
    // refused range, a node that nobody read from.
    #[test]
    fn damages() {
        for (line, field, value, words) in [
            (3, "got", "x", "WRONG BYTES"),
            (9, "got", "x", "WRONG BYTES"),
            (9, "range", "bytes 2-3/5", "asked for was"),
            (3, "status", "200", "without a status"),
        ] {
            let mut lines = good();
            lines[line].6[field] = json!(value);
            assert!(told(&lines).contains(words), "{words}: {}", told(&lines));
        }
        for (status, words) in [(404, "LOST"), (416, "was refused")] {
            let mut lines = good();
            (lines[9].2, lines[9].6) = (Kind::Fail, json!({"status": status}));
            assert!(told(&lines).contains(words), "{words}: {}", told(&lines));
        }
        let mut early = good();
        (early[1].2, early[9].2, early[9].6) = (Kind::Fail, Kind::Fail, json!({"status": 404}));
        assert_eq!(told(&early), "", "nobody was told that it is there");
        assert!(told(&good()[..6]).contains("nothing was read from c-1"));
    }
}
