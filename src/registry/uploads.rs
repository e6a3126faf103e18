//! Uploads: sessions that collect bytes until a digest closes them.
//!
//! `POST` writes nothing: the session is a sealed token that names the upload, its repository, its principal and its
//! two holders. Only a takeover, a commit and a closing go to the log. Source: consensus-and-faults §5.3.

use std::time::Duration;

use bincode::{Decode, Encode};
use futures_util::StreamExt as _;
use registry_core::decide::permit::Permit;
use registry_core::decide::seal::{Purpose, Sealer};
use registry_core::metadata::reply::Reply;
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::upload::{self, CloseUpload, TakeUpload, UploadRow, UploadState};
use registry_core::metadata::{clock, cluster};
use registry_core::vocabulary::digest::Algorithm;
use registry_core::vocabulary::ids::{NodeId, RepositoryId, StoreId, UploadId};
use registry_core::vocabulary::limits::{PACK_BLOB_BYTES_MAX, RETRY_AFTER_MS};
use registry_core::vocabulary::{Digest, Refusal};

use super::commit::Sealed;
use super::{At, BlobInfo, ByteStream, Registry, unavailable};
use crate::blob::store::{BlobKey, StoreError};
use crate::blob::transfer::{Append, Appended, Body, BodyError, Holders, Peeked, Staged, TransferError, body};
use crate::ground::random;

/// Until placed bytes are looked for again after no second copy of them could be made.
const PLACED_PAUSE: Duration = Duration::from_millis(200);
/// How often a step is repeated after a holder was lost.
const TAKEOVERS_MAX: usize = 3;

/// Where an upload stands, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// What names the session from now on; opaque.
    pub token: String,
    /// The upload's id, for people and logs.
    pub id: UploadId,
    /// Bytes acknowledged: the next one goes here.
    pub offset_bytes: u64,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Token {
    upload: UploadId,
    repository: RepositoryId,
    principal: String,
    primary: NodeId,
    backup: Option<NodeId>,
    /// Bytes acknowledged when the token was given; zero means that no staging need exist yet.
    acknowledged_bytes: u64,
}

/// An upload in use.
#[derive(Clone, Debug)]
pub(super) struct Session {
    token: Token,
    pub(super) repository: RepositoryKey,
    pub(super) upload: UploadId,
    pub(super) epoch: u32,
    pub(super) holders: Holders,
    state: UploadState,
}

impl Session {
    /// Bytes that its client was told are held, at least.
    pub(super) fn acknowledged_bytes(&self) -> u64 {
        self.token.acknowledged_bytes
    }
}

/// The pair as the log names it.
pub(super) fn pair(holders: Holders) -> (NodeId, Option<NodeId>) {
    (holders.primary, holders.backup)
}

fn into_body(stream: ByteStream) -> Body {
    stream.map(|part| part.map_err(BodyError::new)).boxed()
}

/// Stands for a principal where uploads are counted.
fn owner(principal: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(principal.as_bytes())
}

/// What a client is told of a fault between the nodes.
pub(super) fn refusal(error: &TransferError) -> Refusal {
    match error {
        TransferError::Store { error, .. } => match error {
            StoreError::UploadUnknown | StoreError::Sealed => Refusal::UploadUnknown,
            StoreError::Busy => Refusal::UploadBusy,
            StoreError::OffsetMismatch { expected } => Refusal::RangeInvalid { offset: *expected },
            StoreError::Full { .. } | StoreError::NoSpace => Refusal::StorageFull,
            StoreError::TooLarge { max } => Refusal::BlobTooLarge { allowed: *max },
            StoreError::Fenced { .. }
            | StoreError::NotSealed
            | StoreError::DigestMismatch { .. }
            | StoreError::SizeMismatch { .. }
            | StoreError::Exists
            | StoreError::NotFound
            | StoreError::OutOfRange { .. }
            | StoreError::Damaged { .. }
            | StoreError::TooManyUploads { .. }
            | StoreError::VolumeFailed { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Io { .. } => unavailable(),
        },
        TransferError::Body { error, .. } => Refusal::UploadInvalid { detail: error.to_string() },
        TransferError::NoPair(why) => (*why).into(),
        TransferError::ShareUsedUp { .. } => Refusal::Throttled { retry_after_ms: RETRY_AFTER_MS },
        TransferError::Unreachable { .. }
        | TransferError::NodeUnknown(_)
        | TransferError::StoreUnknown(_)
        | TransferError::Rejected { .. }
        | TransferError::Overloaded { .. }
        | TransferError::EpochUnknown { .. }
        | TransferError::NoCopy { .. } => Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS },
    }
}

impl Registry {
    fn sealer(&self) -> Result<Sealer, Refusal> {
        let row = self.metadata().peek(|view| cluster::read(view)).ok_or_else(unavailable)?;
        Ok(Sealer::of(&row, Purpose::Upload))
    }

    pub(super) fn new_upload(&self) -> UploadId {
        UploadId { tick: self.metadata().peek(|view| clock::read(view)).tick, random: random::number128() }
    }

    /// Begins an upload. Makes the repository if the permit allows it and it is not there.
    pub async fn begin_upload(&self, permit: &Permit) -> Result<UploadProgress, Refusal> {
        let repository = self.ensure_repository(permit).await?;
        let upload = self.new_upload();
        let holders = self.transfer().choose_holders(upload).map_err(|error| refusal(&error))?;
        let token = Token {
            upload,
            repository: repository.id,
            principal: permit.principal.clone(),
            primary: holders.primary,
            backup: holders.backup,
            acknowledged_bytes: 0,
        };
        Ok(UploadProgress { token: self.sealer()?.seal(&token), id: upload, offset_bytes: 0 })
    }

    /// Opens a token. A foreign, forged or expired one, one of another repository or principal, and a closed upload are
    /// all the same to the client: unknown (A7).
    fn session(&self, permit: &Permit, token: &str) -> Result<Session, Refusal> {
        let token: Token = self.sealer()?.open(token).map_err(|_| Refusal::UploadUnknown)?;
        if token.principal != permit.principal {
            return Err(Refusal::UploadUnknown);
        }
        let found = self.metadata().peek(|view| {
            let found = repository::find(view, permit.registry, &permit.repository);
            let is_over = upload::expired(&token.upload, &clock::read(view));
            (found, upload::read(view, &token.upload), is_over)
        });
        let (Some((repository, _)), row, false) = found else { return Err(Refusal::UploadUnknown) };
        if repository.id != token.repository {
            return Err(Refusal::UploadUnknown);
        }
        let upload = token.upload;
        let row = row.unwrap_or(UploadRow {
            epoch: 1,
            primary: token.primary,
            backup: token.backup,
            state: UploadState::Open,
        });
        let holders = Holders { primary: row.primary, backup: row.backup };
        Ok(Session { token, repository, upload, epoch: row.epoch, holders, state: row.state })
    }

    fn open_session(&self, permit: &Permit, token: &str) -> Result<Session, Refusal> {
        let session = self.session(permit, token)?;
        if session.state == UploadState::Open { Ok(session) } else { Err(Refusal::UploadUnknown) }
    }

    fn progress(&self, session: &Session, offset_bytes: u64) -> Result<UploadProgress, Refusal> {
        let token = Token { acknowledged_bytes: offset_bytes, ..session.token.clone() };
        Ok(UploadProgress { token: self.sealer()?.seal(&token), id: session.upload, offset_bytes })
    }

    /// How many bytes of an upload are acknowledged.
    pub async fn upload_progress(&self, permit: &Permit, token: &str) -> Result<UploadProgress, Refusal> {
        let mut session = self.open_session(permit, token)?;
        if session.token.acknowledged_bytes == 0 {
            let staged = self.transfer().probe(session.upload, session.holders).await;
            if !staged.iter().any(|(_, answer)| answer.is_ok()) {
                return self.progress(&session, 0);
            }
        }
        let offset_bytes = self.recover(&mut session).await?;
        self.progress(&session, offset_bytes)
    }

    /// Appends a chunk. Out of order it is refused with the offset where the next byte goes.
    pub async fn append_upload(
        &self,
        permit: &Permit,
        token: &str,
        expected_offset: Option<u64>,
        body: ByteStream,
    ) -> Result<UploadProgress, Refusal> {
        let mut session = self.open_session(permit, token)?;
        let offset_bytes = self.append(&mut session, expected_offset, into_body(body)).await?;
        self.progress(&session, offset_bytes)
    }

    /// Appends; what comes back is held by every configured holder.
    async fn append(&self, session: &mut Session, offset: Option<u64>, body: Body) -> Result<u64, Refusal> {
        let append = Append {
            upload: session.upload,
            epoch: u64::from(session.epoch),
            holders: session.holders,
            algorithm: Algorithm::Sha256,
            acknowledged: session.token.acknowledged_bytes,
            offset,
            owner: owner(&session.token.principal),
        };
        match self.transfer().append(append, body).await {
            Ok(appended) if appended.is_acknowledgeable() => Ok(appended.offset),
            Ok(Appended { offset, .. }) => {
                self.recover(session).await?;
                Ok(offset)
            }
            Err(error) if error.is_holder_lost() => {
                // the body is spent: the client repeats the chunk, and finds the upload in good hands
                if session.token.acknowledged_bytes > 0 {
                    self.recover(session).await?;
                }
                Err(unavailable())
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Brings an upload into a state where both holders have the same bytes; answers how many.
    async fn recover(&self, session: &mut Session) -> Result<u64, Refusal> {
        let staged = self.transfer().probe(session.upload, session.holders).await;
        // a holder that has less than was acknowledged lost some in a power cut: the other one is the survivor
        let acknowledged = session.token.acknowledged_bytes;
        let has_all = |staged: &&Staged| staged.offset >= acknowledged;
        let good: Vec<_> = staged.iter().filter_map(|(_, answer)| answer.as_ref().ok()).filter(has_all).collect();
        let wanted = session.holders.nodes().count();
        match good.iter().map(|staged| staged.offset).min() {
            None => {
                Err(if staged.iter().any(|(_, answer)| matches!(answer, Err(error) if !error.is_upload_unknown())) {
                    unavailable()
                } else {
                    Refusal::UploadUnknown
                })
            }
            Some(offset) if good.len() == wanted => Ok(offset),
            Some(_) => {
                let survivor = *good[0];
                self.take_over(session, survivor).await
            }
        }
    }

    /// Gives an upload a new pair of holders around the survivor; answers what both have.
    async fn take_over(&self, session: &mut Session, survivor: Staged) -> Result<u64, Refusal> {
        let mut last = unavailable();
        for _ in 0..TAKEOVERS_MAX {
            let after =
                self.transfer().choose_partner(session.upload, survivor.node).map_err(|error| refusal(&error))?;
            let command = TakeUpload {
                upload: session.upload,
                epoch: session.epoch,
                before: pair(session.holders),
                after: pair(after),
            };
            let accepted = self.metadata().propose(&session.token.principal, vec![command.into()]).await?;
            let Some(Reply::Epoch(epoch)) = accepted.replies.first() else { return Err(Refusal::Changed) };
            session.epoch = *epoch;
            session.holders = after;
            let fenced = self.transfer().fence(survivor.node, session.upload, u64::from(*epoch)).await;
            let staged = fenced.map_err(|error| refusal(&error))?;
            tracing::info!(upload = %session.upload, epoch, survivor = %survivor.node, "an upload was given a new holder");
            let Some(partner) = after.nodes().find(|node| *node != survivor.node) else { return Ok(staged.offset) };
            match self.transfer().refill(survivor.node, partner, session.upload, u64::from(*epoch)).await {
                Ok(staged) => return Ok(staged.offset),
                Err(error) => last = refusal(&error),
            }
        }
        Err(last)
    }

    /// Appends the rest, if any, and makes the bytes the blob `digest`. Repeating it after a lost answer succeeds.
    pub async fn finish_upload(
        &self,
        permit: &Permit,
        token: &str,
        digest: &Digest,
        expected_offset: Option<u64>,
        stream: ByteStream,
    ) -> Result<At<BlobInfo>, Refusal> {
        let mut session = self.session(permit, token)?;
        if let Some(done) = self.finished(permit, &session, digest)? {
            return Ok(done);
        }
        let peeked = body::peek(into_body(stream), PACK_BLOB_BYTES_MAX).await;
        let peeked = peeked.map_err(|error| Refusal::UploadInvalid { detail: error.to_string() })?;
        let is_fresh = session.token.acknowledged_bytes == 0 && session.state == UploadState::Open;
        let mut size_bytes = session.token.acknowledged_bytes;
        match peeked {
            Peeked::Whole(bytes) if is_fresh && expected_offset.unwrap_or(0) == 0 => {
                // an empty body closes what was appended before, unless the blob itself is empty
                let may_be_whole = !bytes.is_empty() || digest.is_of(&bytes);
                if may_be_whole && !self.is_staged(&session).await {
                    // nothing was ever appended: the whole blob is here, and small
                    return self.push_small(permit, &session.repository, digest, bytes).await;
                }
                if !bytes.is_empty() {
                    size_bytes = self.append(&mut session, expected_offset, body::whole(bytes)).await?;
                } else if self.is_untouched(&session).await {
                    // no byte was ever sent for a blob that has some: a digest alone is not content (A3)
                    let actual = Digest::of(digest.algorithm(), &bytes);
                    return Err(Refusal::DigestMismatch { claimed: *digest, actual: Box::new(actual) });
                }
            }
            Peeked::Whole(bytes) if bytes.is_empty() => {}
            Peeked::Whole(bytes) => {
                size_bytes = self.append(&mut session, expected_offset, body::whole(bytes)).await?;
            }
            Peeked::More(rest) => {
                size_bytes = self.append(&mut session, expected_offset, rest).await?;
            }
        }
        session.token.acknowledged_bytes = size_bytes;
        let ended = match self.ensure_room(&session.repository, digest, size_bytes).await {
            Ok(()) => self.seal(permit, &mut session, digest).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(Refusal::QuotaExceeded { .. }) = &ended {
            // nobody may have the bytes: they are freed at once, not when the upload expires (B9)
            if let Err(refusal) = self.close(&session, None).await {
                tracing::debug!(upload = %session.upload, %refusal, "an upload above a quota was not closed");
            }
        }
        ended
    }

    /// Whether a holder nearby has begun to stage this upload: a chunk may have been acknowledged under an older token.
    async fn is_staged(&self, session: &Session) -> bool {
        let staged = self.transfer().probe(session.upload, session.holders).await;
        staged.iter().any(|(_, answer)| matches!(answer, Ok(staged) if staged.offset > 0))
    }

    /// Whether every holder says that it never got a byte of this upload.
    async fn is_untouched(&self, session: &Session) -> bool {
        let staged = self.transfer().probe(session.upload, session.holders).await;
        staged.iter().all(|(_, answer)| match answer {
            Ok(staged) => staged.offset == 0,
            Err(error) => error.is_upload_unknown(),
        })
    }

    /// Seals, verifies, places and commits; takes over and repeats if a holder is lost on the way.
    async fn seal(&self, permit: &Permit, session: &mut Session, digest: &Digest) -> Result<At<BlobInfo>, Refusal> {
        let mut last = unavailable();
        for _ in 0..TAKEOVERS_MAX {
            match self.commit_upload(permit, session, digest).await? {
                Sealed::Committed(done) => return Ok(done),
                Sealed::TooFewHolders(why) => last = why,
            }
            let fresh = self.metadata().peek(|view| upload::read(view, &session.upload));
            if let Some(row) = fresh {
                session.epoch = row.epoch;
                session.holders = Holders { primary: row.primary, backup: row.backup };
            }
            match self.recover(session).await {
                // nothing is staged any more where the bytes became the blob: the next round finds them there
                Err(Refusal::UploadUnknown) if self.is_placed(session, digest).await => {
                    tokio::time::sleep(PLACED_PAUSE).await;
                }
                Err(refusal) => return Err(refusal),
                Ok(_) => {}
            }
        }
        Err(last)
    }

    /// Whether a holder has made the staged bytes the blob already, though that was not committed yet.
    async fn is_placed(&self, session: &Session, digest: &Digest) -> bool {
        let directory = self.transfer().directory();
        let is_theirs = |node: NodeId| session.holders.nodes().any(|holder| holder == node);
        let places = directory.topology().stores().filter(|place| is_theirs(place.node));
        let stores: Vec<StoreId> = places.map(|place| place.id).collect();
        let asked = self.transfer().confirm(BlobKey::new(*digest, session.upload), &stores).await;
        asked.iter().any(|(_, answer)| matches!(answer, Ok(Some(_))))
    }

    /// The answer to a repeated request whose first answer was lost.
    fn finished(&self, permit: &Permit, session: &Session, digest: &Digest) -> Result<Option<At<BlobInfo>>, Refusal> {
        match session.state {
            UploadState::Open => Ok(None),
            UploadState::Closed => Err(Refusal::UploadUnknown),
            UploadState::Finishing(done) | UploadState::Deduplicated(done) if done != *digest => {
                Err(Refusal::UploadUnknown)
            }
            UploadState::Finishing(_) | UploadState::Deduplicated(_) => Ok(self.linked(permit, digest)),
        }
    }

    /// Ends an upload and frees its bytes.
    pub async fn cancel_upload(&self, permit: &Permit, token: &str) -> Result<(), Refusal> {
        let session = self.open_session(permit, token)?;
        self.close(&session, None).await?;
        Ok(())
    }

    /// Writes that an upload is over, then frees its bytes; what could not be reached expires by itself.
    pub(super) async fn close(&self, session: &Session, deduplicated: Option<Digest>) -> Result<(), Refusal> {
        let command = CloseUpload { upload: session.upload, holders: pair(session.holders), deduplicated };
        self.metadata().propose(&session.token.principal, vec![command.into()]).await?;
        self.transfer().discard(session.upload, session.holders).await;
        Ok(())
    }
}
