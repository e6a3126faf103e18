//! Changes of the members, asked for on any node and carried out by the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};

use crate::core::{Core, Leader};
use crate::network::net::{Class, never_arrived};
use crate::network::wire::{self, Change, Changed, kind};
use crate::suspect;
use crate::types::{Member, StoredMembership, Types};

/// Between two looks for a change that broke off, and how long finishing it may take.
const SETTLE_EVERY: Duration = Duration::from_millis(500);
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A change of the members was not made, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Certainly not made: no leader with a quorum was found in time.
    #[error("no leader with a quorum was found in time")]
    Unavailable,
    /// It may have been made: look at the members, and ask again.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// It makes no sense now.
    #[error("{0}")]
    Rejected(String),
}

/// What a node is told that would join with an empty directory under the id of a member.
pub(crate) const USED_ID: &str = "this node's id belongs to a member whose directory held more than this one does: it \
     would vote twice. Remove that member, and join with an empty directory under a new id (a new certificate)";

impl Core {
    /// Has the leader make a change.
    pub(crate) async fn change(&self, change: &Change, limit: Duration) -> Result<(), ChangeError> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ChangeError::Unavailable);
            }
            let changed = match self.leader() {
                Some(Leader::Here) => {
                    let made = tokio::time::timeout(left, self.make_change(change.clone())).await;
                    made.unwrap_or(Changed::Unknown)
                }
                Some(Leader::There { node_id, addr }) => self.ask_for_change((node_id, &addr), change, left).await,
                None => Changed::NotLeader,
            };
            match changed {
                Changed::Done => return Ok(()),
                Changed::Unknown => return Err(ChangeError::Unknown),
                Changed::Rejected(why) => return Err(ChangeError::Rejected(why)),
                // only who joins is told that
                Changed::Lineage(_) => return Err(ChangeError::Unknown),
                Changed::NotLeader => self.await_leader_change().await,
            }
        }
    }

    async fn ask_for_change(&self, leader: (u64, &str), change: &Change, limit: Duration) -> Changed {
        let question = (kind::CHANGE, wire::change(change));
        match self.net.call(leader, Class::Forward, question, limit).await {
            Ok(answer) => wire::read_changed(answer).unwrap_or(Changed::Unknown),
            Err(status) if never_arrived(&status) => Changed::NotLeader,
            Err(_) => Changed::Unknown,
        }
    }

    /// Makes a change, as the leader.
    pub(crate) async fn make_change(&self, change: Change) -> Changed {
        match change {
            Change::AddLearner(member) => self.add_learner(member).await,
            Change::Voters(ids) => self.change_voters(ids.into_iter().collect()).await,
            Change::Remove(node_id) => self.remove(node_id).await,
            Change::Transfer(to) => self.transfer(to).await,
        }
    }

    async fn change_members(&self, change: ChangeMembers<u64, crate::types::Peer>, keep: bool) -> Changed {
        if let Some(id) = suspect::promoted(self, &change) {
            return Changed::Rejected(format!(
                "node {id:016x} is suspect: it does not vote until it is fed and trusted"
            ));
        }
        match self.raft.change_membership(change, keep).await {
            Ok(_) => Changed::Done,
            Err(error) => rejected(&error),
        }
    }

    async fn add_learner(&self, member: Member) -> Changed {
        let (node_id, peer) = member.split();
        if self.former.contains(node_id) {
            return Changed::Rejected(format!(
                "node {node_id:016x} was removed; join under a new id (a new certificate)"
            ));
        }
        let known = self.metrics().membership_config.get_node(&node_id).cloned();
        match known {
            Some(known) if known == peer => Changed::Done,
            // the same node under another address: its certificate says that it is the same
            Some(_) => self.change_members(ChangeMembers::SetNodes([(node_id, peer)].into()), true).await,
            None => match self.raft.add_learner(node_id, peer, false).await {
                Ok(_) => Changed::Done,
                Err(error) => rejected(&error),
            },
        }
    }

    async fn change_voters(&self, ids: BTreeSet<u64>) -> Changed {
        let metrics = self.metrics();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        for id in ids.difference(&voters) {
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(id).copied().flatten());
            let caught_up = matched.is_some_and(|matched| matched.index + self.limits.promotion_lag >= last);
            if !caught_up {
                return Changed::Rejected(format!("node {id:016x} has not caught up: it would weaken the quorum"));
            }
        }
        self.change_members(ChangeMembers::ReplaceAllVoters(ids), true).await
    }

    async fn remove(&self, node_id: u64) -> Changed {
        let members = self.metrics().membership_config;
        if members.voter_ids().any(|voter| voter == node_id) {
            self.change_members(ChangeMembers::RemoveVoters([node_id].into()), false).await
        } else if members.get_node(&node_id).is_some() {
            self.change_members(ChangeMembers::RemoveNodes([node_id].into()), false).await
        } else {
            Changed::Done
        }
    }

    pub(crate) async fn transfer(&self, to: u64) -> Changed {
        if to == self.net.node_id {
            return Changed::Done;
        }
        if self.reported.lately().contains(&to) {
            return Changed::Rejected(format!("node {to:016x} is suspect, and does not lead"));
        }
        if !self.metrics().membership_config.voter_ids().any(|voter| voter == to) {
            return Changed::Rejected(format!("node {to:016x} is not a voter"));
        }
        if !self.hears_from(to).await {
            return Changed::Rejected(format!(
                "node {to:016x} does not answer, and would not take over; bring it back, or name another voter"
            ));
        }
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return Changed::Unknown;
        }
        let mut leadership = self.leadership.clone();
        let taken = leadership.wait_for(|now| now.leader == Some(to));
        let limit = Duration::from_millis(self.timing.election_max_ms * 3);
        match tokio::time::timeout(limit, taken).await {
            Ok(Ok(_)) => Changed::Done,
            Ok(Err(_)) | Err(_) => Changed::Rejected(format!("node {to:016x} did not take over in time")),
        }
    }
}

impl Core {
    /// Whether a node has answered this leader within a time.
    pub(crate) fn has_answered(&self, node_id: u64, within: Duration) -> bool {
        let metrics = self.metrics();
        let answered = metrics.heartbeat.as_ref().and_then(|answered| answered.get(&node_id).copied().flatten());
        answered.is_some_and(|at| at.elapsed() < within)
    }

    /// Whether a node has answered this leader lately. Whoever hands leadership to one that does not answer takes no
    /// writes until the others have elected. A leader that has just begun, and a node whose disk is slow for a moment,
    /// have the shortest time to an election.
    async fn hears_from(&self, node_id: u64) -> bool {
        let recent = Duration::from_millis(self.timing.election_min_ms);
        let until = Instant::now() + recent;
        loop {
            if self.has_answered(node_id, recent) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis((self.timing.heartbeat_ms / 4).max(5))).await;
        }
    }
}

/// The voters a change leads to, while it is between its two steps: both the former and the new ones must agree then.
fn goal(members: &StoredMembership) -> Option<BTreeSet<u64>> {
    let configs = members.get_joint_config();
    if configs.len() > 1 { configs.last().cloned() } else { None }
}

/// The members whose vote counts for every decision: between the two steps of a change only those that the former and
/// the new voters have in common.
pub(crate) fn full_voters(members: &StoredMembership) -> Vec<u64> {
    let configs = members.get_joint_config();
    members.voter_ids().filter(|id| configs.iter().all(|config| config.contains(id))).collect()
}

/// Has the leader finish a change that broke off between its two steps, because who asked for it has gone or the leader
/// of then has ended. Nobody else would, and one dead node can be too many for the former voters: with two of them, a
/// cluster of three would not survive the loss of one.
pub(crate) async fn settle(core: Arc<Core>) {
    let mut ending = core.ending.subscribe();
    let mut seen = None;
    loop {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            () = tokio::time::sleep(SETTLE_EVERY) => {}
        }
        let found =
            if matches!(core.leader(), Some(Leader::Here)) { goal(&core.metrics().membership_config) } else { None };
        // what is seen twice is not just under way
        let Some(voters) = found.clone().filter(|_| found == seen) else {
            seen = found;
            continue;
        };
        tracing::warn!(?voters, "a change of the voters broke off half-way; it is finished");
        let change = core.change_members(ChangeMembers::ReplaceAllVoters(voters), true);
        if !matches!(tokio::time::timeout(SETTLE_MAX, change).await, Ok(Changed::Done)) {
            tracing::warn!("the change could not be finished now; it is tried again");
        }
        seen = None;
    }
}

fn rejected(error: &RaftError<Types, ClientWriteError<Types>>) -> Changed {
    match error.api_error() {
        Some(ClientWriteError::ForwardToLeader(_)) => Changed::NotLeader,
        Some(ClientWriteError::ChangeMembershipError(why)) => Changed::Rejected(why.to_string()),
        Some(ClientWriteError::PreconditionFailed(why)) => Changed::Rejected(why.to_string()),
        Some(ClientWriteError::LogEntryDiscarded(_)) | None => Changed::Unknown,
    }
}
