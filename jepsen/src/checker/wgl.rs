//! Whether a register is linearizable: the search of Wing and Gong, with Lowe's cache of what was tried.
//!
//! Sources: J. Wing and C. Gong, "Testing and Verifying Concurrent Objects" (1993); G. Lowe, "Testing for
//! Linearizability" (2017). Entries of calls and returns stand in one linked list in the order of the history. A call
//! that is possible next is taken out with its return; at a return whose call was not taken, the last one taken is put
//! back. What was taken (a set of bits) together with the state is never tried twice. An operation that nobody knows
//! about has no return: it may be taken at any later time or never.

use std::collections::HashSet;

/// Pairs of taken set and state that one search may remember; it is given up beyond.
const TRIED_MAX: usize = 3_000_000;

/// What a register holds; values are numbers given by the caller.
pub(super) type Value = Option<u32>;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sets the value.
    Put(u32),
    /// Sets the value where the register holds another given one.
    PutIf(Value, u32),
    /// The register holds anything but this.
    Not(Value),
    /// The register holds this.
    Get(Value),
    /// Empties a register that is not empty.
    Delete,
}

impl Step {
    /// The state after it; `None` where it is impossible.
    pub(super) fn apply(self, state: Value) -> Option<Value> {
        let (is_possible, next) = match self {
            Step::Put(value) => (true, Some(value)),
            Step::PutIf(from, to) => (state == from, Some(to)),
            Step::Not(value) => (state != value, state),
            Step::Get(value) => (state == value, state),
            Step::Delete => (state.is_some(), None),
        };
        is_possible.then_some(next)
    }
}

/// An operation: between `call` and `end` it took effect. Without an end it may at any time after `call`, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) call: u64,
    pub(super) end: Option<u64>,
    pub(super) step: Step,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that explains everything.
    Linearizable,
    /// No order does. No search went behind the return of this operation.
    Illegal(usize),
    /// There was too much to try.
    Unknown,
}

/// Searches an order of `operations` that begins with an empty register. No two times may be equal.
pub(super) fn search(operations: &[Operation]) -> Found {
    Search::new(operations).run()
}

/// An entry of the list: a call, or a return.
#[derive(Clone, Copy, Debug)]
struct Entry {
    operation: usize,
    is_call: bool,
    before: usize,
    behind: usize,
}

struct Search<'a> {
    operations: &'a [Operation],
    /// In the order of the history, behind the head; links lead over what is taken.
    entries: Vec<Entry>,
    /// Where an operation's call and return stand.
    places: Vec<(usize, Option<usize>)>,
    taken: Vec<u64>,
    tried: HashSet<(Box<[u64]>, Value)>,
}

/// The head of the list, and its end.
const HEAD: usize = 0;
const END: usize = usize::MAX;

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Search<'a> {
        let mut times: Vec<(u64, usize, bool)> = Vec::with_capacity(operations.len() * 2);
        for (number, operation) in operations.iter().enumerate() {
            times.push((operation.call, number, true));
            times.extend(operation.end.map(|end| (end, number, false)));
        }
        times.sort_unstable();
        let mut entries = vec![Entry { operation: END, is_call: false, before: END, behind: END }];
        let mut places = vec![(END, None); operations.len()];
        for (_, operation, is_call) in times {
            let at = entries.len();
            entries[at - 1].behind = at;
            entries.push(Entry { operation, is_call, before: at - 1, behind: END });
            if is_call {
                places[operation].0 = at;
            } else {
                places[operation].1 = Some(at);
            }
        }
        let taken = vec![0; operations.len().div_ceil(64)];
        Search { operations, entries, places, taken, tried: HashSet::new() }
    }

    fn run(mut self) -> Found {
        let (mut state, mut at) = (None, self.entries[HEAD].behind);
        // what was taken, and the state before it
        let mut path: Vec<(usize, Value)> = Vec::new();
        let mut farthest = (HEAD, 0);
        while at != END {
            let Entry { operation, is_call, behind, .. } = self.entries[at];
            if is_call {
                let next = self.operations[operation].step.apply(state);
                if let Some(next) = next.filter(|next| self.is_new(operation, *next)) {
                    path.push((operation, state));
                    self.take(operation);
                    (state, at) = (next, self.entries[HEAD].behind);
                } else {
                    at = behind;
                }
                if self.tried.len() > TRIED_MAX {
                    return Found::Unknown;
                }
                continue;
            }
            if at > farthest.0 {
                farthest = (at, operation);
            }
            let Some((last, before)) = path.pop() else { return Found::Illegal(farthest.1) };
            self.put_back(last);
            (state, at) = (before, self.entries[self.places[last].0].behind);
        }
        // no return is left: whatever ended has its place
        Found::Linearizable
    }

    /// Notes that `operation` is tried behind what is taken, giving `state`; false if that was tried before.
    fn is_new(&mut self, operation: usize, state: Value) -> bool {
        let mut taken = self.taken.clone();
        taken[operation / 64] |= 1 << (operation % 64);
        self.tried.insert((taken.into_boxed_slice(), state))
    }

    fn take(&mut self, operation: usize) {
        self.taken[operation / 64] |= 1 << (operation % 64);
        let (call, end) = self.places[operation];
        for at in [Some(call), end].into_iter().flatten() {
            let Entry { before, behind, .. } = self.entries[at];
            self.entries[before].behind = behind;
            if behind != END {
                self.entries[behind].before = before;
            }
        }
    }

    fn put_back(&mut self, operation: usize) {
        self.taken[operation / 64] &= !(1 << (operation % 64));
        let (call, end) = self.places[operation];
        // in the opposite order, so that each finds its neighbours as they were
        for at in [end, Some(call)].into_iter().flatten() {
            let Entry { before, behind, .. } = self.entries[at];
            self.entries[before].behind = at;
            if behind != END {
                self.entries[behind].before = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of every choice of what happened, without any cleverness.
    fn is_linearizable(operations: &[Operation]) -> bool {
        fn go(operations: &[Operation], done: &mut Vec<bool>, state: Value) -> bool {
            if operations.iter().zip(&*done).all(|(operation, done)| *done || operation.end.is_none()) {
                return true;
            }
            for number in 0..operations.len() {
                let next = &operations[number];
                // nothing that is not yet done may have ended before it began
                let is_next = operations
                    .iter()
                    .zip(&*done)
                    .all(|(other, done)| *done || other.end.is_none_or(|end| end > next.call));
                if done[number] || !is_next {
                    continue;
                }
                if let Some(after) = next.step.apply(state) {
                    done[number] = true;
                    if go(operations, done, after) {
                        return true;
                    }
                    done[number] = false;
                }
            }
            false
        }
        go(operations, &mut vec![false; operations.len()], None)
    }

    /// A tiny history: few operations, few values, any overlap, some that nobody knows about.
    fn tiny(random: &mut fastrand::Rng) -> Vec<Operation> {
        let count = random.usize(1..=7);
        let mut times: Vec<u64> = (0..count as u64 * 2).collect();
        random.shuffle(&mut times);
        let mut value = |or_none: bool| (!or_none || random.u8(0..3) > 0).then(|| random.u32(0..3));
        let mut steps = Vec::new();
        for number in 0..count {
            let (some, maybe) = (value(false).unwrap_or_default(), value(true));
            steps.push(match number * 7 + some as usize * 3 + maybe.map_or(0, |value| value as usize + 1) {
                n if n % 6 < 2 => Step::Get(maybe),
                n if n % 6 == 2 => Step::Put(some),
                n if n % 6 == 3 => Step::PutIf(maybe, some),
                n if n % 6 == 4 => Step::Delete,
                _ => Step::Not(maybe),
            });
        }
        let operation = |(number, step): (usize, Step)| {
            let (one, other) = (times[number * 2], times[number * 2 + 1]);
            let is_read = matches!(step, Step::Get(_) | Step::Not(_));
            let end = (is_read || !number.is_multiple_of(3)).then_some(one.max(other));
            Operation { call: one.min(other), end, step }
        };
        steps.into_iter().enumerate().map(operation).collect()
    }

    // The search agrees with a brute force on tens of thousands of tiny histories, of which many are good and many bad.
    #[test]
    fn agrees_with_brute_force() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..40_000 {
            let operations = tiny(&mut fastrand::Rng::with_seed(seed));
            let (expected, found) = (is_linearizable(&operations), search(&operations));
            assert_eq!(expected, found == Found::Linearizable, "seed {seed}: {operations:?}");
            assert_eq!(expected, !matches!(found, Found::Illegal(_)), "seed {seed}: {operations:?}");
            if expected { good += 1 } else { bad += 1 }
        }
        assert!(good > 4000 && bad > 4000, "{good} good and {bad} bad ones");
    }

    fn operation(call: u64, end: u64, step: Step) -> Operation {
        Operation { call, end: Some(end), step }
    }

    // A history as long as a run makes them for one tag is judged at once, good or bad.
    #[test]
    fn long_ones() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut operations, mut free, mut state) = (Vec::new(), [0u64; 5], None);
        for number in 0..400u32 {
            // takes effect at its own time, in the middle of it
            let (client, effect) = (random.usize(0..5), u64::from(number) * 100 + 50);
            let call = (effect - random.u64(1..50)).max(free[client] + 1).min(effect - 1);
            let step = match random.u8(0..3) {
                0 => Step::Put(number),
                1 => Step::Get(state),
                _ if state.is_some() => Step::Delete,
                _ => Step::Not(Some(number)),
            };
            let end = effect + random.u64(1..400);
            free[client] = end;
            state = step.apply(state).unwrap();
            operations.push(Operation {
                call: call * 1000 + u64::from(number),
                end: Some(end * 1000 + u64::from(number)),
                step,
            });
        }
        assert_eq!(search(&operations), Found::Linearizable);
        let last = operations.iter().map(|operation| operation.end.unwrap()).max().unwrap();
        let stale = state.map_or(Some(0), |_| None);
        operations.push(operation(last + 1, last + 2, Step::Get(stale)));
        assert_eq!(search(&operations), Found::Illegal(400), "the stale read is what has no place");
    }

    // What nobody knows about explains a later value once, at any time, and is not needed.
    #[test]
    fn unknown_ones() {
        let unknown = Operation { call: 1, end: None, step: Step::Put(7) };
        let get = |at, value| operation(at, at + 1, Step::Get(value));
        assert_eq!(search(&[unknown, get(10, None), get(20, Some(7))]), Found::Linearizable);
        assert_eq!(search(&[unknown, get(10, None)]), Found::Linearizable);
        assert_eq!(search(&[unknown, get(10, Some(7)), get(20, None)]), Found::Illegal(2));
        assert_eq!(search(&[]), Found::Linearizable);
    }

    // A search that would take for ever is given up, and says so.
    #[test]
    fn too_much() {
        let mut operations: Vec<Operation> =
            (0..40).map(|number| Operation { call: number, end: None, step: Step::Put(number as u32) }).collect();
        operations.push(operation(50, 51, Step::Get(None)));
        operations.push(operation(52, 53, Step::Get(Some(1))));
        operations.push(operation(54, 55, Step::Get(None)));
        assert_eq!(search(&operations), Found::Unknown);
    }
}
