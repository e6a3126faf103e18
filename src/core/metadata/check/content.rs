//! Rows of repositories: `Ref ⇒ Link ⇒ Use`, a tag names a manifest, a manifest is whole, and every index of the other.

use super::super::blob::{BlobRow, UseRow};
use super::super::clock::SlotClockRow;
use super::super::conflict::ConflictRow;
use super::super::ended::EndedRow;
use super::super::gone::GoneRow;
use super::super::keys::{self, Slot, table};
use super::super::link::{LinkRow, LooseRow};
use super::super::manifest::{ManifestRow, ReferencesRow};
use super::super::referrer::ReferrerRow;
use super::super::repository::{NameRow, RepositoryRow};
use super::super::settings::SettingsRow;
use super::super::tables::TablesRead;
use super::super::tag::{JournalRow, TagRow};
use super::super::untagged::UntaggedRow;
use super::{Found, ensure, get, in_slot, is_first_level, unreadable, usage, value};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RepositoryId;
use crate::vocabulary::limits::{TAG_JOURNAL_MAX, WALK_DEPTH_MAX};
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::tag::Tag;

pub(super) fn row(tables: &impl TablesRead, slot: Slot, table: u8, key: &[u8], bytes: &[u8]) -> Found {
    match table {
        table::NAME => name(tables, slot, key, bytes),
        table::REPOSITORY => repository(tables, slot, key, bytes),
        table::DELETED => {
            let id = keys::repository_in(key).ok_or_else(unreadable)?;
            let row: Option<RepositoryRow> = get(tables, &keys::repository(slot, id));
            ensure(row.is_some_and(|row| row.deleted), || format!("repository {id} waits to be purged, but lives"))
        }
        table::SLOT_CLOCK => value::<SlotClockRow>(bytes).map(drop),
        _ => {
            let id = keys::of_repository_in(key).ok_or_else(unreadable)?;
            let row: Option<RepositoryRow> = get(tables, &keys::repository(slot, id));
            let is_live = !row.ok_or_else(|| format!("a row of repository {id}, which is not here"))?.deleted;
            Inside { tables, slot, id }.row(table, key, bytes, is_live)
        }
    }
}

fn name(tables: &impl TablesRead, slot: Slot, key: &[u8], bytes: &[u8]) -> Found {
    let NameRow(id) = value(bytes)?;
    let name = keys::name_in(key).ok_or_else(unreadable)?;
    let row: Option<RepositoryRow> = get(tables, &keys::repository(slot, id));
    let fits = row.is_some_and(|row| !row.deleted && row.name.as_str() == name);
    ensure(fits, || format!("the name '{name}' points at {id}, which is not a live repository of that name"))
}

fn repository(tables: &impl TablesRead, slot: Slot, key: &[u8], bytes: &[u8]) -> Found {
    let id = keys::repository_in(key).ok_or_else(unreadable)?;
    let row: RepositoryRow = value(bytes)?;
    in_slot(slot, keys::repository_slot(row.registry, &row.name))?;
    let named: Option<NameRow> = get(tables, &keys::name(slot, row.registry, row.name.as_str()));
    let is_named = named == Some(NameRow(id));
    ensure(is_named != row.deleted, || format!("repository '{}' {id}: name and life do not fit", row.name))?;
    let waits = tables.contains(&keys::deleted(slot, id));
    ensure(waits == row.deleted, || format!("repository '{}' {id} is deleted, but nobody would purge it", row.name))?;
    if row.deleted || is_first_level(tables, slot) { Ok(()) } else { usage::repository(tables, slot, id, &row) }
}

/// The rows of one repository.
struct Inside<'a, T> {
    tables: &'a T,
    slot: Slot,
    id: RepositoryId,
}

impl<T: TablesRead> Inside<'_, T> {
    fn row(&self, table: u8, key: &[u8], bytes: &[u8], is_live: bool) -> Found {
        match table {
            table::MANIFEST => self.manifest(key, value(bytes)?, is_live),
            table::MANIFEST_BYTES => self.manifest_bytes(key, bytes, is_live),
            table::MANIFEST_REFERENCES => {
                value::<ReferencesRow>(bytes)?;
                let digest = keys::digest_in(key).ok_or_else(unreadable)?;
                ensure(!is_live || self.read(&digest).is_some(), || {
                    format!("references of {digest}, which is not here")
                })
            }
            table::REF => self.reference(key, is_live),
            table::REFERRER => self.referrer(key, value(bytes)?, is_live),
            table::TAG => self.tag(key, value(bytes)?, is_live),
            table::TAG_JOURNAL => self.journal(key, value(bytes)?, is_live),
            table::MANIFEST_TAG => {
                let (digest, tag) = keys::manifest_tag_in(key).ok_or_else(unreadable)?;
                let row: Option<TagRow> = get(self.tables, &keys::tag(self.slot, self.id, tag));
                let fits = row.is_some_and(|row| row.digest == digest);
                ensure(!is_live || fits, || format!("{digest} is listed with tag '{tag}', which does not name it"))
            }
            table::UNTAGGED => {
                value::<UntaggedRow>(bytes)?;
                let digest = keys::digest_in(key).ok_or_else(unreadable)?;
                let fits = self.read(&digest).is_some() && !self.is_named(&digest);
                ensure(!is_live || fits, || format!("manifest {digest} is listed as untagged, but is named"))
            }
            table::GONE => {
                value::<GoneRow>(bytes)?;
                keys::digest_in(key).ok_or_else(unreadable).map(drop)
            }
            table::TAG_ENDED => {
                value::<EndedRow>(bytes)?;
                let tag = keys::tag_in(key).ok_or_else(unreadable)?;
                let is_here = self.tables.contains(&keys::tag(self.slot, self.id, tag));
                ensure(!is_live || !is_here, || format!("tag '{tag}' is here, and remembered as ended"))
            }
            table::CONFLICT => {
                value::<ConflictRow>(bytes)?;
                keys::conflict_in(key).ok_or_else(unreadable).map(drop)
            }
            table::SETTINGS => {
                let noted: SettingsRow = value(bytes)?;
                let row: Option<RepositoryRow> = get(self.tables, &keys::repository(self.slot, self.id));
                let fits = row.is_some_and(|row| row.settings == noted.settings);
                ensure(!is_live || fits, || "the settings are not those that were set".to_owned())
            }
            table::LINK => self.link(key, value(bytes)?, is_live),
            table::LOOSE_USE => {
                value::<LooseRow>(bytes)?;
                let (_, digest, hold) = keys::loose_use_in(key).ok_or_else(unreadable)?;
                let stands = self.link_to(&digest).is_some_and(|link| link.hold == hold);
                ensure(!stands, || format!("use {hold} of {digest} is loose, but a link stands on it"))
            }
            _ => Err(format!("table {table:#04x} does not exist")),
        }
    }

    fn read(&self, digest: &Digest) -> Option<ManifestRow> {
        get(self.tables, &keys::by_digest(self.slot, table::MANIFEST, self.id, digest))
    }

    fn references(&self, digest: &Digest) -> Option<ReferencesRow> {
        get(self.tables, &keys::by_digest(self.slot, table::MANIFEST_REFERENCES, self.id, digest))
    }

    fn link_to(&self, digest: &Digest) -> Option<LinkRow> {
        get(self.tables, &keys::by_digest(self.slot, table::LINK, self.id, digest))
    }

    /// Whether a tag or an index names a manifest.
    fn is_named(&self, digest: &Digest) -> bool {
        let has = |key: Vec<u8>| !self.tables.prefix(&key, 1).is_empty();
        let by = |kind| has(keys::reference(self.slot, self.id, digest, kind, None));
        has(keys::manifest_tag(self.slot, self.id, digest, "")) || by(ContentKind::Manifest) || by(ContentKind::Foreign)
    }

    fn names(&self, digest: &Digest, kind: ContentKind, manifest: &Digest) -> bool {
        self.tables.contains(&keys::reference(self.slot, self.id, digest, kind, Some(manifest)))
    }

    fn manifest(&self, key: &[u8], row: ManifestRow, is_live: bool) -> Found {
        let digest = keys::digest_in(key).ok_or_else(unreadable)?;
        if !is_live {
            return Ok(());
        }
        let held = self.tables.contains(&keys::by_digest(self.slot, table::MANIFEST_BYTES, self.id, &digest));
        ensure(held == row.inline, || format!("manifest {digest}: its bytes are not where its row says"))?;
        let is_listed = self.tables.contains(&keys::by_digest(self.slot, table::UNTAGGED, self.id, &digest));
        let is_old = is_first_level(self.tables, self.slot);
        ensure(is_listed || is_old || self.is_named(&digest), || {
            format!("manifest {digest} is named by nothing, nor listed so")
        })?;
        if !row.inline {
            let held = self.link_to(&digest).is_some_and(|link| link.size_bytes == row.size_bytes);
            ensure(held && self.names(&digest, ContentKind::Blob, &digest), || {
                format!("manifest {digest} lies in the blob plane, but does not hold itself")
            })?;
        }
        if let Some(subject) = &row.subject {
            let key = keys::by_digests(self.slot, table::REFERRER, self.id, subject, &digest);
            ensure(self.tables.contains(&key), || {
                format!("manifest {digest} is not listed with its subject {subject}")
            })?;
        }
        ensure(usize::from(row.depth) <= WALK_DEPTH_MAX, || {
            format!("manifest {digest} is {} indexes deep", row.depth)
        })?;
        let references = self.references(&digest).ok_or_else(|| format!("manifest {digest} has no references"))?;
        references.0.iter().try_for_each(|reference| self.named(&digest, &row, reference))
    }

    fn named(&self, digest: &Digest, row: &ManifestRow, reference: &Referenced) -> Found {
        let Referenced { digest: content, size_bytes, kind } = reference;
        ensure(self.names(content, *kind, digest), || format!("manifest {digest} names {content} without holding it"))?;
        let found_bytes = match kind {
            ContentKind::Foreign => return Ok(()),
            ContentKind::Blob => self.link_to(content).map(|link| link.size_bytes),
            ContentKind::Manifest => self.read(content).map(|child| child.size_bytes),
        };
        // in a sparse manifest it may have come, with any size, after the manifest that names it
        let fits = row.sparse || found_bytes == Some(*size_bytes);
        ensure(fits, || format!("manifest {digest} names {content}, which the repository does not hold"))
    }

    fn manifest_bytes(&self, key: &[u8], bytes: &[u8], is_live: bool) -> Found {
        let digest = keys::digest_in(key).ok_or_else(unreadable)?;
        let hashed = Digest::of(digest.algorithm(), bytes);
        ensure(hashed == digest, || format!("the bytes of manifest {digest} hash to {hashed}"))?;
        let fits = self.read(&digest).is_some_and(|row| row.inline && row.size_bytes == bytes.len() as u64);
        ensure(!is_live || fits, || format!("bytes of {digest}, which is not a manifest kept inline"))
    }

    fn reference(&self, key: &[u8], is_live: bool) -> Found {
        let (content, kind, manifest) = keys::reference_in(key).ok_or_else(unreadable)?;
        if !is_live {
            return Ok(());
        }
        let row = self.read(&manifest).ok_or_else(|| format!("{content} is held by {manifest}, which is not here"))?;
        let is_itself = content == manifest && kind == ContentKind::Blob && !row.inline;
        let mut named = self.references(&manifest).unwrap_or_default().0.into_iter();
        let is_named = named.any(|reference| reference.digest == content && reference.kind == kind);
        ensure(is_itself || is_named, || format!("{content} is held by {manifest}, which does not name it"))
    }

    fn referrer(&self, key: &[u8], row: ReferrerRow, is_live: bool) -> Found {
        let (subject, digest) = keys::digests_in(key).ok_or_else(unreadable)?;
        let fits = self.read(&digest).is_some_and(|manifest| {
            manifest.subject == Some(subject)
                && (&manifest.media_type, manifest.size_bytes) == (&row.media_type, row.size_bytes)
        });
        ensure(!is_live || fits, || format!("{digest} is listed with {subject}, but is not attached to it"))
    }

    fn tag(&self, key: &[u8], row: TagRow, is_live: bool) -> Found {
        let tag = keys::tag_in(key).and_then(|tag| Tag::parse(tag).ok()).ok_or_else(unreadable)?;
        if !is_live {
            return Ok(());
        }
        ensure(self.read(&row.digest).is_some(), || format!("tag '{tag}' names {}, which is not here", row.digest))?;
        let listed = keys::manifest_tag(self.slot, self.id, &row.digest, tag.as_str());
        ensure(self.tables.contains(&listed), || format!("tag '{tag}' is not listed with its manifest"))?;
        let last: Option<JournalRow> = get(self.tables, &keys::tag_journal(self.slot, self.id, &tag, row.change));
        // another region may have set it to the same before
        let is_older = |last: &JournalRow| last.version <= row.version || last.version.region != row.version.region;
        let fits = last.is_some_and(|last| last.digest == Some(row.digest) && is_older(&last));
        ensure(fits && row.base <= row.version, || format!("tag '{tag}' and its journal tell different stories"))
    }

    fn journal(&self, key: &[u8], row: JournalRow, is_live: bool) -> Found {
        let (tag, change) = keys::tag_journal_in(key).ok_or_else(unreadable)?;
        let tag = Tag::parse(tag).map_err(|_| unreadable())?;
        if !is_live {
            return Ok(());
        }
        let at = |change| get::<JournalRow>(self.tables, &keys::tag_journal(self.slot, self.id, &tag, change));
        let is_bounded = at(change.saturating_add(TAG_JOURNAL_MAX as u64)).is_none();
        ensure(is_bounded, || format!("the journal of tag '{tag}' is longer than {TAG_JOURNAL_MAX}"))?;
        match at(change + 1) {
            // of a fixed tag the older setting of another region takes the place of the younger one of this, and what
            // deleted the image of the older one here ends both
            Some(next) => {
                let is_ended = row.digest.is_some() && next.digest.is_none();
                let is_later = row.version < next.version || row.version.region != next.version.region;
                ensure((is_later || is_ended) && row.index <= next.index, || {
                    format!("the journal of tag '{tag}' runs backwards at change {change}")
                })
            }
            None => {
                let present: Option<TagRow> = get(self.tables, &keys::tag(self.slot, self.id, tag.as_str()));
                ensure(present.map(|row| (row.change, row.digest)) == row.digest.map(|digest| (change, digest)), || {
                    format!("tag '{tag}' is not what its journal says last")
                })
            }
        }
    }

    fn link(&self, key: &[u8], row: LinkRow, is_live: bool) -> Found {
        let digest = keys::digest_in(key).ok_or_else(unreadable)?;
        if !is_live {
            return Ok(());
        }
        let hold = row.hold;
        let held: Option<UseRow> = get(self.tables, &keys::blob_use(&digest, self.id, hold));
        ensure(held.is_some(), || format!("the link to {digest} stands on use {hold}, which is gone"))?;
        let record: Option<BlobRow> = get(self.tables, &keys::blob(&digest));
        ensure(record.is_some_and(|record| record.size_bytes == row.size_bytes), || {
            format!("the link to {digest} says {} bytes, its record does not", row.size_bytes)
        })
    }
}
