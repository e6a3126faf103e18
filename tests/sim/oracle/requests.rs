//! No request id is applied twice: a copy of a proposal gets the answer and place of the first, and changes nothing.

use std::collections::BTreeMap;

use raft::Effect;
use registry_core::metadata::command::Proposal;
use registry_core::metadata::keys;
use registry_core::metadata::tables::Writes;
use registry_core::vocabulary::ids::RequestId;

pub(super) const NAME: &str = "no request is applied twice";

/// Rows that every entry writes, whatever it does.
const BOOKKEEPING: [&str; 2] = ["CLOCK", "STATE_DIGEST"];

#[derive(Default)]
pub(super) struct Requests {
    answered: BTreeMap<RequestId, Effect>,
}

impl Requests {
    pub(super) fn entry(&mut self, proposal: &Proposal, effect: &Effect, writes: &Writes) -> Result<(), String> {
        let Some(first) = self.answered.get(&proposal.request) else {
            self.answered.insert(proposal.request, effect.clone());
            return Ok(());
        };
        if first != effect {
            return Err(format!("a copy of {} got another answer, or another place", proposal.request.0));
        }
        let written = writes.keys().filter_map(|key| keys::table_name(key));
        match written.into_iter().find(|name| !BOOKKEEPING.contains(name)) {
            None => Ok(()),
            Some(table) => Err(format!("a copy of {} wrote a row of {table}", proposal.request.0)),
        }
    }
}
