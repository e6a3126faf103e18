use std::collections::BTreeSet;

use super::*;
use crate::metadata::repository::RepositoryRow;
use crate::metadata::tables::{MemoryTables, Tables};
use crate::metadata::testing::World;

fn broken(tables: &MemoryTables) -> bool {
    !check(tables, 10).violations.is_empty()
}

// A state with a row in every table has no violation.
#[test]
fn a_whole_state_is_whole() {
    let world = World::busy();
    let report = check(&world.tables, 10);
    assert_eq!(report.violations, []);
    assert_eq!(report.rows, world.tables.rows().count() as u64);
}

// Every row that another one depends on is missed when it goes.
#[test]
fn a_row_that_goes_is_missed() {
    let world = World::busy();
    let always = [
        table::TOPOLOGY,
        table::KEY,
        table::KEY_OF,
        table::NAME,
        table::REPOSITORY,
        table::DELETED,
        table::MANIFEST,
        table::MANIFEST_BYTES,
        table::MANIFEST_REFERENCES,
        table::TAG,
        table::MANIFEST_TAG,
        table::REFERRER,
        table::REF,
        table::UNTAGGED,
        table::USAGE,
    ];
    let now_and_then = [
        table::NODE,
        table::STORE,
        table::USER,
        table::TAG_JOURNAL,
        table::LINK,
        table::USE,
        table::BLOB,
        table::SLOT_USAGE,
        table::REGISTRY_QUOTA,
    ];
    let mut missed = BTreeSet::new();
    for (key, _) in world.tables.rows().filter(|(key, _)| is_live(&world, key)) {
        let (_, table) = keys::place(key).unwrap();
        let mut tables = world.tables.clone();
        tables.delete(key.clone());
        match broken(&tables) {
            true => _ = missed.insert(table),
            false => assert!(!always.contains(&table), "{key:02x?} went unmissed"),
        }
    }
    for table in always.iter().chain(&now_and_then) {
        assert!(missed.contains(table), "nobody ever missed a row of table {table:#04x}");
    }
}

/// Rows of a deleted repository are on their way out: some may be missing.
fn is_live(world: &World, key: &[u8]) -> bool {
    let (slot, table) = keys::place(key).unwrap();
    let inside =
        (table::MANIFEST..=table::UNTAGGED).contains(&table) && ![table::SLOT_CLOCK, table::DELETED].contains(&table);
    let id = keys::of_repository_in(key).filter(|_| inside && slot != SYSTEM);
    let deleted = |id| get::<RepositoryRow>(&world.tables, &keys::repository(slot, id)).is_some_and(|row| row.deleted);
    !id.is_some_and(deleted)
}

// Damage of any byte never panics; of a manifest's bytes it is always found.
#[test]
fn damage_is_found_or_harmless() {
    let world = World::busy();
    for (key, value) in world.tables.rows() {
        let (_, table) = keys::place(key).unwrap();
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 0x41;
            let mut tables = world.tables.clone();
            tables.put(key.clone(), damaged);
            let found = broken(&tables);
            assert!(found || table != table::MANIFEST_BYTES, "byte {at} of {key:02x?}");
            assert!(found || at != 0 || table == table::MANIFEST_BYTES, "version of {key:02x?}");
        }
    }
}

// A check ends when it has found enough, and says so.
#[test]
fn it_ends_early() {
    let mut tables = MemoryTables::new();
    for number in 0..10u8 {
        tables.put(vec![0, 1, 0xee, number], Vec::new());
    }
    let report = check(&tables, 3);
    assert_eq!((report.violations.len(), report.cut), (3, true));
    assert!(report.violations[0].to_string().starts_with("table 0xee does not exist (row 0001ee00"));
}
