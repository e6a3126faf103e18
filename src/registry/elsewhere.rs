//! What is not here, and may be had from another region: pulls fall through to it, so that what was acknowledged there
//! is never answered with 404 here.
//!
//! Only what is absent is looked for elsewhere, and nothing of it is kept: it arrives by itself. Rights are those of
//! this region, looked at before. Where clients of another region are served is in `abroad.rs`. Source:
//! consensus-and-faults §6.6.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use registry_core::decide::nearest::Declined;
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName};

use super::abroad::{Located, Visit};
use super::blobs::{BlobContent, BlobInfo, Pieces};
use super::{At, Consistency, ManifestInfo, Registry, StoredManifest};
use crate::metadata::revision;

/// A blob of another region.
pub trait RemoteBlob: Debug + Send + Sync {
    /// Its size, bytes.
    fn size_bytes(&self) -> u64;

    /// The bytes of a range. An error in the stream means: cut the connection.
    fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, std::io::Error>>;
}

/// Other regions.
pub trait Elsewhere: Debug + Send + Sync + 'static {
    /// Whether any of them may have what is not here of a repository.
    fn may_have(&self, name: &RepositoryName) -> bool;

    /// A manifest that is not here; `None` if no region has it for this one.
    ///
    /// Errors: `Unavailable` when that can't be told now.
    fn manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, Refusal>>;

    /// Pieces of a blob, all from one region; there are copies of it here by another name. `None` if no region has it
    /// for this one.
    ///
    /// Errors: as above.
    fn pieces<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<Pieces>, Refusal>>;

    /// A blob that is not here; `None` if no region has it for this one.
    ///
    /// Errors: as above.
    fn blob<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn RemoteBlob>>, Refusal>>;

    /// Where a region serves one of its clients; it is not waited for long. What it says is not looked at yet.
    fn locate<'a>(&'a self, region: &'a RegionName, visit: Visit) -> BoxFuture<'a, Result<Located, Declined>>;
}

impl Registry {
    /// Pulls fall through to other regions from now on.
    pub fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        // one that was set stays
        drop(self.0.elsewhere.set(elsewhere));
    }

    /// A manifest with its bytes, from another region if it has not arrived from there.
    pub async fn pull_manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        consistency: Consistency,
    ) -> Result<At<StoredManifest>, Refusal> {
        match self.manifest(permit, reference, consistency).await {
            Err(refusal) if refusal.is_unknown() => self.manifest_elsewhere(permit, reference, refusal).await,
            found => found,
        }
    }

    /// What [`pull_manifest`](Registry::pull_manifest) would find, without the bytes.
    pub async fn look_at_manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        consistency: Consistency,
    ) -> Result<At<ManifestInfo>, Refusal> {
        match self.stat_manifest(permit, reference, consistency).await {
            Err(refusal) if refusal.is_unknown() => {
                let found = self.manifest_elsewhere(permit, reference, refusal).await?;
                Ok(At { value: found.value.info, revision: found.revision })
            }
            found => found,
        }
    }

    /// Other regions, if they may have what is not here; they are asked for the default registry's repositories only.
    fn elsewhere_for(&self, permit: &Permit) -> Option<&Arc<dyn Elsewhere>> {
        let is_default = permit.registry == RegistryId::DEFAULT;
        self.0.elsewhere.get().filter(|elsewhere| is_default && elsewhere.may_have(&permit.repository))
    }

    async fn manifest_elsewhere(
        &self,
        permit: &Permit,
        reference: &Reference,
        refusal: Refusal,
    ) -> Result<At<StoredManifest>, Refusal> {
        let Some(elsewhere) = self.elsewhere_for(permit) else { return Err(refusal) };
        let Some(value) = elsewhere.manifest(&permit.repository, reference).await? else {
            // it may have arrived while it was asked for there
            return match self.manifest(permit, reference, Consistency::Linearizable).await {
                Err(later) if later.is_unknown() => Err(refusal),
                found => found,
            };
        };
        Ok(At { value, revision: self.metadata().peek(revision) })
    }

    /// A blob to be read, from another region if it has not arrived from there.
    pub async fn pull_blob(&self, permit: &Permit, digest: &Digest) -> Result<At<BlobContent>, Refusal> {
        let refusal = match self.open_blob(permit, digest).await {
            Err(refusal) if refusal.is_unknown() => refusal,
            found => return found,
        };
        let Some(elsewhere) = self.elsewhere_for(permit) else { return Err(refusal) };
        // another repository's copies will do, if the other region shows that it has the bytes for this one
        if let Some(content) = self.held_anywhere(permit.registry, digest) {
            let pieces = elsewhere.pieces(&permit.repository, digest, content.some_pieces()).await?;
            if let Some(pieces) = pieces
                && content.is_shown(pieces).await.unwrap_or(false)
            {
                return Ok(At { value: content, revision: self.metadata().peek(revision) });
            }
        }
        if let Some(remote) = elsewhere.blob(&permit.repository, digest).await? {
            let info = BlobInfo { digest: *digest, size_bytes: remote.size_bytes() };
            return Ok(At { value: BlobContent::of_remote(info, remote), revision: self.metadata().peek(revision) });
        }
        match self.open_blob(permit, digest).await {
            Err(later) if later.is_unknown() => Err(refusal),
            found => found,
        }
    }
}
