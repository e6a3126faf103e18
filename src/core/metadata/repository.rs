//! Repositories: the scope of manifests, tags and links. A name points at an internal id, so that a repository deleted
//! and made again under the same name is another one: nothing of the old is reachable through the new.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, OF_REPOSITORY_BYTES, SLOTS, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{link, manifest};
use crate::decide::tag_move::Mutability;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RegistryId, RepositoryId, UseId};
use crate::vocabulary::limits::PURGE_ROWS_MAX;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// A repository named by name and id: what commands carry, so that a repository made anew is never mistaken for the old.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RepositoryKey {
    /// Its registry.
    pub registry: RegistryId,
    /// Its name; decides the slot.
    pub name: RepositoryName,
    /// Its internal id.
    pub id: RepositoryId,
}

impl RepositoryKey {
    /// The slot of everything of it.
    pub fn slot(&self) -> Slot {
        keys::repository_slot(self.registry, &self.name)
    }
}

/// What an owner may set.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Whether tags may move.
    pub mutability: Mutability,
    /// Whether a manifest may name layers or children that are not here.
    pub sparse: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { mutability: Mutability::Mutable, sparse: false }
    }
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RepositoryRow {
    /// Its registry.
    pub registry: RegistryId,
    /// Its name.
    pub name: RepositoryName,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// What its owner set.
    pub settings: Settings,
    /// Deleted: the name is free, the rows wait to be purged.
    pub deleted: bool,
}

impl Stored for RepositoryRow {}

/// The name row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct NameRow(RepositoryId);

impl Stored for NameRow {}

/// Looks a repository up by name.
pub fn find(
    tables: &impl TablesRead,
    registry: RegistryId,
    name: &RepositoryName,
) -> Option<(RepositoryKey, RepositoryRow)> {
    let slot = keys::repository_slot(registry, name);
    let NameRow(id) = codec::row(&tables.get(&keys::name(slot, registry, name.as_str()))?);
    let row = codec::row(&tables.get(&keys::repository(slot, id)).expect("a name points at a repository row"));
    Some((RepositoryKey { registry, name: name.clone(), id }, row))
}

/// The row behind a key, if it is still this repository and not deleted.
pub fn live(tables: &impl TablesRead, key: &RepositoryKey) -> Option<RepositoryRow> {
    let row: RepositoryRow = codec::row(&tables.get(&keys::repository(key.slot(), key.id))?);
    (!row.deleted && row.name == key.name && row.registry == key.registry).then_some(row)
}

/// The refusal for a repository that is not there.
pub fn unknown(registry: RegistryId, name: &RepositoryName) -> Refusal {
    Refusal::RepositoryUnknown { name: name.clone(), registry }
}

pub(crate) fn require(tables: &impl TablesRead, key: &RepositoryKey) -> Result<RepositoryRow, Refusal> {
    live(tables, key).ok_or_else(|| unknown(key.registry, &key.name))
}

/// Up to `limit` repository names of a registry after `after`, in byte order, that `visible` lets through.
///
/// Names live in all slots, so a page merges 1024 ranges: one seek per slot and one per name.
pub fn list(
    tables: &impl TablesRead,
    registry: RegistryId,
    after: Option<&str>,
    limit: usize,
    mut visible: impl FnMut(&RepositoryName) -> bool,
) -> Vec<RepositoryName> {
    let mut heads = std::collections::BinaryHeap::new();
    let next = |slot: Slot, after: Option<&str>| -> Option<(std::cmp::Reverse<String>, Slot)> {
        let from = match after {
            Some(after) => [&keys::name(slot, registry, after)[..], &[0]].concat(),
            None => keys::name(slot, registry, ""),
        };
        let end = super::tables::after_prefix(&keys::name(slot, registry, ""));
        let (key, _) = tables.range(&from, &end, 1).pop()?;
        Some((std::cmp::Reverse(keys::name_in(&key).expect("names are text").to_owned()), slot))
    };
    heads.extend((0..SLOTS).filter_map(|slot| next(slot, after)));
    let mut found = Vec::new();
    while found.len() < limit {
        let Some((std::cmp::Reverse(name), slot)) = heads.pop() else { break };
        heads.extend(next(slot, Some(&name)));
        let name = RepositoryName::parse(&name).expect("stored names were parsed");
        if visible(&name) {
            found.push(name);
        }
    }
    found
}

/// Makes a repository, or answers the one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreateRepository {
    /// Name, and the id it gets if it is new.
    pub key: RepositoryKey,
    /// What its owner set; ignored if it is there.
    pub settings: Settings,
    /// Refuse if it is there.
    pub must_be_new: bool,
}

impl Apply for CreateRepository {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let RepositoryKey { registry, name, id } = self.key;
        if let Some((found, _)) = find(tables, registry, &name) {
            if self.must_be_new {
                return Err(Refusal::RepositoryExists { name, registry });
            }
            return Ok(Reply::Repository { id: found.id, created: false });
        }
        let slot = keys::repository_slot(registry, &name);
        if tables.contains(&keys::repository(slot, id)) {
            return Err(Refusal::RepositoryExists { name, registry });
        }
        tables.put(keys::name(slot, registry, name.as_str()), codec::encode(&NameRow(id)));
        let row = RepositoryRow {
            registry,
            name,
            created_at_ms: context.clock.now_ms,
            created_by: context.principal.to_owned(),
            settings: self.settings,
            deleted: false,
        };
        tables.put(keys::repository(slot, id), codec::encode(&row));
        Ok(Reply::Repository { id, created: true })
    }
}

/// Sets what an owner may set.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangeRepository {
    /// Which.
    pub key: RepositoryKey,
    /// The settings from now on.
    pub settings: Settings,
}

impl Apply for ChangeRepository {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut row = require(tables, &self.key)?;
        row.settings = self.settings;
        tables.put(keys::repository(self.key.slot(), self.key.id), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// Frees the name at once and marks the id; the rows are purged in bounded commands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteRepository {
    /// Which.
    pub key: RepositoryKey,
    /// Delete it also when it holds manifests.
    pub force: bool,
}

impl Apply for DeleteRepository {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut row = require(tables, &self.key)?;
        let slot = self.key.slot();
        let manifests = keys::of_repository(slot, table::MANIFEST, self.key.id);
        if !self.force && !tables.prefix(&manifests, 1).is_empty() {
            return Err(Refusal::RepositoryNotEmpty { name: self.key.name, registry: self.key.registry });
        }
        row.deleted = true;
        tables.delete(keys::name(slot, self.key.registry, self.key.name.as_str()));
        tables.put(keys::repository(slot, self.key.id), codec::encode(&row));
        tables.put(keys::deleted(slot, self.key.id), Vec::new());
        Ok(Reply::Done)
    }
}

/// Every deleted repository of a slot whose rows still wait.
pub fn deleted(tables: &impl TablesRead, slot: Slot, limit: usize) -> Vec<RepositoryKey> {
    let marked = tables.prefix(&keys::of_slot(slot, table::DELETED), limit);
    let id =
        |key: &[u8]| RepositoryId(u128::from_be_bytes(key[3..].try_into().expect("a deleted key ends with an id")));
    let key = |id: RepositoryId| {
        let row: RepositoryRow = codec::row(&tables.get(&keys::repository(slot, id)).expect("its row goes last"));
        RepositoryKey { registry: row.registry, name: row.name, id }
    };
    marked.iter().map(|(marker, _)| key(id(marker))).collect()
}

/// The links of a repository, for dropping their uses before the rows go.
pub fn links(tables: &impl TablesRead, key: &RepositoryKey, limit: usize) -> Vec<(Digest, UseId)> {
    let prefix = keys::of_repository(key.slot(), table::LINK, key.id);
    let rows = tables.prefix(&prefix, limit);
    let digest = |key: &[u8]| Digest::from_key(&key[OF_REPOSITORY_BYTES..]).expect("a link key ends with a digest").0;
    rows.iter().map(|(key, value)| (digest(key), codec::row::<link::LinkRow>(value).hold)).collect()
}

/// Removes up to [`PURGE_ROWS_MAX`] rows of a deleted repository; the last call removes its own row.
///
/// Links go first, and only those named here: their proposer drops the uses in the same envelope, after them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PurgeRepository {
    /// Which; it must be deleted.
    pub key: RepositoryKey,
    /// Links to remove in this step.
    pub links: Vec<Digest>,
}

impl Apply for PurgeRepository {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let (slot, id) = (self.key.slot(), self.key.id);
        let row_key = keys::repository(slot, id);
        let Some(row) = tables.get(&row_key) else { return Ok(Reply::Unchanged) };
        if !codec::row::<RepositoryRow>(&row).deleted {
            return Err(Refusal::RepositoryExists { name: self.key.name, registry: self.key.registry });
        }
        let mut purged = 0u32;
        for table in manifest::PURGED_TABLES {
            let left = PURGE_ROWS_MAX.saturating_sub(purged as usize);
            for (key, _) in tables.prefix(&keys::of_repository(slot, table, id), left) {
                tables.delete(key);
                purged += 1;
            }
        }
        if purged == 0 {
            for digest in self.links.iter().take(PURGE_ROWS_MAX) {
                tables.delete(keys::by_digest(slot, table::LINK, id, digest));
                purged += 1;
            }
        }
        let links = keys::of_repository(slot, table::LINK, id);
        if purged == 0 && tables.prefix(&links, 1).is_empty() {
            tables.delete(row_key);
            tables.delete(keys::deleted(slot, id));
        }
        Ok(Reply::Purged(purged))
    }
}
