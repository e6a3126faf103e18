//! Follows other regions from the leader, and trims the stream of changes that are made here.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::metadata::parked::ParkedId;
use registry_core::metadata::{clock, outbox};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};
use tokio::sync::watch;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;
use crate::replication::Replication;
pub use crate::replication::{
    Arrival, ComparisonReport, ComparisonState, Found, ImageStatus, Retried, SampleReport, SourceState,
};

/// Slots looked at in one step, and trimmed by one proposal.
const SLOTS_PER_STEP: Slot = 64;

/// Where this node stands with the regions that it follows, for operators.
#[derive(Clone, Debug)]
pub struct Links(pub Replication);

impl Links {
    /// By the region's number; empty where another node leads.
    pub fn states(&self) -> Vec<(u16, SourceState)> {
        self.0.states()
    }

    /// What comparing with them found, by the region's number; empty where another node leads.
    pub fn comparisons(&self) -> Vec<(u16, ComparisonState)> {
        self.0.comparisons()
    }

    /// Compares everything with a region as soon as may be; whether this node follows it.
    pub fn compare(&self, number: u16) -> bool {
        self.0.compare(number)
    }

    /// What has become of an image in the regions that rules send it to; `None` if there is no such image here.
    pub async fn image(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Vec<ImageStatus>>, Refusal> {
        self.0.image(name, digest).await
    }

    /// Tries some of the changes of a region that were put aside, behind one of them; `None` if this node does not
    /// follow it.
    pub async fn retry_parked(&self, number: u16, after: Option<ParkedId>) -> Option<Retried> {
        self.0.retry_parked(number, after).await
    }
}

/// Leader's job: sees to it that every other region is followed, with what is known of it now.
#[derive(Debug)]
pub struct FollowRegions {
    metadata: Metadata,
    replication: Replication,
}

impl FollowRegions {
    /// For this node.
    pub fn new(metadata: Metadata, replication: Replication) -> FollowRegions {
        FollowRegions { metadata, replication }
    }
}

impl Reconciler for FollowRegions {
    fn name(&self) -> &'static str {
        "follow_regions"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().regions())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            match self.metadata.leadership().is_leader {
                true => self.replication.follow(),
                false => self.replication.rest(),
            }
            Step::IDLE
        })
    }
}

/// Leader's job: removes changes that every destination has applied, and those that nobody took for too long.
#[derive(Debug)]
pub struct TrimOutbox {
    metadata: Metadata,
    principal: String,
    /// Where the next step looks.
    next: AtomicU16,
}

impl TrimOutbox {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> TrimOutbox {
        TrimOutbox { metadata, principal, next: AtomicU16::new(0) }
    }

    fn due(&self, first: Slot) -> Vec<outbox::TrimOutbox> {
        let registry = RegistryId::DEFAULT;
        self.metadata.peek(|view| {
            let (seen, now_ms) = (outbox::seen_by_all(view, registry), clock::read(view).now_ms);
            let due = |slot: Slot| outbox::due(view, slot, registry, seen, now_ms);
            (first..SLOTS.min(first + SLOTS_PER_STEP)).filter_map(due).collect()
        })
    }
}

impl Reconciler for TrimOutbox {
    fn name(&self) -> &'static str {
        "trim_outbox"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            if !self.metadata.leadership().is_leader {
                return Step::IDLE;
            }
            let first = self.next.load(Ordering::Relaxed);
            let due = self.due(first);
            if due.is_empty() {
                let next = (first + SLOTS_PER_STEP) % SLOTS;
                self.next.store(next, Ordering::Relaxed);
                return Step { more: next != 0, ..Step::IDLE };
            }
            let done = due.len() as u64;
            match self.metadata.propose(&self.principal, due.into_iter().map(Into::into).collect()).await {
                Ok(_) => Step { done, failed: 0, more: true },
                Err(error) => {
                    tracing::warn!(%error, "the stream of changes could not be trimmed; it is tried again");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}
