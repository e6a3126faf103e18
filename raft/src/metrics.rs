//! Numbers about consensus for the operator. Names start with `portolan_raft_`; units are the last word.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// One fsync of the log, and how many writes it covered.
pub(crate) fn synced(took: Duration, jobs: usize) {
    histogram!("portolan_raft_log_sync_seconds").record(took);
    counter!("portolan_raft_log_synced_writes_total").increment(jobs as u64);
}

/// A batch was applied.
pub(crate) fn applied(took: Duration, entries: usize, index: u64) {
    histogram!("portolan_raft_apply_seconds").record(took);
    counter!("portolan_raft_applied_entries_total").increment(entries as u64);
    gauge!("portolan_raft_applied_index").set(index as f64);
}

/// A proposal ended, with its outcome in one word.
pub(crate) fn proposed(outcome: &'static str, took: Duration) {
    counter!("portolan_raft_proposals_total", "outcome" => outcome).increment(1);
    histogram!("portolan_raft_propose_seconds").record(took);
}

/// A round of leadership confirmation ended and served so many reads.
pub(crate) fn read_round(served: usize, took: Duration, good: bool) {
    counter!("portolan_raft_read_rounds_total", "good" => if good { "true" } else { "false" }).increment(1);
    counter!("portolan_raft_reads_total").increment(served as u64);
    histogram!("portolan_raft_read_round_seconds").record(took);
}

/// The leader changed, or its term did.
pub(crate) fn leadership(term: u64, leads: bool) {
    gauge!("portolan_raft_term").set(term as f64);
    gauge!("portolan_raft_is_leader").set(if leads { 1.0 } else { 0.0 });
}

/// A call was refused, with the reason in one word.
pub(crate) fn refused(reason: &'static str) {
    counter!("portolan_raft_refused_calls_total", "reason" => reason).increment(1);
}

/// A snapshot was built, sent or installed.
pub(crate) fn snapshot(what: &'static str, took: Duration) {
    counter!("portolan_raft_snapshots_total", "what" => what).increment(1);
    histogram!("portolan_raft_snapshot_seconds", "what" => what).record(took);
}
