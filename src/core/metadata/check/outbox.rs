//! Rows of the stream of changes: they can be read, and stand where they belong.

use super::super::keys;
use super::super::outbox::OutboxRow;
use super::super::tables::TablesRead;
use super::{Found, ensure, get, unreadable, value};
use crate::metadata::clock::ClockRow;
use crate::metadata::keys::table;

/// A change stands under its register, and was not made in the future.
pub(super) fn row(tables: &impl TablesRead, key: &[u8], bytes: &[u8]) -> Found {
    let OutboxRow { change, at_ms } = value(bytes)?;
    let (index, repository) = keys::outbox_in(key).ok_or_else(unreadable)?;
    let slot = keys::slot(key).ok_or_else(unreadable)?;
    let right = keys::outbox(slot, index, repository, &change.register().key());
    ensure(key == right, || format!("a change at index {index} stands under another register than its own"))?;
    let clock: Option<ClockRow> = get(tables, &keys::system(table::CLOCK));
    ensure(clock.is_some_and(|clock| at_ms <= clock.now_ms), || format!("a change at index {index} is of the future"))
}
