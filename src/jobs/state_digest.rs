//! Finds nodes whose state diverged: the leader asks for the running hash now and then, every node reports its own
//! through the log, and a node that a strict majority contradicts stops.

use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::cluster::{self, DigestNote, ReportDigest, TakeDigest, Verdict};
use registry_core::vocabulary::ids::NodeId;
use tokio::sync::watch;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Log entries between two comparisons.
const ENTRIES_BETWEEN: u64 = 10_000;

/// Takes, reports and judges running hashes.
#[derive(Debug)]
pub struct StateDigest {
    metadata: Metadata,
    node: NodeId,
    principal: String,
    reported: Mutex<Option<DigestNote>>,
}

impl StateDigest {
    /// For this node.
    pub fn new(metadata: Metadata, node: NodeId, principal: String) -> StateDigest {
        StateDigest { metadata, node, principal, reported: Mutex::new(None) }
    }

    /// Nobody knows which state is right: what led to them must not be purged.
    fn alarm(&self, is_on: bool) {
        metrics::gauge!("portolan_state_diverged").set(if is_on { 1.0 } else { 0.0 });
        self.metadata.group().keep_log(is_on);
    }

    fn judge(&self) {
        let voters: Vec<NodeId> = self.metadata.voters();
        match self.metadata.peek(|view| cluster::verdict(view, &voters)) {
            Verdict::Agrees => self.alarm(false),
            Verdict::Diverged { index } => {
                tracing::error!(
                    index,
                    "this node's state differs from the majority's: stopping. The next start takes another node's state; \
                     this one is kept beside it (`state.rotten`) for whoever looks for the cause"
                );
                if let Err(error) = self.metadata.group().condemn_state(&format!("it diverged before entry {index}")) {
                    tracing::error!(%error, "that can't be noted: it stops again after the next start");
                }
                std::process::abort();
            }
            Verdict::NoMajority { index } => {
                self.alarm(true);
                tracing::error!(
                    index,
                    "the voters' states differ and none has a majority: the log is kept whole from now on; keep every \
                     node's disk"
                );
            }
        }
    }
}

impl Reconciler for StateDigest {
    fn name(&self) -> &'static str {
        "state_digest"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().digests())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            self.judge();
            let (own, index) = self.metadata.peek(|view| (cluster::own_digest(view), view.index()));
            let asked_at = own.map_or(0, |note| note.index);
            if let Some(note) = own
                && *self.reported.lock() != Some(note)
            {
                let report = ReportDigest { node: self.node, note };
                return match self.metadata.propose(&self.principal, vec![report.into()]).await {
                    Ok(_) => {
                        *self.reported.lock() = Some(note);
                        Step { done: 1, failed: 0, more: false }
                    }
                    Err(_) => Step { done: 0, failed: 1, more: false },
                };
            }
            if self.metadata.leadership().is_leader && index.saturating_sub(asked_at) >= ENTRIES_BETWEEN {
                return match self.metadata.propose(&self.principal, vec![TakeDigest {}.into()]).await {
                    Ok(_) => Step { done: 1, failed: 0, more: false },
                    Err(_) => Step { done: 0, failed: 1, more: false },
                };
            }
            Step::IDLE
        })
    }
}
