//! What rules of replication would copy, counted over all repositories before anybody sets them.

use std::sync::Arc;

use registry_core::decide::replication::rules::Rule;
use registry_core::metadata::dry_run::{Counted, DryRun};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;

use super::Cluster;
use crate::metadata::{Consistency, View};

/// What rules come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesTried {
    /// By destination, in the order of their names.
    pub destinations: Vec<Counted>,
    /// There are more blobs than could be told apart: bytes of some may count more than once.
    pub is_at_most: bool,
}

impl Cluster {
    /// Counts what rules of a registry would copy, and changes nothing. One count at a time on a node, since each holds
    /// the blobs that it has seen; it ends when nobody waits for it.
    ///
    /// Errors: what setting the rules would refuse; `Unavailable` while another count is under way here.
    pub async fn try_replication_rules(&self, registry: RegistryId, rules: Vec<Rule>) -> Result<RulesTried, Refusal> {
        let turn = Arc::clone(&self.dry_runs).try_acquire_owned();
        let _turn = turn.map_err(|_| Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?;
        self.metadata.ready(Consistency::Linearizable).await?;
        let mut run = self.look(move |view| DryRun::begin(view, registry, rules)).await??;
        loop {
            let more;
            (run, more) = self
                .look(move |view| {
                    let more = run.step(view);
                    (run, more)
                })
                .await?;
            if !more {
                break;
            }
        }
        let (destinations, is_at_most) = run.counted();
        Ok(RulesTried { destinations, is_at_most })
    }

    /// Reads rows without holding up what else this thread does.
    async fn look<R: Send + 'static>(&self, look: impl FnOnce(&View<'_>) -> R + Send + 'static) -> Result<R, Refusal> {
        let metadata = self.metadata.clone();
        let looked = tokio::task::spawn_blocking(move || metadata.peek(look)).await;
        looked.map_err(|_| Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })
    }
}
