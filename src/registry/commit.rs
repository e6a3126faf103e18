//! The last step of a push: bytes that are durable become a blob that a repository links.
//!
//! One envelope, in the order that keeps `Link ⇒ Use ⇒ record` true even if its parts were separate entries.

use std::time::Duration;

use bytes::Bytes;
use registry_core::decide::permit::Permit;
use registry_core::metadata::blob::{self, AddUse, BlobRow, CommitBlob};
use registry_core::metadata::command::Command;
use registry_core::metadata::link::{self, Link};
use registry_core::metadata::node;
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::upload::{CloseUpload, FinishUpload};
use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::ids::{Revision, StoreId, UploadId, UseId};
use registry_core::vocabulary::{Digest, Refusal};

use super::uploads::{Session, pair, refusal};
use super::{At, BlobInfo, Registry, unavailable};
use crate::blob::store::{BlobKey, StoreError};
use crate::blob::transfer::Seal;
use crate::ground::random;
use crate::metadata::{ProposeError, revision};

/// How often another pair of holders is tried for a small blob, and the pause before: a ping's time.
const PLACEMENTS_MAX: usize = 4;
const PLACEMENT_PAUSE: Duration = Duration::from_millis(400);

/// What came of sealing an upload.
pub(super) enum Sealed {
    /// The blob is there and linked.
    Committed(At<BlobInfo>),
    /// Not enough holders placed it: take over and repeat.
    TooFewHolders(Refusal),
}

/// Bytes of a generation that are durable on some stores.
struct Durable<'a> {
    digest: &'a Digest,
    size_bytes: u64,
    generation: UploadId,
    stores: Vec<StoreId>,
}

impl Registry {
    /// The blob as a repository links it, on this node's state.
    pub(super) fn linked(&self, permit: &Permit, digest: &Digest) -> Option<At<BlobInfo>> {
        self.metadata().peek(|view| {
            let (repository, _) = repository::find(view, permit.registry, &permit.repository)?;
            let row = link::read(view, &repository, digest)?;
            let value = BlobInfo { digest: *digest, size_bytes: row.size_bytes };
            Some(At { value, revision: revision(view) })
        })
    }

    /// The record of a digest if enough of its holders say *now* that they have it: then the copies that were sent are
    /// not needed. Bytes that could heal a lost blob are never thrown away.
    async fn confirmed(&self, digest: &Digest, size_bytes: u64) -> Option<BlobRow> {
        let row = self.metadata().peek(|view| blob::read(view, digest)).filter(|row| row.size_bytes == size_bytes)?;
        let key = BlobKey::new(*digest, row.generation);
        let answers = self.transfer().confirm(key, &row.stores).await;
        let holding = answers.iter().filter(|(_, answer)| matches!(answer, Ok(Some(size)) if *size == size_bytes));
        let holding: Vec<StoreId> = holding.map(|(store, _)| *store).collect();
        self.is_durable(&holding).then_some(row)
    }

    /// Whether copies on these stores are what 201 needs.
    fn is_durable(&self, stores: &[StoreId]) -> bool {
        self.metadata().peek(|view| node::require_durable(view, stores)).is_ok()
    }

    /// Links a record that is here; `None` if it went meanwhile.
    pub(super) async fn adopt(
        &self,
        permit: &Permit,
        repository: &RepositoryKey,
        info: BlobInfo,
        closing: Option<&Session>,
    ) -> Result<Option<At<BlobInfo>>, Refusal> {
        let BlobInfo { digest, size_bytes } = info;
        let hold = UseId(random::number64());
        let mut commands: Vec<Command> = self.admission(repository, &digest, size_bytes).into_iter().collect();
        commands.push(AddUse { digest, size_bytes, repository: repository.clone(), hold }.into());
        commands.push(Link { repository: repository.clone(), digest, size_bytes, hold }.into());
        if let Some(Session { upload, holders, .. }) = closing {
            let deduplicated = Some(digest);
            commands.push(CloseUpload { upload: *upload, holders: pair(*holders), deduplicated }.into());
        }
        match self.propose_growth(&permit.principal, repository, commands).await {
            Ok(accepted) => Ok(Some(At { value: info, revision: accepted.revision })),
            Err(ProposeError::Refused { refusal, .. }) if matches!(*refusal, Refusal::BlobUnknown { .. }) => Ok(None),
            // linked; a commit of the same bytes by another request keeps the upload from being closed
            Err(ProposeError::Refused { replies, .. }) if replies.len() == 2 => {
                Ok(Some(At { value: info, revision: self.metadata().peek(revision) }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Commits durable bytes and links them. `finish` fences the upload first, if a client could close it.
    async fn commit(
        &self,
        permit: &Permit,
        repository: &RepositoryKey,
        durable: Durable<'_>,
        finish: Option<&Session>,
    ) -> Result<At<BlobInfo>, Refusal> {
        let Durable { digest, size_bytes, generation, stores } = durable;
        let hold = UseId(random::number64());
        let mut commands: Vec<Command> = self.admission(repository, digest, size_bytes).into_iter().collect();
        if let Some(Session { upload, epoch, holders, .. }) = finish {
            let (upload, epoch, holders) = (*upload, *epoch, pair(*holders));
            commands.push(FinishUpload { upload, epoch, digest: *digest, holders }.into());
        }
        // a record whose copies could not be confirmed is replaced by the copies that were just made
        let replace = self.metadata().peek(|view| blob::read(view, digest)).is_some();
        let commit = CommitBlob {
            digest: *digest,
            size_bytes,
            upload: generation,
            stores,
            repository: repository.clone(),
            hold,
            replace,
        };
        commands.push(commit.into());
        commands.push(Link { repository: repository.clone(), digest: *digest, size_bytes, hold }.into());
        if mutants::is_on(Mutant::LinkFirst) {
            let last = commands.len() - 1;
            commands.swap(last - 1, last);
        }
        let proposed = self.propose_growth(&permit.principal, repository, commands).await;
        let accepted = proposed.map_err(|error| left_meanwhile(error.into()))?;
        let value = BlobInfo { digest: *digest, size_bytes };
        Ok(At { value, revision: Revision { ..accepted.revision } })
    }

    /// Seals an upload on its holders, each of which verifies the digest, and commits what they placed.
    pub(super) async fn commit_upload(
        &self,
        permit: &Permit,
        session: &Session,
        digest: &Digest,
    ) -> Result<Sealed, Refusal> {
        let Session { upload, epoch, holders, repository, .. } = session;
        let acknowledged = session.acknowledged_bytes();
        let seal = Seal { upload: *upload, epoch: u64::from(*epoch), holders: *holders, digest: *digest, acknowledged };
        let placed = self.transfer().seal_and_place(seal).await;
        let placed = match placed {
            Ok(placed) => placed,
            Err(error) => match error.store_error() {
                Some(StoreError::DigestMismatch { actual }) => {
                    // the bytes are wrong for ever: the upload ends, and its bytes go at once (B4)
                    self.close(session, None).await?;
                    return Err(Refusal::DigestMismatch { claimed: *digest, actual: Box::new(*actual) });
                }
                Some(StoreError::UploadUnknown) => match self.linked(permit, digest) {
                    Some(done) => return Ok(Sealed::Committed(done)),
                    None => return Err(Refusal::UploadUnknown),
                },
                _ if error.is_holder_lost() => return Ok(Sealed::TooFewHolders(refusal(&error))),
                _ => return Err(refusal(&error)),
            },
        };
        // what was placed for nothing may go at once
        if let Some(done) = self.deduplicate(permit, repository, digest, placed.size_bytes, Some(session)).await? {
            return Ok(Sealed::Committed(done));
        }
        let enough = self.is_durable(&placed.stores);
        if !enough {
            let why = placed.failed.first().map_or_else(unavailable, |(_, error)| refusal(error));
            // a new pair would stand before the same bucket
            return match placed.failed.iter().any(|(_, error)| error.is_unavailable()) {
                true => Err(why),
                false => Ok(Sealed::TooFewHolders(why)),
            };
        }
        let size_bytes = placed.size_bytes;
        let durable = Durable { digest, size_bytes, generation: *upload, stores: placed.stores };
        match self.commit(permit, repository, durable, Some(session)).await {
            Ok(done) => Ok(Sealed::Committed(done)),
            Err(why @ Refusal::PlacementInvalid { .. }) => Ok(Sealed::TooFewHolders(why)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Uses the record that is here already, if its holders confirm it.
    async fn deduplicate(
        &self,
        permit: &Permit,
        repository: &RepositoryKey,
        digest: &Digest,
        size_bytes: u64,
        closing: Option<&Session>,
    ) -> Result<Option<At<BlobInfo>>, Refusal> {
        match self.confirmed(digest, size_bytes).await {
            // its own record, by an earlier request whose answer was lost: closing it would only be refused
            Some(row) if closing.is_some_and(|session| session.upload == row.generation) => {
                self.adopt(permit, repository, BlobInfo { digest: *digest, size_bytes }, None).await
            }
            Some(_) => self.adopt(permit, repository, BlobInfo { digest: *digest, size_bytes }, closing).await,
            None => Ok(None),
        }
    }

    /// Pushes a small blob whose bytes are all here: straight into packs on two holders, then one log entry.
    pub(super) async fn push_small(
        &self,
        permit: &Permit,
        repository: &RepositoryKey,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<At<BlobInfo>, Refusal> {
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Refusal::DigestMismatch { claimed: *digest, actual: Box::new(actual) });
        }
        let size_bytes = bytes.len() as u64;
        self.ensure_room(repository, digest, size_bytes).await?;
        if let Some(done) = self.deduplicate(permit, repository, digest, size_bytes, None).await? {
            return Ok(done);
        }
        let generation = self.new_upload();
        let key = BlobKey::new(*digest, generation);
        let mut last = unavailable();
        for _ in 0..PLACEMENTS_MAX {
            let stores = self.place_small(key, bytes.clone()).await?;
            let durable = Durable { digest, size_bytes, generation, stores };
            match self.commit(permit, repository, durable, None).await {
                Err(why @ Refusal::PlacementInvalid { .. }) => last = why,
                done => return done,
            }
            tokio::time::sleep(PLACEMENT_PAUSE).await;
        }
        Err(last)
    }

    /// Puts a small blob where 201 needs it; when a holder is lost on the way, with another one.
    async fn place_small(&self, key: BlobKey, bytes: Bytes) -> Result<Vec<StoreId>, Refusal> {
        let mut stores = Vec::new();
        let mut last = unavailable();
        for attempt in 0..PLACEMENTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(PLACEMENT_PAUSE).await;
            }
            let holders = match self.transfer().choose_holders(key.generation) {
                Ok(holders) => holders,
                Err(error) => {
                    last = refusal(&error);
                    continue;
                }
            };
            match self.transfer().put_small(key, bytes.clone(), holders).await {
                Ok(placed) => stores.extend(placed.stores),
                Err(error) => last = refusal(&error),
            }
            stores.sort_unstable();
            stores.dedup();
            if self.is_durable(&stores) {
                return Ok(stores);
            }
        }
        Err(last)
    }
}

/// What a commit's refusal is to a client: bytes that lie with a node that was removed between their placement and
/// their commit have to be placed again, which is no mistake of the client's.
fn left_meanwhile(refusal: Refusal) -> Refusal {
    let Refusal::StoreUnknown { store } = refusal else { return refusal };
    Refusal::PlacementInvalid { detail: format!("store {store} left the cluster meanwhile: try again") }
}
