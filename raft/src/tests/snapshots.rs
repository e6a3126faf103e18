//! Copies of the state: built, purged behind, sent, installed.

use crate::GroupConfig;
use crate::StartError;
use crate::testing::{Cluster, PATIENCE, add, eventually};

fn small(config: &mut GroupConfig) {
    config.limits.snapshot_every = 100;
    config.limits.keep_entries = 20;
    config.limits.purge_batch = 1;
}

/// Adds to a counter so many times at once.
pub(super) async fn write(cluster: &Cluster, at: usize, count: u64) {
    let mut offered = Vec::new();
    for _ in 0..count {
        let group = cluster.group(at).clone();
        offered.push(tokio::spawn(async move { group.propose(add("x", 1), PATIENCE).await }));
    }
    for offer in offered {
        offer.await.unwrap().unwrap();
    }
}

// A node that was away while the log was purged gets a copy of the state, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_node_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, small).await;
    write(&cluster, 0, 10).await;
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let writer = cluster.leader().await;
    write(&cluster, writer, 500).await;
    let leader = cluster.group(writer).clone();
    eventually("the log is purged", move || leader.status().purged.is_some_and(|purged| purged.index > 200)).await;
    cluster.restart(away).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.machine(away).get("x"), 510);
    let group = cluster.group(away).clone();
    let has_copy = move || group.status().snapshot.is_some_and(|copy| copy.index > 200);
    eventually("it has a copy of its own", has_copy).await;
    // it has a copy of its own, and its log goes on after it: a restart finds no gap
    write(&cluster, away, 10).await;
    cluster.kill(away).await;
    cluster.restart(away).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.machine(away).get("x"), 520);
}

// A node that joins a cluster with a purged log is fed from a copy; purging and copying go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_starts_from_a_snapshot() {
    let mut cluster = Cluster::start(1, small).await;
    write(&cluster, 0, 400).await;
    let new = cluster.add_node().await;
    let seed = cluster.member(0).raft_addr;
    cluster.group(new).join(vec![seed], cluster.member(new), PATIENCE).await.unwrap();
    write(&cluster, new, 300).await;
    cluster.converge().await;
    assert_eq!(cluster.machine(new).get("x"), 700);
}

// The log is purged only behind a copy that is complete and durable, and one copy is kept.
#[tokio::test(flavor = "multi_thread")]
async fn purging_stays_behind_the_copy() {
    let cluster = Cluster::start(1, small).await;
    for _ in 0..8 {
        write(&cluster, 0, 60).await;
        let status = cluster.group(0).status();
        assert!(status.purged <= status.snapshot, "{status:#?}");
    }
    let snapshots = cluster.nodes[0].config.dir.join("snapshots");
    let copies = move || {
        let names = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.as_bytes()[0].is_ascii_digit())).count()
    };
    eventually("one copy is kept", move || copies() == 1).await;
}

// While the log is evidence nothing is purged, whatever copies are made; afterwards it is purged again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_log_is_not_purged() {
    let cluster = Cluster::start(1, small).await;
    cluster.group(0).keep_log(true);
    write(&cluster, 0, 400).await;
    let group = cluster.group(0).clone();
    eventually("a copy is made", move || group.status().snapshot.is_some_and(|copy| copy.index > 200)).await;
    assert_eq!(cluster.group(0).status().purged, None);
    cluster.group(0).keep_log(false);
    write(&cluster, 0, 200).await;
    let group = cluster.group(0).clone();
    eventually("the log is purged", move || group.status().purged.is_some()).await;
}

// The live state is lost, the copy is not: the node starts from the copy and the log after it. Without the copy there
// is a gap, and it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_restored_from_the_copy() {
    let mut cluster = Cluster::start(1, small).await;
    write(&cluster, 0, 250).await;
    let group = cluster.group(0).clone();
    eventually("the log is purged", move || group.status().purged.is_some()).await;
    cluster.kill(0).await;
    std::fs::remove_dir_all(cluster.state_dir(0)).unwrap();
    cluster.restart(0).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.machine(0).get("x"), 250);
    cluster.kill(0).await;
    std::fs::remove_dir_all(cluster.state_dir(0)).unwrap();
    std::fs::remove_dir_all(cluster.nodes[0].config.dir.join("snapshots")).unwrap();
    let refused = cluster.restart(0).await;
    assert!(matches!(refused, Err(StartError::Gap { .. })), "{refused:?}");
}
