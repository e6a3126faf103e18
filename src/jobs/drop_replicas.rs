//! Takes copies off record that are more than the placement wants: of nodes that came back after they were replaced, of
//! nodes that are emptied or gone, and of volumes that gave their place to another one. Each node deletes its files by
//! itself ([`free_files`](super::free_files)).
//!
//! Never takes one that is wanted: the copies that stay are asked first whether they are there, and apply looks again
//! whether they are all that is wanted. Source: consensus-and-faults §5.6.

use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use registry_core::metadata::blob::Cursor;
use registry_core::metadata::command::Command;
use registry_core::metadata::keys;
use registry_core::metadata::replica::{self, DropReplica, Spare};
use registry_core::metadata::reply::Reply;
use registry_core::metadata::{node, upgrade};
use registry_core::vocabulary::ids::StoreId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::driver::{Reconciler, Step, StepFuture};
use super::pace::{RECORDS_PER_PAGE, RECORDS_PER_STEP, cost};
use crate::blob::store::BlobKey;
use crate::blob::transfer::Transfer;
use crate::metadata::Metadata;

/// Records of which a step drops copies.
const SPARES_PER_STEP: usize = 128;
/// Records whose copies are asked at once.
const ASKED_AT_ONCE: usize = 16;
/// Between two rounds while nothing is to be dropped, and while copies wait for others to be made.
const PERIOD: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(2));
/// Shortest time between two rounds, however often somebody wakes it.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// A round rests so many times as long as it worked.
const REST: u32 = 10;

/// The round under way, and what the last one left.
#[derive(Debug, Default)]
struct Round {
    cursor: Cursor,
    /// Time it has worked so far.
    worked: Duration,
    /// Some copies are more than wanted, or will be.
    is_restless: bool,
    /// When the last one ended, and when the next one begins by itself.
    ended: Option<(Instant, Duration)>,
    /// How long the last one worked.
    last_worked: Duration,
}

/// Leader's job: drops copies that are more than wanted.
#[derive(Debug)]
pub struct DropReplicas {
    metadata: Metadata,
    transfer: Transfer,
    principal: String,
    round: Mutex<Round>,
}

/// What a look at some records found.
#[derive(Debug, Default)]
struct Look {
    spares: Vec<Spare>,
    is_restless: bool,
    next: Cursor,
}

impl DropReplicas {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, transfer: Transfer, principal: String) -> DropReplicas {
        DropReplicas { metadata, transfer, principal, round: Mutex::default() }
    }

    fn look(&self, mut cursor: Cursor) -> Look {
        let (mut look, mut records) = (Look::default(), 0);
        while records < RECORDS_PER_STEP && look.spares.len() < SPARES_PER_STEP && !cursor.is_over() {
            self.metadata.peek(|view| {
                let topology = node::topology(view);
                let page = cursor.page(view, RECORDS_PER_PAGE);
                records += cost(page.len());
                for (digest, row) in &page {
                    let found = replica::spare(&topology, digest, row);
                    look.is_restless |= found.is_some();
                    look.spares.extend(found.filter(|found| !found.spare.is_empty()));
                }
            });
        }
        Look { next: cursor, ..look }
    }

    /// Asks the copies that stay whether they are there, and words the drops.
    async fn ask(&self, found: Spare) -> Vec<Command> {
        let Spare { digest, generation, spare, keep } = found;
        let answers = self.transfer.confirm(BlobKey::new(digest, generation), &keep).await;
        let good: Vec<StoreId> =
            answers.into_iter().filter(|(_, answer)| matches!(answer, Ok(Some(_)))).map(|(store, _)| store).collect();
        if good.len() < keep.len() {
            tracing::debug!(%digest, "a copy that is to stay did not answer; nothing is dropped");
            return Vec::new();
        }
        let drop = |store| DropReplica { digest, generation, store, good: good.clone() }.into();
        spare.into_iter().map(drop).collect()
    }

    /// A round that was woken soon after the last one waits: each walks over all records.
    fn rest(&self) -> Duration {
        let round = self.round.lock();
        let is_new = round.cursor == Cursor::default();
        let rest = SHORTEST_REST.max(round.last_worked * REST);
        let left = round.ended.map(|(at, _)| rest.saturating_sub(at.elapsed()));
        left.filter(|_| is_new).unwrap_or_default()
    }

    async fn go_on(&self, from: Cursor) -> Step {
        let began = Instant::now();
        let Look { spares, is_restless, next } = self.look(from);
        let tried = spares.len() as u64;
        let asked = futures_util::stream::iter(spares).map(|found| self.ask(found));
        let drops: Vec<Vec<Command>> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let drops = drops.concat();
        let mut done = 0;
        if !drops.is_empty() {
            match self.metadata.propose(&self.principal, drops).await {
                Ok(accepted) => {
                    done = accepted.replies.iter().filter(|reply| **reply == Reply::Done).count() as u64;
                    metrics::counter!("portolan_repair_copies_dropped_total").increment(done);
                }
                Err(error) => {
                    tracing::debug!(%error, "copies that are more than wanted were not dropped");
                    return Step { done: 0, failed: tried, more: false };
                }
            }
        }
        let is_over = next.is_over();
        let mut round = self.round.lock();
        round.worked += began.elapsed();
        round.is_restless |= is_restless;
        round.cursor = next;
        if is_over {
            let pause = if round.is_restless { PERIOD.1.max(round.worked * REST) } else { PERIOD.0 };
            *round = Round { ended: Some((Instant::now(), pause)), last_worked: round.worked, ..Round::default() };
        }
        Step { done, failed: 0, more: !is_over }
    }
}

impl Reconciler for DropReplicas {
    fn name(&self) -> &'static str {
        "drop_replicas"
    }

    fn period(&self) -> Duration {
        self.round.lock().ended.map_or(PERIOD.1, |(_, pause)| pause)
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().overfull())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let level = || self.metadata.peek(|view| upgrade::level_of(view, keys::SYSTEM));
            if !self.metadata.leadership().is_leader || level() < upgrade::LEVEL_2 {
                *self.round.lock() = Round::default();
                return Step::IDLE;
            }
            tokio::time::sleep(self.rest()).await;
            let from = self.round.lock().cursor;
            self.go_on(from).await
        })
    }
}
