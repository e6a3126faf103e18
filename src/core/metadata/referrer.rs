//! The index of referrers: which manifests name a subject. A row holds what the listing shows, so that listing reads no
//! manifest.

use bincode::{Decode, Encode};

use super::codec::{self, Stored};
use super::keys::{self, table};
use super::repository::RepositoryKey;
use super::tables::{Row, Tables, TablesRead, after_prefix};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::media_type::MediaType;

/// A referrer, as its descriptor in the list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReferrerRow {
    /// Its media type.
    pub media_type: MediaType,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Its effective artifact type.
    pub artifact_type: Option<String>,
    /// Its annotations in key order; `None` if they are too large for a row and stand in the manifest only.
    pub annotations: Option<Vec<(String, String)>>,
}

impl Stored for ReferrerRow {}

pub(crate) fn put(
    tables: &mut impl Tables,
    repository: &RepositoryKey,
    subject: &Digest,
    digest: &Digest,
    row: &ReferrerRow,
) {
    let key = keys::by_digests(repository.slot(), table::REFERRER, repository.id, subject, digest);
    tables.put(key, codec::encode(row));
}

pub(crate) fn delete(tables: &mut impl Tables, repository: &RepositoryKey, subject: &Digest, digest: &Digest) {
    tables.delete(keys::by_digests(repository.slot(), table::REFERRER, repository.id, subject, digest));
}

/// Up to `limit` referrers of a subject after `after`, in digest order. A subject that nobody knows has none.
pub fn list(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    subject: &Digest,
    after: Option<&Digest>,
    limit: usize,
) -> Vec<(Digest, ReferrerRow)> {
    let prefix = keys::by_digest(repository.slot(), table::REFERRER, repository.id, subject);
    let from = match after {
        Some(after) => [&prefix[..], &after.key_bytes(), &[0]].concat(),
        None => prefix.clone(),
    };
    let read = |(key, value): &Row| {
        let (digest, _) = Digest::from_key(&key[prefix.len()..]).expect("a referrer key ends with a digest");
        (digest, codec::row(value))
    };
    tables.range(&from, &after_prefix(&prefix), limit).iter().map(read).collect()
}
