//! One change of another region, made true here: what it names is brought bottom-up, then it is applied by rank.
//!
//! Blobs that the region has already are linked, not fetched; those that are fetched go the way of any push, so that
//! they lie in two zones before a manifest names them. Everything may be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use registry_core::decide::permit::Permit;
use registry_core::decide::replication::compare::{Drift, Record, Register, There};
use registry_core::decide::replication::rank::Rank;
use registry_core::decide::replication::rules::ReadThrough;
use registry_core::decide::tag_move::TagRights;
use registry_core::metadata::outbox::Change;
use registry_core::metadata::register;
use registry_core::metadata::repository::Settings;
use registry_core::metadata::settings::Home;
use registry_core::metadata::{backfill, cluster, conflict, manifest, offer, remote, repository, shared};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{PACK_BLOB_BYTES_MAX, SHOWN_MANIFESTS_MAX, WALK_DEPTH_MAX};
use registry_core::vocabulary::manifest::{ContentKind, ParsedManifest, Referenced};
use registry_core::vocabulary::{Digest, Refusal, RepositoryName, Tag, Version};
use tonic::{Code, Status};

use super::client::{Fetched, SILENCE_MAX, Source};
use super::compare::unmendable;
use super::flight::{Flight, FlightKey, Flights};
use super::principal;
use super::through::over_the_link;
use super::wire::{Told, Travelling};
use crate::metadata::Metadata;
use crate::registry::{
    BlobContent, CheckedCopies, Merged, MountSource, Registry, RemoteDelete, RemoteManifest, RemoteSetting,
};

/// Beginnings of one blob before it is left for later.
const BLOB_TRIES: usize = 3;

/// Why a change was not made true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// It may go away by itself: tried again.
    #[error("{0}")]
    Passing(String),
    /// It will not: put aside.
    #[error("{0}")]
    Lasting(String),
    /// The source has what was asked for no longer, or does not send it here any more: its record has moved on, and a
    /// later change says so.
    #[error("the source does not have it any more")]
    Moved,
}

impl Problem {
    pub(super) fn passing(text: impl Into<String>) -> Problem {
        Problem::Passing(text.into())
    }

    /// Why a stream is not to be had, whatever the source says: it is asked again.
    pub(super) fn of_stream(status: &Status) -> Problem {
        Problem::Passing(format!("{:?}: {}", status.code(), status.message()))
    }

    pub(super) fn lasting(text: impl Into<String>) -> Problem {
        Problem::Lasting(text.into())
    }
}

/// Whether a refusal is of now, and not of the thing itself.
pub(super) fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Unavailable { .. }
            | Refusal::Throttled { .. }
            | Refusal::StorageFull
            | Refusal::Changed
            | Refusal::ProposalExpired
            | Refusal::FeatureLevel { .. }
            | Refusal::QuotaShare { .. }
            | Refusal::UploadUnknown
            | Refusal::UploadBusy
            | Refusal::UploadInvalid { .. }
            | Refusal::RangeInvalid { .. }
            | Refusal::PlacementInvalid { .. }
    )
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        if is_passing(&refusal) { Problem::passing(refusal.to_string()) } else { Problem::lasting(refusal.to_string()) }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Problem {
        let told = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::NotFound | Code::PermissionDenied => Problem::Moved,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
                Problem::Lasting(told)
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => Problem::Passing(told),
        }
    }
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It is so here now.
    Applied,
    /// What is here ranks above it, or is it already.
    Known,
    /// It is not for this region to act on: a delete, or what the source has no longer.
    Noted,
}

impl From<Merged> for Arrived {
    fn from(merged: Merged) -> Arrived {
        match merged {
            Merged::Applied => Arrived::Applied,
            Merged::Superseded => Arrived::Known,
        }
    }
}

/// Makes the changes of one source true.
pub(super) struct Arrivals {
    metadata: Metadata,
    registry: Registry,
    source: Arc<Source>,
    /// Blobs that clients here wait for.
    flights: Arc<Flights>,
    /// Who brings a blob now: others wait, and find it here.
    turns: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Arrivals {
    pub(super) fn new(metadata: Metadata, registry: Registry, source: Arc<Source>, flights: Arc<Flights>) -> Arrivals {
        Arrivals { metadata, registry, source, flights, turns: Mutex::default() }
    }

    fn permit(&self, name: &RepositoryName) -> Permit {
        Permit {
            principal: principal(&self.source.region),
            registry: RegistryId::DEFAULT,
            repository: name.clone(),
            create_repository: true,
            tags: TagRights::FULL,
        }
    }

    /// Makes a change true.
    pub(super) async fn apply(&self, travelling: &Travelling) -> Result<Arrived, Problem> {
        let Travelling { repository: name, change, .. } = travelling;
        let made_by = change.version().region;
        if !self.may_tell(name, made_by) {
            let told = format!("a change of region {made_by} came from region {}", self.source.number);
            return Err(Problem::Lasting(told));
        }
        let permit = self.permit(name);
        match change {
            // unless the rule says otherwise, what is deleted there stays here
            deleted if deleted.is_delete() && !travelling.acts => Ok(Arrived::Noted),
            Change::ManifestGone { digest, version, is_attached, is_filtered } => {
                // what is attached is sent for its own sake, whatever filter there is
                let (from, is_filtered) = (self.source.number, *is_filtered && !*is_attached);
                let (digest, version) = (*digest, *version);
                self.drop_register(&permit, RemoteDelete::Manifest { digest, version, from, is_filtered }).await
            }
            Change::TagGone { tag, version, previous } => {
                let (tag, version, previous) = (tag.clone(), *version, Some(*previous));
                self.drop_register(&permit, RemoteDelete::Tag { tag, version, base: None, previous }).await
            }
            Change::ManifestHere { digest, presence } => {
                if self.has_manifest(&permit, digest, *presence) {
                    return Ok(Arrived::Known);
                }
                moved(self.bring_manifest(&permit, digest, *presence, 0).await.map(Arrived::from))
            }
            Change::TagSet { tag, digest, version, base, previous } => {
                // its own stands for one that is not known
                let previous = Some(*previous).filter(|previous| previous != version);
                let setting = RemoteSetting { version: *version, base: *base, previous };
                moved(self.set_tag(&permit, tag, digest, setting).await)
            }
            Change::SettingsSet { settings, home, version } => {
                let number = self.source.number;
                match self.metadata.peek(|view| offer::read(view, number).sends_settings(name)) {
                    true => self.set_settings(&permit, (settings, home), *version).await,
                    // what a rule does not send any more; one that does from now on has it copied
                    false => Ok(Arrived::Noted),
                }
            }
        }
    }

    /// Sets what was set there of a repository.
    async fn set_settings(
        &self,
        permit: &Permit,
        settings: (&Settings, &Home),
        version: Version,
    ) -> Result<Arrived, Problem> {
        let is_known = self.metadata.peek(|view| {
            let (key, _) = repository::find(view, permit.registry, &permit.repository)?;
            Some(Rank::of_set(version, version) <= remote::settings_rank(view, &key))
        });
        if is_known == Some(true) {
            return Ok(Arrived::Known);
        }
        self.registry.ensure_repository(permit).await?;
        Ok(self.registry.put_remote_settings(permit, settings, version).await?.into())
    }

    /// Whether the source may say what a region made: itself, or by a rule that sends on another one's, never ours.
    fn may_tell(&self, name: &RepositoryName, made_by: u16) -> bool {
        let number = self.source.number;
        made_by == number
            || self.metadata.peek(|view| {
                let is_own = cluster::read(view).is_none_or(|row| row.region_number == made_by);
                !is_own && offer::read(view, number).is_transitive(name)
            })
    }

    /// Follows a delete.
    async fn drop_register(&self, permit: &Permit, delete: RemoteDelete) -> Result<Arrived, Problem> {
        let is_here = self.metadata.peek(|view| repository::find(view, permit.registry, &permit.repository).is_some());
        let is_remembered = !matches!(delete, RemoteDelete::Manifest { is_filtered: true, .. });
        let is_awaited = is_remembered && self.is_filling();
        if !is_here && !is_awaited {
            return Ok(Arrived::Noted);
        }
        // a walk through what was before a rule may still bring it: then the delete has to be remembered
        self.registry.ensure_repository(permit).await?;
        Ok(self.registry.drop_remote(permit, delete).await?.into())
    }

    /// The end that a register came to there, which a comparison found to be one to be followed: of manifests only what
    /// was made while all were sent, and what is attached. `None` if it did not end.
    fn ended(&self, register: &Register, there: &There) -> Option<RemoteDelete> {
        let (from, is_filtered, previous) = (self.source.number, false, None);
        match (register, *there) {
            (Register::Manifest(digest), There::Gone(version)) => {
                Some(RemoteDelete::Manifest { digest: *digest, version, from, is_filtered })
            }
            (Register::Tag(tag), There::Gone(version)) => {
                Some(RemoteDelete::Tag { tag: tag.clone(), version, base: None, previous })
            }
            (Register::Tag(tag), There::Ended { version, base }) => {
                Some(RemoteDelete::Tag { tag: tag.clone(), version, base: Some(base), previous })
            }
            (Register::Manifest(_) | Register::Settings, There::Ended { .. })
            | (Register::Settings, There::Gone(_))
            | (_, There::Sent(_) | There::Apart(_) | There::Cleaned | There::Never) => None,
        }
    }

    /// Whether what the source held before a rule is being taken over.
    fn is_filling(&self) -> bool {
        let row = self.metadata.peek(|view| backfill::of_source(view, self.source.number));
        row.is_some_and(|row| row.ended_at_ms.is_none())
    }

    /// Whether a manifest is present here, or was deleted here, by a record at least as high.
    fn has_manifest(&self, permit: &Permit, digest: &Digest, presence: Version) -> bool {
        self.metadata.peek(|view| {
            let found = repository::find(view, permit.registry, &permit.repository);
            let rank = found.map_or(Rank::NEVER, |(key, _)| remote::manifest_rank(view, &key, digest));
            rank >= Rank::of_set(presence, presence)
        })
    }

    async fn set_tag(
        &self,
        permit: &Permit,
        tag: &Tag,
        digest: &Digest,
        setting: RemoteSetting,
    ) -> Result<Arrived, Problem> {
        let RemoteSetting { version, base, previous } = setting;
        let (wins, is_lost, is_here) = self.metadata.peek(|view| {
            let Some((key, _)) = repository::find(view, permit.registry, &permit.repository) else {
                return (true, false, false);
            };
            let wins = Rank::of_set(version, base) > remote::tag_rank(view, &key, tag);
            let is_lost = !wins && previous.is_some() && conflict::may_be(view, &key, tag, (*digest, version));
            (wins, is_lost, manifest::read(view, &key, digest).is_some())
        });
        if !wins && !is_lost {
            return Ok(Arrived::Known);
        }
        if wins && is_here {
            self.shown_manifests(permit, vec![*digest]).await?;
        }
        if wins && !is_here {
            // one that was deleted here by a newer word stays so: what that means for the tag is decided with it
            self.bring_manifest(permit, digest, version, 0).await?;
        }
        // behind the image: without that it is an orphan, which may go by age while a large one is on its way
        if wins && self.is_filtered(&permit.repository) && self.is_present(permit, digest) {
            self.bring_attached(permit, digest, version).await?;
        }
        Ok(self.registry.set_remote_tag(permit, tag, digest, setting).await?.into())
    }

    /// Whether the source sends some tags of a repository only.
    fn is_filtered(&self, name: &RepositoryName) -> bool {
        self.metadata.peek(|view| !offer::read(view, self.source.number).tags(name).is_all())
    }

    /// Whether a manifest is here.
    fn is_present(&self, permit: &Permit, digest: &Digest) -> bool {
        self.metadata.peek(|view| {
            let found = repository::find(view, permit.registry, &permit.repository);
            found.is_some_and(|(key, _)| manifest::read(view, &key, digest).is_some())
        })
    }

    /// Brings what is attached to a manifest that is here and that a tag leads to, and to those below it, before the
    /// tag: it came when it was made, whether its subject was sent or not, and may have gone by age since, as an
    /// orphan. From now on it is none. `at_least`: the version of the tag.
    async fn bring_attached(&self, permit: &Permit, subject: &Digest, at_least: Version) -> Result<(), Problem> {
        let (attached, is_cut) = self.source.attached(&permit.repository, subject).await?;
        let (region, repository) = (&self.source.region, &permit.repository);
        if is_cut {
            tracing::warn!(%region, %repository, %subject, "not all that is attached to an image comes with its tag");
        }
        for (digest, presence) in attached {
            if self.has_manifest(permit, &digest, presence) {
                continue;
            }
            match self.bring_manifest(permit, &digest, at_least, 0).await {
                // deleted since, here or there
                Ok(_) | Err(Problem::Moved) => {}
                Err(Problem::Passing(problem)) => return Err(Problem::Passing(problem)),
                // its own change was put aside for that
                Err(Problem::Lasting(problem)) => {
                    let what = "what is attached to an image can't be brought";
                    tracing::warn!(%region, %repository, %digest, problem, "{what}");
                }
            }
        }
        Ok(())
    }

    /// Brings a manifest with everything it names; `at_least` is the version of the change that names it.
    fn bring_manifest<'a>(
        &'a self,
        permit: &'a Permit,
        digest: &'a Digest,
        at_least: Version,
        depth: usize,
    ) -> BoxFuture<'a, Result<Merged, Problem>> {
        // what a manifest names has other digests than its own: nobody waits for himself
        Box::pin(self.in_turn(*digest, async move {
            if depth > WALK_DEPTH_MAX {
                return Err(Problem::lasting(format!("a chain of more than {WALK_DEPTH_MAX} indexes")));
            }
            // its tag's change and its own come side by side
            if self.has_manifest(permit, digest, at_least) {
                return Ok(Merged::Superseded);
            }
            let fetched = self.source.manifest(&permit.repository, digest, SILENCE_MAX).await?;
            let Fetched { media_type, content: body, presence } = fetched;
            let actual = Digest::of(digest.algorithm(), &body);
            if actual != *digest {
                // R15: spoilt on its way, or there; never stored
                return Err(Problem::passing(format!("the source sent {actual} for {digest}")));
            }
            let parsed = ParsedManifest::parse(&body, Some(&media_type)).map_err(Refusal::from)?;
            let mut here = Vec::new();
            for reference in parsed.references() {
                match reference.kind {
                    ContentKind::Blob => self.bring_blob(permit, reference).await?,
                    ContentKind::Manifest if self.has_manifest(permit, &reference.digest, Version::default()) => {
                        here.push(reference.digest);
                    }
                    ContentKind::Manifest => {
                        self.bring_manifest(permit, &reference.digest, at_least, depth + 1).await?;
                    }
                    ContentKind::Foreign => {}
                }
            }
            self.shown_manifests(permit, here).await?;
            // what the source itself has from elsewhere is here by its own word
            let presence = if self.may_tell(&permit.repository, presence.region) { presence } else { at_least };
            let manifest = RemoteManifest { digest: *digest, media_type, body, presence };
            Ok(self.registry.put_remote_manifest(permit, manifest).await?)
        }))
    }

    /// Mends a difference that nothing explains: a row of ours that our own journal contradicts by the journal, and
    /// what is missing or older by what the source has. `creates`: also where the repository is not here.
    pub(super) async fn mend(
        &self,
        name: &RepositoryName,
        told: &Told,
        drift: Drift,
        creates: bool,
    ) -> Result<(), Problem> {
        if !told.is_proven {
            return Err(Problem::passing("the other region's row contradicts its own journal, and it mends that now"));
        }
        let permit = self.permit(name);
        let found = self.metadata.peek(|view| {
            let (key, _) = repository::find(view, permit.registry, name)?;
            let is_proven = register::is_proven(view, &key, &told.register);
            Some((key, is_proven))
        });
        let sent = if let There::Sent(record) = &told.there { Some(*record) } else { None };
        match (found, &told.register) {
            (None, _) if creates && sent.is_some() => {}
            (None, _) => {
                let absent = "the repository is not here: if it was not deleted here, create it, and compare again";
                return Err(Problem::lasting(absent));
            }
            (Some((repository, false)), register) => {
                let of_source = sent.map(|record| (record.digest, record.version, record.base));
                let mend = register::mend(repository, register, of_source).into_iter().collect();
                let proposed = self.metadata.propose(&permit.principal, mend).await;
                proposed.map_err(|error| Problem::from(Refusal::from(error)))?;
                if sent.is_none() && *register == Register::Settings {
                    return Err(unmendable(drift));
                }
            }
            (Some(_), register) => match (drift, self.ended(register, &told.there)) {
                (Drift::Extra, Some(delete)) => {
                    self.drop_register(&permit, delete).await?;
                }
                (Drift::Different | Drift::Extra, _) => return Err(unmendable(drift)),
                (Drift::Missing | Drift::Stale, _) => {}
            },
        }
        let Some(record) = sent else { return Ok(()) };
        let Record { digest, version, base } = record;
        match &told.register {
            Register::Tag(tag) => {
                let setting = RemoteSetting { version, base, previous: None };
                self.set_tag(&permit, tag, &digest, setting).await.map(|_| ())
            }
            Register::Manifest(_) => self.bring_manifest(&permit, &digest, version, 0).await.map(|_| ()),
            Register::Settings => {
                let told = told.settings.as_ref().ok_or_else(|| Problem::lasting("the settings are not told"))?;
                self.set_settings(&permit, (&told.0, &told.1), version).await.map(|_| ())
            }
        }
    }

    /// Brings a blob into a repository, unless it is there.
    async fn bring_blob(&self, permit: &Permit, blob: &Referenced) -> Result<(), Problem> {
        self.in_turn(blob.digest, Box::pin(self.bring_blob_now(permit, blob))).await
    }

    /// Acts while nobody else does for the same digest. Who waits finds here what the other one brought.
    async fn in_turn<R>(&self, digest: Digest, act: impl Future<Output = R>) -> R {
        let turn = Arc::clone(self.turns.lock().entry(digest).or_default());
        let done = {
            let _mine = turn.lock().await;
            act.await
        };
        let mut turns = self.turns.lock();
        // the map's own and this one: nobody else waits
        if Arc::strong_count(&turn) <= 2 {
            turns.remove(&digest);
        }
        done
    }

    /// Brings a manifest whose row here is lost, with what it names; `named_at` is the version of what names it.
    pub(super) async fn bring_manifest_anew(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        named_at: Version,
    ) -> Result<(), Problem> {
        self.bring_manifest(&self.permit(name), digest, named_at, 0).await.map(drop)
    }

    /// Brings a blob whose copies here are lost.
    pub(super) async fn bring_blob_anew(&self, name: &RepositoryName, blob: &Referenced) -> Result<(), Problem> {
        self.fetch_blob(&self.permit(name), blob).await
    }

    /// Has all copies of a blob here read and hashed. `None` if the repository does not hold it.
    pub(super) async fn check_copies(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<CheckedCopies>, Problem> {
        Ok(self.registry.check_copies(&self.permit(name), digest).await?)
    }

    async fn bring_blob_now(&self, permit: &Permit, blob: &Referenced) -> Result<(), Problem> {
        let is_here = match self.registry.stat_blob(permit, &blob.digest).await {
            Ok(_) if self.may_have(permit, &blob.digest) => return Ok(()),
            Ok(_) => true,
            Err(Refusal::BlobUnknown { .. } | Refusal::RepositoryUnknown { .. }) => false,
            Err(refusal) => return Err(refusal.into()),
        };
        // before it is linked: rules of this region may give to the source whatever is in the repository
        if let Some(content) = self.registry.held_anywhere(permit.registry, &blob.digest)
            && self.shown(permit, content).await?
        {
            if is_here {
                return Ok(());
            }
            if self.registry.mount_blob(permit, &blob.digest, MountSource::Anywhere(&|_| true)).await?.is_some() {
                return Ok(());
            }
        }
        self.fetch_blob(permit, blob).await
    }

    /// Whether what the source may have of a repository is a blob already.
    fn may_have(&self, permit: &Permit, digest: &Digest) -> bool {
        self.metadata.peek(|view| {
            let found = repository::find(view, permit.registry, &permit.repository);
            found.is_some_and(|(key, _)| shared::may_have(view, &self.source.region, &key, digest))
        })
    }

    /// Has the source show pieces of a blob that is here by others' doing: else it would be given, by this region's
    /// rules or by links for its clients, whatever it knows the digest of. `false` if the copies here can't be read.
    async fn shown(&self, permit: &Permit, content: BlobContent) -> Result<bool, Problem> {
        let digest = content.info.digest;
        let theirs = self.source.pieces_in_turn(&permit.repository, &digest, content.some_pieces()).await?;
        match content.is_shown(theirs).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(Problem::lasting("the region names a blob that it does not have")),
            Err(refusal) if refusal.is_unknown() => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Has the source show what manifests name that are here by others' doing. A tag or an index that names them makes
    /// their presence the source's, and with that what they name (`shared::may_have`).
    async fn shown_manifests(&self, permit: &Permit, named: Vec<Digest>) -> Result<(), Problem> {
        let (mut open, mut seen) = (named.clone(), BTreeSet::from_iter(named));
        while let Some(digest) = open.pop() {
            if seen.len() > SHOWN_MANIFESTS_MAX {
                return Err(Problem::lasting(format!("more than {SHOWN_MANIFESTS_MAX} manifests are below it")));
            }
            for reference in self.named_by_others(permit, &digest) {
                match reference.kind {
                    ContentKind::Blob => self.bring_blob(permit, &reference).await?,
                    ContentKind::Manifest if seen.insert(reference.digest) => open.push(reference.digest),
                    ContentKind::Manifest | ContentKind::Foreign => {}
                }
            }
            // a walk over many that name no blob never waits by itself
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// What a manifest names, and its own bytes where they are a blob; nothing of one that is the source's already.
    fn named_by_others(&self, permit: &Permit, digest: &Digest) -> Vec<Referenced> {
        let named = self.metadata.peek(|view| {
            let (key, _) = repository::find(view, permit.registry, &permit.repository)?;
            let row = manifest::read(view, &key, digest).filter(|row| row.presence.region != self.source.number)?;
            let mut named = manifest::references(view, &key, digest);
            if !row.inline {
                named.push(Referenced { digest: *digest, size_bytes: row.size_bytes, kind: ContentKind::Blob });
            }
            Some(named)
        });
        named.unwrap_or_default()
    }

    async fn fetch_blob(&self, permit: &Permit, blob: &Referenced) -> Result<(), Problem> {
        // clients may be waiting for what their region's rules let through: it comes once for them and for this
        let offer = self.metadata.peek(|view| offer::read(view, self.source.number));
        let is_awaited = offer.read_through(&permit.repository) != ReadThrough::Off;
        let shared = if is_awaited { Some(self.shared(permit, blob).await) } else { None };
        if matches!(shared, Some(Err(Problem::Moved))) {
            return Err(Problem::Moved);
        }
        let shared = shared.and_then(Result::ok);
        if blob.size_bytes > PACK_BLOB_BYTES_MAX as u64 {
            return self.bring_large(permit, blob, shared).await;
        }
        let bytes = match shared {
            Some(flight) => whole(flight.read(0..blob.size_bytes)).await?,
            None => self.source.range(&permit.repository, &blob.digest, 0..blob.size_bytes).await?,
        };
        let body = stream::once(async move { Ok(bytes) });
        self.registry.push_blob(permit, &blob.digest, Box::pin(body)).await?;
        Ok(())
    }

    /// An upload like a client's, that goes on where it broke off.
    async fn bring_large(
        &self,
        permit: &Permit,
        blob: &Referenced,
        mut shared: Option<Arc<Flight>>,
    ) -> Result<(), Problem> {
        let mut upload = self.registry.begin_upload(permit).await?;
        let mut last = Problem::passing("the blob was not fetched");
        for _ in 0..BLOB_TRIES {
            if upload.offset_bytes < blob.size_bytes {
                let failed: Arc<Mutex<Option<Problem>>> = Arc::default();
                let body = match (upload.offset_bytes, shared.take()) {
                    (0, Some(flight)) => body(flight.read(0..blob.size_bytes), &failed),
                    (offset, _) => self.parts(permit, blob, offset, &failed),
                };
                match self.registry.append_upload(permit, &upload.token, Some(upload.offset_bytes), body).await {
                    Ok(progress) => upload = progress,
                    Err(refusal) => {
                        last = failed.lock().take().unwrap_or_else(|| refusal.into());
                        if matches!(last, Problem::Moved | Problem::Lasting(_)) {
                            return Err(last);
                        }
                        upload = self.registry.upload_progress(permit, &upload.token).await?;
                        continue;
                    }
                }
            }
            let nothing = Box::pin(stream::empty());
            let sealed = self.registry.finish_upload(permit, &upload.token, &blob.digest, None, nothing).await;
            return match sealed {
                Ok(_) => Ok(()),
                // R15: other bytes than the digest's; they are gone, and are fetched anew
                Err(Refusal::DigestMismatch { actual, .. }) => {
                    Err(Problem::passing(format!("the source sent {actual} for {}", blob.digest)))
                }
                Err(refusal) => Err(refusal.into()),
            };
        }
        Err(last)
    }

    /// The rest of a blob from an offset on; what broke it off is left in `failed`.
    fn parts(
        &self,
        permit: &Permit,
        blob: &Referenced,
        offset: u64,
        failed: &Arc<Mutex<Option<Problem>>>,
    ) -> crate::registry::ByteStream {
        let size_bytes = Some(blob.size_bytes);
        let opened =
            over_the_link(Arc::clone(&self.source), permit.repository.clone(), (blob.digest, size_bytes), offset);
        let parts = stream::once(opened).flat_map(|way| match way {
            Ok(way) => way.bytes,
            Err(problem) => stream::iter([Err(problem)]).boxed(),
        });
        body(parts.boxed(), failed)
    }

    /// The bytes of a blob from its beginning, shared with clients who wait for it.
    async fn shared(&self, permit: &Permit, blob: &Referenced) -> Result<Arc<Flight>, Problem> {
        let (source, repository) = (Arc::clone(&self.source), permit.repository.clone());
        let (region, digest, size_bytes) = (source.number, blob.digest, Some(blob.size_bytes));
        let key = FlightKey { region, repository: repository.clone(), digest };
        let open =
            move |offset: u64| over_the_link(Arc::clone(&source), repository.clone(), (digest, size_bytes), offset);
        self.flights.join(&key, open).await
    }
}

/// All of some bytes.
async fn whole(mut parts: BoxStream<'static, Result<Bytes, Problem>>) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(part) = parts.next().await {
        whole.extend_from_slice(&part?);
    }
    Ok(whole.freeze())
}

/// Bytes as an upload takes them; what broke them off is left in `failed`.
fn body(
    parts: BoxStream<'static, Result<Bytes, Problem>>,
    failed: &Arc<Mutex<Option<Problem>>>,
) -> crate::registry::ByteStream {
    let failed = Arc::clone(failed);
    Box::pin(parts.map(move |part| {
        part.map_err(|problem| {
            let told = std::io::Error::other(problem.to_string());
            *failed.lock() = Some(problem);
            told
        })
    }))
}

/// What the source has no longer is no failure: it says so itself, later in the stream.
fn moved(arrived: Result<Arrived, Problem>) -> Result<Arrived, Problem> {
    if arrived == Err(Problem::Moved) { Ok(Arrived::Noted) } else { arrived }
}
