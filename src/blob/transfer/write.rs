//! The push, on the node that the client talks to. Each function is one step; the registry asks the metadata between
//! them.

use bytes::Bytes;
use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};

use crate::blob::store::BlobKey;

use super::{Append, Appended, Body, Holders, Placed, Staged, Transfer, TransferResult};

impl Transfer {
    /// Chooses who holds a new upload: this node if its store takes new blobs, and one in another zone (§5.3, 1).
    ///
    /// Errors: `NoPair`.
    pub fn choose_holders(&self, upload: UploadId) -> TransferResult<Holders> {
        let _ = upload;
        unimplemented!()
    }

    /// Chooses a new pair for an upload of which only `survivor` is left; the survivor is its primary.
    ///
    /// Errors: `NoPair`, `NodeUnknown`.
    pub fn choose_partner(&self, upload: UploadId, survivor: NodeId) -> TransferResult<Holders> {
        let _ = (upload, survivor);
        unimplemented!()
    }

    /// Appends a body: on this node if it is the primary, else through the primary. Reads the body no faster than both
    /// holders take it; at its end both hold the bytes or [`Appended::backup`] says why not.
    ///
    /// Both holders first truncate to the shorter one's end, which is at least what was acknowledged last.
    ///
    /// Errors: `Store` (`OffsetMismatch`, `Busy` while another writer runs, `Fenced`, `Sealed`, `UploadUnknown`, `Full`,
    /// `NoSpace`, …), `Unreachable` (the primary is lost: probe), `EpochUnknown`, `Overloaded`, `Body`.
    pub async fn append(&self, append: Append, body: Body) -> TransferResult<Appended> {
        let _ = (append, body);
        unimplemented!()
    }

    /// Seals an upload on its holders: each verifies `digest` by itself and makes the bytes durable. A repeat only
    /// confirms, also after a crash of this node.
    ///
    /// Errors when nobody placed it: `Store` (`DigestMismatch`: the bytes are freed; `Busy`; `Fenced`; …), `Unreachable`.
    pub async fn seal_and_place(
        &self,
        upload: UploadId,
        epoch: u64,
        digest: Digest,
        holders: Holders,
    ) -> TransferResult<Placed> {
        let _ = (upload, epoch, digest, holders);
        unimplemented!()
    }

    /// Stores a blob of at most `PACK_BLOB_BYTES_MAX` bytes durably on both holders at once, without a staging. The bytes
    /// are hashed here before anything is sent, and by each holder.
    ///
    /// Errors: as [`Transfer::seal_and_place`], and `TooLarge`.
    pub async fn put_small(&self, key: BlobKey, bytes: Bytes, holders: Holders) -> TransferResult<Placed> {
        let _ = (key, bytes, holders);
        unimplemented!()
    }

    /// Frees an upload on its holders; per holder whether it had one. Placed blobs stay.
    pub async fn discard(&self, upload: UploadId, holders: Holders) -> Vec<(NodeId, TransferResult<bool>)> {
        let _ = (upload, holders);
        unimplemented!()
    }

    /// What each holder has of an upload now, primary first. The acknowledged end is the shortest (`GET` of an upload).
    pub async fn probe(&self, upload: UploadId, holders: Holders) -> Vec<(NodeId, TransferResult<Staged>)> {
        let _ = (upload, holders);
        unimplemented!()
    }

    /// After `TakeUpload` was applied: makes `survivor` refuse every lower epoch, durably, and tells what it has. Nothing
    /// may be served under the new epoch before this succeeded (§5.3, 4).
    pub async fn fence(&self, survivor: NodeId, upload: UploadId, epoch: u64) -> TransferResult<Staged> {
        let _ = (survivor, upload, epoch);
        unimplemented!()
    }

    /// After [`Transfer::fence`]: copies what the survivor staged to the new partner, which hashes it anew. Answers what
    /// the partner has then; equal to the survivor's offset. May be repeated.
    pub async fn refill(
        &self,
        survivor: NodeId,
        partner: NodeId,
        upload: UploadId,
        epoch: u64,
    ) -> TransferResult<Staged> {
        let _ = (survivor, partner, upload, epoch);
        unimplemented!()
    }

    /// Asks stores, all at once, whether they have a blob *now* (§5.3, 5): its size, or `None`.
    pub async fn confirm(&self, key: BlobKey, stores: &[StoreId]) -> Vec<(StoreId, TransferResult<Option<u64>>)> {
        let _ = (key, stores);
        unimplemented!()
    }
}
