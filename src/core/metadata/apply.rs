//! Applying proposals: the batch, exactly-once, the running state digest. The dispatch itself is the list in
//! [`command`](super::command).

use std::collections::{BTreeMap, VecDeque};

use bincode::{Decode, Encode};

use super::clock::{self, ClockRow};
use super::cluster;
use super::codec::{self, CodecError, Stored};
use super::command::{Proposal, Sealed};
use super::keys::{self, SYSTEM, table};
use super::reply::Outcome;
use super::tables::{Overlay, Pages, Tables, TablesRead, Writes};
use super::upgrade;
use crate::vocabulary::ids::RequestId;
use crate::vocabulary::limits::{OUTCOME_TAGS_MAX, REQUEST_WINDOW_ENTRIES};
use crate::vocabulary::refusal::Refusal;

/// What a command may know beside its own fields and the tables.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Log index of the entry.
    pub index: u64,
    /// Replicated time.
    pub clock: ClockRow,
    /// Who asked.
    pub principal: &'a str,
    /// Feature level at which commands work in the command's slot; see [`upgrade`](super::upgrade).
    pub level: u16,
}

/// A committed log entry; an empty payload is consensus' own business and changes nothing here.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Log index.
    pub index: u64,
    /// The leader's wall clock when it proposed, milliseconds since 1970.
    pub at_ms: u64,
    /// An encoded [`Proposal`].
    pub payload: &'a [u8],
}

/// What applying a run of entries comes to. The writes, and consensus' own last-applied mark, must land in one batch.
#[derive(Debug)]
pub struct Applied {
    /// Net writes, in key order.
    pub writes: Writes,
    /// One per entry.
    pub effects: Vec<Effect>,
}

/// What one entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Log index at which the proposal took effect: the entry's own, or the first's where the entry is a copy.
    pub index: u64,
    /// An encoded [`Outcome`]; empty for an empty payload.
    pub outcome: Vec<u8>,
}

/// Row of the exactly-once window.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RequestRow {
    pub(crate) request: RequestId,
    pub(crate) reply: Vec<u8>,
}

impl Stored for RequestRow {}

/// The running hash over all changes, in apply order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct StateDigest(pub u128);

impl Stored for StateDigest {}

impl StateDigest {
    /// The hash the tables stand at.
    pub fn read(tables: &impl TablesRead) -> StateDigest {
        tables.get(&keys::system(table::STATE_DIGEST)).map_or(StateDigest::default(), |bytes| codec::row(&bytes))
    }

    fn extend(&mut self, index: u64, writes: &Writes) {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&self.0.to_be_bytes());
        hasher.update(&index.to_be_bytes());
        for (key, value) in writes {
            hasher.update(&(key.len() as u64).to_be_bytes());
            hasher.update(key);
            match value {
                Some(value) => {
                    hasher.update(&(value.len() as u64 + 1).to_be_bytes());
                    hasher.update(value);
                }
                None => hasher.update(&0u64.to_be_bytes()),
            }
        }
        self.0 = hasher.digest128();
    }
}

/// The machine beside the tables: a view of the exactly-once window, rebuilt whenever the tables are replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Machine {
    requests: BTreeMap<RequestId, u64>,
    /// The same, oldest first: what the window forgets next.
    order: VecDeque<(u64, RequestId)>,
}

impl Machine {
    /// Builds the view from `tables`: at start, and after a snapshot was installed.
    pub fn open(tables: &impl TablesRead) -> Machine {
        let mut machine = Machine::default();
        Pages::between(keys::request(0), keys::request(u64::MAX), 4096).each(tables, |key, value| {
            let row: RequestRow = codec::row(value);
            let index = keys::request_index(key).expect("a request key holds an index");
            machine.requests.insert(row.request, index);
            machine.order.push_back((index, row.request));
        });
        machine
    }

    /// Applies entries in order; nothing is written, the caller lands [`Applied::writes`] on `base` before the next
    /// call.
    ///
    /// An error means this binary can't apply what the others did, and must stop.
    pub fn apply<T: TablesRead>(&mut self, base: &T, entries: &[Entry<'_>]) -> Result<Applied, CodecError> {
        let mut overlay = Overlay::new(base);
        let mut digest = StateDigest::read(base);
        let mut effects = Vec::with_capacity(entries.len());
        for entry in entries {
            effects.push(match entry.payload {
                [] => Effect { index: entry.index, outcome: Vec::new() },
                payload => self.apply_one(&mut overlay, &mut digest, entry, payload)?,
            });
        }
        overlay.put(keys::system(table::STATE_DIGEST), codec::encode(&digest));
        overlay.keep();
        Ok(Applied { writes: overlay.into_writes(), effects })
    }

    fn apply_one<T: TablesRead>(
        &mut self,
        overlay: &mut Overlay<'_, T>,
        digest: &mut StateDigest,
        entry: &Entry<'_>,
        payload: &[u8],
    ) -> Result<Effect, CodecError> {
        let sealed = Sealed::decode(payload)?;
        let request = sealed.request();
        if let Some(index) = self.requests.get(&request).copied() {
            let row = overlay.get(&keys::request(index)).expect("the window's view names rows that exist");
            return Ok(Effect { index, outcome: codec::row::<RequestRow>(&row).reply });
        }
        let index = entry.index;
        if !in_window(index, sealed.base()) {
            return Ok(Effect { index, outcome: refused(Refusal::ProposalExpired).encode() });
        }
        let mut run = Run { digest, index, asks_digest: false };
        let outcome = match cluster::read(overlay).map(|cluster| cluster.feature_level) {
            // judged before its commands are read: a command unknown here is refused by nodes of every age alike
            Some(level) if sealed.min_level() > level => refused(Refusal::FeatureLevel { level: level.into() }),
            Some(_) | None => run.commands(overlay, entry, sealed.open()?),
        };
        let outcome = outcome.encode();
        self.remember(overlay, request, index, &outcome);
        run.keep(overlay);
        // a digest asked for by this entry is the one that includes the entry
        if run.asks_digest {
            cluster::note_digest(overlay, index, *digest);
            overlay.keep();
        }
        Ok(Effect { index, outcome })
    }

    /// Puts the reply into the window and drops what can't be asked for any more.
    fn remember<T: TablesRead>(&mut self, overlay: &mut Overlay<'_, T>, request: RequestId, index: u64, reply: &[u8]) {
        overlay.put(keys::request(index), codec::encode(&RequestRow { request, reply: reply.to_vec() }));
        self.requests.insert(request, index);
        self.order.push_back((index, request));
        // a copy of a forgotten request has index - base > W and is refused; entries that remember nothing (blank ones,
        // copies) leave theirs to the next one, so this may be more than one
        while let Some((old, request)) = self.order.front().copied()
            && index - old > REQUEST_WINDOW_ENTRIES
        {
            self.order.pop_front();
            self.requests.remove(&request);
            overlay.delete(keys::request(old));
        }
    }
}

/// Whether an entry's copies are all told apart from it: its request was made at most W entries ago, and before it.
/// A `base` at or above the entry's own index was made in another life of the log, so nothing is known about it.
fn in_window(index: u64, base: u64) -> bool {
    base < index && index - base <= REQUEST_WINDOW_ENTRIES
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome { replies: Vec::new(), refusal: Some(refusal) }
}

/// One entry under way.
struct Run<'a> {
    digest: &'a mut StateDigest,
    index: u64,
    asks_digest: bool,
}

impl Run<'_> {
    /// What is staged stays, and is part of the running hash.
    fn keep<T: TablesRead>(&mut self, overlay: &mut Overlay<'_, T>) {
        self.asks_digest |= cluster::asks_digest(overlay.staged());
        self.digest.extend(self.index, overlay.staged());
        overlay.keep();
    }

    /// Runs the commands of an envelope until one refuses.
    fn commands<T: TablesRead>(
        &mut self,
        overlay: &mut Overlay<'_, T>,
        entry: &Entry<'_>,
        proposal: Proposal,
    ) -> Outcome {
        clock::advance(overlay, entry.at_ms);
        self.keep(overlay);
        let mut outcome = Outcome { replies: Vec::with_capacity(proposal.commands.len()), refusal: None };
        let mut tags = 0;
        for command in proposal.commands {
            if tags > OUTCOME_TAGS_MAX {
                let limit = "tags in one answer".to_owned();
                outcome.refusal = Some(Refusal::LimitReached { limit, allowed: OUTCOME_TAGS_MAX as u64 });
                break;
            }
            // read anew for each command: split into entries of their own they would see what those before them did
            let slot = command.slot();
            let (clock, level) = (clock::read(overlay), upgrade::level_of(overlay, slot));
            let context = Context { index: entry.index, clock, principal: &proposal.principal, level };
            match command.apply(&context, overlay) {
                Ok(reply) => {
                    assert_one_slot(overlay.staged(), slot);
                    self.keep(overlay);
                    tags += reply.tags();
                    outcome.replies.push(reply);
                }
                Err(refusal) => {
                    overlay.discard();
                    outcome.refusal = Some(refusal);
                    break;
                }
            }
        }
        outcome
    }
}

/// A command that wrote outside its slot could not be moved to another group: a bug that must not reach a disk.
fn assert_one_slot(staged: &Writes, slot: keys::Slot) {
    for key in staged.keys() {
        assert!(key.starts_with(&slot.to_be_bytes()), "a command of slot {slot} wrote {key:02x?}");
    }
    assert!(slot < keys::SLOTS || slot == SYSTEM, "slot {slot} does not exist");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::clock::Tick;
    use crate::metadata::cluster::{FEATURE_LEVEL, TakeDigest};
    use crate::metadata::command::Command;
    use crate::metadata::testing::World;

    fn expired(outcome: &Outcome) -> bool {
        outcome.refusal == Some(Refusal::ProposalExpired)
    }

    /// Moves the log on by entries that remember nothing.
    fn blank(world: &mut World, entries: u64) {
        world.index += entries;
    }

    // A copy of a proposal answers what the first one did, and where, and changes nothing, to the last entry of the
    // window.
    #[test]
    fn copies_apply_once() {
        let mut world = World::cluster();
        let tick = world.proposal(vec![Tick { expected: 0 }.into()]);
        let first = world.effect(&tick);
        assert_eq!(first.index, world.index);
        blank(&mut world, REQUEST_WINDOW_ENTRIES - 1);
        let rows = world.tables.clone();
        assert_eq!(world.effect(&tick), first);
        assert_eq!(world.tables, rows);
        assert_eq!(clock::read(&world.tables).tick, 1);
    }

    // Whatever index a copy comes at, it is either told from the first or refused: never applied again.
    #[test]
    fn no_gap_at_the_edge() {
        for later in REQUEST_WINDOW_ENTRIES - 3..REQUEST_WINDOW_ENTRIES + 4 {
            let mut world = World::cluster();
            let touch = world.proposal(vec![TakeDigest {}.into()]);
            let first = world.enter(&touch);
            blank(&mut world, later - 1);
            world.ok(Tick { expected: 0 });
            let copy = world.enter(&touch);
            assert!(copy == first || expired(&copy), "{later}: {copy:?}");
            let is_new = world.proposal(vec![TakeDigest {}.into()]);
            assert!(!expired(&world.enter(&is_new)));
        }
    }

    // A base that is not below its own entry says nothing about earlier copies.
    #[test]
    fn foreign_bases_are_refused() {
        let mut world = World::cluster();
        for (base, refused) in [(0, false), (world.index, false), (world.index + 9, true), (u64::MAX, true)] {
            let proposal = Proposal { base, ..world.proposal(vec![TakeDigest {}.into()]) };
            assert_eq!(expired(&world.enter(&proposal)), refused, "{base}");
        }
    }

    // What the window forgets leaves the tables and the view, also when the entry that would have dropped it was blank.
    #[test]
    fn the_window_forgets() {
        let mut world = World::cluster();
        for _ in 0..5 {
            world.propose(vec![TakeDigest {}.into()]);
        }
        blank(&mut world, REQUEST_WINDOW_ENTRIES + 10);
        world.propose(vec![TakeDigest {}.into()]);
        let rows = world.tables.range(&keys::request(0), &keys::request(u64::MAX), 9);
        assert_eq!(rows.len(), 1, "old requests are left behind");
        assert_eq!(world.machine.requests.len(), 1);
        assert_eq!(Machine::open(&world.tables), world.machine);
    }

    // A proposal above the cluster's level is refused by its envelope alone: no node needs to know its commands.
    #[test]
    fn levels() {
        let mut world = World::cluster();
        let above = Proposal { min_level: FEATURE_LEVEL + 1, ..world.proposal(vec![Tick { expected: 0 }.into()]) };
        let refusal = Some(Refusal::FeatureLevel { level: FEATURE_LEVEL.into() });
        assert_eq!(world.enter(&above).refusal, refusal);
        assert_eq!(clock::read(&world.tables).tick, 0);
        let unknown = Proposal { request: RequestId(99), ..above };
        let mut bytes = unknown.encode();
        let number = bytes.iter().rposition(|byte| *byte == 2).unwrap();
        bytes[number] = 250;
        assert!(Proposal::decode(&bytes).is_err());
        let entry = Entry { index: 20, at_ms: 1, payload: &bytes };
        let applied = world.machine.apply(&world.tables, &[entry]).unwrap();
        assert_eq!(Outcome::decode(&applied.effects[0].outcome).unwrap().refusal, refusal);
    }

    // A command sees what those before it in its envelope did to the clock, as it would in an entry of its own.
    #[test]
    fn envelopes_read_the_clock_anew() {
        let mut world = World::cluster();
        let ticks: Vec<Command> = (0..3).map(|expected| Tick { expected }.into()).collect();
        let outcome = world.propose(ticks);
        assert!(outcome.replies.iter().all(|reply| *reply == crate::metadata::reply::Reply::Done));
        assert_eq!(clock::read(&world.tables).tick, 3);
    }
}
