//! What was deleted from this node's volume, for status and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the process started. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Freed(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    set_aside: AtomicU64,
    waiting: AtomicU64,
    walks: AtomicU64,
}

impl Freed {
    /// Nothing yet.
    pub fn new() -> Freed {
        Freed::default()
    }

    /// Files deleted.
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Bytes of those files.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Files moved to the quarantine because nobody remembered them.
    pub fn quarantined(&self) -> u64 {
        self.0.set_aside.load(Ordering::Relaxed)
    }

    /// Files that were let go and are still here.
    pub fn files_waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Walks over the whole volume.
    pub fn walks(&self) -> u64 {
        self.0.walks.load(Ordering::Relaxed)
    }

    pub(super) fn deleted(&self, size_bytes: u64) {
        self.0.files.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(size_bytes, Ordering::Relaxed);
        metrics::counter!("portolan_gc_freed_files_total", "how" => "deleted").increment(1);
        metrics::counter!("portolan_gc_freed_bytes_total", "how" => "deleted").increment(size_bytes);
    }

    pub(super) fn set_aside(&self, size_bytes: u64) {
        self.0.set_aside.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("portolan_gc_freed_files_total", "how" => "quarantined").increment(1);
        metrics::counter!("portolan_gc_freed_bytes_total", "how" => "quarantined").increment(size_bytes);
    }

    pub(super) fn waiting(&self, files: usize) {
        self.0.waiting.store(files as u64, Ordering::Relaxed);
        metrics::gauge!("portolan_gc_files_waiting").set(files as f64);
    }

    pub(super) fn walked(&self) {
        self.0.walks.fetch_add(1, Ordering::Relaxed);
    }
}
