//! Linearizable reads on any node: one round of the leader's heartbeats answers every read that waited when it began.
//!
//! A read never joins a round in flight: the round's quorum may have answered before a write that the reader has seen.
//! It waits for the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::ReadPolicy;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::core::{Core, Leader, boottime_ms};
use crate::metrics;
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::types::Position;

/// No leader with a quorum confirmed in time; nothing is known about how old this node's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no leader with a quorum confirmed in time")]
pub struct Unavailable;

/// Reads that wait for a round.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<oneshot::Sender<u64>>>,
    arrived: Notify,
    /// When the latest round began whose index has been applied here; 0 if there was none.
    confirmed_at_ms: AtomicU64,
}

impl Reads {
    /// When this node last knew it had applied all that a leader had confirmed, milliseconds since boot.
    pub(crate) fn confirmed_at_ms(&self) -> Option<u64> {
        let at = self.confirmed_at_ms.load(Ordering::Acquire);
        (at > 0).then_some(at)
    }

    /// Queues a read for the next round; `None` when too many wait.
    fn queue(&self, max: usize) -> Option<oneshot::Receiver<u64>> {
        let (answer, wait) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= max {
            return None;
        }
        waiting.push(answer);
        if waiting.len() == 1 {
            self.arrived.notify_one();
        }
        Some(wait)
    }

    /// Waits for a read, at most for `patience`, and runs one round for all that wait by then. False if it failed: who
    /// still waits takes part in the next one.
    async fn serve(&self, patience: Duration, round: impl AsyncFnOnce() -> Option<u64>) -> bool {
        if self.waiting.lock().is_empty() {
            // without a reader the round is run all the same, to know how old the state is
            let _arrived = tokio::time::timeout(patience, self.arrived.notified()).await.is_ok();
        }
        let mut due = std::mem::take(&mut *self.waiting.lock());
        let began = Instant::now();
        let index = round().await;
        metrics::read_round(due.len(), began.elapsed(), index.is_some());
        let Some(index) = index else {
            due.retain(|read| !read.is_closed());
            self.waiting.lock().append(&mut due);
            return false;
        };
        for read in due {
            let _gave_up = read.send(index).is_err();
        }
        true
    }

    fn confirm(&self, began_at_ms: u64) {
        self.confirmed_at_ms.fetch_max(began_at_ms.max(1), Ordering::AcqRel);
    }
}

impl Core {
    /// The index a read that begins now has to see.
    pub(crate) async fn read_index(&self, limit: Duration) -> Result<u64, Unavailable> {
        let wait = self.reads.queue(self.limits.reads).ok_or(Unavailable)?;
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    /// Waits until this node has applied `index`.
    pub(crate) async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Unavailable> {
        if self.has_applied(index) {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        let reached = |applied: &Option<Position>| applied.is_some_and(|applied| applied.index >= index);
        match tokio::time::timeout(limit, applied.wait_for(reached)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    fn has_applied(&self, index: u64) -> bool {
        self.applied.borrow().is_some_and(|applied| applied.index >= index)
    }

    /// The leader's answer, unless another one leads meanwhile: who has stepped down would only let the patience of the
    /// question run out, and everybody's reads with it.
    async fn ask_leader(&self) -> Option<u64> {
        let leader = self.leader()?;
        let asked = match &leader {
            Leader::Here => self.net.node_id,
            Leader::There { node_id, .. } => *node_id,
        };
        let mut leadership = self.leadership.clone();
        tokio::select! {
            index = self.ask(leader) => index,
            _gone = leadership.wait_for(|now| now.leader != Some(asked)) => None,
        }
    }

    async fn ask(&self, leader: Leader) -> Option<u64> {
        match leader {
            Leader::Here => {
                let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
                Some(confirmed.read_log_id().index())
            }
            Leader::There { node_id, addr } => {
                let limit = Duration::from_millis(self.timing.election_max_ms);
                let question = (kind::READ_INDEX, bytes::Bytes::new());
                let answer = self.net.call((node_id, &addr), Class::Forward, question, limit).await.ok()?;
                wire::read_index(answer).ok().flatten()
            }
        }
    }

    async fn round(self: &Arc<Self>) -> Option<u64> {
        let began_at_ms = boottime_ms();
        let index = self.ask_leader().await?;
        if self.has_applied(index) {
            self.reads.confirm(began_at_ms);
        } else {
            let core = self.clone();
            tokio::spawn(async move {
                let limit = Duration::from_millis(core.limits.confirm_every_ms);
                if core.wait_applied(index, limit).await.is_ok() {
                    core.reads.confirm(began_at_ms);
                }
            });
        }
        Some(index)
    }
}

/// Runs rounds, one after the other, as long as reads arrive; and now and then without any.
pub(crate) async fn run(core: Arc<Core>) {
    // the first round does not wait for a reader: a node is ready once it knows how old its state is
    let mut patience = Duration::ZERO;
    loop {
        if core.reads.serve(patience, async || core.round().await).await {
            patience = Duration::from_millis(core.limits.confirm_every_ms);
        } else {
            core.await_leader_change().await;
            patience = Duration::from_millis(core.timing.heartbeat_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A read that arrives while a round is under way is answered by the next one: the first may have asked its quorum
    // before a write that the reader has seen.
    #[tokio::test]
    async fn a_read_uses_only_a_round_that_began_after_it() {
        let reads = Arc::new(Reads::default());
        let mut first = reads.queue(10).unwrap();
        let late = Mutex::new(None);
        let round = async || {
            *late.lock() = reads.queue(10);
            Some(5)
        };
        assert!(reads.serve(Duration::ZERO, round).await);
        assert_eq!(first.try_recv(), Ok(5));
        let mut late = late.into_inner().unwrap();
        assert!(late.try_recv().is_err(), "it was answered by a round that began before it");
        assert!(reads.serve(Duration::ZERO, async || Some(9)).await);
        assert_eq!(late.try_recv(), Ok(9));
    }

    // One round answers all that wait; a failed one answers nobody and forgets only who gave up.
    #[tokio::test]
    async fn one_round_serves_all() {
        let reads = Reads::default();
        let mut waiting: Vec<_> = (0..100).map(|_| reads.queue(100).unwrap()).collect();
        assert!(reads.queue(100).is_none(), "the queue has a bound");
        drop(waiting.pop());
        assert!(!reads.serve(Duration::ZERO, async || None).await);
        assert_eq!(reads.waiting.lock().len(), 99);
        assert!(reads.serve(Duration::ZERO, async || Some(3)).await);
        assert!(waiting.iter_mut().all(|read| read.try_recv() == Ok(3)));
    }
}
