//! The way of a job to its node's volume, whose calls block.

use std::sync::Arc;

use crate::blob::store::{BlobStore, StoreError, StoreResult};
use crate::ground::threads;

/// Runs a call of the store on a blocking thread. One that panics, or that the end of the runtime cuts off, has failed:
/// the job tries again.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<dyn BlobStore>,
    call: impl FnOnce(&dyn BlobStore) -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    let store = Arc::clone(store);
    let called = threads::blocking(move || call(&*store)).await;
    called.unwrap_or_else(|error| Err(StoreError::VolumeFailed { reason: error.to_string().into() }))
}
