//! Lists are whole: an element that is there all the time is listed exactly once, one that is absent all the time is
//! not. Besides, every page is of the one revision that it names: it lists what was there at that revision, as adds,
//! removes and looks at single elements tell. Every element has one owner, so its history is a line.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, at, key, node, pairs};
use crate::history::{Act, Event, Kind};

/// What is done to lists.
pub(super) const ACTS: [Act; 4] = [Act::Add, Act::Remove, Act::List, Act::Look];

/// An add or a remove that happened, or may have.
#[derive(Clone, Copy, Debug)]
struct Change {
    is_add: bool,
    begun: u64,
    /// `None`: nobody knows.
    ended: Option<u64>,
    rev: Option<u64>,
    /// It happened at that revision or before it.
    is_bound: bool,
}

/// The changes of an element in their order.
#[derive(Debug, Default)]
struct Element(Vec<Change>);

impl Element {
    /// Whether it was there from before event `from` until behind event `to`, for sure.
    fn stays(&self, from: u64, to: u64) -> bool {
        let before = self.0.iter().take_while(|change| change.ended.is_some_and(|ended| ended < from)).count();
        let is_there = before.checked_sub(1).is_some_and(|last| self.0[last].is_add);
        is_there && self.0.get(before).is_none_or(|next| next.begun > to)
    }

    /// Whether it may have been there at some time between the events.
    fn may_be(&self, from: u64, to: u64) -> bool {
        let mut begun = self.0.iter().enumerate().filter(|(_, change)| change.begun < to);
        begun.any(|(at, change)| {
            let next = self.0.get(at + 1).and_then(|next| next.ended);
            let is_gone = next.is_some_and(|ended| ended < from);
            // what nobody knows about may take effect later than what follows
            if change.is_add { !is_gone || change.ended.is_none() } else { change.ended.is_none() }
        })
    }

    /// Whether it was there at revision `rev`; `None` if that is not known to somebody who looked before event `to`.
    fn at(&self, rev: u64, to: u64) -> Option<bool> {
        let is_known = |change: &&Change| change.begun > to || change.rev.is_some();
        if !self.0.iter().all(|change| is_known(&change)) {
            return None;
        }
        let done = self.0.iter().take_while(|change| change.rev.is_some_and(|at| at <= rev)).count();
        if self.0.get(done).is_some_and(|next| next.is_bound && next.begun < to) {
            return None;
        }
        Some(done.checked_sub(1).is_some_and(|last| self.0[last].is_add))
    }
}

/// Of one list.
#[derive(Debug, Default)]
struct List<'a> {
    elements: BTreeMap<&'a str, Element>,
    /// Event of what was acknowledged, and the highest revision until then, in their order.
    acknowledged: Vec<(u64, u64)>,
}

impl List<'_> {
    /// The highest revision that was acknowledged before event `before`.
    fn highest(&self, before: u64) -> u64 {
        let until = self.acknowledged.partition_point(|(index, _)| *index < before);
        until.checked_sub(1).map_or(0, |last| self.acknowledged[last].1)
    }
}

fn element<'a>(pair: &Pair<'a>) -> &'a str {
    pair.invoke.value.get("element").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut problems = Vec::new();
    let lists = changes(events, &mut problems);
    let mut counts = Counts::default();
    let empty = List::default();
    for pair in pairs(events, &[Act::List, Act::Look]) {
        let Some(end) = pair.end.filter(|_| pair.is_ok()) else { continue };
        let list = lists.get(key(pair.invoke)).unwrap_or(&empty);
        let mut found = Vec::new();
        if pair.invoke.f == Act::Look {
            counts.looks += 1;
            look(list, &pair, end, &mut counts, &mut found);
        } else {
            counts.listings += 1;
            read(list, &pair, end, &mut counts, &mut found);
        }
        let (key, time) = (key(pair.invoke), at(pair.invoke));
        problems.extend(found.into_iter().map(|found| format!("{key} at {time}: {found}")));
    }
    for name in demands.nodes.iter().filter(|name| !counts.nodes.contains_key(name.as_str())) {
        problems.push(format!("no page was read from {name}, so nothing is proven of it"));
    }
    let figures = json!({
        "lists": lists.len(),
        "elements": lists.values().map(|list| list.elements.len()).sum::<usize>(),
        "listings": counts.listings,
        "pages": counts.nodes.values().sum::<u64>(),
        "looks": counts.looks,
        "stable_elements_listed": counts.stable,
        "compared_at_revisions": counts.compared,
        "pages_without_revision": counts.without_revision,
    });
    Verdict::new("listing", figures, problems)
}

#[derive(Debug, Default)]
struct Counts {
    listings: u64,
    looks: u64,
    stable: u64,
    compared: u64,
    without_revision: u64,
    /// Pages of each node.
    nodes: BTreeMap<String, u64>,
}

/// The changes of all elements. An owner that is told that its element is absent has lost it.
fn changes<'a>(events: &'a [Event], problems: &mut Vec<String>) -> BTreeMap<&'a str, List<'a>> {
    let mut lists: BTreeMap<&str, List<'_>> = BTreeMap::new();
    for pair in pairs(events, &[Act::Add, Act::Remove]) {
        let (name, list) = (element(&pair), lists.entry(key(pair.invoke)).or_default());
        let known = list.elements.entry(name).or_default();
        let begun = pair.invoke.index;
        let (ended, rev) = match pair.end {
            Some(end) if end.kind == Kind::Fail => {
                if end.value.get("status") == Some(&json!(404)) && known.stays(begun, end.index) {
                    let (key, node, time) = (key(pair.invoke), node(pair.invoke), at(end));
                    problems.push(format!("{key}: {name} is LOST: at {time} {node} could not remove it"));
                }
                continue;
            }
            Some(end) if end.kind == Kind::Ok => (Some(end.index), end.rev),
            _ => (None, None),
        };
        list.acknowledged.extend(ended.zip(rev));
        let is_bound = pair.end.is_some_and(|end| end.value.get("rev_is_bound").is_some());
        known.0.push(Change { is_add: pair.invoke.f == Act::Add, begun, ended, rev, is_bound });
    }
    for list in lists.values_mut() {
        list.acknowledged.sort_unstable();
        let mut highest = 0;
        for (_, rev) in &mut list.acknowledged {
            highest = highest.max(*rev);
            *rev = highest;
        }
    }
    lists
}

/// One element, looked for alone.
fn look(list: &List<'_>, pair: &Pair<'_>, end: &Event, counts: &mut Counts, found: &mut Vec<String>) {
    let (name, node) = (element(pair), node(pair.invoke));
    let is_seen = end.value.get("present") == Some(&Value::Bool(true));
    let absent = Element::default();
    let known = list.elements.get(name).unwrap_or(&absent);
    let (from, to) = (pair.invoke.index, end.index);
    if !is_seen && known.stays(from, to) {
        found.push(format!("{node} does not find {name}, which was there all the time"));
    }
    if is_seen && !known.may_be(from, to) {
        found.push(format!("{node} finds {name}, which was absent all the time"));
    }
    let Some(rev) = end.rev else { return };
    let highest = list.highest(from);
    if rev < highest {
        found.push(format!("STALE: {node} answers at revision {rev}; {highest} was told before"));
    }
    if let Some(is_there) = known.at(rev, to) {
        counts.compared += 1;
        if is_there != is_seen {
            found.push(format!("at revision {rev} {node} finds {name}: {is_seen}; it was there: {is_there}"));
        }
    }
}

/// A page as it was noted.
struct Page<'a> {
    node: &'a str,
    rev: Option<u64>,
    items: Vec<&'a str>,
    is_last: bool,
}

fn pages(end: &Event) -> Vec<Page<'_>> {
    let pages = end.value.get("pages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    pages.iter().filter_map(page).collect()
}

fn page(page: &Value) -> Option<Page<'_>> {
    let items = page.get("items")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let is_last = page.get("is_last")?.as_bool()?;
    Some(Page { node: page.get("node")?.as_str()?, rev: page.get("rev")?.as_u64(), items, is_last })
}

/// A whole listing.
fn read(list: &List<'_>, pair: &Pair<'_>, end: &Event, counts: &mut Counts, found: &mut Vec<String>) {
    let prefix = pair.invoke.value.get("prefix").and_then(Value::as_str).unwrap_or_default();
    let (from, to) = (pair.invoke.index, end.index);
    let pages = pages(end);
    let mut times_listed: BTreeMap<&str, u64> = BTreeMap::new();
    for name in pages.iter().flat_map(|page| &page.items).filter(|name| name.starts_with(prefix)) {
        *times_listed.entry(name).or_default() += 1;
    }
    for (name, times) in &times_listed {
        if *times > 1 {
            found.push(format!("{name} is listed {times} times"));
        }
        if !list.elements.get(name).is_some_and(|known| known.may_be(from, to)) {
            found.push(format!("{name} is listed, which was absent all the time"));
        }
    }
    for (name, _) in list.elements.iter().filter(|(_, known)| known.stays(from, to)) {
        counts.stable += 1;
        if !times_listed.contains_key(name) {
            found.push(format!("{name} is not listed, which was there all the time"));
        }
    }
    if !pages.last().is_some_and(|page| page.is_last) {
        found.push("the listing has no last page".to_owned());
    }
    let mut highest = list.highest(from);
    let mut after = "";
    for page in &pages {
        *counts.nodes.entry(page.node.to_owned()).or_default() += 1;
        if !page.items.iter().fold((true, after), |(rises, last), item| (rises && *item > last, item)).0 {
            found.push(format!("a page of {} does not rise behind {after:?}: {:?}", page.node, page.items));
        }
        let Some(rev) = page.rev else {
            counts.without_revision += 1;
            after = page.items.last().copied().unwrap_or(after);
            continue;
        };
        if rev < highest {
            found.push(format!("STALE: a page of {} is of revision {rev}; {highest} was told before", page.node));
        }
        highest = highest.max(rev);
        compare(list, page, (rev, to), after, counts, found);
        after = page.items.last().copied().unwrap_or(after);
    }
}

/// A page against what was there at its revision, between the end of the page before and its own.
fn compare(
    list: &List<'_>,
    page: &Page<'_>,
    (rev, to): (u64, u64),
    after: &str,
    counts: &mut Counts,
    found: &mut Vec<String>,
) {
    let until = page.items.last().copied().filter(|_| !page.is_last);
    let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
    for (name, known) in list.elements.range::<str, _>(behind) {
        if until.is_some_and(|until| *name > until) {
            break;
        }
        let Some(is_there) = known.at(rev, to) else { continue };
        counts.compared += 1;
        if page.items.contains(name) != is_there {
            let node = page.node;
            found.push(format!(
                "TORN: a page of {node} at revision {rev} lists {name}: {}, it was there: {is_there}",
                !is_there
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::testing::history;

    /// Two elements that stay, one that goes, one that nobody knows about; listed and looked for.
    fn good() -> Vec<Event> {
        let (invoke, ok) = (Kind::Invoke, Kind::Ok);
        let of = |name: &str| json!({"element": name});
        let page = |node: &str, rev: u64, items: &[&str], is_last: bool| json!({"node": node, "rev": rev, "items": items, "is_last": is_last});
        let pages = json!({"pages": [page("a-1", 13, &["a", "c"], false), page("b-1", 14, &["e"], true)]});
        let again = json!({"pages": [page("c-1", 16, &["a", "d", "e"], true)]});
        let lines = [
            (0.0, Some(1), invoke, Act::Add, "l", "", of("a")),
            (0.1, Some(1), ok, Act::Add, "l", "", Value::Null),
            (0.2, Some(1), invoke, Act::Add, "l", "", of("c")),
            (0.3, Some(1), ok, Act::Add, "l", "", Value::Null),
            (0.4, Some(1), invoke, Act::Add, "l", "", of("e")),
            (0.5, Some(1), ok, Act::Add, "l", "", Value::Null),
            (1.0, Some(2), invoke, Act::List, "l", "", json!({"n": 2, "prefix": ""})),
            (1.1, Some(2), ok, Act::List, "l", "", pages),
            (1.2, Some(2), invoke, Act::Look, "l", "a-1", of("c")),
            (1.3, Some(2), ok, Act::Look, "l", "a-1", json!({"present": true})),
            (1.4, Some(1), invoke, Act::Remove, "l", "", of("c")),
            (1.5, Some(1), ok, Act::Remove, "l", "", Value::Null),
            (1.6, Some(1), invoke, Act::Add, "l", "", of("d")),
            (1.7, Some(1), Kind::Info, Act::Add, "l", "", Value::Null),
            (2.0, Some(2), invoke, Act::List, "l", "", json!({"n": 5, "prefix": ""})),
            (2.1, Some(2), ok, Act::List, "l", "", again),
            (2.2, Some(2), invoke, Act::Look, "l", "a-1", of("c")),
            (2.3, Some(2), ok, Act::Look, "l", "a-1", json!({"present": false})),
        ];
        let mut events = history(&lines);
        for (at, rev) in [(1, 11), (3, 12), (5, 13), (9, 14), (11, 15)] {
            events[at].rev = Some(rev);
        }
        events
    }

    fn told(events: &[Event]) -> String {
        check(events, &demands()).problems.join("; ")
    }

    #[test]
    fn whole() {
        let verdict = check(&good(), &demands());
        assert_eq!(verdict.problems, Vec::<String>::new());
        assert_eq!(
            (verdict.figures["pages"].clone(), verdict.figures["stable_elements_listed"].clone()),
            (json!(3), json!(5))
        );
        let mut without = good();
        without[15].value["pages"][0]["items"] = json!(["a", "e"]);
        assert_eq!(told(&without), "", "what nobody knows about may be absent");
    }

    // Each injected damage is seen.
    #[test]
    fn damages() {
        for (event, pointer, value, words) in [
            (7, "/pages/0/items", json!(["c"]), "a is not listed, which was there all the time"),
            (7, "/pages/1/items", json!(["c", "e"]), "c is listed 2 times"),
            (7, "/pages/1/items", json!(["e", "f"]), "f is listed, which was absent all the time"),
            (7, "/pages/1/is_last", json!(false), "no last page"),
            (15, "/pages/0/items", json!(["a", "c", "e"]), "c is listed, which was absent all the time"),
            (15, "/pages/0/rev", json!(14), "STALE: a page of c-1 is of revision 14; 15 was told before"),
            (15, "/pages/0/items", json!(["e", "a"]), "does not rise"),
            (7, "/pages/1/rev", json!(12), "STALE"),
            (9, "/present", json!(false), "does not find c"),
            (17, "/present", json!(true), "finds c, which was absent"),
        ] {
            let mut events = good();
            *events[event].value.pointer_mut(pointer).unwrap() = value;
            assert!(told(&events).contains(words), "{words}: {}", told(&events));
        }
        // what times allow its revision may not
        let mut torn = good();
        torn[11].rev = Some(13);
        assert!(told(&torn).contains("TORN: a page of a-1 at revision 13 lists c: true"), "{}", told(&torn));
        let mut lost = good();
        (lost[11].kind, lost[11].value) = (Kind::Fail, json!({"status": 404}));
        assert!(told(&lost).contains("c is LOST"), "{}", told(&lost));
        assert!(told(&good()[..8]).contains("no page was read from c-1"));
    }

    // A change that happened at its revision or before it leaves what is below it open, down to the change before.
    #[test]
    fn bounds() {
        let change = |is_add, begun, rev, is_bound| Change { is_add, begun, ended: Some(begun + 1), rev, is_bound };
        let element = Element(vec![
            change(true, 1, Some(10), false),
            change(false, 3, Some(20), false),
            change(true, 5, Some(30), true),
        ]);
        for (rev, is_there) in [(9, Some(false)), (10, Some(true)), (19, Some(true)), (20, None), (29, None)] {
            assert_eq!(element.at(rev, 100), is_there, "{rev}");
        }
        assert_eq!((element.at(25, 4), element.at(30, 100)), (Some(false), Some(true)));
        let unknown = Element(vec![change(true, 1, Some(10), false), change(false, 3, None, false)]);
        assert_eq!((unknown.at(15, 2), unknown.at(15, 4)), (Some(true), None));
    }

    // A look at a revision of which the opposite is known is a lie, whatever the times allow.
    #[test]
    fn looks_at_revisions() {
        let mut events = good();
        events[9].rev = Some(15);
        assert!(told(&events).contains("at revision 15 a-1 finds c: true; it was there: false"), "{}", told(&events));
    }
}
