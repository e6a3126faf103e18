//! Blobs: whether, what, mount, delete, and pushing one in a single request.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use registry_core::decide::permit::Permit;
use registry_core::decide::replication::shown;
use registry_core::metadata::blob::{self, BlobRow, BlobState, DropUse};
use registry_core::metadata::link::{self, LinkRow, TouchLink, Unlink};
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{clock, manifest};
use registry_core::vocabulary::ids::{RegistryId, Revision};
use registry_core::vocabulary::limits::{MANIFEST_BYTES_MAX, MOUNT_SOURCES_MAX, PACK_BLOB_BYTES_MAX, TICKS_PER_GRACE};
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};
use tokio::time::Instant;

use super::elsewhere::RemoteBlob;
use super::uploads::refusal;
use super::{At, ByteStream, Consistency, Registry, find, unavailable};
use crate::blob::store::BlobKey;
use crate::blob::transfer::{BlobSource, BodyError, Peeked, Transfer, TransferError, body};
use crate::ground::random;
use crate::metadata::revision;

/// What a search for something to mount takes at least when it finds nothing: how many repositories of others hold the
/// blob does not show (A4).
const MOUNT_LOOK: Duration = Duration::from_millis(20);

/// A blob as a repository holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
}

/// Where a blob may be mounted from.
pub enum MountSource<'a> {
    /// From a repository that the caller may pull from.
    Repository(&'a Permit),
    /// From any repository of the caller's registry that the predicate lets through.
    Anywhere(&'a (dyn Fn(&RepositoryName) -> bool + Sync)),
}

/// Some bytes of a blob, each with where they are in it.
pub type Pieces = Vec<(Range<u64>, Bytes)>;

/// A blob to be read.
#[derive(Clone, Debug)]
pub struct BlobContent {
    /// What it is.
    pub info: BlobInfo,
    place: Place,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
enum Place {
    /// On nodes of this region.
    Copies(BlobSource, Transfer),
    /// In another region.
    Elsewhere(Arc<dyn RemoteBlob>),
}

impl BlobContent {
    pub(super) fn of_copies(digest: Digest, source: BlobSource, transfer: Transfer) -> BlobContent {
        let info = BlobInfo { digest, size_bytes: source.size_bytes };
        BlobContent { info, place: Place::Copies(source, transfer) }
    }

    pub(super) fn of_remote(info: BlobInfo, remote: Arc<dyn RemoteBlob>) -> BlobContent {
        BlobContent { info, place: Place::Elsewhere(remote) }
    }

    /// Its copies in this region; `None` of a blob that comes from another one.
    pub(super) fn copies(&self) -> Option<&BlobSource> {
        match &self.place {
            Place::Copies(source, _) => Some(source),
            Place::Elsewhere(_) => None,
        }
    }

    /// Pieces of it, at places that nobody knows beforehand: who shows them all has the blob, or nearly all of it.
    pub fn some_pieces(&self) -> Vec<Range<u64>> {
        shown::pieces(random::number64(), self.info.size_bytes)
    }

    /// Whether these are its bytes of some ranges, of each of them.
    ///
    /// Errors: those of a read of the copies here.
    pub async fn is_shown(&self, pieces: Pieces) -> Result<bool, Refusal> {
        let compared = pieces.into_iter().map(|(range, shown)| self.clone().shows_piece(range, shown));
        Ok(try_join_all(compared).await?.into_iter().all(|is_same| is_same))
    }

    async fn shows_piece(self, range: Range<u64>, shown: Bytes) -> Result<bool, Refusal> {
        let mut parts = self.stream(range).await?;
        let mut own = BytesMut::new();
        while let Some(part) = parts.next().await {
            own.extend_from_slice(&part.map_err(|_| unavailable())?);
        }
        Ok(own[..] == shown[..])
    }

    /// The bytes of `range`. Those of this region are all verified on this node; of another region's the last one is
    /// held back until all are. An error in the stream means: cut the connection.
    pub async fn stream(self, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, std::io::Error>>, Refusal> {
        match self.place {
            Place::Elsewhere(remote) => Ok(remote.stream(range)),
            Place::Copies(source, transfer) => {
                let opened = transfer.fetch(source, range).await.map_err(|error| {
                    // every copy is lost: a push of the same bytes heals it, and clients push what they are told is
                    // missing
                    let is_lost = matches!(error, TransferError::NoCopy { is_missing: true });
                    if is_lost { Refusal::BlobUnknown { digest: self.info.digest } } else { refusal(&error) }
                })?;
                Ok(opened.map(|part| part.map_err(std::io::Error::other)).boxed())
            }
        }
    }
}

/// The copies of a blob, as its row records them.
pub(super) fn source(digest: &Digest, row: BlobRow) -> BlobSource {
    BlobSource { key: BlobKey::new(*digest, row.generation), size_bytes: row.size_bytes, replicas: row.stores }
}

/// A link with what it stands on.
struct Held {
    repository: RepositoryKey,
    link: LinkRow,
    source: BlobSource,
    is_referenced: bool,
    age_ticks: u64,
    revision: Revision,
}

fn held(tables: &impl TablesRead, revision: Revision, permit: &Permit, digest: &Digest) -> Result<Held, Refusal> {
    let (repository, _) = find(tables, permit)?;
    let unknown = || Refusal::BlobUnknown { digest: *digest };
    let link = link::read(tables, &repository, digest).ok_or_else(unknown)?;
    let row = blob::read(tables, digest).filter(|row| !row.stores.is_empty()).ok_or_else(unknown)?;
    let source = source(digest, row);
    let is_referenced = manifest::holder(tables, &repository, digest).is_some();
    let age_ticks = clock::read(tables).tick.saturating_sub(link.touched_tick);
    Ok(Held { repository, link, source, is_referenced, age_ticks, revision })
}

impl Registry {
    /// Looks a blob up on a fresh local state; a *no* is confirmed before it is given.
    async fn held(&self, permit: &Permit, digest: &Digest) -> Result<Held, Refusal> {
        self.metadata().ready(Consistency::Fresh).await?;
        let look = || self.metadata().peek(|view| held(view, revision(view), permit, digest));
        match look() {
            Err(_) => {
                self.metadata().ready(Consistency::Linearizable).await?;
                look()
            }
            found => found,
        }
    }

    /// Whether a repository holds a blob, and its size. Somebody who asks is about to count on it: a link that nothing
    /// names yet is kept for another grace time.
    pub async fn stat_blob(&self, permit: &Permit, digest: &Digest) -> Result<At<BlobInfo>, Refusal> {
        let held = self.held(permit, digest).await?;
        if !held.is_referenced && held.age_ticks > TICKS_PER_GRACE / 2 {
            let touch = TouchLink { repository: held.repository, digest: *digest };
            self.metadata().propose(&permit.principal, vec![touch.into()]).await?;
        }
        Ok(At { value: BlobInfo { digest: *digest, size_bytes: held.link.size_bytes }, revision: held.revision })
    }

    /// A blob to be read.
    pub async fn open_blob(&self, permit: &Permit, digest: &Digest) -> Result<At<BlobContent>, Refusal> {
        let held = self.held(permit, digest).await?;
        let value = BlobContent::of_copies(*digest, held.source, self.transfer().clone());
        Ok(At { value, revision: held.revision })
    }

    /// A blob that some repository of a registry holds; not to be given to anybody, but to be compared with what
    /// somebody shows of it. `None` if there are no copies.
    pub fn held_anywhere(&self, registry: RegistryId, digest: &Digest) -> Option<BlobContent> {
        let row = self.metadata().peek(|view| {
            let mut users = blob::users(view, digest, MOUNT_SOURCES_MAX).into_iter();
            users.any(|key| key.registry == registry).then(|| blob::read(view, digest))?
        });
        let row = row.filter(|row| row.state == BlobState::Present && !row.stores.is_empty())?;
        Some(BlobContent::of_copies(*digest, source(digest, row), self.transfer().clone()))
    }

    /// All bytes of a manifest that is kept as a blob.
    pub(super) async fn whole_blob(&self, repository: &RepositoryKey, digest: &Digest) -> Result<Bytes, Refusal> {
        let unknown = || Refusal::BlobUnknown { digest: *digest };
        let row = self.metadata().peek(|view| {
            link::read(view, repository, digest)?;
            blob::read(view, digest)
        });
        let row = row.ok_or_else(unknown)?;
        self.transfer().read(source(digest, row), MANIFEST_BYTES_MAX).await.map_err(|error| refusal(&error))
    }

    /// Takes a blob from a repository. Refused while a manifest of it names the blob.
    pub async fn delete_blob(&self, permit: &Permit, digest: &Digest) -> Result<At<()>, Refusal> {
        self.metadata().ready(Consistency::Linearizable).await?;
        let held = self.metadata().peek(|view| held(view, revision(view), permit, digest))?;
        let (repository, hold) = (held.repository, held.link.hold);
        let commands = vec![
            Unlink { repository: repository.clone(), digest: *digest, hold }.into(),
            DropUse { digest: *digest, repository, hold }.into(),
        ];
        let accepted = self.metadata().propose(&permit.principal, commands).await?;
        Ok(At { value: (), revision: accepted.revision })
    }

    /// Links a blob of another repository. `None` if that can't be: the client uploads it then, and learns nothing
    /// else, from the time it takes neither.
    pub async fn mount_blob(
        &self,
        target: &Permit,
        digest: &Digest,
        from: MountSource<'_>,
    ) -> Result<Option<At<BlobInfo>>, Refusal> {
        self.metadata().ready(Consistency::Linearizable).await?;
        let begun = Instant::now();
        let is_anywhere = matches!(from, MountSource::Anywhere(_));
        let size_bytes = self.metadata().peek(|view| {
            let linked = |key: &RepositoryKey| link::read(view, key, digest).map(|row| row.size_bytes);
            match from {
                MountSource::Repository(source) => find(view, source).ok().and_then(|(key, _)| linked(&key)),
                MountSource::Anywhere(visible) => {
                    let users = blob::users(view, digest, MOUNT_SOURCES_MAX).into_iter();
                    let mut seen = users.filter(|key| key.registry == target.registry && visible(&key.name));
                    seen.find_map(|key| repository::live(view, &key).and_then(|_| linked(&key)))
                }
            }
        });
        let Some(size_bytes) = size_bytes else {
            if is_anywhere {
                tokio::time::sleep_until(begun + MOUNT_LOOK).await;
            }
            return Ok(None);
        };
        let repository = self.ensure_repository(target).await?;
        self.adopt(target, &repository, BlobInfo { digest: *digest, size_bytes }, None).await
    }

    /// Pushes a blob whose digest is known beforehand, in one request.
    pub async fn push_blob(
        &self,
        permit: &Permit,
        digest: &Digest,
        stream: ByteStream,
    ) -> Result<At<BlobInfo>, Refusal> {
        let repository = self.ensure_repository(permit).await?;
        let parts = stream.map(|part| part.map_err(BodyError::new)).boxed();
        let peeked = body::peek(parts, PACK_BLOB_BYTES_MAX).await;
        match peeked.map_err(|error| Refusal::UploadInvalid { detail: error.to_string() })? {
            Peeked::Whole(bytes) => self.push_small(permit, &repository, digest, bytes).await,
            Peeked::More(rest) => {
                let begun = self.begin_upload(permit).await?;
                let rest = rest.map(|part| part.map_err(std::io::Error::other)).boxed();
                self.finish_upload(permit, &begun.token, digest, None, rest).await
            }
        }
    }
}
