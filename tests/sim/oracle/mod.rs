//! Watches a run and says when a promise is broken: one file for each invariant of consensus-and-faults §5.9.
//!
//! It keeps the state that the log leads to, in a machine of its own beside those of the nodes, and looks after every
//! committed entry, every file that goes and every batch that a node applies. It knows no rule of the server but the
//! core's own. Start at [`Invariant`].

mod copies;
mod envelopes;
mod equality;
mod files;
mod ledger;
mod requests;
mod rows;
mod tags;
mod ticks;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use portolan::blob::store::BlobKey;
use portolan::blob::store::memory::MemoryDisk;
use portolan::metadata::tables::State;
use raft::{Committed, Effect};
use registry_core::metadata::apply::{Entry, Machine};
use registry_core::metadata::command::Proposal;
use registry_core::metadata::keys;
use registry_core::metadata::reply::Outcome;
use registry_core::metadata::tables::{MemoryTables, Writes};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use tokio::time::Instant;

pub(crate) use self::ledger::{Image, Ledger};

use crate::trace::Trace;

/// A promise. An error says how it was broken.
pub(crate) trait Invariant: Send {
    /// Its name, as a failing run shows it.
    fn name(&self) -> &'static str;

    /// After a committed entry.
    fn entry(&mut self, _step: &Step<'_>) -> Result<(), String> {
        Ok(())
    }

    /// After a file was taken away by its node.
    fn removed(&mut self, _facts: &Facts, _store: StoreId, _key: &BlobKey) -> Result<(), String> {
        Ok(())
    }
}

/// An entry and what came of it.
pub(crate) struct Step<'a> {
    pub(crate) entry: &'a Committed,
    pub(crate) proposal: &'a Proposal,
    pub(crate) outcome: &'a Outcome,
    /// Rows it wrote, but for those that remember requests.
    pub(crate) writes: &'a Writes,
    /// The rows before it.
    pub(crate) before: &'a MemoryTables,
    pub(crate) facts: &'a Facts,
}

/// What is so now.
pub(crate) struct Facts {
    /// Rows that the log leads to, but for those that remember requests.
    pub(crate) rows: MemoryTables,
    /// The volumes that are not lost.
    pub(crate) disks: BTreeMap<StoreId, MemoryDisk>,
    /// Copies that the run itself has damaged.
    pub(crate) damaged: BTreeSet<(StoreId, BlobKey)>,
    began: Instant,
}

impl Facts {
    /// Milliseconds since the run began.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Whether a volume has a good copy now; `None` if the volume is lost.
    pub(crate) fn copy(&self, store: StoreId, key: &BlobKey) -> Option<Copy> {
        let found = self.disks.get(&store)?.look(key);
        Some(match found {
            Some(true) => Copy::Good,
            Some(false) => Copy::Bad,
            None if self.damaged.contains(&(store, *key)) => Copy::Bad,
            None => Copy::Missing,
        })
    }
}

/// A copy on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    /// It is there.
    Good,
    /// The run damaged it; it may be in the quarantine by now.
    Bad,
    /// It is not there.
    Missing,
}

/// The judge of a run. Clones share it.
#[derive(Clone)]
pub(crate) struct Oracle(Arc<Mutex<Inner>>);

struct Inner {
    trace: Trace,
    facts: Facts,
    /// All rows, as the machine needs them.
    tables: MemoryTables,
    machine: Machine,
    equality: equality::Equality,
    requests: requests::Requests,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Oracle {
    pub(crate) fn new(trace: Trace) -> Oracle {
        let facts = Facts {
            rows: MemoryTables::new(),
            disks: BTreeMap::new(),
            damaged: BTreeSet::new(),
            began: Instant::now(),
        };
        let invariants: Vec<Box<dyn Invariant>> = vec![
            Box::new(rows::Rows),
            Box::new(copies::Copies),
            Box::new(zones::Zones),
            Box::new(files::Files::default()),
            Box::new(tags::Tags),
            Box::new(envelopes::Envelopes),
            Box::new(ticks::Ticks),
        ];
        let (tables, machine) = (MemoryTables::new(), Machine::default());
        let (equality, requests) = Default::default();
        Oracle(Arc::new(Mutex::new(Inner { trace, facts, tables, machine, equality, requests, invariants })))
    }

    /// Looks at what is so now.
    pub(crate) fn facts<R>(&self, look: impl FnOnce(&Facts) -> R) -> R {
        look(&self.0.lock().facts)
    }

    /// A volume came, or is lost.
    pub(crate) fn disk(&self, store: StoreId, disk: Option<MemoryDisk>) {
        let mut inner = self.0.lock();
        match disk {
            Some(disk) => drop(inner.facts.disks.insert(store, disk)),
            None => drop(inner.facts.disks.remove(&store)),
        }
    }

    /// The run damages a copy.
    pub(crate) fn damaged(&self, store: StoreId, key: BlobKey) {
        self.0.lock().facts.damaged.insert((store, key));
    }

    /// A node placed a copy: what was damaged there before is made good.
    pub(crate) fn placed(&self, store: StoreId, key: &BlobKey) {
        self.0.lock().facts.damaged.remove(&(store, *key));
    }

    /// A node took a file away.
    pub(crate) fn removed(&self, store: StoreId, key: &BlobKey) {
        let inner = &mut *self.0.lock();
        inner.trace.note(format!("{store} removes {}", short(key)));
        for invariant in &mut inner.invariants {
            if let Err(what) = invariant.removed(&inner.facts, store, key) {
                inner.trace.fail(format!("{}: {what}", invariant.name()));
            }
        }
    }

    /// An entry was committed.
    pub(crate) fn entry(&self, entry: &Committed) {
        let inner = &mut *self.0.lock();
        let batch = [Entry { index: entry.index, at_ms: entry.at_ms, payload: &entry.payload }];
        let applied = inner.machine.apply(&inner.tables, &batch).expect("one binary made and reads it");
        let effect = applied.effects.into_iter().next().expect("one entry has one effect");
        let effect = Effect { index: effect.index, reply: Bytes::from(effect.outcome) };
        let mut writes = applied.writes.clone();
        inner.tables.write(applied.writes);
        inner.equality.entry(&inner.tables, effect.clone());
        if entry.payload.is_empty() {
            return;
        }
        let proposal = Proposal::decode(&entry.payload).expect("one binary made and reads it");
        let outcome = Outcome::decode(&effect.reply).expect("one binary made and reads it");
        inner.trace.note(format!("{}: {}", entry.index, told(&proposal, &outcome)));
        writes.retain(|key, _| keys::table_name(key) != Some("REQUEST"));
        let found = inner.requests.entry(&proposal, &effect, &writes);
        if effect.index != entry.index {
            // a copy: nothing is committed by it
            if let Err(what) = found {
                inner.trace.fail(format!("{}: {what}", requests::NAME));
            }
            inner.facts.rows.write(writes);
            return;
        }
        let before = inner.facts.rows.clone();
        inner.facts.rows.write(writes.clone());
        let step = Step {
            entry,
            proposal: &proposal,
            outcome: &outcome,
            writes: &writes,
            before: &before,
            facts: &inner.facts,
        };
        let others = inner.invariants.iter_mut().map(|invariant| (invariant.name(), invariant.entry(&step)));
        for (name, found) in std::iter::once((requests::NAME, found)).chain(others) {
            if let Err(what) = found {
                inner.trace.fail(format!("{name}: {what}"));
            }
        }
    }

    /// A node applied the log up to an index, with these effects.
    pub(crate) fn applied(&self, node: NodeId, index: u64, state: &State, effects: &BTreeMap<u64, Effect>) {
        let inner = &*self.0.lock();
        if let Err(what) = inner.equality.applied(node, index, state, effects) {
            inner.trace.fail(format!("{}: {what}", equality::NAME));
        }
    }
}

/// A file in a line of the trace.
fn short(key: &BlobKey) -> String {
    format!("{}.{:x}", &key.digest.hex()[..8], key.generation.random as u32)
}

/// An entry in a line of the trace.
fn told(proposal: &Proposal, outcome: &Outcome) -> String {
    let mut line = format!("{}:", proposal.principal);
    for (number, command) in proposal.commands.iter().enumerate() {
        let shown = format!("{command:?}");
        let name: String = shown.split(['(', '{', ' ']).next().unwrap_or_default().to_owned();
        let mark = match outcome.replies.get(number) {
            Some(_) => "",
            None if number == outcome.replies.len() => "!",
            None => "-",
        };
        line.push_str(&format!(" {mark}{name}"));
        let digest = shown.find("sha256:").map(|at| shown[at + 7..].chars().take(8).collect::<String>());
        line.push_str(&digest.map_or_else(String::new, |digest| format!(" {digest}")));
    }
    if let Some(refusal) = &outcome.refusal {
        line.push_str(&format!(" refused: {refusal}"));
    }
    line
}
