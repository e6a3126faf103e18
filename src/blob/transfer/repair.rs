//! One copy pulled to this node. Which copies, and when, the jobs decide.

use registry_core::vocabulary::ids::StoreId;

use crate::blob::store::BlobStat;

use super::{BlobSource, Transfer, TransferResult};

impl Transfer {
    /// Pulls a copy of `blob` into the store `into` of this node from the best replica, verifies and places it; waits for
    /// its turn and its share of bandwidth. A copy that is here already is the answer.
    ///
    /// Errors: `StoreUnknown` when `into` isn't on this node, `NoCopy`, `Store`.
    pub async fn replicate_here(&self, blob: BlobSource, into: StoreId) -> TransferResult<BlobStat> {
        let _ = (blob, into);
        unimplemented!()
    }
}
