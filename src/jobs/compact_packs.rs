//! Rewrites pack segments of which little is alive, so that deleted small blobs give their space back.
//!
//! A record counts as alive unless the state says, after a round to the leader that began while its digest was locked,
//! that no command can name it any more.

use std::sync::Arc;
use std::time::Duration;

use registry_core::metadata::sweep::{self, Fate};
use registry_core::vocabulary::ids::StoreId;
use tokio::runtime::Handle;

use super::driver::{Reconciler, Step, StepFuture};
use super::volume::blocking;
use crate::blob::store::{BlobKey, BlobStore, Compaction, Pressure, StoreResult};
use crate::metadata::{Consistency, Metadata};

/// Segments rewritten in one step.
const SEGMENTS_PER_STEP: usize = 1;
/// A segment is rewritten when at most this much of it is alive.
const LIVE_PERCENT: u8 = 50;
/// The same while the volume is nearly full: more is copied for less.
const LIVE_PERCENT_URGENT: u8 = 90;
/// The same while all packs together are so small that rewriting them costs nothing to speak of.
const LIVE_PERCENT_SMALL: u8 = 99;
/// See [`LIVE_PERCENT_SMALL`].
const SMALL_BYTES: u64 = 4 << 20;

/// Every node's job: compacts packs.
pub struct CompactPacks {
    metadata: Metadata,
    store: Arc<dyn BlobStore>,
}

impl std::fmt::Debug for CompactPacks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("CompactPacks")
    }
}

impl CompactPacks {
    /// For this volume.
    pub fn new(metadata: Metadata, store: Arc<dyn BlobStore>) -> CompactPacks {
        CompactPacks { metadata, store }
    }
}

/// Blocks; on a thread of its own.
fn compact(metadata: &Metadata, store: &dyn BlobStore, runtime: &Handle) -> StoreResult<Compaction> {
    let usage = store.usage()?;
    if usage.pack_dead_bytes == 0 {
        return Ok(Compaction::default());
    }
    let live_percent = match usage.pressure {
        _ if usage.pack_bytes <= SMALL_BYTES => LIVE_PERCENT_SMALL,
        Pressure::None => LIVE_PERCENT,
        Pressure::Full | Pressure::Refuse | Pressure::Urgent => LIVE_PERCENT_URGENT,
    };
    let id = store.store_id();
    store.compact(live_percent, SEGMENTS_PER_STEP, &mut |key| is_live(metadata, id, runtime, key))
}

fn is_live(metadata: &Metadata, store: StoreId, runtime: &Handle, key: &BlobKey) -> bool {
    let may_go = || {
        let fate = metadata.peek(|view| sweep::fate(view, &key.digest, &key.generation, store));
        // one that nobody remembers is for the walk to set aside
        fate == Fate::Closed
    };
    // to keep a record for too long is safe: only what looks dead is worth a round to the leader
    !may_go() || runtime.block_on(metadata.ready(Consistency::Linearizable)).is_err() || !may_go()
}

impl Reconciler for CompactPacks {
    fn name(&self) -> &'static str {
        "compact_packs"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let (metadata, runtime) = (self.metadata.clone(), Handle::current());
            match blocking(&self.store, move |store| compact(&metadata, store, &runtime)).await {
                Ok(Compaction { segments: 0, .. }) => Step::IDLE,
                Ok(done) => {
                    tracing::info!(copied = done.copied, bytes = done.freed_bytes, "a pack segment was rewritten");
                    metrics::counter!("portolan_blob_packs_compacted_total").increment(done.segments as u64);
                    Step { done: done.segments as u64, failed: 0, more: false }
                }
                Err(error) => {
                    tracing::warn!(%error, "packs could not be compacted; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}
