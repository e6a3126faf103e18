//! Tags that went because the manifest they named was deleted in another region: which setting was ended so, and
//! nothing beyond it.
//!
//! That region need not know of the tag at all, so such an end must not rank above what it, or anybody, sets later: it
//! ranks just above the setting it ends. The tag's journal notes it as a delete of the setting's own version; a row
//! here tells it from others, as long as the tag stays away. Every region comes to it by itself, from the setting and
//! the delete of the manifest, so that the stream does not tell it to others; a comparison does.

use bincode::{Decode, Encode};

use super::codec::{self, Stored};
use super::keys;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use crate::decide::replication::rank::Rank;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// A setting that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndedRow {
    /// Its version.
    pub version: Version,
    /// What it ranked by.
    pub base: Version,
}

impl Stored for EndedRow {}

impl EndedRow {
    /// Just above the setting.
    pub fn rank(&self) -> Rank {
        Rank::of_end(self.version, self.base)
    }
}

/// The end that a tag which is not here came to, if it was such a one.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Option<EndedRow> {
    tables.get(&keys::tag_ended(repository.slot(), repository.id, tag)).map(|bytes| codec::row(&bytes))
}

/// A tag came to this end.
pub(super) fn put(tables: &mut impl Tables, repository: &RepositoryKey, tag: &Tag, row: &EndedRow) {
    tables.put(keys::tag_ended(repository.slot(), repository.id, tag), codec::encode(row));
}

/// A tag is here again, or was deleted since.
pub(super) fn forget(tables: &mut impl Tables, repository: &RepositoryKey, tag: &Tag) {
    tables.delete_present(keys::tag_ended(repository.slot(), repository.id, tag));
}
