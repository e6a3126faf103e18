//! Makes the copies that this node should hold and does not: third copies right after a push, lost ones after a fault.
//!
//! The work is the rows `need(zone, digest)`; which volume of the zone takes the copy the placement decides, so two
//! nodes of a zone never both fetch it. Fewest copies first, then the newest; what failed rests, longer each time.

mod progress;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use registry_core::decide::placement::{Topology, assign};
use registry_core::metadata::blob;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::metadata::replica;
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{census, node};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::names::ZoneName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::driver::{Reconciler, Step, StepFuture};
use crate::blob::store::BlobKey;
use crate::blob::transfer::{BlobSource, Transfer};
use crate::metadata::Metadata;
use crate::metadata::watch::Watch;

pub use progress::{Failure, Made, RepairSettings, Repairs};

/// How often all slots are looked at, whatever was told of: a lost signal costs this long.
const PERIOD: Duration = Duration::from_secs(30);
/// Copies begun in one step.
const COPIES_PER_STEP: usize = 256;
/// Copies fetched at once; the transfer room bounds them further by bytes.
const COPIES_AT_ONCE: usize = 8;
/// Needs looked at to find the most urgent ones.
const NEEDS_PER_STEP: usize = 4096;
/// Of these, of one slot.
const NEEDS_PER_SLOT: usize = 64;

/// Every node's job: fetches the copies its volumes should hold.
#[derive(Debug)]
pub struct RepairReplicas {
    metadata: Metadata,
    transfer: Transfer,
    zone: ZoneName,
    stores: Arc<[StoreId]>,
    principal: String,
    repairs: Repairs,
    due: Mutex<Due>,
}

/// Where to look for needs: in all slots now and then, between in those that got one.
#[derive(Debug, Default)]
struct Due {
    /// What was told of by the watch so far.
    round: u64,
    slots: BTreeSet<Slot>,
    /// Where the last step stopped looking, so that a slot full of failures does not starve the others.
    next: Slot,
    looked_at_all: Option<Instant>,
}

impl Due {
    /// Takes up what has become due.
    fn refresh(&mut self, watch: &Watch, now: Instant) {
        let (round, slots) = watch.needs_since(self.round);
        self.round = round;
        self.slots.extend(slots);
        if self.looked_at_all.is_none_or(|at| now.duration_since(at) >= PERIOD) {
            self.slots.extend(0..SLOTS);
            self.looked_at_all = Some(now);
        }
    }

    /// The due slots, beginning where the last step stopped.
    fn in_turn(&self) -> Vec<Slot> {
        self.slots.range(self.next..).chain(self.slots.range(..self.next)).copied().collect()
    }
}

/// One copy to be made.
#[derive(Clone, Debug)]
struct Want {
    slot: Slot,
    source: BlobSource,
    into: StoreId,
    /// Copies on nodes that are here.
    copies: usize,
    committed_at_ms: u64,
    /// The fence as it was before anything was looked at; `None` below the level that knows of it.
    fence: Option<u64>,
}

impl RepairReplicas {
    /// For a node of `zone` with these volumes; what comes of it is told in `repairs`.
    pub fn new(
        metadata: Metadata,
        transfer: Transfer,
        zone: ZoneName,
        stores: Arc<[StoreId]>,
        principal: String,
        repairs: Repairs,
    ) -> RepairReplicas {
        RepairReplicas { metadata, transfer, zone, stores, principal, repairs, due: Mutex::default() }
    }

    /// The copies to make now, the most urgent first, and whether more are due.
    fn wants(&self, now: Instant) -> (Vec<Want>, bool) {
        let mut due = self.due.lock();
        due.refresh(self.metadata.watch(), now);
        let mut wants: Vec<Want> = Vec::new();
        let mut resting = BTreeSet::new();
        for slot in due.in_turn() {
            let before = wants.len();
            let is_full = self.metadata.peek(|view| {
                let topology = node::topology(view);
                let needs = blob::needs(view, slot, self.zone.as_str(), NEEDS_PER_SLOT);
                let (rests, ready): (Vec<_>, Vec<_>) = needs.iter().partition(|digest| self.repairs.rests(digest, now));
                resting.extend((!rests.is_empty()).then_some(slot));
                wants.extend(ready.into_iter().filter_map(|digest| self.want(view, &topology, slot, digest)));
                needs.len() == NEEDS_PER_SLOT
            });
            // a slot full of copies that others make waits for the next look at all of them
            if !is_full || wants.len() == before {
                due.slots.remove(&slot);
            }
            if wants.len() >= NEEDS_PER_STEP {
                due.next = (slot + 1) % SLOTS;
                break;
            }
        }
        wants.sort_by_key(|want| (want.copies, Reverse(want.committed_at_ms)));
        let later = wants.split_off(wants.len().min(COPIES_PER_STEP));
        due.slots.extend(later.into_iter().map(|want| want.slot));
        let more = !due.slots.is_empty();
        due.slots.extend(resting);
        (wants, more)
    }

    /// These copies were not made, or are not confirmed: their slots are looked at again.
    fn again(&self, slots: impl IntoIterator<Item = Slot>) {
        self.due.lock().slots.extend(slots);
    }

    fn want(&self, tables: &impl TablesRead, topology: &Topology, slot: Slot, digest: &Digest) -> Option<Want> {
        let row = blob::read(tables, digest)?;
        let plan = assign(topology, digest, &row.stores);
        let into = plan.add.iter().map(|choice| choice.store).find(|store| self.stores.contains(store))?;
        let copies = census::copies_here(topology, &row);
        let fence = replica::known_fence(tables, digest, &row.generation, into);
        let key = BlobKey::new(*digest, row.generation);
        let committed_at_ms = row.committed_at_ms;
        let source = BlobSource { key, size_bytes: row.size_bytes, replicas: row.stores };
        Some(Want { slot, source, into, copies, committed_at_ms, fence })
    }

    /// Makes a copy; what confirms it, or the slot to look at again.
    async fn copy(&self, want: Want) -> Result<Command, Slot> {
        let Want { slot, source, into: store, fence, .. } = want;
        let (BlobKey { digest, generation }, size_bytes) = (source.key, source.size_bytes);
        match self.transfer.replicate_here(source, store).await {
            Ok(_) => {
                self.repairs.made(&digest, size_bytes, Instant::now());
                Ok(replica::confirmation(digest, generation, store, fence))
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a missing copy could not be made; it is tried again");
                self.repairs.failed(digest, error.to_string(), Instant::now());
                Err(slot)
            }
        }
    }
}

impl Reconciler for RepairReplicas {
    fn name(&self) -> &'static str {
        "repair_replicas"
    }

    fn period(&self) -> Duration {
        self.repairs.next_due(Instant::now()).map_or(PERIOD, |due| due.min(PERIOD))
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().needs())
    }

    /// It does not rest: while clients push without a pause, copies would be missed faster than they are made, and the
    /// third zone would have none of what came last. What it may take is `repair.mib_per_s`.
    fn rests_itself(&self) -> bool {
        true
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let (wants, more) = self.wants(Instant::now());
            metrics::gauge!("portolan_blob_copies_wanted").set(wants.len() as f64);
            if wants.is_empty() {
                return Step { more, ..Step::IDLE };
            }
            let tried = wants.len() as u64;
            let slots: BTreeSet<Slot> = wants.iter().map(|want| want.slot).collect();
            let copies = futures_util::stream::iter(wants).map(|want| self.copy(want));
            let results: Vec<Result<Command, Slot>> = copies.buffer_unordered(COPIES_AT_ONCE).collect().await;
            self.again(results.iter().filter_map(|result| result.as_ref().err().copied()));
            let made: Vec<Command> = results.into_iter().filter_map(Result::ok).collect();
            let done = made.len() as u64;
            if made.is_empty() {
                return Step { done, failed: tried, more: false };
            }
            match self.metadata.propose(&self.principal, made).await {
                Ok(_) => Step { done, failed: tried - done, more },
                Err(error) => {
                    self.again(slots);
                    tracing::debug!(%error, "copies were made and not yet confirmed; they are found again");
                    Step { done: 0, failed: tried, more: false }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first look is at all slots, and so is one each period; where the last step stopped the next one begins.
    #[test]
    fn all_slots_now_and_then() {
        let (watch, mut due, now) = (Watch::default(), Due::default(), Instant::now());
        due.refresh(&watch, now);
        assert_eq!(due.slots.len(), usize::from(SLOTS));
        due.slots.clear();
        due.refresh(&watch, now + PERIOD / 2);
        assert!(due.slots.is_empty());
        due.slots.extend([1, 5, 9]);
        due.next = 5;
        assert_eq!(due.in_turn(), [5, 9, 1]);
        due.refresh(&watch, now + PERIOD);
        assert_eq!(due.slots.len(), usize::from(SLOTS));
    }
}
