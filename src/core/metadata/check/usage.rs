//! Counters of what is held, counted again from the rows they count.

use super::super::keys::{self, OF_REPOSITORY_BYTES, Slot, table};
use super::super::link::LinkRow;
use super::super::manifest::ManifestRow;
use super::super::quota::QuotaRow;
use super::super::repository::RepositoryRow;
use super::super::tables::{Row, TablesRead, after_prefix};
use super::super::usage::{SlotUsageRow, UsageRow};
use super::{Found, PAGE_ROWS, ensure, get, in_slot, unreadable, value};
use crate::decide::quota::Usage;
use crate::vocabulary::ids::{RegistryId, RepositoryId};

pub(super) fn row(tables: &impl TablesRead, slot: Slot, table: u8, key: &[u8], bytes: &[u8]) -> Found {
    if table == table::USAGE {
        value::<UsageRow>(bytes)?;
        let id = keys::repository_in(key).ok_or_else(unreadable)?;
        let row: Option<RepositoryRow> = get(tables, &keys::repository(slot, id));
        return ensure(row.is_some_and(|row| !row.deleted), || {
            format!("usage of repository {id}, which does not live")
        });
    }
    let row: SlotUsageRow = value(bytes)?;
    let registry = keys::registry_in(key).ok_or_else(unreadable)?;
    let counted = of_slot(tables, slot, registry);
    ensure(counted == row.used, || {
        format!("the repositories of registry {registry} in slot {slot} hold {counted:?}, counted are {:?}", row.used)
    })?;
    let round = get(tables, &keys::registry_quota(registry)).map_or(0, |row: QuotaRow| row.round);
    ensure(row.round <= round, || format!("slot {slot} has a share of round {}, it is round {round}", row.round))
}

/// What a live repository holds, by its own rows, is what its counter says.
pub(super) fn repository(tables: &impl TablesRead, slot: Slot, id: RepositoryId, row: &RepositoryRow) -> Found {
    let counter: UsageRow = get(tables, &keys::usage(slot, id)).unwrap_or_default();
    let counted = of_repository(tables, slot, id);
    ensure(counted == counter.used, || {
        format!("repository '{}' {id} holds {counted:?}, counted are {:?}", row.name, counter.used)
    })?;
    let is_summed = counted == Usage::default() || tables.contains(&keys::slot_usage(slot, row.registry));
    ensure(is_summed, || format!("what repository '{}' {id} holds is not part of its slot's sum", row.name))
}

pub(super) fn quota(key: &[u8], bytes: &[u8]) -> Found {
    keys::registry_in(key).ok_or_else(unreadable)?;
    in_slot(keys::SYSTEM, keys::slot(key).ok_or_else(unreadable)?)?;
    value::<QuotaRow>(bytes).map(drop)
}

/// Counted from the rows; what can't be read counts nothing here: it is found when its turn comes.
fn of_repository(tables: &impl TablesRead, slot: Slot, id: RepositoryId) -> Usage {
    let bytes = |sum: u64, bytes: Option<u64>| sum.saturating_add(bytes.unwrap_or(0));
    let of = |table| keys::of_repository(slot, table, id);
    let linked = fold(tables, &of(table::LINK), 0, |sum, (_, row)| {
        bytes(sum, value::<LinkRow>(row).ok().map(|row| row.size_bytes))
    });
    let inline = fold(tables, &of(table::MANIFEST), 0, |sum, (_, row)| {
        bytes(sum, value::<ManifestRow>(row).ok().filter(|row| row.inline).map(|row| row.size_bytes))
    });
    let tags = fold(tables, &of(table::TAG), 0, |sum, (key, _)| sum + u64::from(key.len() > OF_REPOSITORY_BYTES));
    Usage { bytes: linked.saturating_add(inline), tags }
}

fn of_slot(tables: &impl TablesRead, slot: Slot, registry: RegistryId) -> Usage {
    fold(tables, &keys::of_slot(slot, table::USAGE), Usage::default(), |sum, (key, row)| {
        let id = keys::repository_in(key);
        let owner: Option<RepositoryRow> = id.and_then(|id| get(tables, &keys::repository(slot, id)));
        let is_its = owner.is_some_and(|owner| owner.registry == registry);
        value::<UsageRow>(row).ok().filter(|_| is_its).map_or(sum, |row| sum.plus(row.used))
    })
}

/// Goes through the rows under a prefix, in pages.
fn fold<S>(tables: &impl TablesRead, prefix: &[u8], start: S, step: impl Fn(S, &Row) -> S) -> S {
    let (mut from, end, mut state) = (prefix.to_vec(), after_prefix(prefix), start);
    loop {
        let page = tables.range(&from, &end, PAGE_ROWS);
        let Some((last, _)) = page.last() else { return state };
        from = [&last[..], &[0]].concat();
        state = page.iter().fold(state, &step);
    }
}
