//! Blob records: which generation of which bytes lies on which volumes, and which repositories use it.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot};
use super::node;
use super::reply::Reply;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use super::upload;
use crate::decide::placement::{Topology, assign, write_rule};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{StoreId, UploadId, UseId};
use crate::vocabulary::names::ZoneName;
use crate::vocabulary::refusal::Refusal;

/// Whether a record's bytes are on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum BlobState {
    /// Somebody uses it.
    Present,
    /// Nobody has used it since this tick; a new use revives it.
    Condemned(u64),
}

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlobRow {
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The upload whose bytes these are; part of the files' names.
    pub generation: UploadId,
    /// The volumes with a confirmed copy.
    pub stores: Vec<StoreId>,
    /// Whether its bytes are on their way out.
    pub state: BlobState,
    /// When it was committed, replicated milliseconds since 1970.
    pub committed_at_ms: u64,
}

impl Stored for BlobRow {}

/// Since when a zone lacks a confirmed copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct NeedRow {
    since_tick: u64,
}

impl Stored for NeedRow {}

/// A repository's use of a record, with the name under which to find the repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct UseRow {
    hold: UseId,
    repository: RepositoryKey,
}

impl Stored for UseRow {}

/// Up to `limit` repositories that use a record.
pub fn users(tables: &impl TablesRead, digest: &Digest, limit: usize) -> Vec<RepositoryKey> {
    let rows = tables.prefix(&keys::blob_uses(digest), limit);
    rows.iter().map(|(_, value)| codec::row::<UseRow>(value).repository).collect()
}

/// Reads a record.
pub fn read(tables: &impl TablesRead, digest: &Digest) -> Option<BlobRow> {
    tables.get(&keys::blob(digest)).map(|bytes| codec::row(&bytes))
}

/// Up to `limit` records of a slot after `after`, in digest order.
pub fn list(tables: &impl TablesRead, slot: Slot, after: Option<&Digest>, limit: usize) -> Vec<(Digest, BlobRow)> {
    let prefix = keys::blobs(slot);
    let from = match after {
        Some(after) => [&prefix[..], &after.key_bytes(), &[0]].concat(),
        None => prefix.clone(),
    };
    let digest = |key: &[u8]| keys::blob_in(key).expect("a blob key ends with a digest");
    let rows = tables.range(&from, &super::tables::after_prefix(&prefix), limit);
    rows.iter().map(|(key, value)| (digest(key), codec::row(value))).collect()
}

/// Up to `limit` digests of a slot that lack a confirmed copy in `zone`.
pub fn needs(tables: &impl TablesRead, slot: Slot, zone: &str, limit: usize) -> Vec<Digest> {
    let rows = tables.prefix(&keys::needs(slot, zone, None), limit);
    rows.iter().map(|(key, _)| keys::need_in(zone, key).expect("a need key ends with a digest")).collect()
}

/// Whether files of this generation of `digest` may go: no command will ever name them again.
///
/// The second half of the rule of consensus-and-faults §5.5; the first is that the record does not name the volume.
pub fn generation_over(tables: &impl TablesRead, digest: &Digest, generation: &UploadId) -> bool {
    let clock = super::clock::read(tables);
    upload::expired(generation, &clock)
        || tables.contains(&keys::closed_generation(digest, generation))
        || upload::read(tables, generation).is_some_and(|row| match row.state {
            upload::UploadState::Closed | upload::UploadState::Deduplicated(_) => true,
            upload::UploadState::Finishing(other) => other != *digest,
            upload::UploadState::Open => false,
        })
}

fn put(tables: &mut impl Tables, digest: &Digest, row: &BlobRow) {
    tables.put(keys::blob(digest), codec::encode(row));
}

/// Brings the zones' needs in line with the record: where the placement wants another copy.
fn note_needs(tables: &mut impl Tables, topology: &Topology, digest: &Digest, row: &BlobRow, tick: u64) {
    let plan = assign(topology, digest, &row.stores);
    let wanted: BTreeSet<&ZoneName> = plan.add.iter().map(|choice| &choice.zone).collect();
    for zone in topology.zones() {
        let key = keys::need(zone.as_str(), digest);
        match (wanted.contains(zone), tables.contains(&key)) {
            (true, false) => tables.put(key, codec::encode(&NeedRow { since_tick: tick })),
            (false, true) => tables.delete(key),
            (true, true) | (false, false) => {}
        }
    }
}

/// The bytes of an upload are durable on these volumes: they become the blob, and the repository uses it.
///
/// If the digest is here already, its record stays unless `replace`; the files of the loser are closed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitBlob {
    /// What the bytes hash to.
    pub digest: Digest,
    /// Their size.
    pub size_bytes: u64,
    /// The upload; the generation in the files' names.
    pub upload: UploadId,
    /// The volumes that have sealed, verified and synced them.
    pub stores: Vec<StoreId>,
    /// Who will link it.
    pub repository: RepositoryKey,
    /// Its use of the record.
    pub hold: UseId,
    /// The copies of the present record could not be confirmed: these take their place.
    pub replace: bool,
}

impl Apply for CommitBlob {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if upload::expired(&self.upload, &context.clock)
            || tables.contains(&keys::closed_generation(&self.digest, &self.upload))
        {
            return Err(Refusal::UploadUnknown);
        }
        let topology = node::topology(tables);
        write_rule(&topology).check(&topology, &self.stores)?;
        let use_key = keys::blob_use(&self.digest, self.repository.id);
        let used = UseRow { hold: self.hold, repository: self.repository.clone() };
        let close = |tables: &mut T, generation: &UploadId| {
            let key = keys::closed_generation(&self.digest, generation);
            tables.put(key, context.clock.tick.to_be_bytes().to_vec());
        };
        match read(tables, &self.digest) {
            Some(mut row) if row.generation == self.upload => {
                row.state = BlobState::Present;
                put(tables, &self.digest, &row);
                tables.put(use_key, codec::encode(&used));
                return Ok(Reply::Blob { generation: self.upload });
            }
            Some(mut row) if !self.replace => {
                row.state = BlobState::Present;
                put(tables, &self.digest, &row);
                close(tables, &self.upload);
                tables.put(use_key, codec::encode(&used));
                return Ok(Reply::Blob { generation: row.generation });
            }
            Some(row) => close(tables, &row.generation),
            None => {}
        }
        let mut stores = self.stores.clone();
        stores.sort_unstable();
        stores.dedup();
        let row = BlobRow {
            size_bytes: self.size_bytes,
            generation: self.upload,
            stores,
            state: BlobState::Present,
            committed_at_ms: context.clock.now_ms,
        };
        put(tables, &self.digest, &row);
        note_needs(tables, &topology, &self.digest, &row, context.clock.tick);
        tables.put(use_key, codec::encode(&used));
        Ok(Reply::Blob { generation: self.upload })
    }
}

/// A repository begins to use a record that is here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddUse {
    /// Which blob.
    pub digest: Digest,
    /// Its size as the caller knows it, bytes.
    pub size_bytes: u64,
    /// Who will link it.
    pub repository: RepositoryKey,
    /// Its use of the record.
    pub hold: UseId,
}

impl Apply for AddUse {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = read(tables, &self.digest).filter(|row| row.size_bytes == self.size_bytes) else {
            return Err(Refusal::BlobUnknown { digest: self.digest });
        };
        if row.state != BlobState::Present {
            row.state = BlobState::Present;
            put(tables, &self.digest, &row);
        }
        let used = UseRow { hold: self.hold, repository: self.repository.clone() };
        tables.put(keys::blob_use(&self.digest, self.repository.id), codec::encode(&used));
        Ok(Reply::Blob { generation: row.generation })
    }
}

/// A repository has dropped its link: its use goes, unless a newer push has put another one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropUse {
    /// Which blob.
    pub digest: Digest,
    /// Who linked it.
    pub repository: RepositoryKey,
    /// The use that the link stood on.
    pub hold: UseId,
}

impl Apply for DropUse {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let key = keys::blob_use(&self.digest, self.repository.id);
        match tables.get(&key) {
            Some(bytes) if codec::row::<UseRow>(&bytes).hold == self.hold => tables.delete(key),
            Some(_) | None => return Ok(Reply::Unchanged),
        }
        Ok(Reply::Done)
    }
}

/// A volume has placed, verified and synced a copy. Never refuses: many travel in one envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfirmReplica {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// Where it lies.
    pub store: StoreId,
}

impl Apply for ConfirmReplica {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let topology = node::topology(tables);
        let Some(mut row) = read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        if row.generation != self.generation || topology.zone_of(self.store).is_none() {
            return Ok(Reply::Unchanged);
        }
        if let Err(at) = row.stores.binary_search(&self.store) {
            row.stores.insert(at, self.store);
            put(tables, &self.digest, &row);
        }
        note_needs(tables, &topology, &self.digest, &row, context.clock.tick);
        Ok(Reply::Done)
    }
}

/// A volume has found its copy missing or bad. Never refuses.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnconfirmReplica {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// Where it lay.
    pub store: StoreId,
}

impl Apply for UnconfirmReplica {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        if row.generation != self.generation || !row.stores.contains(&self.store) {
            return Ok(Reply::Unchanged);
        }
        row.stores.retain(|store| *store != self.store);
        put(tables, &self.digest, &row);
        let topology = node::topology(tables);
        note_needs(tables, &topology, &self.digest, &row, context.clock.tick);
        Ok(Reply::Done)
    }
}
