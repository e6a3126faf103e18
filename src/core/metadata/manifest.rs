//! Manifests: put and delete, with the references, tags and referrers that go with them in one command.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::gone::{self, Cause};
use super::keys::{self, OF_REPOSITORY_BYTES, Slot, table};
use super::outbox::{self, Change};
use super::reply::{Reply, TagMove};
use super::repository::{self, RepositoryKey, RepositoryRow};
use super::tables::{Tables, TablesRead, after_prefix};
use super::tag::{self, Version};
use super::{idle, link, peer, referrer, settings, untagged, usage};
use crate::decide::quota::Usage;
use crate::decide::tag_move::{self, TagRights};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::{
    MANIFEST_BYTES_MAX, MANIFEST_DESCRIPTORS_MAX, MANIFEST_INLINE_BYTES_MAX, REFERRER_ANNOTATIONS_BYTES_MAX,
    TAGS_PER_DELETE_MAX, TAGS_PER_PUSH_MAX, WALK_DEPTH_MAX,
};
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::media_type::MediaType;
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;

/// Tables whose rows go when a repository is purged; links go last and on their own.
pub(crate) const PURGED_TABLES: [u8; 13] = [
    table::TAG,
    table::TAG_JOURNAL,
    table::MANIFEST_TAG,
    table::REFERRER,
    table::MANIFEST,
    table::MANIFEST_BYTES,
    table::MANIFEST_REFERENCES,
    table::REF,
    table::UNTAGGED,
    table::GONE,
    table::TAG_ENDED,
    table::CONFLICT,
    table::SETTINGS,
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
    /// Some of what it names was not here when it was put last.
    pub sparse: bool,
    /// Indexes on the longest way down from it, itself included, as far as they were here when it was put last.
    pub depth: u8,
    /// When it was put first, replicated milliseconds since 1970.
    pub pushed_at_ms: u64,
    /// Version of its presence; every put renews it, also one of a manifest that names it.
    pub presence: Version,
}

impl Stored for ManifestRow {}

/// What a manifest names, deduplicated; also what is not here yet if it is sparse. Apart from the manifest's own row,
/// which is read for every pull and for every index that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ReferencesRow(pub Vec<Referenced>);

impl Stored for ReferencesRow {}

/// Reads a manifest's row.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<ManifestRow> {
    let key = keys::by_digest(repository.slot(), table::MANIFEST, repository.id, digest);
    tables.get(&key).map(|bytes| codec::row(&bytes))
}

/// What a manifest names; nothing if it is not there.
pub fn references(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Vec<Referenced> {
    let key = keys::by_digest(repository.slot(), table::MANIFEST_REFERENCES, repository.id, digest);
    tables.get(&key).map_or(ReferencesRow::default(), |bytes| codec::row(&bytes)).0
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

/// The first manifest of the repository that names `digest` as a blob, if any; a large manifest names itself.
pub fn holder(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<Digest> {
    let of = |kind| naming_as(tables, repository, (digest, kind), 1).pop();
    of(ContentKind::Blob).or_else(|| of(ContentKind::Foreign))
}

/// Those of some digests, given in the order of their keys, that a manifest of the repository names as a blob.
pub(super) fn held_among(tables: &impl TablesRead, repository: &RepositoryKey, digests: &[Digest]) -> BTreeSet<Digest> {
    let (Some(first), Some(last)) = (digests.first(), digests.last()) else { return BTreeSet::new() };
    let all = |digest: &Digest| keys::by_digest(repository.slot(), table::REF, repository.id, digest);
    let behind = |digest: &Digest| after_prefix(&all(digest));
    let of = |key: &[u8]| {
        let (digest, kind, _) = keys::reference_in(key).expect("a reference's key tells of what, and by whom");
        (kind != ContentKind::Manifest).then_some(digest)
    };
    idle::told_between(tables, all(first), &behind(last), of, behind)
}

/// The first index of the repository that names `digest` as a manifest, if any.
pub fn parent(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<Digest> {
    let of = |kind| naming_as(tables, repository, (digest, kind), 1).pop();
    of(ContentKind::Manifest).or_else(|| of(ContentKind::Foreign))
}

/// Up to `limit` indexes of the repository that name `digest` as a manifest that belongs to them, in digest order.
pub(super) fn parents(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
    limit: usize,
) -> Vec<Digest> {
    naming_as(tables, repository, (digest, ContentKind::Manifest), limit)
}

/// Up to `limit` manifests of the repository that name `digest`, as whatever content, in digest order for each kind.
pub fn naming(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest, limit: usize) -> Vec<Digest> {
    let rows = tables.prefix(&keys::by_digest(repository.slot(), table::REF, repository.id, digest), limit);
    rows.iter().filter_map(|(key, _)| keys::reference_in(key)).map(|(_, _, manifest)| manifest).collect()
}

/// Up to `limit` manifests of the repository that name `digest` as a blob, in digest order: one of theirs, whose bytes
/// who put them had; what they name otherwise they may never have had.
pub fn naming_blob(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest, limit: usize) -> Vec<Digest> {
    naming_as(tables, repository, (digest, ContentKind::Blob), limit)
}

fn naming_as(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    (digest, kind): (&Digest, ContentKind),
    limit: usize,
) -> Vec<Digest> {
    let prefix = keys::reference(repository.slot(), repository.id, digest, kind, None);
    let rows = tables.prefix(&prefix, limit);
    rows.iter().filter_map(|(key, _)| Digest::from_key(&key[prefix.len()..])).map(|(digest, _)| digest).collect()
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
    /// Each tag to set must name this now, else the put is refused: `Some(None)` for no such tag. A put without tags is
    /// one by digest, which names itself once it is there.
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
        if self.size_bytes > MANIFEST_BYTES_MAX as u64 {
            return Err(Refusal::ManifestTooLarge { allowed: MANIFEST_BYTES_MAX as u64 });
        }
        match &self.inline {
            Some(bytes) if bytes.len() > MANIFEST_INLINE_BYTES_MAX => invalid("it is too large to be kept inline"),
            Some(bytes) if bytes.len() as u64 != self.size_bytes => invalid("its size is not that of its bytes"),
            Some(_) | None => Ok(()),
        }
    }

    /// The bytes of a manifest in the blob plane were pushed before, or are kept inline from an earlier put.
    fn check_bytes(&self, tables: &impl TablesRead, is_inline: bool) -> Result<(), Refusal> {
        if is_inline {
            return Ok(());
        }
        let (digest, claimed_bytes) = (self.digest, self.size_bytes);
        match link::read(tables, &self.repository, &digest).map(|link| link.size_bytes) {
            None => Err(Refusal::references_unknown([digest], [])),
            Some(stored_bytes) if stored_bytes != claimed_bytes => {
                Err(Refusal::SizeMismatch { digest, stored_bytes, claimed_bytes })
            }
            Some(_) => Ok(()),
        }
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

    /// How deep a walk from here goes (M10). Every index is refused that would make it deeper than walks follow. Only
    /// in a sparse repository, where a child may come after its parents, can a chain be longer: walks count as well.
    fn depth(&self, tables: &impl TablesRead) -> Result<u8, Refusal> {
        let children = self.references.iter().filter(|reference| reference.kind == ContentKind::Manifest);
        let depths = children.map(|child| read(tables, &self.repository, &child.digest).map_or(0, |row| row.depth));
        let depth = depths.max().map_or(0, |deepest| deepest.saturating_add(1));
        if usize::from(depth) > WALK_DEPTH_MAX {
            let detail = format!("it makes a chain of more than {WALK_DEPTH_MAX} indexes");
            return Err(Refusal::ManifestInvalid { detail });
        }
        Ok(depth)
    }

    fn check_tags(&self, tables: &impl TablesRead, row: &RepositoryRow, is_here: bool) -> Result<(), Refusal> {
        if let (Some(expected), []) = (&self.expected, &self.tags[..])
            && *expected != is_here.then_some(self.digest)
        {
            return Err(Refusal::PreconditionFailed);
        }
        for tag in &self.tags {
            let present = tag::read(tables, &self.repository, tag).map(|row| row.digest);
            if self.expected.as_ref().is_some_and(|expected| *expected != present) {
                return Err(Refusal::TagMoved { tag: tag.clone() });
            }
            tag_move::may_set(&row.settings.mutability, self.rights, &row.name, tag, present.as_ref(), &self.digest)?;
        }
        Ok(())
    }

    /// Writes what it names, and takes back what an earlier put of the same bytes was read to name and this one is not.
    fn write_references(&self, tables: &mut impl Tables, context: &Context<'_>, is_inline: bool) {
        let (slot, id) = (self.repository.slot(), self.repository.id);
        let of =
            |reference: &Referenced| keys::reference(slot, id, &reference.digest, reference.kind, Some(&self.digest));
        let before = references(tables, &self.repository, &self.digest);
        if before != self.references {
            let now: BTreeSet<&Referenced> = self.references.iter().collect();
            for reference in before.iter().filter(|reference| !now.contains(reference)) {
                tables.delete(of(reference));
                untagged::note(tables, context, &self.repository, &reference.digest);
            }
        }
        for reference in &self.references {
            tables.put(of(reference), Vec::new());
        }
        if !is_inline {
            // a manifest in the blob plane holds itself, or collection would take its bytes
            tables.put(keys::reference(slot, id, &self.digest, ContentKind::Blob, Some(&self.digest)), Vec::new());
        }
        let key = keys::by_digest(slot, table::MANIFEST_REFERENCES, id, &self.digest);
        tables.put(key, codec::encode(&ReferencesRow(self.references.clone())));
    }

    fn write_referrer(&self, tables: &mut impl Tables, before: Option<&ManifestRow>) {
        if let Some(old) = before.and_then(|row| row.subject)
            && Some(old) != self.subject
        {
            referrer::delete(tables, &self.repository, &old, &self.digest);
        }
        let Some(subject) = &self.subject else { return };
        let bytes = |list: &Vec<(String, String)>| list.iter().map(|(key, value)| key.len() + value.len()).sum();
        let fits = |list: &Vec<(String, String)>| -> bool {
            let bytes: usize = bytes(list);
            bytes <= REFERRER_ANNOTATIONS_BYTES_MAX
        };
        let row = referrer::ReferrerRow {
            media_type: self.media_type.clone(),
            size_bytes: self.size_bytes,
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone().filter(fits),
        };
        referrer::put(tables, &self.repository, subject, &self.digest, &row);
    }

    /// The children of an index are counted on again: their presence is renewed with its own (consensus-and-faults
    /// §6.3).
    fn renew_children(&self, tables: &mut impl Tables, context: &Context<'_>, presence: Version) {
        let mut attached = Vec::new();
        for child in self.references.iter().filter(|reference| reference.kind == ContentKind::Manifest) {
            if let Some(row) = read(tables, &self.repository, &child.digest)
                && renew_one(tables, &self.repository, &child.digest, row, presence)
            {
                attached.push(child.digest);
            }
        }
        outbox::note_renewed(tables, context, &self.repository, &attached, presence);
    }
}

/// A manifest is counted on again: its presence is of this version, if it was of an older one.
pub(super) fn renew(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    row: ManifestRow,
    presence: Version,
) {
    if renew_one(tables, repository, digest, row, presence) {
        outbox::note_renewed(tables, context, repository, &[*digest], presence);
    }
}

/// Whether that made a manifest younger which is attached to another one.
fn renew_one(
    tables: &mut impl Tables,
    repository: &RepositoryKey,
    digest: &Digest,
    row: ManifestRow,
    presence: Version,
) -> bool {
    if row.presence >= presence {
        return false;
    }
    let row = ManifestRow { presence, ..row };
    put(tables, repository, digest, &row);
    row.subject.is_some()
}

fn put(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest, row: &ManifestRow) {
    let key = keys::by_digest(repository.slot(), table::MANIFEST, repository.id, digest);
    tables.put(key, codec::encode(row));
}

impl Apply for PutManifest {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let repository = repository::require(tables, &self.repository)?;
        self.place(context, tables, &repository, None)
    }
}

impl PutManifest {
    /// Checks and writes it, with the version that it has in another region, or a new one.
    pub(super) fn place<T: Tables>(
        self,
        context: &Context<'_>,
        tables: &mut T,
        repository: &RepositoryRow,
        version: Option<Version>,
    ) -> Result<Reply, Refusal> {
        self.check_bounds()?;
        let before = read(tables, &self.repository, &self.digest);
        if before.as_ref().is_some_and(|before| before.media_type != self.media_type) {
            return Err(Refusal::ManifestTypeConflict { digest: self.digest });
        }
        // where the bytes are is settled by the first put
        let is_inline = before.as_ref().map_or(self.inline.is_some(), |before| before.inline);
        self.check_bytes(tables, is_inline)?;
        let missing = self.missing(tables, repository.settings.sparse)?;
        let depth = self.depth(tables)?;
        self.check_tags(tables, repository, before.is_some())?;

        let slot = self.slot();
        let version = match version {
            Some(version) => version,
            // it is pushed here
            None => {
                settings::may_write(tables, &self.repository)?;
                tag::next_version(tables, &self.repository, context)
            }
        };
        outbox::note(
            tables,
            context,
            &self.repository,
            Change::ManifestHere { digest: self.digest, presence: version },
        );
        self.write_references(tables, context, is_inline);
        self.write_referrer(tables, before.as_ref());
        self.renew_children(tables, context, version);
        let set = |tag| tag::set(tables, context, &self.repository, &repository.settings, tag, &self.digest, version);
        let tags: Vec<TagMove> = self.tags.iter().map(set).collect();
        let new_tags = tags.iter().filter(|moved| moved.previous.is_none()).count() as u64;
        let bytes = if before.is_none() && is_inline { self.size_bytes } else { 0 };
        usage::grow(tables, context, &self.repository, Usage { bytes, tags: new_tags })?;
        if before.is_none()
            && let Some(bytes) = self.inline
        {
            tables.put(keys::by_digest(slot, table::MANIFEST_BYTES, self.repository.id, &self.digest), bytes);
        }
        let row = ManifestRow {
            media_type: self.media_type,
            size_bytes: self.size_bytes,
            inline: is_inline,
            artifact_type: self.artifact_type,
            subject: self.subject,
            sparse: missing.iter().any(|reference| reference.kind != ContentKind::Foreign),
            depth,
            pushed_at_ms: before.as_ref().map_or(context.clock.now_ms, |before| before.pushed_at_ms),
            presence: version,
        };
        put(tables, &self.repository, &self.digest, &row);
        untagged::renew(tables, context, &self.repository, &self.digest);
        let lost_a_tag = tags.iter().filter_map(|moved| moved.previous);
        let children = self.references.iter().filter(|reference| reference.kind != ContentKind::Blob);
        for digest in lost_a_tag.chain(children.map(|reference| reference.digest)) {
            untagged::note(tables, context, &self.repository, &digest);
        }
        Ok(Reply::Manifest { created: before.is_none(), tags })
    }
}

/// Deletes a manifest with its tags. Refused while an index of the repository names it, or while it has more tags than
/// one command may drop: those are dropped on their own first.
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
        let Some(row) = read(tables, &self.repository, &self.digest) else {
            return Err(Refusal::ManifestUnknown { reference: Reference::Digest(self.digest) });
        };
        settings::may_write(tables, &self.repository)?;
        let version = tag::next_version(tables, &self.repository, context);
        let mut tags = Vec::new();
        for name in tags_to_delete(tables, &self.repository, &self.digest)? {
            let tag_row = tag::read(tables, &self.repository, &name).expect("a manifest's tags exist");
            tags.push(tag::drop_tag(tables, context, &self.repository, &name, &tag_row, version));
        }
        remove(tables, context, &self.repository, &self.digest, &row, Cause::Deleted(version));
        usage::shrink(tables, context, &self.repository, Usage { bytes: 0, tags: tags.len() as u64 });
        Ok(Reply::Deleted { tags })
    }
}

/// The tags that go with a manifest when it is deleted; refused for what an index names, or what has more of them than
/// go at once.
pub(super) fn tags_to_delete(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
) -> Result<Vec<Tag>, Refusal> {
    if let Some(parent) = parent(tables, repository, digest) {
        return Err(Refusal::ManifestReferenced { digest: *digest, parent: parent.into() });
    }
    let names = tag::of_manifest(tables, repository, digest, TAGS_PER_DELETE_MAX + 1);
    if names.len() > TAGS_PER_DELETE_MAX {
        let limit = "tags deleted with one manifest".to_owned();
        return Err(Refusal::LimitReached { limit, allowed: TAGS_PER_DELETE_MAX as u64 });
    }
    Ok(names)
}

/// Removes a manifest that neither a tag nor an index names. What it held is free from now on, but not older for that.
/// Of what is removed by age other regions are not told: they may name it.
pub(super) fn remove(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    row: &ManifestRow,
    cause: Cause,
) {
    gone::note(tables, context, repository, digest, cause);
    if let Cause::Deleted(version) | Cause::Filtered(version) = cause
        && peer::listens(tables, context)
    {
        let (is_attached, is_filtered) = (row.subject.is_some(), matches!(cause, Cause::Filtered(_)));
        let gone = Change::ManifestGone { digest: *digest, version, is_attached, is_filtered };
        outbox::note(tables, context, repository, gone);
    }
    let (slot, id, tick) = (repository.slot(), repository.id, context.clock.tick);
    let named = references(tables, repository, digest);
    for table in [table::MANIFEST, table::MANIFEST_BYTES, table::MANIFEST_REFERENCES] {
        tables.delete(keys::by_digest(slot, table, id, digest));
    }
    untagged::forget(tables, context, repository, digest);
    for reference in named {
        tables.delete(keys::reference(slot, id, &reference.digest, reference.kind, Some(digest)));
        link::touch(tables, repository, &reference.digest, tick);
        untagged::note(tables, context, repository, &reference.digest);
    }
    if row.inline {
        usage::shrink(tables, context, repository, Usage::of_bytes(row.size_bytes));
    } else {
        tables.delete(keys::reference(slot, id, digest, ContentKind::Blob, Some(digest)));
        link::touch(tables, repository, digest, tick);
    }
    if let Some(subject) = &row.subject {
        referrer::delete(tables, repository, subject, digest);
    }
    untagged::renew_referrers(tables, context, repository, digest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tag_move::Mutability;
    use crate::metadata::link::Unlink;
    use crate::metadata::repository::{ChangeRepository, Settings};
    use crate::metadata::testing::{World, manifest, reference, tags, upload};
    use crate::vocabulary::ids::UseId;

    fn world(sparse: bool) -> (World, RepositoryKey) {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("r", 1, Settings { sparse, ..Settings::default() });
        (world, repository)
    }

    fn naming(repository: &RepositoryKey, bytes: &[u8], references: &[Referenced]) -> PutManifest {
        PutManifest { references: references.to_vec(), ..manifest(repository, bytes) }
    }

    fn delete(repository: &RepositoryKey, bytes: &[u8]) -> DeleteManifest {
        DeleteManifest { repository: repository.clone(), digest: Digest::sha256(bytes) }
    }

    // A5, M5, M6, M11: what is refused, and that it leaves nothing (the checker looks after every entry).
    #[test]
    fn refusals() {
        let (mut world, repository) = world(false);
        let blob = world.push_blob(&repository, b"x", 1, &[1, 2]);
        let plain = || manifest(&repository, b"m");
        let missing = naming(&repository, b"m", &[reference(b"absent", ContentKind::Blob)]);
        assert!(matches!(world.refused(missing), Refusal::ManifestReferencesUnknown { .. }));
        let child = naming(&repository, b"m", &[reference(b"x", ContentKind::Manifest)]);
        assert!(matches!(world.refused(child), Refusal::ManifestReferencesUnknown { .. }), "a blob is no child");
        let wrong = Referenced { digest: blob, size_bytes: 9, kind: ContentKind::Blob };
        assert!(matches!(world.refused(naming(&repository, b"m", &[wrong])), Refusal::SizeMismatch { .. }));
        let outside = PutManifest { inline: None, ..plain() };
        assert!(matches!(world.refused(outside), Refusal::ManifestReferencesUnknown { .. }));
        let short = PutManifest { size_bytes: 7, ..plain() };
        assert!(matches!(world.refused(short), Refusal::ManifestInvalid { .. }));
        let huge = PutManifest { size_bytes: MANIFEST_BYTES_MAX as u64 + 1, inline: None, ..plain() };
        assert!(matches!(world.refused(huge), Refusal::ManifestTooLarge { .. }));
        let many: Vec<String> = (0..=TAGS_PER_PUSH_MAX).map(|number| format!("t{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(matches!(world.refused(PutManifest { tags: tags(&many), ..plain() }), Refusal::LimitReached { .. }));
        assert_eq!(read(&world.tables, &repository, &Digest::sha256(b"m")), None);
        world.ok(plain());
        let index = MediaType::parse("application/vnd.oci.image.index.v1+json").unwrap();
        assert!(matches!(
            world.refused(PutManifest { media_type: index, ..plain() }),
            Refusal::ManifestTypeConflict { .. }
        ));
    }

    // M10, clients §12.19: an index that would make a chain longer than walks follow is refused, however it is put
    // together; a wide one is not.
    #[test]
    fn nesting_is_bounded() {
        let (mut world, repository) = world(false);
        world.ok(manifest(&repository, b"0"));
        let name = |depth: usize| depth.to_string().into_bytes();
        let index = |depth: usize, child: usize| {
            naming(&repository, &name(depth), &[reference(&name(child), ContentKind::Manifest)])
        };
        for depth in 1..=WALK_DEPTH_MAX {
            world.ok(index(depth, depth - 1));
            let row = read(&world.tables, &repository, &Digest::sha256(&name(depth))).unwrap();
            assert_eq!(usize::from(row.depth), depth);
        }
        let deeper = index(WALK_DEPTH_MAX + 1, WALK_DEPTH_MAX);
        assert!(matches!(world.refused(deeper), Refusal::ManifestInvalid { .. }));
        world.ok(index(WALK_DEPTH_MAX + 1, WALK_DEPTH_MAX - 1));
        let mixed = [0, WALK_DEPTH_MAX].map(|child| reference(&name(child), ContentKind::Manifest));
        assert!(matches!(world.refused(naming(&repository, b"mixed", &mixed)), Refusal::ManifestInvalid { .. }));
    }

    // Conditions hold for every tag, and for the manifest itself when there is none.
    #[test]
    fn conditions() {
        let (mut world, repository) = world(false);
        let put = |bytes: &[u8], names: &[&str], expected| PutManifest {
            tags: tags(names),
            expected: Some(expected),
            ..manifest(&repository, bytes)
        };
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        assert_eq!(world.refused(put(b"1", &[], Some(one))), Refusal::PreconditionFailed);
        world.ok(put(b"1", &[], None));
        assert_eq!(world.refused(put(b"1", &[], None)), Refusal::PreconditionFailed);
        world.ok(put(b"1", &[], Some(one)));
        world.ok(put(b"1", &["a", "b"], None));
        assert!(matches!(world.refused(put(b"2", &["c", "b"], None)), Refusal::TagMoved { .. }));
        assert!(matches!(world.refused(put(b"2", &["b"], Some(two))), Refusal::TagMoved { .. }));
        world.ok(put(b"2", &["b", "a"], Some(one)));
    }

    // M11: a sparse repository takes an index whose children are missing, marks it, and keeps what comes later.
    #[test]
    fn sparse() {
        let (mut world, repository) = world(true);
        let child = reference(b"child", ContentKind::Manifest);
        let layer = reference(b"layer", ContentKind::Blob);
        let index = naming(&repository, b"index", &[child, layer]);
        let is_sparse = |world: &World| read(&world.tables, &repository, &Digest::sha256(b"index")).unwrap().sparse;
        world.ok(index.clone());
        assert!(is_sparse(&world));
        world.push_blob(&repository, b"layer", 1, &[1, 2]);
        let unlink = Unlink { repository: repository.clone(), digest: layer.digest, hold: UseId(1) };
        assert!(matches!(world.refused(unlink.clone()), Refusal::BlobReferenced { .. }));
        world.ok(manifest(&repository, b"child"));
        assert!(matches!(world.refused(delete(&repository, b"child")), Refusal::ManifestReferenced { .. }));
        world.ok(index.clone());
        assert!(!is_sparse(&world), "nothing is missing any more");
        world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
        world.ok(index);
        world.ok(delete(&repository, b"index"));
        world.ok(delete(&repository, b"child"));
        world.ok(unlink);
    }

    // A manifest too large for the tables holds its own bytes until it is deleted, however often it is put.
    #[test]
    fn large() {
        let (mut world, repository) = world(false);
        let digest = world.push_blob(&repository, b"large", 1, &[1, 2]);
        let large = PutManifest { inline: None, tags: tags(&["v1"]), ..manifest(&repository, b"large") };
        world.ok(large.clone());
        world.ok(large);
        // a proposer with another idea of what is large changes nothing about where the bytes are
        world.ok(manifest(&repository, b"large"));
        assert_eq!(inline_bytes(&world.tables, &repository, &digest), None);
        let unlink = Unlink { repository: repository.clone(), digest, hold: UseId(1) };
        assert!(matches!(world.refused(unlink.clone()), Refusal::BlobReferenced { .. }));
        world.ok(delete(&repository, b"large"));
        world.ok(unlink);
        world.ok(manifest(&repository, b"small"));
        world.ok(PutManifest { inline: None, ..manifest(&repository, b"small") });
        world.ok(delete(&repository, b"small"));
        assert_eq!(holder(&world.tables, &repository, &Digest::sha256(b"small")), None);
        assert_eq!(upload(1).tick, 0);
    }

    // A put that reads the same bytes otherwise takes its place whole: nothing stays held that nobody names.
    #[test]
    fn put_again_with_other_references() {
        let (mut world, repository) = world(false);
        for (number, bytes) in [(1, b"x"), (2, b"y")] {
            world.push_blob(&repository, bytes, number, &[1, 2]);
        }
        let (x, y) = (reference(b"x", ContentKind::Blob), reference(b"y", ContentKind::Blob));
        let subject = |bytes: &[u8]| Some(Digest::sha256(bytes));
        world.ok(PutManifest { subject: subject(b"s"), ..naming(&repository, b"m", &[x]) });
        world.ok(PutManifest { subject: subject(b"t"), ..naming(&repository, b"m", &[y]) });
        assert_eq!(holder(&world.tables, &repository, &x.digest), None);
        assert_eq!(holder(&world.tables, &repository, &y.digest), subject(b"m"));
        assert_eq!(referrer::list(&world.tables, &repository, &Digest::sha256(b"s"), None, 9), []);
        assert_eq!(referrer::list(&world.tables, &repository, &Digest::sha256(b"t"), None, 9).len(), 1);
    }

    // Delete and push again is a new life of everything; the delete touches what it let go.
    #[test]
    fn delete_and_push_again() {
        let (mut world, repository) = world(false);
        let blob = world.push_blob(&repository, b"x", 1, &[1, 2]);
        let put =
            PutManifest { tags: tags(&["a", "b"]), ..naming(&repository, b"m", &[reference(b"x", ContentKind::Blob)]) };
        world.ok(put.clone());
        let first = tag::read(&world.tables, &repository, &put.tags[0]).unwrap();
        world.ok(super::super::clock::Tick { expected: 0 });
        let Reply::Deleted { tags } = world.ok(delete(&repository, b"m")) else { panic!("another reply") };
        assert_eq!(tags.iter().map(|moved| moved.tag.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(link::read(&world.tables, &repository, &blob).unwrap().touched_tick, 1);
        assert!(matches!(world.refused(delete(&repository, b"m")), Refusal::ManifestUnknown { .. }));
        world.ok(put.clone());
        let second = tag::read(&world.tables, &repository, &put.tags[0]).unwrap();
        assert_eq!((first.base, second.base), (first.version, second.version));
        assert!(second.version > tags[0].version);
        assert_eq!((first.change, second.change), (1, 3));
    }

    // An index counts on its children anew: their presence is as young as its own.
    #[test]
    fn presence_of_children() {
        let (mut world, repository) = world(false);
        world.ok(manifest(&repository, b"child"));
        world.ok(naming(&repository, b"index", &[reference(b"child", ContentKind::Manifest)]));
        let presence = |bytes: &[u8]| read(&world.tables, &repository, &Digest::sha256(bytes)).unwrap().presence;
        assert_eq!(presence(b"child"), presence(b"index"));
    }

    // A delete is bounded: of a manifest with more tags, tags go first.
    #[test]
    fn deletes_are_bounded() {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Settings::default());
        let names: Vec<String> = (0..=TAGS_PER_DELETE_MAX).map(|number| format!("t{number}")).collect();
        let puts = names.chunks(TAGS_PER_PUSH_MAX).map(|names| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            PutManifest { tags: tags(&names), ..manifest(&repository, b"m") }.into()
        });
        assert_eq!(world.propose(puts.collect()).refusal, None);
        assert!(matches!(world.refused(delete(&repository, b"m")), Refusal::LimitReached { .. }));
        let one = tags(&[&names[0]]).remove(0);
        world.ok(tag::DeleteTag { repository: repository.clone(), tag: one, expected: None });
        world.ok(delete(&repository, b"m"));
    }

    // A8, A11: a fixed tag does not move, and a push that sets it to what it names leaves its version alone.
    #[test]
    fn fixed_tags() {
        let mut world = World::cluster();
        let settings = Settings { mutability: Mutability::Immutable, sparse: false };
        let repository = world.repository("r", 1, settings);
        let put = |bytes: &[u8]| PutManifest { tags: tags(&["v1"]), ..manifest(&repository, bytes) };
        world.ok(put(b"1"));
        let first = tag::read(&world.tables, &repository, &tags(&["v1"])[0]);
        world.ok(put(b"1"));
        assert_eq!(tag::read(&world.tables, &repository, &tags(&["v1"])[0]), first);
        assert!(matches!(world.refused(put(b"2")), Refusal::TagImmutable { .. }));
        assert_eq!(read(&world.tables, &repository, &Digest::sha256(b"2")), None);
    }
}
