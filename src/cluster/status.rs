//! What an operator sees of the cluster from this node.

use std::collections::BTreeMap;

use registry_core::decide::clock_skew;
use registry_core::decide::placement::{WriteRule, write_rule};
use registry_core::decide::voters::Standing;
use registry_core::metadata::cluster::{self, ClusterRow};
use registry_core::metadata::node::{self, NodeRow, NodeState, StoreRow};
use registry_core::metadata::upgrade;
use registry_core::vocabulary::ids::{NodeId, StoreId};

use super::Cluster;

/// Confirmations come every five seconds at least, while there is a quorum; a node that has missed three is not ready.
const LATELY_MS: u64 = 15_000;

/// A volume.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Its id.
    pub id: StoreId,
    /// As registered.
    pub row: StoreRow,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// As registered; `None` for a member that has not told yet.
    pub row: Option<NodeRow>,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it is fed by the leader.
    pub is_member: bool,
    /// Up to where its log matches, as the leader knows; `None` on other nodes.
    pub matched_index: Option<u64>,
    /// It has told the asked node lately that it has lost what it had acknowledged, and does not vote.
    pub is_suspect: bool,
    /// By how much its clock is ahead of the median of the voters' clocks, milliseconds; `None` if the asked node does
    /// not know.
    pub clock_ahead_ms: Option<i64>,
    /// Its volumes.
    pub stores: Vec<StoreStatus>,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// This node.
    pub node: NodeId,
    /// The cluster's row; `None` before `cluster init`.
    pub cluster: Option<ClusterRow>,
    /// The step to its feature level is under way: not all slots work at it yet.
    pub migrates: bool,
    /// The present term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Log index applied here.
    pub applied_index: u64,
    /// Last log index here.
    pub last_log_index: u64,
    /// Whether a majority has let this node take part since its start.
    pub is_admitted: bool,
    /// Whether this node has applied, lately and since its start, all that a leader had confirmed. That it knows a
    /// leader says little: it goes by the last election.
    pub is_fresh: bool,
    /// This node has lost votes or entries that it had acknowledged: what, and when it is as good as any again. Until
    /// then it is fed and does not vote.
    pub suspicion: Option<String>,
    /// The cluster knows this node as somebody further on, and its data directory knows nothing: it was emptied.
    pub is_emptied: bool,
    /// How this node's clock stands to those of the voters.
    pub clock: clock_skew::Standing,
    /// Every node and member, by id.
    pub nodes: Vec<NodeStatus>,
    /// What 201 needs, and what of three zones is missing.
    pub write_rule: WriteRule,
}

impl ClusterStatus {
    /// Whether requests may be sent to this node: it belongs to a cluster, was let in, is registered with its volume
    /// (before that no upload finds a place on it), somebody leads, and its state was confirmed lately.
    pub fn is_ready(&self) -> bool {
        let takes_part = self.is_admitted && !self.is_emptied && self.is_registered();
        self.cluster.is_some() && takes_part && self.leader.is_some() && self.is_fresh
    }

    /// Whether the state knows this node and its volume.
    pub fn is_registered(&self) -> bool {
        let own = self.nodes.iter().find(|node| node.id == self.node);
        own.is_some_and(|node| node.row.is_some() && !node.stores.is_empty())
    }
}

impl Cluster {
    /// What this node knows. Never waits for a quorum: an operator asks this when there is none.
    pub fn status(&self) -> ClusterStatus {
        let group = self.metadata.group().status();
        let (row, rows, stores, rule, migrates) = self.metadata.peek(|view| {
            let rule = write_rule(&node::topology(view));
            (cluster::read(view), node::list(view), node::stores(view), rule, upgrade::read(view).is_some())
        });
        let mut rows: BTreeMap<NodeId, NodeRow> = rows.into_iter().collect();
        let mut ids: Vec<NodeId> = group.members.iter().map(|member| NodeId(member.node_id)).collect();
        ids.extend(rows.keys());
        ids.sort_unstable();
        ids.dedup();
        let clocks = self.clocks.look();
        let nodes = ids.into_iter().map(|id| NodeStatus {
            id,
            row: rows.remove(&id),
            votes: group.voters.contains(&id.0),
            is_member: group.members.iter().any(|member| member.node_id == id.0),
            matched_index: group.matched.get(&id.0).copied().flatten(),
            is_suspect: is_suspect(&group, id),
            clock_ahead_ms: clocks.ahead_ms.get(&id).copied(),
            stores: of_node(&stores, id),
        });
        ClusterStatus {
            node: self.node,
            cluster: row,
            migrates,
            term: group.term,
            leader: group.leader.map(NodeId),
            applied_index: self.metadata.group().applied_index(),
            last_log_index: group.last_log_index.unwrap_or(0),
            is_admitted: group.admitted,
            is_fresh: self.metadata.group().confirmed_age_ms() <= LATELY_MS,
            suspicion: group.suspicion.map(|suspicion| suspicion.to_string()),
            is_emptied: group.emptied,
            clock: clocks.standing,
            nodes: nodes.collect(),
            write_rule: rule,
        }
    }

    /// The members as the choice of voters sees them; a member within `lag` entries of the leader is fit.
    pub fn standings(&self, lag: u64) -> Vec<Standing> {
        let status = self.status();
        let last = status.last_log_index;
        let members = status.nodes.into_iter().filter(|node| node.is_member);
        let standing = |node: NodeStatus| {
            let row = node.row?;
            let is_near = node.matched_index.is_some_and(|matched| matched + lag >= last);
            Some(Standing {
                node: node.id,
                zone: row.zone,
                votes: node.votes,
                is_fit: row.state == NodeState::Active && !node.is_suspect && (is_near || node.id == self.node),
            })
        };
        members.filter_map(standing).collect()
    }
}

fn is_suspect(group: &raft::Status, node: NodeId) -> bool {
    group.suspects.contains(&node.0) || (group.node_id == node.0 && group.suspicion.is_some())
}

fn of_node(stores: &[(StoreId, StoreRow)], node: NodeId) -> Vec<StoreStatus> {
    let own = stores.iter().filter(|(_, row)| row.node == node);
    own.map(|(id, row)| StoreStatus { id: *id, row: row.clone() }).collect()
}
