//! What a page draws, as numbers: pure, from the history.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checker::{Pair, pairs};
use crate::history::{Act, Event, Kind, Process};

/// Buckets that a run is cut into, at most.
const BUCKETS_MAX: f64 = 360.0;
/// Shortest time without an acknowledged write that is shown, in seconds.
const GAP_MIN_S: f64 = 1.0;
/// What is counted, with its name.
pub(super) const COUNTED: [(Act, &str); 4] =
    [(Act::PutBlob, "put blob"), (Act::PutManifest, "put manifest"), (Act::ReadBack, "read back"), (Act::Pull, "pull")];

/// Operations that ended in one part of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bucket {
    /// Those that were `ok`, by their place in [`COUNTED`].
    pub(super) ok: [u64; COUNTED.len()],
    /// Those that were not.
    pub(super) failed: u64,
    /// How long the acknowledged writes took, in milliseconds, in order.
    pub(super) writes_ms: Vec<f64>,
}

impl Bucket {
    /// The write that a share of all was not slower than.
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let last = self.writes_ms.len().checked_sub(1)?;
        self.writes_ms.get((last as f64 * share).round() as usize).copied()
    }
}

/// What happened when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// How long the run took, in seconds.
    pub(super) total_s: f64,
    /// Width of a bucket.
    pub(super) step_s: f64,
    pub(super) buckets: Vec<Bucket>,
    /// When the load was on.
    pub(super) load_s: Option<(f64, f64)>,
    /// Times without an acknowledged write under load.
    pub(super) gaps_s: Vec<(f64, f64)>,
}

/// Seconds since the run began.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Counts and times of all operations.
pub(super) fn series(events: &[Event]) -> Series {
    let total_s = events.last().map_or(0.0, |event| seconds(event.time)).max(1.0);
    let step_s = (total_s / BUCKETS_MAX).max(1.0).ceil();
    let mut buckets = vec![Bucket::default(); (total_s / step_s).ceil() as usize + 1];
    let acts: Vec<Act> = COUNTED.iter().map(|(act, _)| *act).collect();
    let mut acknowledged = Vec::new();
    for Pair { invoke, end } in pairs(events, &acts) {
        let Some(end) = end else { continue };
        let bucket = &mut buckets[(seconds(end.time) / step_s) as usize];
        if end.kind != Kind::Ok {
            bucket.failed += 1;
            continue;
        }
        if let Some(at) = acts.iter().position(|act| *act == invoke.f) {
            bucket.ok[at] += 1;
        }
        if invoke.f.is_write() {
            bucket.writes_ms.push((end.time - invoke.time) as f64 / 1e6);
            acknowledged.push(seconds(end.time));
        }
    }
    buckets.iter_mut().for_each(|bucket| bucket.writes_ms.sort_by(f64::total_cmp));
    let loads: Vec<f64> = nemesis(events, Act::Load).map(|event| seconds(event.time)).collect();
    let load_s = loads.first().map(|from| (*from, loads.get(1).copied().unwrap_or(total_s)));
    let gaps_s = load_s.map_or_else(Vec::new, |load| gaps(load, acknowledged));
    Series { total_s, step_s, buckets, load_s, gaps_s }
}

fn gaps((from, to): (f64, f64), mut marks: Vec<f64>) -> Vec<(f64, f64)> {
    marks.retain(|at| (from..to).contains(at));
    marks.extend([from, to]);
    marks.sort_by(f64::total_cmp);
    marks.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, to)| to - from >= GAP_MIN_S).collect()
}

fn nemesis(events: &[Event], act: Act) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |event| event.process == Process::Nemesis && event.f == act)
}

/// When each node did not run or was not ready: from its kill until it was ready again.
pub(super) fn downs(events: &[Event], total_s: f64) -> BTreeMap<&str, Vec<(f64, f64)>> {
    let mut downs: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.process == Process::Nemesis) {
        let (Some(node), at) = (event.node.as_deref(), seconds(event.time)) else { continue };
        let of_node = downs.entry(node).or_default();
        if event.f == Act::Kill {
            of_node.push((at, total_s));
        } else if event.f == Act::Ready {
            of_node.iter_mut().filter(|(_, to)| *to == total_s).for_each(|(_, to)| *to = at);
        }
    }
    downs
}

/// Who led from when to when, as far as it was looked at.
pub(super) fn leaders(events: &[Event], total_s: f64) -> Vec<(&str, u64, f64, f64)> {
    let mut seen: Vec<(&str, u64, f64, f64)> = Vec::new();
    for event in nemesis(events, Act::Leader) {
        let (Some(node), at) = (event.node.as_deref(), seconds(event.time)) else { continue };
        let term = event.value.get("term").and_then(Value::as_u64).unwrap_or_default();
        match seen.last_mut() {
            Some((last, of, _, to)) if *last == node && *of == term => *to = total_s,
            last => {
                if let Some((_, _, _, to)) = last {
                    *to = at;
                }
                seen.push((node, term, at, total_s));
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::{Line, history};

    fn lines() -> Vec<Line<'static>> {
        let info = Kind::Info;
        vec![
            (0.0, None, info, Act::Load, "", "", Value::Null),
            (0.5, Some(1), Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null),
            (0.6, Some(1), Kind::Ok, Act::PutBlob, "r:t", "", Value::Null),
            (1.0, None, info, Act::Leader, "", "a-1", serde_json::json!({"term": 1})),
            (1.5, None, info, Act::Kill, "", "a-1", Value::Null),
            (2.0, None, info, Act::Leader, "", "b-1", serde_json::json!({"term": 2})),
            (4.0, Some(1), Kind::Invoke, Act::PutManifest, "r:t", "", Value::Null),
            (4.2, Some(1), Kind::Ok, Act::PutManifest, "r:t", "", Value::Null),
            (4.3, Some(1), Kind::Invoke, Act::Pull, "r:t", "", Value::Null),
            (4.4, Some(1), info, Act::Pull, "r:t", "", Value::Null),
            (5.0, None, info, Act::Ready, "", "a-1", Value::Null),
            (5.1, None, info, Act::Load, "", "", Value::Null),
        ]
    }

    // Everything that ended is counted once where it ended; the time without a write is a gap; down is until ready.
    #[test]
    fn counted() {
        let events = history(&lines());
        let series = series(&events);
        assert_eq!((series.step_s, series.load_s), (1.0, Some((0.0, 5.1))));
        assert_eq!(series.buckets[0].ok, [1, 0, 0, 0]);
        assert_eq!((series.buckets[4].ok, series.buckets[4].failed), ([0, 1, 0, 0], 1));
        assert!((series.buckets[4].quantile_ms(0.5).unwrap() - 200.0).abs() < 0.1);
        assert_eq!(series.buckets[1].quantile_ms(0.5), None);
        assert_eq!(series.gaps_s, [(0.6, 4.2)]);
        let total = series.total_s;
        assert_eq!(downs(&events, total)["a-1"], [(1.5, 5.0)]);
        assert_eq!(leaders(&events, total), [("a-1", 1, 1.0, 2.0), ("b-1", 2, 2.0, total)]);
    }

    // A history without anything is drawn as well.
    #[test]
    fn empty() {
        let none = series(&[]);
        assert_eq!((none.load_s, none.gaps_s.len()), (None, 0));
        assert!(downs(&[], 1.0).is_empty() && leaders(&[], 1.0).is_empty());
    }
}
