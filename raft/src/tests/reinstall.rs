//! States that are lost or rotten, beside a log that is whole.

use std::fs;

use super::snapshots::write;
use crate::testing::{Cluster, eventually};
use crate::{GroupConfig, StartError};

fn small(config: &mut GroupConfig) {
    config.limits.snapshot_every = 50;
    config.limits.keep_entries = 10;
    config.limits.purge_batch = 1;
}

/// Three nodes with purged logs; one of them is stopped and has lost its state and the copies of it.
async fn without_state() -> (Cluster, usize) {
    let mut cluster = Cluster::start(3, small).await;
    write(&cluster, 0, 300).await;
    cluster.converge().await;
    let victim = cluster.follower().await;
    let group = cluster.group(victim).clone();
    eventually("the log is purged", move || group.status().purged.is_some_and(|purged| purged.index > 100)).await;
    cluster.kill(victim).await;
    fs::remove_dir_all(cluster.state_dir(victim)).unwrap();
    fs::remove_dir_all(cluster.nodes[victim].config.dir.join("snapshots")).unwrap();
    (cluster, victim)
}

// A node whose state is gone gets one from a peer before it starts. Its log is whole, so it never was suspect, and it
// votes at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_fetched() {
    let (mut cluster, victim) = without_state().await;
    let term = cluster.group(cluster.leader().await).status().term;
    cluster.restart(victim).await.unwrap();
    assert_eq!(cluster.group(victim).status().suspicion, None);
    cluster.converge().await;
    assert_eq!(cluster.machine(victim).get("x"), 300);
    assert_eq!(cluster.group(victim).status().term, term, "it took an election");
    let other = (0..3).find(|at| *at != victim).unwrap();
    cluster.kill(other).await;
    write(&cluster, victim, 60).await;
    // it has a copy of its own again: another start needs nobody
    cluster.kill(victim).await;
    cluster.restart(victim).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.machine(victim).get("x"), 360);
}

// A state that somebody has found to be rotten is not used, nor are the copies that share its files; the log beside it
// is, with all that only this node and a dead one have acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_state_is_replaced() {
    let mut cluster = Cluster::start(3, small).await;
    write(&cluster, 0, 300).await;
    cluster.converge().await;
    let lagging = cluster.follower().await;
    cluster.kill(lagging).await;
    let leader = cluster.leader().await;
    write(&cluster, leader, 5).await;
    cluster.converge().await;
    let victim = cluster.follower().await;
    cluster.kill(leader).await;
    cluster.kill(victim).await;
    let raft = cluster.nodes[victim].config.dir.clone();
    crate::condemn(&raft, "a test says so").unwrap();
    assert_eq!(crate::condemned(&raft).unwrap().as_deref(), Some("a test says so"));
    fs::remove_dir_all(cluster.state_dir(victim)).unwrap();
    // the one that lags has a state that is old, and new enough for this log
    cluster.restart(lagging).await.unwrap();
    cluster.restart(victim).await.unwrap();
    assert_eq!(crate::condemned(&raft).unwrap(), None);
    cluster.converge().await;
    for at in [lagging, victim] {
        assert_eq!(cluster.machine(at).get("x"), 305, "what was acknowledged is lost");
    }
}

// With nobody to ask, the node does not start over the gap, and says so at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_of_one_node_is_told() {
    let mut cluster = Cluster::start(1, small).await;
    write(&cluster, 0, 200).await;
    let group = cluster.group(0).clone();
    eventually("the log is purged", move || group.status().purged.is_some()).await;
    cluster.kill(0).await;
    crate::condemn(&cluster.nodes[0].config.dir, "a test says so").unwrap();
    fs::remove_dir_all(cluster.state_dir(0)).unwrap();
    let refused = cluster.restart(0).await;
    assert!(matches!(refused, Err(StartError::Gap { .. })), "{refused:?}");
    assert!(crate::condemned(&cluster.nodes[0].config.dir).unwrap().is_some(), "it is forgotten");
}

// A copy that a peer lends is read whole before it replaces anything: one that is rotten as well is not taken, another
// peer's is.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_copy_is_not_taken() {
    let (mut cluster, victim) = without_state().await;
    let others: Vec<usize> = (0..3).filter(|at| *at != victim).collect();
    let bad = *others.iter().min_by_key(|at| cluster.nodes[**at].config.node_id).unwrap();
    let snapshots = cluster.nodes[bad].config.dir.join("snapshots");
    // a copy that is spoiled while it is made ends its node
    let is_at_rest = || {
        let status = cluster.group(bad).status();
        let behind = status.last_log_index.unwrap() - status.snapshot.map_or(0, |at| at.index);
        behind < 50 && !snapshots.join("building").exists()
    };
    eventually("the last copy is made", is_at_rest).await;
    let tables = crate::files::walk(&snapshots).unwrap().into_iter().filter(|path| path.ends_with(".sst"));
    let mut spoiled = 0;
    for table in tables {
        let path = snapshots.join(table);
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[..length / 3].fill(0x5a);
        // the live state has the same file, and keeps it as it is
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
        spoiled += 1;
    }
    assert!(spoiled > 0, "there is no table to spoil");
    cluster.restart(victim).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.machine(victim).get("x"), 300);
}
