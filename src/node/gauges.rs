//! What this node is and how full it is, as metrics: looked at every few seconds, never on a request's way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry_core::decide::quota::Usage;
use registry_core::metadata::absence::Stage;
use registry_core::metadata::backfill::BackfillRow;
use registry_core::metadata::census::ZoneNeeds;
use registry_core::metadata::node::NodeState;
use registry_core::metadata::{gc, parked, usage};

use super::Parts;
use crate::blob::store::{BlobStore, Pressure};
use crate::cluster::{ClusterStatus, Healing, Patient};
use crate::ground::telemetry::METRICS_UPKEEP;
use crate::replication::{ComparisonState, SourceState};

/// Changes put aside that are counted, of each region.
const PARKED_COUNTED: usize = 1000;

/// Looks until the node stops.
pub(super) async fn keep(parts: Arc<Parts>) {
    metrics::gauge!("portolan_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::gauge!("portolan_state_diverged").set(0.0);
    while !parts.shutdown.is_requested() {
        cluster(&parts, &parts.cluster.status());
        usage(&parts);
        collection(&parts);
        regions(&parts);
        if let Some(healing) = parts.cluster.healing().await {
            repair(&healing);
        }
        // A stuck disk must not hold up what else is looked at.
        let store = Arc::clone(&parts.store);
        tokio::task::spawn_blocking(move || volume(&*store));
        if let Some(metrics) = &parts.metrics {
            metrics.upkeep();
        }
        tokio::select! {
            () = tokio::time::sleep(METRICS_UPKEEP) => {}
            () = parts.shutdown.requested() => {}
        }
    }
    metrics::gauge!("portolan_node_ready").set(0.0);
}

fn truth(truth: bool) -> f64 {
    if truth { 1.0 } else { 0.0 }
}

fn cluster(parts: &Parts, status: &ClusterStatus) {
    let rows = status.nodes.iter().filter_map(|node| node.row.as_ref());
    let present: Vec<_> = rows.filter(|row| row.state != NodeState::Removed).collect();
    let zones: BTreeSet<&str> = present.iter().map(|row| row.zone.as_str()).collect();
    let voters = status.nodes.iter().filter(|node| node.votes).count();
    metrics::gauge!("portolan_node_ready").set(truth(status.is_ready()));
    metrics::gauge!("portolan_cluster_nodes").set(present.len() as f64);
    metrics::gauge!("portolan_cluster_zones").set(zones.len() as f64);
    metrics::gauge!("portolan_cluster_voters").set(voters as f64);
    metrics::gauge!("portolan_raft_has_leader").set(truth(status.leader.is_some()));
    metrics::gauge!("portolan_raft_last_index").set(status.last_log_index as f64);
    metrics::gauge!("portolan_raft_volume_short").set(truth(parts.group.is_short_of_room()));
    // Before the first confirmation the age is beyond any clock; a day says as much.
    let age_ms = parts.group.confirmed_age_ms().min(86_400_000);
    metrics::gauge!("portolan_raft_confirmed_age_seconds").set(age_ms as f64 / 1000.0);
}

fn usage(parts: &Parts) {
    let Usage { bytes, tags } = parts.metadata.peek(|view| usage::of_all(view));
    metrics::gauge!("portolan_usage_bytes").set(bytes as f64);
    metrics::gauge!("portolan_usage_tags").set(tags as f64);
}

/// From the state, so that a node which led once tells no old news.
fn collection(parts: &Parts) {
    let row = parts.metadata.peek(|view| gc::read(view));
    metrics::gauge!("portolan_gc_paused").set(truth(row.paused));
    metrics::gauge!("portolan_gc_held").set(truth(row.is_held()));
    let tally = row.last.map(|last| last.tally).unwrap_or_default();
    metrics::gauge!("portolan_gc_record_bytes").set(tally.bytes as f64);
    metrics::gauge!("portolan_gc_unused_bytes").set(tally.unused_bytes as f64);
}

/// What another node follows as leader is told by that node; here it is zero.
fn regions(parts: &Parts) {
    let mut followed: BTreeMap<u16, SourceState> = parts.replication.states().into_iter().collect();
    let mut compared: BTreeMap<u16, ComparisonState> = parts.replication.comparisons().into_iter().collect();
    for known in parts.cluster.regions() {
        let state = followed.remove(&known.number).unwrap_or_default();
        let parked = parts.metadata.peek(|view| parked::list(view, known.number, None, PARKED_COUNTED).len());
        let region = || known.row.region.to_string();
        let lag_s = state.lag_ms() as f64 / 1000.0;
        metrics::gauge!("portolan_replication_connected", "region" => region()).set(truth(state.is_connected));
        metrics::gauge!("portolan_replication_lag_seconds", "region" => region()).set(lag_s);
        metrics::gauge!("portolan_replication_open", "region" => region()).set(state.open as f64);
        metrics::gauge!("portolan_replication_parked", "region" => region()).set(parked as f64);
        let unsettled = |row: &BackfillRow| row.total.saturating_sub(row.settled);
        let left = known.backfill.as_ref().filter(|row| row.ended_at_ms.is_none()).map_or(0, unsettled);
        metrics::gauge!("portolan_replication_backfill_left", "region" => region()).set(left as f64);
        metrics::gauge!("portolan_replication_paused", "region" => region()).set(truth(known.link.is_paused));
        let compared = compared.remove(&known.number).unwrap_or_default();
        let left = compared.last.map_or(0, |last| last.drifts - last.repaired);
        let clean_s = compared.clean_at_ms.unwrap_or(0) as f64 / 1000.0;
        metrics::gauge!("portolan_replication_divergent_items", "region" => region()).set(left as f64);
        metrics::gauge!("portolan_replication_differences_found", "region" => region()).set(compared.drifts as f64);
        metrics::gauge!("portolan_replication_last_clean_timestamp_seconds", "region" => region()).set(clean_s);
    }
}

fn repair(healing: &Healing) {
    let sum = |of: fn(&ZoneNeeds) -> u64| healing.zones.iter().map(of).sum::<u64>() as f64;
    metrics::gauge!("portolan_repair_copies_missing", "left" => "none").set(sum(|zone| zone.of_none));
    metrics::gauge!("portolan_repair_copies_missing", "left" => "one").set(sum(|zone| zone.of_one));
    metrics::gauge!("portolan_repair_copies_missing", "left" => "more").set(sum(|zone| zone.of_more));
    metrics::gauge!("portolan_repair_missing_bytes").set(healing.bytes() as f64);
    metrics::gauge!("portolan_repair_oldest_seconds").set(healing.oldest_ms.unwrap_or(0) as f64 / 1000.0);
    let leaving = healing.nodes.iter().filter_map(|node| node.leaving).map(|on| on.copies).sum::<u64>();
    metrics::gauge!("portolan_repair_copies_leaving").set(leaving as f64);
    let stage = |node: &Patient| node.absence.map(|row| row.stage);
    let missed = healing.nodes.iter().filter(|node| stage(node).is_some()).count();
    let replaced = healing.nodes.iter().filter(|node| stage(node) > Some(Stage::Missed)).count();
    metrics::gauge!("portolan_cluster_nodes_missed").set(missed as f64);
    metrics::gauge!("portolan_cluster_nodes_replaced").set(replaced as f64);
}

fn volume(store: &dyn BlobStore) {
    let health = store.health();
    metrics::gauge!("portolan_blob_volume_failed").set(truth(health.failed.is_some()));
    metrics::gauge!("portolan_blob_pack_damaged_regions").set(health.damaged_pack_regions as f64);
    let usage = match store.usage() {
        Ok(usage) => usage,
        Err(error) => {
            tracing::debug!(%error, "how full the blob volume is can't be told");
            return;
        }
    };
    let pressure = match usage.pressure {
        Pressure::None => 0.0,
        Pressure::Full => 1.0,
        Pressure::Refuse => 2.0,
        Pressure::Urgent => 3.0,
    };
    metrics::gauge!("portolan_blob_volume_pressure").set(pressure);
    metrics::gauge!("portolan_blob_volume_total_bytes").set(usage.total_bytes as f64);
    metrics::gauge!("portolan_blob_volume_free_bytes").set(usage.free_bytes as f64);
    metrics::gauge!("portolan_blob_uploads_staged").set(usage.uploads as f64);
    metrics::gauge!("portolan_blob_pack_bytes").set(usage.pack_bytes as f64);
    metrics::gauge!("portolan_blob_pack_dead_bytes").set(usage.pack_dead_bytes as f64);
}
