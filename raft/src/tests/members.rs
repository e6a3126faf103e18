//! Joining, promoting, leaving, handing over.

use std::time::Duration;

use super::identity::stranger;
use crate::ChangeError;
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::testing::{Cluster, PATIENCE, add, eventually};

fn id(cluster: &Cluster, at: usize) -> u64 {
    cluster.nodes[at].config.node_id
}

// Leadership goes where it is told, whichever node is asked; to a stranger it doesn't.
#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start(3, |_| {}).await;
    for to in [1, 2, 0] {
        let asked = cluster.follower().await;
        cluster.group(asked).transfer_leader(id(&cluster, to), PATIENCE).await.unwrap();
        assert_eq!(cluster.leader().await, to);
        cluster.group(asked).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    let stranger = cluster.group(0).transfer_leader(99, PATIENCE).await;
    assert!(matches!(stranger, Err(ChangeError::Rejected(_))), "{stranger:?}");
}

// A voter that does not answer is not handed leadership, and writes go on meanwhile: handing it over would have cost an
// election.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_voter_does_not_take_over() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let (leader, silent) = (cluster.leader().await, cluster.follower().await);
    let to = id(&cluster, silent);
    cluster.kill(silent).await;
    // its last answers are forgotten when no election could have begun since
    tokio::time::sleep(Duration::from_millis(cluster.nodes[leader].config.timing.election_min_ms)).await;
    let term = cluster.group(leader).status().term;
    let transfer = cluster.group(leader).transfer_leader(to, PATIENCE);
    let write = cluster.group(leader).propose(add("x", 1), Duration::from_millis(200));
    let (transferred, written) = tokio::join!(transfer, write);
    assert!(
        matches!(&transferred, Err(ChangeError::Rejected(why)) if why.contains("does not answer")),
        "{transferred:?}"
    );
    written.unwrap();
    assert_eq!((cluster.leader().await, cluster.group(leader).status().term), (leader, term));
    cluster.restart(silent).await.unwrap();
    cluster.converge().await;
    cluster.group(leader).transfer_leader(to, PATIENCE).await.unwrap();
    assert_eq!(cluster.leader().await, silent);
}

/// The engine tells who the members are a moment after it has taken them on.
async fn members_are(cluster: &Cluster, at: usize, voters: &[u64], learners: &[u64]) {
    let is_told = || {
        let status = cluster.group(at).status();
        status.voters == voters && status.learners == learners
    };
    eventually(&format!("the voters are {voters:?}, the learners {learners:?}"), is_told).await;
}

// A new node joins through any member, is fed, is made a voter, counts, and is removed; a former one takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_leaves() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for _ in 0..50 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    let new = cluster.add_node().await;
    let seed = cluster.member(cluster.follower().await).raft_addr;
    cluster.group(new).join(vec!["127.0.0.1:1".into(), seed], cluster.member(new), PATIENCE).await.unwrap();
    cluster.converge().await;
    members_are(&cluster, new, &[1, 2, 3], &[4]).await;
    assert_eq!(cluster.machine(new).get("x"), 50);

    cluster.promote(new, &[1, 2, 4]).await;
    members_are(&cluster, cluster.leader().await, &[1, 2, 4], &[3]).await;
    // without node 2 the new voter is needed
    cluster.group(0).transfer_leader(1, PATIENCE).await.unwrap();
    cluster.kill(1).await;
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    cluster.restart(1).await.unwrap();

    cluster.group(1).remove(3, PATIENCE).await.unwrap();
    cluster.group(1).remove(4, PATIENCE).await.unwrap();
    cluster.group(1).remove(4, PATIENCE).await.unwrap();
    members_are(&cluster, cluster.leader().await, &[1, 2], &[]).await;
    cluster.kill(2).await;
    cluster.kill(3).await;
    cluster.group(1).propose(add("x", 1), PATIENCE).await.unwrap();
    cluster.converge().await;
}

// Who was removed stays out: nobody who applied it listens to its votes and entries any more, after a restart neither,
// and its id does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_member_stays_out() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let gone = cluster.follower().await;
    cluster.group(leader).remove(id(&cluster, gone), PATIENCE).await.unwrap();
    cluster.kill(gone).await;
    cluster.converge().await;
    let other = cluster.follower().await;
    cluster.kill(other).await;
    cluster.restart(other).await.unwrap();
    cluster.leader().await;
    let net = stranger(0xC1, 7, id(&cluster, gone));
    let vote = crate::types::Vote::new(1000, id(&cluster, gone));
    for at in [leader, other] {
        let (to, addr) = (id(&cluster, at), cluster.member(at).raft_addr);
        for kind in [kind::VOTE, kind::PRE_VOTE, kind::HELLO, kind::JOIN] {
            let question = (kind, wire::vote_request(&openraft::raft::VoteRequest::new(vote, None)));
            let answer = net.call((to, &addr), Class::Pulse, question, PATIENCE).await;
            assert_eq!(answer.unwrap_err().code(), tonic::Code::PermissionDenied, "kind {kind} at {at}");
        }
    }
    let again = cluster.group(other).add_learner(cluster.member(gone), PATIENCE).await;
    assert!(matches!(again, Err(ChangeError::Rejected(_))), "{again:?}");
    cluster.group(other).propose(add("x", 1), PATIENCE).await.unwrap();
}

// Who was removed is told so when it would join again under its old id, and not left to try until its time is up.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_told() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    let new = cluster.add_node().await;
    let seed = cluster.member(0).raft_addr;
    cluster.group(new).join(vec![seed.clone()], cluster.member(new), PATIENCE).await.unwrap();
    cluster.converge().await;
    cluster.group(0).remove(id(&cluster, new), PATIENCE).await.unwrap();
    members_are(&cluster, 0, &[1], &[]).await;
    cluster.kill(new).await;
    std::fs::remove_dir_all(cluster.node_dir(new)).unwrap();
    cluster.restart(new).await.unwrap();
    let refused = cluster.group(new).join(vec![seed], cluster.member(new), PATIENCE).await;
    let Err(ChangeError::Rejected(why)) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("was removed"), "{why}");
}

// A node that lags is not made a voter: the quorum would be weaker until it has caught up.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_node_is_not_promoted() {
    let mut cluster = Cluster::start(1, |config| config.limits.promotion_lag = 0).await;
    let new = cluster.add_node().await;
    let member = cluster.member(new);
    cluster.kill(new).await;
    cluster.group(0).add_learner(member, PATIENCE).await.unwrap();
    let promoted = cluster.group(0).change_voters([1, 2], PATIENCE).await;
    assert!(matches!(promoted, Err(ChangeError::Rejected(_))), "{promoted:?}");
    cluster.restart(new).await.unwrap();
    cluster.has_all(0, new).await;
    cluster.group(0).change_voters([1, 2], PATIENCE).await.unwrap();
}

// A change of the voters that broke off between its two steps is finished by the leader. Until then the vote of the new
// one does not count for everything, and it is not told that it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_broke_off_is_finished() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    let new = cluster.add_node().await;
    let seed = cluster.member(0).raft_addr;
    cluster.group(new).join(vec![seed], cluster.member(new), PATIENCE).await.unwrap();
    cluster.converge().await;
    cluster.kill(new).await;
    // the first step needs the new voter, which is dead: who asks goes away before the second
    let asked = cluster.group(0).change_voters([1, 2], Duration::from_millis(500)).await;
    assert_eq!(asked, Err(ChangeError::Unknown));
    assert_eq!(cluster.group(0).status().voters, [1]);
    cluster.restart(new).await.unwrap();
    let leader = cluster.group(0).clone();
    eventually("both vote", move || leader.status().voters == [1, 2]).await;
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    cluster.converge().await;
}

// The leader itself can be removed; another one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_removed() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    cluster.group(other).remove(id(&cluster, leader), PATIENCE).await.unwrap();
    let watched = cluster.group(other).clone();
    let gone = id(&cluster, leader);
    eventually("another leads", move || watched.status().leader.is_some_and(|now| now != gone)).await;
    cluster.kill(leader).await;
    cluster.group(other).propose(add("x", 1), PATIENCE).await.unwrap();
}
