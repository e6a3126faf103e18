//! Settings of a tag that lost against those of another region, whose maker had not seen them: kept to be looked at.
//!
//! Which of two stays is decided by rank alone. That one of them was lost without its loser having been told is noted
//! here, in the region where it shows: the image that lost is there by its digest still. Source: consensus-and-faults
//! §6.3, security-cases R8.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::keys::{self, SLOTS, Slot, table};
use super::repository::{self, RepositoryKey};
use super::tables::{Pages, Tables, TablesRead, after_prefix};
use super::tag::{self, TagRow};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::CONFLICTS_PER_REPOSITORY_MAX;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// A setting that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConflictRow {
    /// What the tag names instead; `None` when it was deleted.
    pub kept: Option<Digest>,
    /// Version of that.
    pub kept_version: Version,
    /// What it had been set to.
    pub lost: Digest,
    /// Version of that setting; its region says who made it.
    pub lost_version: Version,
    /// When that was found, replicated milliseconds since 1970.
    pub at_ms: u64,
}

impl Stored for ConflictRow {}

/// A conflict as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// In which repository.
    pub repository: RepositoryKey,
    /// Of which tag.
    pub tag: Tag,
    /// What was lost.
    pub row: ConflictRow,
    /// Behind which to go on.
    pub key: Vec<u8>,
}

/// Up to `limit` conflicts behind a key of the same listing; by slot and repository, oldest first in each.
pub fn list(tables: &impl TablesRead, after: Option<&[u8]>, limit: usize) -> Vec<Conflict> {
    let mut found = Vec::new();
    let first = after.and_then(keys::slot).unwrap_or(0);
    for slot in first..SLOTS {
        let all = keys::of_slot(slot, table::CONFLICT);
        let behind = after.filter(|after| after.starts_with(&all));
        let from = behind.map_or_else(|| all.clone(), |key| [key, &[0]].concat());
        let mut pages = Pages::between(from, after_prefix(&all), CONFLICTS_PER_REPOSITORY_MAX);
        while let Some(page) = pages.read(tables) {
            for (key, value) in page {
                found.extend(read(tables, slot, key, &value));
                if found.len() >= limit {
                    return found;
                }
            }
        }
    }
    found
}

fn read(tables: &impl TablesRead, slot: Slot, key: Vec<u8>, value: &[u8]) -> Option<Conflict> {
    let (_, tag) = keys::conflict_in(&key)?;
    let (repository, _) =
        repository::by_id(tables, slot, keys::of_repository_in(&key)?).filter(|(_, row)| !row.deleted)?;
    Some(Conflict { repository, tag: Tag::parse(tag).ok()?, row: codec::row(value), key })
}

/// Whether a setting that does not rank above what is here may be a conflict: then it is told where it is refused.
pub fn may_be(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    tag: &Tag,
    (digest, version): (Digest, Version),
) -> bool {
    let row = tag::read(tables, repository, tag).map(|row| row.version);
    let here = row.or_else(|| tag::last_change(tables, repository, tag).map(|(_, last)| last.version));
    let is_other = here.is_some_and(|here| here.region != version.region);
    is_other && !tag::has_been(tables, repository, tag, (digest, version))
}

/// A change of a tag as it comes from another region.
#[derive(Clone, Copy)]
pub(super) struct Arriving<'a> {
    pub(super) repository: &'a RepositoryKey,
    pub(super) tag: &'a Tag,
    /// What the tag names from then on; `None` for a delete.
    pub(super) digest: Option<Digest>,
    pub(super) version: Version,
    /// Version of what its maker saw, and replaced; `None` where that is not known.
    pub(super) previous: Option<Version>,
}

impl Arriving<'_> {
    /// What is here goes. It is lost if another region had set it, and who made this had not seen it.
    pub(super) fn overrides(&self, tables: &mut impl Tables, context: &Context<'_>, row: &TagRow) {
        let is_unseen = self.previous.is_some_and(|previous| previous < row.version);
        let is_other = row.version.region != self.version.region && Some(row.digest) != self.digest;
        if is_unseen && is_other {
            let (kept, kept_version) = (self.digest, self.version);
            self.note(tables, context, (kept, kept_version), (row.digest, row.version));
        }
    }

    /// It is not taken. It is lost if what is here was made in another region, and this had not come before.
    pub(super) fn loses(&self, tables: &mut impl Tables, context: &Context<'_>) {
        let (Some(lost), Some(_)) = (self.digest, self.previous) else { return };
        let row = tag::read(tables, self.repository, self.tag);
        let here = match &row {
            Some(row) => Some((Some(row.digest), row.version)),
            None => tag::last_change(tables, self.repository, self.tag).map(|(_, last)| (None, last.version)),
        };
        let Some((kept, kept_version)) = here else { return };
        let is_other = kept_version.region != self.version.region && kept != Some(lost);
        if is_other && !tag::has_been(tables, self.repository, self.tag, (lost, self.version)) {
            self.note(tables, context, (kept, kept_version), (lost, self.version));
        }
    }

    fn note(
        &self,
        tables: &mut impl Tables,
        context: &Context<'_>,
        (kept, kept_version): (Option<Digest>, Version),
        (lost, lost_version): (Digest, Version),
    ) {
        let (slot, id) = (self.repository.slot(), self.repository.id);
        let present = tables.prefix(&keys::of_repository(slot, table::CONFLICT, id), CONFLICTS_PER_REPOSITORY_MAX);
        // told once, however often it comes
        let is_told = |(key, value): &(Vec<u8>, Vec<u8>)| {
            keys::conflict_in(key).is_some_and(|(_, tag)| tag == self.tag.as_str())
                && codec::row::<ConflictRow>(value).lost_version == lost_version
        };
        if present.iter().any(is_told) {
            return;
        }
        if present.len() == CONFLICTS_PER_REPOSITORY_MAX
            && let Some((oldest, _)) = present.into_iter().next()
        {
            tables.delete(oldest);
        }
        let row = ConflictRow { kept, kept_version, lost, lost_version, at_ms: context.clock.now_ms };
        tables.put(keys::conflict(slot, id, context.index, self.tag), codec::encode(&row));
    }
}
