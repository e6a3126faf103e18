//! Every metric of the program, with what it tells: the help texts of `/metrics`, and the table in
//! `src/docs/metrics.md`.
//!
//! A metric that is not listed here fails a test, and so does one whose name does not end with its unit (`_seconds`,
//! `_bytes`, `_index`, a plain count) or `_total`. Labels come from short lists of ours, never from a client (H12).

use metrics::Unit;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Kind, name, labels beside `node` and `zone`, what it tells.
pub type Metric = (Kind, &'static str, &'static [&'static str], &'static str);

use Kind::{Counter, Gauge, Histogram};

/// All of them, by room.
pub const METRICS: &[Metric] = &[
    // the process
    (Gauge, "process_resident_memory_bytes", &[], "Memory of this process that is in RAM."),
    (Gauge, "process_cpu_seconds", &[], "Processor time of this process, user and system, since its start."),
    (Gauge, "process_open_fds", &[], "Open file descriptors of this process."),
    // the node
    (Gauge, "portolan_build_info", &["version"], "1; the version of this binary is in the label."),
    (Gauge, "portolan_node_ready", &[], "1 when requests may be sent to this node, as /readyz says."),
    (Gauge, "portolan_cluster_nodes", &[], "Registered nodes, without removed ones."),
    (Gauge, "portolan_cluster_zones", &[], "Zones of those nodes: failure domains."),
    (Gauge, "portolan_cluster_voters", &[], "Nodes that vote."),
    (Gauge, "portolan_clock_offset_seconds", &[], "This node's clock less the median of the voters' clocks."),
    (Gauge, "portolan_clock_judged", &[], "1 when that is known: a majority of the voters was heard and agrees."),
    (Gauge, "portolan_state_diverged", &[], "1 when this node's state differs from that of the others; it stops then."),
    (Counter, "portolan_reloads_total", &["name", "result"], "Files that changed on disk, by what became of it."),
    (Gauge, "portolan_tls_not_after_seconds", &["name"], "When the certificate in use ends, as Unix time."),
    (Counter, "portolan_job_done_total", &["job"], "Things that a background job has brought in order."),
    (Counter, "portolan_job_failed_total", &["job"], "Things that a background job will try again."),
    // what is held
    (Gauge, "portolan_usage_bytes", &[], "Bytes that all repositories hold, each distinct blob of one counted once."),
    (Gauge, "portolan_usage_tags", &[], "Tags of all repositories."),
    (Counter, "portolan_quota_refused_total", &[], "Pushes refused because of a quota."),
    (Counter, "portolan_quota_rounds_total", &[], "Times that a quota of a registry was dealt out anew by this node."),
    // consensus
    (Gauge, "portolan_raft_term", &[], "The present term."),
    (Gauge, "portolan_raft_is_leader", &[], "1 when this node leads."),
    (Gauge, "portolan_raft_has_leader", &[], "1 when this node knows who leads."),
    (Gauge, "portolan_raft_applied_index", &[], "The last log entry applied here."),
    (Gauge, "portolan_raft_last_index", &[], "The last log entry here, durable or not."),
    (Gauge, "portolan_raft_confirmed_age_seconds", &[], "How old a read without a round to the leader may be now."),
    (Gauge, "portolan_raft_volume_short", &[], "1 when the volume of the log has less room than raft.reserve."),
    (Histogram, "portolan_raft_log_sync_seconds", &[], "Syncs of the log."),
    (Counter, "portolan_raft_log_synced_writes_total", &[], "Writes of the log that a sync covered."),
    (Histogram, "portolan_raft_apply_seconds", &[], "Batches applied to the state."),
    (Counter, "portolan_raft_applied_entries_total", &[], "Entries applied to the state."),
    (Counter, "portolan_raft_proposals_total", &["outcome"], "Changes offered to the cluster, by how they ended."),
    (Histogram, "portolan_raft_propose_seconds", &[], "Changes offered to the cluster, until they are applied."),
    (Counter, "portolan_raft_read_rounds_total", &["good"], "Rounds that confirmed leadership for reads."),
    (Counter, "portolan_raft_reads_total", &[], "Linearizable reads served by those rounds."),
    (Histogram, "portolan_raft_read_round_seconds", &[], "Rounds that confirmed leadership for reads."),
    (Counter, "portolan_raft_refused_calls_total", &["reason"], "Calls of other nodes that were refused."),
    (Counter, "portolan_raft_snapshots_total", &["what"], "Copies of the state built, sent or installed."),
    (Histogram, "portolan_raft_snapshot_seconds", &["what"], "Copies of the state built, sent or installed."),
    // blobs
    (Gauge, "portolan_blob_volume_total_bytes", &[], "Bytes that the blob volume may use."),
    (Gauge, "portolan_blob_volume_free_bytes", &[], "Bytes that can still be written to it."),
    (Gauge, "portolan_blob_volume_pressure", &[], "What the watermarks say: 0 room, 1 full, 2 no pushes, 3 no copies."),
    (Gauge, "portolan_blob_volume_failed", &[], "1 when the volume takes no writes since an error of the disk."),
    (Gauge, "portolan_blob_uploads_staged", &[], "Uploads whose bytes are staged here."),
    (Gauge, "portolan_blob_pack_bytes", &[], "Bytes of pack segments, which hold small blobs."),
    (Gauge, "portolan_blob_pack_dead_bytes", &[], "Bytes of them that nobody names any more."),
    (Gauge, "portolan_blob_pack_damaged_regions", &[], "Damaged regions of packs found at the start."),
    (Counter, "portolan_blob_stored_total", &["home"], "Copies made durable on this volume, as a file or in a pack."),
    (Counter, "portolan_blob_stored_bytes_total", &["home"], "Bytes of those copies."),
    (Counter, "portolan_blob_quarantined_total", &[], "Copies taken out of service because they were damaged."),
    (
        Gauge,
        "portolan_blob_copies_wanted",
        &[],
        "Copies that this zone lacks and this node makes, when last looked at.",
    ),
    (Gauge, "portolan_cluster_nodes_missed", &[], "Registered nodes that the leader does not hear."),
    (Gauge, "portolan_cluster_nodes_replaced", &[], "Of these, those whose copies are made elsewhere by now."),
    (
        Gauge,
        "portolan_repair_copies_missing",
        &["left"],
        "Copies that zones lack, by how many copies of the blob are left.",
    ),
    (Gauge, "portolan_repair_missing_bytes", &[], "Bytes of the copies that zones lack."),
    (Gauge, "portolan_repair_oldest_seconds", &[], "For how long at least, in ticks, the oldest copy is missing."),
    (Gauge, "portolan_repair_copies_leaving", &[], "Copies that still stand on nodes that are being emptied."),
    (Counter, "portolan_repair_copies_made_total", &[], "Copies that this node has made because its zone lacked them."),
    (Counter, "portolan_repair_bytes_made_total", &[], "Bytes of those copies."),
    (
        Counter,
        "portolan_rebalance_copies_moved_total",
        &[],
        "Copies that moved here: this node held less than its share.",
    ),
    (Counter, "portolan_rebalance_bytes_moved_total", &[], "Bytes of those copies."),
    (Gauge, "portolan_rebalance_left_bytes", &[], "Bytes that are still to move here."),
    (Counter, "portolan_repair_copies_dropped_total", &[], "Copies taken off record by this node as leader."),
    (Counter, "portolan_blob_bad_copies_total", &[], "Copies, here or elsewhere, that could not be used when read."),
    (Counter, "portolan_blob_fetched_bytes_total", &["from"], "Bytes of blobs read, by where the copy was."),
    (Counter, "portolan_blob_fetch_hedges_total", &[], "Reads that asked a second copy because the first was slow."),
    (Counter, "portolan_blob_fetch_failovers_total", &[], "Reads that went on with another copy."),
    (
        Counter,
        "portolan_blob_packs_compacted_total",
        &[],
        "Pack segments rewritten to give back the space of the dead.",
    ),
    (Counter, "portolan_bucket_requests_total", &["request", "outcome"], "Requests to the bucket of blobs."),
    (Counter, "portolan_bucket_sent_bytes_total", &[], "Bytes of blobs sent to the bucket."),
    (Gauge, "portolan_blob_cache_bytes", &[], "Bytes of blobs of the bucket that lie on this volume."),
    (Counter, "portolan_blob_cache_evictions_total", &[], "Blobs taken from this volume because others need the room."),
    (Counter, "portolan_blob_cache_reads_total", &["found"], "Blobs opened, by whether they were on this volume."),
    // other regions
    (Counter, "portolan_nearest_decisions_total", &["reason"], "Pulls of blobs, by why they were sent on or served."),
    (
        Histogram,
        "portolan_nearest_decision_seconds",
        &["asked"],
        "How long that took to decide: by this node, or by another region as well.",
    ),
    (
        Counter,
        "portolan_nearest_links_total",
        &["result"],
        "Clients that were sent here, by what became of them: served, sent back, refused.",
    ),
    (Gauge, "portolan_replication_connected", &["region"], "1 while this node, as leader, follows a region's changes."),
    (Gauge, "portolan_replication_lag_seconds", &["region"], "Age of the oldest change of a region not applied here."),
    (Gauge, "portolan_replication_open", &["region"], "Changes of a region received and not applied here."),
    (Gauge, "portolan_replication_parked", &["region"], "Changes of a region that were put aside, 1000 at most."),
    (Gauge, "portolan_replication_paused", &["region"], "1 while an operator wants nothing taken from a region."),
    (Gauge, "portolan_replication_backfill_left", &["region"], "Records from before its rules that are not here yet."),
    (
        Counter,
        "portolan_replication_fetched_bytes_total",
        &["region"],
        "Bytes of a region's blobs fetched by this node.",
    ),
    (
        Counter,
        "portolan_replication_read_through_total",
        &["result"],
        "Pulls of what had not arrived, by whether its region had it or could not be asked.",
    ),
    (
        Gauge,
        "portolan_replication_divergent_items",
        &["region"],
        "Differences from a region that the last comparison left.",
    ),
    (
        Gauge,
        "portolan_replication_differences_found",
        &["region"],
        "Differences from a region found while it is followed.",
    ),
    (
        Counter,
        "portolan_replication_sampled_total",
        &["region", "result"],
        "Blobs whose copies were to be hashed here and in the region that sends them, by what was found.",
    ),
    (
        Gauge,
        "portolan_replication_last_clean_timestamp_seconds",
        &["region"],
        "When all was found equal to a region last.",
    ),
    // garbage collection
    (
        Counter,
        "portolan_gc_collected_total",
        &["what"],
        "Links, uses and manifests taken away, records condemned and swept; by this node as leader.",
    ),
    (Counter, "portolan_gc_collected_bytes_total", &["what"], "Bytes of those records, one copy of each."),
    (Histogram, "portolan_gc_cycle_seconds", &[], "Cycles of collection."),
    (Gauge, "portolan_gc_held", &[], "1 when the last cycle would have condemned too much, and waits for an operator."),
    (Gauge, "portolan_gc_paused", &[], "1 while an operator keeps collection from running."),
    (Gauge, "portolan_gc_record_bytes", &[], "Bytes of all records, one copy of each, as the last cycle counted them."),
    (Gauge, "portolan_gc_unused_bytes", &[], "Bytes of those that nobody used."),
    (Counter, "portolan_gc_freed_files_total", &["how"], "Files of this volume deleted or moved to the quarantine."),
    (Counter, "portolan_gc_freed_bytes_total", &["how"], "Bytes of those files."),
    (Gauge, "portolan_gc_files_waiting", &[], "Files of this volume that were let go and are still there."),
    (
        Counter,
        "portolan_scrub_copies_total",
        &["result"],
        "Copies on this volume that were verified: good, bad, missing.",
    ),
    (Counter, "portolan_scrub_bytes_total", &[], "Bytes of copies that were read again and were good."),
    // requests
    (Gauge, "portolan_http_connections", &["listener"], "Open connections."),
    (Counter, "portolan_http_connections_refused_total", &["reason"], "Connections refused."),
    (Counter, "portolan_http_connections_closed_total", &["listener", "reason"], "Connections given up."),
    (Counter, "portolan_http_requests_total", &["listener", "route", "method", "status"], "Requests answered."),
    (Histogram, "portolan_http_request_seconds", &["listener", "route", "method"], "Requests, to the last byte."),
    (Counter, "portolan_http_requests_refused_total", &["reason"], "Requests refused before anybody looked at them."),
    (Counter, "portolan_http_responses_broken_total", &["listener"], "Answers that broke off on our side."),
    (Counter, "portolan_http_received_bytes_total", &["listener"], "Bytes of request bodies."),
    (Counter, "portolan_http_sent_bytes_total", &["listener"], "Bytes of answers' bodies."),
    // who is asking
    (Counter, "portolan_auth_refused_total", &["credential"], "Credentials that did not hold."),
    (Counter, "portolan_auth_delayed_total", &[], "Logins that had to wait because of wrong ones before."),
    (Counter, "portolan_auth_throttled_total", &[], "Logins refused because of too many wrong ones before."),
    (Counter, "portolan_auth_denied_total", &[], "Requests of known callers that no policy allows."),
    (Counter, "portolan_auth_tokens_issued_total", &[], "Tokens made by the token service."),
];

/// Tells the recorder what each metric means, and begins those without labels at zero, so that an alert on one that
/// never moved finds it.
pub(super) fn describe() {
    for (kind, name, labels, text) in METRICS {
        let (name, text) = (*name, *text);
        match kind {
            Counter => metrics::describe_counter!(name, unit(name), text),
            Gauge => metrics::describe_gauge!(name, unit(name), text),
            Histogram => metrics::describe_histogram!(name, unit(name), text),
        }
        if labels.is_empty() && *kind == Counter {
            metrics::counter!(name).increment(0);
        }
    }
}

fn unit(name: &str) -> Unit {
    match name.trim_end_matches("_total").rsplit('_').next() {
        Some("seconds") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        Some(_) | None => Unit::Count,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    /// Names of metrics that the sources use.
    fn used() -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = BTreeSet::new();
        for path in ["src", "raft/src"].iter().flat_map(|dir| sources(&root.join(dir))) {
            let is_other = path.extension().is_none_or(|extension| extension != "rs")
                || path.ends_with("metric_list.rs")
                || path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "core");
            if is_other {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for macro_name in ["counter!(", "gauge!(", "histogram!("] {
                for call in code.split(macro_name).skip(1) {
                    let name = call.trim_start().strip_prefix('"').map(|rest| rest.split('"').next().unwrap());
                    names.extend(name.map(str::to_owned));
                }
            }
        }
        names
    }

    // Every metric that the program moves is listed, and none is listed that nobody moves.
    #[test]
    fn all_are_listed() {
        let listed: BTreeSet<String> = METRICS.iter().map(|(_, name, ..)| (*name).to_owned()).collect();
        assert_eq!(listed.len(), METRICS.len(), "a name stands twice");
        assert_eq!(used(), listed);
    }

    // The name says what is counted: counters end in _total, distributions in their unit.
    #[test]
    fn names_carry_units() {
        for (kind, name, labels, text) in METRICS {
            let fits = match kind {
                Counter => name.ends_with("_total"),
                Histogram => name.ends_with("_seconds") || name.ends_with("_bytes"),
                Gauge => !name.ends_with("_total"),
            };
            assert!(fits && text.ends_with('.'), "{name}");
            assert!(name.starts_with("portolan_") || name.starts_with("process_"), "{name}");
            let user_given = ["repository", "tag", "user", "agent", "digest", "path", "principal", "address"];
            assert!(!labels.iter().any(|label| user_given.contains(label)), "{name} (H12)");
        }
    }

    // The document lists them all, with their labels and what they tell.
    #[test]
    fn document_is_complete() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/metrics.md");
        let document = std::fs::read_to_string(path).unwrap();
        for (kind, name, labels, text) in METRICS {
            let labels = labels.join(", ");
            let line = format!("| `{name}` | {} | {labels} | {text} |", format!("{kind:?}").to_lowercase());
            assert!(document.contains(&line), "add to src/docs/metrics.md:\n{line}");
        }
    }
}
