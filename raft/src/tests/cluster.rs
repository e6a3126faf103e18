//! Electing, proposing, reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::testing::{Cluster, PATIENCE, add, value};
use crate::{InitializeError, State};

// Three nodes elect one leader; a proposal on any node is applied once, everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_replicate() {
    let cluster = Cluster::start(3, |_| {}).await;
    for at in 0..3 {
        let proposed = cluster.group(at).propose(add("x", 5), PATIENCE).await.unwrap();
        assert_eq!(value(&proposed.reply), 5 * (at as u64 + 1));
    }
    cluster.converge().await;
    let leaders = (0..3).filter(|at| cluster.group(*at).status().state == State::Leader).count();
    assert_eq!(leaders, 1);
    for at in 0..3 {
        assert_eq!(cluster.machine(at).get("x"), 15);
    }
}

// A linearizable read on any node sees what was acknowledged on another before it began.
#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_was_acknowledged() {
    let cluster = Cluster::start(3, |_| {}).await;
    for round in 1..=30_u64 {
        let writer = (round % 3) as usize;
        let proposed = cluster.group(writer).propose(add("x", 1), PATIENCE).await.unwrap();
        for reader in 0..3 {
            let index = cluster.group(reader).linearize(PATIENCE).await.unwrap();
            assert!(index >= proposed.index);
            assert_eq!(cluster.machine(reader).get("x"), round, "node {reader} answers an old state");
        }
    }
    for at in 0..3 {
        assert!(cluster.group(at).confirmed_age_ms() < 20_000, "a node that has just read knows that it is fresh");
    }
}

// The same with writers and readers at once while leadership moves: no read misses a write acknowledged before it.
#[tokio::test(flavor = "multi_thread")]
async fn reads_stay_linearizable_while_leaders_change() {
    let cluster = Cluster::start(3, |_| {}).await;
    let (acknowledged, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for at in 0..3 {
        let running = cluster.nodes[at].running.clone().unwrap();
        let (acknowledged, done) = (acknowledged.clone(), done.clone());
        let writer = running.group.clone();
        let written = acknowledged.clone();
        let ended = done.clone();
        tasks.push(tokio::spawn(async move {
            while !ended.load(Ordering::Acquire) {
                if let Ok(proposed) = writer.propose(add("x", 1), Duration::from_secs(5)).await {
                    written.fetch_max(value(&proposed.reply), Ordering::AcqRel);
                }
            }
        }));
        tasks.push(tokio::spawn(async move {
            while !done.load(Ordering::Acquire) {
                let before = acknowledged.load(Ordering::Acquire);
                if running.group.linearize(Duration::from_secs(5)).await.is_ok() {
                    let seen = running.machine.get("x");
                    assert!(seen >= before, "a read saw {seen} after {before} was acknowledged");
                }
            }
        }));
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let to = cluster.follower().await;
        let id = cluster.nodes[to].config.node_id;
        cluster.group(to).transfer_leader(id, PATIENCE).await.unwrap();
    }
    done.store(true, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(acknowledged.load(Ordering::Acquire) > 10, "hardly anything was written");
    cluster.converge().await;
}

// A copy of a proposal is told where the first one took effect, whichever node asks.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_told_where_the_first_one_is() {
    let cluster = Cluster::start(3, |_| {}).await;
    let first = cluster.group(0).propose(add("once/x", 7), PATIENCE).await.unwrap();
    for at in 0..3 {
        let next = cluster.group(at).propose(add("x", 1), PATIENCE).await.unwrap();
        assert!(next.index > first.index);
        assert_eq!(cluster.group(at).propose(add("once/x", 7), PATIENCE).await.unwrap(), first);
    }
}

// One node is a cluster, and a cluster is founded once.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_a_cluster() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    let again = cluster.group(0).initialize(cluster.member(0)).await;
    assert_eq!(again, Err(InitializeError::Exists));
    cluster.kill(0).await;
    cluster.restart(0).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.machine(0).get("x"), 1);
    let before = cluster.machine(0).chain();
    let proposed = cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    assert_eq!(value(&proposed.reply), 2, "entries were applied twice or lost; before: {before:?}");
}

// Entries carry the leader's clock; one proposal too large or one too many is refused, not queued.
#[tokio::test(flavor = "multi_thread")]
async fn proposals_are_bounded() {
    let cluster = Cluster::start(1, |config| {
        config.limits.proposal_bytes = 100;
        config.limits.proposals = 0;
        config.clock = Arc::new(|| 1234);
    })
    .await;
    let busy = cluster.group(0).propose(add("x", 1), PATIENCE).await;
    assert_eq!(busy, Err(crate::ProposeError::Busy));
    let cluster = Cluster::start(1, |config| config.limits.proposal_bytes = 100).await;
    let large = cluster.group(0).propose(add(&"x".repeat(200), 1), PATIENCE).await;
    assert_eq!(large, Err(crate::ProposeError::Unavailable));
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
}
