//! The index of referrers: which manifests name a subject. A row holds what the listing shows, so that listing reads no
//! manifest.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::codec::{self, Stored};
use super::keys::{self, table};
use super::manifest;
use super::repository::RepositoryKey;
use super::tables::{Row, Tables, TablesRead, after_prefix};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::manifest::ContentKind;
use crate::vocabulary::media_type::MediaType;
use crate::vocabulary::version::Version;

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

/// Everything that is attached to a manifest, to those below it, and to what is attached itself, with the versions of
/// its presence; and whether there may be more, because no more than `limit` manifests are looked at.
pub fn attached(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
    limit: usize,
) -> (Vec<(Digest, Version)>, bool) {
    let (mut found, mut open, mut seen) = (Vec::new(), vec![*digest], BTreeSet::from([*digest]));
    while let Some(digest) = open.pop() {
        let room = limit.saturating_sub(seen.len());
        for (referrer, _) in list(tables, repository, &digest, None, room + 1) {
            if seen.insert(referrer) {
                open.push(referrer);
                found.extend(manifest::read(tables, repository, &referrer).map(|row| (referrer, row.presence)));
            }
        }
        let named = manifest::references(tables, repository, &digest).into_iter();
        let children = named.filter(|named| named.kind == ContentKind::Manifest).map(|named| named.digest);
        open.extend(children.filter(|child| seen.insert(*child)));
        if seen.len() > limit {
            return (found, true);
        }
    }
    (found, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::manifest::PutManifest;
    use crate::metadata::testing::{World, manifest as put, reference};

    // What is attached is found at all manifests of an image and behind each other, once, with the version that it is
    // here by; of very much some, and that is told.
    #[test]
    fn attached_to_an_image() {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        world.ok(put(&repository, b"child"));
        let references = vec![reference(b"child", ContentKind::Manifest)];
        world.ok(PutManifest { references, ..put(&repository, b"index") });
        for (bytes, subject) in [
            (&b"of the index"[..], &b"index"[..]),
            (&b"of the child"[..], &b"child"[..]),
            (&b"of that"[..], &b"of the child"[..]),
            (&b"of another"[..], &b"another"[..]),
        ] {
            world.ok(PutManifest { subject: Some(Digest::sha256(subject)), ..put(&repository, bytes) });
        }
        let found = |bytes: &[u8], limit: usize| {
            let (mut found, is_cut) = attached(&world.tables, &repository, &Digest::sha256(bytes), limit);
            found.sort_unstable();
            (found, is_cut)
        };
        let all = |contents: &[&[u8]]| {
            let present = |bytes: &&[u8]| {
                let digest = Digest::sha256(bytes);
                (digest, manifest::read(&world.tables, &repository, &digest).unwrap().presence)
            };
            let mut all: Vec<(Digest, Version)> = contents.iter().map(present).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(found(b"index", 9), (all(&[b"of the index", b"of the child", b"of that"]), false));
        assert_eq!(found(b"child", 9), (all(&[b"of the child", b"of that"]), false));
        assert_eq!(found(b"another", 9), (all(&[b"of another"]), false), "which is not here itself");
        assert_eq!(found(b"never", 9), (vec![], false));
        // the index, its child, and three
        assert_eq!((found(b"index", 5).1, found(b"index", 4).1), (false, true));
        assert_eq!(found(b"index", 1).0, all(&[b"of the index"]));
    }
}
