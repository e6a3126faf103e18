//! Two regions that copy to each other: at the end both name the same, what they name was put and not overwritten
//! since, nothing that was deleted is back, no region ever showed a tag older than it had shown, nothing is left aside,
//! and comparing found nothing.
//!
//! Of two operations, one of which began well after the other had ended, the later one wins, as far as the regions'
//! clocks are known (`region_order`). What a region acknowledged between a backup and its loss may be gone, unless the
//! other region has shown it. After a restore, or damage beneath a region, comparing may find, and mend, differences.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::region_order::{Moment, Order, region, set_aside};
use super::{Pair, Verdict, at, key, nemesis, node, pairs, region_conflicts};
use crate::history::{Act, Event, Kind};

pub(super) const ACTS: [Act; 1] = [Act::RegionPut];

/// A put or delete that may have happened.
struct Write<'a> {
    /// `None` of a delete.
    digest: Option<&'a str>,
    region: &'a str,
    began: u64,
    /// When it had happened at the latest; none where nobody knows.
    ended: Option<u64>,
    /// Whether it happened, and must not be forgotten.
    counts: bool,
    /// Whether it happened, and may have been lost with its region.
    is_forgiven: bool,
}

impl Write<'_> {
    /// When it happened; none where nobody knows.
    fn moment(&self) -> Option<Moment<'_>> {
        self.ended.map(|ended| Moment { region: self.region, began: self.began, ended })
    }
}

pub(super) fn check(events: &[Event]) -> Verdict {
    let order = Order::of(events);
    let writes = writes(events, &order);
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
            problems.extend(explain(key, digest, of_key, &order).err());
        }
    }
    problems.extend(steps_back(events, &writes, &order));
    problems.extend(broken_images(events));
    let is_damaged = faults(events).contains_key("drift");
    problems.extend(comparisons(events, order.has_losses() || is_damaged));
    let (aside, left) = set_aside(events, &order);
    problems.extend(left);
    let named = finals.iter().flat_map(|(key, regions)| regions.values().flatten().map(|digest| (*key, *digest)));
    let (conflicts, wrong) = region_conflicts::check(events, &named.collect());
    let (cut, idle) = region_conflicts::cut(events);
    problems.extend(idle);
    // what was damaged or lost beneath a region was put by nobody, and comes back
    if !is_damaged && !order.has_losses() {
        problems.extend(wrong);
    }
    let all = || writes.values().flatten();
    let figures = json!({
        "acknowledged": all().filter(|write| write.counts || write.is_forgiven).count(),
        "tags": finals.len(),
        "faults": faults(events),
        "not_tested": not_tested(events),
        "put_aside": aside,
        "conflicts": conflicts,
        "long_cut": cut,
        "might_be_lost": all().filter(|write| write.is_forgiven).count(),
        "lost": lost(&writes, &finals),
        "compared_ms": nemesis(events, Act::Compared).last().map(|event| event.value["ms"].clone()),
    });
    Verdict::new("region", figures, problems)
}

/// How often each kind of fault was done.
fn faults(events: &[Event]) -> BTreeMap<&str, u64> {
    let done =
        nemesis(events, Act::Inject).filter(|event| event.kind == Kind::Info && event.value["outcome"] != "skipped");
    let mut counts = BTreeMap::new();
    for event in done {
        // histories of before clocks and restores have the kind under another name
        let kind = event.value["kind"].as_str().or(event.value["fault"].as_str()).unwrap_or_default();
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// Kinds of faults that could not be had, and why.
fn not_tested(events: &[Event]) -> BTreeMap<&str, &str> {
    let skipped = nemesis(events, Act::Inject).filter(|event| event.value["outcome"] == "skipped");
    skipped.filter_map(|event| Some((event.value["kind"].as_str()?, event.value["reason"].as_str()?))).collect()
}

/// Tags put once that are gone with the region that had acknowledged them, among those that were read.
fn lost(writes: &BTreeMap<&str, Vec<Write<'_>>>, finals: &Finals<'_>) -> usize {
    let is_gone = |key: &str| finals.get(key).is_some_and(|regions| regions.values().all(Option::is_none));
    let of_own = writes.iter().filter(|(key, _)| key.starts_with("own/"));
    of_own.filter(|(key, of_key)| is_gone(key) && of_key.iter().any(|write| write.is_forgiven)).count()
}

fn writes<'a>(events: &'a [Event], order: &Order<'_>) -> BTreeMap<&'a str, Vec<Write<'a>>> {
    let mut all: BTreeMap<&str, Vec<Write<'_>>> = BTreeMap::new();
    for pair in pairs(events, &[Act::RegionPut, Act::RegionDelete]) {
        let kind = pair.end.map(|end| end.kind);
        if kind == Some(Kind::Fail) {
            continue;
        }
        let is_ok = kind == Some(Kind::Ok);
        let digest = pair.invoke.value["digest"].as_str();
        let ended = pair.end.filter(|_| is_ok).map(|end| end.time);
        let (key, region, began) = (key(pair.invoke), region(pair.invoke), pair.invoke.time);
        let may_be_lost = |ended| order.may_be_lost(&Moment { region, began, ended }, key, digest);
        let is_forgiven = ended.is_some_and(may_be_lost);
        let counts = is_ok && !is_forgiven;
        all.entry(key).or_default().push(Write { digest, region, began, ended, counts, is_forgiven });
    }
    all
}

/// What each region names at the end, by key.
type Finals<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Option<&'a str>>>;

/// What each region names at the end.
fn finals<'a>(events: &'a [Event], problems: &mut Vec<String>) -> Finals<'a> {
    let mut finals = Finals::new();
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

/// Whether what a tag names at the end fits its writes.
fn explain(key: &str, digest: Option<&str>, writes: &[Write<'_>], order: &Order<'_>) -> Result<(), String> {
    let same: Vec<&Write<'_>> = writes.iter().filter(|write| write.digest == digest).collect();
    if same.is_empty() && digest.is_some() {
        return Err(format!("{key} names {digest:?}, which nobody put"));
    }
    // one that nobody knows about may have happened at any time
    let Some(moments) = same.iter().map(|write| write.moment()).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let is_later = |write: &&Write<'_>| {
        let is_above = |moment: Moment<'_>| moments.iter().all(|same| order.is_later(&moment, same));
        write.counts && write.digest != digest && write.moment().is_some_and(is_above)
    };
    match writes.iter().find(is_later) {
        Some(later) if same.is_empty() => {
            Err(format!("{key} is lost: {:?} was acknowledged and never deleted", later.digest))
        }
        Some(later) => {
            let ended = moments.iter().map(|moment| moment.ended).max().unwrap_or_default();
            Err(format!(
                "{key} names {digest:?}, although {:?} was acknowledged {} ms after the last write of that had ended",
                later.digest,
                (later.began.saturating_sub(ended)) / 1_000_000
            ))
        }
        None => Ok(()),
    }
}

/// What each life of a region has shown of a key, and when it was read.
type Seen<'h> = BTreeMap<(&'h str, usize, &'h str), Vec<(u64, &'h str)>>;

/// Reads of one region, in one life of it, that show an older put than a read before them.
fn steps_back(events: &[Event], writes: &BTreeMap<&str, Vec<Write<'_>>>, order: &Order<'_>) -> Vec<String> {
    let mut seen = Seen::new();
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
        let life = order.life(region(pair.invoke), pair.invoke.time);
        let before = seen.entry((region(pair.invoke), life, key(pair.invoke))).or_default();
        let is_newer = |(read, shown): &&(u64, &str)| {
            // one that nobody knows about was shown, so that it had happened by then
            let newer = put(shown).is_some_and(|shown| {
                let shown = Moment { region: shown.region, began: shown.began, ended: u64::MAX };
                own.moment().is_some_and(|own| order.is_later(&shown, &own))
            });
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
/// on its way, unless one had lost something.
fn comparisons(events: &[Event], may_differ: bool) -> Vec<String> {
    let Some(compared) = nemesis(events, Act::Compared).last() else {
        return vec!["the regions did not compare".to_owned()];
    };
    let reports = compared.value["reports"].as_array().map_or(&[][..], Vec::as_slice);
    let judged = |report: &Value| match (report["last"]["clean"].as_bool(), report["differences"].as_u64()) {
        (Some(true), Some(_)) if may_differ => None,
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

    /// Lines of the nemesis.
    fn told(at: f64, kind: Kind, f: Act, value: Value) -> Line<'static> {
        (at, None, kind, f, "", "", value)
    }

    // A clock that is ahead makes the earlier write win; once the right time has come to it, it does not any more.
    #[test]
    fn wrong_clocks() {
        let ahead =
            json!({"fault": 1, "kind": "clock-ahead", "regions": ["r1"], "offset_s": 20, "outcome": "installed"});
        let with = |at: f64, last: &str| {
            let mut lines = story([digest(last), digest(last)]);
            lines.extend([
                told(0.1, Kind::Invoke, Act::Inject, ahead.clone()),
                told(0.2, Kind::Info, Act::Inject, ahead.clone()),
            ]);
            lines.extend([
                told(1.5, Kind::Invoke, Act::Heal, ahead.clone()),
                told(1.6, Kind::Info, Act::Heal, ahead.clone()),
            ]);
            lines.extend(op(at, at + 0.1, 3, Act::RegionPut, "r2/a-1", digest("newest"), NULL));
            judge(lines, clean())
        };
        assert!(with(3.0, "old").is_empty() && with(3.0, "newest").is_empty(), "r1 may be ahead of both");
        assert!(with(3.0, "new")[0].contains("although Some(\"newest\")"), "in one region the later one wins");
        assert!(with(40.0, "old")[0].contains("although Some(\"newest\")"));
    }

    // A region that was restored may lack what it acknowledged since the backup, if the other one had not got it; both
    // are to be equal, and to have what either had.
    #[test]
    fn restored() {
        let of = json!({"region": "r1"});
        let with = |put: f64, last: [&str; 2], more: Vec<Line<'static>>| {
            let [one, two] = last.map(|name| if name.is_empty() { json!({"digest": null}) } else { digest(name) });
            let mut lines = vec![
                told(10.0, Kind::Invoke, Act::Backup, of.clone()),
                told(11.0, Kind::Info, Act::Backup, of.clone()),
                told(20.0, Kind::Invoke, Act::Lose, of.clone()),
                told(21.0, Kind::Info, Act::Lose, of.clone()),
            ];
            lines.extend(op(put, put + 0.1, 1, Act::RegionPut, "r1/a-1", digest("own"), NULL));
            lines.extend(op(90.0, 90.1, 8, Act::RegionFinal, "r1/a-1", NULL, one));
            lines.extend(op(91.0, 91.1, 9, Act::RegionFinal, "r2/b-1", NULL, two));
            lines.extend(more);
            let report = json!({"last": {"clean": true}, "differences": 3});
            judge(lines, json!({"reports": [report.clone(), report]}))
        };
        assert!(with(12.0, ["", ""], Vec::new()).is_empty(), "after the backup");
        assert!(with(12.0, ["own", "own"], Vec::new()).is_empty());
        assert!(with(12.0, ["", "own"], Vec::new())[0].contains("differs"));
        assert!(with(9.0, ["", ""], Vec::new())[0].contains("is lost"), "before the backup");
        assert!(with(22.0, ["", ""], Vec::new())[0].contains("is lost"), "after the restore");
        let get = |node| op(13.0, 13.1, 5, Act::RegionGet, node, NULL, digest("own")).to_vec();
        assert!(with(12.0, ["", ""], get("r1/b-1")).is_empty());
        assert!(with(12.0, ["", ""], get("r2/b-1"))[0].contains("is lost"), "the other region had got it");
    }

    // What a restored region shows may be older than what it showed before its loss, but never goes back after it.
    #[test]
    fn steps_of_a_restored_region() {
        let of = json!({"region": "r1"});
        let with = |gets: [(f64, &str); 2]| {
            let mut lines = story([digest("new"), digest("new")]);
            lines.push(told(1.5, Kind::Invoke, Act::Backup, of.clone()));
            lines.push(told(5.0, Kind::Invoke, Act::Lose, of.clone()));
            lines.push(told(6.0, Kind::Info, Act::Lose, of.clone()));
            lines.extend(
                gets.into_iter()
                    .flat_map(|(from, shown)| op(from, from + 0.1, 4, Act::RegionGet, "r1/a-1", NULL, digest(shown))),
            );
            judge(lines, clean())
        };
        assert!(with([(4.0, "new"), (7.0, "old")]).is_empty());
        assert!(with([(7.0, "new"), (8.0, "old")])[0].contains("shows old after new"));
    }

    // Regions that are not equal by their own word, or had to be mended, or images that are not whole, are no success.
    #[test]
    fn comparisons_and_blobs() {
        let good = || story([digest("new"), digest("new")]);
        let unclean = json!({"reports": [{"last": {"clean": false}}, {"last": {"clean": true}, "differences": 0}]});
        assert!(judge(good(), unclean)[0].contains("not equal"));
        let mended = json!({"reports": [{"last": {"clean": true}, "differences": 2}]});
        assert_eq!(judge(good(), mended.clone()).len(), 2);
        let damage = told(1.0, Kind::Info, Act::Inject, json!({"fault": 1, "kind": "drift", "outcome": "installed"}));
        assert_eq!(judge([good(), vec![damage]].concat(), mended).len(), 1, "one report alone is too few");
        let blob = |got: Value| {
            let mut lines = op(95.0, 95.1, 7, Act::RegionBlob, "r1/a-1", NULL, got);
            lines.iter_mut().for_each(|line| line.4 = "r@sha256:1");
            judge([good(), lines.to_vec()].concat(), clean())
        };
        assert!(blob(digest("sha256:1")).is_empty());
        assert_eq!(blob(digest("sha256:2")).len(), 1);
    }
}
