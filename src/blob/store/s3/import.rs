//! A copy on its way in from another node: verified on the local volume, then sent to the bucket.

use std::sync::Arc;

use bytes::Bytes;

use super::store::Inner;
use crate::blob::store::{BlobKey, BlobStat, ImportWriter, StoreResult};

pub(super) struct Import {
    inner: Arc<Inner>,
    key: BlobKey,
    local: Box<dyn ImportWriter>,
}

impl Import {
    pub(super) fn new(inner: &Arc<Inner>, key: &BlobKey, local: Box<dyn ImportWriter>) -> Import {
        Import { inner: Arc::clone(inner), key: *key, local }
    }
}

impl ImportWriter for Import {
    fn append(&mut self, parts: &[Bytes]) -> StoreResult<()> {
        self.local.append(parts)
    }

    fn finish(self: Box<Self>) -> StoreResult<BlobStat> {
        let stat = self.local.finish()?;
        self.inner.publish(&self.key, stat)
    }
}
