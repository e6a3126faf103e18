//! This node's own stores, and the way onto blocking threads.

use std::sync::Arc;

use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};

use crate::blob::store::{BlobKey, BlobStore, StoreError, StoreResult};
use crate::ground::threads;

use super::{StoreHealth, TransferError, TransferResult};

/// The stores of this node. Its methods block, as those of the stores do.
#[derive(Clone)]
pub(super) struct Volumes(Arc<[Arc<dyn BlobStore>]>);

impl Volumes {
    pub(super) fn new(stores: Vec<Arc<dyn BlobStore>>) -> Volumes {
        Volumes(stores.into())
    }

    /// A store by its id. Never blocks.
    pub(super) fn get(&self, id: StoreId) -> Option<Arc<dyn BlobStore>> {
        self.0.iter().find(|store| store.store_id() == id).cloned()
    }

    /// The store on which an upload is staged.
    pub(super) fn staging(&self, upload: UploadId) -> Option<Arc<dyn BlobStore>> {
        self.0.iter().find(|store| store.upload(upload).is_ok()).cloned()
    }

    /// The store on which an upload is staged or was placed as `key`.
    pub(super) fn holding(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobStore>> {
        if let Some(store) = self.staging(key.generation) {
            return Ok(store);
        }
        for store in self.0.iter() {
            if store.stat(key)?.is_some() {
                return Ok(Arc::clone(store));
            }
        }
        Err(StoreError::UploadUnknown)
    }

    /// Whether what one node stores the others have as well: a bucket that they share.
    pub(super) fn share_bytes(&self) -> bool {
        self.0.iter().any(|store| store.shares_bytes())
    }

    /// Tells each that an earlier life of the cluster has ended.
    pub(super) fn adopt(&self) -> StoreResult<()> {
        self.0.iter().try_for_each(|store| store.adopt())
    }

    /// The store with the most room that still works.
    pub(super) fn roomiest(&self) -> StoreResult<Arc<dyn BlobStore>> {
        if let [only] = &*self.0 {
            return Ok(Arc::clone(only));
        }
        let is_well = |store: &&Arc<dyn BlobStore>| store.health().failed.is_none();
        let room = |store: &&Arc<dyn BlobStore>| store.usage().map_or(0, |usage| usage.free_bytes);
        let roomiest = self.0.iter().filter(is_well).max_by_key(room).cloned();
        roomiest.ok_or(StoreError::VolumeFailed { reason: "no blob volume of this node takes writes".into() })
    }

    /// Frees an upload wherever it is.
    pub(super) fn discard(&self, upload: UploadId) -> StoreResult<bool> {
        let mut was_staged = false;
        for store in self.0.iter() {
            was_staged |= store.discard_upload(upload)?;
        }
        Ok(was_staged)
    }

    /// How full they are.
    pub(super) fn health(&self) -> Vec<StoreHealth> {
        self.0.iter().map(|store| store_health(&**store)).collect()
    }
}

fn store_health(store: &dyn BlobStore) -> StoreHealth {
    let is_failed = store.health().failed.is_some();
    match store.usage() {
        Ok(usage) => StoreHealth {
            store: store.store_id(),
            total_bytes: usage.total_bytes,
            free_bytes: usage.free_bytes,
            pressure: usage.pressure,
            is_failed,
        },
        Err(error) => {
            tracing::warn!(store = %store.store_id(), %error, "can't tell how full a blob volume is");
            StoreHealth {
                store: store.store_id(),
                total_bytes: 0,
                free_bytes: 0,
                pressure: crate::blob::store::Pressure::Urgent,
                is_failed: true,
            }
        }
    }
}

/// Runs a call of a store on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    joined(threads::blocking(call).await)
}

/// What a blocking call came to. A panic in a store goes on here; a cancelled call means the runtime is ending.
pub(super) fn joined<T>(result: Result<StoreResult<T>, tokio::task::JoinError>) -> StoreResult<T> {
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(StoreError::io("wait for the blob volume", std::io::Error::other(error))),
    })
}

/// Says which node's store it was.
pub(super) trait At<T> {
    fn at(self, node: NodeId) -> TransferResult<T>;
}

impl<T> At<T> for StoreResult<T> {
    fn at(self, node: NodeId) -> TransferResult<T> {
        self.map_err(|error| TransferError::Store { node, error })
    }
}
