//! Who may take part, and who may not.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use super::suspect::is_refused;
use crate::identity::Memory;
use crate::network::net::{Class, Net, NetSettings};
use crate::network::wire::{self, Change, Changed, kind};
use crate::testing::{Cluster, PATIENCE, add, eventually};
use crate::{ChangeError, GroupConfig, IdentityError, StartError};

pub(super) fn stranger(cluster_id: u128, lineage: u64, node_id: u64) -> std::sync::Arc<Net> {
    Net::new(NetSettings {
        cluster_id,
        lineage,
        node_id,
        start: 1,
        memory: Memory::default(),
        bind_source: None,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        snapshot_rate: 1,
        append_messages: 2,
    })
}

// Each call is checked for cluster, lineage, addressee and membership before its body is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let cluster = Cluster::start(1, |_| {}).await;
    let addr = cluster.member(0).raft_addr;
    let propose = || (kind::PROPOSE, wire::proposals([add("x", 1)].iter()));
    let vote = || {
        let request = openraft::raft::VoteRequest::new(crate::types::Vote::new(1000, 9), None);
        (kind::VOTE, wire::vote_request(&request))
    };
    let join = || {
        let member = crate::Member { node_id: 8, ..crate::Member::default() };
        (kind::JOIN, wire::join(&member, true))
    };
    let cases = [
        ("another cluster", 0xC2, 7, 9, 1, vote()),
        ("another lineage", 0xC1, 8, 9, 1, vote()),
        ("another addressee", 0xC1, 7, 9, 2, vote()),
        ("a proposal of no member", 0xC1, 7, 9, 1, propose()),
        ("a read of no member", 0xC1, 7, 9, 1, (kind::READ_INDEX, Bytes::new())),
        ("a change by no member", 0xC1, 7, 9, 1, (kind::CHANGE, wire::change(&Change::Remove(1)))),
        ("joining for somebody else", 0xC1, 7, 9, 0, join()),
    ];
    for (name, cluster_id, lineage, from, to, question) in cases {
        let net = stranger(cluster_id, lineage, from);
        let answer = net.call((to, &addr), Class::Forward, question, PATIENCE).await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{name}");
    }
    assert_eq!(cluster.group(0).status().term, cluster.group(0).watch_leader().borrow().term);
    cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    assert_eq!(cluster.machine(0).get("x"), 1);
}

// A directory serves only the node and cluster it was made for, in the life of the log it was used in.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_owner() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    cluster.kill(0).await;
    let wrong: [fn(&mut GroupConfig); 2] = [|config| config.cluster_id = 0xC2, |config| config.node_id = 2];
    for change in wrong {
        let right = cluster.nodes[0].config.clone();
        change(&mut cluster.nodes[0].config);
        let refused = cluster.restart(0).await;
        let foreign = matches!(refused, Err(StartError::Identity(IdentityError::Foreign { .. })));
        assert!(foreign, "{refused:?}");
        cluster.nodes[0].config = right;
    }
    cluster.nodes[0].config.lineage = 8;
    cluster.restart(0).await.unwrap();
    cluster.leader().await;
    assert_eq!(cluster.group(0).lineage(), 7);
}

// Without certificates only loopback is served.
#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_for_loopback() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    cluster.kill(0).await;
    cluster.nodes[0].config.listen = "10.0.0.1:1".parse().unwrap();
    let refused = cluster.restart(0).await;
    assert!(matches!(refused, Err(StartError::Insecure(_))), "{refused:?}");
}

// A directory that was emptied under the same id is neither fed nor asked for its vote by who has fed it.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_takes_no_part() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for _ in 0..10 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    let emptied = cluster.follower().await;
    cluster.kill(emptied).await;
    std::fs::remove_dir_all(cluster.node_dir(emptied)).unwrap();
    cluster.restart(emptied).await.unwrap();
    let group = cluster.group(emptied).clone();
    eventually("it is found out", move || group.status().emptied).await;
    let writer = cluster.leader().await;
    cluster.group(writer).propose(add("x", 1), PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.machine(emptied).get("x"), 0);
    let seed = cluster.member(writer).raft_addr;
    let joined = cluster.group(emptied).join(vec![seed.clone()], cluster.member(emptied), PATIENCE).await;
    assert!(matches!(joined, Err(ChangeError::Rejected(_))), "{joined:?}");
    // nor does a member take it in that it hasn't met yet
    let me = wire::join(&cluster.member(emptied), true);
    let net = stranger(0xC1, 7, cluster.nodes[emptied].config.node_id);
    let told = net.call((0, &seed), Class::Forward, (kind::JOIN, me), PATIENCE).await.unwrap();
    assert!(matches!(wire::read_changed(told), Ok(Changed::Rejected(_))));
    // the way back: out, and in again as somebody else
    cluster.group(writer).remove(cluster.nodes[emptied].config.node_id, PATIENCE).await.unwrap();
    cluster.kill(emptied).await;
    std::fs::remove_dir_all(cluster.node_dir(emptied)).unwrap();
    cluster.nodes[emptied].config.node_id = 9;
    cluster.restart(emptied).await.unwrap();
    cluster.group(emptied).join(vec![seed], cluster.member(emptied), PATIENCE).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.machine(emptied).get("x"), 11);
}

// An emptied directory does not vote even while nobody has met it who remembers it: with a node that lags behind it
// would make a majority that has lost what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_does_not_vote() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let lagging = cluster.follower().await;
    cluster.kill(lagging).await;
    let [first, second] = cluster.alive()[..] else { panic!("three nodes but one") };
    cluster.group(first).propose(add("x", 1), PATIENCE).await.unwrap();
    cluster.kill(first).await;
    cluster.kill(second).await;
    std::fs::remove_dir_all(cluster.node_dir(second)).unwrap();
    cluster.restart(second).await.unwrap();
    cluster.restart(lagging).await.unwrap();
    // as long as several elections take
    let proposed = cluster.group(lagging).propose(add("x", 1), Duration::from_secs(3)).await;
    assert!(is_refused(&proposed), "a majority that has lost what was acknowledged: {proposed:?}");
    assert!(!cluster.group(lagging).status().admitted, "an empty directory vouched for it");
    cluster.restart(first).await.unwrap();
    cluster.kill(second).await;
    cluster.leader().await;
    cluster.converge().await;
    assert_eq!(cluster.machine(lagging).get("x"), 1);
}

// The founder's directory, emptied after a life in which it was never fed. The first entries name it as the only voter:
// fed with them it would elect itself and cut away what the others have acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_founder_takes_no_part() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    let seed = cluster.member(0).raft_addr;
    for _ in 0..2 {
        let new = cluster.add_node().await;
        cluster.group(new).join(vec![seed.clone()], cluster.member(new), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    cluster.promote(0, &[1, 2, 3]).await;
    for _ in 0..10 {
        cluster.group(0).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    cluster.kill(0).await;
    std::fs::remove_dir_all(cluster.node_dir(0)).unwrap();
    cluster.group(1).propose(add("x", 1), PATIENCE).await.unwrap();
    let term = cluster.group(1).status().term;
    cluster.restart(0).await.unwrap();
    let group = cluster.group(0).clone();
    eventually("it is found out", move || group.status().emptied).await;
    cluster.group(1).propose(add("x", 1), PATIENCE).await.unwrap();
    let [status, left] = [cluster.group(1).status(), cluster.group(0).status()];
    assert_eq!((status.term, left.leader), (term, None), "it stood for election");
    // it may have been forwarded, and is applied there first
    let machine = cluster.machine(1);
    eventually("it is applied there too", move || machine.get("x") == 12).await;
    assert_eq!(cluster.machine(0).get("x"), 0);
}

// A started voter neither votes nor takes entries before a majority has answered its hello.
#[tokio::test(flavor = "multi_thread")]
async fn the_gate_waits_for_a_majority() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    for at in 0..3 {
        cluster.kill(at).await;
    }
    cluster.restart(0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!cluster.group(0).status().admitted);
    let net = stranger(0xC1, 7, 2);
    let request = openraft::raft::VoteRequest::new(crate::types::Vote::new(1000, 2), None);
    let question = (kind::VOTE, wire::vote_request(&request));
    let answer = net.call((1, &cluster.member(0).raft_addr), Class::Pulse, question, PATIENCE).await;
    assert!(answer.is_err(), "it voted: {answer:?}");
    cluster.restart(1).await.unwrap();
    cluster.leader().await;
    assert!(cluster.group(0).status().admitted && cluster.group(1).status().admitted);
}
