//! Manifests that were deleted: what keeps a change of another region that is older than the delete from bringing one
//! back, or a tag on it (R8). A row stays when the manifest is put again: tags that were set before the delete stay
//! away. Of tags the journal tells it.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::keys::{self, table};
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use super::{peer, tag};
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
    /// Somebody deleted it, at this version.
    Deleted(Version),
    /// Somebody deleted, at this version, what is sent by a filter. Told on, and not remembered: what others have under
    /// the same digest is no matter of that delete, also where it comes here later.
    Filtered(Version),
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

/// A manifest went for a reason. Remembered while other regions are known; removal by age gets a version of its own.
pub(super) fn note(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    cause: Cause,
) {
    if !peer::listens(tables, context) {
        return;
    }
    let mut row = read(tables, repository, digest).unwrap_or_default();
    row.at_ms = context.clock.now_ms;
    match cause {
        Cause::Deleted(version) => row.version = row.version.max(version),
        Cause::Filtered(_) => return,
        Cause::Cleaned => row.cleaned = row.cleaned.max(tag::next_version(tables, repository, context)),
    }
    tables.put(key(repository, digest), codec::encode(&row));
}
