//! Nodes that have lost what they acknowledged: they do not vote, lose nothing for others, and come back by themselves.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::Code;

use super::identity::stranger;
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::testing::{Cluster, PATIENCE, add, eventually};
use crate::types::{Position, Vote};
use crate::{ProposeError, Proposed, State, Why};

/// As long as several elections take.
const ELECTIONS: Duration = Duration::from_secs(3);

/// What happens to a directory of a stopped node.
type Damage = fn(&Path);

fn write_ahead_log(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("raft/log")).unwrap().map(|entry| entry.unwrap().path());
    let filled =
        |path: &PathBuf| path.extension().is_some_and(|kind| kind == "log") && fs::metadata(path).unwrap().len() > 0;
    files.filter(filled).max().unwrap()
}

/// A bit flips in the middle of the log.
pub(super) fn flip(dir: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(write_ahead_log(dir)).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The end of the log is gone.
pub(super) fn cut(dir: &Path) {
    let file = OpenOptions::new().write(true).open(write_ahead_log(dir)).unwrap();
    file.set_len(file.metadata().unwrap().len() * 2 / 3).unwrap();
}

/// The end of the log is gone, and so is what the node noted of it: only others can tell.
fn cut_unnoticed(dir: &Path) {
    cut(dir);
    fs::remove_file(dir.join("raft/log.bound")).unwrap();
}

/// Whatever the state has applied is lost with the log.
pub(super) fn without_state(dir: &Path) {
    fs::remove_dir_all(dir.join("state")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in crate::files::walk(from).unwrap() {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&path), target).unwrap();
    }
}

async fn add_some(cluster: &Cluster, at: usize, count: u64) {
    for _ in 0..count {
        cluster.group(at).propose(add("x", 1), PATIENCE).await.unwrap();
    }
}

/// Nobody says that it was applied. At the end of its time it may just be under way to a node that used to lead.
pub(super) fn is_refused(proposed: &Result<Proposed, ProposeError>) -> bool {
    matches!(proposed, Err(ProposeError::Unavailable | ProposeError::Unknown))
}

async fn trusted_again(cluster: &Cluster, at: usize) {
    let group = cluster.group(at).clone();
    let is_trusted = move || group.status().suspicion.is_none() && group.status().admitted;
    eventually("it is trusted again", is_trusted).await;
}

// A follower whose log is damaged, cut, or cut without a trace, with the state or without, comes back by itself with
// all that was acknowledged; then it is needed, and does what is needed of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_node_comes_back_by_itself() {
    let damages: [(&str, Damage); 3] = [("flip", flip), ("cut", cut), ("cut unnoticed", cut_unnoticed)];
    for (name, damage) in damages {
        for keeps_state in [true, false] {
            let mut cluster = Cluster::start(3, |_| {}).await;
            add_some(&cluster, 0, 30).await;
            cluster.converge().await;
            let victim = cluster.follower().await;
            cluster.kill(victim).await;
            let dir = cluster.node_dir(victim);
            damage(&dir);
            if !keeps_state {
                without_state(&dir);
            }
            let term = cluster.group(cluster.leader().await).status().term;
            cluster.restart(victim).await.unwrap();
            // with its state it needs nothing that it had lost, if nobody tells it
            if name != "cut unnoticed" || !keeps_state {
                let group = cluster.group(victim).clone();
                eventually("a later term", move || group.status().term > term).await;
            }
            trusted_again(&cluster, victim).await;
            cluster.converge().await;
            assert_eq!(cluster.machine(victim).get("x"), 30, "{name}, state kept: {keeps_state}");
            let other = (0..3).find(|at| *at != victim).unwrap();
            cluster.kill(other).await;
            add_some(&cluster, victim, 1).await;
            cluster.restart(other).await.unwrap();
            cluster.converge().await;
        }
    }
}

// The same happens to a leader, which finds another one when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_leader_comes_back_by_itself() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    add_some(&cluster, 0, 30).await;
    cluster.converge().await;
    let victim = cluster.leader().await;
    cluster.kill(victim).await;
    flip(&cluster.node_dir(victim));
    without_state(&cluster.node_dir(victim));
    cluster.restart(victim).await.unwrap();
    assert!(cluster.group(victim).status().suspicion.is_some());
    trusted_again(&cluster, victim).await;
    cluster.converge().await;
    assert_eq!(cluster.machine(victim).get("x"), 30);
}

// Entries that two of three have: one of them loses its copy, the other is away. What is left of the one and the third,
// which never had them, are a majority of the nodes, and elect nobody: those entries were acknowledged. With the other
// all are there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_node_elects_nobody() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    add_some(&cluster, 0, 5).await;
    cluster.converge().await;
    let lagging = cluster.follower().await;
    cluster.kill(lagging).await;
    let leader = cluster.leader().await;
    add_some(&cluster, leader, 20).await;
    cluster.converge().await;
    let victim = cluster.follower().await;
    cluster.kill(leader).await;
    cluster.kill(victim).await;
    cut(&cluster.node_dir(victim));
    without_state(&cluster.node_dir(victim));
    cluster.restart(victim).await.unwrap();
    cluster.restart(lagging).await.unwrap();
    let proposed = cluster.group(lagging).propose(add("x", 1), ELECTIONS).await;
    assert!(is_refused(&proposed), "a leader without what was acknowledged: {proposed:?}");
    assert!(!cluster.group(lagging).status().admitted, "a suspect node vouched for it");
    assert_votes_for_nobody(&cluster, victim, lagging).await;
    cluster.restart(leader).await.unwrap();
    trusted_again(&cluster, victim).await;
    cluster.converge().await;
    for at in 0..3 {
        assert_eq!(cluster.machine(at).get("x"), 25);
    }
}

/// Asks a suspect node for all that it must not give, in the name of another member.
async fn assert_votes_for_nobody(cluster: &Cluster, suspect: usize, other: usize) {
    let [from, to] = [other, suspect].map(|at| cluster.nodes[at].config.node_id);
    let net = stranger(0xC1, 7, from);
    net.raise_start(99);
    let addr = cluster.member(suspect).raft_addr;
    let end = Some(Position { term: 900, index: 1 << 40 }.into());
    let vote = wire::vote_request(&openraft::raft::VoteRequest::new(Vote::new(1000, from), end));
    let leads = Vote::new_committed(1000, from);
    let transfer = wire::transfer_request(&openraft::raft::TransferLeaderRequest::new(leads, to, None));
    let append = openraft::raft::AppendEntriesRequest {
        vote: leads,
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let questions = [
        (kind::VOTE, vote.clone()),
        (kind::PRE_VOTE, vote),
        (kind::TRANSFER, transfer),
        (kind::APPEND, wire::append_request(&append)),
    ];
    for question in questions {
        let kind = question.0;
        let answer = net.call((to, &addr), Class::Pulse, question, PATIENCE).await;
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition, "kind {kind}");
    }
    assert!(cluster.group(suspect).status().suspicion.is_some_and(|suspicion| suspicion.recorded.is_none()));
}

// With the third node away a leader can't record that the second is suspect: neither is fed, nothing is acknowledged.
// The second may have elected the third, and forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_node_is_no_majority() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    add_some(&cluster, 0, 20).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    let [victim, away] = (0..3).filter(|at| *at != leader).collect::<Vec<_>>()[..] else { panic!("three nodes") };
    cluster.kill(victim).await;
    cluster.kill(away).await;
    flip(&cluster.node_dir(victim));
    without_state(&cluster.node_dir(victim));
    cluster.restart(victim).await.unwrap();
    let proposed = cluster.group(leader).propose(add("y", 1), ELECTIONS).await;
    assert!(is_refused(&proposed), "{proposed:?}");
    assert_eq!(cluster.group(victim).status().suspicion.map(|suspicion| suspicion.recorded), Some(None));
    cluster.restart(away).await.unwrap();
    trusted_again(&cluster, victim).await;
    cluster.converge().await;
    assert_eq!(cluster.machine(victim).get("x"), 20);
}

// Two of three lose their ends: nobody leads, and neither time nor restarts of all change that. Each says what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_majority_stays_down() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    add_some(&cluster, 0, 20).await;
    cluster.converge().await;
    for at in 0..3 {
        cluster.kill(at).await;
    }
    flip(&cluster.node_dir(0));
    cut(&cluster.node_dir(1));
    for _ in 0..2 {
        for at in 0..3 {
            cluster.restart(at).await.unwrap();
        }
        let proposed = cluster.group(2).propose(add("x", 1), ELECTIONS).await;
        assert!(is_refused(&proposed), "{proposed:?}");
        let statuses: Vec<_> = (0..3).map(|at| cluster.group(at).status()).collect();
        let are_suspect = statuses.iter().map(|status| status.suspicion.is_some()).collect::<Vec<_>>();
        assert_eq!(are_suspect, [true, true, false]);
        assert_eq!(statuses[2].suspects, [1, 2], "they did not report");
        assert!(statuses.iter().all(|status| status.last_log_index.is_some() && status.state != State::Leader));
        for at in 0..3 {
            cluster.kill(at).await;
        }
    }
}

// A directory that was restored from an old image has forgotten votes and entries. It is found out, and comes back by
// itself; the others go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_from_the_past_comes_back_by_itself() {
    // `restarts` between image and restoring: with none, only the forgotten entries give it away
    for restarts in [0, 1] {
        let mut cluster = Cluster::start(3, |_| {}).await;
        add_some(&cluster, 0, 1).await;
        cluster.converge().await;
        let old = cluster.follower().await;
        cluster.kill(old).await;
        let dir = cluster.node_dir(old);
        let image = dir.with_extension("image");
        copy(&dir, &image);
        let mut term = 0;
        for _ in 0..=restarts {
            cluster.restart(old).await.unwrap();
            cluster.converge().await;
            add_some(&cluster, old, 10).await;
            cluster.converge().await;
            // only what the leader has heard of is known to be forgotten
            cluster.has_all(cluster.leader().await, old).await;
            term = cluster.group(old).status().term;
            cluster.kill(old).await;
        }
        fs::remove_dir_all(&dir).unwrap();
        copy(&image, &dir);
        cluster.restart(old).await.unwrap();
        let group = cluster.group(old).clone();
        // it is trusted again only in a term after the one it acknowledged in: of a leader elected without it
        eventually("a later term", move || group.status().admitted && group.status().term > term).await;
        trusted_again(&cluster, old).await;
        add_some(&cluster, old, 1).await;
        cluster.converge().await;
        assert_eq!(cluster.machine(old).get("x"), 12 + 10 * restarts);
        // nor is it known as one from the past ever after
        cluster.kill(old).await;
        cluster.restart(old).await.unwrap();
        trusted_again(&cluster, old).await;
        cluster.converge().await;
    }
}

// A suspect node that is damaged again before it is trusted begins again: the record of the first loss does not cover
// the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_loss_counts() {
    let mut cluster = Cluster::start(1, |_| {}).await;
    add_some(&cluster, 0, 20).await;
    cluster.kill(0).await;
    flip(&cluster.node_dir(0));
    cluster.restart(0).await.unwrap();
    let first = cluster.group(0).status().suspicion.unwrap();
    assert_eq!((first.why, first.recorded), (Why::Damaged, None));
    cluster.kill(0).await;
    let directory = crate::identity::Directory::start(&cluster.nodes[0].config.dir, 0xC1, 7, 1).unwrap();
    let recorded = Some(Position { term: 1, index: 3 });
    directory
        .change(|identity| identity.suspicion = identity.suspicion.map(|now| crate::Suspicion { recorded, ..now }))
        .unwrap();
    cluster.restart(0).await.unwrap();
    assert_eq!(cluster.group(0).status().suspicion.unwrap().recorded, recorded);
    cluster.kill(0).await;
    fs::remove_dir_all(cluster.nodes[0].config.dir.join("log")).unwrap();
    cluster.restart(0).await.unwrap();
    let again = cluster.group(0).status().suspicion.unwrap();
    assert_eq!((again.why, again.recorded), (Why::Short, None));
}
