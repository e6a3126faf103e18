//! Do the rows still fit together? A second derivation of everything that one row says about another.
//!
//! Walks the whole keyspace once, in pages, and looks up what each row must stand beside; holds no table in memory and
//! never panics on damage, so it may run on a state that nothing else will open. Reads only. Run by tests and the
//! simulator after every step, and offline by an operator. Start at [`check`]; [`usage`] counts again what is held,
//! [`tags`] follows each tag to the bytes of its image, [`stored`] tells where copies should be.

mod blob;
mod content;
mod outbox;
pub mod stored;
mod system;
pub mod tags;
mod usage;

use std::fmt;

use super::cluster::ClusterRow;
use super::codec::{self, Stored};
use super::keys::{self, SLOTS, SYSTEM, Slot, table};
use super::outbox::TrimmedRow;
use super::parked;
use super::places::PlacesRow;
use super::repository::NameRow;
use super::settings::{EpochRow, NotedHome, SettingsRow};
use super::tables::{Pages, TablesRead};
use super::upgrade::{LEVEL_2, SlotLevelRow, UpgradeRow};

/// Rows read at once.
const PAGE_ROWS: usize = 256;

/// A rule that a row breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The row that breaks it.
    pub key: Vec<u8>,
    /// What is wrong, for an operator.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (row ", self.text)?;
        self.key.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        out.write_str(")")
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows looked at.
    pub rows: u64,
    /// The first violations found, in key order.
    pub violations: Vec<Violation>,
    /// The check ended early, because it had found enough.
    pub cut: bool,
}

/// Checks every row; ends after `violations_max` violations.
pub fn check(tables: &impl TablesRead, violations_max: usize) -> Report {
    let mut report = Report::default();
    let mut pages = Pages::under(Vec::new(), PAGE_ROWS);
    while let Some(page) = pages.read(tables) {
        for (key, value) in &page {
            if report.violations.len() >= violations_max {
                report.cut = true;
                return report;
            }
            report.rows += 1;
            if let Err(text) = row(tables, key, value) {
                report.violations.push(Violation { key: key.clone(), text });
            }
        }
    }
    report
}

/// What is wrong with a row.
type Found = Result<(), String>;

fn row(tables: &impl TablesRead, key: &[u8], bytes: &[u8]) -> Found {
    let (slot, table) = keys::place(key).ok_or("a key shorter than any of ours")?;
    match table {
        table::CLUSTER..=table::DESTINATION_CURSOR if slot == SYSTEM => system::row(tables, table, key, bytes),
        table::REGISTRY_QUOTA => usage::quota(key, bytes),
        table::PARKED if slot == SYSTEM => parked::check(tables, key, &value(bytes)?),
        table::BACKFILL..=table::OFFER if slot == SYSTEM => system::of_region(tables, table, key, bytes),
        table::PLACES if slot == SYSTEM => value::<PlacesRow>(bytes).map(drop),
        _ if slot >= SLOTS => Err(format!("table {table:#04x} has no place in slot {slot}")),
        table::NAME..=table::SETTINGS => content::row(tables, slot, table, key, bytes),
        table::HOME_EPOCH => home(tables, slot, key, value(bytes)?),
        table::USAGE | table::SLOT_USAGE => usage::row(tables, slot, table, key, bytes),
        table::SLOT_LEVEL => value::<SlotLevelRow>(bytes).map(drop),
        table::OUTBOX => outbox::row(tables, key, bytes),
        table::OUTBOX_TRIMMED => value::<TrimmedRow>(bytes).map(drop),
        table::UPLOAD..=table::FENCE => blob::row(tables, slot, table, key, bytes),
        _ => Err(format!("table {table:#04x} does not exist")),
    }
}

/// A home is noted by name as it is beside the repository that has the name.
fn home(tables: &impl TablesRead, slot: Slot, key: &[u8], row: EpochRow) -> Found {
    let (registry, name) = keys::home_epoch_in(key).ok_or_else(unreadable)?;
    let named: Option<NameRow> = get(tables, &keys::name(slot, registry, name));
    let settings: Option<SettingsRow> = named.and_then(|NameRow(id)| get(tables, &keys::settings(slot, id)));
    let fits = settings.is_none_or(|settings| NotedHome::of(&settings) == row.home);
    ensure(fits, || format!("the home of repository '{name}' is noted as another one than was set"))
}

/// A row's value, or that it can't be read.
fn value<T: Stored>(bytes: &[u8]) -> Result<T, String> {
    codec::decode(bytes).map_err(|error| error.to_string())
}

/// The row under a key. One that can't be read counts as absent here: it is found when its turn comes.
fn get<T: Stored>(tables: &impl TablesRead, key: &[u8]) -> Option<T> {
    tables.get(key).and_then(|bytes| codec::decode(&bytes).ok())
}

/// Whether a slot's rows are those of the first level: no counters, no lists of untagged manifests.
fn is_first_level(tables: &impl TablesRead, slot: Slot) -> bool {
    let cluster = get(tables, &keys::system(table::CLUSTER)).is_none_or(|row: ClusterRow| row.feature_level < LEVEL_2);
    let migrates = get(tables, &keys::system(table::UPGRADE)).is_some_and(|row: UpgradeRow| row.from < LEVEL_2);
    cluster || migrates && get::<SlotLevelRow>(tables, &keys::of_slot(slot, table::SLOT_LEVEL)).is_none()
}

fn unreadable() -> String {
    "a key that can't be read".to_owned()
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Found {
    if holds { Ok(()) } else { Err(text()) }
}

fn in_slot(slot: Slot, right: Slot) -> Found {
    ensure(slot == right, || format!("in slot {slot}, but belongs into slot {right}"))
}

#[cfg(test)]
mod tests;
