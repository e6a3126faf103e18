//! Copies read from their disks and hashed because somebody asks now, beside what each node's scrub does in its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::limits::{VERIFY_BYTES_PER_SECOND, VERIFY_COPY_TIMEOUT_MS};
use tokio_util::sync::CancellationToken;

use super::holder::Holder;
use super::volumes::blocking;
use super::wire;
use super::{Transfer, TransferError, TransferResult};
use crate::blob::store::{BlobKey, Scrubbed, StoreError, paced};

/// Hashing a copy may take long; that its node is alive is watched by the connection.
const TIMEOUT: Duration = Duration::from_millis(VERIFY_COPY_TIMEOUT_MS);

/// What a copy was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Its bytes hash to its digest.
    Good,
    /// They do not: it is set aside.
    Bad,
    /// The store does not have it.
    Missing,
}

impl Transfer {
    /// Has stores, all at once, read their copies of a blob whole and hash them. What is bad is set aside there and
    /// goes off its record; what is missing the caller may take off.
    ///
    /// Errors, of each store: `StoreUnknown`, `Unreachable`, `Store`.
    pub async fn verify(&self, key: BlobKey, stores: &[StoreId]) -> Vec<(StoreId, TransferResult<Verified>)> {
        let asked = stores.iter().map(|store| async move { (*store, self.verify_at(*store, key).await) });
        join_all(asked).await
    }

    async fn verify_at(&self, store: StoreId, key: BlobKey) -> TransferResult<Verified> {
        let holder = &self.inner.holder;
        if holder.volumes.get(store).is_some() {
            let late = |_| TransferError::Unreachable { node: holder.node, detail: "its disk takes too long".into() };
            return tokio::time::timeout(TIMEOUT, holder.verify(store, key)).await.map_err(late)?;
        }
        let directory = self.inner.peers.directory();
        let seat = directory.node_of(store).ok_or(TransferError::StoreUnknown(store))?;
        let peer = self.inner.peers.get(seat.id)?;
        let request = wire::blob_request(store, &key);
        let reply = peer.call(TIMEOUT, peer.control().verify(request)).await?;
        let unread = || TransferError::Rejected { node: seat.id, detail: "said nothing of the copy".into() };
        wire::verified(&reply).ok_or_else(unread)
    }
}

impl Holder {
    /// Hashes a copy of this node, in its turn and at its pace.
    pub(super) async fn verify(&self, store: StoreId, key: BlobKey) -> TransferResult<Verified> {
        let volume = self.volumes.get(store).ok_or(TransferError::StoreUnknown(store))?;
        let own = |error| TransferError::Store { node: self.node, error };
        let stopped = || TransferError::Unreachable { node: self.node, detail: "it stops".into() };
        let turn = Arc::clone(&self.verifies).acquire_owned().await.map_err(|_| stopped())?;
        let left = CancellationToken::new();
        let _waits = left.clone().drop_guard();
        let reading = Arc::clone(&volume);
        let read = blocking(move || {
            let (_turn, began) = (turn, Instant::now());
            let is_left = || left.is_cancelled();
            reading.verify(&key, &mut |bytes| paced(bytes, began, VERIFY_BYTES_PER_SECOND, is_left))
        });
        match read.await {
            Ok(Scrubbed::Good { .. }) => Ok(Verified::Good),
            Ok(Scrubbed::Bad) => {
                // off its record too, whether who asks is still there or not
                let (key_of, detail) = (Box::new(key), "a copy has rotted");
                self.report(store, key, &StoreError::Damaged { key: key_of, offset: 0, detail }).await;
                Ok(Verified::Bad)
            }
            Ok(Scrubbed::Stopped) => Err(stopped()),
            Err(StoreError::NotFound) => Ok(Verified::Missing),
            Err(error) => Err(own(error)),
        }
    }
}
