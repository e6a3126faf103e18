//! Manifests that were deleted: what keeps a change of another region that is older than the delete from bringing one
//! back, or a tag on it (R8). A row stays when the manifest is put again: tags that were set before the delete stay
//! away. Of tags the journal tells it.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::keys::{self, table};
use super::peer;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::version::Version;

/// The deletes of a manifest, which may be here again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GoneRow {
    /// Version of the last delete that somebody asked for; the smallest if nobody did.
    pub version: Version,
    /// Version of its last removal by age, which concerns nobody else; the smallest if there was none.
    pub cleaned: Version,
    /// When the last of either was, replicated milliseconds since 1970.
    pub at_ms: u64,
}

impl Stored for GoneRow {}

impl GoneRow {
    /// Whether it was deleted behind a version.
    pub fn is_deleted_after(&self, version: Version) -> bool {
        self.version > version
    }
}

/// Why a manifest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody deleted it.
    Deleted,
    /// Nothing named it for long enough.
    Cleaned,
}

fn key(repository: &RepositoryKey, digest: &Digest) -> Vec<u8> {
    keys::by_digest(repository.slot(), table::GONE, repository.id, digest)
}

/// The deletes of a manifest.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<GoneRow> {
    tables.get(&key(repository, digest)).map(|bytes| codec::row(&bytes))
}

/// A manifest was deleted. Remembered while other regions are known.
pub(super) fn note(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    (cause, version): (Cause, Version),
) {
    if !peer::listens(tables, context) {
        return;
    }
    let mut row = read(tables, repository, digest).unwrap_or_default();
    row.at_ms = context.clock.now_ms;
    match cause {
        Cause::Deleted => row.version = row.version.max(version),
        Cause::Cleaned => row.cleaned = row.cleaned.max(version),
    }
    tables.put(key(repository, digest), codec::encode(&row));
}
