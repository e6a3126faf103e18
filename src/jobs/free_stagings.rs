//! Frees what abandoned uploads have staged on this node's volume, a day after they were touched last.
//!
//! That only ends the upload, so it needs no word from anybody: no commit can name bytes that were never sealed, and
//! one that was sealed and not placed was never told durable. Its client is told that the upload is unknown.

use std::sync::Arc;
use std::time::Duration;

use registry_core::vocabulary::limits::UPLOAD_IDLE_MS;

use super::driver::{Reconciler, Step, StepFuture};
use super::volume::blocking;
use crate::blob::store::BlobStore;

/// Stagings freed in one step.
const STAGINGS_PER_STEP: usize = 256;

/// Every node's job: frees abandoned stagings.
pub struct FreeStagings {
    store: Arc<dyn BlobStore>,
}

impl std::fmt::Debug for FreeStagings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("FreeStagings")
    }
}

impl FreeStagings {
    /// For this volume.
    pub fn new(store: Arc<dyn BlobStore>) -> FreeStagings {
        FreeStagings { store }
    }
}

impl Reconciler for FreeStagings {
    fn name(&self) -> &'static str {
        "free_stagings"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let expire = |store: &dyn BlobStore| store.expire_uploads(UPLOAD_IDLE_MS, STAGINGS_PER_STEP);
            match blocking(&self.store, expire).await {
                Ok(freed) if freed.is_empty() => Step::IDLE,
                Ok(freed) => {
                    tracing::info!(count = freed.len(), "abandoned uploads were freed");
                    Step { done: freed.len() as u64, failed: 0, more: freed.len() == STAGINGS_PER_STEP }
                }
                Err(error) => {
                    tracing::warn!(%error, "abandoned uploads could not be freed; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use registry_core::vocabulary::digest::Algorithm;
    use registry_core::vocabulary::ids::{ClusterId, StoreId, UploadId};

    use super::*;
    use crate::blob::store::Options;
    use crate::blob::store::fs::{FsStore, Identity};

    // An upload that nobody touched for a day is freed, one that was touched since is not.
    #[tokio::test]
    async fn a_day_later() {
        let (dir, now_ms) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1_000)));
        let clock = Arc::clone(&now_ms);
        let options = Options::new(Arc::new(move || clock.load(Ordering::Relaxed)));
        let store = FsStore::open(dir.path(), ClusterId(1), Identity::FirstUse(StoreId(1)), options).unwrap();
        let store: Arc<dyn BlobStore> = Arc::new(store);
        let upload = |random| UploadId { tick: 0, random };
        for random in [1, 2] {
            store.begin_upload(upload(random), 1, Algorithm::Sha256).unwrap();
        }
        let job = FreeStagings::new(Arc::clone(&store));
        assert_eq!(job.step().await, Step::IDLE);
        now_ms.fetch_add(UPLOAD_IDLE_MS / 2, Ordering::Relaxed);
        store.note_epoch(upload(2), 2).unwrap();
        now_ms.fetch_add(UPLOAD_IDLE_MS / 2 + 1, Ordering::Relaxed);
        assert_eq!(job.step().await, Step { done: 1, failed: 0, more: false });
        assert!(store.upload(upload(1)).is_err() && store.upload(upload(2)).is_ok());
    }
}
