//! One node of many goes on alone, in a new life of the log.

use std::time::Duration;

use bytes::Bytes;
use std::sync::Arc;

use super::suspect::{cut, flip, without_state};
use crate::testing::{Cluster, Counters, PATIENCE, add, eventually};
use crate::{ChangeError, GroupConfig, Member, NewLife, RecoverError, StateMachine};

const LIFE: NewLife = NewLife { lineage: 8, payload: Bytes::new(), at_ms: 0 };

fn life() -> NewLife {
    NewLife { payload: add("life", 1), ..LIFE }
}

/// Runs work on the machine of a stopped node.
async fn on_machine<R: Send + 'static>(
    cluster: &Cluster,
    at: usize,
    work: impl FnOnce(Arc<Counters>) -> R + Send + 'static,
) -> R {
    let dir = cluster.state_dir(at);
    tokio::task::spawn_blocking(move || work(Arc::new(Counters::open(&dir).unwrap()))).await.unwrap()
}

async fn recover(cluster: &Cluster, at: usize) -> crate::Survey {
    let dir = cluster.nodes[at].config.dir.clone();
    on_machine(cluster, at, move |machine| crate::recover(&dir, machine, &life()).unwrap()).await
}

// Two of three are gone for good. The third tells what is lost, and goes on with all it has, also what it does not know
// to be committed; the former nodes are kept out, and new ones join the new life.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_goes_on() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for _ in 0..10 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    let left = cluster.leader().await;
    let gone: Vec<usize> = (0..3).filter(|at| *at != left).collect();
    // what it has heard of the others is kept once a second
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for at in &gone {
        cluster.kill(*at).await;
    }
    // it reaches the log of the leader alone: nobody knows what becomes of it
    let group = cluster.group(left).clone();
    let offered = tokio::spawn(async move { group.propose(add("x", 1), Duration::from_millis(300)).await });
    offered.await.unwrap().unwrap_err();
    let last = cluster.group(left).status().last_log_index;
    cluster.kill(left).await;

    let dir = cluster.nodes[left].config.dir.clone();
    let before = crate::files::walk(&dir).unwrap();
    let looked = on_machine(&cluster, left, move |machine| crate::survey(&dir, machine.meta().unwrap()).unwrap()).await;
    assert_eq!(crate::files::walk(&cluster.nodes[left].config.dir).unwrap(), before, "looking changed something");
    assert_eq!((looked.lineage, looked.last.map(|last| last.index)), (7, last));
    assert_eq!(looked.others.iter().filter(|other| other.votes && other.acknowledged.is_some()).count(), 2);
    assert_eq!(looked.ahead().count(), 0, "{looked:?}");
    assert_eq!(recover(&cluster, left).await, looked);

    cluster.restart(left).await.unwrap();
    assert_eq!(cluster.leader().await, left);
    let group = cluster.group(left).clone();
    assert_eq!((group.lineage(), group.status().voters.len(), group.status().members.len()), (8, 1, 1));
    assert_eq!((cluster.machine(left).get("x"), cluster.machine(left).get("life")), (11, 1));
    group.propose(add("x", 1), PATIENCE).await.unwrap();

    // the others live: two of three, they are a majority of the life before, and it does not touch the new one
    for at in &gone {
        cluster.restart(*at).await.unwrap();
    }
    let seed = cluster.member(left).raft_addr;
    let refused =
        cluster.group(gone[0]).join(vec![seed.clone()], cluster.member(gone[0]), Duration::from_secs(3)).await;
    assert!(matches!(refused, Err(ChangeError::Rejected(_) | ChangeError::Unknown)), "{refused:?}");
    assert_eq!(group.status().members.len(), 1);
    for at in &gone {
        cluster.kill(*at).await;
    }
    join_as_new(&mut cluster, gone[0], &seed).await;
    cluster.converge().await;
    assert_eq!((cluster.machine(gone[0]).get("x"), cluster.machine(gone[0]).get("life")), (12, 1));
    // once more, from the joined life on
    cluster.kill(gone[0]).await;
    cluster.restart(gone[0]).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.group(gone[0]).lineage(), 8);
}

/// The way back of a node of a former life.
async fn join_as_new(cluster: &mut Cluster, at: usize, seed: &str) {
    std::fs::remove_dir_all(cluster.node_dir(at)).unwrap();
    cluster.nodes[at].config.node_id += 100;
    cluster.restart(at).await.unwrap();
    cluster.group(at).join(vec![seed.to_owned()], cluster.member(at), PATIENCE).await.unwrap();
}

// A majority is suspect and stays down; the operator accepts the loss on one of them. What the damage has left is
// there.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_goes_on_when_told() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for _ in 0..20 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    for at in 0..3 {
        cluster.kill(at).await;
    }
    flip(&cluster.node_dir(0));
    without_state(&cluster.node_dir(0));
    cut(&cluster.node_dir(1));
    // before it was ever started with the damage, and after
    let looked = recover(&cluster, 0).await;
    assert!(looked.damaged && looked.applied.is_none() && looked.last.is_some(), "{looked:?}");
    cluster.restart(0).await.unwrap();
    cluster.leader().await;
    assert!((1..20).contains(&cluster.machine(0).get("x")));
    assert_eq!(cluster.group(0).status().suspicion, None);

    cluster.restart(1).await.unwrap();
    assert!(cluster.group(1).status().suspicion.is_some());
    cluster.kill(1).await;
    let looked = recover(&cluster, 1).await;
    assert!(looked.suspicion.is_some(), "{looked:?}");
    cluster.restart(1).await.unwrap();
    let group = cluster.group(1).clone();
    eventually("it leads", move || group.watch_leader().borrow().is_self_ready).await;
    assert_eq!(cluster.machine(1).get("x"), 20, "its state had all");
}

// A recovery that broke off between its steps neither votes nor leads, and is finished by running it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_off_recovery_is_repeated() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    cluster.kill(0).await;
    let suspicion = Some(crate::Suspicion { why: crate::Why::Short, recorded: None });
    crate::identity::rewrite(&cluster.nodes[0].config.dir, |identity| {
        (identity.lineage, identity.suspicion) = (99, suspicion);
    })
    .unwrap();
    cluster.restart(0).await.unwrap();
    assert!(cluster.group(0).propose(add("x", 1), Duration::from_secs(2)).await.is_err());
    cluster.kill(0).await;
    recover(&cluster, 0).await;
    cluster.restart(0).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.machine(0).get("x"), 1);
}

// A state from elsewhere is the beginning of a new cluster: a node with an empty directory leads it, others join.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_begins_a_new_life() {
    let mut cluster = Cluster::start(1, |config: &mut GroupConfig| config.limits.snapshot_every = 10).await;
    for _ in 0..50 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    let copy = cluster.node_dir(0).join("copy");
    cluster.machine(0).checkpoint(&copy).unwrap();
    let new = cluster.add_node().await;
    cluster.kill(0).await;
    cluster.kill(new).await;
    let (dir, me) = (cluster.nodes[new].config.dir.clone(), cluster.member(new));
    let used = {
        let (dir, me) = (dir.clone(), me.clone());
        on_machine(&cluster, new, move |machine| crate::restore(&dir, 0xC1, me, machine, &life())).await
    };
    assert!(matches!(used, Err(RecoverError::InUse(_))), "{used:?}");
    std::fs::remove_dir_all(&dir).unwrap();
    on_machine(&cluster, new, move |machine: Arc<Counters>| {
        machine.install(&copy).unwrap();
        crate::restore(&dir, 0xC1, me, machine, &life()).unwrap();
    })
    .await;
    cluster.restart(new).await.unwrap();
    assert_eq!(cluster.leader().await, new);
    assert_eq!((cluster.machine(new).get("x"), cluster.machine(new).get("life")), (50, 1));
    let members: Vec<Member> = cluster.group(new).status().members;
    assert_eq!(members, [cluster.member(new)]);
    let seed = cluster.member(new).raft_addr;
    join_as_new(&mut cluster, 0, &seed).await;
    cluster.converge().await;
    assert_eq!(cluster.machine(0).get("x"), 50);
}
