//! What is known of two regions' clocks and lives: which of two writes must win, and which ones a region may have lost.
//!
//! The later of two writes wins, by the clocks of the regions that took them. In one life of a region these never run
//! back, however wrong they are. Between regions, a clock shows at least the right time with what it is off, and at
//! most the latest time that any clock has shown: what comes from elsewhere takes a region's time along.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{key, nemesis, node, pairs};
use crate::history::{Act, Event, Kind};

/// Two operations this far apart have an order that everybody must see, nanoseconds.
const APART: i64 = 50_000_000;
/// How far a change may be ahead of a region's clocks before that one puts it aside, nanoseconds.
const AHEAD_MAX: i64 = 300_000_000_000;
/// How long changes may take to the other region, behind a link that was cut and calls repeated ever less often.
const ARRIVES_MAX: i64 = 45_000_000_000;
/// How long after its clocks were set a region may go on stamping by what they showed before, nanoseconds: nodes tell
/// each other their clocks every 0.5 s and judge them every 0.5 s, and on a busy machine some of that comes late.
const SETTLES: u64 = 3_000_000_000;

/// When a region took a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) region: &'a str,
    /// Nanoseconds since the run began.
    pub(super) began: u64,
    /// When it had happened at the latest.
    pub(super) ended: u64,
}

/// How wrong a region's clocks were for a while, in nanoseconds: at least and at most.
#[derive(Clone, Copy, Debug)]
struct Skew {
    from: u64,
    to: u64,
    off: (i64, i64),
}

/// A region lost all its nodes and went on from a backup.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Everything acknowledged before this is in the backup.
    backup: u64,
    from: u64,
    /// No node of the former life ran any more.
    to: u64,
}

/// What the nemesis has told of clocks and lives, and what each region has shown.
#[derive(Debug, Default)]
pub(super) struct Order<'a> {
    skews: BTreeMap<&'a str, Vec<Skew>>,
    losses: BTreeMap<&'a str, Vec<Loss>>,
    /// Region, key and digest of everything that was read while the load was on.
    shown: BTreeSet<(&'a str, &'a str, &'a str)>,
}

impl<'a> Order<'a> {
    pub(super) fn of(events: &'a [Event]) -> Order<'a> {
        let shown = pairs(events, &[Act::RegionGet]).into_iter().filter_map(|pair| {
            let end = pair.end.filter(|end| end.kind == Kind::Ok)?;
            Some((region(pair.invoke), key(pair.invoke), end.value["digest"].as_str()?))
        });
        Order { skews: skews(events), losses: losses(events), shown: shown.collect() }
    }

    /// Whether a write certainly ranks above another one.
    pub(super) fn is_later(&self, second: &Moment<'_>, first: &Moment<'_>) -> bool {
        let is_one_life = second.region == first.region
            && self.life(second.region, second.began) == self.life(first.region, first.began);
        let (began, ended) = (signed(second.began), signed(first.ended));
        match is_one_life {
            true => began > ended + APART,
            false => self.least(second.region, second.began) > self.most(first.ended) + APART,
        }
    }

    /// How often a region had been restored.
    pub(super) fn life(&self, region: &str, time: u64) -> usize {
        self.losses.get(region).map_or(0, |losses| losses.iter().filter(|loss| loss.from <= time).count())
    }

    /// Whether any region was restored.
    pub(super) fn has_losses(&self) -> bool {
        !self.losses.is_empty()
    }

    /// Whether what a region acknowledged may be gone: the backup need not hold it, and the other region is not known
    /// to have got it.
    pub(super) fn may_be_lost(&self, moment: &Moment<'_>, key: &str, digest: Option<&str>) -> bool {
        let losses = self.losses.get(moment.region).map_or(&[][..], Vec::as_slice);
        let is_beyond = |loss: &Loss| moment.ended > loss.backup && moment.began < loss.to;
        let is_shown =
            |digest| self.shown.iter().any(|shown| (shown.1, shown.2) == (key, digest) && shown.0 != moment.region);
        losses.iter().any(is_beyond) && !digest.is_some_and(is_shown)
    }

    /// What a region's clocks show at least.
    fn least(&self, region: &str, time: u64) -> i64 {
        let skews = self.skews.get(region).map_or(&[][..], Vec::as_slice);
        let now = skews.iter().filter(|skew| (skew.from..=skew.to).contains(&time));
        signed(time) + now.map(|skew| skew.off.0).min().unwrap_or(0)
    }

    /// The latest time that any clock has shown.
    fn most(&self, time: u64) -> i64 {
        self.skews.keys().map(|region| self.most_in(region, time)).max().unwrap_or(0).max(signed(time))
    }

    /// The latest time that a region's clocks have shown.
    fn most_in(&self, region: &str, time: u64) -> i64 {
        let skews = self.skews.get(region).map_or(&[][..], Vec::as_slice);
        let past = skews.iter().filter(|skew| skew.from <= time);
        past.map(|skew| signed(skew.to.min(time)) + skew.off.1).max().unwrap_or(0).max(signed(time))
    }
}

fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// The region of the node that was asked.
pub(super) fn region(event: &Event) -> &str {
    node(event).split('/').next().unwrap_or_default()
}

fn skews(events: &[Event]) -> BTreeMap<&str, Vec<Skew>> {
    let mut all: BTreeMap<&str, Vec<Skew>> = BTreeMap::new();
    for event in events.iter().filter(|event| matches!(event.f, Act::Inject | Act::Heal)) {
        let (Some(off_s), Some(region)) = (event.value["offset_s"].as_i64(), event.value["regions"][0].as_str()) else {
            continue;
        };
        if event.value["outcome"] == "skipped" {
            continue;
        }
        let of_region = all.entry(region).or_default();
        let from = event.time + if event.kind == Kind::Info { SETTLES } else { 0 };
        if let Some(last) = of_region.last_mut() {
            last.to = last.to.min(from);
        }
        let off = off_s.saturating_mul(1_000_000_000);
        // while clocks are set, some nodes' are and others' are not, and the nodes have yet to hear of it
        let off = match (event.f, event.kind) {
            (Act::Inject, Kind::Info) => (off, off),
            (Act::Heal, Kind::Info) => (0, 0),
            _ => (off.min(0), off.max(0)),
        };
        of_region.push(Skew { from, to: u64::MAX, off });
    }
    all
}

fn losses(events: &[Event]) -> BTreeMap<&str, Vec<Loss>> {
    let mut all: BTreeMap<&str, Vec<Loss>> = BTreeMap::new();
    let mut backups: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| matches!(event.f, Act::Backup | Act::Lose)) {
        let Some(region) = event.value["region"].as_str() else { continue };
        match (event.f, event.kind) {
            (Act::Backup, Kind::Invoke) => drop(backups.insert(region, event.time)),
            (Act::Lose, Kind::Invoke) => {
                let backup = backups.get(region).copied().unwrap_or(event.time);
                all.entry(region).or_default().push(Loss { backup, from: event.time, to: u64::MAX });
            }
            (Act::Lose, _) => {
                if let Some(loss) = all.get_mut(region).and_then(|losses| losses.last_mut()) {
                    loss.to = event.time;
                }
            }
            _ => {}
        }
    }
    all
}

/// What is still put aside at the end, and changes of a clock that was too far ahead of which nothing was.
pub(super) fn set_aside(events: &[Event], order: &Order<'_>) -> (Value, Vec<String>) {
    let mut problems = Vec::new();
    let mut last: BTreeMap<&str, &Event> = BTreeMap::new();
    let (mut most, mut settled) = (BTreeMap::<&str, u64>::new(), 0);
    for event in nemesis(events, Act::Parked) {
        let region = event.value["region"].as_str().unwrap_or_default();
        let most = most.entry(region).or_default();
        *most = (*most).max(event.value["count"].as_u64().unwrap_or(0));
        settled += event.value["settled"].as_u64().unwrap_or(0);
        last.insert(region, event);
    }
    for (region, event) in last {
        match event.value["count"].as_u64() {
            Some(0) => {}
            Some(count) => problems.push(format!("{region} has put {count} changes aside at the end: {}", event.value)),
            None => problems.push(format!("{region} does not tell what it has put aside: {}", event.value)),
        }
    }
    let far = nemesis(events, Act::Inject).filter(|event| event.value["kind"] == "clock-far-ahead");
    for event in far.filter(|event| event.kind == Kind::Info && has_to_show(events, order, event)) {
        let (fast, off) = (&event.value["regions"][0], &event.value["offset_s"]);
        let is_seen = nemesis(events, Act::Parked).any(|seen| {
            let count = seen.value["count"].as_u64().unwrap_or(0);
            seen.time > event.time && seen.value["region"] != *fast && count > 0
        });
        if !is_seen {
            problems.push(format!("the clocks of {fast} were {off} s ahead, and nothing of it was put aside"));
        }
    }
    (serde_json::json!({"most": most, "settled": settled}), problems)
}

/// Whether something that a region put while its clocks were far ahead must have come to the other region too early,
/// by that one's clocks.
fn has_to_show(events: &[Event], order: &Order<'_>, far: &Event) -> bool {
    let fast = far.value["regions"][0].as_str().unwrap_or_default();
    let other = if fast == "r1" { "r2" } else { "r1" };
    let is_end = |event: &&Event| event.kind == Kind::Invoke && event.value["fault"] == far.value["fault"];
    let end = nemesis(events, Act::Heal).find(is_end).map_or(u64::MAX, |event| event.time);
    let ahead = |time: u64| order.least(fast, time) - order.most_in(other, time);
    pairs(events, &[Act::RegionPut]).iter().any(|pair| {
        let is_its = region(pair.invoke) == fast && (far.time..end).contains(&pair.invoke.time);
        is_its && pair.is_ok() && ahead(pair.invoke.time) > AHEAD_MAX + ARRIVES_MAX
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::testing::{Line, history};

    const S: u64 = 1_000_000_000;

    fn told(at: f64, kind: Kind, f: Act, value: Value) -> Line<'static> {
        (at, None, kind, f, "", "", value)
    }

    fn skew(from: f64, to: f64, region: &str, offset_s: i64) -> Vec<Line<'static>> {
        let about = json!({"fault": 1, "kind": "clock-ahead", "regions": [region], "offset_s": offset_s});
        let value = |outcome: &str| crate::nemesis::merged(about.clone(), json!({"outcome": outcome}));
        vec![
            told(from, Kind::Invoke, Act::Inject, value("")),
            told(from + 1.0, Kind::Info, Act::Inject, value("installed")),
            told(to, Kind::Invoke, Act::Heal, value("")),
            told(to + 1.0, Kind::Info, Act::Heal, value("")),
        ]
    }

    fn moment(region: &str, began_s: u64) -> Moment<'_> {
        Moment { region, began: began_s * S, ended: began_s * S + 1 }
    }

    // With right clocks the later one wins. A clock that is ahead wins for as long as it is ahead of the right time,
    // and nothing is known of writes that it may rank above; in its own region order stays.
    #[test]
    fn clocks() {
        let right = Order::default();
        assert!(right.is_later(&moment("r2", 3), &moment("r1", 2)));
        assert!(!right.is_later(&moment("r2", 2), &moment("r1", 3)));
        let events = history(&skew(10.0, 20.0, "r1", 100));
        let order = Order::of(&events);
        assert!(order.is_later(&moment("r2", 9), &moment("r1", 8)), "before");
        assert!(!order.is_later(&moment("r2", 16), &moment("r1", 15)), "the first may be of 115");
        assert!(order.is_later(&moment("r1", 16), &moment("r1", 15)), "one region");
        assert!(!order.is_later(&moment("r2", 100), &moment("r1", 30)), "124 may have been seen");
        assert!(order.is_later(&moment("r2", 125), &moment("r1", 30)));
        let behind = history(&skew(10.0, 20.0, "r1", -5));
        let order = Order::of(&behind);
        assert!(!order.is_later(&moment("r1", 16), &moment("r2", 15)));
        assert!(order.is_later(&moment("r1", 18), &moment("r2", 12)));
        assert!(
            !order.is_later(&moment("r1", 22), &moment("r2", 21)),
            "some clocks were looked at before they were set"
        );
        assert!(order.is_later(&moment("r1", 25), &moment("r2", 24)));
        assert!(order.is_later(&moment("r2", 16), &moment("r1", 15)));
        let skipped = json!({"regions": ["r1"], "offset_s": 100, "outcome": "skipped"});
        let events = history(&[told(1.0, Kind::Info, Act::Inject, skipped)]);
        assert!(Order::of(&events).is_later(&moment("r2", 3), &moment("r1", 2)));
    }

    // What was acknowledged between backup and loss may be gone, unless the other region has shown it; nothing else.
    #[test]
    fn lives() {
        let of = json!({"region": "r1"});
        let get = |at: f64, node: &'static str| {
            let line = |at, kind, value| (at, Some(1), kind, Act::RegionGet, "r:t", node, value);
            [line(at, Kind::Invoke, Value::Null), line(at + 0.1, Kind::Ok, json!({"digest": "shown"}))]
        };
        let mut lines = vec![
            told(10.0, Kind::Invoke, Act::Backup, of.clone()),
            told(11.0, Kind::Info, Act::Backup, of.clone()),
            told(20.0, Kind::Invoke, Act::Lose, of.clone()),
            told(21.0, Kind::Info, Act::Lose, of),
        ];
        lines.extend(get(30.0, "r1/a-1"));
        let events = history(&lines);
        let order = Order::of(&events);
        let lost = |order: &Order<'_>, region, at| order.may_be_lost(&moment(region, at), "r:t", Some("shown"));
        assert_eq!([9, 12, 22].map(|at| lost(&order, "r1", at)), [false, true, false]);
        assert!(!lost(&order, "r2", 12), "the other region lost nothing");
        assert_eq!([9, 20, 22].map(|at| order.life("r1", at * S)), [0, 1, 1]);
        assert!(order.has_losses() && !Order::default().has_losses());
        lines.extend(get(31.0, "r2/a-1"));
        let events = history(&lines);
        let order = Order::of(&events);
        assert!(!lost(&order, "r1", 12), "the other region had got it");
        assert!(order.may_be_lost(&moment("r1", 12), "r:t", Some("else")));
        assert!(order.may_be_lost(&moment("r1", 12), "r:t", None), "nobody sees a delete");
    }

    // What is left aside, and a clock that was too far ahead without anything that was put aside, are problems; not
    // where the other region's clocks were ahead as well, or nothing was put.
    #[test]
    fn aside() {
        let far = |outcome| {
            let kind = "clock-far-ahead";
            json!({"fault": 2, "kind": kind, "regions": ["r1"], "offset_s": 360, "outcome": outcome})
        };
        let parked = |at, region: &str, count: u64| {
            told(at, Kind::Info, Act::Parked, json!({"region": region, "count": count, "settled": 3}))
        };
        let put = |at: f64, kind| (at, Some(1), kind, Act::RegionPut, "r:t", "r1/a-1", Value::Null);
        let of = |lines: &[Line<'_>]| {
            let events = history(lines);
            let (figures, problems) = set_aside(&events, &Order::of(&events));
            (figures, problems.join("; "))
        };
        let problems = |lines: &[Line<'_>]| of(lines).1;
        let inject = told(11.0, Kind::Info, Act::Inject, far("installed"));
        let writes = [put(14.5, Kind::Invoke), put(14.6, Kind::Ok)];
        let with = |more: &[Line<'static>]| [&[inject.clone()][..], &writes, more].concat();
        let good = with(&[parked(15.0, "r2", 7), parked(19.0, "r2", 0)]);
        assert_eq!(of(&good), (json!({"most": {"r2": 7}, "settled": 6}), String::new()));
        assert!(problems(&good[..4]).contains("r2 has put 7 changes aside at the end"));
        assert!(problems(&with(&[parked(19.0, "r2", 0)])).contains("360 s ahead, and nothing"));
        assert!(problems(&with(&[parked(15.0, "r1", 7), parked(19.0, "r1", 0)])).contains("and nothing"));
        assert_eq!(problems(std::slice::from_ref(&inject)), "");
        let other = skew(1.0, 8.0, "r2", 100);
        assert_eq!(problems(&[&other[..], &with(&[])].concat()), "", "the other one has seen 109");
        assert_eq!(problems(&[&[told(11.0, Kind::Info, Act::Inject, far("skipped"))][..], &writes].concat()), "");
        let silent = told(9.0, Kind::Info, Act::Parked, json!({"region": "r2", "count": null}));
        assert!(problems(&[silent]).contains("does not tell"));
    }
}
