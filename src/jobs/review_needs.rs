//! Looks over the needs of old blobs when the topology has changed: a node that joins is to get its copies, one that
//! was removed is to be replaced. Where nothing is out of line, nothing is proposed.

use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::blob::Cursor;
use registry_core::metadata::command::Command;
use registry_core::metadata::need::{self, Outdated};
use tokio::sync::watch;

use super::driver::{Reconciler, Step, StepFuture};
use super::pace::RECORDS_PER_PAGE;
use crate::metadata::Metadata;

/// How often a leader looks over everything, whatever was told of.
const PERIOD: Duration = Duration::from_secs(600);
/// How soon a new leader begins: what the one before it was told of, it may not have looked over.
const SUCCESSION: Duration = Duration::from_secs(5);
/// Pages compared in one step; most slots of a small registry have less than one.
const PAGES_PER_STEP: usize = 2;
/// Commands after which a step proposes what it has.
const COMMANDS_PER_STEP: usize = 512;

/// Leader's job: brings needs in line with the topology.
#[derive(Debug)]
pub struct ReviewNeeds {
    metadata: Metadata,
    principal: String,
    cursor: Mutex<Cursor>,
    /// The term in which this node, as leader, has looked over everything.
    reviewed: Mutex<Option<u64>>,
}

impl ReviewNeeds {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> ReviewNeeds {
        ReviewNeeds { metadata, principal, cursor: Mutex::default(), reviewed: Mutex::default() }
    }

    /// What is out of line from a cursor on, and where to go on.
    fn look(&self, mut cursor: Cursor) -> (Vec<Command>, Cursor) {
        let mut commands = Vec::new();
        for _ in 0..PAGES_PER_STEP {
            let Cursor { slot, after } = cursor;
            let Outdated { reviews, next } =
                self.metadata.peek(|view| need::outdated(view, slot, after.as_ref(), RECORDS_PER_PAGE));
            commands.extend(reviews.into_iter().map(Command::from));
            cursor = cursor.behind(next);
            if commands.len() >= COMMANDS_PER_STEP || cursor.is_over() {
                break;
            }
        }
        (commands, cursor)
    }
}

impl Reconciler for ReviewNeeds {
    fn name(&self) -> &'static str {
        "review_needs"
    }

    fn period(&self) -> Duration {
        let is_reviewed = *self.reviewed.lock() == Some(self.metadata.leadership().term);
        if is_reviewed { PERIOD } else { SUCCESSION }
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().topology())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let leadership = self.metadata.leadership();
            if !leadership.is_leader {
                *self.cursor.lock() = Cursor::default();
                return Step::IDLE;
            }
            let from = *self.cursor.lock();
            let (commands, next) = self.look(from);
            let done = commands.len() as u64;
            if !commands.is_empty()
                && let Err(error) = self.metadata.propose(&self.principal, commands).await
            {
                tracing::debug!(%error, "needs were not reviewed");
                return Step { done: 0, failed: 1, more: false };
            }
            let is_over = next.is_over();
            if is_over {
                *self.reviewed.lock() = Some(leadership.term);
            }
            *self.cursor.lock() = if is_over { Cursor::default() } else { next };
            Step { done, failed: 0, more: !is_over }
        })
    }
}
