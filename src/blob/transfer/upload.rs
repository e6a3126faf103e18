//! The words of a push.

use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};

use super::{TransferError, TransferResult};

/// Who holds an upload under its current epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Appends, and answers when both hold the bytes.
    pub primary: NodeId,
    /// Holds the same bytes in another zone; none only where one node is all that is configured.
    pub backup: Option<NodeId>,
}

impl Holders {
    /// Primary first.
    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        [Some(self.primary), self.backup].into_iter().flatten()
    }
}

/// One chunk of an upload: `PATCH`, or the body of a `PUT`.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    /// Which upload.
    pub upload: UploadId,
    /// The epoch of `holders`.
    pub epoch: u64,
    /// Who holds it.
    pub holders: Holders,
    /// What is hashed while the bytes stream in (all chunks of an upload alike).
    pub algorithm: Algorithm,
    /// How many bytes were acknowledged to the client so far, at least (the upload's token says; an older token says
    /// less, never more). A holder with fewer has lost some and counts as lost (`UploadUnknown`), instead of cutting
    /// the other one back. 0 means none yet: only then the holders may make the staging.
    pub acknowledged: u64,
    /// Where the client says the chunk belongs (`Content-Range`); another end of the staged bytes is answered with
    /// `OffsetMismatch` before the body is read. `None`: after `acknowledged`; what a chunk without an answer left
    /// behind it is cut off, because the client sends it again.
    pub offset: Option<u64>,
    /// Stands for whoever sends it: how many uploads one may have staged at a primary is bounded.
    pub owner: u64,
}

/// The end of an upload: its bytes become a blob.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// Which upload; the blob's generation.
    pub upload: UploadId,
    /// The epoch of `holders`.
    pub epoch: u64,
    /// Who holds it.
    pub holders: Holders,
    /// What the bytes must hash to.
    pub digest: Digest,
    /// How many bytes were acknowledged to the client, at least. A holder with fewer has lost some and says so
    /// (`UploadUnknown`), instead of hashing what is left and calling the client's digest wrong.
    pub acknowledged: u64,
}

/// What became of a chunk.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The end of the bytes that the primary holds.
    pub offset: u64,
    /// What the backup holds.
    pub backup: Mirrored,
}

/// How far the backup came.
#[derive(Clone, Debug)]
pub enum Mirrored {
    /// There is no backup: one node is all that is configured.
    Alone,
    /// The backup holds every byte that the primary holds.
    Equal,
    /// The backup was lost on the way. The primary has gone on alone and holds the whole chunk: give it a new partner
    /// (`TakeUpload`, fence, refill), then the chunk may be acknowledged. It must not before.
    Lost(TransferError),
}

impl Appended {
    /// Whether the chunk may be acknowledged (`202`): all configured holders have all of it.
    pub fn is_acknowledgeable(&self) -> bool {
        matches!(self.backup, Mirrored::Alone | Mirrored::Equal)
    }
}

/// What one holder has of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The holder.
    pub node: NodeId,
    /// On which of its stores.
    pub store: StoreId,
    /// The highest epoch it noted.
    pub epoch: u64,
    /// Bytes staged.
    pub offset: u64,
    /// What is hashed on the way.
    pub algorithm: Algorithm,
    /// The digest it is sealed with: it takes no more bytes.
    pub sealed: Option<Digest>,
}

/// Where a blob is durable now. Whether that is enough for 201 the caller decides (`decide::placement::write_rule`).
#[derive(Clone, Debug)]
pub struct Placed {
    /// The blob's size.
    pub size_bytes: u64,
    /// The stores that have verified it and made it durable; at least one.
    pub stores: Vec<StoreId>,
    /// The holders that have not, and why.
    pub failed: Vec<(NodeId, TransferError)>,
}

impl Placed {
    /// Joins the holders' answers; an error when nobody placed it. A digest mismatch goes before other errors, so that
    /// a wrong push is told so; "unknown" is the answer only if all say so: who did not answer may have everything.
    pub(super) fn join(answers: Vec<(NodeId, TransferResult<(StoreId, u64)>)>) -> TransferResult<Placed> {
        let mut placed = Placed { size_bytes: 0, stores: Vec::new(), failed: Vec::new() };
        for (node, answer) in answers {
            match answer {
                Ok((store, size_bytes)) => {
                    placed.size_bytes = size_bytes;
                    placed.stores.push(store);
                }
                Err(error) => placed.failed.push((node, error)),
            }
        }
        if !placed.stores.is_empty() {
            return Ok(placed);
        }
        let is_mismatch = |error: &TransferError| {
            matches!(error.store_error(), Some(crate::blob::store::StoreError::DigestMismatch { .. }))
        };
        let find = |wanted: &dyn Fn(&TransferError) -> bool| placed.failed.iter().position(|(_, error)| wanted(error));
        let worst = find(&is_mismatch).or_else(|| find(&|error| !error.is_upload_unknown())).unwrap_or(0);
        Err(placed.failed.swap_remove(worst).1)
    }
}
