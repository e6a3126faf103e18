//! Tags are linearizable registers: for each of them there is one order of all operations, true to their times, in
//! which every answer is right. Judged by values and times alone; what the server says of revisions is not believed.

use std::collections::BTreeMap;

use serde_json::json;

use super::register::{self, Register, registers};
use super::wgl::{Found, Operation, Step, search};
use super::{Verdict, at};
use crate::history::Event;

/// Name of this judge.
pub(super) const NAME: &str = "linear";

pub(super) fn check(events: &[Event]) -> Verdict {
    let registers = registers(events);
    let mut problems = Vec::new();
    let (mut operations, mut unknown, mut largest) = (0, 0, 0);
    let mut illegal: Vec<&str> = Vec::new();
    let mut undecided: Vec<&str> = Vec::new();
    for (key, register) in &registers {
        operations += register.operations.len();
        unknown += register.operations.iter().filter(|operation| operation.end.is_none()).count();
        largest = largest.max(register.operations.len());
        match search(&numbered(register)) {
            Found::Linearizable => {}
            Found::Illegal(number) => {
                let culprit = &register.operations[number];
                let (index, time) = (culprit.invoke.index, at(culprit.invoke));
                problems.push(format!(
                    "{key} is not linearizable: {:?} begun at {time} (event {index}) fits nowhere",
                    culprit.step
                ));
                illegal.push(key);
            }
            Found::Unknown => {
                problems.push(format!("{key}: too much to try, so nothing is proven"));
                undecided.push(key);
            }
        }
    }
    let figures = json!({
        "tags": registers.len(),
        "operations": operations,
        "unknown": unknown,
        "largest": largest,
        "illegal": illegal,
        "undecided": undecided,
    });
    Verdict::new(NAME, figures, problems)
}

/// Digests as numbers; times are places in the history, which differ where times may not.
fn numbered<'a>(register: &Register<'a>) -> Vec<Operation> {
    let mut numbers: BTreeMap<&'a str, u32> = BTreeMap::new();
    let mut number = |digest: &'a str| {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        *numbers.entry(digest).or_insert(next)
    };
    let operation = |operation: &register::Operation<'a>| {
        let step = match operation.step {
            register::Step::Put(digest) => Step::Put(number(digest)),
            register::Step::PutIf { from, to } => Step::PutIf(from.map(&mut number), number(to)),
            register::Step::Moved { from } => Step::Not(from.map(&mut number)),
            register::Step::Get(digest) => Step::Get(digest.map(&mut number)),
            register::Step::Delete => Step::Delete,
            register::Step::Absent => Step::Get(None),
        };
        Operation { call: operation.invoke.index, end: operation.end.map(|end| end.index), step }
    };
    register.operations.iter().map(operation).collect()
}
