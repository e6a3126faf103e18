//! Nodes that end, come back, or are alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::testing::{Cluster, PATIENCE, add, slow_syncs};
use crate::{Group, ProposeError, Unavailable};

// The leader ends: the others elect another one, nothing acknowledged is lost, and the former leader catches up.
#[tokio::test(flavor = "multi_thread")]
async fn survives_its_leader() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for _ in 0..20 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    let first = cluster.leader().await;
    cluster.kill(first).await;
    let began = Instant::now();
    let second = cluster.leader().await;
    assert_ne!(first, second);
    eprintln!("a new leader after {:?}", began.elapsed());
    for at in cluster.alive() {
        cluster.group(at).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.restart(first).await.unwrap();
    cluster.converge().await;
    for at in 0..3 {
        assert_eq!(cluster.machine(at).get("x"), 22);
    }
}

// A follower that can't be reached is tried again after a pause, however much there is to send: a leader that knocks
// without one has no time for those that live, and they elect another.
#[tokio::test(flavor = "multi_thread")]
async fn knocks_at_a_dead_follower_with_pauses() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let dead = cluster.follower().await;
    let address = cluster.member(dead).raft_addr;
    cluster.kill(dead).await;
    let door = tokio::net::TcpListener::bind(&address).await.unwrap();
    let knocks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&knocks);
    let doorman = tokio::spawn(async move {
        while door.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let leader = cluster.leader().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        cluster.group(leader).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    // a heartbeat each 100 ms, entries each 200 ms, and some for luck
    let knocks = knocks.load(Ordering::Relaxed);
    assert!((5..120).contains(&knocks), "{knocks} connections in two seconds");
    doorman.abort();
}

// A follower that was away and has a slow disk catches up while proposals go on, and stays near. When each small
// message that the leader could send was on its way at once, a follower with a sync for each of them stayed
// thousands of entries behind, and everybody who asked it waited for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_follower_that_returns_catches_up_under_load() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let (leader, slow) = (cluster.leader().await, cluster.follower().await);
    cluster.kill(slow).await;
    slow_syncs(&cluster.node_dir(slow), Duration::from_millis(10));
    let group = cluster.group(leader).clone();
    let is_over = Arc::new(AtomicBool::new(false));
    let proposers: Vec<_> = (0..PROPOSERS).map(|_| tokio::spawn(propose(group.clone(), is_over.clone()))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.restart(slow).await.unwrap();
    let node = cluster.member(slow).node_id;
    let standing = || {
        let status = group.status();
        (status.last_log_index.unwrap_or(0), status.matched.get(&node).copied().flatten().unwrap_or(0))
    };
    let began = Instant::now();
    let mut near = 0;
    while near < 5 {
        let (before, _) = standing();
        tokio::time::sleep(LAG_MAX).await;
        let (last, matched) = standing();
        assert!(began.elapsed() < PATIENCE, "{} entries behind, {} came in {LAG_MAX:?}", last - matched, last - before);
        near = if matched >= before { near + 1 } else { 0 };
    }
    is_over.store(true, Ordering::Relaxed);
    for proposer in proposers {
        proposer.await.unwrap();
    }
    cluster.converge().await;
}

async fn propose(group: Group, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Relaxed) {
        group.propose(add("x", 1), PATIENCE).await.unwrap();
    }
}

/// Proposals at a time.
const PROPOSERS: u64 = 64;
/// A follower lacks at most what came within this time: twenty of its syncs.
const LAG_MAX: Duration = Duration::from_millis(200);

// All nodes end at once and come back with everything that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn survives_a_restart_of_all() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for round in 1..=3_u64 {
        for _ in 0..10 {
            cluster.group(1).propose(add("x", 1), PATIENCE).await.unwrap();
        }
        for at in 0..3 {
            cluster.kill(at).await;
        }
        for at in 0..3 {
            cluster.restart(at).await.unwrap();
        }
        cluster.converge().await;
        assert_eq!(cluster.machine(2).get("x"), 10 * round);
    }
}

// A node without a quorum answers neither writes nor reads, and says so in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_in_time() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    let alone = cluster.leader().await;
    for at in 0..3 {
        if at != alone {
            cluster.kill(at).await;
        }
    }
    let limit = Duration::from_secs(3);
    let began = Instant::now();
    let proposed = cluster.group(alone).propose(add("x", 1), limit).await;
    assert!(matches!(proposed, Err(ProposeError::Unavailable | ProposeError::Unknown)), "{proposed:?}");
    assert_eq!(cluster.group(alone).linearize(limit).await, Err(Unavailable));
    // its lease is over by now: what it takes no more is certainly not applied
    assert_eq!(cluster.group(alone).propose(add("x", 1), limit).await, Err(ProposeError::Unavailable));
    assert!(began.elapsed() < limit * 3 + Duration::from_secs(3), "it took {:?}", began.elapsed());
}

// A graceful end hands leadership on: the others need no election timeout to take proposals.
#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_end_hands_over() {
    let mut cluster = Cluster::start(3, |config| {
        config.timing.election_min_ms = 4_000;
        config.timing.election_max_ms = 8_000;
    })
    .await;
    let leader = cluster.leader().await;
    let running = cluster.nodes[leader].running.take().unwrap();
    running.group.shutdown().await;
    let began = Instant::now();
    let other = cluster.alive()[0];
    cluster.group(other).propose(add("x", 1), PATIENCE).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "the others waited for an election: {:?}", began.elapsed());
}
