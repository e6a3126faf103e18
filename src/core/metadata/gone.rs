//! Manifests that were deleted: what keeps a change of another region that is older than the delete from bringing one
//! back (R8). Of tags the journal tells it.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::keys::{self, table};
use super::peer;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::version::Version;

/// A delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GoneRow {
    /// Its version.
    pub version: Version,
    /// When, replicated milliseconds since 1970.
    pub at_ms: u64,
}

impl Stored for GoneRow {}

fn key(repository: &RepositoryKey, digest: &Digest) -> Vec<u8> {
    keys::by_digest(repository.slot(), table::GONE, repository.id, digest)
}

/// The last delete of a manifest that is not here.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<GoneRow> {
    tables.get(&key(repository, digest)).map(|bytes| codec::row(&bytes))
}

/// A manifest was deleted. Remembered while other regions are known.
pub(super) fn note(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    version: Version,
) {
    if peer::listens(tables, context) {
        let row = GoneRow { version, at_ms: context.clock.now_ms };
        tables.put(key(repository, digest), codec::encode(&row));
    }
}

/// A manifest is here (again).
pub(super) fn forget(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest) {
    let key = key(repository, digest);
    if tables.contains(&key) {
        tables.delete(key);
    }
}
