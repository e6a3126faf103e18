//! Makes recorded wishes true: reconcilers, one per file, and the driver that wakes them.
//!
//! A reconciler takes no input: it reads rows, does one bounded step, and is woken by a signal or a timer, so that a
//! lost signal costs time and nothing else. Never answers a request. Start at [`driver`].

pub mod clock_tick;
pub mod collect_garbage;
pub mod compact_packs;
pub mod driver;
pub mod drop_replicas;
pub mod forget_uploads;
pub mod free_files;
pub mod free_stagings;
pub mod migrate_slots;
mod pace;
pub mod promote_voters;
pub mod purge_quarantine;
pub mod purge_repositories;
pub mod rebalance_replicas;
pub mod repair_replicas;
pub mod replicate;
pub mod review_needs;
pub mod scrub_copies;
pub mod settle_uses;
pub mod state_digest;
mod volume;
pub mod watch_nodes;

pub use driver::{Driver, JobStatus, Reconciler, Step};
