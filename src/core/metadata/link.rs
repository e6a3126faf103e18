//! Links: a repository's permission to serve a blob it holds. `Ref ⇒ Link ⇒ Use ⇒ record`, added from right to left.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot, table};
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Tables, TablesRead};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::UseId;
use crate::vocabulary::refusal::Refusal;

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkRow {
    /// The repository's use of the blob record that this link stands on.
    pub hold: UseId,
    /// Size of the blob, bytes.
    pub size_bytes: u64,
    /// Tick of the last sign that somebody counts on it.
    pub touched_tick: u64,
}

impl Stored for LinkRow {}

/// Reads a link.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<LinkRow> {
    let key = keys::by_digest(repository.slot(), table::LINK, repository.id, digest);
    tables.get(&key).map(|bytes| codec::row(&bytes))
}

/// Turns the holds of sparse manifests on `digest` into references, now that it is here.
pub(crate) fn arrived(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest) {
    let slot = repository.slot();
    let pending = keys::by_digest(slot, table::PENDING_REF, repository.id, digest);
    for (key, value) in tables.prefix(&pending, usize::MAX) {
        let (holder, _) = Digest::from_key(&key[pending.len()..]).expect("a pending reference ends with a digest");
        tables.delete(key);
        tables.put(keys::by_digests(slot, table::REF, repository.id, digest, &holder), value);
    }
}

/// Gives a repository a blob. Its use must have been added before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// To whom.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The use it stands on.
    pub hold: UseId,
}

impl Apply for Link {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let row = LinkRow { hold: self.hold, size_bytes: self.size_bytes, touched_tick: context.clock.tick };
        let key = keys::by_digest(self.slot(), table::LINK, self.repository.id, &self.digest);
        tables.put(key, codec::encode(&row));
        arrived(tables, &self.repository, &self.digest);
        Ok(Reply::Done)
    }
}

/// Takes a blob from a repository. Refused while a manifest of it names the blob.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unlink {
    /// From whom.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// The use that the proposer saw; a newer push is not undone.
    pub hold: UseId,
}

impl Apply for Unlink {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let Some(row) = read(tables, &self.repository, &self.digest) else {
            return Err(Refusal::BlobUnknown { digest: self.digest });
        };
        if row.hold != self.hold {
            return Err(Refusal::Changed);
        }
        if let Some(manifest) = super::manifest::holder(tables, &self.repository, &self.digest) {
            return Err(Refusal::BlobReferenced { digest: self.digest, manifest: manifest.into() });
        }
        tables.delete(keys::by_digest(self.slot(), table::LINK, self.repository.id, &self.digest));
        Ok(Reply::Done)
    }
}

/// Somebody counts on a link without a reference: its age starts anew.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TouchLink {
    /// Whose.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
}

impl Apply for TouchLink {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        touch(tables, &self.repository, &self.digest, context.clock.tick);
        Ok(Reply::Done)
    }
}

/// Sets the tick of the last sign; nothing if there is no link.
pub(crate) fn touch(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest, tick: u64) {
    if let Some(mut row) = read(tables, repository, digest) {
        row.touched_tick = tick;
        let key = keys::by_digest(repository.slot(), table::LINK, repository.id, digest);
        tables.put(key, codec::encode(&row));
    }
}
