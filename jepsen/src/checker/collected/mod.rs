//! Collection takes what nothing names, all of it, and nothing else. `state` tells from the clients' answers what must
//! be there; here that is compared with what was read, what collection said and what lies on the disks.

mod disks;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::state::{Expected, State};
use super::{Collected, Demands, Pair, Verdict, at, key, nemesis, node, pairs};
use crate::history::{Act, Event};

pub(super) fn check(events: &[Event], demands: &Demands, wanted: Collected) -> Verdict {
    let mut state = State::of(events, wanted.untagged_go);
    let mut problems = std::mem::take(&mut state.problems);
    let mut seen = Seen::default();
    for read in pairs(events, &[Act::Verify]) {
        seen.read(&read, &state, &mut problems);
    }
    let finals = pairs(events, &[Act::FinalVerify]);
    let mut asked: BTreeSet<(&str, &str)> = BTreeSet::new();
    for read in &finals {
        asked.insert((key(read.invoke), node(read.invoke)));
        judge_final(read, &state, &mut seen, &mut problems);
    }
    for name in state.names() {
        let missing = demands.nodes.iter().filter(|node| !asked.contains(&(name, node.as_str())));
        problems.extend(missing.map(|node| format!("{name}: never read from {node} at the end: nothing is proven")));
    }
    let swept = swept(events);
    if swept < wanted.blobs_min {
        problems.push(format!("{swept} blobs were collected, fewer than {}: nothing is proven", wanted.blobs_min));
    }
    let quiesce = nemesis(events, Act::Quiesce).last();
    match quiesce.map(|quiesce| &quiesce.value) {
        None => problems.push("nobody waited until collection came to rest".to_owned()),
        Some(value) if value["settled"] != true => {
            problems.push(format!("collection did not come to rest: {value}"));
        }
        Some(_) => {}
    }
    let disks = disks::judge(events, &state, &mut problems);
    let pushes = pairs(events, &[Act::PushImage]);
    let sum = |name: &str| -> u64 { pushes.iter().filter_map(|push| push.end?.value[name].as_u64()).sum() };
    let figures = json!({
        "pushed": pushes.iter().filter(|push| push.is_ok()).count(),
        "pushed_again": sum("pushed_again"),
        "blobs_found_mounted_sent": [sum("found"), sum("mounted"), sum("sent")],
        "images_at_the_end": state.count(Expected::There),
        "images_unknown": state.count(Expected::Either),
        "images_read": seen.images,
        "blobs_read": seen.blobs,
        "deleted_while_read": seen.deleted,
        "unread": seen.unread,
        "final_reads": finals.len(),
        "collected": swept,
        "untagged_go": wanted.untagged_go,
        "grace_ms": quiesce.and_then(|quiesce| quiesce.value["nodes"].as_object()?.values().next()?.get("grace_ms")),
        "came_to_rest_ms": quiesce.map(|quiesce| &quiesce.value["took_ms"]),
        "disks": disks,
    });
    Verdict::new("collected", figures, problems)
}

/// Blobs that the cycles that were seen have swept. Two that ended between two looks count once.
fn swept(events: &[Event]) -> u64 {
    let cycles = nemesis(events, Act::Collection);
    let by_cycle: BTreeMap<u64, u64> = cycles
        .filter_map(|seen| Some((seen.value["cycles"].as_u64()?, seen.value["last"]["swept"].as_u64()?)))
        .collect();
    by_cycle.values().sum()
}

/// What was read of images.
#[derive(Default)]
struct Seen {
    images: u64,
    blobs: u64,
    /// Blobs that were gone because their image was deleted while it was read.
    deleted: u64,
    unread: u64,
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[][..], Vec::as_slice)
}

impl Seen {
    /// Judges what one read tells by itself: an image that is there is whole, and is one that was pushed.
    fn read(&mut self, read: &Pair<'_>, state: &State<'_>, problems: &mut Vec<String>) {
        let Some(end) = read.end.filter(|_| read.is_ok()) else {
            self.unread += 1;
            return;
        };
        let (name, time) = (key(read.invoke), at(end));
        let Some(got) = end.value["digest"].as_str() else { return };
        self.images += 1;
        self.blobs += end.value["read"].as_u64().unwrap_or_default();
        self.unread += list(&end.value, "unread").len() as u64;
        for blob in list(&end.value, "missing") {
            if blob["manifest_is_there"] == true {
                problems.push(format!("{name} at {time}: HALF: its image {got} is there, and a blob is not: {blob}"));
            } else {
                self.deleted += 1;
            }
        }
        for blob in list(&end.value, "wrong") {
            problems.push(format!("{name} at {time}: WRONG BYTES: {blob}"));
        }
        if end.value["told"].as_str().is_some_and(|told| told != got) {
            problems.push(format!("{name} at {time}: WRONG MANIFEST: {got} instead of {}", end.value["told"]));
        }
        let is_pushed = match name.split_once('@') {
            Some((_, digest)) => digest == got,
            None => state.was_pushed(name, got),
        };
        if !is_pushed {
            problems.push(format!("{name} at {time}: nobody pushed {got} there"));
        }
    }
}

/// Judges a read when everything is over: what must be there is there and whole, what was deleted is absent.
fn judge_final(read: &Pair<'_>, state: &State<'_>, seen: &mut Seen, problems: &mut Vec<String>) {
    seen.read(read, state, problems);
    let (name, node) = (key(read.invoke), node(read.invoke));
    let Some(end) = read.end.filter(|_| read.is_ok()) else {
        problems.push(format!("{name}: can't be read from {node} at the end: {}", read.error()));
        return;
    };
    let (expected, wanted) = match name.split_once('@') {
        Some((_, digest)) => (state.expected(name), Some(digest)),
        None => state.expected_tag(name),
    };
    let got = end.value["digest"].as_str();
    match (expected, got) {
        (Expected::There, None) => problems.push(format!("{name}: LOST on {node}: acknowledged, and never deleted")),
        (Expected::There, Some(got)) if wanted.is_some_and(|wanted| wanted != got) => {
            problems.push(format!("{name}: LOST on {node}: it names {got} instead of {wanted:?}"));
        }
        (Expected::Absent, Some(got)) => problems.push(format!("{name}: {got} is there on {node}, and was deleted")),
        (Expected::There | Expected::Either, Some(_)) => {
            let unread = list(&end.value, "unread");
            if !unread.is_empty() {
                problems.push(format!("{name}: not whole on {node}: {}", json!(unread)));
            }
        }
        (Expected::Absent | Expected::Either, None) => {}
    }
}
