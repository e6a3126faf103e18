//! Two regions that copy to each other: at the end both name the same, what they name was put and not overwritten
//! since, nothing that was deleted is back, no region ever showed a tag older than it had shown, and comparing found
//! nothing.
//!
//! The clocks of both are those of one machine, so that of two operations, one of which began well after the other had
//! ended, the later one wins.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Pair, Verdict, at, key, nemesis, node, pairs};
use crate::history::{Act, Event, Kind};

pub(super) const ACTS: [Act; 1] = [Act::RegionPut];
/// Two operations this far apart have an order that everybody must see, nanoseconds.
const APART: u64 = 50_000_000;

/// A put or delete that may have happened.
struct Write<'a> {
    /// `None` of a delete.
    digest: Option<&'a str>,
    began: u64,
    /// When it had happened at the latest; none where nobody knows.
    ended: Option<u64>,
    is_ok: bool,
}

pub(super) fn check(events: &[Event]) -> Verdict {
    let writes = writes(events);
    let mut problems = Vec::new();
    let finals = finals(events, &mut problems);
    for (key, regions) in &finals {
        let named: BTreeSet<Option<&str>> = regions.values().copied().collect();
        if regions.len() < 2 {
            problems.push(format!("{key} was not read in both regions at the end"));
        } else if named.len() > 1 {
            problems.push(format!("{key} differs: {regions:?}"));
        }
        let of_key = writes.get(key).map_or(&[][..], Vec::as_slice);
        for digest in named {
            problems.extend(explain(key, digest, of_key).err());
        }
    }
    problems.extend(steps_back(events, &writes));
    problems.extend(broken_images(events));
    problems.extend(comparisons(events));
    let acknowledged = writes.values().flatten().filter(|write| write.is_ok).count();
    let faults = nemesis(events, Act::Inject).filter(|event| event.kind == Kind::Info).count();
    let figures = json!({"acknowledged": acknowledged, "tags": finals.len(), "faults": faults,
        "compared_ms": nemesis(events, Act::Compared).last().map(|event| event.value["ms"].clone())});
    Verdict::new("region", figures, problems)
}

fn writes(events: &[Event]) -> BTreeMap<&str, Vec<Write<'_>>> {
    let mut all: BTreeMap<&str, Vec<Write<'_>>> = BTreeMap::new();
    for pair in pairs(events, &[Act::RegionPut, Act::RegionDelete]) {
        let kind = pair.end.map(|end| end.kind);
        if kind == Some(Kind::Fail) {
            continue;
        }
        let is_ok = kind == Some(Kind::Ok);
        let digest = pair.invoke.value["digest"].as_str();
        let ended = pair.end.filter(|_| is_ok).map(|end| end.time);
        all.entry(key(pair.invoke)).or_default().push(Write { digest, began: pair.invoke.time, ended, is_ok });
    }
    all
}

/// What each region names at the end.
fn finals<'a>(
    events: &'a [Event],
    problems: &mut Vec<String>,
) -> BTreeMap<&'a str, BTreeMap<&'a str, Option<&'a str>>> {
    let mut finals: BTreeMap<&str, BTreeMap<&str, Option<&str>>> = BTreeMap::new();
    for pair in pairs(events, &[Act::RegionFinal]) {
        match pair.end.filter(|end| end.kind == Kind::Ok) {
            Some(end) => {
                let regions = finals.entry(key(pair.invoke)).or_default();
                regions.insert(region(pair.invoke), end.value["digest"].as_str());
            }
            None => problems.push(format!("{} can't be read at the end: {}", key(pair.invoke), pair.error())),
        }
    }
    finals
}

fn region(event: &Event) -> &str {
    node(event).split('/').next().unwrap_or_default()
}

/// Whether what a tag names at the end fits its writes.
fn explain(key: &str, digest: Option<&str>, writes: &[Write<'_>]) -> Result<(), String> {
    let same: Vec<&Write<'_>> = writes.iter().filter(|write| write.digest == digest).collect();
    // the tag never was, if nothing says that it has to be
    let ended = match same.iter().map(|write| write.ended).max() {
        Some(_) if same.iter().any(|write| write.ended.is_none()) => return Ok(()),
        Some(ended) => ended.unwrap_or(0),
        None if digest.is_none() => 0,
        None => return Err(format!("{key} names {digest:?}, which nobody put")),
    };
    let is_later = |write: &&Write<'_>| write.is_ok && write.digest != digest && write.began > ended + APART;
    match writes.iter().find(is_later) {
        Some(later) if digest.is_none() && same.is_empty() => {
            Err(format!("{key} is lost: {:?} was acknowledged and never deleted", later.digest))
        }
        Some(later) => Err(format!(
            "{key} names {digest:?}, although {:?} was acknowledged {} ms after the last write of that had ended",
            later.digest,
            (later.began - ended) / 1_000_000
        )),
        None => Ok(()),
    }
}

/// Reads of one region that show an older put than a read before them.
fn steps_back(events: &[Event], writes: &BTreeMap<&str, Vec<Write<'_>>>) -> Vec<String> {
    let mut seen: BTreeMap<(&str, &str), Vec<(u64, &str)>> = BTreeMap::new();
    let mut problems = Vec::new();
    for pair in pairs(events, &[Act::RegionGet]) {
        let Some(end) = pair.end.filter(|end| end.kind == Kind::Ok) else { continue };
        let Some(digest) = end.value["digest"].as_str() else { continue };
        let of_key = writes.get(key(pair.invoke)).map_or(&[][..], Vec::as_slice);
        let put = |digest: &str| of_key.iter().find(|write| write.digest == Some(digest));
        let Some(own) = put(digest) else {
            problems.push(format!("{} at {} shows {digest}, which nobody put", key(pair.invoke), at(pair.invoke)));
            continue;
        };
        let before = seen.entry((region(pair.invoke), key(pair.invoke))).or_default();
        let is_newer = |(read, shown): &&(u64, &str)| {
            let newer = put(shown).is_some_and(|shown| own.ended.is_some_and(|ended| shown.began > ended + APART));
            *read < pair.invoke.time && *shown != digest && newer
        };
        if let Some((_, shown)) = before.iter().find(is_newer) {
            let (key, at) = (key(pair.invoke), at(pair.invoke));
            problems.push(format!("{key} in {} at {at} shows {digest} after {shown}", region(pair.invoke)));
        }
        before.push((end.time, digest));
    }
    problems
}

fn broken_images(events: &[Event]) -> Vec<String> {
    let is_right = |pair: &Pair<'_>| {
        let digest = pair.end.filter(|end| end.kind == Kind::Ok).and_then(|end| end.value["digest"].as_str());
        digest.is_some_and(|digest| key(pair.invoke).ends_with(digest))
    };
    let blobs = pairs(events, &[Act::RegionBlob]);
    let broken = blobs.iter().filter(|pair| !is_right(pair));
    broken.map(|pair| format!("{} at {}: {}", key(pair.invoke), node(pair.invoke), pair.error())).collect()
}

/// What the regions said when they compared themselves: that they are equal, and that they always were but for what was
/// on its way.
fn comparisons(events: &[Event]) -> Vec<String> {
    let Some(compared) = nemesis(events, Act::Compared).last() else {
        return vec!["the regions did not compare".to_owned()];
    };
    let reports = compared.value["reports"].as_array().map_or(&[][..], Vec::as_slice);
    let judged = |report: &Value| match (report["last"]["clean"].as_bool(), report["differences"].as_u64()) {
        (Some(true), Some(0)) => None,
        (Some(true), found) => Some(format!("{found:?} differences had to be repaired: {report}")),
        _ => Some(format!("a region is not equal to the other: {report}")),
    };
    let mut problems: Vec<String> = reports.iter().filter_map(judged).collect();
    if reports.len() != 2 {
        problems.push(format!("{} regions compared", reports.len()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::{Line, history};

    const NULL: Value = Value::Null;

    fn digest(name: &str) -> Value {
        json!({ "digest": name })
    }

    fn clean() -> Value {
        let report = json!({"last": {"clean": true}, "differences": 0});
        json!({"ms": 5, "reports": [report.clone(), report]})
    }

    /// One operation.
    fn op<'a>(from: f64, to: f64, process: u64, act: Act, node: &'a str, given: Value, got: Value) -> [Line<'a>; 2] {
        [
            (from, Some(process), Kind::Invoke, act, "r:t", node, given),
            (to, Some(process), Kind::Ok, act, "r:t", node, got),
        ]
    }

    fn judge(mut lines: Vec<Line<'_>>, compared: Value) -> Vec<String> {
        lines.push((99.0, None, Kind::Info, Act::Compared, "", "", compared));
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        check(&history(&lines)).problems
    }

    fn story(last: [Value; 2]) -> Vec<Line<'static>> {
        let [one, two] = last;
        [
            op(1.0, 1.1, 1, Act::RegionPut, "r1/a-1", digest("old"), NULL),
            op(2.0, 2.1, 2, Act::RegionPut, "r2/a-1", digest("new"), NULL),
            op(90.0, 90.1, 8, Act::RegionFinal, "r1/a-1", NULL, one),
            op(91.0, 91.1, 9, Act::RegionFinal, "r2/b-1", NULL, two),
        ]
        .concat()
    }

    // The later of two puts in both regions is what must be there.
    #[test]
    fn equal_and_latest() {
        assert_eq!(judge(story([digest("new"), digest("new")]), clean()), Vec::<String>::new());
        let problems = |last| judge(story(last), clean());
        assert!(problems([digest("old"), digest("new")]).iter().any(|told| told.contains("differs")));
        assert!(problems([digest("old"), digest("old")])[0].contains("acknowledged 900 ms after"));
        assert!(problems([digest("other"), digest("other")])[0].contains("nobody put"));
        assert!(problems([json!({"digest": null}), json!({"digest": null})])[0].contains("is lost"));
    }

    // What was deleted later may not be back; what was put after the delete may not be gone.
    #[test]
    fn deletes() {
        let none = || json!({"digest": null});
        let with = |from: f64, last: Value| {
            let delete = op(from, from + 0.1, 3, Act::RegionDelete, "r1/a-1", NULL, NULL);
            judge([story([last.clone(), last]), delete.to_vec()].concat(), clean())
        };
        assert!(with(3.0, none()).is_empty());
        assert!(with(3.0, digest("new"))[0].contains("although None was acknowledged"));
        assert!(with(1.5, digest("new")).is_empty());
        assert!(with(1.5, none())[0].contains("although Some(\"new\")"));
        // at once: either
        assert!(with(2.05, none()).is_empty() && with(2.05, digest("new")).is_empty());
    }

    // A region that showed the later put does not show the earlier one again.
    #[test]
    fn no_step_back() {
        let get = |from: f64, process: u64, node: &'static str, shown: &str| {
            op(from, from + 0.1, process, Act::RegionGet, node, NULL, digest(shown)).to_vec()
        };
        let with = |gets: Vec<Vec<Line<'static>>>| {
            judge([story([digest("new"), digest("new")]), gets.concat()].concat(), clean())
        };
        assert!(with(vec![get(3.0, 4, "r1/a-1", "old"), get(4.0, 4, "r1/b-1", "new")]).is_empty());
        assert!(
            with(vec![get(3.0, 4, "r1/a-1", "new"), get(4.0, 4, "r1/b-1", "old")])[0].contains("shows old after new")
        );
        assert!(with(vec![get(3.0, 4, "r1/a-1", "new"), get(4.0, 4, "r2/b-1", "old")]).is_empty());
        assert!(with(vec![get(3.0, 4, "r1/a-1", "strange")])[0].contains("nobody put"));
    }

    // Regions that are not equal by their own word, or had to be mended, or images that are not whole, are no success.
    #[test]
    fn comparisons_and_blobs() {
        let good = || story([digest("new"), digest("new")]);
        let unclean = json!({"reports": [{"last": {"clean": false}}, {"last": {"clean": true}, "differences": 0}]});
        assert!(judge(good(), unclean)[0].contains("not equal"));
        let mended = json!({"reports": [{"last": {"clean": true}, "differences": 2}]});
        assert_eq!(judge(good(), mended).len(), 2);
        let blob = |got: Value| {
            let mut lines = op(95.0, 95.1, 7, Act::RegionBlob, "r1/a-1", NULL, got);
            lines.iter_mut().for_each(|line| line.4 = "r@sha256:1");
            judge([good(), lines.to_vec()].concat(), clean())
        };
        assert!(blob(digest("sha256:1")).is_empty());
        assert_eq!(blob(digest("sha256:2")).len(), 1);
    }
}
