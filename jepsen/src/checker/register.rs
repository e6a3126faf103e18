//! Tags as registers: the operations of each tag, as the judges of registers read them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Pair, key, pairs};
use crate::history::{Act, Event, Kind};

/// What is done to registers.
pub(super) const ACTS: [Act; 4] = [Act::Put, Act::PutIf, Act::Get, Act::Delete];

/// What an operation did, or may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// The tag was set.
    Put(&'a str),
    /// The tag was set, and named `from` before.
    PutIf { from: Option<&'a str>, to: &'a str },
    /// The tag was not set, because it did not name `from`.
    Moved { from: Option<&'a str> },
    /// The tag was read.
    Get(Option<&'a str>),
    /// The tag was there, and was dropped.
    Delete,
    /// There was no tag to drop.
    Absent,
}

/// An operation on a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<'a> {
    pub(super) invoke: &'a Event,
    /// `None`: nobody knows whether it happened; it still may.
    pub(super) end: Option<&'a Event>,
    pub(super) step: Step<'a>,
}

/// A tag with everything that was done to it.
#[derive(Debug, Default)]
pub(super) struct Register<'a> {
    /// In the order of their beginning; what certainly did not happen and shows nothing is left out, as are reads that
    /// came to nothing.
    pub(super) operations: Vec<Operation<'a>>,
    /// What certainly was not put, and by which event.
    pub(super) refused: BTreeMap<&'a str, &'a Event>,
}

fn digest<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

/// The registers of a history by their keys.
pub(super) fn registers(events: &[Event]) -> BTreeMap<&str, Register<'_>> {
    let mut all: BTreeMap<&str, Register<'_>> = BTreeMap::new();
    for pair in pairs(events, &ACTS) {
        let register = all.entry(key(pair.invoke)).or_default();
        if let Some(step) = step(&pair) {
            let end = pair.end.filter(|end| end.kind != Kind::Info);
            register.operations.push(Operation { invoke: pair.invoke, end, step });
        }
        let is_refused = pair.end.is_some_and(|end| end.kind == Kind::Fail);
        if let Some(given) = digest(&pair.invoke.value, "digest").filter(|_| is_refused) {
            register.refused.insert(given, pair.invoke);
        }
    }
    all
}

/// What an operation means; `None` if it says nothing about the register.
fn step<'a>(pair: &Pair<'a>) -> Option<Step<'a>> {
    let given = &pair.invoke.value;
    let is_refused = pair.end.is_some_and(|end| end.kind == Kind::Fail);
    let status = pair.end.and_then(|end| end.value.get("status")?.as_u64()).filter(|_| is_refused);
    if is_refused {
        return match (pair.invoke.f, status) {
            (Act::PutIf, Some(412)) => Some(Step::Moved { from: digest(given, "from") }),
            (Act::Delete, Some(404)) => Some(Step::Absent),
            _ => None,
        };
    }
    let to = digest(given, "digest");
    if pair.invoke.f == Act::Put {
        to.map(Step::Put)
    } else if pair.invoke.f == Act::PutIf {
        to.map(|to| Step::PutIf { from: digest(given, "from"), to })
    } else if pair.invoke.f == Act::Delete {
        Some(Step::Delete)
    } else {
        // a read without an answer changes nothing
        pair.end.filter(|_| pair.is_ok()).map(|end| Step::Get(digest(&end.value, "digest")))
    }
}
