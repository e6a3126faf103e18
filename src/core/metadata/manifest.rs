//! Manifests: put and delete, with the references, tags and referrers that go with them in one command.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, OF_REPOSITORY_BYTES, Slot, table};
use super::reply::Reply;
use super::repository::{self, RepositoryKey, RepositoryRow};
use super::tables::{Tables, TablesRead, after_prefix};
use super::tag::{self, Version};
use super::{link, referrer};
use crate::decide::tag_move::{self, TagRights};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::{MANIFEST_DESCRIPTORS_MAX, MANIFEST_INLINE_BYTES_MAX, TAGS_PER_PUSH_MAX};
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::media_type::MediaType;
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;

/// Tables whose rows go when a repository is purged; links go last and on their own.
pub(crate) const PURGED_TABLES: [u8; 8] = [
    table::TAG,
    table::TAG_JOURNAL,
    table::MANIFEST_TAG,
    table::REFERRER,
    table::MANIFEST,
    table::MANIFEST_BYTES,
    table::REF,
    table::PENDING_REF,
];

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ManifestRow {
    /// The type it was put with; the type it is served with.
    pub media_type: MediaType,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Its bytes are in the tables; else they are a blob that it holds itself.
    pub inline: bool,
    /// Effective artifact type.
    pub artifact_type: Option<String>,
    /// What it is attached to.
    pub subject: Option<Digest>,
    /// What it names, deduplicated; also what is not here yet if it is sparse.
    pub references: Vec<Referenced>,
    /// Some of what it names was not here when it came.
    pub sparse: bool,
    /// When it was put first, replicated milliseconds since 1970.
    pub pushed_at_ms: u64,
    /// Version of its presence; every put renews it.
    pub presence: Version,
}

impl Stored for ManifestRow {}

/// Reads a manifest's row.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<ManifestRow> {
    let key = keys::by_digest(repository.slot(), table::MANIFEST, repository.id, digest);
    tables.get(&key).map(|bytes| codec::row(&bytes))
}

/// Reads the bytes of a manifest that is kept inline.
pub fn inline_bytes(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<Vec<u8>> {
    tables.get(&keys::by_digest(repository.slot(), table::MANIFEST_BYTES, repository.id, digest))
}

/// Up to `limit` manifests after `after`, in digest order.
pub fn list(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    after: Option<&Digest>,
    limit: usize,
) -> Vec<(Digest, ManifestRow)> {
    let prefix = keys::of_repository(repository.slot(), table::MANIFEST, repository.id);
    let from = match after {
        Some(after) => [&prefix[..], &after.key_bytes(), &[0]].concat(),
        None => prefix.clone(),
    };
    let digest =
        |key: &[u8]| Digest::from_key(&key[OF_REPOSITORY_BYTES..]).expect("a manifest key ends with a digest").0;
    let rows = tables.range(&from, &after_prefix(&prefix), limit);
    rows.iter().map(|(key, value)| (digest(key), codec::row(value))).collect()
}

/// The first manifest of the repository that names `digest`, if any.
pub fn holder(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<Digest> {
    let prefix = keys::by_digest(repository.slot(), table::REF, repository.id, digest);
    let (key, _) = tables.prefix(&prefix, 1).pop()?;
    Digest::from_key(&key[prefix.len()..]).map(|(digest, _)| digest)
}

/// Puts a manifest, moves tags to it. Everything it names must be in the repository, unless the repository is sparse.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutManifest {
    /// Where.
    pub repository: RepositoryKey,
    /// Its digest, over the received bytes.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Its bytes, up to 64 KiB; larger ones were pushed and linked as a blob before.
    pub inline: Option<Vec<u8>>,
    /// What it names, deduplicated.
    pub references: Vec<Referenced>,
    /// What it is attached to; need not be here.
    pub subject: Option<Digest>,
    /// Effective artifact type.
    pub artifact_type: Option<String>,
    /// Its annotations for the list of referrers; `None` if too large for a row.
    pub annotations: Option<Vec<(String, String)>>,
    /// The tags to set.
    pub tags: Vec<Tag>,
    /// What the caller may do with tags.
    pub rights: TagRights,
    /// The single tag to set must name this now, else the put is refused: `Some(None)` for no such tag.
    pub expected: Option<Option<Digest>>,
}

impl PutManifest {
    fn check_bounds(&self) -> Result<(), Refusal> {
        let invalid = |detail: &str| Err(Refusal::ManifestInvalid { detail: detail.to_owned() });
        if self.references.len() > MANIFEST_DESCRIPTORS_MAX {
            return invalid("it names too many things");
        }
        if self.tags.len() > TAGS_PER_PUSH_MAX {
            let allowed = TAGS_PER_PUSH_MAX as u64;
            return Err(Refusal::LimitReached { limit: "tags in one push".into(), allowed });
        }
        if self.inline.as_ref().is_some_and(|bytes| bytes.len() > MANIFEST_INLINE_BYTES_MAX) {
            return invalid("it is too large to be kept inline");
        }
        Ok(())
    }

    /// What is not here; refused unless it need not be, or the repository takes sparse manifests.
    fn missing(&self, tables: &impl TablesRead, sparse: bool) -> Result<Vec<Referenced>, Refusal> {
        let mut missing = Vec::new();
        for reference in &self.references {
            let (digest, claimed_bytes) = (reference.digest, reference.size_bytes);
            let blob = || link::read(tables, &self.repository, &digest).map(|row| row.size_bytes);
            let manifest = || read(tables, &self.repository, &digest).map(|row| row.size_bytes);
            let stored_bytes = match reference.kind {
                ContentKind::Blob => blob(),
                ContentKind::Manifest => manifest(),
                ContentKind::Foreign => blob().or_else(manifest),
            };
            match stored_bytes {
                Some(stored_bytes) if stored_bytes != claimed_bytes => {
                    return Err(Refusal::SizeMismatch { digest, stored_bytes, claimed_bytes });
                }
                Some(_) => {}
                None => missing.push(*reference),
            }
        }
        let of = |kind| missing.iter().filter(move |r| r.kind == kind).map(|r| r.digest);
        if !sparse && missing.iter().any(|reference| reference.kind != ContentKind::Foreign) {
            return Err(Refusal::references_unknown(of(ContentKind::Blob), of(ContentKind::Manifest)));
        }
        Ok(missing)
    }

    fn check_tags(&self, tables: &impl TablesRead, row: &RepositoryRow) -> Result<(), Refusal> {
        for tag in &self.tags {
            let present = tag::read(tables, &self.repository, tag).map(|row| row.digest);
            if let (Some(expected), [_]) = (&self.expected, &self.tags[..])
                && *expected != present
            {
                return Err(Refusal::TagMoved { tag: tag.clone() });
            }
            tag_move::may_set(&row.settings.mutability, self.rights, &row.name, tag, present.as_ref(), &self.digest)?;
        }
        Ok(())
    }

    fn write_references(&self, tables: &mut impl Tables, missing: &[Referenced]) {
        let (slot, id) = (self.repository.slot(), self.repository.id);
        for reference in &self.references {
            let table = if missing.contains(reference) { table::PENDING_REF } else { table::REF };
            let key = keys::by_digests(slot, table, id, &reference.digest, &self.digest);
            tables.put(key, Vec::new());
        }
        if self.inline.is_none() {
            // a manifest in the blob plane holds itself, or collection would take its bytes
            tables.put(keys::by_digests(slot, table::REF, id, &self.digest, &self.digest), Vec::new());
        }
    }
}

impl Apply for PutManifest {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let row = repository::require(tables, &self.repository)?;
        self.check_bounds()?;
        let before = read(tables, &self.repository, &self.digest);
        if before.as_ref().is_some_and(|before| before.media_type != self.media_type) {
            return Err(Refusal::ManifestTypeConflict { digest: self.digest });
        }
        if self.inline.is_none() && link::read(tables, &self.repository, &self.digest).is_none() {
            return Err(Refusal::references_unknown([self.digest], []));
        }
        let missing = self.missing(tables, row.settings.sparse)?;
        self.check_tags(tables, &row)?;

        let slot = self.slot();
        let version = tag::next_version(tables, slot, context);
        self.write_references(tables, &missing);
        if let Some(subject) = &self.subject {
            let row = referrer::ReferrerRow {
                media_type: self.media_type.clone(),
                size_bytes: self.size_bytes,
                artifact_type: self.artifact_type.clone(),
                annotations: self.annotations.clone(),
            };
            referrer::put(tables, &self.repository, subject, &self.digest, &row);
        }
        let moves = self.tags.iter().map(|tag| tag::set(tables, context, &self.repository, tag, &self.digest, version));
        let tags = moves.collect();
        let created = before.is_none();
        if created && let Some(bytes) = &self.inline {
            let key = keys::by_digest(slot, table::MANIFEST_BYTES, self.repository.id, &self.digest);
            tables.put(key, bytes.clone());
        }
        let row = ManifestRow {
            media_type: self.media_type,
            size_bytes: self.size_bytes,
            inline: before.as_ref().map_or(self.inline.is_some(), |before| before.inline),
            artifact_type: self.artifact_type,
            subject: self.subject,
            references: self.references,
            sparse: missing.iter().any(|reference| reference.kind != ContentKind::Foreign),
            pushed_at_ms: before.map_or(context.clock.now_ms, |before| before.pushed_at_ms),
            presence: version,
        };
        tables.put(keys::by_digest(slot, table::MANIFEST, self.repository.id, &self.digest), codec::encode(&row));
        link::arrived(tables, &self.repository, &self.digest);
        Ok(Reply::Manifest { created, tags })
    }
}

/// Deletes a manifest with its tags. Refused while an index of the repository names it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteManifest {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub digest: Digest,
}

impl Apply for DeleteManifest {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let (slot, id) = (self.slot(), self.repository.id);
        let Some(row) = read(tables, &self.repository, &self.digest) else {
            return Err(Refusal::ManifestUnknown { reference: Reference::Digest(self.digest) });
        };
        let prefix = keys::by_digest(slot, table::REF, id, &self.digest);
        for (key, _) in tables.prefix(&prefix, 2) {
            let (parent, _) = Digest::from_key(&key[prefix.len()..]).expect("a reference key ends with a digest");
            if parent != self.digest {
                return Err(Refusal::ManifestReferenced { digest: self.digest, parent: parent.into() });
            }
        }
        let version = tag::next_version(tables, slot, context);
        let mut tags = Vec::new();
        for name in tag::of_manifest(tables, &self.repository, &self.digest) {
            let tag_row = tag::read(tables, &self.repository, &name).expect("a manifest's tags exist");
            tags.push(tag::drop_tag(tables, context, &self.repository, &name, &tag_row, version));
        }
        for reference in &row.references {
            tables.delete(keys::by_digests(slot, table::REF, id, &reference.digest, &self.digest));
            tables.delete(keys::by_digests(slot, table::PENDING_REF, id, &reference.digest, &self.digest));
            link::touch(tables, &self.repository, &reference.digest, context.clock.tick);
        }
        if !row.inline {
            tables.delete(keys::by_digests(slot, table::REF, id, &self.digest, &self.digest));
            link::touch(tables, &self.repository, &self.digest, context.clock.tick);
        }
        if let Some(subject) = &row.subject {
            referrer::delete(tables, &self.repository, subject, &self.digest);
        }
        tables.delete(keys::by_digest(slot, table::MANIFEST, id, &self.digest));
        tables.delete(keys::by_digest(slot, table::MANIFEST_BYTES, id, &self.digest));
        Ok(Reply::Deleted { tags })
    }
}
