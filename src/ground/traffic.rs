//! How much clients ask of this node: what works in the background leaves them room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts clients' requests. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<AtomicU64>);

impl Traffic {
    /// A request has come.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests since the start.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
