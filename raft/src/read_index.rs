//! Linearizable reads on any node: one round of the leader's heartbeats answers every read that waited when it began.
//!
//! A read never joins a round in flight: the round's quorum may have answered before a write that the reader has seen. It
//! waits for the next one.

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
}

impl Core {
    /// The index a read that begins now has to see.
    pub(crate) async fn read_index(&self, limit: Duration) -> Result<u64, Unavailable> {
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.reads.waiting.lock();
            if waiting.len() >= self.limits.reads {
                return Err(Unavailable);
            }
            waiting.push(answer);
            if waiting.len() == 1 {
                self.reads.arrived.notify_one();
            }
        }
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    /// Waits until this node has applied `index`.
    pub(crate) async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Unavailable> {
        let reached = |applied: &Option<crate::types::Position>| applied.is_some_and(|applied| applied.index >= index);
        let mut applied = self.applied.clone();
        if reached(&applied.borrow()) {
            return Ok(());
        }
        match tokio::time::timeout(limit, applied.wait_for(reached)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    async fn round(&self) -> Option<u64> {
        match self.leader()? {
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

    /// Notes that the state is as new as a round that began then.
    fn confirmed(&self, began_at_ms: u64, index: u64) {
        if self.applied.borrow().is_some_and(|applied| applied.index >= index) {
            self.reads.confirmed_at_ms.fetch_max(began_at_ms.max(1), Ordering::AcqRel);
        }
    }
}

/// Runs rounds, one after the other, as long as reads arrive; and now and then without any, to know how old the state is.
pub(crate) async fn run(core: Arc<Core>) {
    let idle = Duration::from_millis(core.limits.confirm_every_ms);
    // the first round does not wait for a reader: a node is ready once it knows how old its state is
    let mut patience = Duration::ZERO;
    loop {
        let mut due = std::mem::take(&mut *core.reads.waiting.lock());
        if due.is_empty() {
            let arrived = tokio::time::timeout(patience, core.reads.arrived.notified()).await;
            if arrived.is_ok() {
                continue;
            }
        }
        let (began, began_at_ms) = (Instant::now(), boottime_ms());
        let index = core.round().await;
        metrics::read_round(due.len(), began.elapsed(), index.is_some());
        let Some(index) = index else {
            // who still waits takes part in the next round; who gave up is forgotten
            due.retain(|read| !read.is_closed());
            core.reads.waiting.lock().append(&mut due);
            core.await_leader_change().await;
            patience = Duration::from_millis(core.timing.heartbeat_ms);
            continue;
        };
        patience = idle;
        for read in due {
            let _gave_up = read.send(index).is_err();
        }
        core.confirmed(began_at_ms, index);
        if core.reads.confirmed_at_ms().is_none_or(|at| at < began_at_ms) {
            note_when_applied(core.clone(), began_at_ms, index);
        }
    }
}

/// The round's index is not applied yet: note it when it is.
fn note_when_applied(core: Arc<Core>, began_at_ms: u64, index: u64) {
    tokio::spawn(async move {
        let limit = Duration::from_millis(core.limits.confirm_every_ms);
        if core.wait_applied(index, limit).await.is_ok() {
            core.confirmed(began_at_ms, index);
        }
    });
}
