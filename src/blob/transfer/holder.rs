//! What this node does as a holder of uploads and blobs, for itself and for others.
//!
//! A primary answers for both holders: it appends to its own staging and streams the same bytes to the backup. Both
//! first go back to the shorter one's end. A backup that is lost on the way does not stop the primary: it takes the
//! rest of the chunk alone and says so, and the chunk may be acknowledged once a new partner holds it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};
use registry_core::vocabulary::limits::{TRANSFER_BATCH_BYTES, UPLOADS_REMEMBERED_MAX, VERIFIES_MAX, WRITER_WAIT_MS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::blob::store::{BlobKey, BlobStore, StoreError, StoreResult, UploadPhase, UploadStatus, UploadWriter};

use super::chunk::{Mirror, PrimaryChunk};
use super::intake::{Appender, Batch};
use super::leg::Leg;
use super::peers::Peers;
use super::shares::Shares;
use super::source::Reads;
use super::volumes::{At as _, Volumes, blocking};
use super::wire::proto;
use super::{CopyFault, EpochSource, Observer, Settings, Staged, TransferError, TransferResult};

/// How often a writer that waits for the one before it looks again.
const BUSY_POLL: Duration = Duration::from_millis(50);

/// How an upload is opened for appending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) upload: UploadId,
    pub(super) epoch: u64,
    pub(super) algorithm: Algorithm,
    pub(super) acknowledged: u64,
    /// Where the client means to go on.
    pub(super) offset: Option<u64>,
    /// Who sends it, for a primary.
    pub(super) owner: u64,
}

impl Open {
    /// The opening message to a holder.
    pub(super) fn message(&self, role: proto::Role, backup: Option<NodeId>) -> proto::AppendOpen {
        proto::AppendOpen {
            upload: Some(self.upload.into()),
            epoch: self.epoch,
            algorithm: self.algorithm as u32,
            acknowledged: self.acknowledged,
            offset: self.offset,
            role: role.into(),
            backup: backup.map(|node| node.0),
            owner: self.owner,
        }
    }
}

/// This node as a holder.
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) volumes: Volumes,
    pub(super) peers: Arc<Peers>,
    epochs: Arc<dyn EpochSource>,
    observer: Arc<dyn Observer>,
    /// Uploads whose epoch this process knows: it opened them itself, or it has asked.
    known: Mutex<HashSet<UploadId>>,
    shares: Arc<Shares>,
    appends: Arc<Semaphore>,
    mirrors: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    /// Copies that are hashed because somebody asks.
    pub(super) verifies: Arc<Semaphore>,
    pub(super) reads: Reads,
    pub(super) patience: Duration,
    writer_wait: Duration,
}

impl Holder {
    pub(super) fn new(
        node: NodeId,
        volumes: Volumes,
        peers: Arc<Peers>,
        epochs: Arc<dyn EpochSource>,
        observer: Arc<dyn Observer>,
        settings: &Settings,
    ) -> Holder {
        Holder {
            node,
            volumes,
            peers,
            epochs,
            observer,
            known: Mutex::default(),
            shares: Arc::default(),
            appends: Arc::new(Semaphore::new(settings.appends_max)),
            // A backup refuses later than a primary, so that a push that was let in is not broken off for want of room.
            mirrors: Arc::new(Semaphore::new(settings.appends_max * 2)),
            fetches: Arc::new(Semaphore::new(settings.fetches_max)),
            verifies: Arc::new(Semaphore::new(VERIFIES_MAX)),
            reads: Reads::default(),
            patience: Duration::from_millis(settings.progress_timeout_ms),
            // Whoever opened the stream must still be there to hear that somebody else writes.
            writer_wait: Duration::from_millis(WRITER_WAIT_MS.min(settings.progress_timeout_ms * 3 / 5)),
        }
    }

    fn admit(&self, room: &Arc<Semaphore>) -> TransferResult<OwnedSemaphorePermit> {
        Arc::clone(room).try_acquire_owned().map_err(|_| TransferError::Overloaded { node: self.node })
    }

    /// Room for one more stream of blocks to another node.
    pub(super) fn admit_fetch(&self) -> TransferResult<OwnedSemaphorePermit> {
        self.admit(&self.fetches)
    }

    /// How many streams of blocks other nodes have open here.
    #[cfg(test)]
    pub(super) fn fetches_open(&self) -> usize {
        Settings::default().fetches_max - self.fetches.available_permits()
    }

    // ---- uploads -------------------------------------------------------------------------------------------------

    /// Takes part in an upload under an epoch.
    pub(super) async fn begin(&self, upload: UploadId, epoch: u64, algorithm: Algorithm) -> TransferResult<Staged> {
        let volumes = self.volumes.clone();
        let begun = blocking(move || {
            let store = volumes.staging(upload).map_or_else(|| volumes.roomiest(), Ok)?;
            Ok((store.store_id(), store.begin_upload(upload, epoch, algorithm)?))
        });
        let (store, status) = begun.await.at(self.node)?;
        Ok(self.staged(store, &status))
    }

    /// What is staged.
    pub(super) async fn status(&self, upload: UploadId) -> TransferResult<Staged> {
        self.with_staging(upload, move |store| store.upload(upload)).await
    }

    /// Refuses lower epochs from now on.
    pub(super) async fn note_epoch(&self, upload: UploadId, epoch: u64) -> TransferResult<Staged> {
        self.with_staging(upload, move |store| store.note_epoch(upload, epoch)).await
    }

    /// Frees an upload.
    pub(super) async fn discard(&self, upload: UploadId) -> TransferResult<bool> {
        self.known.lock().remove(&upload);
        let volumes = self.volumes.clone();
        let was_staged = blocking(move || volumes.discard(upload)).await.at(self.node)?;
        self.shares.give_back(upload);
        Ok(was_staged)
    }

    /// Verifies what is staged and makes it durable; repeats confirm. No epoch is asked for after a restart: a holder
    /// that lost its place may place its bytes, but `CommitBlob` refuses an older epoch.
    pub(super) async fn place(
        &self,
        upload: UploadId,
        epoch: u64,
        digest: Digest,
        acknowledged: u64,
    ) -> TransferResult<(StoreId, u64)> {
        let key = BlobKey::new(digest, upload);
        let place = || {
            let volumes = self.volumes.clone();
            blocking(move || {
                let store = volumes.holding(&key)?;
                // what is left of it would hash to something else, for which nobody is to blame
                if store.upload(upload).is_ok_and(|status| status.offset < acknowledged) {
                    return Err(StoreError::UploadUnknown);
                }
                store.seal_upload(upload, epoch, digest)?;
                Ok((store.store_id(), store.place_upload(upload, digest)?.size_bytes))
            })
        };
        let placed = until_free(self.writer_wait, place).await;
        // wrong bytes are freed, right ones are a blob now: either way nothing is staged any more
        if matches!(placed, Ok(_) | Err(StoreError::DigestMismatch { .. })) {
            self.known.lock().remove(&upload);
            self.shares.give_back(upload);
        }
        let placed = placed.at(self.node)?;
        Ok(placed)
    }

    /// Stores a small blob durably.
    pub(super) async fn put_small(&self, key: BlobKey, bytes: Bytes) -> TransferResult<(StoreId, u64)> {
        let volumes = self.volumes.clone();
        let put = move || {
            let store = volumes.roomiest()?;
            Ok((store.store_id(), store.put(&key, &bytes)?.size_bytes))
        };
        blocking(put).await.at(self.node)
    }

    /// Whether a store has a blob now; its size.
    pub(super) async fn confirm(&self, store: StoreId, key: BlobKey) -> TransferResult<Option<u64>> {
        let store = self.volumes.get(store).ok_or(TransferError::StoreUnknown(store))?;
        match blocking(move || store.confirm(&key)).await {
            Ok(stat) => Ok(Some(stat.size_bytes)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(TransferError::Store { node: self.node, error }),
        }
    }

    // ---- appending -----------------------------------------------------------------------------------------------

    /// Opens an upload as its primary, its backup included. Both are at the same offset then.
    pub(super) async fn open_primary(&self, open: Open, backup: Option<NodeId>) -> TransferResult<PrimaryChunk> {
        let room = self.admit(&self.appends)?;
        if open.acknowledged == 0 {
            self.take_share(open).await?;
        }
        let mut appender = self.open_writer(open).await?;
        let mut mirror = match backup {
            None => Mirror::None,
            Some(node) => match self.open_mirror(node, open).await {
                Ok(leg) => Mirror::Open(leg),
                Err(error) if error.is_holder_lost() => Mirror::Lost(error),
                Err(error) => return Err(error),
            },
        };
        let end = mirror.offset().map_or(appender.end(), |offset| offset.min(appender.end()));
        // without an offset the chunk follows what was acknowledged: bytes of a chunk that got no answer come again
        let start = if open.offset.is_some() { end } else { open.acknowledged.min(end) };
        if open.offset.is_some_and(|offset| offset != start) {
            return Err(TransferError::Store {
                node: self.node,
                error: StoreError::OffsetMismatch { expected: start },
            });
        }
        if appender.end() != start {
            appender.truncate(start).await.at(self.node)?;
        }
        if mirror.offset().is_some_and(|offset| offset != start) {
            mirror.send(start, Batch::new()).await?;
        }
        Ok(PrimaryChunk { node: self.node, appender, mirror, _room: room })
    }

    /// Counts an upload that begins against its owner's share.
    async fn take_share(&self, Open { owner, upload, .. }: Open) -> TransferResult<()> {
        if self.shares.take(owner, upload) {
            return Ok(());
        }
        let (shares, volumes) = (Arc::clone(&self.shares), self.volumes.clone());
        let swept = blocking(move || {
            shares.sweep(|upload| volumes.staging(upload).is_some());
            Ok(())
        });
        swept.await.at(self.node)?;
        if self.shares.take(owner, upload) { Ok(()) } else { Err(TransferError::ShareUsedUp { node: self.node }) }
    }

    async fn open_mirror(&self, backup: NodeId, open: Open) -> TransferResult<Leg> {
        let message = Open { offset: None, ..open }.message(proto::Role::Backup, None);
        Leg::open(self.peers.get(backup)?, message, self.patience).await
    }

    /// Opens an upload as its backup.
    pub(super) async fn open_backup(&self, open: Open) -> TransferResult<(Appender, OwnedSemaphorePermit)> {
        let room = self.admit(&self.mirrors)?;
        Ok((self.open_writer(open).await?, room))
    }

    async fn open_writer(&self, open: Open) -> TransferResult<Appender> {
        self.learn_epoch(open).await?;
        let attempt = || {
            let volumes = self.volumes.clone();
            blocking(move || open_writer(&volumes, open))
        };
        let writer = until_free(self.writer_wait, attempt).await.at(self.node)?;
        self.remember(open.upload);
        Ok(Appender::new(writer))
    }

    /// The rule of §5.3, 4: a staging that this process did not open may have been taken over while the node was away.
    async fn learn_epoch(&self, open: Open) -> TransferResult<()> {
        if self.known.lock().contains(&open.upload) {
            return Ok(());
        }
        let (volumes, upload) = (self.volumes.clone(), open.upload);
        let Some(store) = blocking(move || Ok(volumes.staging(upload))).await.at(self.node)? else {
            // Nothing is staged: nothing can be appended to that was acknowledged.
            return Ok(());
        };
        let current = self.epochs.current_epoch(upload).await;
        let current = current.map_err(|_| TransferError::EpochUnknown { node: self.node })?.unwrap_or(1);
        if current > open.epoch {
            blocking(move || store.note_epoch(upload, current)).await.at(self.node)?;
            return Err(TransferError::Store { node: self.node, error: StoreError::Fenced { current } });
        }
        self.remember(upload);
        Ok(())
    }

    fn remember(&self, upload: UploadId) {
        let mut known = self.known.lock();
        if known.len() >= UPLOADS_REMEMBERED_MAX {
            // Forgetting costs a ReadIndex per upload, nothing else.
            known.clear();
        }
        known.insert(upload);
    }

    /// As a survivor: copies what is staged here to a new partner, which hashes it anew.
    pub(super) async fn refill(&self, upload: UploadId, epoch: u64, partner: NodeId) -> TransferResult<Staged> {
        let own = self.note_epoch(upload, epoch).await?;
        let peer = self.peers.get(partner)?;
        let open = Open { upload, epoch, algorithm: own.algorithm, acknowledged: 0, offset: None, owner: 0 };
        let mut leg = Leg::open(peer, open.message(proto::Role::Backup, None), self.patience).await?;
        let mut at = 0;
        // From the start, whatever the partner has: it may be what a power cut left of an older pair's bytes.
        leg.send(0, Batch::new()).await?;
        while at < own.offset {
            let want = (own.offset - at).min(TRANSFER_BATCH_BYTES as u64) as usize;
            let bytes = self.with_store(own.store, move |store| store.read_upload(upload, epoch, at, want)).await?;
            if bytes.is_empty() {
                return Err(TransferError::Store {
                    node: self.node,
                    error: StoreError::OffsetMismatch { expected: at },
                });
            }
            let len = bytes.len() as u64;
            leg.send(at, vec![bytes]).await?;
            at += len;
        }
        let done = leg.finish(true).await?;
        if done.offset != own.offset {
            let error = StoreError::OffsetMismatch { expected: done.offset };
            return Err(TransferError::Store { node: partner, error });
        }
        Ok(Staged { node: partner, ..own })
    }

    // ---- helpers -------------------------------------------------------------------------------------------------

    async fn with_store<T: Send + 'static>(
        &self,
        store: StoreId,
        call: impl FnOnce(&dyn BlobStore) -> StoreResult<T> + Send + 'static,
    ) -> TransferResult<T> {
        let store = self.volumes.get(store).ok_or(TransferError::StoreUnknown(store))?;
        blocking(move || call(&*store)).await.at(self.node)
    }

    async fn with_staging(
        &self,
        upload: UploadId,
        call: impl FnOnce(&dyn BlobStore) -> StoreResult<UploadStatus> + Send + 'static,
    ) -> TransferResult<Staged> {
        let volumes = self.volumes.clone();
        let asked = blocking(move || {
            let store = volumes.staging(upload).ok_or(StoreError::UploadUnknown)?;
            Ok((store.store_id(), call(&*store)?))
        });
        let (store, status) = asked.await.at(self.node)?;
        Ok(self.staged(store, &status))
    }

    fn staged(&self, store: StoreId, status: &UploadStatus) -> Staged {
        Staged {
            node: self.node,
            store,
            epoch: status.epoch,
            offset: status.offset,
            algorithm: status.algorithm,
            sealed: match status.phase {
                UploadPhase::Receiving => None,
                UploadPhase::Sealed(digest) => Some(digest),
            },
        }
    }

    /// A copy of this node could not be read: takes a damaged one out of service, and tells the observer.
    pub(super) async fn report(&self, store: StoreId, key: BlobKey, error: &StoreError) {
        if error.is_damage() {
            tracing::error!(%store, blob = %key, %error, "a stored copy is damaged; quarantined");
            if let Err(error) = self.with_store(store, move |store| store.quarantine(&key)).await {
                tracing::error!(%store, blob = %key, %error, "a damaged copy could not be quarantined");
            }
            self.observer.bad_copy(store, key, CopyFault::Damaged);
        } else if matches!(error, StoreError::NotFound) {
            self.observer.bad_copy(store, key, CopyFault::Missing);
        }
    }

    /// Bytes of another node's copy arrived damaged.
    pub(super) fn report_garbled(&self, store: StoreId, key: BlobKey) {
        tracing::error!(%store, blob = %key, "bytes of a copy arrived damaged");
        self.observer.bad_copy(store, key, CopyFault::Garbled);
    }
}

fn open_writer(volumes: &Volumes, open: Open) -> StoreResult<Box<dyn UploadWriter>> {
    let Open { upload, epoch, algorithm, acknowledged, .. } = open;
    let store = match volumes.staging(upload) {
        Some(store) => {
            // An append under a higher epoch proves that the epoch exists.
            if store.upload(upload)?.epoch < epoch {
                store.note_epoch(upload, epoch)?;
            }
            store
        }
        None if acknowledged == 0 => {
            let store = volumes.roomiest()?;
            store.begin_upload(upload, epoch, algorithm)?;
            store
        }
        None => return Err(StoreError::UploadUnknown),
    };
    let writer = store.write_upload(upload, epoch)?;
    // Acknowledged bytes are missing here: the other holder must not be cut back to what is left.
    if writer.offset() < acknowledged { Err(StoreError::UploadUnknown) } else { Ok(writer) }
}

/// Repeats a call while another writer is there: that of a connection which just broke goes soon.
async fn until_free<T, F: Future<Output = StoreResult<T>>>(
    longest: Duration,
    mut call: impl FnMut() -> F,
) -> StoreResult<T> {
    let began = Instant::now();
    loop {
        match call().await {
            Err(StoreError::Busy) if began.elapsed() < longest => {
                tokio::time::sleep(BUSY_POLL).await;
            }
            result => return result,
        }
    }
}
