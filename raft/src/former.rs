//! Nodes that were members once. An id is never used again, so whoever was seen to leave stays out for good: neither
//! its votes nor its entries count, although its certificate may still be good.
//!
//! A node that was away learns of a removal when it applies it, or installs a state from behind it. Until then it has
//! to listen to whoever has the certificate of a node: it can't tell a former member from one it hasn't heard of yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::Core;
use crate::types::StoredMembership;

/// The former members that this node knows.
#[derive(Debug, Default)]
pub(crate) struct Former {
    ids: Mutex<BTreeSet<u64>>,
    grown: Notify,
}

impl Former {
    /// As kept by an earlier life.
    pub(crate) fn load(&self, ids: impl IntoIterator<Item = u64>) {
        self.ids.lock().extend(ids);
    }

    /// Whether that node has left for good.
    pub(crate) fn contains(&self, node_id: u64) -> bool {
        self.ids.lock().contains(&node_id)
    }

    /// Takes a change of members that was committed.
    pub(crate) fn changed(&self, before: &StoredMembership, after: &StoredMembership) {
        let stays = |id: &u64| after.get_node(id).is_some();
        let left: Vec<u64> = before.nodes().map(|(id, _)| *id).filter(|id| !stays(id)).collect();
        if !left.is_empty() {
            self.ids.lock().extend(left);
            self.grown.notify_one();
        }
    }
}

/// Keeps former members on the disk as they are learned. One that is lost in a power cut is learned again, when its
/// removal is applied again.
pub(crate) async fn keep(core: Arc<Core>) {
    let mut kept = BTreeSet::new();
    loop {
        let now = core.former.ids.lock().clone();
        for id in now.difference(&kept) {
            if core.log.put_former(*id).await.is_err() {
                return;
            }
        }
        kept = now;
        core.former.grown.notified().await;
    }
}
