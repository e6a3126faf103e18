//! Whether a node has room for more clients: who could send it some leaves it alone while it has hardly any.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use registry_core::decide::nearest;

/// Whether nearly all connections of clients are taken. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<AtomicBool>);

impl Crowd {
    /// So many connections are taken now, of so many that there may be.
    pub fn note(&self, taken: usize, most: usize) {
        self.0.store(nearest::is_full(taken, most), Ordering::Relaxed);
    }

    /// As it was noted last; not, while nobody listens.
    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
