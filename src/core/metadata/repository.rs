//! Repositories: the scope of manifests, tags and links. A name points at an internal id, so that a repository deleted
//! and made again under the same name is another one: nothing of the old is reachable through the new.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, OF_REPOSITORY_BYTES, SLOTS, Slot, table};
use super::reply::Reply;
use super::tables::{Row, Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{link, manifest, settings, usage};
use crate::decide::tag_move::Mutability;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RegistryId, RepositoryId, UseId};
use crate::vocabulary::limits::PURGE_ROWS_MAX;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// A repository named by name and id: what commands carry, so that a repository made anew is never mistaken for the
/// old.
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
pub(crate) struct NameRow(pub(crate) RepositoryId);

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

/// The repository of an id in a slot, also one that was deleted and waits to be purged.
pub fn by_id(tables: &impl TablesRead, slot: Slot, id: RepositoryId) -> Option<(RepositoryKey, RepositoryRow)> {
    let row: RepositoryRow = codec::row(&tables.get(&keys::repository(slot, id))?);
    Some((RepositoryKey { registry: row.registry, name: row.name.clone(), id }, row))
}

/// All repositories of a slot that were not deleted.
pub(super) fn all_live(tables: &impl TablesRead, slot: Slot) -> Vec<RepositoryKey> {
    let rows = tables.prefix(&keys::of_slot(slot, table::REPOSITORY), usize::MAX).into_iter();
    let keys = rows.filter_map(|(key, row)| {
        let row: RepositoryRow = codec::row(&row);
        let id = keys::repository_in(&key).expect("the key ends with an id");
        (!row.deleted).then_some(RepositoryKey { registry: row.registry, name: row.name, id })
    });
    keys.collect()
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
        let key = RepositoryKey { registry, name: row.name.clone(), id };
        settings::begin(tables, context, &key, &row);
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

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let ChangeRepository { key, settings: wish } = self;
        let row = require(tables, &key)?;
        if context.level >= LEVEL_3 || settings::is_noted(tables, &key) {
            // the same again would be the newer word, beside another one that is on its way
            if settings::stands(tables, &key, &wish) {
                return Ok(Reply::Done);
            }
            settings::may_write(tables, &key)?;
            settings::change(tables, context, &key, (row, wish));
        } else {
            let row = RepositoryRow { settings: wish, ..row };
            tables.put(keys::repository(key.slot(), key.id), codec::encode(&row));
        }
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

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut row = require(tables, &self.key)?;
        let slot = self.key.slot();
        let manifests = keys::of_repository(slot, table::MANIFEST, self.key.id);
        if !self.force && tables.any(&manifests) {
            return Err(Refusal::RepositoryNotEmpty { name: self.key.name, registry: self.key.registry });
        }
        row.deleted = true;
        usage::forget(tables, context, &self.key);
        tables.delete(keys::name(slot, self.key.registry, self.key.name.as_str()));
        tables.put(keys::repository(slot, self.key.id), codec::encode(&row));
        tables.put(keys::deleted(slot, self.key.id), Vec::new());
        Ok(Reply::Done)
    }
}

/// Up to `limit` deleted repositories of a slot whose rows still wait.
pub fn deleted(tables: &impl TablesRead, slot: Slot, limit: usize) -> Vec<RepositoryKey> {
    let rows = tables.prefix(&keys::of_slot(slot, table::DELETED), limit);
    let read = |(key, _): &Row| {
        let id = keys::repository_in(key).expect("the key of a deleted repository ends with its id");
        by_id(tables, slot, id).expect("a repository's own row goes last").0
    };
    rows.iter().map(read).collect()
}

/// Up to `limit` uses of blobs that a repository's rows still name: to be dropped before a deleted repository's rows
/// go.
pub fn holds(tables: &impl TablesRead, key: &RepositoryKey, limit: usize) -> Vec<(Digest, UseId)> {
    let links = tables.prefix(&keys::of_repository(key.slot(), table::LINK, key.id), limit);
    let loose = tables.prefix(&keys::of_repository(key.slot(), table::LOOSE_USE, key.id), limit - links.len());
    let digest = |key: &[u8]| Digest::from_key(&key[OF_REPOSITORY_BYTES..]).expect("a link key ends with a digest").0;
    let links = links.iter().map(|(key, value)| (digest(key), codec::row::<link::LinkRow>(value).hold));
    let loose = loose.iter().map(|(key, _)| {
        let (_, digest, hold) = keys::loose_use_in(key).expect("a loose use's key ends with it");
        (digest, hold)
    });
    links.chain(loose).collect()
}

/// Removes up to [`PURGE_ROWS_MAX`] rows of a deleted repository; the last call removes its own row.
///
/// Nobody can reach a deleted repository or link into it, so here removal runs from the right: `DropUse` for some of
/// its [`holds`], then in the same envelope this with their names. What names a use goes only after the use, and a
/// crash in between loses nothing but time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PurgeRepository {
    /// Which; it must be deleted.
    pub key: RepositoryKey,
    /// Uses that were dropped before: the rows that name them go.
    pub dropped: Vec<(Digest, UseId)>,
}

/// Rows of a table that one purge removes: a row of manifest bytes is up to 64 KiB, and is read to be found.
fn purged_rows_max(table: u8) -> usize {
    if table == table::MANIFEST_BYTES { PURGE_ROWS_MAX / 20 } else { PURGE_ROWS_MAX }
}

impl PurgeRepository {
    fn purge_rows(&self, tables: &mut impl Tables) -> usize {
        let mut purged = 0;
        for table in manifest::PURGED_TABLES {
            let left = purged_rows_max(table).min(PURGE_ROWS_MAX - purged);
            for (key, _) in tables.prefix(&keys::of_repository(self.key.slot(), table, self.key.id), left) {
                tables.delete(key);
                purged += 1;
            }
        }
        purged
    }

    fn purge_holds(&self, tables: &mut impl Tables) -> usize {
        let (slot, id) = (self.key.slot(), self.key.id);
        let mut purged = 0;
        for (digest, hold) in self.dropped.iter().take(PURGE_ROWS_MAX) {
            if link::read(tables, &self.key, digest).is_some_and(|row| row.hold == *hold) {
                tables.delete(keys::by_digest(slot, table::LINK, id, digest));
                purged += 1;
            }
            let loose = keys::loose_use(slot, id, digest, *hold);
            if tables.contains(&loose) {
                tables.delete(loose);
                purged += 1;
            }
        }
        purged
    }
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
        let purged = self.purge_rows(tables) + self.purge_holds(tables);
        if purged == 0 && holds(tables, &self.key, 1).is_empty() {
            tables.delete(row_key);
            tables.delete(keys::deleted(slot, id));
        }
        Ok(Reply::Purged(u32::try_from(purged).expect("a purge is bounded")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob::DropUse;
    use crate::metadata::command::Command;
    use crate::metadata::testing::{World, mount, push, repository_key};

    fn purge(world: &World, key: &RepositoryKey, limit: usize) -> Vec<Command> {
        let dropped = holds(&world.tables, key, limit);
        let drop =
            |(digest, hold): &(Digest, UseId)| DropUse { digest: *digest, repository: key.clone(), hold: *hold }.into();
        let mut commands: Vec<Command> = dropped.iter().map(drop).collect();
        commands.push(PurgeRepository { key: key.clone(), dropped }.into());
        commands
    }

    // A27: the name is free at once, the new repository has nothing of the old, and purging leaves nothing of the old
    // and takes nothing of the new.
    #[test]
    fn delete_and_make_again() {
        let mut world = World::region(&["a", "b", "c"]);
        let old = world.repository("team/app", 0x01d_01d, Settings::default());
        let other = world.repository("other", 3, Settings::default());
        let digest = world.push_blob(&old, b"layer", 1, &[1, 2]);
        assert_eq!(world.propose(mount(&other, b"layer", 2)).refusal, None);
        world.ok(DeleteRepository { key: old.clone(), force: false });
        assert_eq!(find(&world.tables, old.registry, &old.name), None);
        let new = world.repository("team/app", 2, Settings::default());
        assert_eq!(link::read(&world.tables, &new, &digest), None);
        let late = world.propose(push(&old, b"late", 9, &[1, 2]));
        assert_eq!(late.refusal, Some(unknown(old.registry, &old.name)));
        assert_eq!(deleted(&world.tables, old.slot(), 9), std::slice::from_ref(&old));
        world.push_blob(&new, b"layer", 4, &[1, 2]);
        for _ in 0..9 {
            let commands = purge(&world, &old, 100);
            assert_eq!(world.propose(commands).refusal, None);
        }
        assert_eq!(deleted(&world.tables, old.slot(), 9), []);
        let id = old.id.0.to_be_bytes();
        let of_old = |row: &(&Vec<u8>, &Vec<u8>)| row.0.windows(16).any(|part| part == id);
        let left: Vec<_> = world.tables.rows().filter(of_old).collect();
        // the use of the push that came too late has no link to be found by; it is over-retention
        assert_eq!(left.len(), 1, "{left:02x?}");
        assert!(link::read(&world.tables, &new, &digest).is_some());
        assert_eq!(super::super::blob::users(&world.tables, &digest, 9).len(), 2);
        assert_eq!(world.ok(PurgeRepository { key: old, dropped: Vec::new() }), Reply::Unchanged);
    }

    // A purge removes a link only together with the use that it stands on, and never touches a living repository.
    #[test]
    fn purge_is_careful() {
        let mut world = World::region(&["a", "b"]);
        let key = world.repository("r", 1, Settings::default());
        let digest = world.push_blob(&key, b"x", 1, &[1, 2]);
        let early = PurgeRepository { key: key.clone(), dropped: vec![(digest, UseId(1))] };
        assert!(matches!(world.refused(early.clone()), Refusal::RepositoryExists { .. }));
        world.ok(DeleteRepository { key: key.clone(), force: true });
        world.ok(PurgeRepository { key: key.clone(), dropped: vec![(digest, UseId(8))] });
        assert!(link::read(&world.tables, &key, &digest).is_some());
        world.ok(early.clone());
        assert_eq!(holds(&world.tables, &key, 9), []);
        world.ok(early);
        assert_eq!(deleted(&world.tables, key.slot(), 9), []);
    }

    // Making a repository that is there answers it, or refuses if it must be new; an id is never taken twice.
    #[test]
    fn create() {
        let mut world = World::cluster();
        let key = world.repository("r", 1, Settings::default());
        let again = |number, must_be_new| CreateRepository {
            key: repository_key("r", number),
            settings: Settings::default(),
            must_be_new,
        };
        assert_eq!(world.ok(again(2, false)), Reply::Repository { id: key.id, created: false });
        assert!(matches!(world.refused(again(2, true)), Refusal::RepositoryExists { .. }));
        world.ok(DeleteRepository { key: key.clone(), force: false });
        assert!(matches!(world.refused(again(1, true)), Refusal::RepositoryExists { .. }));
        assert_eq!(world.refused(DeleteRepository { key: key.clone(), force: true }), unknown(key.registry, &key.name));
        let changed = ChangeRepository { key: key.clone(), settings: Settings::default() };
        assert_eq!(world.refused(changed), unknown(key.registry, &key.name));
    }
}
