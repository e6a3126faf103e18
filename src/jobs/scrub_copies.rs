//! Reads every copy on this node's volume again, slowly, all the time, and looks for copies that the state counts on
//! and that are not here.
//!
//! A round first goes over the records that name this volume (the inventory: what is missing is taken off its record,
//! so that it is made again), then over the files (each is hashed whole: a bad one is set aside and taken off its
//! record). Where it is, is kept in a file, so that a restart goes on there. Never deletes a byte that may be good:
//! what nobody names is [`free_files`](super::free_files)' business. Source: consensus-and-faults §5.6.

mod inventory;
mod progress;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use registry_core::metadata::blob::{self, UnconfirmReplica};
use registry_core::vocabulary::ids::StoreId;

pub use self::progress::{Progress, Scrub};
use super::driver::{Reconciler, Step, StepFuture};
use super::pace::{Pace, Rests, pause};
use super::volume::blocking;
use crate::blob::store::{BlobKey, BlobStore, Scrubbed, StoreError, StoreResult, WalkCursor, paced};
use crate::ground::Shutdown;
use crate::ground::traffic::Traffic;
use crate::metadata::Metadata;

/// Files hashed in one step.
const FILES_PER_STEP: usize = 32;
/// It has time.
const RESTS: Rests = Rests { busy: 9.0, quiet: 3.0 };

/// Every node's job: verifies the copies on its volume.
pub struct ScrubCopies {
    metadata: Metadata,
    store: Arc<dyn BlobStore>,
    scrub: Scrub,
    bytes_per_s: u64,
    principal: String,
    shutdown: Shutdown,
    pace: Mutex<Pace>,
}

impl std::fmt::Debug for ScrubCopies {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ScrubCopies")
    }
}

impl ScrubCopies {
    /// For this volume of the node that calls itself `principal`; reads at most so many bytes a second. What comes of
    /// it is told in `scrub`.
    pub fn new(
        metadata: Metadata,
        store: Arc<dyn BlobStore>,
        scrub: Scrub,
        bytes_per_s: u64,
        traffic: Traffic,
        principal: String,
        shutdown: Shutdown,
    ) -> ScrubCopies {
        let (bytes_per_s, pace) = (bytes_per_s.max(1), Mutex::new(Pace::new(traffic, RESTS)));
        ScrubCopies { metadata, store, scrub, bytes_per_s, principal, shutdown, pace }
    }

    fn store_id(&self) -> StoreId {
        self.store.store_id()
    }

    /// Whether the state counts on this copy here.
    fn is_named(&self, key: &BlobKey) -> bool {
        let store = self.store_id();
        let row = self.metadata.peek(|view| blob::read(view, &key.digest));
        row.is_some_and(|row| row.generation == key.generation && row.stores.contains(&store))
    }

    /// Takes copies off their records, so that others are made. Says whether it was written down.
    async fn take_off(&self, keys: &[BlobKey]) -> bool {
        let store = self.store_id();
        let off = |key: &BlobKey| UnconfirmReplica { digest: key.digest, generation: key.generation, store }.into();
        match self.metadata.propose(&self.principal, keys.iter().map(off).collect()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, copies = keys.len(), "bad or missing copies are still on their records");
                false
            }
        }
    }

    /// Hashes one file, at the wished pace; `None` if it is gone.
    async fn read(&self, key: BlobKey) -> StoreResult<Option<Scrubbed>> {
        let (scrub, shutdown, bytes_per_s) = (self.scrub.clone(), self.shutdown.clone(), self.bytes_per_s);
        let verify = move |store: &dyn BlobStore| {
            let began = Instant::now();
            let stops = || shutdown.is_requested() || scrub.is_paused();
            store.verify(&key, &mut |bytes| paced(bytes, began, bytes_per_s, stops))
        };
        match blocking(&self.store, verify).await {
            Err(StoreError::NotFound) => Ok(None),
            read => read.map(Some),
        }
    }

    /// The next files; whether the round goes on.
    async fn scrub_on(&self) -> StoreResult<bool> {
        let after = self.scrub.cursor().map(WalkCursor);
        let page = blocking(&self.store, move |store| store.walk(after.as_ref(), FILES_PER_STEP)).await?;
        for entry in page.entries.iter().filter(|entry| self.is_named(&entry.key)) {
            let key = entry.key;
            match self.read(key).await? {
                Some(Scrubbed::Good { size_bytes }) => self.scrub.good(size_bytes),
                None => {}
                // the page is read again when it goes on
                Some(Scrubbed::Stopped) => return Ok(false),
                Some(Scrubbed::Bad) => {
                    tracing::error!(digest = %key.digest, "a copy has rotted; it is set aside and made again");
                    self.scrub.bad();
                    blocking(&self.store, move |store| store.quarantine(&key)).await?;
                    self.take_off(&[key]).await;
                }
            }
        }
        Ok(self.scrub.advance(page.next.map(|next| next.0)))
    }

    async fn go_on(&self) -> StoreResult<bool> {
        if let Some(slot) = self.scrub.inventory_at() {
            return self.take_inventory(slot).await;
        }
        self.scrub_on().await
    }
}

impl Reconciler for ScrubCopies {
    fn name(&self) -> &'static str {
        "scrub_copies"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn rests_itself(&self) -> bool {
        true
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.scrub.begins_or_goes_on(self.store_id()) {
                return Step::IDLE;
            }
            let began = Instant::now();
            match self.go_on().await {
                Ok(more) => {
                    let rest = self.pace.lock().rest(began.elapsed(), None);
                    pause(rest).await;
                    Step { done: 1, failed: 0, more }
                }
                Err(error) => {
                    tracing::warn!(%error, "copies could not be verified; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}
