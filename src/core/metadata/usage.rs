//! How much repositories hold: counters kept by the command that changes what they count, and the limits beside them.
//!
//! Each counter is in the slot of the repository, so no command writes another slot's, and nobody waits for a row that
//! all write. A registry's usage is the sum over its slots; [`quota`](super::quota) keeps it within a limit.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SLOTS, Slot, table};
use super::link;
use super::manifest::ManifestRow;
use super::quota;
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Pages, Tables, TablesRead};
use super::upgrade::LEVEL_2;
use crate::decide::quota::{Excess, Limits, Usage};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::REGISTRIES_SUMMED_MAX;
use crate::vocabulary::refusal::Refusal;

/// Rows read at once while a repository is counted.
const RECOUNT_PAGE_ROWS: usize = 1024;

/// What a repository holds and may hold. Without a row it holds nothing and has no limit. Bytes are those of its links
/// and of the manifests that are kept inline: each distinct blob once, however many manifests name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct UsageRow {
    /// What it holds.
    pub used: Usage,
    /// What it may hold.
    pub limits: Limits,
}

impl Stored for UsageRow {}

/// What all repositories of a registry in one slot hold, deleted ones aside, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SlotUsageRow {
    /// What they hold.
    pub used: Usage,
    /// In which round the share was granted. One of an earlier round than the registry's is void.
    pub round: u64,
    /// What they may hold together, where the registry has a limit.
    pub share: Limits,
}

impl Stored for SlotUsageRow {}

/// What a repository holds and may hold.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey) -> UsageRow {
    let key = keys::usage(repository.slot(), repository.id);
    tables.get(&key).map_or(UsageRow::default(), |bytes| codec::row(&bytes))
}

/// What a registry's repositories in a slot hold and may hold.
pub fn of_slot(tables: &impl TablesRead, slot: Slot, registry: RegistryId) -> SlotUsageRow {
    tables.get(&keys::slot_usage(slot, registry)).map_or(SlotUsageRow::default(), |bytes| codec::row(&bytes))
}

/// The slots in which a registry holds something or may, with what.
pub fn by_slot(tables: &impl TablesRead, registry: RegistryId) -> Vec<(Slot, SlotUsageRow)> {
    let row = |slot| tables.get(&keys::slot_usage(slot, registry)).map(|bytes| (slot, codec::row(&bytes)));
    (0..SLOTS).filter_map(row).collect()
}

/// What a registry holds.
pub fn of_registry(tables: &impl TablesRead, registry: RegistryId) -> Usage {
    by_slot(tables, registry).iter().fold(Usage::default(), |sum, (_, row)| sum.plus(row.used))
}

/// What all registries hold.
pub fn of_all(tables: &impl TablesRead) -> Usage {
    let rows =
        (0..SLOTS).flat_map(|slot| tables.prefix(&keys::of_slot(slot, table::SLOT_USAGE), REGISTRIES_SUMMED_MAX));
    rows.fold(Usage::default(), |sum, (_, row)| sum.plus(codec::row::<SlotUsageRow>(&row).used))
}

fn put(tables: &mut impl Tables, repository: &RepositoryKey, row: &UsageRow) {
    tables.put(keys::usage(repository.slot(), repository.id), codec::encode(row));
}

fn put_slot(tables: &mut impl Tables, slot: Slot, registry: RegistryId, row: &SlotUsageRow) {
    tables.put(keys::slot_usage(slot, registry), codec::encode(row));
}

/// The rows as they are once the repository holds `added` more, if that is allowed.
fn grown(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    added: Usage,
) -> Result<(UsageRow, SlotUsageRow), Refusal> {
    let (own, all) = (read(tables, repository), of_slot(tables, repository.slot(), repository.registry));
    own.limits.allow(own.used, added).map_err(|Excess { unit, limit }| {
        let holder = format!("repository '{}'", repository.name);
        Refusal::QuotaExceeded { holder, unit: unit.to_owned(), limit }
    })?;
    quota::allow(tables, repository.registry, &all, added)?;
    let own = UsageRow { used: own.used.plus(added), ..own };
    Ok((own, SlotUsageRow { used: all.used.plus(added), ..all }))
}

/// The repository holds more from now on. Refuses with `QuotaExceeded`, or with `QuotaShare` where the slot's share of
/// the registry's limit is too small.
pub(crate) fn grow(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    added: Usage,
) -> Result<(), Refusal> {
    if added != Usage::default() && context.level >= LEVEL_2 {
        let (own, all) = grown(tables, repository, added)?;
        put(tables, repository, &own);
        put_slot(tables, repository.slot(), repository.registry, &all);
    }
    Ok(())
}

/// The repository holds less from now on.
pub(crate) fn shrink(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, freed: Usage) {
    if freed != Usage::default() && context.level >= LEVEL_2 {
        let own = read(tables, repository);
        put(tables, repository, &UsageRow { used: own.used.minus(freed), ..own });
        give_back(tables, repository, freed);
    }
}

fn give_back(tables: &mut impl Tables, repository: &RepositoryKey, freed: Usage) {
    let all = of_slot(tables, repository.slot(), repository.registry);
    let row = SlotUsageRow { used: all.used.minus(freed), ..all };
    put_slot(tables, repository.slot(), repository.registry, &row);
}

/// The repository is deleted: nobody reaches what it held, so it counts no more, whenever its rows are purged.
pub(crate) fn forget(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey) {
    let key = keys::usage(repository.slot(), repository.id);
    // a slot that waits to be migrated counts nothing yet, but may hold limits that were set since the step
    if context.level < LEVEL_2 && !tables.contains(&key) {
        return;
    }
    let own = read(tables, repository);
    tables.delete(key);
    if own.used != Usage::default() {
        give_back(tables, repository, own.used);
    }
}

/// Counts what a repository holds, which nobody has counted so far.
pub(super) fn recount(tables: &mut impl Tables, repository: &RepositoryKey) {
    let (slot, id) = (repository.slot(), repository.id);
    let mut used = Usage::default();
    let rows = |table| Pages::under(keys::of_repository(slot, table, id), RECOUNT_PAGE_ROWS);
    rows(table::LINK).each(tables, |_, row| {
        used = used.plus(Usage::of_bytes(codec::row::<link::LinkRow>(row).size_bytes));
    });
    rows(table::MANIFEST).each(tables, |_, row| {
        let row: ManifestRow = codec::row(row);
        used = used.plus(Usage::of_bytes(if row.inline { row.size_bytes } else { 0 }));
    });
    rows(table::TAG).each(tables, |_, _| used = used.plus(Usage { bytes: 0, tags: 1 }));
    if used != Usage::default() {
        put(tables, repository, &UsageRow { used, ..read(tables, repository) });
        let all = of_slot(tables, slot, repository.registry);
        put_slot(tables, slot, repository.registry, &SlotUsageRow { used: all.used.plus(used), ..all });
    }
}

/// Takes a share of the registry's limit for a slot, unless it has one of this round or a later one.
pub(crate) fn take_share(
    tables: &mut impl Tables,
    slot: Slot,
    registry: RegistryId,
    round: u64,
    share: Limits,
) -> Reply {
    let row = of_slot(tables, slot, registry);
    if row.round >= round {
        return Reply::Unchanged;
    }
    put_slot(tables, slot, registry, &SlotUsageRow { round, share, ..row });
    Reply::Done
}

/// Whether the repository may link a blob of this size; one that it links already adds nothing.
pub(crate) fn admits(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
    size_bytes: u64,
) -> Result<(), Refusal> {
    let held_bytes = link::read(tables, repository, digest).map_or(0, |row| row.size_bytes);
    grown(tables, repository, Usage::of_bytes(size_bytes.saturating_sub(held_bytes))).map(drop)
}

/// Sets what a repository may hold. What it holds already stays, also above a lower limit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetRepositoryQuota {
    /// Which.
    pub repository: RepositoryKey,
    /// Its limits from now on.
    pub limits: Limits,
}

impl Apply for SetRepositoryQuota {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let row = read(tables, &self.repository);
        if row.limits == self.limits {
            return Ok(Reply::Unchanged);
        }
        put(tables, &self.repository, &UsageRow { limits: self.limits, ..row });
        Ok(Reply::Done)
    }
}

/// Refuses what the link at the end of the same envelope would be refused for, before the parts between them have an
/// effect: a blob that nobody may link is not committed. Changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AdmitBlob {
    /// Who is to link it.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
}

impl Apply for AdmitBlob {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        admits(tables, &self.repository, &self.digest, self.size_bytes)?;
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob;
    use crate::metadata::link::Unlink;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::repository::{DeleteRepository, Settings};
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, mount, push, reference, tags};
    use crate::vocabulary::ids::UseId;
    use crate::vocabulary::manifest::ContentKind;

    fn world() -> (World, RepositoryKey) {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Settings::default());
        (world, repository)
    }

    fn limit(world: &mut World, repository: &RepositoryKey, bytes: Option<u64>, tags: Option<u64>) {
        world.ok(SetRepositoryQuota { repository: repository.clone(), limits: Limits { bytes, tags } });
    }

    fn used(world: &World, repository: &RepositoryKey) -> (u64, u64) {
        let Usage { bytes, tags } = read(&world.tables, repository).used;
        (bytes, tags)
    }

    fn is_exceeded(refusal: Option<Refusal>, unit: &str) -> bool {
        matches!(refusal, Some(Refusal::QuotaExceeded { unit: told, .. }) if told == unit)
    }

    // B9: each distinct blob and manifest counts once, whatever names it and however often it is pushed; what goes is
    // given back, and a deleted repository holds nothing from its delete on. (The world recounts after every entry.)
    #[test]
    fn counts() {
        let (mut world, repository) = world();
        world.push_blob(&repository, b"four", 1, &[1, 2]);
        assert_eq!(used(&world, &repository), (4, 0));
        assert_eq!(world.propose(mount(&repository, b"four", 2)).refusal, None);
        world.push_blob(&repository, b"four", 3, &[1, 2]);
        assert_eq!(used(&world, &repository), (4, 0), "the same blob again");
        let layer = vec![reference(b"four", ContentKind::Blob)];
        for (bytes, names) in [(&b"image"[..], &["a", "b"][..]), (b"another", &["b", "c"])] {
            let put = PutManifest { references: layer.clone(), tags: tags(names), ..manifest(&repository, bytes) };
            world.ok(put.clone());
            world.ok(put);
        }
        assert_eq!(used(&world, &repository), (4 + 5 + 7, 3));
        world.push_blob(&repository, b"large one", 4, &[1, 2]);
        let large = PutManifest { inline: None, ..manifest(&repository, b"large one") };
        world.ok(large.clone());
        assert_eq!(used(&world, &repository), (4 + 5 + 7 + 9, 3), "a manifest in the blob plane is its link");
        world.ok(DeleteManifest { repository: repository.clone(), digest: large.digest });
        world.ok(DeleteTag { repository: repository.clone(), tag: tags(&["a"]).remove(0), expected: None });
        assert_eq!(used(&world, &repository), (4 + 5 + 7 + 9, 2));
        for bytes in [&b"image"[..], b"another"] {
            world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(bytes) });
        }
        world.ok(Unlink { repository: repository.clone(), digest: Digest::sha256(b"four"), hold: UseId(3) });
        assert_eq!(used(&world, &repository), (9, 0));
        assert_eq!(of_registry(&world.tables, repository.registry), Usage::of_bytes(9));
        world.ok(DeleteRepository { key: repository.clone(), force: false });
        assert_eq!(used(&world, &repository), (0, 0));
        assert_eq!(of_registry(&world.tables, repository.registry), Usage::default());
    }

    // B9: a push that would pass the limit leaves nothing of itself; what adds nothing goes on at a full quota, and so
    // does what frees.
    #[test]
    fn b9_repository_limits() {
        let (mut world, repository) = world();
        limit(&mut world, &repository, Some(10), Some(1));
        world.push_blob(&repository, b"1234567", 1, &[1, 2]);
        let admitted = |bytes: &[u8], number| -> Vec<crate::metadata::command::Command> {
            let (digest, size_bytes) = (Digest::sha256(bytes), bytes.len() as u64);
            let admit = AdmitBlob { repository: repository.clone(), digest, size_bytes };
            std::iter::once(admit.into()).chain(push(&repository, bytes, number, &[1, 2])).collect()
        };
        assert!(is_exceeded(world.propose(admitted(b"4444", 2)).refusal, "bytes"));
        assert_eq!(blob::read(&world.tables, &Digest::sha256(b"4444")), None, "nobody may link it, so it is not kept");
        assert_eq!(world.propose(admitted(b"1234567", 3)).refusal, None, "the same again");
        assert!(is_exceeded(world.propose(push(&repository, b"4444", 4, &[1, 2])).refusal, "bytes"));
        let put = |bytes: &[u8], names: &[&str]| PutManifest { tags: tags(names), ..manifest(&repository, bytes) };
        assert!(is_exceeded(Some(world.refused(put(b"four", &["a"]))), "bytes"));
        assert!(is_exceeded(Some(world.refused(put(b"333", &["a", "b"]))), "tags"));
        world.ok(put(b"333", &["a"]));
        assert_eq!(used(&world, &repository), (10, 1));
        world.ok(put(b"333", &["a"]));
        assert!(is_exceeded(Some(world.refused(put(b"333", &["b"]))), "tags"));
        assert!(is_exceeded(Some(world.refused(put(b"2", &[]))), "bytes"));
        limit(&mut world, &repository, Some(1), Some(0));
        world.ok(put(b"333", &["a"]));
        world.ok(DeleteTag { repository: repository.clone(), tag: tags(&["a"]).remove(0), expected: None });
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"333") });
        limit(&mut world, &repository, None, None);
        world.ok(put(b"four", &["a", "b"]));
        assert_eq!(used(&world, &repository), (7 + 4, 2));
    }
}
