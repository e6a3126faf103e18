//! What regions list as conflicts: puts that lost, and no others; and after a long cut, in both regions, some of each
//! repository in which both had put the same tag meanwhile. And whether such a cut had in it what it is for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::region_order::region;
use super::{key, nemesis, pairs};
use crate::history::{Act, Event, Kind};

/// A cut of so many seconds has leaders die on both sides.
const DEADLY_S: u64 = 120;

/// How many each region lists, and what is wrong with that. `names` is what each key names at the end.
pub(super) fn check(events: &[Event], names: &BTreeSet<(&str, &str)>) -> (Value, Vec<String>) {
    let (mut problems, mut counts) = (Vec::new(), BTreeMap::new());
    let mut listed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let puts = put(events);
    for event in nemesis(events, Act::Conflicts) {
        let region = event.value["region"].as_str().unwrap_or_default();
        let conflicts = event.value["conflicts"].as_array().map_or(&[][..], Vec::as_slice);
        counts.insert(region, conflicts.len());
        for conflict in conflicts {
            let text = |name: &str| conflict[name].as_str().unwrap_or_default();
            let key = format!("{}:{}", text("repository"), text("tag"));
            let lost = (key.as_str(), text("lost"));
            if !puts.contains(&lost) {
                problems.push(format!("{region} lists a conflict about what nobody put: {conflict}"));
            } else if names.contains(&lost) {
                problems.push(format!("{region} lists as lost what is there: {conflict}"));
            }
            listed.entry(region).or_default().insert(text("repository"));
        }
    }
    for repository in at_odds(events) {
        for region in ["r1", "r2"].into_iter().filter(|region| counts.contains_key(region)) {
            if !listed.get(region).is_some_and(|listed| listed.contains(repository)) {
                problems.push(format!(
                    "both regions put a tag of {repository} during a cut, and {region} lists none of it"
                ));
            }
        }
    }
    (json!(counts), problems)
}

/// What may have been put, by key.
fn put(events: &[Event]) -> BTreeSet<(&str, &str)> {
    let puts = pairs(events, &[Act::RegionPut]).into_iter();
    let may = puts.filter(|pair| pair.end.is_none_or(|end| end.kind != Kind::Fail));
    may.filter_map(|pair| Some((key(pair.invoke), pair.invoke.value["digest"].as_str()?))).collect()
}

/// What was acknowledged in each region while nothing got through for long: puts, moves of tags, deletes, and how often
/// its leader died; without some of each, and a tag that both regions put, such a cut proves nothing.
pub(super) fn cut(events: &[Event]) -> (Value, Vec<String>) {
    let Some((from, to)) = long_cut(events) else { return (Value::Null, Vec::new()) };
    let (mut counts, mut present) = (BTreeMap::<(&str, &str), u64>::new(), BTreeSet::new());
    for pair in pairs(events, &[Act::RegionPut, Act::RegionDelete]) {
        let Some(end) = pair.end.filter(|end| end.kind == Kind::Ok) else { continue };
        let (region, key) = (region(pair.invoke), key(pair.invoke));
        let is_delete = pair.invoke.f == Act::RegionDelete;
        let was_there = if is_delete { present.remove(&(region, key)) } else { !present.insert((region, key)) };
        let what = match (is_delete, was_there) {
            (true, _) => "deletes",
            (false, true) => "moves",
            (false, false) => "puts",
        };
        if pair.invoke.time > from.time && end.time < to.time {
            *counts.entry((region, what)).or_default() += 1;
        }
    }
    let lasts_s = from.value["lasts_s"].as_u64().unwrap_or_default();
    // histories of before do not tell it
    let healed = nemesis(events, Act::Heal).find(|event| event.value["kills"].is_object());
    let (mut problems, mut figures) = (Vec::new(), BTreeMap::new());
    for region in ["r1", "r2"] {
        for what in ["puts", "moves", "deletes"] {
            let count = counts.get(&(region, what)).copied().unwrap_or_default();
            if count == 0 {
                problems.push(format!("no {what} in {region} while nothing got through"));
            }
            figures.insert(format!("{region} {what}"), count);
        }
        let Some(kills) = healed.and_then(|event| event.value["kills"][region].as_u64()) else { continue };
        if kills == 0 && lasts_s >= DEADLY_S {
            problems.push(format!("no leader of {region} died while nothing got through"));
        }
        figures.insert(format!("{region} kills"), kills);
    }
    if at_odds(events).is_empty() {
        problems.push("both regions put no tag in common while nothing got through".to_owned());
    }
    (json!({"lasts_s": lasts_s, "acknowledged": figures}), problems)
}

/// The long cut of a run: when it had begun, and when it was about to end.
fn long_cut(events: &[Event]) -> Option<(&Event, &Event)> {
    let is_long = |event: &&Event| event.value["lasts_s"].is_u64();
    let from = nemesis(events, Act::Inject).filter(is_long).find(|event| event.kind == Kind::Info)?;
    Some((from, nemesis(events, Act::Heal).find(is_long)?))
}

/// Repositories in which both regions put the same tag during a long cut.
fn at_odds(events: &[Event]) -> BTreeSet<&str> {
    let Some((from, to)) = long_cut(events) else { return BTreeSet::new() };
    let mut by_key: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pair in pairs(events, &[Act::RegionPut]) {
        let is_within = |end: &Event| pair.invoke.time > from.time && end.time < to.time && end.kind == Kind::Ok;
        if pair.end.is_some_and(is_within) {
            by_key.entry(key(pair.invoke)).or_default().insert(region(pair.invoke));
        }
    }
    let both = by_key.into_iter().filter(|(_, regions)| regions.len() == 2);
    both.filter_map(|(key, _)| key.rsplit_once(':')).map(|(repository, _)| repository).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::{Line, history};

    fn told(at: f64, kind: Kind, f: Act, value: Value) -> Line<'static> {
        (at, None, kind, f, "", "", value)
    }

    fn put(at: f64, process: u64, node: &'static str, digest: &str) -> [Line<'static>; 2] {
        let line = |at, kind, value| (at, Some(process), kind, Act::RegionPut, "r:t", node, value);
        [line(at, Kind::Invoke, json!({ "digest": digest })), line(at + 0.1, Kind::Ok, Value::Null)]
    }

    // Both put a tag while nothing got through: each lists what lost, which was put and is not there.
    #[test]
    fn after_a_cut() {
        let about = json!({"fault": 0, "kind": "cut-links", "lasts_s": 8});
        let lists = |region: &str, lost: Option<&str>| {
            let conflicts: Vec<Value> =
                lost.into_iter().map(|lost| json!({"repository": "r", "tag": "t", "lost": lost})).collect();
            told(30.0, Kind::Info, Act::Conflicts, json!({"region": region, "conflicts": conflicts}))
        };
        let with = |second: f64, lost: [Option<&str>; 2]| {
            let mut lines = vec![told(1.0, Kind::Invoke, Act::Inject, about.clone())];
            lines.push(told(1.1, Kind::Info, Act::Inject, about.clone()));
            lines.extend(put(2.0, 1, "r1/a-1", "one"));
            lines.push(told(9.0, Kind::Invoke, Act::Heal, about.clone()));
            lines.push(told(9.1, Kind::Info, Act::Heal, about.clone()));
            lines.extend(put(second, 2, "r2/a-1", "two"));
            lines.extend([lists("r1", lost[0]), lists("r2", lost[1])]);
            lines.sort_by(|one, other| one.0.total_cmp(&other.0));
            check(&history(&lines), &BTreeSet::from([("r:t", "two")]))
        };
        let good = with(3.0, [Some("one"), Some("one")]);
        assert_eq!(good, (json!({"r1": 1, "r2": 1}), Vec::new()));
        assert!(with(3.0, [None, Some("one")]).1[0].contains("r1 lists none"));
        assert!(with(3.0, [Some("one"), Some("two")]).1[0].contains("r2 lists as lost what is there"));
        assert!(with(3.0, [Some("one"), Some("three")]).1[0].contains("nobody put"));
        assert!(with(12.0, [None, None]).1.is_empty(), "the second came when the first was known");
    }

    // A long cut in which a region put, moved or deleted nothing, or lost no leader, proves nothing.
    #[test]
    fn what_a_cut_is_for() {
        let about = json!({"fault": 0, "kind": "cut-links", "lasts_s": 600});
        let acts = [Act::RegionPut, Act::RegionPut, Act::RegionDelete];
        let judged = |kills: [u64; 2], without: Option<Act>| {
            let mut lines = vec![told(1.0, Kind::Invoke, Act::Inject, about.clone())];
            lines.push(told(1.1, Kind::Info, Act::Inject, about.clone()));
            for (began, process, node) in [(2.0, 1, "r1/a-1"), (5.0, 2, "r2/a-1")] {
                for (pause, f) in [0.0, 0.5, 1.0].into_iter().zip(acts) {
                    if Some(f) == without {
                        continue;
                    }
                    let line = |at, kind| (at, Some(process), kind, f, "r:t", node, json!({ "digest": "one" }));
                    lines.extend([line(began + pause, Kind::Invoke), line(began + pause + 0.1, Kind::Ok)]);
                }
            }
            lines.push(told(9.0, Kind::Invoke, Act::Heal, about.clone()));
            let mut healed = about.clone();
            healed["kills"] = json!({"r1": kills[0], "r2": kills[1]});
            lines.push(told(9.1, Kind::Info, Act::Heal, healed));
            cut(&history(&lines))
        };
        let (figures, problems) = judged([3, 2], None);
        assert_eq!(problems, Vec::<String>::new());
        let (of_r1, of_r2) = (&figures["acknowledged"]["r1 moves"], &figures["acknowledged"]["r2 kills"]);
        assert_eq!((of_r1, of_r2, &figures["lasts_s"]), (&json!(1), &json!(2), &json!(600)));
        assert_eq!(judged([3, 0], None).1, ["no leader of r2 died while nothing got through"]);
        let without = |act| judged([1, 1], Some(act)).1.join("; ");
        assert!(without(Act::RegionDelete).starts_with("no deletes in r1"));
        let idle = without(Act::RegionPut);
        assert!(idle.contains("no moves in r2") && idle.contains("no tag in common"), "{idle}");
        assert_eq!(cut(&[]), (Value::Null, Vec::new()));
    }
}
