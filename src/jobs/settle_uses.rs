//! Drops uses of blobs that no link stands on any more, where the proposer of the change did not come to it itself, and
//! forgets them once nothing under way can name them.

use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::metadata::link;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Commands after which a step proposes what it has.
const COMMANDS_PER_STEP: usize = 200;
/// Loose uses that one step looks at.
const ROWS_PER_STEP: usize = 256;
/// Loose uses read at once.
const ROWS_PER_PAGE: usize = 128;

/// Leader's job: settles loose uses.
#[derive(Debug)]
pub struct SettleUses {
    metadata: Metadata,
    principal: String,
    walk: Mutex<Walk>,
}

/// Where a walk over all loose uses is. What it has dropped stays in its way until it may be forgotten: it goes on
/// behind that.
#[derive(Debug, Default)]
struct Walk {
    slot: Slot,
    after: Option<Vec<u8>>,
}

impl SettleUses {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> SettleUses {
        SettleUses { metadata, principal, walk: Mutex::default() }
    }

    /// What to propose next, and whether that is the end of a walk.
    fn commands(&self) -> (Vec<Command>, bool) {
        let (applied_index, mut walk) = (self.metadata.applied_index(), self.walk.lock());
        let (mut commands, mut looked_at) = (Vec::new(), 0);
        self.metadata.peek(|view| {
            while walk.slot < SLOTS && looked_at < ROWS_PER_STEP && commands.len() < COMMANDS_PER_STEP {
                let found = link::settlement(view, walk.slot, applied_index, walk.after.as_deref(), ROWS_PER_PAGE);
                looked_at += found.looked_at;
                commands.extend(found.commands);
                match found.next {
                    Some(next) => walk.after = Some(next),
                    None => *walk = Walk { slot: walk.slot + 1, after: None },
                }
            }
        });
        let is_over = walk.slot >= SLOTS;
        if is_over {
            *walk = Walk::default();
        }
        (commands, is_over)
    }
}

impl Reconciler for SettleUses {
    fn name(&self) -> &'static str {
        "settle_uses"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                *self.walk.lock() = Walk::default();
                return Step::IDLE;
            }
            let (commands, is_over) = self.commands();
            if commands.is_empty() {
                return Step { more: !is_over, ..Step::IDLE };
            }
            let done = commands.len() as u64;
            match self.metadata.propose(&self.principal, commands).await {
                Ok(_) => Step { done, failed: 0, more: !is_over },
                Err(error) => {
                    tracing::debug!(%error, "loose uses were not settled");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}
