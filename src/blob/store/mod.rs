//! The node-local blob store: one volume of verified, immutable bytes.
//!
//! What it is: [`BlobStore`], implemented on a file system ([`fs`]), on a bucket that nodes share ([`s3`]) and in
//! memory ([`memory`], the twin that the simulator and the property tests use). Bytes arrive as an *upload* (begin →
//! append → seal → place), as a small blob in one call ([`BlobStore::put`]) or from another node
//! ([`BlobStore::import`]); they leave as [`Blocks`] that were checked after they were read. Everything that is
//! visible under a digest is whole, verified and durable.
//!
//! What it never does: decide which blobs live (the metadata does), talk to another node (`blob::transfer` does), hand
//! out a byte that wasn't checked, or trust a digest that it did not compute itself.
//!
//! All methods block. Callers run them on blocking threads; none of them may be called on an async worker.
//!
//! Where to start: the trait below, then [`UploadWriter`] and [`BlobReader`]; then `fs/mod.rs`, whose opening comment
//! maps the directory. Source: reference "consensus and faults" §5.2–5.7.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{StoreId, UploadId};
pub use registry_core::vocabulary::limits::{BLOCK_BYTES, PACK_BLOB_BYTES_MAX};

mod block;
mod error;
pub mod fs;
mod key;
mod lock;
pub mod memory;
mod paced;
pub mod s3;
mod settings;
mod status;
mod step;
#[cfg(test)]
mod suite;
mod tally;

pub use block::{Blocks, READ_BYTES_MAX, block_sum};
pub use error::{OpenError, StoreError};
pub use key::BlobKey;
pub use lock::DigestLock;
pub use paced::paced;
pub use settings::{Clock, Options, Settings};
pub use status::{
    BlobStat, Compaction, Health, Home, Pressure, Scrubbed, UploadPhase, UploadStatus, Usage, WalkCursor, WalkEntry,
    WalkPage,
};
pub use step::{Step, StepHook};

/// Shorthand for results of the store.
pub type StoreResult<T> = Result<T, StoreError>;

/// One blob volume. Object safe; shared as `Arc<dyn BlobStore>`; locked internally per digest and per upload.
pub trait BlobStore: Send + Sync + 'static {
    /// The identity in the volume's marker file.
    fn store_id(&self) -> StoreId;

    /// Whether other stores of the cluster have the very same bytes, as the nodes on a bucket do: what one of them
    /// removes is gone for all, so only what no command can name again may be removed.
    fn shares_bytes(&self) -> bool {
        false
    }

    /// Lets this life of the cluster delete what an earlier one has stored: an operator says that the other one has
    /// ended. Nothing to do where nobody else could be.
    fn adopt(&self) -> StoreResult<()> {
        Ok(())
    }

    // ---- uploads -------------------------------------------------------------------------------------------------

    /// Takes part in an upload under `epoch`: makes its empty staging if there is none, else notes the epoch.
    /// `algorithm` is the one hashed while streaming; another one is still possible at the seal, for a second read.
    ///
    /// Errors: `Fenced` when a higher epoch was noted, `Full` above the refusal watermark, `TooManyUploads`.
    fn begin_upload(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus>;

    /// Durably refuses every epoch below `epoch` from now on, and ends the writer of an older one (§5.3, 4).
    /// Noting the current epoch again only answers.
    ///
    /// Errors: `UploadUnknown`, `Fenced` when a higher epoch was noted.
    fn note_epoch(&self, id: UploadId, epoch: u64) -> StoreResult<UploadStatus>;

    /// What is staged. Errors: `UploadUnknown`. A blob placed by this upload is asked for with [`BlobStore::confirm`].
    fn upload(&self, id: UploadId) -> StoreResult<UploadStatus>;

    /// Becomes the upload's one writer until the handle is dropped. An epoch above the noted one is noted first; so it
    /// is for every verb that takes an epoch.
    ///
    /// Errors: `UploadUnknown`, `Fenced`, `Busy` while another writer or a seal runs, `Sealed`.
    fn write_upload(&self, id: UploadId, epoch: u64) -> StoreResult<Box<dyn UploadWriter>>;

    /// Reads staged bytes, at most [`READ_BYTES_MAX`]: a survivor copies its prefix to a new partner with it. Empty at
    /// the end. The receiver hashes; whole blocks whose sum is known are checked here already.
    ///
    /// Errors: `UploadUnknown`, `Fenced`.
    fn read_upload(&self, id: UploadId, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes>;

    /// Ends appending at every epoch and verifies that the staged bytes hash to `digest`; returns their size.
    /// Nothing is durable yet: see [`BlobStore::place_upload`]. A repeated seal with the same digest only confirms,
    /// also after the upload was placed.
    ///
    /// Errors: `DigestMismatch` (the staging is freed at once), `Busy`, `Fenced`, `UploadUnknown`.
    fn seal_upload(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64>;

    /// Makes the sealed bytes durable under `(digest, id)` and visible: file, sums, name and directory synced. When
    /// this returns, a power cut loses nothing; before it returns nothing is visible. A repeat only confirms.
    ///
    /// Errors: `NotSealed`, `DigestMismatch` when sealed with another digest, `UploadUnknown`, `NoSpace`,
    /// `VolumeFailed`.
    fn place_upload(&self, id: UploadId, digest: Digest) -> StoreResult<BlobStat>;

    /// Frees a staging, sealed or not, and ends its writer; false if there is none. Placed blobs stay.
    ///
    /// Errors: `Busy` while it is being sealed or placed.
    fn discard_upload(&self, id: UploadId) -> StoreResult<bool>;

    /// Stagings in the order of their ids, at most `limit`, after `after`.
    fn uploads(&self, after: Option<UploadId>, limit: usize) -> Vec<UploadStatus>;

    /// Discards stagings that nobody works on or touched for `idle_ms` on this store's clock, at most `limit`; returns
    /// them. What is sealed but not placed goes too: nobody was told that it is durable.
    fn expire_uploads(&self, idle_ms: u64, limit: usize) -> StoreResult<Vec<UploadId>>;

    // ---- blobs in one go -----------------------------------------------------------------------------------------

    /// Stores a small blob (≤ [`PACK_BLOB_BYTES_MAX`]) durably, group-committed with its neighbours. A repeat only
    /// confirms.
    ///
    /// Errors: `DigestMismatch`, `TooLarge`, `Full`, `NoSpace`, `VolumeFailed`.
    fn put(&self, key: &BlobKey, bytes: &[u8]) -> StoreResult<BlobStat>;

    /// Begins to place a copy of a blob that another node holds. Nothing is visible until [`ImportWriter::finish`].
    ///
    /// Errors: `Busy` while another import of the key runs, `Exists` (durably, as `confirm` says), `Full` above the
    /// urgent watermark.
    fn import(&self, key: &BlobKey, size_bytes: u64) -> StoreResult<Box<dyn ImportWriter>>;

    // ---- what is here --------------------------------------------------------------------------------------------

    /// Locks a digest against placing, confirming and removing; waits for whoever holds it.
    fn lock(&self, digest: &Digest) -> DigestLock;

    /// Locks a digest if nobody holds it.
    fn try_lock(&self, digest: &Digest) -> Option<DigestLock>;

    /// Whether this store has the blob, without opening it. A quarantined copy is not here. Takes no lock.
    fn stat(&self, key: &BlobKey) -> StoreResult<Option<BlobStat>>;

    /// A [`BlobStore::stat`] under the digest's lock that promises durability: the answer a holder may give to
    /// "do you have it now?". Errors: `NotFound`, `VolumeFailed`.
    fn confirm(&self, key: &BlobKey) -> StoreResult<BlobStat>;

    /// Opens a blob for verified reading. The reader survives a later remove.
    ///
    /// Errors: `NotFound`, `Damaged` when no block of it can be vouched for.
    fn open(&self, key: &BlobKey) -> StoreResult<Arc<dyn BlobReader>>;

    /// The same without waiting for the disk; `None` if only [`BlobStore::open`] can tell. Never blocks.
    fn open_now(&self, _key: &BlobKey) -> Option<StoreResult<Arc<dyn BlobReader>>> {
        None
    }

    /// Reads the whole blob from the disk and hashes it. `pace` is told the bytes read so far, may sleep in it, and
    /// stops the scrub by breaking.
    ///
    /// Errors: `NotFound`. A bad copy is an answer, not an error.
    fn verify(&self, key: &BlobKey, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> StoreResult<Scrubbed>;

    /// Takes a damaged copy out of service, keeping its bytes for a look; false if it isn't here.
    fn quarantine(&self, key: &BlobKey) -> StoreResult<bool> {
        let held = self.lock(&key.digest);
        self.set_aside(&held, key.generation)
    }

    /// Takes one generation of the digest that `held` locks out of service, keeping its bytes for a look; false if it
    /// isn't here.
    fn set_aside(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool>;

    /// Frees what was quarantined at or before `before_ms` (store's clock), at most `limit`; returns how many.
    fn purge_quarantine(&self, before_ms: u64, limit: usize) -> StoreResult<usize>;

    /// Removes one generation of the digest that `held` locks; false if it isn't here. The caller takes the lock,
    /// *then* asks the metadata (after a ReadIndex) whether this store is still named, then calls this (§5.5 Files).
    fn remove(&self, held: &DigestLock, generation: UploadId) -> StoreResult<bool>;

    /// One page of the inventory: everything visible, in a fixed order, at most `limit` entries. A blob that is
    /// placed or removed meanwhile may or may not be listed; every other is listed exactly once.
    fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage>;

    // ---- the volume ----------------------------------------------------------------------------------------------

    /// Bytes used and free, and what the watermarks say.
    fn usage(&self) -> StoreResult<Usage>;

    /// Whether the volume still takes writes.
    fn health(&self) -> Health;

    /// Rewrites pack segments of which at most `live_percent` is live according to `is_live`, at most `segments` of
    /// them; deletes what nobody names. A segment that is still written to is finished first if it is so dead.
    /// `is_live` is asked under the digest's lock and must have asked the metadata.
    fn compact(
        &self,
        live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
    ) -> StoreResult<Compaction>;
}

/// The one writer of an upload. Dropping it ends the chunk; the bytes stay staged.
pub trait UploadWriter: Send {
    /// The next offset.
    fn offset(&self) -> u64;

    /// Appends `parts`, one after the other, at `offset`, which must be [`UploadWriter::offset`]; returns the new one.
    /// 256 KiB to 1 MiB per call is cheapest. After an error the staging ends at the last good offset.
    ///
    /// Errors: `OffsetMismatch`, `Fenced` once a higher epoch was noted, `UploadUnknown` once discarded, `NoSpace`,
    /// `VolumeFailed`.
    fn append(&mut self, offset: u64, parts: &[Bytes]) -> StoreResult<u64>;

    /// Goes back to `offset` ≤ the current one, hash state included.
    ///
    /// Errors: `OffsetMismatch` beyond the end, `Fenced`, `UploadUnknown`.
    fn truncate(&mut self, offset: u64) -> StoreResult<()>;
}

/// A copy on its way in. Dropping it frees the bytes.
pub trait ImportWriter: Send {
    /// Appends bytes. Errors: `TooLarge` beyond the announced size, `NoSpace`, `VolumeFailed`.
    fn append(&mut self, parts: &[Bytes]) -> StoreResult<()>;

    /// Verifies size and digest, then makes the copy durable and visible as [`BlobStore::place_upload`] does.
    ///
    /// Errors: `SizeMismatch`, `DigestMismatch`, `NoSpace`, `VolumeFailed`; the bytes are freed.
    fn finish(self: Box<Self>) -> StoreResult<BlobStat>;
}

/// An open blob. Any number of threads may read it at once.
pub trait BlobReader: Send + Sync {
    /// Which blob.
    fn key(&self) -> &BlobKey;

    /// Its size in bytes.
    fn size_bytes(&self) -> u64;

    /// The verified blocks that cover `offset .. offset + len` (at least the block of `offset`), cut to the blob's size
    /// and to [`READ_BYTES_MAX`] bytes from the first block on. The bytes returned are the buffer that was checked.
    ///
    /// Errors: `Damaged` with the offset of the first bad block; `OutOfRange` at or beyond the end (but for an empty
    /// blob, which answers no block at offset 0).
    fn read_blocks(&self, offset: u64, len: usize) -> StoreResult<Blocks>;

    /// The same without waiting for the disk; `None` if only [`BlobReader::read_blocks`] can tell. Never blocks.
    fn read_blocks_now(&self, _offset: u64, _len: usize) -> Option<StoreResult<Blocks>> {
        None
    }
}
