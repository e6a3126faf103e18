//! The inventory: records that name this volume, against what lies on it.

use registry_core::metadata::blob;
use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::vocabulary::Digest;

use super::super::volume::blocking;
use super::ScrubCopies;
use crate::blob::store::{BlobKey, StoreResult};
use crate::metadata::Consistency;

/// Slots gone over in one step.
const SLOTS_PER_STEP: Slot = 16;
/// Records read at once.
const RECORDS_PER_PAGE: usize = 512;
/// Copies taken off their records by one proposal.
const COPIES_PER_PROPOSAL: usize = 256;

impl ScrubCopies {
    /// Looks for the copies of some slots; whether the round goes on.
    pub(super) async fn take_inventory(&self, from: Slot) -> StoreResult<bool> {
        let to = (from + SLOTS_PER_STEP).min(SLOTS);
        // a state from before the start may name copies that were let go meanwhile
        if self.metadata.ready(Consistency::Linearizable).await.is_err() {
            return Ok(false);
        }
        for slot in from..to {
            let mut after: Option<Digest> = None;
            loop {
                let (named, last) = self.named(slot, after.as_ref());
                if !named.is_empty() && !self.look_for(named).await? {
                    return Ok(false);
                }
                match last {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        self.scrub.inventoried(to);
        Ok(true)
    }

    /// A page of copies that the state counts on here, and where the next one begins.
    fn named(&self, slot: Slot, after: Option<&Digest>) -> (Vec<BlobKey>, Option<Digest>) {
        let store = self.store_id();
        self.metadata.peek(|view| {
            let rows = blob::list(view, slot, after, RECORDS_PER_PAGE);
            let last = rows.last().map(|(digest, _)| *digest).filter(|_| rows.len() == RECORDS_PER_PAGE);
            let here = rows.into_iter().filter(|(_, row)| row.stores.contains(&store));
            (here.map(|(digest, row)| BlobKey::new(digest, row.generation)).collect(), last)
        })
    }

    /// Takes those off their records that are not here; false if that could not be written down.
    async fn look_for(&self, named: Vec<BlobKey>) -> StoreResult<bool> {
        let absent = blocking(&self.store, move |store| {
            let is_absent = |key: &BlobKey| store.stat(key).map(|stat| stat.is_none());
            named.into_iter().filter_map(|key| is_absent(&key).map(|is| is.then_some(key)).transpose()).collect()
        });
        let absent: Vec<BlobKey> = absent.await?;
        // a sweep may have let it go since the state was read
        let missing: Vec<BlobKey> = absent.into_iter().filter(|key| self.is_named(key)).collect();
        for keys in missing.chunks(COPIES_PER_PROPOSAL) {
            let first = keys[0].digest;
            tracing::error!(copies = keys.len(), %first, "copies that the state counts on are not here; they are made again");
            if !self.take_off(keys).await {
                return Ok(false);
            }
            self.scrub.missing(keys.len() as u64);
        }
        Ok(true)
    }
}
