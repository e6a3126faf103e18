//! Envelopes that fall apart change nothing: an envelope whose commands become entries of their own, one right after
//! the other, leads to the same rows. (With others between them the log does it by itself, and the other invariants
//! look at every part.)

use registry_core::metadata::apply::{Entry, Machine};
use registry_core::metadata::command::Proposal;
use registry_core::metadata::keys;
use registry_core::metadata::tables::MemoryTables;
use registry_core::vocabulary::ids::RequestId;

use super::{Invariant, Step};

pub(super) struct Envelopes;

/// The rows, but for those that tell how many entries there were.
fn content(tables: &MemoryTables) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
    let counts = |key: &[u8]| matches!(keys::table_name(key), Some("REQUEST" | "STATE_DIGEST"));
    tables.rows().filter(move |(key, _)| !counts(key))
}

impl Invariant for Envelopes {
    fn name(&self) -> &'static str {
        "envelopes may fall apart"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        let Step { proposal, entry, .. } = step;
        if proposal.commands.len() < 2 || step.writes.len() <= 2 {
            return Ok(());
        }
        let mut tables = step.before.clone();
        for (number, command) in proposal.commands.iter().enumerate().take(step.outcome.replies.len()) {
            let commands = vec![command.clone()];
            let min_level = Proposal::level(&commands);
            let part = Proposal { request: RequestId(number as u128), min_level, commands, ..(*proposal).clone() };
            let payload = part.encode();
            let batch = [Entry { index: entry.index, at_ms: entry.at_ms, payload: &payload }];
            let applied = Machine::default().apply(&tables, &batch).map_err(|error| error.to_string())?;
            tables.write(applied.writes);
        }
        let (whole, parts) = (content(&step.facts.rows), content(&tables));
        if whole.eq(parts) {
            return Ok(());
        }
        Err(format!("entry {} in parts leads to other rows", entry.index))
    }
}
