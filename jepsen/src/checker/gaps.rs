//! Writes come back soon after a kill: the longest time without an acknowledged one.

use serde_json::{Value, json};

use super::{Demands, Verdict, at, nemesis, node};
use crate::history::{Act, Event, Kind};

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let allowed_ms = demands.gap_max_ms.unwrap_or(u64::MAX);
    let load: Vec<&Event> = nemesis(events, Act::Load).collect();
    let [begin, end] = load[..] else {
        return Verdict::new("gaps", Value::Null, vec!["the history does not tell when the load was on".to_owned()]);
    };
    let writes = events.iter().filter(|event| event.f.is_write() && event.kind == Kind::Ok);
    let mut marks: Vec<u64> = writes.map(|event| event.time).filter(|time| *time < end.time).collect();
    marks.retain(|time| *time > begin.time);
    marks.insert(0, begin.time);
    marks.push(end.time);
    let kills: Vec<&Event> = nemesis(events, Act::Kill).collect();
    let mut problems = Vec::new();
    let mut after = Vec::new();
    for (number, kill) in kills.iter().enumerate() {
        let until = kills.get(number + 1).map_or(u64::MAX, |next| next.time);
        // a gap belongs to the last kill before its end; the one that a kill falls into counts from the write before it
        let longest = gaps(&marks).filter(|(_, to)| *to > kill.time && *to <= until);
        let longest_ms = longest.map(|(from, to)| ms(to - from)).max().unwrap_or(0);
        after.push(longest_ms);
        if longest_ms > allowed_ms {
            let (node, at) = (node(kill), at(kill));
            problems.push(format!("no write for {longest_ms} ms after {node} was killed at {at}"));
        }
    }
    let longest_ms = gaps(&marks).map(|(from, to)| ms(to - from)).max().unwrap_or(0);
    if longest_ms > allowed_ms && problems.is_empty() {
        problems.push(format!("no write for {longest_ms} ms without a kill"));
    }
    let mut sorted = after.clone();
    sorted.sort_unstable();
    let median_ms = sorted.get(sorted.len() / 2);
    let figures = json!({
        "allowed_ms": (allowed_ms < u64::MAX).then_some(allowed_ms),
        "longest_ms": longest_ms,
        "after_kill_median_ms": median_ms,
        "after_kill_max_ms": sorted.last(),
        "after_kills_ms": after,
        "writes": marks.len() - 2,
        "writes_per_s": (marks.len() - 2) as f64 / ((end.time - begin.time) as f64 / 1e9),
    });
    Verdict::new("gaps", figures, problems)
}

fn gaps(marks: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    marks.windows(2).map(|pair| (pair[0], pair[1]))
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::testing::{Line, history};

    /// Writes acknowledged at `times` under load from 0 to 20 s, with kills.
    fn verdict(times: &[f64], kills: &[f64]) -> Verdict {
        let mut lines: Vec<Line<'_>> = vec![
            (0.0, None, Kind::Info, Act::Load, "", "", Value::Null),
            (20.0, None, Kind::Info, Act::Load, "", "", Value::Null),
        ];
        for (number, time) in times.iter().enumerate() {
            let process = Some(number as u64);
            lines.push((*time - 0.05, process, Kind::Invoke, Act::PutBlob, "r:t", "", Value::Null));
            lines.push((*time, process, Kind::Ok, Act::PutBlob, "r:t", "", Value::Null));
        }
        lines.extend(kills.iter().map(|time| (*time, None, Kind::Info, Act::Kill, "", "a-1", Value::Null)));
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        check(&history(&lines), &Demands { gap_max_ms: Some(3000), ..demands() })
    }

    // The longest gap is found wherever it lies, and belongs to the kill before it.
    #[test]
    fn table() {
        let steady: Vec<f64> = (1..20).map(f64::from).collect();
        let without = |gap: std::ops::Range<f64>| -> Vec<f64> {
            steady.iter().copied().filter(|time| !gap.contains(time)).collect()
        };
        assert!(verdict(&steady, &[5.5, 12.5]).is_good);
        let late = verdict(&without(6.0..10.0), &[5.5, 12.5]);
        assert_eq!((late.is_good, &late.figures["after_kills_ms"]), (false, &json!([5000, 1000])));
        assert!(late.problems[0].contains("5000 ms after a-1 was killed at 5.500 s"), "{:?}", late.problems);
        assert_eq!(verdict(&without(11.0..14.0), &[5.5, 12.5]).figures["after_kills_ms"], json!([1000, 4000]));
        assert!(!verdict(&without(13.0..21.0), &[12.5]).is_good, "writes that never come back");
        assert!(!verdict(&without(6.0..10.0), &[]).is_good, "a gap without a kill");
        assert!(!verdict(&without(0.0..4.0), &[]).is_good, "a gap at the beginning");
        assert!(!verdict(&[], &[3.0]).is_good);
        assert!(!check(&history(&[]), &Demands { gap_max_ms: Some(3000), ..demands() }).is_good);
    }
}
