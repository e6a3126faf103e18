//! The revisions that the server tells with its answers: in linear time, and believing them. What one revision holds
//! never changes, no process sees them fall, and a read is at least as new as what was acknowledged before it began.
//!
//! The server does not tell the digest that a write replaced. So the chain of values is followed only where the client
//! named the one before (`put-if`), and through reads; a plain put or a delete is taken at its word. Answers that say a
//! tag is absent carry no revision and are left to `linear`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::register::{ACTS, Operation, Register, Step, registers};
use super::{Verdict, at};
use crate::history::{Event, Kind, Process};

pub(super) fn check(events: &[Event]) -> Verdict {
    let mut problems = Vec::new();
    let mut counts = Counts::default();
    let registers = registers(events);
    for (key, register) in &registers {
        strangers(key, register, &mut problems);
        fresh(key, register, &mut problems);
        follow(key, register, &mut counts, &mut problems);
    }
    monotone(events, &mut problems);
    let figures = json!({
        "tags": registers.len(),
        "with_revision": counts.with_revision,
        "without_revision": counts.without_revision,
        "previous_checked": counts.previous_checked,
        "previous_not_told": counts.previous_not_told,
    });
    Verdict::new("chain", figures, problems)
}

#[derive(Debug, Default)]
struct Counts {
    with_revision: u64,
    without_revision: u64,
    previous_checked: u64,
    previous_not_told: u64,
}

/// The revision an operation was answered at.
fn revision(operation: &Operation<'_>) -> Option<u64> {
    operation.end?.rev
}

/// Values that nobody put, or whose put was refused.
fn strangers<'a>(key: &str, register: &Register<'a>, problems: &mut Vec<String>) {
    let put = |operation: &Operation<'a>| match operation.step {
        Step::Put(to) | Step::PutIf { to, .. } => Some((to, operation.invoke.index)),
        Step::Moved { .. } | Step::Get(_) | Step::Delete | Step::Absent => None,
    };
    let known: BTreeMap<&str, u64> = register.operations.iter().filter_map(put).collect();
    for operation in &register.operations {
        let (Step::Get(Some(seen)), Some(end)) = (operation.step, operation.end) else { continue };
        let time = at(end);
        match (known.get(seen), register.refused.get(seen)) {
            (Some(begun), _) if *begun < end.index => {}
            (Some(_), _) => problems.push(format!("{key}: {seen} was read at {time}, before anybody put it")),
            (None, Some(put)) => {
                let refused = at(put);
                problems.push(format!("{key}: {seen} was read at {time}; its put at {refused} was refused"));
            }
            (None, None) => problems.push(format!("{key}: {seen} was read at {time}; nobody ever put it")),
        }
    }
}

/// An answer is of a revision at least as high as any that was acknowledged for the tag before it was asked for; a
/// write's is higher.
fn fresh(key: &str, register: &Register<'_>, problems: &mut Vec<String>) {
    let answered = register.operations.iter().filter_map(|operation| Some((operation, revision(operation)?)));
    let mut by_end: Vec<(u64, u64)> =
        answered.clone().filter_map(|(operation, rev)| Some((operation.end?.index, rev))).collect();
    by_end.sort_unstable();
    let (mut next, mut highest) = (0, 0);
    for (operation, rev) in answered {
        while next < by_end.len() && by_end[next].0 < operation.invoke.index {
            highest = highest.max(by_end[next].1);
            next += 1;
        }
        let is_write = !matches!(operation.step, Step::Get(_) | Step::Moved { .. } | Step::Absent);
        if rev < highest || is_write && rev == highest {
            let (time, step) = (at(operation.invoke), operation.step);
            problems.push(format!(
                "{key}: STALE: {step:?} begun at {time} was answered at revision {rev}; {highest} was acknowledged before"
            ));
        }
    }
}

/// What is known of a tag on the way through its revisions.
struct Walk<'a> {
    key: &'a str,
    /// What it holds, as far as acknowledged writes tell.
    state: Option<&'a str>,
    /// Puts that nobody knows about and nobody has seen yet, with the place of their beginning.
    unknown_puts: BTreeMap<&'a str, u64>,
    /// Deletes that nobody knows about and that explain nothing yet.
    unknown_deletes: BTreeSet<u64>,
}

impl<'a> Walk<'a> {
    /// Whether the tag can hold `seen` here; a write that nobody knew about explains it once.
    fn explains(&mut self, seen: Option<&'a str>, end: &Event) -> bool {
        if self.state == seen {
            return true;
        }
        let is_explained = match seen {
            Some(digest) => self.unknown_puts.get(digest).is_some_and(|begun| *begun < end.index),
            None => self.unknown_deletes.first().is_some_and(|begun| *begun < end.index),
        };
        if is_explained {
            match seen {
                Some(digest) => drop(self.unknown_puts.remove(digest)),
                None => drop(self.unknown_deletes.pop_first()),
            }
            self.state = seen;
        }
        is_explained
    }
}

/// Goes through the revisions of a tag in their order: each holds one value, and each value is the one before it unless
/// somebody changed it.
fn follow<'a>(key: &'a str, register: &Register<'a>, counts: &mut Counts, problems: &mut Vec<String>) {
    let mut walk = Walk { key, state: None, unknown_puts: BTreeMap::new(), unknown_deletes: BTreeSet::new() };
    let mut told: Vec<(u64, bool, u64, &Operation<'a>)> = Vec::new();
    for operation in &register.operations {
        let begun = operation.invoke.index;
        match (operation.step, operation.end) {
            (Step::Put(to) | Step::PutIf { to, .. }, None) => drop(walk.unknown_puts.insert(to, begun)),
            (Step::Delete, None) => drop(walk.unknown_deletes.insert(begun)),
            (step, Some(_)) => {
                let is_read = matches!(step, Step::Get(_) | Step::Moved { .. } | Step::Absent);
                match revision(operation) {
                    Some(rev) => told.push((rev, is_read, begun, operation)),
                    None => counts.without_revision += 1,
                }
                if !is_read && revision(operation).is_none() {
                    problems.push(format!("{key}: {step:?} begun at {} tells no revision", at(operation.invoke)));
                }
            }
            (_, None) => {}
        }
    }
    told.sort_unstable_by_key(|(rev, is_read, begun, _)| (*rev, *is_read, *begun));
    counts.with_revision += told.len() as u64;
    let mut last_write = None;
    for (rev, is_read, _, operation) in told {
        if !is_read && last_write.replace(rev) == Some(rev) {
            problems.push(format!("{key}: two writes were acknowledged at revision {rev}"));
        }
        visit(&mut walk, rev, operation, counts, problems);
    }
}

fn visit<'a>(
    walk: &mut Walk<'a>,
    rev: u64,
    operation: &Operation<'a>,
    counts: &mut Counts,
    problems: &mut Vec<String>,
) {
    let (Some(end), key) = (operation.end, walk.key) else { return };
    let held = walk.state;
    match operation.step {
        Step::Get(seen) => {
            if !walk.explains(seen, end) {
                let time = at(end);
                problems
                    .push(format!("{key}: at revision {rev} it was read as {seen:?} at {time}, and holds {held:?}"));
            }
        }
        Step::Put(to) => {
            counts.previous_not_told += 1;
            walk.state = Some(to);
        }
        Step::PutIf { from, to } => {
            counts.previous_checked += 1;
            if !walk.explains(from, end) {
                problems.push(format!("{key}: revision {rev} replaced {from:?}, but the tag held {held:?}"));
            }
            walk.state = Some(to);
        }
        Step::Delete => {
            counts.previous_not_told += 1;
            if held.is_none() && walk.unknown_puts.is_empty() {
                problems.push(format!("{key}: revision {rev} dropped a tag that was not there"));
            }
            walk.state = None;
        }
        Step::Moved { .. } | Step::Absent => {}
    }
}

/// No process sees revisions fall, over all the tags it uses.
fn monotone(events: &[Event], problems: &mut Vec<String>) {
    let mut last: BTreeMap<Process, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| ACTS.contains(&event.f) && event.kind == Kind::Ok) {
        let Some(rev) = event.rev else { continue };
        let highest = last.entry(event.process).or_default();
        if rev < *highest {
            let (time, process) = (at(event), event.process);
            problems.push(format!("{process:?} was answered at revision {rev} at {time}, after {highest}"));
        }
        *highest = rev.max(*highest);
    }
}
