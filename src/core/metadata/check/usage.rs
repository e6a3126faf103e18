//! Counters of what is held, counted again from the rows they count.

use super::super::keys::{self, OF_REPOSITORY_BYTES, Slot, table};
use super::super::link::LinkRow;
use super::super::manifest::ManifestRow;
use super::super::quota::QuotaRow;
use super::super::repository::RepositoryRow;
use super::super::tables::{Pages, TablesRead};
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
    let rows = |table| Pages::under(keys::of_repository(slot, table, id), PAGE_ROWS);
    let mut used = Usage::default();
    rows(table::LINK).each(tables, |_, row| {
        let bytes = value::<LinkRow>(row).map_or(0, |row| row.size_bytes);
        used.bytes = used.bytes.saturating_add(bytes);
    });
    rows(table::MANIFEST).each(tables, |_, row| {
        let bytes = value::<ManifestRow>(row).ok().filter(|row| row.inline).map_or(0, |row| row.size_bytes);
        used.bytes = used.bytes.saturating_add(bytes);
    });
    rows(table::TAG).each(tables, |key, _| used.tags += u64::from(key.len() > OF_REPOSITORY_BYTES));
    used
}

fn of_slot(tables: &impl TablesRead, slot: Slot, registry: RegistryId) -> Usage {
    let mut used = Usage::default();
    Pages::under(keys::of_slot(slot, table::USAGE), PAGE_ROWS).each(tables, |key, row| {
        let id = keys::repository_in(key);
        let owner: Option<RepositoryRow> = id.and_then(|id| get(tables, &keys::repository(slot, id)));
        let is_its = owner.is_some_and(|owner| owner.registry == registry);
        used = value::<UsageRow>(row).ok().filter(|_| is_its).map_or(used, |row| used.plus(row.used));
    });
    used
}
