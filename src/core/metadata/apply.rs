//! Applying proposals: the batch, exactly-once, the running state digest. The dispatch itself is the list in
//! [`command`](super::command).

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::clock::{self, ClockRow};
use super::cluster;
use super::codec::{self, CodecError, Stored};
use super::command::Proposal;
use super::keys::{self, SYSTEM, table};
use super::reply::Outcome;
use super::tables::{Overlay, Tables, TablesRead, Writes};
use crate::vocabulary::ids::RequestId;
use crate::vocabulary::limits::REQUEST_WINDOW_ENTRIES;
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
    /// One encoded [`Outcome`] per entry; empty for empty payloads.
    pub replies: Vec<Vec<u8>>,
}

/// Row of the exactly-once window.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct RequestRow {
    request: RequestId,
    reply: Vec<u8>,
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
#[derive(Debug, Default)]
pub struct Machine {
    requests: BTreeMap<RequestId, u64>,
}

impl Machine {
    /// Builds the view from `tables`: at start, and after a snapshot was installed.
    pub fn open(tables: &impl TablesRead) -> Machine {
        let mut requests = BTreeMap::new();
        let end = keys::request(u64::MAX);
        let mut from = keys::request(0);
        loop {
            let rows = tables.range(&from, &end, 4096);
            let Some((last, _)) = rows.last() else { return Machine { requests } };
            from = [&last[..], &[0]].concat();
            for (key, value) in rows {
                let row: RequestRow = codec::row(&value);
                requests.insert(row.request, keys::request_index(&key).expect("a request key holds an index"));
            }
        }
    }

    /// Applies entries in order; nothing is written, the caller lands [`Applied::writes`] on `base` before the next call.
    ///
    /// An error means this binary can't apply what the others did, and must stop.
    pub fn apply<T: TablesRead>(&mut self, base: &T, entries: &[Entry<'_>]) -> Result<Applied, CodecError> {
        let mut overlay = Overlay::new(base);
        let mut digest = StateDigest::read(base);
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            replies.push(match entry.payload {
                [] => Vec::new(),
                payload => self.apply_one(&mut overlay, &mut digest, entry, payload)?,
            });
        }
        overlay.put(keys::system(table::STATE_DIGEST), codec::encode(&digest));
        overlay.keep();
        Ok(Applied { writes: overlay.into_writes(), replies })
    }

    fn apply_one<T: TablesRead>(
        &mut self,
        overlay: &mut Overlay<'_, T>,
        digest: &mut StateDigest,
        entry: &Entry<'_>,
        payload: &[u8],
    ) -> Result<Vec<u8>, CodecError> {
        let proposal = Proposal::decode(payload)?;
        if let Some(index) = self.requests.get(&proposal.request) {
            let row = overlay.get(&keys::request(*index)).expect("the window's view names rows that exist");
            return Ok(codec::row::<RequestRow>(&row).reply);
        }
        if entry.index.saturating_sub(proposal.base) > REQUEST_WINDOW_ENTRIES {
            return Ok(Outcome { replies: Vec::new(), refusal: Some(Refusal::ProposalExpired) }.encode());
        }
        let request = proposal.request;
        let mut writes = Writes::new();
        let reply = run(overlay, &mut writes, entry, proposal).encode();
        self.remember(overlay, request, entry.index, &reply);
        writes.extend(overlay.staged().iter().map(|(key, value)| (key.clone(), value.clone())));
        overlay.keep();
        digest.extend(entry.index, &writes);
        // a digest asked for by this entry is the one that includes the entry
        if cluster::digest_asked(&writes, entry.index) {
            cluster::note_digest(overlay, entry.index, *digest);
            overlay.keep();
        }
        Ok(reply)
    }

    /// Puts the reply into the window and drops the one that can't be asked for any more.
    fn remember<T: TablesRead>(&mut self, overlay: &mut Overlay<'_, T>, request: RequestId, index: u64, reply: &[u8]) {
        overlay.put(keys::request(index), codec::encode(&RequestRow { request, reply: reply.to_vec() }));
        self.requests.insert(request, index);
        // a copy of a forgotten request has index - base > W and is refused; one entry more is kept for the comparison
        let Some(old) = index.checked_sub(REQUEST_WINDOW_ENTRIES + 1) else { return };
        if let Some(bytes) = overlay.get(&keys::request(old)) {
            self.requests.remove(&codec::row::<RequestRow>(&bytes).request);
            overlay.delete(keys::request(old));
        }
    }
}

/// Runs the commands of an envelope until one refuses; its writes are gathered in `writes` and kept in the overlay.
fn run<T: TablesRead>(
    overlay: &mut Overlay<'_, T>,
    writes: &mut Writes,
    entry: &Entry<'_>,
    proposal: Proposal,
) -> Outcome {
    let now = clock::advance(overlay, entry.at_ms);
    let mut outcome = Outcome { replies: Vec::with_capacity(proposal.commands.len()), refusal: None };
    let mut keep = |overlay: &mut Overlay<'_, T>| {
        writes.extend(overlay.staged().iter().map(|(key, value)| (key.clone(), value.clone())));
        overlay.keep();
    };
    keep(overlay);
    for command in proposal.commands {
        let context = Context { index: entry.index, clock: now, principal: &proposal.principal };
        let slot = command.slot();
        match command.apply(&context, overlay) {
            Ok(reply) => {
                assert_one_slot(overlay.staged(), slot);
                keep(overlay);
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

/// A command that wrote outside its slot could not be moved to another group: a bug that must not reach a disk.
fn assert_one_slot(staged: &Writes, slot: keys::Slot) {
    for key in staged.keys() {
        assert!(key.starts_with(&slot.to_be_bytes()), "a command of slot {slot} wrote {key:02x?}");
    }
    debug_assert!(slot < keys::SLOTS || slot == SYSTEM);
}
