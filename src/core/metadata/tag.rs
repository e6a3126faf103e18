//! Tags: names that point at one manifest digest, their versions, and the journal of their changes.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::ended::{self, EndedRow};
use super::keys::{self, Slot};
use super::outbox::{self, Change};
use super::reply::{Reply, TagMove};
use super::repository::{self, RepositoryKey, Settings};
use super::tables::{Pages, Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{clock, cluster, settings, untagged, usage};
use crate::decide::quota::Usage;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::TAG_JOURNAL_MAX;
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;
pub use crate::vocabulary::version::Version;

/// The next version of anything in a repository.
pub(crate) fn next_version(tables: &mut impl Tables, repository: &RepositoryKey, context: &Context<'_>) -> Version {
    let region = cluster::region_number(tables);
    let now = clock::hlc_at(context.clock.now_ms, context.level);
    let home_epoch = settings::latest_epoch(tables, repository);
    Version { home_epoch, hlc: clock::next_hlc(tables, repository.slot(), now), region }
}

/// Rows of tags read at once while a slot is migrated.
const RANKED_PAGE_ROWS: usize = 1024;

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TagRow {
    /// What it names.
    pub digest: Digest,
    /// Version of this setting.
    pub version: Version,
    /// What it ranks by between regions ([`rank`](crate::decide::replication::rank)): of a setting that may move its
    /// own version, of one that was fixed when it was made the version of the delete it follows, zero in its first
    /// life. Below level 3 always that of the delete.
    pub base: Version,
    /// When it was set, replicated milliseconds since 1970.
    pub set_at_ms: u64,
    /// Number of its last change in the journal.
    pub change: u64,
}

impl Stored for TagRow {}

/// A change of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JournalRow {
    /// What it named from then on; `None` for a delete.
    pub digest: Option<Digest>,
    /// Version of the change.
    pub version: Version,
    /// When, replicated milliseconds since 1970.
    pub at_ms: u64,
    /// Log index of the change.
    pub index: u64,
    /// Who.
    pub principal: String,
}

impl Stored for JournalRow {}

/// Reads a tag.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Option<TagRow> {
    tables.get(&keys::tag(repository.slot(), repository.id, tag.as_str())).map(|bytes| codec::row(&bytes))
}

/// Up to `limit` tags after `after`, in byte order.
pub fn list(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    after: Option<&str>,
    limit: usize,
) -> Vec<(Tag, TagRow)> {
    let slot = repository.slot();
    let from = match after {
        Some(after) => [&keys::tag(slot, repository.id, after)[..], &[0]].concat(),
        None => keys::tag(slot, repository.id, ""),
    };
    let end = super::tables::after_prefix(&keys::tag(slot, repository.id, ""));
    let tag = |key: &[u8]| Tag::parse(keys::tag_in(key).expect("tags are text")).expect("stored tags were parsed");
    tables.range(&from, &end, limit).iter().map(|(key, value)| (tag(key), codec::row(value))).collect()
}

/// Up to `limit` tags that name a manifest, in byte order.
pub fn of_manifest(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest, limit: usize) -> Vec<Tag> {
    let prefix = keys::manifest_tag(repository.slot(), repository.id, digest, "");
    let tag = |key: &[u8]| Tag::parse(std::str::from_utf8(&key[prefix.len()..]).expect("tags are text"));
    let rows = tables.prefix(&prefix, limit);
    rows.iter().map(|(key, _)| tag(key).expect("stored tags were parsed")).collect()
}

/// Whether any tag names a manifest.
pub fn names(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> bool {
    tables.any(&keys::manifest_tag(repository.slot(), repository.id, digest, ""))
}

/// The last change of a tag, with its number.
pub(super) fn last_change(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    tag: &Tag,
) -> Option<(u64, JournalRow)> {
    let prefix = keys::tag_journal_of(repository.slot(), repository.id, tag);
    let (key, value) = tables.prefix(&prefix, TAG_JOURNAL_MAX + 1).pop()?;
    let (_, number) = keys::tag_journal_in(&key).expect("a journal key holds tag and number");
    Some((number, codec::row(&value)))
}

/// Version of the last delete of a tag that its journal still has; the smallest if there is none.
pub(super) fn delete_before(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Version {
    let rows = tables.prefix(&keys::tag_journal_of(repository.slot(), repository.id, tag), TAG_JOURNAL_MAX + 1);
    let mut rows = rows.iter().map(|(_, value)| codec::row::<JournalRow>(value));
    rows.rfind(|row| row.digest.is_none()).map_or(Version::default(), |row| row.version)
}

/// Whether a tag is known to have been set so at a version, or that can't be told any more: setting it to what it names
/// already is no change for the journal, which keeps only so many.
pub(super) fn has_been(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    tag: &Tag,
    (digest, version): (Digest, Version),
) -> bool {
    let rows = tables.prefix(&keys::tag_journal_of(repository.slot(), repository.id, tag), TAG_JOURNAL_MAX + 1);
    let rows: Vec<JournalRow> = rows.iter().map(|(_, value)| codec::row(value)).collect();
    let is_cut = rows.len() >= TAG_JOURNAL_MAX && rows.first().is_some_and(|first| version < first.version);
    let was = rows.iter().rfind(|row| row.version <= version);
    is_cut || was.is_some_and(|row| row.version == version || row.digest == Some(digest))
}

/// Number and version of the delete that a tag's next life follows; zeros for a tag that never was.
pub(super) fn last_delete(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> (u64, Version) {
    last_change(tables, repository, tag).map_or((0, Version::default()), |(number, row)| (number, row.version))
}

fn note(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    tag: &Tag,
    change: u64,
    digest: Option<Digest>,
    version: Version,
) {
    let slot = repository.slot();
    let (at_ms, index, principal) = (context.clock.now_ms, context.index, context.principal.to_owned());
    let row = JournalRow { digest, version, at_ms, index, principal };
    tables.put(keys::tag_journal(slot, repository.id, tag, change), codec::encode(&row));
    if let Some(old) = change.checked_sub(TAG_JOURNAL_MAX as u64) {
        tables.delete(keys::tag_journal(slot, repository.id, tag, old));
    }
}

/// Points a tag at a manifest. The caller has decided that it may.
///
/// Setting what is set already is no change for the journal. It is a newer statement of the same, so a tag that may
/// move gets the new version; one that is fixed keeps its own, because of a fixed tag's writers the *first* counts
/// (§6.3).
pub(crate) fn set(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    settings: &Settings,
    tag: &Tag,
    digest: &Digest,
    version: Version,
) -> TagMove {
    let before = read(tables, repository, tag);
    let is_fixed = settings.mutability.fixes(tag);
    if let Some(row) = before.as_ref().filter(|row| is_fixed && row.digest == *digest) {
        return TagMove { tag: tag.clone(), previous: Some(row.digest), version: row.version };
    }
    let base = match &before {
        _ if context.level >= LEVEL_3 && !is_fixed => version,
        Some(row) => row.base,
        None => last_delete(tables, repository, tag).1,
    };
    place(tables, context, repository, before, tag, digest, (version, base))
}

/// Points a tag, which is as it was `before`, at a manifest that is here; with its version and what it ranks by.
pub(super) fn place(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    before: Option<TagRow>,
    tag: &Tag,
    digest: &Digest,
    (version, base): (Version, Version),
) -> TagMove {
    let (slot, key) = (repository.slot(), keys::tag(repository.slot(), repository.id, tag.as_str()));
    let (previous, set_at_ms) = (before.as_ref().map(|row| row.digest), context.clock.now_ms);
    let is_same = previous == Some(*digest);
    let (change, replaced) = match &before {
        Some(row) if is_same => (row.change, row.version),
        Some(row) => (row.change + 1, row.version),
        None => {
            let (number, version) = last_delete(tables, repository, tag);
            (number + 1, version)
        }
    };
    // one that never was has not ended
    if before.is_none() && change > 1 {
        ended::forget(tables, repository, tag);
    }
    tables.put(key, codec::encode(&TagRow { digest: *digest, version, base, set_at_ms, change }));
    if !is_same {
        if let Some(previous) = previous {
            tables.delete(keys::manifest_tag(slot, repository.id, &previous, tag.as_str()));
        }
        tables.put(keys::manifest_tag(slot, repository.id, digest, tag.as_str()), Vec::new());
        note(tables, context, repository, tag, change, Some(*digest), version);
    }
    let change = Change::TagSet { tag: tag.clone(), digest: *digest, version, base, previous: replaced };
    outbox::note(tables, context, repository, change);
    TagMove { tag: tag.clone(), previous, version }
}

/// Remembers a delete of a tag that is not here.
pub(super) fn note_absent(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    tag: &Tag,
    version: Version,
) {
    let (last, previous) = last_delete(tables, repository, tag);
    note(tables, context, repository, tag, last + 1, None, version);
    ended::forget(tables, repository, tag);
    outbox::note(tables, context, repository, Change::TagGone { tag: tag.clone(), version, previous });
}

/// Gives the tags of a repository, which were set below level 3, what they rank by.
pub(super) fn rank_anew(tables: &mut impl Tables, repository: &RepositoryKey, settings: &Settings) {
    let slot = repository.slot();
    let mut pages = Pages::under(keys::tag(slot, repository.id, ""), RANKED_PAGE_ROWS);
    while let Some(page) = pages.read(tables) {
        for (key, value) in page {
            let tag = keys::tag_in(&key).and_then(|tag| Tag::parse(tag).ok()).expect("stored tags were parsed");
            if !settings.mutability.fixes(&tag) {
                let row: TagRow = codec::row(&value);
                tables.put(key, codec::encode(&TagRow { base: row.version, ..row }));
            }
        }
    }
}

/// Ends a setting of a tag whose manifest was deleted in another region; `row` is what the tag is now, which the
/// setting ranks above, or is.
pub(super) fn end(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    tag: &Tag,
    row: Option<&TagRow>,
    ended: &EndedRow,
) -> Option<TagMove> {
    let slot = repository.slot();
    let last = row.map_or_else(|| last_delete(tables, repository, tag).0, |row| row.change);
    note(tables, context, repository, tag, last + 1, None, ended.version);
    ended::put(tables, repository, tag, ended);
    let row = row?;
    tables.delete(keys::tag(slot, repository.id, tag.as_str()));
    tables.delete(keys::manifest_tag(slot, repository.id, &row.digest, tag.as_str()));
    Some(TagMove { tag: tag.clone(), previous: Some(row.digest), version: ended.version })
}

/// Drops a tag that is there.
pub(crate) fn drop_tag(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    tag: &Tag,
    row: &TagRow,
    version: Version,
) -> TagMove {
    let slot = repository.slot();
    tables.delete(keys::tag(slot, repository.id, tag.as_str()));
    tables.delete(keys::manifest_tag(slot, repository.id, &row.digest, tag.as_str()));
    note(tables, context, repository, tag, row.change + 1, None, version);
    let previous = row.version;
    outbox::note(tables, context, repository, Change::TagGone { tag: tag.clone(), version, previous });
    TagMove { tag: tag.clone(), previous: Some(row.digest), version }
}

/// Drops a tag; the manifest stays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteTag {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub tag: Tag,
    /// Only if it still names this.
    pub expected: Option<Digest>,
}

impl Apply for DeleteTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let Some(row) = read(tables, &self.repository, &self.tag) else {
            return Err(Refusal::ManifestUnknown { reference: Reference::Tag(self.tag) });
        };
        if self.expected.is_some_and(|expected| expected != row.digest) {
            return Err(Refusal::TagMoved { tag: self.tag });
        }
        settings::may_write(tables, &self.repository)?;
        let version = next_version(tables, &self.repository, context);
        let moved = drop_tag(tables, context, &self.repository, &self.tag, &row, version);
        untagged::note(tables, context, &self.repository, &row.digest);
        usage::shrink(tables, context, &self.repository, Usage { bytes: 0, tags: 1 });
        Ok(Reply::Deleted { tags: vec![moved] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::history;
    use crate::metadata::manifest::PutManifest;
    use crate::metadata::testing::{World, manifest, tags};

    fn world() -> (World, RepositoryKey, Tag) {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        (world, repository, tags(&["latest"]).remove(0))
    }

    fn rows(world: &World, repository: &RepositoryKey, tag: &Tag) -> Vec<JournalRow> {
        history::of_tag(&world.tables, repository, tag).into_iter().map(|change| change.row).collect()
    }

    fn put(world: &mut World, repository: &RepositoryKey, bytes: &[u8]) {
        world.ok(PutManifest { tags: tags(&["latest"]), ..manifest(repository, bytes) });
    }

    // The journal keeps the last changes and no more, in order, with who and when; a push of the same is no change.
    #[test]
    fn journals_are_bounded() {
        let (mut world, repository, tag) = world();
        for number in 0..TAG_JOURNAL_MAX as u64 + 20 {
            world.principal = format!("p{number}");
            let bytes = (number % 2).to_be_bytes();
            put(&mut world, &repository, &bytes);
            let before = read(&world.tables, &repository, &tag).unwrap();
            put(&mut world, &repository, &bytes);
            let after = read(&world.tables, &repository, &tag).unwrap();
            assert!(after.version > before.version && after.change == before.change);
        }
        let rows = rows(&world, &repository, &tag);
        assert_eq!(rows.len(), TAG_JOURNAL_MAX);
        assert!(rows.is_sorted_by_key(|row| (row.version, row.index, row.at_ms)));
        assert_eq!((rows[0].principal.as_str(), rows.last().unwrap().principal.as_str()), ("p20", "p119"));
    }

    // A delete ends a life, the next one follows it; the number of changes goes on, also when only the journal knows.
    #[test]
    fn lives() {
        let (mut world, repository, tag) = world();
        let delete = |expected| DeleteTag { repository: repository.clone(), tag: tag.clone(), expected };
        assert!(matches!(world.refused(delete(None)), Refusal::ManifestUnknown { .. }));
        for life in 1..4u64 {
            put(&mut world, &repository, b"1");
            let row = read(&world.tables, &repository, &tag).unwrap();
            assert_eq!(row.change, 2 * life - 1);
            assert_eq!(row.base, row.version, "what may move ranks by its own version");
            let deletes = rows(&world, &repository, &tag);
            let found = deletes.iter().rev().find(|row| row.digest.is_none()).map(|row| row.version);
            assert!(found.is_none_or(|found| found < row.version));
            assert!(matches!(world.refused(delete(Some(Digest::sha256(b"2")))), Refusal::TagMoved { .. }));
            world.ok(delete(Some(Digest::sha256(b"1"))));
            assert_eq!(of_manifest(&world.tables, &repository, &Digest::sha256(b"1"), 9), []);
        }
    }

    // Versions of a slot rise even when the leader's clock stands still or falls back.
    #[test]
    fn versions_rise() {
        let (mut world, repository, tag) = world();
        let mut last = Version::default();
        for at_ms in [50_000, 50_000, 1, 60_000, 2] {
            world.at_ms = at_ms;
            put(&mut world, &repository, &at_ms.to_be_bytes());
            let version = read(&world.tables, &repository, &tag).unwrap().version;
            assert!(version > last, "{at_ms}");
            last = version;
        }
        assert!(last.hlc >= 60_000);
    }
}
